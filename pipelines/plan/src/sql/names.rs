//! Resolving names: relations, columns and functions, every unknown one at once with what was probably meant.

use std::collections::BTreeSet;
use std::ops::{ControlFlow, Range};

use arrow::datatypes::{DataType, Schema};
use datafusion_sql::sqlparser::ast::{
    DuplicateTreatment, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr, Ident,
    JoinConstraint, JoinOperator, ObjectName, Select, SelectItem, SelectItemQualifiedWildcardKind, Spanned,
    Value, visit_expressions,
};
use datafusion_sql::sqlparser::tokenizer::Span;
use millstream_connect_api::config::suggest;

use super::functions::{Known, aggregate_names, functions};
use super::udf::UNITS;
use super::{Accepted, SqlText, WINDOW_END, WINDOW_START};
use crate::diagnostic::Diagnostic;

/// The columns that a statement may name.
pub(super) struct Names<'a> {
    text: &'a SqlText,
    /// Alias and columns of each relation.
    relations: Vec<(String, Vec<String>)>,
    /// Columns that USING makes one of both sides.
    merged: BTreeSet<String>,
    problems: &'a mut Vec<Diagnostic>,
}

/// Checks every name in `accepted`; `columns` gives the columns of each of its relations, in order.
pub(super) fn check(
    accepted: &Accepted,
    columns: Vec<Vec<String>>,
    text: &SqlText,
    problems: &mut Vec<Diagnostic>,
) {
    let aliases = accepted.relations().map(|relation| relation.alias.clone());
    let mut names =
        Names { text, relations: aliases.zip(columns).collect(), merged: BTreeSet::new(), problems };
    names.relations(accepted);
    if let (true, Some((_, own))) = (accepted.window.is_some(), names.relations.first_mut()) {
        own.extend([WINDOW_START.to_owned(), WINDOW_END.to_owned()]);
    }
    names.select(accepted.select());
}

impl Names<'_> {
    fn relations(&mut self, accepted: &Accepted) {
        let mut seen = BTreeSet::new();
        for relation in accepted.relations() {
            if !seen.insert(&relation.alias) {
                let message = format!("'{}' is named twice in FROM", relation.alias);
                self.problems.push(
                    Diagnostic::new("sql-refused", relation.span.clone(), message)
                        .help(format!("give one of them another name: {} AS other", relation.name)),
                );
            }
        }
        let Some(window) = &accepted.window else { return };
        let Some((_, own)) = self.relations.first() else { return };
        let span = self.text.span(window.column_span);
        if !own.contains(&window.column) {
            let near = suggest(&window.column, own.iter().map(String::as_str)).map(did_you_mean);
            let message = format!("'{}' has no column '{}'", accepted.from.name, window.column);
            self.problems.push(Diagnostic::new("unknown-column", span.clone(), message).maybe_help(near));
        }
        for taken in [WINDOW_START, WINDOW_END] {
            if own.iter().any(|column| column == taken) {
                let message = format!("'{}' already has a column '{taken}'", accepted.from.name);
                let help = format!("rename it where it is made: {taken} AS other");
                self.problems
                    .push(Diagnostic::new("sql-refused", accepted.from.span.clone(), message).help(help));
            }
        }
    }

    fn select(&mut self, select: &Select) {
        let mut made = BTreeSet::new();
        self.joins(select);
        let mut named = BTreeSet::new();
        for item in &select.projection {
            if let Some(name) = name_of_item(item)
                && !named.insert(name.clone())
            {
                self.problems.push(twice(&name, self.text.span(item.span()), None));
            }
            match item {
                SelectItem::UnnamedExpr(expression) => self.expression(expression, &BTreeSet::new()),
                SelectItem::ExprWithAlias { expr, alias } => {
                    self.expression(expr, &BTreeSet::new());
                    made.insert(super::name_of(alias));
                }
                SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), _) => {
                    self.qualifier(name);
                }
                _ => {}
            }
        }
        if let Some(condition) = &select.selection {
            self.expression(condition, &BTreeSet::new());
        }
        if let GroupByExpr::Expressions(groups, _) = &select.group_by {
            groups.iter().for_each(|group| self.expression(group, &made));
        }
        if let Some(condition) = &select.having {
            self.expression(condition, &made);
        }
    }

    fn joins(&mut self, select: &Select) {
        for join in select.from.iter().flat_map(|from| &from.joins) {
            let (JoinOperator::Join(on)
            | JoinOperator::Inner(on)
            | JoinOperator::Left(on)
            | JoinOperator::LeftOuter(on)) = &join.join_operator
            else {
                continue;
            };
            match on {
                JoinConstraint::On(expression) => self.expression(expression, &BTreeSet::new()),
                JoinConstraint::Using(columns) => {
                    self.merged.extend(columns.iter().map(super::dotted));
                    columns.iter().for_each(|column| self.using(column));
                }
                _ => {}
            }
        }
    }

    /// Checks all names in `expression`, where names in `made` are columns of the result.
    fn expression(&mut self, expression: &Expr, made: &BTreeSet<String>) {
        let _ = visit_expressions(expression, |inner| {
            match inner {
                Expr::Identifier(name) => self.column(name, made),
                Expr::CompoundIdentifier(parts) => self.qualified(parts, inner),
                Expr::Function(function) => self.function(function),
                _ => {}
            }
            ControlFlow::<()>::Continue(())
        });
    }

    fn column(&mut self, name: &Ident, made: &BTreeSet<String>) {
        let wanted = super::name_of(name);
        let owners: Vec<_> = self
            .relations
            .iter()
            .filter(|(_, columns)| columns.contains(&wanted))
            .map(|(alias, _)| format!("{alias}.{wanted}"))
            .collect();
        let span = self.text.span(name.span);
        match owners.len() {
            0 if made.contains(&wanted) => {}
            0 => {
                let known = self.relations.iter().flat_map(|(_, columns)| columns).map(String::as_str);
                let help = self.case(&name.value).or_else(|| suggest(&wanted, known).map(did_you_mean));
                let message = format!("there is no column '{}'", name.value);
                let diagnostic = Diagnostic::new("unknown-column", span, message);
                let diagnostic = diagnostic.maybe_help(help.or_else(|| self.list_of_columns()));
                self.problems.push(diagnostic);
            }
            1 => {}
            _ if self.merged.contains(&wanted) => {}
            _ => {
                let message = format!("'{wanted}' is a column of more than one relation");
                let help = format!("write {}", owners.join(" or "));
                self.problems.push(Diagnostic::new("ambiguous-column", span, message).help(help));
            }
        }
    }

    /// A column that differs in case only: SQL lowers names that are not quoted.
    fn case(&self, written: &str) -> Option<String> {
        let mut columns = self.relations.iter().flat_map(|(_, columns)| columns);
        let same = columns.find(|column| column.eq_ignore_ascii_case(written))?;
        Some(format!("names are lower case unless quoted: write \"{same}\" with the quotes"))
    }

    fn list_of_columns(&self) -> Option<String> {
        let all: Vec<_> =
            self.relations.iter().flat_map(|(_, columns)| columns).map(String::as_str).collect();
        (!all.is_empty()).then(|| format!("columns here are {}", all.join(", ")))
    }

    fn qualified(&mut self, parts: &[Ident], whole: &Expr) {
        let names: Vec<_> = parts.iter().map(super::name_of).collect();
        let Some((last, qualifier)) = names.split_last() else { return };
        let alias = qualifier.join(".");
        if let Some((_, columns)) = self.relations.iter().find(|(name, _)| *name == alias) {
            if !columns.contains(last) {
                let near = suggest(last, columns.iter().map(String::as_str)).map(did_you_mean);
                let near = near.or_else(|| Some(format!("its columns are {}", columns.join(", "))));
                let message = format!("'{alias}' has no column '{last}'");
                let span = parts.last().map_or_else(|| whole.span(), |part| part.span);
                self.problems
                    .push(Diagnostic::new("unknown-column", self.text.span(span), message).maybe_help(near));
            }
            return;
        }
        let nested = names.first().is_some_and(|first| self.relations.iter().any(|(_, c)| c.contains(first)))
            || names.get(1).is_some_and(|column| {
                self.relations.iter().any(|(alias, c)| Some(alias) == names.first() && c.contains(column))
            });
        if !nested {
            let span = parts.first().map_or_else(|| whole.span(), |part| part.span);
            self.unknown_relation(&alias, span);
        }
    }

    fn unknown_relation(&mut self, alias: &str, span: Span) {
        let aliases: Vec<_> = self.relations.iter().map(|(alias, _)| alias.as_str()).collect();
        let near = suggest(alias, aliases.iter().copied()).map(did_you_mean);
        let help = near.or_else(|| Some(format!("relations here are {}", aliases.join(", "))));
        let message = format!("'{alias}' is not in FROM");
        self.problems
            .push(Diagnostic::new("unknown-relation", self.text.span(span), message).maybe_help(help));
    }

    fn qualifier(&mut self, name: &ObjectName) {
        let alias = super::dotted(name);
        if !self.relations.iter().any(|(known, _)| *known == alias) {
            self.unknown_relation(&alias, name.span());
        }
    }

    fn using(&mut self, name: &ObjectName) {
        let wanted = super::dotted(name);
        let missing: Vec<_> = self
            .relations
            .iter()
            .filter(|(_, columns)| !columns.contains(&wanted))
            .map(|(alias, _)| format!("'{alias}' has no column '{wanted}'"))
            .collect();
        if !missing.is_empty() {
            let span = self.text.span(name.span());
            self.problems.push(
                Diagnostic::new("unknown-column", span, missing.join("; "))
                    .help("write ON with both columns"),
            );
        }
    }

    fn function(&mut self, function: &Function) {
        let name = super::dotted(&function.name);
        let span = self.text.span(function.name.span());
        let bare = matches!(function.args, FunctionArguments::None);
        if bare && self.relations.iter().any(|(_, columns)| columns.contains(&name)) {
            let message = format!("'{name}' without quotes is a function of SQL, not the column");
            let help = format!("write \"{name}\" with the quotes");
            self.problems.push(Diagnostic::new("unknown-column", span, message).help(help));
            return;
        }
        let mut refuse = |message: String, help: String| {
            self.problems.push(Diagnostic::new("sql-refused", span.clone(), message).help(help));
        };
        if function.over.is_some() {
            let help = "group a TUMBLE or HOP of the relation instead".to_owned();
            return refuse("OVER cannot be used in a step".to_owned(), help);
        }
        match functions().known(&name) {
            Known::Yes => {}
            Known::Volatile => {
                let message =
                    format!("'{name}' gives another result each time, so a run could not be repeated");
                return refuse(message, "use a column that the source brings".to_owned());
            }
            Known::Unbounded => {
                let message = format!("'{name}' would keep every row of its group in memory");
                return refuse(message, format!("aggregates are {}", aggregate_names()));
            }
            Known::No => {
                let near = suggest(&name, functions().names()).map(did_you_mean);
                let message = format!("there is no function '{name}'");
                self.problems.push(Diagnostic::new("unknown-function", span, message).maybe_help(near));
                return;
            }
        }
        let FunctionArguments::List(arguments) = &function.args else { return };
        let literals: Vec<_> = arguments.args.iter().map(literal).collect();
        if let Some((span, message, help)) = unlike_postgres(&name, &literals) {
            let span = self.text.span(span);
            self.problems.push(Diagnostic::new("sql-refused", span, message).help(help));
            return;
        }
        let plain = arguments.duplicate_treatment != Some(DuplicateTreatment::Distinct)
            && arguments.clauses.is_empty()
            && function.within_group.is_empty()
            && function.null_treatment.is_none();
        if functions().is_aggregate(&name) && !plain {
            let message =
                format!("{name} with DISTINCT, ORDER BY or a treatment of nulls cannot be used in a step");
            refuse(
                message,
                "leave it out; approx_distinct(x) counts distinct values in bounded memory".to_owned(),
            );
        }
    }
}

/// The text of an argument that is a quoted literal.
fn literal(argument: &FunctionArg) -> Option<(&str, Span)> {
    let FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Value(value))) = argument else { return None };
    match &value.value {
        Value::SingleQuotedString(text) => Some((text, value.span)),
        _ => None,
    }
}

/// What is wrong with literal arguments that would fail, or mean something else, in the first row only.
fn unlike_postgres(name: &str, literals: &[Option<(&str, Span)>]) -> Option<(Span, String, String)> {
    let at = |index: usize| literals.get(index).copied().flatten();
    match name {
        "date_trunc" | "datetrunc" => {
            let (unit, span) = at(0)?;
            let known = UNITS.contains(&unit.to_ascii_lowercase().as_str());
            let help = format!("units are {}", UNITS.join(", "));
            (!known).then(|| (span, format!("{name} does not know the unit '{unit}'"), help))
        }
        "to_char" | "date_format" => {
            let (format, span) = at(1)?;
            let message = format!("'{format}' has no % and would be given back as it is");
            let help = "formats are those of strftime here, such as '%Y-%m-%d %H:%M:%S'";
            (!format.contains('%')).then(|| (span, message, help.to_owned()))
        }
        _ => None,
    }
}

/// Refuses columns of a result that could not be told apart, or whose type no record can carry.
pub(super) fn check_result(accepted: &Accepted, schema: &Schema, text: &SqlText) -> Result<(), Diagnostic> {
    let mut seen = BTreeSet::new();
    for field in schema.fields() {
        let name = field.name();
        let mut items = accepted.select().projection.iter().rev();
        let item = items.find(|item| name_of_item(item).is_none_or(|made| made == *name));
        let span = item.map_or_else(|| text.whole(), |item| text.span(item.span()));
        if !seen.insert(name) {
            let owner = accepted.relations().last().map(|relation| relation.alias.as_str());
            return Err(twice(name, span, owner));
        }
        if let Some(part) = unwritable(field.data_type()) {
            let kind = millstream_connect_api::types::type_name(part);
            let message = format!("'{name}' is of type {kind}, which no row can carry");
            let help = "cast it, as CAST(... AS VARCHAR) does, or take a part of it with date_part";
            return Err(Diagnostic::new("sql-refused", span, message).help(help));
        }
    }
    Ok(())
}

/// A type in this one that has no form in JSON.
pub(crate) fn unwritable(data_type: &DataType) -> Option<&DataType> {
    match data_type {
        DataType::Duration(_) | DataType::Interval(_) => Some(data_type),
        DataType::List(field) | DataType::LargeList(field) | DataType::Map(field, _) => {
            unwritable(field.data_type())
        }
        DataType::Struct(fields) => fields.iter().find_map(|field| unwritable(field.data_type())),
        _ => None,
    }
}

/// The name of the column that an item makes, where it says so itself.
fn name_of_item(item: &SelectItem) -> Option<String> {
    match item {
        SelectItem::UnnamedExpr(Expr::Identifier(column)) => Some(super::name_of(column)),
        SelectItem::UnnamedExpr(Expr::CompoundIdentifier(parts)) => parts.last().map(super::name_of),
        SelectItem::ExprWithAlias { alias, .. } => Some(super::name_of(alias)),
        _ => None,
    }
}

fn twice(name: &str, span: Range<usize>, owner: Option<&str>) -> Diagnostic {
    let column = owner.map_or_else(|| name.to_owned(), |owner| format!("{owner}.{name}"));
    Diagnostic::new("sql-refused", span, format!("two columns of the result are called '{name}'"))
        .help(format!("name the columns one by one, and rename one: {column} AS other"))
}

fn did_you_mean(name: &str) -> String {
    format!("did you mean '{name}'?")
}
