//! A planned statement as a chain of stages, each of which one operator can run.

use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion_common::{Column, DFSchema, ExprSchema, JoinType, Result as PlanResult};
use datafusion_expr::execution_props::ExecutionProps;
use datafusion_expr::logical_plan::{Aggregate as LogicalAggregate, Join as LogicalJoin};
use datafusion_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion_expr::utils::{conjunction, split_conjunction};
use datafusion_expr::{BinaryExpr, Expr, LogicalPlan, Operator, TableScan, TryCast};
use datafusion_physical_expr::aggregate::{LoweredAggregate, LoweredAggregateBuilder};
use datafusion_physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion_sql::sqlparser::ast::{Join as SqlJoin, JoinConstraint, JoinOperator, Spanned};
use millstream_streams_core::rule::{JoinKind, TimeWindows};

use super::{Accepted, Readable, RelationSource, SqlText, WINDOW_START, checked};
use crate::diagnostic::Diagnostic;
use crate::operator::AggregateFold;

/// A step's SQL, planned: rows of `from` pass the scan and then each stage.
#[derive(Clone, Debug)]
pub struct Query {
    /// The relation whose rows drive the step.
    pub from: String,
    /// What is taken of its rows.
    pub scan: Scan,
    /// What is done to them, in order.
    pub stages: Vec<Stage>,
    /// The rows that come out.
    pub schema: SchemaRef,
    /// Columns of the result that name its group, when it is grouped and all of them are selected.
    pub key: Vec<String>,
    /// Whether a result replaces the earlier one of its group: grouped without a window.
    pub updates: bool,
}

/// What is taken of the rows of a relation.
#[derive(Clone, Debug)]
pub struct Scan {
    /// The columns that the statement uses; a window's bounds are no columns of the relation.
    pub columns: Vec<ScanColumn>,
    /// The column that gives rows their time, by position in the relation.
    pub time: Option<usize>,
    /// The rows that come out.
    pub schema: SchemaRef,
}

/// A column of a [`Scan`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScanColumn {
    /// A column of the relation, by position.
    Relation(usize),
    /// A bound of the window: known when the window closes, and never read before.
    WindowBound,
}

/// One thing that is done to rows.
#[derive(Clone, Debug)]
pub enum Stage {
    /// Filters and computes columns.
    Select(Select),
    /// Looks rows of a table up.
    Join(Join),
    /// Groups.
    Aggregate(Aggregate),
}

/// Filters rows, then computes columns from each.
#[derive(Clone, Debug)]
pub struct Select {
    /// Rows for which this is not true go.
    pub filter: Option<Arc<dyn PhysicalExpr>>,
    /// The columns of the result; none leaves them as they are.
    pub columns: Option<Vec<Arc<dyn PhysicalExpr>>>,
    /// The rows that come out.
    pub schema: SchemaRef,
}

/// Adds columns of a table's row, found by key.
#[derive(Clone, Debug)]
pub struct Join {
    /// Which rows go on without a match.
    pub kind: JoinKind,
    /// The table.
    pub table: String,
    /// What the stream's row has for each column of the table's key, in its order and types.
    pub keys: Vec<Arc<dyn PhysicalExpr>>,
    /// The columns of the table that are added, by position.
    pub columns: Vec<usize>,
    /// The rows that come out.
    pub schema: SchemaRef,
}

/// Groups rows and aggregates each group.
#[derive(Clone, Debug)]
pub struct Aggregate {
    /// Windows; none keeps one result for each group, which changes.
    pub windows: Option<TimeWindows>,
    /// What rows are grouped by, in the order of the result's first columns.
    pub groups: Vec<GroupColumn>,
    /// What is computed over each group, in the order of the columns behind.
    pub aggregates: Vec<LoweredAggregate>,
    /// The rows that come out.
    pub schema: SchemaRef,
}

/// What rows are grouped by.
#[derive(Clone, Debug)]
pub enum GroupColumn {
    /// A value of the row.
    Value(Arc<dyn PhysicalExpr>),
    /// The first instant of the window.
    WindowStart,
    /// The first instant after the window.
    WindowEnd,
}

type Refused<T> = std::result::Result<T, Diagnostic>;

/// Builds a [`Query`] from a logical plan.
pub(super) struct Stages<'a> {
    accepted: &'a Accepted,
    relations: &'a [&'a Readable],
    text: &'a SqlText,
    scan: Option<Scan>,
    stages: Vec<Stage>,
    /// Names of the group's columns where they were made, for finding them in the result.
    groups: Vec<Column>,
    updates: bool,
    props: ExecutionProps,
    context: PhysicalPlanningContext,
}

impl<'a> Stages<'a> {
    pub(super) fn new(accepted: &'a Accepted, relations: &'a [&'a Readable], text: &'a SqlText) -> Self {
        Self {
            accepted,
            relations,
            text,
            scan: None,
            stages: Vec::new(),
            groups: Vec::new(),
            updates: false,
            props: ExecutionProps::new(),
            context: PhysicalPlanningContext::default(),
        }
    }

    pub(super) fn query(mut self, plan: &LogicalPlan) -> Refused<Query> {
        self.lower(plan)?;
        let key = self.key(plan)?;
        let scan =
            self.scan.ok_or_else(|| refuse(self.text, "this plan reads no relation", "name one in FROM"))?;
        let schema = match self.stages.last() {
            Some(Stage::Select(Select { schema, .. }) | Stage::Join(Join { schema, .. })) => schema,
            Some(Stage::Aggregate(Aggregate { schema, .. })) => schema,
            None => &scan.schema,
        };
        super::names::check_result(self.accepted, schema, self.text)?;
        Ok(Query {
            from: self.accepted.from.name.clone(),
            schema: Arc::clone(schema),
            stages: self.stages,
            scan,
            key,
            updates: self.updates,
        })
    }

    fn lower(&mut self, plan: &LogicalPlan) -> Refused<()> {
        match plan {
            LogicalPlan::TableScan(scan) => self.scan(scan),
            LogicalPlan::SubqueryAlias(alias) => self.lower(&alias.input),
            LogicalPlan::Filter(filter) => self.filter(&filter.predicate, &filter.input),
            LogicalPlan::Projection(projection) => {
                self.lower(&projection.input)?;
                let input = projection.input.schema();
                let columns = projection.expr.iter().map(|expr| self.physical(expr, input));
                let columns = columns.collect::<Refused<Vec<_>>>()?;
                self.select(None, Some(columns), arrow_schema(&projection.schema));
                Ok(())
            }
            LogicalPlan::Join(join) => self.join(join),
            LogicalPlan::Aggregate(aggregate) => self.aggregate(aggregate),
            other => {
                let what = other.display().to_string();
                let what = what.split([':', ' ']).next().unwrap_or_default();
                Err(refuse(
                    self.text,
                    &format!("{what} cannot be used in a step"),
                    "write it as several steps",
                ))
            }
        }
    }

    fn scan(&mut self, scan: &TableScan) -> Refused<()> {
        let source =
            relation_source(scan).ok_or_else(|| refuse(self.text, "not a relation of this file", ""))?;
        let own = self.relations.first().map_or(0, |relation| relation.schema.fields().len());
        let all: Vec<usize> = (0..source.schema.fields().len()).collect();
        let taken = scan.projection.as_ref().unwrap_or(&all);
        let columns =
            taken.iter().map(|&at| if at < own { ScanColumn::Relation(at) } else { ScanColumn::WindowBound });
        let time = source.window.as_ref().and_then(|window| source.schema.index_of(&window.column).ok());
        self.scan =
            Some(Scan { columns: columns.collect(), time, schema: arrow_schema(&scan.projected_schema) });
        Ok(())
    }

    /// A condition on the stream's columns alone is judged before the join, where fewer columns are carried.
    fn filter(&mut self, predicate: &Expr, input: &LogicalPlan) -> Refused<()> {
        let LogicalPlan::Join(join) = input else {
            self.lower(input)?;
            return self.keep(predicate, input.schema());
        };
        let stream = join.left.schema();
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for part in split_conjunction(predicate) {
            let is_early = part.column_refs().iter().all(|column| stream.has_column(column));
            // What stands before it may keep rows out for which it has no value.
            match is_early && (after.is_empty() || !self.can_fail(part, &join.schema)?) {
                true => before.push(part.clone()),
                false => after.push(part.clone()),
            }
        }
        match conjunction(before) {
            Some(before) => self.filter(&before, &join.left)?,
            None => self.lower(&join.left)?,
        }
        self.join_stage(join)?;
        match conjunction(after) {
            Some(after) => self.keep(&after, &join.schema),
            None => Ok(()),
        }
    }

    fn keep(&mut self, predicate: &Expr, schema: &DFSchema) -> Refused<()> {
        if self.updates {
            let help = "leave HAVING out, or group by a window, whose results are final";
            return Err(refuse(
                self.text,
                "HAVING over results that change would have to take rows back",
                help,
            ));
        }
        let filter = checked::where_true(self.physical(predicate, schema)?);
        let filter = filter.map_err(|error| super::planner::diagnose(&error, self.text))?;
        self.select(Some(filter), None, arrow_schema(schema));
        Ok(())
    }

    /// Adds a stage; a filter and the projection behind it are one.
    fn select(
        &mut self,
        filter: Option<Arc<dyn PhysicalExpr>>,
        columns: Option<Vec<Arc<dyn PhysicalExpr>>>,
        schema: SchemaRef,
    ) {
        if let (Some(Stage::Select(last)), None) = (self.stages.last_mut(), &filter)
            && last.columns.is_none()
        {
            *last = Select { filter: last.filter.take(), columns, schema };
            return;
        }
        self.stages.push(Stage::Select(Select { filter, columns, schema }));
    }

    fn join(&mut self, join: &LogicalJoin) -> Refused<()> {
        self.lower(&join.left)?;
        self.join_stage(join)
    }

    fn join_stage(&mut self, join: &LogicalJoin) -> Refused<()> {
        let kind = match join.join_type {
            JoinType::Inner => JoinKind::Inner,
            JoinType::Left => JoinKind::Left,
            other => {
                return Err(refuse(
                    self.text,
                    &format!("{other} JOIN cannot be used in a step"),
                    "use JOIN or LEFT JOIN",
                ));
            }
        };
        let (table, columns) = joined_table(&join.right).ok_or_else(|| {
            refuse(self.text, "only a table itself can be joined", "name the table behind JOIN")
        })?;
        let at = self.accepted.joins.iter().position(|relation| relation.name == table);
        let readable = at.and_then(|at| self.relations.get(at + 1));
        let key = readable.and_then(|readable| readable.table_key.clone()).unwrap_or_default();
        let sql = at.and_then(|at| self.accepted.select().from.first()?.joins.get(at));
        let keys = self.join_keys(join, &table, &key, sql)?;
        let schema = arrow_schema(&join.schema);
        self.stages.push(Stage::Join(Join { kind, table, keys, columns, schema }));
        Ok(())
    }

    /// The stream's side of each column of the key; ON must be exactly their equality.
    fn join_keys(
        &self,
        join: &LogicalJoin,
        table: &str,
        key: &[String],
        sql: Option<&SqlJoin>,
    ) -> Refused<Vec<Arc<dyn PhysicalExpr>>> {
        let wrong = |message: String| {
            let span = sql.and_then(on_span).map_or_else(|| self.text.whole(), |span| self.text.span(span));
            let wanted: Vec<_> = key.iter().map(|column| format!("{table}.{column} = ...")).collect();
            let help = format!(
                "ON names the table's key and nothing else: {}; put other conditions into WHERE",
                wanted.join(" AND ")
            );
            Diagnostic::new("sql-refused", span, message).help(help)
        };
        let filter = join.filter.as_ref().map(split_conjunction).unwrap_or_default();
        let mut pairs: Vec<(Expr, Expr)> = join.on.clone();
        for part in filter {
            let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) = part else {
                return Err(wrong(format!("a join with '{table}' matches rows by equality only")));
            };
            pairs.push((*left.clone(), *right.clone()));
        }
        let mut found: Vec<Option<Arc<dyn PhysicalExpr>>> = vec![None; key.len()];
        for (left, right) in pairs {
            let table_is_right = of_schema(&right, join.right.schema());
            let (stream, table_side) = if table_is_right { (left, right) } else { (right, left) };
            if !of_schema(&table_side, join.right.schema()) || !of_schema(&stream, join.left.schema()) {
                return Err(wrong(
                    "each equation of ON has the stream on one side and the table on the other".to_owned(),
                ));
            }
            let (column, stream) = fit(table_side, stream, join.right.schema())
                .ok_or_else(|| wrong(format!("both sides must have the type of the column of '{table}'")))?;
            let at = key.iter().position(|name| *name == column.name);
            let Some(slot) = at.and_then(|at| found.get_mut(at)) else {
                return Err(wrong(format!("'{}' is not in the key of table '{table}'", column.name)));
            };
            if slot.is_some() {
                return Err(wrong(format!("ON has two equations for '{}'", column.name)));
            }
            *slot = Some(self.physical(&stream, join.left.schema())?);
        }
        found
            .into_iter()
            .collect::<Option<_>>()
            .ok_or_else(|| wrong(format!("ON leaves out a part of the key of table '{table}'")))
    }

    fn aggregate(&mut self, aggregate: &LogicalAggregate) -> Refused<()> {
        self.lower(&aggregate.input)?;
        let input = aggregate.input.schema();
        let windows = self.accepted.window.as_ref().map(|window| window.windows);
        if windows.is_none() && aggregate.group_expr.is_empty() {
            let help = "add GROUP BY with a column, or with window_start of a TUMBLE";
            return Err(refuse(self.text, "an aggregate over all rows of a stream is never final", help));
        }
        let groups = aggregate.group_expr.iter().map(|group| match self.window_bound(group) {
            Some(WINDOW_START) => Ok(GroupColumn::WindowStart),
            Some(_) => Ok(GroupColumn::WindowEnd),
            None => self.physical(group, input).map(GroupColumn::Value),
        });
        let groups = groups.collect::<Refused<Vec<_>>>()?;
        if let Some(window) = &self.accepted.window
            && !groups.iter().any(|group| !matches!(group, GroupColumn::Value(_)))
        {
            return Err(super::accept::ungrouped(window, self.text));
        }
        let physical_input = input.as_arrow();
        let aggregates = aggregate.aggr_expr.iter().map(|expr| {
            let builder =
                LoweredAggregateBuilder::new(expr, input, physical_input, &self.props, &self.context);
            let built = builder.build().and_then(|built| checked::aggregate(built, physical_input));
            built.map_err(|error| super::planner::diagnose(&error, self.text))
        });
        let aggregates = aggregates.collect::<Refused<Vec<_>>>()?;
        let group_count = groups.len();
        self.groups = aggregate.schema.columns().into_iter().take(group_count).collect();
        self.updates = windows.is_none();
        let schema = arrow_schema(&aggregate.schema);
        let stage = Aggregate { windows, groups, aggregates, schema };
        if let Err(reason) = AggregateFold::new(&stage) {
            let span = aggregate.aggr_expr.iter().find_map(super::kinds::place);
            let span = span.map_or_else(|| self.text.whole(), |span| self.text.plan_span(span));
            return Err(Diagnostic::new("sql-refused", span, reason).help("cast it to another type"));
        }
        self.stages.push(Stage::Aggregate(stage));
        Ok(())
    }

    /// The bound of the window that rows are grouped by.
    fn window_bound(&self, group: &Expr) -> Option<&'static str> {
        match bare(group) {
            Expr::Column(column) if self.accepted.window.is_some() => {
                super::window::bound_of(column, &self.accepted.from.alias)
            }
            _ => None,
        }
    }

    /// The columns of the result that carry the group, if all of them do.
    fn key(&self, plan: &LogicalPlan) -> Refused<Vec<String>> {
        let names = |group: &Column| match plan {
            LogicalPlan::Projection(projection) => {
                projection.expr.iter().zip(projection.schema.fields()).find_map(|(expr, field)| {
                    (bare(expr) == &Expr::Column(group.clone())).then(|| field.name().clone())
                })
            }
            _ => Some(group.name.clone()),
        };
        let key: Option<Vec<String>> = self.groups.iter().map(names).collect();
        match key {
            Some(key) => Ok(key),
            None if self.updates => {
                let help = "add each column of GROUP BY to SELECT";
                Err(refuse(self.text, "results that change need the columns of their group", help))
            }
            None => Ok(Vec::new()),
        }
    }

    fn can_fail(&self, expr: &Expr, schema: &DFSchema) -> Refused<bool> {
        checked::can_fail(&self.physical(expr, schema)?, schema.as_arrow())
            .map_err(|error| super::planner::diagnose(&error, self.text))
    }

    fn physical(&self, expr: &Expr, schema: &DFSchema) -> Refused<Arc<dyn PhysicalExpr>> {
        let made: PlanResult<_> = create_physical_expr(expr, schema, &self.props, &self.context)
            .and_then(|made| checked::expression(made, schema.as_arrow()));
        made.map_err(|error| super::planner::diagnose(&error, self.text))
    }
}

fn refuse(text: &SqlText, message: &str, help: &str) -> Diagnostic {
    Diagnostic::new("sql-refused", text.whole(), message).help(help)
}

fn arrow_schema(schema: &DFSchema) -> SchemaRef {
    let fields: Vec<_> = schema
        .fields()
        .iter()
        .map(|field| field.as_ref().clone().with_metadata(Default::default()))
        .collect();
    Arc::new(Schema::new(fields))
}

fn relation_source(scan: &TableScan) -> Option<&RelationSource> {
    scan.source.downcast_ref::<RelationSource>()
}

/// A table and the columns taken of it, by position.
fn joined_table(plan: &LogicalPlan) -> Option<(String, Vec<usize>)> {
    match plan {
        LogicalPlan::SubqueryAlias(alias) => joined_table(&alias.input),
        LogicalPlan::TableScan(scan) => {
            let source = relation_source(scan)?;
            let all: Vec<usize> = (0..source.schema.fields().len()).collect();
            Some((source.relation.clone(), scan.projection.clone().unwrap_or(all)))
        }
        LogicalPlan::Projection(projection) => {
            let (table, columns) = joined_table(&projection.input)?;
            let input = projection.input.schema();
            let taken = projection.expr.iter().map(|expr| match bare(expr) {
                Expr::Column(column) => columns.get(input.maybe_index_of_column(column)?).copied(),
                _ => None,
            });
            Some((table, taken.collect::<Option<_>>()?))
        }
        _ => None,
    }
}

fn of_schema(expr: &Expr, schema: &DFSchema) -> bool {
    let columns = expr.column_refs();
    !columns.is_empty() && columns.iter().all(|column| schema.has_column(column))
}

/// The table's column, and the stream's expression in its type. Integers of another width are brought to it, where a value
/// that does not fit matches nothing, as it should.
fn fit(table_side: Expr, stream: Expr, table: &DFSchema) -> Option<(Column, Expr)> {
    match table_side {
        Expr::Column(column) => Some((column, stream)),
        Expr::Cast(cast) => {
            let Expr::Column(column) = *cast.expr else { return None };
            let own: DataType = table.field_from_column(&column).ok()?.data_type().clone();
            let both_integers = own.is_integer() && cast.field.data_type().is_integer();
            both_integers.then(|| (column, Expr::TryCast(TryCast::new(Box::new(stream), own))))
        }
        _ => None,
    }
}

fn on_span(join: &SqlJoin) -> Option<datafusion_sql::sqlparser::tokenizer::Span> {
    match &join.join_operator {
        JoinOperator::Join(JoinConstraint::On(on))
        | JoinOperator::Inner(JoinConstraint::On(on))
        | JoinOperator::Left(JoinConstraint::On(on))
        | JoinOperator::LeftOuter(JoinConstraint::On(on)) => Some(on.span()),
        _ => None,
    }
}

fn bare(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => bare(&alias.expr),
        other => other,
    }
}
