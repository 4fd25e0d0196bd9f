//! Resolving names: relations, columns and functions, every unknown one at once with what was probably meant.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion_sql::sqlparser::ast::{
    DuplicateTreatment, Expr, Function, FunctionArguments, GroupByExpr, Ident, JoinConstraint, JoinOperator,
    ObjectName, Select, SelectItem, SelectItemQualifiedWildcardKind, Spanned, visit_expressions,
};
use millstream_connect_api::config::suggest;

use super::functions::{Known, aggregate_names, functions};
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
        for item in &select.projection {
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

    fn unknown_relation(&mut self, alias: &str, span: datafusion_sql::sqlparser::tokenizer::Span) {
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

fn did_you_mean(name: &str) -> String {
    format!("did you mean '{name}'?")
}
