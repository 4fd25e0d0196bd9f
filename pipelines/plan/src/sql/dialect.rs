//! Spellings that DataFusion takes for something else than PostgreSQL does, written so that both mean the same.

use std::ops::ControlFlow;

use datafusion_sql::sqlparser::ast::{
    BinaryOperator, CastKind, DataType, ExactNumberInfo, Expr, Statement, TypedString, UnaryOperator, Value,
    visit_expressions_mut,
};

/// Digits of a timestamp's second: columns have microseconds, as in PostgreSQL. DataFusion's own nanoseconds end in the year 2262.
const MICROS: u64 = 6;
/// Digits of the widest decimal.
const MAX_DIGITS: usize = 38;

/// Bits of a float up to which FLOAT(n) has four bytes, and at most.
const REAL_BITS: u64 = 24;
const MOST_BITS: u64 = 53;
/// Precision and scale that stand for a NUMERIC without digits, which DataFusion takes for one with ten behind the point. No column can
/// have them.
pub(super) const ANY_DIGITS: (u64, i64) = (75, 37);

/// Writes types, numbers and signs in `statement` out.
pub(super) fn spell(statement: &mut Statement) {
    let _ = visit_expressions_mut(statement, |expression| {
        match expression {
            Expr::Cast { data_type, .. } | Expr::TypedString(TypedString { data_type, .. }) => {
                spell_type(data_type);
            }
            Expr::UnaryOp { .. } => bind_sign(expression),
            Expr::Value(value) => {
                if let Value::Number(text, _) = &value.value {
                    let span = value.span;
                    match plain(text) {
                        Some(spelled) if spelled == *text => {}
                        Some(spelled) => {
                            *expression = Expr::Value(Value::Number(spelled, false).with_span(span))
                        }
                        None => {
                            let text = Value::SingleQuotedString(text.replace('_', ""));
                            *expression = Expr::Cast {
                                kind: CastKind::Cast,
                                expr: Box::new(Expr::Value(text.with_span(span))),
                                data_type: DataType::Double(ExactNumberInfo::None),
                                array: false,
                                format: None,
                            };
                        }
                    }
                }
            }
            _ => {}
        }
        ControlFlow::<()>::Continue(())
    });
}

fn spell_type(data_type: &mut DataType) {
    let any_digits = ExactNumberInfo::PrecisionAndScale(ANY_DIGITS.0, ANY_DIGITS.1);
    match data_type {
        DataType::Timestamp(precision @ None, _) => *precision = Some(MICROS),
        DataType::Float(ExactNumberInfo::None) => *data_type = DataType::DoublePrecision,
        DataType::Float(ExactNumberInfo::Precision(bits)) => match *bits {
            1..=REAL_BITS => *data_type = DataType::Real,
            bits if (1..=MOST_BITS).contains(&bits) => *data_type = DataType::DoublePrecision,
            _ => {}
        },
        DataType::Numeric(digits) | DataType::Decimal(digits) if *digits == ExactNumberInfo::None => {
            *digits = any_digits;
        }
        _ => {}
    }
}

/// A sign binds more tightly than `^`: `-2 ^ 2` is 4. The parser has it the other way round.
fn bind_sign(expression: &mut Expr) {
    let Expr::UnaryOp { op, expr } = expression else { return };
    let is_power = matches!(&**expr, Expr::BinaryOp { op: BinaryOperator::PGExp, .. });
    if is_power && matches!(op, UnaryOperator::Minus | UnaryOperator::Plus) {
        let (op, mut power) = (*op, std::mem::replace(&mut **expr, nothing()));
        sign_base(&mut power, op);
        *expression = power;
    }
}

fn sign_base(base: &mut Expr, op: UnaryOperator) {
    match base {
        Expr::BinaryOp { left, op: BinaryOperator::PGExp, .. } => sign_base(left, op),
        base => {
            let expr = Box::new(std::mem::replace(base, nothing()));
            *base = Expr::UnaryOp { op, expr };
        }
    }
}

fn nothing() -> Expr {
    Expr::value(Value::Null)
}

/// A number with a point or an exponent in digits and a point; None when no decimal has room for it.
pub(super) fn plain(text: &str) -> Option<String> {
    let text = text.replace('_', "");
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().ok()?),
        None => (text.as_str(), 0),
    };
    if exponent == 0 && !mantissa.contains('.') && mantissa.len() == text.len() {
        return (mantissa.trim_start_matches('0').len() <= MAX_DIGITS).then(|| text.clone());
    }
    let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{part}");
    let point = i64::try_from(whole.len()).ok()?.checked_add(exponent)?;
    let most = i64::try_from(MAX_DIGITS).ok()?;
    if point.abs() > most.checked_add(i64::try_from(digits.len()).ok()?)? {
        return None;
    }
    let (whole, part) = match usize::try_from(point) {
        Ok(point) if point <= digits.len() => (digits[..point].to_owned(), digits[point..].to_owned()),
        Ok(point) => (digits.clone() + &"0".repeat(point - digits.len()), String::new()),
        Err(_) => (String::new(), "0".repeat(usize::try_from(-point).ok()?) + &digits),
    };
    let whole = match whole.trim_start_matches('0') {
        "" => "0",
        whole => whole,
    };
    let part = if part.is_empty() { "0" } else { &part };
    (whole.len() + part.len() <= MAX_DIGITS).then(|| format!("{whole}.{part}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_out_where_a_decimal_has_room() {
        for (text, expected) in [
            ("7", Some("7")),
            ("1_000", Some("1000")),
            ("1.50", Some("1.50")),
            ("1.", Some("1.0")),
            (".5", Some("0.5")),
            ("1e3", Some("1000.0")),
            ("1.25E1", Some("12.5")),
            ("12.5e-3", Some("0.0125")),
            ("0e0", Some("0.0")),
            ("1e36", Some("1000000000000000000000000000000000000.0")),
            ("1e37", None),
            ("1e-37", Some("0.0000000000000000000000000000000000001")),
            ("1e-38", None),
            ("1e300", None),
            ("1e-9223372036854775808", None),
            ("1e99999999999999999999", None),
            ("123456789012345678901234567890123456789", None),
        ] {
            assert_eq!(plain(text).as_deref(), expected, "{text}");
        }
    }
}
