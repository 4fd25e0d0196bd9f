//! Types of columns from a sample. What is inferred is then fixed: later values that do not fit are bad records.

use std::sync::Arc;

use arrow::array::types::{Date32Type, Int64Type, TimestampNanosecondType};
use arrow::array::{ArrayRef, AsArray};
use arrow::compute::kernels::cast_utils::Parser;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use bytes::Bytes;
use millstream_connect_api::convert::{Converter, JsonConverter, exact};
use millstream_connect_api::types::UTC;

use super::columns::parse_boolean;

/// The types that every value so far could be, narrowest first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Candidates(u8);

/// A mark that some programs write at the beginning of a file.
const BOM: &[u8] = b"\xef\xbb\xbf";

const BOOLEAN: u8 = 1;
const INTEGER: u8 = 1 << 1;
const FLOAT: u8 = 1 << 2;
const DATE: u8 = 1 << 3;
const INSTANT: u8 = 1 << 4;
const DATETIME: u8 = 1 << 5;
/// No part of a second is finer than a microsecond.
const MICROS: u8 = 1 << 6;

impl Candidates {
    fn of(text: &str) -> Self {
        let text = text.trim_ascii();
        let digits = text.strip_prefix('-').unwrap_or(text);
        // 007 is a code, not a number; "inf" and "nan" are words.
        let number = digits.starts_with(|c: char| c.is_ascii_digit())
            && !(digits.len() > 1 && digits.starts_with('0') && !digits.starts_with("0."));
        let mut found = 0;
        found |= if parse_boolean(text).is_some() { BOOLEAN } else { 0 };
        found |= if number && Int64Type::parse(text).is_some() { INTEGER } else { 0 };
        // Not a whole number that a float would make another one of: ids are such.
        found |= if number && exact::float64(text).is_some() { FLOAT } else { 0 };
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
            found |= if exact::fits_unit(text, TimeUnit::Microsecond) { MICROS } else { 0 };
        }
        Self(found)
    }

    fn data_type(self) -> DataType {
        let unit = if self.0 & MICROS == 0 { TimeUnit::Nanosecond } else { TimeUnit::Microsecond };
        [
            (BOOLEAN, DataType::Boolean),
            (INTEGER, DataType::Int64),
            (FLOAT, DataType::Float64),
            (DATE, DataType::Date32),
            (INSTANT, DataType::Timestamp(unit, Some(UTC.into()))),
            (DATETIME, DataType::Timestamp(unit, None)),
        ]
        .into_iter()
        .find(|(bit, _)| self.0 & bit != 0)
        .map_or(DataType::Utf8, |(_, data_type)| data_type)
    }
}

/// The schema of CSV with these columns and sampled records, and the columns without a value: they are text.
pub(super) fn csv_schema(
    header: &[String],
    records: impl Iterator<Item = Vec<Option<String>>>,
) -> (SchemaRef, Vec<String>) {
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
    let empty = header.iter().zip(&candidates).filter(|(_, candidate)| candidate.is_none());
    let empty = empty.map(|(name, _)| name.clone()).collect();
    (Arc::new(Schema::new(header.iter().zip(candidates).map(field).collect::<Vec<_>>())), empty)
}

/// The schema of NDJSON with these sampled lines; lines that are no JSON objects are passed over.
pub(super) fn json_schema(lines: impl Iterator<Item = Bytes>) -> Result<SchemaRef, String> {
    let object = |line: Bytes| {
        let line = if line.starts_with(BOM) { line.slice(BOM.len()..) } else { line };
        let value = serde_json::from_slice::<serde_json::Value>(&line).ok()?;
        value.is_object().then_some((line, value))
    };
    let (lines, objects): (Vec<_>, Vec<_>) = lines.filter_map(object).unzip();
    let schema = arrow_json::reader::infer_json_schema_from_iterator(objects.into_iter().map(Ok))
        .map_err(|error| error.to_string())?;
    if schema.fields().is_empty() {
        return Err("the sample has no JSON object with a key".into());
    }
    floats_that_lose_nothing(schema, &lines)
}

/// Why a line is no JSON object.
pub(super) fn no_object(line: &[u8]) -> Option<String> {
    match serde_json::from_slice::<serde_json::Value>(line.strip_prefix(BOM).unwrap_or(line)) {
        Ok(serde_json::Value::Object(_)) => None,
        Ok(_) => Some("the line is JSON, but no object".into()),
        Err(error) => {
            Some(format!("the line is no JSON: {error}").replace(" at line 1 column", " at column"))
        }
    }
}

/// Has columns be text where the sample has whole numbers that a float would make other ones of.
fn floats_that_lose_nothing(schema: Schema, lines: &[Bytes]) -> Result<SchemaRef, String> {
    let texts: Vec<FieldRef> = schema.fields().iter().map(as_text).collect();
    let texts = Arc::new(Schema::new(texts));
    // Lines that do not fit the inferred types are left out here, and will be bad records.
    let decoded = JsonConverter.decode(&texts, lines).map_err(|error| error.to_string())?;
    let fields = schema.fields().iter().zip(decoded.rows.columns());
    Ok(Arc::new(Schema::new(fields.map(|(field, texts)| keep_digits(field, texts)).collect::<Vec<_>>())))
}

/// The field with texts in place of floats: they take numbers as they are written.
fn as_text(field: &FieldRef) -> FieldRef {
    let data_type = match field.data_type() {
        DataType::Float64 => DataType::Utf8,
        DataType::List(item) => DataType::List(as_text(item)),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(as_text).collect()),
        other => other.clone(),
    };
    Arc::new(Field::clone(field).with_data_type(data_type))
}

fn keep_digits(field: &FieldRef, texts: &ArrayRef) -> FieldRef {
    let data_type = match field.data_type() {
        DataType::Float64 => {
            let mut texts = texts.as_string::<i32>().iter().flatten();
            if texts.all(|text| exact::float64(text).is_some()) { DataType::Float64 } else { DataType::Utf8 }
        }
        DataType::List(item) => DataType::List(keep_digits(item, texts.as_list::<i32>().values())),
        DataType::Struct(fields) => {
            let columns = texts.as_struct().columns();
            DataType::Struct(
                fields.iter().zip(columns).map(|(field, texts)| keep_digits(field, texts)).collect(),
            )
        }
        other => other.clone(),
    };
    Arc::new(Field::clone(field).with_data_type(data_type))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types() {
        let timestamp = DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into()));
        let datetime = DataType::Timestamp(TimeUnit::Microsecond, None);
        let nanos = DataType::Timestamp(TimeUnit::Nanosecond, Some(UTC.into()));
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
            (&[Some("9007199254740993"), Some("1")], DataType::Int64),
            (&[Some("9007199254740993"), Some("1.5")], DataType::Utf8),
            (&[Some("9007199254740992"), Some("1.5")], DataType::Float64),
            (&[Some("12345678901234567890")], DataType::Utf8),
            (&[Some("1e300"), Some("0.1")], DataType::Float64),
            (&[Some("1e400")], DataType::Utf8),
            (&[Some("2013-01-01T10:00:00.123456Z"), Some("2013-01-01T10:00:00.1234567Z")], nanos),
            (&[Some("nan"), Some("inf")], DataType::Utf8),
            (&[None], DataType::Utf8),
            (&[], DataType::Utf8),
        ] {
            let records = values.iter().map(|value| vec![value.map(str::to_owned)]);
            let (schema, empty) = csv_schema(&["c".into()], records);
            assert_eq!(empty.is_empty(), values.iter().any(Option::is_some), "{values:?}");
            assert_eq!(schema.field(0).data_type(), &expected, "{values:?}");
        }
    }

    fn types_of(lines: &[&'static str]) -> Result<Vec<String>, String> {
        let schema = json_schema(lines.iter().map(|line| Bytes::from_static(line.as_bytes())))?;
        Ok(schema.fields().iter().map(|f| format!("{} {}", f.name(), f.data_type())).collect())
    }

    #[test]
    fn json() {
        let types = types_of(&[r#"{"a":1,"b":"x"}"#, "oops", r#"{"a":2.5,"c":[true]}"#]).unwrap();
        assert_eq!(types, ["a Float64", "b Utf8", "c List(Boolean)"]);
        assert!(types_of(&["[]"]).is_err());
        assert_eq!(types_of(&["\u{feff}{\"a\":1}"]).unwrap(), ["a Int64"]);
        assert_eq!(no_object(b"[1]").unwrap(), "the line is JSON, but no object");
        assert_eq!(no_object(b"{'a': 1}").unwrap(), "the line is no JSON: key must be a string at column 2");
        assert_eq!(no_object(b"{}"), None);
    }

    #[test]
    fn json_numbers_that_a_float_would_round_are_text() {
        for (lines, expected) in [
            (&[r#"{"a":9007199254740993}"#][..], "a Int64"),
            (&[r#"{"a":9007199254740993}"#, r#"{"a":1.5}"#], "a Utf8"),
            (&[r#"{"a":18446744073709551615}"#, r#"{"a":1}"#], "a Utf8"),
            (&[r#"{"a":12345678901234567890}"#, "{}", r#"{"a":null}"#], "a Utf8"),
            (&[r#"{"a":12345678901234567000}"#], "a Float64"), // as JavaScript writes floats
            (&[r#"{"a":[1.5,18446744073709551615]}"#], "a List(Utf8)"),
            (&[r#"{"a":{"b":18446744073709551615}}"#], "a Struct(\"b\": Utf8)"),
        ] {
            assert_eq!(types_of(lines).unwrap(), [expected], "{lines:?}");
        }
    }
}
