//! Which Postgres type holds which Arrow type.
//!
//! | Arrow | Postgres |
//! | --- | --- |
//! | Boolean | boolean |
//! | Int8, Int16, UInt8 | smallint |
//! | Int32, UInt16 | integer |
//! | Int64, UInt32 | bigint |
//! | UInt64 | numeric(20,0) |
//! | Float16, Float32 | real |
//! | Float64 | double precision |
//! | Decimal128(p, s), s from 0 | numeric(p,s) |
//! | strings | text |
//! | binaries | bytea |
//! | Date32, Date64 | date |
//! | Time32, Time64 | time (microseconds; nanoseconds are cut) |
//! | Timestamp with a zone | timestamptz (microseconds; nanoseconds are cut) |
//! | Timestamp without one | timestamp (as above) |
//! | Duration | interval |
//! | List, Struct | jsonb |

use arrow::datatypes::DataType;

/// A Postgres type that values are written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PgType {
    /// `boolean`
    Boolean,
    /// `smallint`
    SmallInt,
    /// `integer`
    Integer,
    /// `bigint`
    BigInt,
    /// `real`
    Real,
    /// `double precision`
    Double,
    /// `numeric(precision,scale)`
    Numeric(u8, u8),
    /// `text`
    Text,
    /// `bytea`
    Bytea,
    /// `date`
    Date,
    /// `time`
    Time,
    /// `timestamp`
    Timestamp,
    /// `timestamptz`
    TimestampTz,
    /// `interval`
    Interval,
    /// `jsonb`
    Jsonb,
}

impl PgType {
    /// The type that holds values of `data_type`, if there is one.
    pub fn of(data_type: &DataType) -> Option<Self> {
        Some(match data_type {
            DataType::Boolean => Self::Boolean,
            DataType::Int8 | DataType::Int16 | DataType::UInt8 => Self::SmallInt,
            DataType::Int32 | DataType::UInt16 => Self::Integer,
            DataType::Int64 | DataType::UInt32 => Self::BigInt,
            DataType::UInt64 => Self::Numeric(20, 0),
            DataType::Float16 | DataType::Float32 => Self::Real,
            DataType::Float64 => Self::Double,
            DataType::Decimal128(precision, scale) => Self::Numeric(*precision, u8::try_from(*scale).ok()?),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Self::Text,
            DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView
            | DataType::FixedSizeBinary(_) => Self::Bytea,
            DataType::Date32 | DataType::Date64 => Self::Date,
            DataType::Time32(_) | DataType::Time64(_) => Self::Time,
            DataType::Timestamp(_, Some(_)) => Self::TimestampTz,
            DataType::Timestamp(_, None) => Self::Timestamp,
            DataType::Duration(_) => Self::Interval,
            DataType::List(_) | DataType::LargeList(_) | DataType::Struct(_) => Self::Jsonb,
            DataType::Dictionary(_, value) => return Self::of(value),
            _ => return None,
        })
    }

    /// The name in SQL, as `format_type` writes it.
    pub fn sql(self) -> String {
        match self {
            Self::Boolean => "boolean".into(),
            Self::SmallInt => "smallint".into(),
            Self::Integer => "integer".into(),
            Self::BigInt => "bigint".into(),
            Self::Real => "real".into(),
            Self::Double => "double precision".into(),
            Self::Numeric(precision, scale) => format!("numeric({precision},{scale})"),
            Self::Text => "text".into(),
            Self::Bytea => "bytea".into(),
            Self::Date => "date".into(),
            Self::Time => "time without time zone".into(),
            Self::Timestamp => "timestamp without time zone".into(),
            Self::TimestampTz => "timestamp with time zone".into(),
            Self::Interval => "interval".into(),
            Self::Jsonb => "jsonb".into(),
        }
    }
}

/// A name in double quotes, fit for SQL.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as a literal, fit for SQL whatever `standard_conforming_strings` says.
pub(crate) fn literal(text: &str) -> String {
    let escape = if text.contains('\\') { "E" } else { "" };
    format!("{escape}'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{Field, TimeUnit};

    use super::*;

    #[test]
    fn every_type_has_its_place_or_none() {
        for (data_type, expected) in [
            (DataType::Boolean, Some("boolean")),
            (DataType::UInt8, Some("smallint")),
            (DataType::UInt16, Some("integer")),
            (DataType::UInt32, Some("bigint")),
            (DataType::UInt64, Some("numeric(20,0)")),
            (DataType::Decimal128(10, 2), Some("numeric(10,2)")),
            (DataType::Decimal128(10, -2), None),
            (DataType::Utf8View, Some("text")),
            (DataType::Timestamp(TimeUnit::Nanosecond, None), Some("timestamp without time zone")),
            (DataType::Timestamp(TimeUnit::Second, Some("+00:00".into())), Some("timestamp with time zone")),
            (DataType::List(Arc::new(Field::new_list_field(DataType::Int64, true))), Some("jsonb")),
            (DataType::Null, None),
        ] {
            assert_eq!(PgType::of(&data_type).map(PgType::sql).as_deref(), expected, "{data_type}");
        }
        assert_eq!(quoted("a\"b"), "\"a\"\"b\"");
        assert_eq!((literal("it's"), literal("\\")), ("'it''s'".into(), "E'\\\\'".into()));
    }
}
