//! Numbers that are exact: how many digits what is computed from them has.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::DataType;
use datafusion_common::{DataFusionError, Result, ScalarValue};
use datafusion_expr::expr::ScalarFunction;
use datafusion_expr::{BinaryExpr, Cast, Expr, Operator, ScalarUDF};

use super::dialect::{ANY_DIGITS, plain};
use super::kinds;
use super::udf::Keep;

/// Digits of the widest decimal that a column may have.
const MAX_PRECISION: i16 = 38;
/// Digits behind the point that a quotient has at least, where there is room (PostgreSQL: `NUMERIC_MIN_SIG_DIGITS`).
const QUOTIENT_SCALE: i16 = 16;
/// Digits that Arrow adds to the scale of a dividend.
const ARROW_SCALE: i16 = 4;

/// Precision and scale of a number that is exact.
pub(super) fn digits(expr: &Expr, data_type: &DataType) -> Option<(i16, i16)> {
    if let Expr::Literal(ScalarValue::Int64(Some(value)), _) = expr {
        return Some((i16::try_from(value.unsigned_abs().to_string().len()).ok()?, 0));
    }
    Some(match data_type {
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
            if *scale >= 0 =>
        {
            (i16::from(*precision), i16::from(*scale))
        }
        DataType::Int8 | DataType::UInt8 => (3, 0),
        DataType::Int16 | DataType::UInt16 => (5, 0),
        DataType::Int32 | DataType::UInt32 => (10, 0),
        DataType::Int64 => (19, 0),
        DataType::UInt64 => (20, 0),
        _ => return None,
    })
}

/// A quotient with a useful number of digits, rounded. Arrow's own has four more than the dividend and cuts off the rest; so the
/// dividend is widened, for one digit more than is wanted.
pub(super) fn quotient(left: Expr, of: (i16, i16), right: Expr, by: (i16, i16)) -> Option<Expr> {
    let whole = of.0 - of.1 + by.1;
    let least = of.1.max(by.1);
    let wanted = (MAX_PRECISION - whole).clamp(least, least.max(QUOTIENT_SCALE));
    let scale = (wanted + 1 - ARROW_SCALE).max(of.1);
    let precision = of.0 - of.1 + scale;
    let result = decimal((whole + wanted).min(MAX_PRECISION), wanted)?;
    let (left, right) = if precision + ARROW_SCALE + by.1 <= MAX_PRECISION {
        (cast(left, decimal(precision, scale)?), right)
    } else {
        (cast(left, wide(precision, scale)?), cast(right, wide(by.0, by.1)?))
    };
    Some(kept(cast(binary(left, Operator::Divide, right), result)))
}

/// A product that would have more digits than there is room for, where a factor was rounded already: with as many as that one has.
/// Exact factors have an exact product, or none.
pub(super) fn product(left: &Expr, a: (i16, i16), right: &Expr, b: (i16, i16)) -> Option<Expr> {
    let (whole, least, exact) = (a.0 - a.1 + b.0 - b.1 + 1, a.1.max(b.1), a.1 + b.1);
    let wanted = (MAX_PRECISION - whole).clamp(least, exact);
    if wanted == exact || !(is_rounded(left) || is_rounded(right)) {
        return None;
    }
    let left = cast(left.clone(), wide(a.0, a.1)?);
    let right = cast(right.clone(), wide(b.0, b.1)?);
    let result = decimal(MAX_PRECISION, wanted)?;
    Some(kept(cast(binary(left, Operator::Multiply, right), result)))
}

/// Whether [`quotient`] or [`product`] made it.
fn is_rounded(expr: &Expr) -> bool {
    let Expr::ScalarFunction(call) = expr else { return false };
    let [Expr::Cast(cast)] = call.args.as_slice() else { return false };
    call.func.inner().is::<Keep>() && matches!(*cast.expr, Expr::BinaryExpr(_))
}

fn binary(left: Expr, op: Operator, right: Expr) -> Expr {
    Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right)))
}

pub(super) fn decimal(precision: i16, scale: i16) -> Option<DataType> {
    let precision = u8::try_from(precision).ok().filter(|precision| (1..=38).contains(precision))?;
    Some(DataType::Decimal128(precision, i8::try_from(scale).ok()?))
}

/// For steps in between, which have twice as many digits.
fn wide(precision: i16, scale: i16) -> Option<DataType> {
    Some(DataType::Decimal256(u8::try_from(precision.clamp(1, 76)).ok()?, i8::try_from(scale).ok()?))
}

/// Whether a cast is one to `numeric` without digits.
pub(super) fn is_numeric_alone(to: &DataType) -> bool {
    let (precision, scale) = ANY_DIGITS;
    matches!(to, DataType::Decimal256(p, s) if u64::from(*p) == precision && i64::from(*s) == scale)
}

/// `CAST(expr AS numeric)`: a numeric without digits takes every digit, so what is exact stays as it is.
pub(super) fn numeric_alone(expr: Expr, of: &DataType) -> Result<Expr> {
    if let Expr::Literal(ScalarValue::Utf8(Some(text)), _) = &expr {
        let exact = literal(text);
        return exact.ok_or_else(|| numeric_refused(&expr, "this text is no number of at most 38 digits"));
    }
    match (of, digits(&expr, of)) {
        (DataType::Decimal128(..), _) => Ok(expr),
        (DataType::Null, _) => Ok(cast(expr, DataType::Decimal128(1, 0))),
        (_, Some((precision, scale))) => match decimal(precision, scale) {
            Some(exact) => Ok(cast(expr, exact)),
            None => Ok(expr),
        },
        (of, None) => {
            let kind = millstream_connect_api::types::type_name(of);
            Err(numeric_refused(&expr, &format!("how many digits of {kind} NUMERIC keeps has to be said")))
        }
    }
}

fn numeric_refused(expr: &Expr, message: &str) -> DataFusionError {
    kinds::refused(
        message,
        &[expr],
        "write them, as in NUMERIC(38, 10): 38 digits, 10 of them behind the point",
    )
}

/// A quoted number with all its digits.
pub(super) fn literal(text: &str) -> Option<Expr> {
    let text = text.trim();
    let (sign, number) = match text.strip_prefix('-') {
        Some(number) => (-1, number),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let is_number = number.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && number.contains(|c: char| c.is_ascii_digit())
        && number.chars().all(|c| c.is_ascii_digit() || "eE+-.".contains(c));
    let spelled = plain(number).filter(|_| is_number)?;
    let (whole, part) = spelled.split_once('.').unwrap_or((&spelled, ""));
    let value: i128 = format!("{whole}{part}").parse().ok()?;
    let scale = i8::try_from(part.len()).ok()?;
    let precision = u8::try_from(whole.len() + part.len()).ok()?.max(1);
    Some(Expr::Literal(ScalarValue::Decimal128(Some(sign * value), precision, scale), None))
}

/// Holds a lossy cast where it is while the plan is simplified: DataFusion moves casts in comparisons to the other side, as if
/// `CAST(1.005 AS DECIMAL(10, 2)) = 1.01` were `1.005 = 1.010`.
pub(super) fn kept(cast: Expr) -> Expr {
    static KEEP: LazyLock<Arc<ScalarUDF>> =
        LazyLock::new(|| Arc::new(ScalarUDF::new_from_impl(Keep::default())));
    Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(&KEEP), vec![cast]))
}

pub(super) fn cast(expr: Expr, to: DataType) -> Expr {
    Expr::Cast(Cast::new(Box::new(expr), to))
}
