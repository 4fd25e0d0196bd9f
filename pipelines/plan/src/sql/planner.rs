//! DataFusion's planner over the relations of a pipeline.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion_common::config::ConfigOptions;
use datafusion_common::{DataFusionError, Result, TableReference, plan_err};
use datafusion_expr::planner::{ContextProvider, ExprPlanner, RelationPlanner};
use datafusion_expr::{AggregateUDF, HigherOrderUDF, LogicalPlan, ScalarUDF, TableSource, WindowUDF};
use datafusion_optimizer::analyzer::Analyzer;
use datafusion_optimizer::optimize_projections::OptimizeProjections;
use datafusion_optimizer::simplify_expressions::SimplifyExpressions;
use datafusion_optimizer::{Optimizer, OptimizerContext};
use datafusion_sql::planner::SqlToRel;
use datafusion_sql::sqlparser::ast::{
    GroupByExpr, Select, SelectItem, SetExpr, Spanned, Statement, WildcardAdditionalOptions,
};

use super::functions::functions;
use super::query::Stages;
use super::window::WindowPlanner;
use super::{Accepted, Query, Readable, RelationSource, SqlText, checked, coerce, names, window};
use crate::diagnostic::Diagnostic;

/// Times the rules run over a plan at most; they settle in two.
const MAX_PASSES: u8 = 4;

/// Plans a statement over the relations that it reads, which the caller has found for each of [`Accepted::relations`], in order.
/// All that is wrong is pushed to `problems`.
pub fn plan(
    accepted: &Accepted,
    relations: &[&Readable],
    text: &SqlText,
    problems: &mut Vec<Diagnostic>,
) -> Option<Query> {
    let before = problems.len();
    check_roles(accepted, relations, problems);
    let columns = relations.iter().map(|relation| column_names(relation)).collect();
    names::check(accepted, columns, text, problems);
    check_time(accepted, relations, text, problems);
    if problems.len() > before {
        return None;
    }
    let logical = match logical_plan(accepted, relations) {
        Ok(logical) => logical,
        Err(error) => {
            problems.push(locate(accepted, relations, text).unwrap_or_else(|| diagnose(&error, text)));
            return None;
        }
    };
    match Stages::new(accepted, relations, text).query(&logical) {
        Ok(query) => Some(query),
        Err(refusal) => {
            problems.push(refusal);
            None
        }
    }
}

fn column_names(relation: &Readable) -> Vec<String> {
    relation.schema.fields().iter().map(|field| field.name().clone()).collect()
}

/// A stream drives, tables are joined, and results that change are read by sinks only.
fn check_roles(accepted: &Accepted, relations: &[&Readable], problems: &mut Vec<Diagnostic>) {
    for (at, (relation, readable)) in accepted.relations().zip(relations).enumerate() {
        let name = &relation.name;
        let (message, help) = if readable.updates {
            let help = "group it by a window, so that its rows are final, or read it with a sink".to_owned();
            (format!("the rows of '{name}' change, so a step cannot read them"), help)
        } else if at == 0 && readable.table_key.is_some() {
            let help = "put a stream first, and join the table to it".to_owned();
            (format!("'{name}' is a table; a step is driven by a stream"), help)
        } else if at > 0 && readable.table_key.is_none() {
            let help = format!(
                "a source becomes a table with its key: [source.{name}] table = {{ key = [\"...\"] }}"
            );
            (format!("'{name}' is a stream; a step joins tables to a stream"), help)
        } else {
            continue;
        };
        problems.push(Diagnostic::new("sql-refused", relation.span.clone(), message).help(help));
    }
}

fn check_time(accepted: &Accepted, relations: &[&Readable], text: &SqlText, problems: &mut Vec<Diagnostic>) {
    let (Some(window), Some(relation)) = (&accepted.window, relations.first()) else { return };
    let Ok(field) = relation.schema.field_with_name(&window.column) else { return };
    if !matches!(field.data_type(), DataType::Timestamp(..)) {
        let kind = millstream_connect_api::types::type_name(field.data_type());
        let message = format!("windows need a timestamp, and '{}' is of type {kind}", window.column);
        problems.push(Diagnostic::new("type", text.span(window.column_span), message).help(format!(
            "declare it in the source, columns = {{ {} = \"timestamp\" }}, or cast it in a step before",
            window.column
        )));
    }
}

fn logical_plan(accepted: &Accepted, relations: &[&Readable]) -> Result<LogicalPlan> {
    let catalog = Catalog::new(accepted, relations);
    let planned = SqlToRel::new(&catalog).sql_statement_to_plan(accepted.statement.clone())?;
    if accepted.window.is_some() {
        window::bounds_unread(&planned, &accepted.from.alias)?;
    }
    let planned = coerce::types(planned)?;
    let analyzed = Analyzer::new().execute_and_check(planned, &catalog.options, |_, _| {})?;
    checked::constants(&analyzed)?;
    let context = OptimizerContext::new_with_config_options(Arc::new(catalog.options.clone()))
        .without_query_execution_start_time()
        .with_skip_failing_rules(false)
        .with_max_passes(MAX_PASSES);
    let rules = Optimizer::with_rules(vec![
        Arc::new(SimplifyExpressions::new()),
        Arc::new(OptimizeProjections::new()),
    ]);
    coerce::release(rules.optimize(analyzed, &context, |_, _| {})?)
}

/// Finds the part of a statement that the planner refuses, since its own errors often name no place: each expression is planned
/// alone over the same relations.
fn locate(accepted: &Accepted, relations: &[&Readable], text: &SqlText) -> Option<Diagnostic> {
    let select = accepted.select();
    let mut bare = select.clone();
    bare.projection = vec![SelectItem::Wildcard(WildcardAdditionalOptions::default())];
    bare.selection = None;
    bare.group_by = GroupByExpr::Expressions(Vec::new(), Vec::new());
    bare.having = None;
    let filter = select
        .selection
        .iter()
        .map(|condition| (condition.span(), Select { selection: Some(condition.clone()), ..bare.clone() }));
    let items = select
        .projection
        .iter()
        .map(|item| (item.span(), Select { projection: vec![item.clone()], ..bare.clone() }));
    filter.chain(items).find_map(|(span, part)| {
        let Statement::Query(mut query) = accepted.statement.clone() else { return None };
        query.body = Box::new(SetExpr::Select(Box::new(part)));
        let part = Accepted { statement: Statement::Query(query), ..accepted.clone() };
        let error = logical_plan(&part, relations).err()?;
        let found = diagnose(&error, text);
        let placed = if found.span == text.whole() { text.span(span) } else { found.span.clone() };
        Some(Diagnostic { span: placed, ..found })
    })
}

/// The planner's error at the place it names, else at the whole statement.
pub(super) fn diagnose(error: &DataFusionError, text: &SqlText) -> Diagnostic {
    let found = error.iter().find_map(DataFusionError::diagnostic).or_else(|| error.diagnostic());
    let Some(found) = found else {
        let message = error.find_root().strip_backtrace();
        let message = [
            "Error during planning: ",
            "This feature is not implemented: ",
            "Schema error: ",
            "Arrow error: ",
        ]
        .iter()
        .find_map(|prefix| message.strip_prefix(prefix))
        .unwrap_or(&message);
        let first = message.lines().next().unwrap_or(message);
        return Diagnostic::new("sql", text.whole(), first);
    };
    let span = found.span.map_or_else(|| text.whole(), |span| text.plan_span(span));
    let notes: Vec<_> = found.notes.iter().map(|note| note.message.as_str()).collect();
    let help = match found.helps.first() {
        // Its advice names a function that a step may not call.
        Some(help) if help.message.contains("ANY_VALUE") => {
            Some("add it to GROUP BY, or take one of its values, as max does".to_owned())
        }
        Some(help) => Some(help.message.clone()),
        None => (!notes.is_empty()).then(|| notes.join(", ")),
    };
    Diagnostic::new("sql", span, found.message.clone()).maybe_help(help)
}

/// What the planner may look up.
struct Catalog {
    relations: BTreeMap<String, Arc<dyn TableSource>>,
    relation_planners: Vec<Arc<dyn RelationPlanner>>,
    options: ConfigOptions,
}

impl Catalog {
    fn new(accepted: &Accepted, relations: &[&Readable]) -> Self {
        let mut options = ConfigOptions::default();
        // Rows are plain strings in the log; a cast to VARCHAR gives the same type as a column.
        options.sql_parser.map_string_types_to_utf8view = false;
        options.sql_parser.collect_spans = true;
        options.sql_parser.parse_float_as_decimal = true;
        options.execution.time_zone = Some(millstream_connect_api::types::UTC.into());
        let sources = accepted.relations().zip(relations).map(|(relation, readable)| {
            let source: Arc<dyn TableSource> = Arc::new(RelationSource {
                relation: relation.name.clone(),
                schema: Arc::clone(&readable.schema),
                window: None,
            });
            (relation.name.clone(), source)
        });
        Self { relations: sources.collect(), relation_planners: vec![Arc::new(WindowPlanner)], options }
    }
}

impl ContextProvider for Catalog {
    fn get_table_source(&self, name: TableReference) -> Result<Arc<dyn TableSource>> {
        match self.relations.get(&name.to_string()) {
            Some(source) => Ok(Arc::clone(source)),
            None => plan_err!("there is no relation '{name}'"),
        }
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        &functions().planners
    }

    fn get_relation_planners(&self) -> &[Arc<dyn RelationPlanner>] {
        &self.relation_planners
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        functions().scalar.get(name).cloned()
    }

    fn get_higher_order_meta(&self, _name: &str) -> Option<Arc<HigherOrderUDF>> {
        None
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        functions().aggregate.get(name).cloned()
    }

    fn get_window_meta(&self, _name: &str) -> Option<Arc<WindowUDF>> {
        None
    }

    fn get_variable_type(&self, _names: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        &self.options
    }

    fn udf_names(&self) -> Vec<String> {
        functions().scalar.keys().cloned().collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udaf_names(&self) -> Vec<String> {
        functions().aggregate.keys().cloned().collect()
    }

    fn udwf_names(&self) -> Vec<String> {
        Vec::new()
    }
}
