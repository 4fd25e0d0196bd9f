//! Lengths of time. What two timestamps are apart is counted in microseconds, and an interval in months, days and nanoseconds: to compare
//! them, PostgreSQL takes a month for 30 days and a day for 24 hours.

use arrow::compute::kernels::cast_utils::parse_interval_month_day_nano;
use arrow::datatypes::{DataType, IntervalMonthDayNano, TimeUnit};
use datafusion_common::{DFSchema, DataFusionError, Result, ScalarValue};
use datafusion_expr::{BinaryExpr, Cast, Expr, ExprSchemable, Operator};

use super::{decimal, kinds};

const DAYS_A_MONTH: i128 = 30;
const MICROS_A_DAY: i128 = 86_400_000_000;
const NANOS_A_MICRO: i128 = 1_000;

fn is_length(of: &DataType) -> bool {
    matches!(of, DataType::Duration(_) | DataType::Interval(_))
}

/// Values that are compared with one another, intervals as what they are long.
///
/// # Errors
/// Where an interval is not known until a row comes.
pub(super) fn comparable(exprs: Vec<Expr>, schema: &DFSchema) -> Result<Vec<Expr>> {
    let types = exprs.iter().map(|expr| expr.get_type(schema)).collect::<Result<Vec<_>>>()?;
    if !types.iter().any(is_length) {
        return Ok(exprs);
    }
    let unit = match types.contains(&DataType::Duration(TimeUnit::Nanosecond)) {
        true => TimeUnit::Nanosecond,
        false => TimeUnit::Microsecond,
    };
    let convert = |(expr, of): (Expr, DataType)| match of {
        DataType::Duration(own) if own != unit => Ok(decimal::cast(expr, DataType::Duration(unit))),
        DataType::Interval(_) => length(&expr, unit),
        _ if kinds::is_quoted(&expr) => length(&expr, unit),
        _ => Ok(expr),
    };
    exprs.into_iter().zip(types).map(convert).collect()
}

/// A date as the timestamp of its first instant where an interval is added or taken, which may have hours, or where it is taken from a
/// timestamp, which DataFusion does in nanoseconds.
pub(super) fn from_midnight(binary: BinaryExpr, schema: &DFSchema) -> Result<BinaryExpr> {
    let BinaryExpr { mut left, op, mut right } = binary;
    if !matches!(op, Operator::Plus | Operator::Minus) {
        return Ok(BinaryExpr { left, op, right });
    }
    let (left_type, right_type) = (left.get_type(schema)?, right.get_type(schema)?);
    let is_date = |of: &DataType| matches!(of, DataType::Date32 | DataType::Date64);
    let midnight = |expr: Expr, beside: &DataType| match beside {
        DataType::Timestamp(..) => decimal::cast(expr, beside.clone()),
        _ => decimal::cast(expr, DataType::Timestamp(TimeUnit::Microsecond, None)),
    };
    let computes = |of: &DataType| is_length(of) || matches!(of, DataType::Timestamp(..));
    if is_date(&left_type) && computes(&right_type) {
        left = Box::new(midnight(*left, &right_type));
    } else if computes(&left_type) && is_date(&right_type) {
        right = Box::new(midnight(*right, &left_type));
    }
    Ok(BinaryExpr { left, op, right })
}

/// A quoted interval.
pub(super) fn quoted(text: &str) -> Option<Expr> {
    let interval = parse_interval_month_day_nano(text).ok()?;
    Some(Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(interval)), None))
}

fn length(expr: &Expr, unit: TimeUnit) -> Result<Expr> {
    if matches!(expr, Expr::Literal(value, _) if value.is_null()) {
        return Ok(Expr::Literal(ScalarValue::DurationMicrosecond(None), None));
    }
    let in_unit = match unit {
        TimeUnit::Nanosecond => micros(expr).and_then(|micros| micros.checked_mul(NANOS_A_MICRO)),
        _ => micros(expr),
    };
    let length = in_unit.and_then(|length| i64::try_from(length).ok()).ok_or_else(|| unknown(expr))?;
    let length = match unit {
        TimeUnit::Nanosecond => ScalarValue::DurationNanosecond(Some(length)),
        _ => ScalarValue::DurationMicrosecond(Some(length)),
    };
    Ok(Expr::Literal(length, None))
}

fn unknown(expr: &Expr) -> DataFusionError {
    let help =
        "compare with a constant, as INTERVAL '30 days', or compare timestamps: a > b + INTERVAL '1 month'";
    kinds::refused("an interval that is no constant cannot be compared", &[expr], help)
}

/// How long an interval of constants is.
fn micros(expr: &Expr) -> Option<i128> {
    match expr {
        Expr::Alias(alias) => micros(&alias.expr),
        Expr::Negative(expr) => micros(expr)?.checked_neg(),
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Plus, right }) => {
            micros(left)?.checked_add(micros(right)?)
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Minus, right }) => {
            micros(left)?.checked_sub(micros(right)?)
        }
        Expr::Cast(Cast { expr, field }) if is_length(field.data_type()) => micros(expr),
        Expr::Literal(value, _) => match value {
            ScalarValue::IntervalMonthDayNano(Some(interval)) => Some(total(*interval)),
            ScalarValue::IntervalYearMonth(Some(months)) => {
                Some(i128::from(*months) * DAYS_A_MONTH * MICROS_A_DAY)
            }
            ScalarValue::IntervalDayTime(Some(time)) => {
                Some(i128::from(time.days) * MICROS_A_DAY + i128::from(time.milliseconds) * 1_000)
            }
            ScalarValue::DurationMicrosecond(Some(micros)) => Some(i128::from(*micros)),
            ScalarValue::Utf8(Some(text)) => parse_interval_month_day_nano(text).ok().map(total),
            _ => None,
        },
        _ => None,
    }
}

fn total(interval: IntervalMonthDayNano) -> i128 {
    let days = i128::from(interval.months) * DAYS_A_MONTH + i128::from(interval.days);
    days * MICROS_A_DAY + i128::from(interval.nanoseconds) / NANOS_A_MICRO
}
