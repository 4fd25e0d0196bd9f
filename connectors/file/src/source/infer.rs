//! Types of columns from a sample. What is inferred is then fixed: later values that do not fit are bad records.

use std::sync::Arc;

use arrow::array::types::{Date32Type, Float64Type, Int64Type, TimestampNanosecondType};
use arrow::compute::kernels::cast_utils::Parser;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use millstream_connect_api::types::UTC;

use super::columns::parse_boolean;

/// The types that every value so far could be, narrowest first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Candidates(u8);

const BOOLEAN: u8 = 1;
const INTEGER: u8 = 1 << 1;
const FLOAT: u8 = 1 << 2;
const DATE: u8 = 1 << 3;
const INSTANT: u8 = 1 << 4;
const DATETIME: u8 = 1 << 5;

impl Candidates {
    fn of(text: &str) -> Self {
        let text = text.trim_ascii();
        let digits = text.strip_prefix('-').unwrap_or(text);
        // 007 is a code, not a number; "inf" and "nan" are words.
        let number = digits.starts_with(|c: char| c.is_ascii_digit())
            && !(digits.len() > 1 && digits.starts_with('0') && !digits.starts_with("0."));
        let mut found = 0;
        found |= if parse_boolean(text).is_some() { BOOLEAN } else { 0 };
        found |= if number && Int64Type::parse(text).is_some() { INTEGER | FLOAT } else { 0 };
        found |= if number && Float64Type::parse(text).is_some() { FLOAT } else { 0 };
        if text.len() == 10 && text.as_bytes().get(4) == Some(&b'-') && Date32Type::parse(text).is_some() {
            found |= DATE;
        }
        if text.len() > 10
            && text.as_bytes().get(4) == Some(&b'-')
            && TimestampNanosecondType::parse(text).is_some()
        {
            let time = text.get(11..).unwrap_or_default();
            let zoned = time.ends_with(['Z', 'z']) || time.contains(['+', '-']);
            found |= if zoned { INSTANT } else { DATETIME };
        }
        Self(found)
    }

    fn data_type(self) -> DataType {
        [
            (BOOLEAN, DataType::Boolean),
            (INTEGER, DataType::Int64),
            (FLOAT, DataType::Float64),
            (DATE, DataType::Date32),
            (INSTANT, DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into()))),
            (DATETIME, DataType::Timestamp(TimeUnit::Microsecond, None)),
        ]
        .into_iter()
        .find(|(bit, _)| self.0 & bit != 0)
        .map_or(DataType::Utf8, |(_, data_type)| data_type)
    }
}

/// The schema of CSV with these columns and sampled records; a column without values is text.
pub(super) fn csv_schema(header: &[String], records: impl Iterator<Item = Vec<Option<String>>>) -> SchemaRef {
    let mut candidates: Vec<Option<Candidates>> = vec![None; header.len()];
    for record in records.filter(|record| record.len() == header.len()) {
        for (candidate, value) in candidates.iter_mut().zip(record) {
            let Some(value) = value else { continue };
            let of_value = Candidates::of(&value);
            let narrowed = candidate.map_or(of_value.0, |so_far| so_far.0 & of_value.0);
            *candidate = Some(Candidates(narrowed));
        }
    }
    let field = |(name, candidate): (&String, Option<Candidates>)| {
        Field::new(name, candidate.map_or(DataType::Utf8, Candidates::data_type), true)
    };
    Arc::new(Schema::new(header.iter().zip(candidates).map(field).collect::<Vec<_>>()))
}

/// The schema of NDJSON with these sampled lines; lines that are no JSON objects are passed over.
pub(super) fn json_schema<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Result<SchemaRef, String> {
    let objects = lines.filter_map(|line| serde_json::from_slice::<serde_json::Value>(line).ok());
    let objects = objects.filter(serde_json::Value::is_object).map(Ok);
    let schema =
        arrow_json::reader::infer_json_schema_from_iterator(objects).map_err(|error| error.to_string())?;
    if schema.fields().is_empty() {
        return Err("the sample has no JSON object with a key".into());
    }
    Ok(Arc::new(schema))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types() {
        let timestamp = DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into()));
        let datetime = DataType::Timestamp(TimeUnit::Microsecond, None);
        for (values, expected) in [
            (&[Some("1"), None, Some("-5")][..], DataType::Int64),
            (&[Some("1"), Some("2.5"), Some("1e3")], DataType::Float64),
            (&[Some("007"), Some("8")], DataType::Utf8),
            (&[Some("0"), Some("0.5")], DataType::Float64),
            (&[Some("true"), Some("FALSE")], DataType::Boolean),
            (&[Some("2013-01-01")], DataType::Date32),
            (&[Some("2013-01-01T10:00:00Z"), Some("2013-01-01 10:00:00+02:00")], timestamp),
            (&[Some("2013-01-01 10:00:00")], datetime),
            (&[Some("2013-01-01"), Some("2013-01-01T10:00:00Z")], DataType::Utf8),
            (&[Some("1"), Some("x")], DataType::Utf8),
            (&[Some("nan"), Some("inf")], DataType::Utf8),
            (&[None], DataType::Utf8),
            (&[], DataType::Utf8),
        ] {
            let records = values.iter().map(|value| vec![value.map(str::to_owned)]);
            let schema = csv_schema(&["c".into()], records);
            assert_eq!(schema.field(0).data_type(), &expected, "{values:?}");
        }
    }

    #[test]
    fn json() {
        let lines = [&b"{\"a\":1,\"b\":\"x\"}"[..], b"oops", b"{\"a\":2.5,\"c\":[true]}"];
        let schema = json_schema(lines.into_iter()).unwrap();
        let names: Vec<_> =
            schema.fields().iter().map(|f| format!("{} {}", f.name(), f.data_type())).collect();
        assert_eq!(names, ["a Float64", "b Utf8", "c List(Boolean)"]);
        assert!(json_schema([&b"[]"[..]].into_iter()).is_err());
    }
}
