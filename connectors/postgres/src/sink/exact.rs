//! Which pairs of types lose: Postgres rounds or cuts a value on its way into the column, and says nothing.
//!
//! What it refuses by itself (a number out of range, a text too long, no such cast) is not of concern here: that is an error of the row, or
//! of the statement. Texts are read by the column's type, whatever that makes of them.

use arrow::datatypes::{DataType, TimeUnit};

use crate::types::PgType;

/// Digits that each number of a floating type keeps there and back (`FLT_DIG`, `DBL_DIG`), and bits of whole numbers.
const REAL: (u8, u8) = (6, 24);
const DOUBLE: (u8, u8) = (15, 53);
/// Digits of a fraction of a second that Postgres keeps.
const MICROSECONDS: i32 = 6;
/// In the modifier of an interval: its least field is the second.
const INTERVAL_SECOND: i32 = 1 << 12;
/// Header of a numeric's modifier.
const NUMERIC_HEADER: i32 = 4;

/// Whether values of `data_type` lose in a column of type `base` (what a domain stands on, without its length) with that modifier.
pub(super) fn loses(data_type: &DataType, base: &str, modifier: i32) -> bool {
    if let DataType::Dictionary(_, value) = data_type {
        return loses(value, base, modifier);
    }
    let is_integer = matches!(base, "smallint" | "integer" | "bigint");
    match PgType::of(data_type) {
        Some(PgType::SmallInt | PgType::Integer | PgType::BigInt) => match base {
            "real" => bits(data_type) > REAL.1,
            "double precision" => bits(data_type) > DOUBLE.1,
            "numeric" => scale(modifier).is_some_and(|scale| scale < 0),
            "boolean" | "bit" => true,
            _ => false,
        },
        Some(PgType::Numeric(precision, from)) => match base {
            "real" => precision > REAL.0,
            "double precision" => precision > DOUBLE.0,
            "numeric" => scale(modifier).is_some_and(|scale| scale < i32::from(from)),
            "money" => from > 2,
            _ => is_integer && from > 0,
        },
        Some(PgType::Real) => is_integer || base == "numeric", // six digits
        Some(PgType::Double) => is_integer || matches!(base, "numeric" | "real"), // fifteen digits
        Some(PgType::Timestamp | PgType::TimestampTz) => match base {
            "date" | "time without time zone" | "time with time zone" => true,
            "timestamp without time zone" | "timestamp with time zone" => cuts(data_type, modifier),
            _ => false,
        },
        Some(PgType::Time) => match base {
            "time without time zone" | "time with time zone" => cuts(data_type, modifier),
            "interval" => cuts_interval(data_type, modifier),
            _ => false,
        },
        Some(PgType::Interval) => match base {
            "time without time zone" => true, // whole days
            "interval" => cuts_interval(data_type, modifier),
            _ => false,
        },
        Some(PgType::Text) => matches!(base, "name" | "\"char\""),
        _ => false,
    }
}

/// Bits of the largest whole number.
fn bits(data_type: &DataType) -> u8 {
    match data_type {
        DataType::Int8 | DataType::UInt8 => 8,
        DataType::Int16 | DataType::UInt16 => 16,
        DataType::Int32 | DataType::UInt32 => 32,
        _ => 64,
    }
}

/// The scale of a numeric column; none when it keeps every digit.
fn scale(modifier: i32) -> Option<i32> {
    // Eleven bits with a sign, since Postgres 15; before, a scale had no sign and was as small.
    (modifier >= NUMERIC_HEADER).then(|| (((modifier - NUMERIC_HEADER) & 0x7ff) ^ 0x400) - 0x400)
}

/// Whether a column that keeps `modifier` digits of a second (-1: all) cuts values of this unit.
fn cuts(data_type: &DataType, modifier: i32) -> bool {
    let digits = match data_type {
        DataType::Time32(unit)
        | DataType::Time64(unit)
        | DataType::Timestamp(unit, _)
        | DataType::Duration(unit) => unit,
        _ => return false,
    };
    let digits = match digits {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 3,
        TimeUnit::Microsecond | TimeUnit::Nanosecond => MICROSECONDS,
    };
    (0..digits).contains(&modifier)
}

fn cuts_interval(data_type: &DataType, modifier: i32) -> bool {
    modifier >= 0 && ((modifier >> 16) & INTERVAL_SECOND == 0 || cuts(data_type, modifier & 0xffff))
}
