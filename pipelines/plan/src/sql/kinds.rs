//! What may stand beside what: PostgreSQL compares and mixes values of one kind, and takes a quoted literal for one of the other side's.

use arrow::datatypes::DataType;
use datafusion_common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion_common::{DFSchema, DataFusionError, Diagnostic, Result, ScalarValue, Span};
use datafusion_expr::type_coercion::binary::type_union_resolution;
use datafusion_expr::{Expr, ExprSchemable};

use super::{decimal, lengths};

const HELP: &str = "CAST one side to the type of the other; TRY_CAST gives null where that fails";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
    Boolean,
    /// A date, or a timestamp: a day is its first instant.
    Instant,
    TimeOfDay,
    Length,
}

fn kind(of: &DataType) -> Option<Kind> {
    Some(match of {
        DataType::Dictionary(_, value) => return kind(value),
        DataType::Boolean => Kind::Boolean,
        DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) => Kind::Instant,
        DataType::Time32(_) | DataType::Time64(_) => Kind::TimeOfDay,
        DataType::Duration(_) | DataType::Interval(_) => Kind::Length,
        of if of.is_string() => Kind::Text,
        of if of.is_numeric() => Kind::Number,
        _ => return None,
    })
}

/// A quoted literal has no type of its own.
pub(super) fn is_quoted(expr: &Expr) -> bool {
    matches!(expr, Expr::Literal(value, _) if value.data_type().is_string())
}

/// Refuses values of two kinds beside each other.
pub(super) fn comparable(left: &Expr, right: &Expr, schema: &DFSchema) -> Result<()> {
    both(left, right, schema, |one, other| one == other)
}

/// Refuses text beside a number, whatever is computed.
pub(super) fn computable(left: &Expr, right: &Expr, schema: &DFSchema) -> Result<()> {
    let mixed = [Kind::Text, Kind::Number];
    both(left, right, schema, |one, other| one == other || !(mixed.contains(&one) && mixed.contains(&other)))
}

fn both(left: &Expr, right: &Expr, schema: &DFSchema, fits: impl Fn(Kind, Kind) -> bool) -> Result<()> {
    if is_quoted(left) || is_quoted(right) {
        return Ok(());
    }
    let (left_type, right_type) = (left.get_type(schema)?, right.get_type(schema)?);
    match (kind(&left_type), kind(&right_type)) {
        (Some(one), Some(other)) if !fits(one, other) => {
            let name = millstream_connect_api::types::type_name;
            let (one, other) = (name(&left_type), name(&right_type));
            let message = format!("{one} and {other} cannot be compared or computed with");
            Err(refused(&message, &[left, right], HELP))
        }
        _ => Ok(()),
    }
}

/// Values of which one is taken: all of one kind, and quoted literals of the type of the others.
pub(super) fn one_kind(exprs: Vec<Expr>, schema: &DFSchema) -> Result<Vec<Expr>> {
    let mut typed: Vec<(&Expr, DataType)> = Vec::new();
    for expr in exprs.iter().filter(|expr| !is_quoted(expr)) {
        let of = expr.get_type(schema)?;
        if !of.is_null() {
            typed.push((expr, of));
        }
    }
    let Some((first, of)) = typed.first() else { return Ok(exprs) };
    typed.iter().try_for_each(|(other, _)| comparable(first, other, schema))?;
    let types: Vec<DataType> = typed.iter().map(|(_, of)| of.clone()).collect();
    let common = type_union_resolution(&types).unwrap_or_else(|| of.clone());
    Ok(exprs.into_iter().map(|expr| quoted_as(expr, &common)).collect())
}

/// Values that are compared, where a quoted number beside a decimal would be rounded to that one's digits.
pub(super) fn exact(exprs: Vec<Expr>, schema: &DFSchema) -> Result<Vec<Expr>> {
    let types = exprs.iter().map(|expr| expr.get_type(schema)).collect::<Result<Vec<_>>>()?;
    let Some(of) = types.iter().find(|of| of.is_decimal()) else { return Ok(exprs) };
    Ok(exprs.into_iter().map(|expr| quoted_as(expr, of)).collect())
}

/// A quoted literal as a value of `of`; everything else as it is.
fn quoted_as(expr: Expr, of: &DataType) -> Expr {
    let Expr::Literal(ScalarValue::Utf8(Some(text)), _) = &expr else { return expr };
    let exact = match kind(of) {
        Some(Kind::Text) | None => return expr,
        Some(Kind::Number) if of.is_decimal() => decimal::literal(text),
        Some(Kind::Length) => lengths::quoted(text),
        Some(_) => None,
    };
    exact.unwrap_or_else(|| decimal::cast(expr, of.clone()))
}

/// Refuses a condition that is neither true nor false.
pub(super) fn condition(expr: &Expr, of_what: &str, schema: &DFSchema) -> Result<()> {
    let of = expr.get_type(schema)?;
    if matches!(of, DataType::Boolean | DataType::Null) {
        return Ok(());
    }
    let kind = millstream_connect_api::types::type_name(&of);
    let message = format!("a condition of {of_what} is a boolean, and this one is of type {kind}");
    Err(refused(&message, &[expr], "compare it with a value, as in x <> 0"))
}

/// An error at the first place that one of `exprs` names.
pub(super) fn refused(message: &str, exprs: &[&Expr], help: &str) -> DataFusionError {
    let place = exprs.iter().find_map(|expr| place(expr));
    let found = Diagnostic::new_error(message, place).with_help(help, None);
    DataFusionError::Plan(message.to_owned()).with_diagnostic(found)
}

/// The place of the first column in an expression; other parts know none.
pub(super) fn place(expr: &Expr) -> Option<Span> {
    let mut found = None;
    let _ = expr.apply(|part| {
        if let Expr::Column(column) = part {
            found = column.spans.first();
        }
        Ok(if found.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    found
}
