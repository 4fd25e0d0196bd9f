//! `TUMBLE(relation, column, INTERVAL)` and `HOP(relation, column, slide, size)`: windows over a relation of FROM.

use std::fmt;
use std::sync::Arc;

use arrow::compute::kernels::cast_utils::parse_interval_month_day_nano;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion_common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion_common::{
    Column, DataFusionError, Diagnostic as PlanDiagnostic, Result, Span as PlanSpan, TableReference,
};
use datafusion_expr::planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning};
use datafusion_expr::{Expr as PlanExpr, LogicalPlan, LogicalPlanBuilder, TableSource};
use datafusion_sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, Ident, ObjectName, Spanned, TableFactor, TableFunctionArgs, Value,
};
use datafusion_sql::sqlparser::tokenizer::Span;
use millstream_streams_core::rule::TimeWindows;

use super::{RelationSource, SqlText, WINDOW_END, WINDOW_START};
use crate::diagnostic::Diagnostic;

const MILLIS_A_DAY: i64 = 86_400_000;
const NANOS_A_MILLI: i64 = 1_000_000;
const TUMBLE: &str = "TUMBLE(relation, time_column, INTERVAL '1 hour')";
const HOP: &str = "HOP(relation, time_column, INTERVAL '5 minutes', INTERVAL '1 hour'), slide before size";

/// Windows as a statement asks for them.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// The column whose instant decides which windows a row is in.
    pub column: String,
    /// Where the column is named.
    pub column_span: Span,
    /// Length and distance.
    pub windows: TimeWindows,
    /// The call.
    pub span: Span,
}

/// A call of TUMBLE or HOP.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct WindowCall {
    /// The relation that the windows are over.
    pub(super) relation: String,
    /// Where it is named.
    pub(super) relation_span: Span,
    /// The windows.
    pub(super) window: Window,
}

/// Why a call is refused.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    span: Span,
    message: String,
    help: String,
}

impl Refusal {
    fn new(span: Span, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { span, message: message.into(), help: help.into() }
    }

    /// The refusal as a diagnostic of the file.
    #[must_use]
    pub(super) fn place(self, text: &SqlText) -> Diagnostic {
        Diagnostic::new("sql-refused", text.span(self.span), self.message).help(self.help)
    }
}

impl WindowCall {
    /// Reads the call `name(arguments)`.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub(super) fn read(name: &ObjectName, arguments: &TableFunctionArgs) -> Result<Self, Refusal> {
        let function = super::dotted(name);
        let usage = match function.as_str() {
            "tumble" => TUMBLE,
            "hop" => HOP,
            "session" | "cumulate" => {
                let message = format!("{} windows are not there yet", function.to_uppercase());
                return Err(Refusal::new(name.span(), message, "use TUMBLE or HOP"));
            }
            _ => {
                let message = format!("there is no table function '{function}'");
                return Err(Refusal::new(name.span(), message, format!("{TUMBLE} or {HOP}")));
            }
        };
        let span = arguments.args.iter().fold(name.span(), |span, argument| span.union(&argument.span()));
        let wrong =
            || Refusal::new(span, format!("{} is not called like this", function.to_uppercase()), usage);
        let given: Vec<&Expr> =
            arguments.args.iter().map(positional).collect::<Option<_>>().ok_or_else(wrong)?;
        let (relation, column, slide, size) = match (usage == TUMBLE, given.as_slice()) {
            (true, [relation, column, size]) => (relation, column, size, size),
            (false, [relation, column, slide, size]) => (relation, column, slide, size),
            _ => return Err(wrong()),
        };
        let (relation, relation_span) = (relation_name(relation).ok_or_else(wrong)?, relation.span());
        let Expr::Identifier(column) = column else { return Err(wrong()) };
        let (slide_ms, size_ms) = (interval_ms(slide, span)?, interval_ms(size, span)?);
        let windows = TimeWindows::new(size_ms, slide_ms)
            .ok_or_else(|| Refusal::new(span, "the slide of HOP is longer than its size", HOP))?;
        let column_span = column.span;
        let window = Window { column: super::name_of(column), column_span, windows, span };
        Ok(Self { relation, relation_span, window })
    }
}

fn positional(argument: &FunctionArg) -> Option<&Expr> {
    match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expression)) => Some(expression),
        _ => None,
    }
}

fn relation_name(expression: &Expr) -> Option<String> {
    let parts: &[Ident] = match expression {
        Expr::Identifier(name) => std::slice::from_ref(name),
        Expr::CompoundIdentifier(names) => names,
        _ => return None,
    };
    Some(parts.iter().map(super::name_of).collect::<Vec<_>>().join("."))
}

/// The length of `INTERVAL '1 hour'`. A month has no fixed length, so it is none.
fn interval_ms(expression: &Expr, call: Span) -> Result<i64, Refusal> {
    let span = Some(expression.span()).filter(|span| *span != Span::empty()).unwrap_or(call);
    let help = "write INTERVAL with a number and a unit up to days: INTERVAL '90 seconds', INTERVAL '1 day'";
    let wrong = |message: &str| Refusal::new(span, message, help);
    let Expr::Interval(interval) = expression else {
        return Err(wrong("the length of a window is an INTERVAL"));
    };
    let Expr::Value(value) = &*interval.value else {
        return Err(wrong("the length of a window is an INTERVAL with a constant"));
    };
    let number = match &value.value {
        Value::SingleQuotedString(text) => text.clone(),
        Value::Number(digits, _) => digits.clone(),
        _ => return Err(wrong("the length of a window is an INTERVAL with a constant")),
    };
    let text = match &interval.leading_field {
        Some(unit) => format!("{number} {unit}"),
        None => number,
    };
    let parsed = parse_interval_month_day_nano(&text).map_err(|_| wrong("this is not an interval"))?;
    if parsed.months != 0 {
        return Err(wrong("months and years differ in length, so they cannot be the length of a window"));
    }
    if parsed.nanoseconds % NANOS_A_MILLI != 0 {
        return Err(wrong("the length of a window is whole milliseconds"));
    }
    let length_ms = i64::from(parsed.days)
        .checked_mul(MILLIS_A_DAY)
        .and_then(|days| days.checked_add(parsed.nanoseconds / NANOS_A_MILLI));
    length_ms.filter(|ms| *ms > 0).ok_or_else(|| wrong("the length of a window is more than nothing"))
}

/// The columns of `input` and the two bounds of the window, in the type of the time column.
#[must_use]
pub(super) fn windowed_schema(input: &Schema, time: &DataType) -> SchemaRef {
    let bounds = [WINDOW_START, WINDOW_END].map(|name| Arc::new(Field::new(name, time.clone(), false)));
    Arc::new(Schema::new(input.fields().iter().cloned().chain(bounds).collect::<Vec<_>>()))
}

/// The bound of the window that a column is, when windows are over the relation `alias`.
pub(super) fn bound_of(column: &Column, alias: &str) -> Option<&'static str> {
    let own = column.relation.as_ref().is_none_or(|relation| relation.table() == alias);
    [WINDOW_START, WINDOW_END].into_iter().find(|name| own && *name == column.name)
}

/// Refuses what would read a window's bound from rows, which are in several windows or in none that is known yet: only groups have it.
pub(super) fn bounds_unread(plan: &LogicalPlan, alias: &str) -> Result<()> {
    if let LogicalPlan::Aggregate(aggregate) = plan {
        let groups = aggregate.group_expr.iter().filter(|group| !is_bound(group, alias));
        let mut read = groups.chain(&aggregate.aggr_expr);
        read.try_for_each(|expr| unread(expr, alias))?;
        return rows_only(&aggregate.input, alias);
    }
    plan.inputs().into_iter().try_for_each(|input| bounds_unread(input, alias))
}

fn rows_only(plan: &LogicalPlan, alias: &str) -> Result<()> {
    plan.apply(|node| {
        node.apply_expressions(|expr| {
            // A projection hands it on.
            if !(matches!(node, LogicalPlan::Projection(_)) && is_bound(expr, alias)) {
                unread(expr, alias)?;
            }
            Ok(TreeNodeRecursion::Continue)
        })
    })?;
    Ok(())
}

fn is_bound(expr: &PlanExpr, alias: &str) -> bool {
    match expr {
        PlanExpr::Alias(named) => is_bound(&named.expr, alias),
        PlanExpr::Column(column) => bound_of(column, alias).is_some(),
        _ => false,
    }
}

fn unread(expr: &PlanExpr, alias: &str) -> Result<()> {
    expr.apply(|part| match part {
        PlanExpr::Column(column) if bound_of(column, alias).is_some() => {
            let message =
                format!("{} cannot be used here: rows have no window, only groups have", column.name);
            let help = "group by it as it is, and compute with it outside of aggregates, in SELECT or HAVING";
            let found = PlanDiagnostic::new_error(&message, column.spans.first()).with_help(help, None);
            Err(DataFusionError::Plan(message).with_diagnostic(found))
        }
        _ => Ok(TreeNodeRecursion::Continue),
    })?;
    Ok(())
}

/// Plans TUMBLE and HOP as a scan with two more columns; grouping by them is what makes the windows.
#[derive(Debug)]
pub(super) struct WindowPlanner;

impl RelationPlanner for WindowPlanner {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<RelationPlanning> {
        let TableFactor::Table { name, alias, args: Some(arguments), .. } = &relation else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        let call = WindowCall::read(name, arguments).map_err(|refusal| {
            let span = PlanSpan::try_from_sqlparser_span(refusal.span);
            let diagnostic = PlanDiagnostic::new_error(&refusal.message, span);
            DataFusionError::Plan(refusal.message).with_diagnostic(diagnostic)
        })?;
        let reference = TableReference::bare(call.relation.clone());
        let input = context.context_provider().get_table_source(reference.clone())?;
        let time = input.schema().field_with_name(&call.window.column)?.data_type().clone();
        let source: Arc<dyn TableSource> = Arc::new(RelationSource {
            relation: call.relation,
            schema: windowed_schema(&input.schema(), &time),
            window: Some(call.window),
        });
        let plan = LogicalPlanBuilder::scan(reference, source, None)?.build()?;
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias.clone()))))
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = |ms: i64| {
            let duration = std::time::Duration::from_millis(ms.unsigned_abs());
            millstream_connect_api::config::format_duration(duration)
        };
        let (size, slide) = (self.windows.size_ms(), self.windows.advance_ms());
        match size == slide {
            true => write!(f, "tumbling {} over {}", length(size), self.column),
            false => write!(f, "hopping {} by {} over {}", length(size), length(slide), self.column),
        }
    }
}
