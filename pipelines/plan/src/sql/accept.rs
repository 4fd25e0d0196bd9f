//! Which SQL a step may be written in: everything outside of it is refused at its place, with what to write instead.

use std::ops::{ControlFlow, Range};

use datafusion_sql::sqlparser::ast::{
    DataType, Expr, GroupByExpr, Join, JoinConstraint, JoinOperator, Query, Select, SelectItem, SetExpr,
    Spanned, Statement, TableFactor, TypedString, Value, visit_expressions,
};
use datafusion_sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion_sql::sqlparser::parser::{Parser, ParserError};
use datafusion_sql::sqlparser::tokenizer::Span;

use super::SqlText;
use super::window::{Window, WindowCall};
use crate::diagnostic::Diagnostic;

/// How deep expressions may be nested; a bound on recursion.
const MAX_DEPTH: usize = 100;

/// A statement inside the set that a step may be written in, as far as that can be told without knowing the relations.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// The statement, for the planner.
    pub statement: Statement,
    /// The relation whose rows drive the step.
    pub from: Relation,
    /// Windows over it.
    pub window: Option<Window>,
    /// The tables joined to it, in order.
    pub joins: Vec<Relation>,
}

/// A relation as the statement names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// Name of the source or step.
    pub name: String,
    /// What columns are qualified with.
    pub alias: String,
    /// Where the file names it.
    pub span: Range<usize>,
}

impl Accepted {
    /// All relations, the driving one first.
    pub fn relations(&self) -> impl Iterator<Item = &Relation> {
        std::iter::once(&self.from).chain(&self.joins)
    }

    /// The `SELECT`.
    #[must_use]
    pub fn select(&self) -> &Select {
        match &self.statement {
            Statement::Query(query) => match &*query.body {
                SetExpr::Select(select) => select,
                _ => unreachable!("only a SELECT is accepted"),
            },
            _ => unreachable!("only a query is accepted"),
        }
    }
}

/// Parses `text` and refuses what is outside of the set; all refusals are pushed to `problems`.
pub fn accept(text: &SqlText, problems: &mut Vec<Diagnostic>) -> Option<Accepted> {
    let statement = parse(text).map_err(|problem| problems.push(problem)).ok()?;
    let mut check = Check { text, problems: Vec::new() };
    let accepted = check.statement(statement);
    let clean = check.problems.is_empty();
    problems.append(&mut check.problems);
    accepted.filter(|_| clean)
}

fn parse(text: &SqlText) -> Result<Statement, Diagnostic> {
    let parsed = Parser::new(&PostgreSqlDialect {})
        .with_recursion_limit(MAX_DEPTH)
        .try_with_sql(text.sql())
        .and_then(|mut parser| parser.parse_statements());
    let mut statements = parsed.map_err(|error| syntax(text, &error))?;
    match (statements.pop(), statements.is_empty()) {
        (Some(mut statement), true) => {
            super::dialect::spell(&mut statement);
            Ok(statement)
        }
        (None, _) => {
            Err(Diagnostic::new("sql-syntax", text.whole(), "there is no SQL here").help("write a SELECT"))
        }
        (Some(extra), false) => {
            Err(Diagnostic::new("sql-refused", text.span(extra.span()), "a step is one statement")
                .help("write a step for each SELECT"))
        }
    }
}

/// The parser puts the place at the end of its message.
fn syntax(text: &SqlText, error: &ParserError) -> Diagnostic {
    let message = match error {
        ParserError::TokenizerError(message) | ParserError::ParserError(message) => message.as_str(),
        ParserError::RecursionLimitExceeded => "this is nested too deep",
    };
    let place = message.rsplit_once(" at Line: ").and_then(|(what, place)| {
        let (line, column) = place.split_once(", Column: ")?;
        Some((what, line.trim().parse().ok()?, column.trim().parse().ok()?))
    });
    match place {
        Some((what, line, column)) => Diagnostic::new("sql-syntax", text.at(line, column), what),
        None if message.ends_with("EOF") => Diagnostic::new("sql-syntax", text.end(), message),
        None => Diagnostic::new("sql-syntax", text.whole(), message),
    }
}

struct Check<'a> {
    text: &'a SqlText,
    problems: Vec<Diagnostic>,
}

impl Check<'_> {
    fn refuse(&mut self, span: Span, what: &str, help: &str) {
        let message = format!("{what} cannot be used in a step");
        self.problems.push(Diagnostic::new("sql-refused", self.text.span(span), message).help(help));
    }

    fn statement(&mut self, statement: Statement) -> Option<Accepted> {
        let Statement::Query(query) = &statement else {
            self.refuse(statement.span(), "this statement", "a step is a SELECT");
            return None;
        };
        let select = self.query(query)?;
        let (from, window, joins) = self.from(select)?;
        self.select(select);
        self.grouping(select, &from, window.as_ref());
        self.expressions(select);
        Some(Accepted { from, window, joins, statement })
    }

    fn query<'q>(&mut self, query: &'q Query) -> Option<&'q Select> {
        if let Some(with) = &query.with {
            self.refuse(with.span(), "WITH", "make each part a step of its own, and name it in FROM");
        }
        if let Some(order) = &query.order_by {
            let help = "rows leave a step in the order in which they become final; leave ORDER BY out";
            self.refuse(order.span(), "ORDER BY", help);
        }
        if let Some(limit) = &query.limit_clause {
            self.refuse(limit.span(), "LIMIT", "a stream has no end to count from; filter with WHERE");
        }
        let others = [
            (query.fetch.is_some(), "FETCH"),
            (!query.locks.is_empty(), "FOR UPDATE"),
            (query.for_clause.is_some(), "FOR"),
            (query.settings.is_some(), "SETTINGS"),
            (query.format_clause.is_some(), "FORMAT"),
            (!query.pipe_operators.is_empty(), "|>"),
        ];
        for (present, name) in others {
            if present {
                self.refuse(query.span(), name, "leave it out");
            }
        }
        match &*query.body {
            SetExpr::Select(select) => Some(select),
            SetExpr::SetOperation { op, .. } => {
                let help = "write one step for each SELECT, and a sink for each step";
                self.refuse(query.body.span(), &op.to_string(), help);
                None
            }
            SetExpr::Values(_) => {
                self.refuse(
                    query.body.span(),
                    "VALUES",
                    "put the rows into a file, and read it with a source",
                );
                None
            }
            other => {
                self.refuse(other.span(), "this form of query", "a step is a SELECT");
                None
            }
        }
    }

    fn select(&mut self, select: &Select) {
        if let Some(distinct) = &select.distinct {
            let span = select.projection.first().map_or_else(|| select.span(), Spanned::span);
            self.refuse(span, &distinct.to_string(), "name the columns in GROUP BY");
        }
        let others = [
            (select.top.is_some(), "TOP"),
            (select.into.is_some(), "INTO"),
            (select.exclude.is_some(), "EXCLUDE"),
            (!select.lateral_views.is_empty(), "LATERAL VIEW"),
            (select.prewhere.is_some(), "PREWHERE"),
            (!select.connect_by.is_empty(), "CONNECT BY"),
            (!select.cluster_by.is_empty(), "CLUSTER BY"),
            (!select.distribute_by.is_empty(), "DISTRIBUTE BY"),
            (!select.sort_by.is_empty(), "SORT BY"),
            (!select.named_window.is_empty(), "WINDOW"),
            (select.qualify.is_some(), "QUALIFY"),
            (select.value_table_mode.is_some(), "SELECT AS"),
            (!select.optimizer_hints.is_empty(), "a hint"),
        ];
        for (present, name) in others {
            if present {
                self.refuse(select.span(), name, "leave it out");
            }
        }
        for item in &select.projection {
            let options = match item {
                SelectItem::Wildcard(options) | SelectItem::QualifiedWildcard(_, options) => options,
                SelectItem::ExprWithAliases { .. } => {
                    self.refuse(item.span(), "several names for one expression", "give it one name");
                    continue;
                }
                _ => continue,
            };
            let plain = options.opt_ilike.is_none()
                && options.opt_exclude.is_none()
                && options.opt_except.is_none()
                && options.opt_replace.is_none()
                && options.opt_rename.is_none();
            if !plain {
                self.refuse(item.span(), "* with options", "name the columns");
            }
        }
    }

    fn from(&mut self, select: &Select) -> Option<(Relation, Option<Window>, Vec<Relation>)> {
        let (first, rest) = match select.from.split_first() {
            Some(split) => split,
            None => {
                self.refuse(select.span(), "SELECT without FROM", "name a source or a step in FROM");
                return None;
            }
        };
        for extra in rest {
            let help = "join a table: FROM a JOIN b ON a.x = b.x";
            self.refuse(extra.relation.span(), "a second relation in FROM", help);
        }
        let from = self.relation(&first.relation, true);
        let joins: Vec<_> = first.joins.iter().filter_map(|join| self.join(join)).collect();
        let (relation, window) = from?;
        Some((relation, window, joins))
    }

    fn join(&mut self, join: &Join) -> Option<Relation> {
        let span = join.relation.span();
        let constraint = match &join.join_operator {
            JoinOperator::Join(on)
            | JoinOperator::Inner(on)
            | JoinOperator::Left(on)
            | JoinOperator::LeftOuter(on) => Some(on),
            other => {
                let name = match other {
                    JoinOperator::Right(_) | JoinOperator::RightOuter(_) => "RIGHT JOIN",
                    JoinOperator::FullOuter(_) => "FULL JOIN",
                    JoinOperator::CrossJoin(_) => "CROSS JOIN",
                    _ => "this kind of join",
                };
                self.refuse(span, name, "join a table with JOIN or LEFT JOIN; the stream stands first");
                None
            }
        };
        match constraint {
            Some(JoinConstraint::Natural | JoinConstraint::None) => {
                self.refuse(span, "a join without ON", "say how rows match: ON stream.column = table.key");
            }
            Some(JoinConstraint::On(_) | JoinConstraint::Using(_)) | None => {}
        }
        self.relation(&join.relation, false).map(|(relation, _)| relation)
    }

    fn relation(&mut self, factor: &TableFactor, first: bool) -> Option<(Relation, Option<Window>)> {
        let span = factor.span();
        let TableFactor::Table {
            name,
            alias,
            args,
            with_hints,
            version,
            with_ordinality,
            partitions,
            json_path,
            sample,
            index_hints,
        } = factor
        else {
            let what = match factor {
                TableFactor::Derived { .. } => "a query in FROM",
                TableFactor::UNNEST { .. } => "UNNEST",
                TableFactor::NestedJoin { .. } => "a join in parentheses",
                _ => "this kind of relation",
            };
            self.refuse(span, what, "make it a step of its own, and name that step here");
            return None;
        };
        let plain = with_hints.is_empty()
            && version.is_none()
            && !with_ordinality
            && partitions.is_empty()
            && json_path.is_none()
            && sample.is_none()
            && index_hints.is_empty();
        if !plain {
            self.refuse(span, "an option of a relation", "name the source or step alone");
        }
        if let Some(columns) = alias.as_ref().filter(|alias| !alias.columns.is_empty()) {
            self.refuse(columns.span(), "column names behind an alias", "rename columns with AS in SELECT");
        }
        let alias = alias.as_ref().map(|alias| super::name_of(&alias.name));
        let Some(arguments) = args else {
            let name = super::dotted(name);
            let alias = alias.unwrap_or_else(|| name.clone());
            return Some((Relation { name, alias, span: self.text.span(span) }, None));
        };
        let call = match WindowCall::read(name, arguments) {
            Ok(call) => call,
            Err(refusal) => {
                self.problems.push(refusal.place(self.text));
                return None;
            }
        };
        if !first {
            let help = "put the windows over the first relation of FROM";
            self.refuse(span, "windows over a joined table", help);
        }
        let alias = alias.unwrap_or_else(|| call.relation.clone());
        let relation = Relation { name: call.relation, alias, span: self.text.span(call.relation_span) };
        Some((relation, Some(call.window)))
    }

    fn grouping(&mut self, select: &Select, from: &Relation, window: Option<&Window>) {
        let (groups, modifiers) = match &select.group_by {
            GroupByExpr::Expressions(groups, modifiers) => (groups.as_slice(), !modifiers.is_empty()),
            GroupByExpr::All(_) => {
                self.refuse(select.group_by.span(), "GROUP BY ALL", "name the columns");
                return;
            }
        };
        if modifiers {
            self.refuse(select.group_by.span(), "ROLLUP, CUBE or TOTALS", "write a step for each grouping");
        }
        for group in groups {
            if matches!(group, Expr::Rollup(_) | Expr::Cube(_) | Expr::GroupingSets(_)) {
                self.refuse(group.span(), "ROLLUP, CUBE or GROUPING SETS", "write a step for each grouping");
            }
        }
        let Some(window) = window else { return };
        let is_bound = |group: &Expr| is_window_bound(selected(group, select), from);
        if !groups.iter().any(is_bound) {
            self.problems.push(ungrouped(window, self.text));
        }
        for expression in select.selection.iter().chain(groups.iter().filter(|group| !is_bound(group))) {
            let _ = visit_expressions(expression, |inner| {
                if is_window_bound(inner, from) {
                    let help = "group by it as it is, and compute or filter in SELECT or HAVING";
                    self.refuse(inner.span(), "a window's bound here", help);
                }
                ControlFlow::<()>::Continue(())
            });
        }
    }

    /// Refuses queries inside of expressions; functions and columns are judged where the relations are known.
    fn expressions(&mut self, select: &Select) {
        let _ = visit_expressions(select, |expression| {
            let what = match expression {
                Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. } => {
                    "a query inside of an expression"
                }
                Expr::AnyOp { .. } | Expr::AllOp { .. } => "ANY or ALL",
                Expr::SimilarTo { .. } => {
                    let help = "write LIKE, or a regular expression for all of the text: x ~ '^(...)$'";
                    self.refuse(expression.span(), "SIMILAR TO", help);
                    return ControlFlow::Continue(());
                }
                Expr::Cast { data_type, .. } | Expr::TypedString(TypedString { data_type, .. }) => {
                    if let Some(help) = cast_refused(data_type) {
                        self.refuse(expression.span(), &format!("a cast to {data_type}"), help);
                    }
                    return ControlFlow::Continue(());
                }
                Expr::Value(value) if matches!(value.value, Value::HexStringLiteral(_)) => {
                    let help = "write a number with decimal digits, and bytes as decode('00ff', 'hex')";
                    self.refuse(expression.span(), "a hexadecimal literal", help);
                    return ControlFlow::Continue(());
                }
                _ => return ControlFlow::<()>::Continue(()),
            };
            self.refuse(expression.span(), what, "make the query a step or a table, and join it");
            ControlFlow::Continue(())
        });
    }
}

/// Windows without a group for each.
pub(super) fn ungrouped(window: &Window, text: &SqlText) -> Diagnostic {
    let message = "windows are for grouping: GROUP BY names neither window_start nor window_end";
    Diagnostic::new("sql-refused", text.span(window.span), message)
        .help("add GROUP BY window_start, window_end, or read the relation without TUMBLE or HOP")
}

/// What GROUP BY means by a number, or by a name that SELECT gives: an expression of SELECT.
fn selected<'a>(group: &'a Expr, select: &'a Select) -> &'a Expr {
    let item = match group {
        Expr::Value(value) => match &value.value {
            Value::Number(at, _) => {
                at.parse::<usize>().ok().and_then(|at| select.projection.get(at.checked_sub(1)?))
            }
            _ => None,
        },
        Expr::Identifier(name) => select.projection.iter().find(|item| {
            matches!(item, SelectItem::ExprWithAlias { alias, .. } if super::name_of(alias) == super::name_of(name))
        }),
        _ => None,
    };
    match item {
        Some(SelectItem::UnnamedExpr(expression) | SelectItem::ExprWithAlias { expr: expression, .. }) => {
            expression
        }
        _ => group,
    }
}

/// What to write instead of a cast that would mean something else than in PostgreSQL.
fn cast_refused(data_type: &DataType) -> Option<&'static str> {
    match data_type {
        DataType::Timestamp(Some(0..=5), _) => {
            Some("it would round: cast to TIMESTAMP, and cut with date_trunc('second', x)")
        }
        DataType::Float(_) => Some("a FLOAT has 1 to 53 bits; DOUBLE PRECISION has them all"),
        _ if is_sized_text(data_type) => {
            Some("cast to VARCHAR, and cut with left(x, n) where it may be longer")
        }
        _ => None,
    }
}

/// Whether a type of text has a length, which a cast would have to cut to. That of CHAR alone is 1.
fn is_sized_text(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Char(_)
            | DataType::Character(_)
            | DataType::Varchar(Some(_))
            | DataType::Nvarchar(Some(_))
            | DataType::CharacterVarying(Some(_))
            | DataType::CharVarying(Some(_))
    )
}

/// Whether an expression is `window_start` or `window_end` of the first relation, qualified or not.
fn is_window_bound(expression: &Expr, from: &Relation) -> bool {
    let name = match expression {
        Expr::Identifier(name) => super::name_of(name),
        Expr::CompoundIdentifier(names) => {
            let names: Vec<_> = names.iter().map(super::name_of).collect();
            match names.split_last() {
                Some((name, qualifier)) if qualifier.join(".") == from.alias => name.clone(),
                _ => return false,
            }
        }
        _ => return false,
    };
    matches!(name.as_str(), super::WINDOW_START | super::WINDOW_END)
}
