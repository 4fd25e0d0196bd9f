//! Names of column types: what `columns = { ts = "timestamp" }` may say, and what `__schemas` stores. Frozen.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, IntervalUnit, TimeUnit};

use crate::config::suggest;

/// The zone of all timestamps with a zone. An offset, since a name would need a zone database.
pub const UTC: &str = "+00:00";

/// Most digits that a `decimal` holds.
const MAX_DECIMAL_DIGITS: u8 = 38;
/// How deep lists and structs may be nested in a name.
const MAX_DEPTH: usize = 16;

/// Makes a type.
type Make = fn() -> DataType;

/// Types whose name is one word. The first name of a type is the one that [`type_name`] writes.
const SIMPLE: &[(&str, Make)] = &[
    ("boolean", || DataType::Boolean),
    ("int8", || DataType::Int8),
    ("int16", || DataType::Int16),
    ("int32", || DataType::Int32),
    ("int64", || DataType::Int64),
    ("uint8", || DataType::UInt8),
    ("uint16", || DataType::UInt16),
    ("uint32", || DataType::UInt32),
    ("uint64", || DataType::UInt64),
    ("float16", || DataType::Float16),
    ("float32", || DataType::Float32),
    ("float64", || DataType::Float64),
    ("string", || DataType::Utf8),
    ("large_string", || DataType::LargeUtf8),
    ("string_view", || DataType::Utf8View),
    ("binary", || DataType::Binary),
    ("large_binary", || DataType::LargeBinary),
    ("binary_view", || DataType::BinaryView),
    ("date", || DataType::Date32),
    ("date64", || DataType::Date64),
    ("time", || DataType::Time64(TimeUnit::Microsecond)),
    ("time(s)", || DataType::Time32(TimeUnit::Second)),
    ("time(ms)", || DataType::Time32(TimeUnit::Millisecond)),
    ("time(ns)", || DataType::Time64(TimeUnit::Nanosecond)),
    ("timestamp", || DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into()))),
    ("timestamp(s)", || DataType::Timestamp(TimeUnit::Second, Some(UTC.into()))),
    ("timestamp(ms)", || DataType::Timestamp(TimeUnit::Millisecond, Some(UTC.into()))),
    ("timestamp(ns)", || DataType::Timestamp(TimeUnit::Nanosecond, Some(UTC.into()))),
    ("datetime", || DataType::Timestamp(TimeUnit::Microsecond, None)),
    ("datetime(s)", || DataType::Timestamp(TimeUnit::Second, None)),
    ("datetime(ms)", || DataType::Timestamp(TimeUnit::Millisecond, None)),
    ("datetime(ns)", || DataType::Timestamp(TimeUnit::Nanosecond, None)),
    ("duration(s)", || DataType::Duration(TimeUnit::Second)),
    ("duration(ms)", || DataType::Duration(TimeUnit::Millisecond)),
    ("duration(us)", || DataType::Duration(TimeUnit::Microsecond)),
    ("duration(ns)", || DataType::Duration(TimeUnit::Nanosecond)),
    ("interval", || DataType::Interval(IntervalUnit::MonthDayNano)),
    ("null", || DataType::Null),
    // Other words for the same.
    ("bool", || DataType::Boolean),
    ("int", || DataType::Int64),
    ("integer", || DataType::Int64),
    ("bigint", || DataType::Int64),
    ("smallint", || DataType::Int16),
    ("float", || DataType::Float64),
    ("double", || DataType::Float64),
    ("real", || DataType::Float32),
    ("text", || DataType::Utf8),
    ("varchar", || DataType::Utf8),
    ("bytes", || DataType::Binary),
    ("timestamptz", || DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into()))),
];

/// The type that `text` names: a word such as `int64`, `decimal(10,2)`, `list<string>` or `struct<a:int64,b:string>`.
///
/// # Errors
/// What is wrong with the name, with a suggestion where one is near.
pub fn parse_type(text: &str) -> Result<DataType, String> {
    parse_at(text.trim(), 0)
}

fn parse_at(text: &str, depth: usize) -> Result<DataType, String> {
    if depth > MAX_DEPTH {
        return Err(format!("a type may be nested {MAX_DEPTH} deep at most"));
    }
    let lower = text.to_ascii_lowercase();
    if let Some((_, make)) = SIMPLE.iter().find(|(name, _)| *name == lower) {
        return Ok(make());
    }
    if let Some(inside) = lower.strip_prefix("decimal(").and_then(|rest| rest.strip_suffix(')')) {
        return parse_decimal(text, inside);
    }
    if let Some(inside) = between(text, "list<", ">") {
        let item = parse_at(inside.trim(), depth + 1)?;
        return Ok(DataType::List(Arc::new(Field::new_list_field(item, true))));
    }
    if let Some(inside) = between(text, "struct<", ">") {
        let fields = split_top(inside).into_iter().map(|part| {
            let (name, data_type) =
                part.split_once(':').ok_or_else(|| format!("'{part}' in '{text}' is not name:type"))?;
            Ok(Field::new(name.trim(), parse_at(data_type.trim(), depth + 1)?, true))
        });
        return Ok(DataType::Struct(fields.collect::<Result<Fields, String>>()?));
    }
    let names = SIMPLE.iter().map(|(name, _)| *name).chain(["decimal(p,s)", "list<t>", "struct<n:t>"]);
    match suggest(&lower, names) {
        Some(near) => Err(format!("unknown type '{text}'; did you mean '{near}'?")),
        None => Err(format!(
            "unknown type '{text}'; types are boolean, int8 to int64, uint8 to uint64, float32, float64, decimal(p,s), string, \
             binary, date, time, timestamp, datetime, list<t>, struct<name:t>"
        )),
    }
}

fn parse_decimal(text: &str, inside: &str) -> Result<DataType, String> {
    let (precision, scale) = inside.split_once(',').unwrap_or((inside, "0"));
    let wrong = || format!("'{text}' is not decimal(precision,scale) with 1 to {MAX_DECIMAL_DIGITS} digits");
    let precision: u8 = precision.trim().parse().map_err(|_| wrong())?;
    let scale: i8 = scale.trim().parse().map_err(|_| wrong())?;
    if precision == 0 || precision > MAX_DECIMAL_DIGITS || i16::from(scale) > i16::from(precision) {
        return Err(wrong());
    }
    Ok(DataType::Decimal128(precision, scale))
}

fn between<'a>(text: &'a str, open: &str, close: &str) -> Option<&'a str> {
    let head = text.get(..open.len())?;
    if !head.eq_ignore_ascii_case(open) {
        return None;
    }
    text.get(open.len()..)?.strip_suffix(close)
}

/// Splits at the commas that stand outside of brackets.
fn split_top(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut from) = (Vec::new(), 0i32, 0);
    for (at, c) in text.char_indices() {
        match c {
            '<' | '(' => depth += 1,
            '>' | ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[from..]);
    parts
}

/// The name of `data_type`, which [`parse_type`] reads back. Types that have no name of their own (maps, unions, dictionaries)
/// get the name of what they hold as text; connectors do not yield those.
pub fn type_name(data_type: &DataType) -> String {
    if let Some((name, _)) = SIMPLE.iter().find(|(_, make)| make() == *data_type) {
        return (*name).to_owned();
    }
    match data_type {
        DataType::Decimal128(precision, scale) => format!("decimal({precision},{scale})"),
        DataType::List(item) => format!("list<{}>", type_name(item.data_type())),
        DataType::Struct(fields) => {
            let fields: Vec<_> =
                fields.iter().map(|f| format!("{}:{}", f.name(), type_name(f.data_type()))).collect();
            format!("struct<{}>", fields.join(","))
        }
        DataType::Dictionary(_, value) => type_name(value),
        DataType::Timestamp(unit, Some(_)) => type_name(&DataType::Timestamp(*unit, Some(UTC.into()))),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_back() {
        for (name, make) in SIMPLE {
            assert_eq!(parse_type(name), Ok(make()), "{name}");
            assert_eq!(parse_type(&type_name(&make())), Ok(make()), "{name}");
        }
        for name in
            ["decimal(10,2)", "list<list<int64>>", "struct<a:int64,b:list<decimal(3,1)>,c:struct<d:date>>"]
        {
            assert_eq!(type_name(&parse_type(name).unwrap()), name);
        }
    }

    #[test]
    fn a_wrong_name_says_what_would_be_right() {
        for (name, expected) in [
            ("strng", "unknown type 'strng'; did you mean 'string'?"),
            ("decimal(0,0)", "'decimal(0,0)' is not decimal(precision,scale) with 1 to 38 digits"),
            ("decimal(3,4)", "'decimal(3,4)' is not decimal(precision,scale) with 1 to 38 digits"),
            ("struct<a>", "'a' in 'struct<a>' is not name:type"),
        ] {
            assert_eq!(parse_type(name).unwrap_err(), expected);
        }
        assert!(parse_type(&"list<".repeat(100)).is_err());
        assert!(parse_type(&format!("{}int64{}", "list<".repeat(100), ">".repeat(100))).is_err());
    }
}
