//! JSON objects to rows by the library, for what [`super::read`] does not read.
//!
//! The library makes of a number whatever a column holds: it cuts fractions, rounds, and takes a number for a time in the column's own unit.
//! So numbers and times are read twice: as what they should be, and as text. Their values are then those of [`exact`], or the row is bad.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, ListArray, PrimitiveArray, RecordBatch, StringArray, StructArray,
};
use arrow::compute::kernels::cast_utils::Parser;
use arrow::datatypes::*;
use arrow_json::ReaderBuilder;
use arrow_json::reader::Decoder;
use bytes::Bytes;

use super::not_finite;
use crate::convert::exact;
use crate::{ConnectError, Result};

/// All values at once. `None` when any of them is not exactly one row.
pub(super) fn decode(schema: &SchemaRef, values: &[Bytes]) -> Result<Option<RecordBatch>> {
    let Some(rows) = decode_as(schema, values)? else { return Ok(None) };
    let Some(text_schema) = text_schema(schema) else { return Ok(Some(rows)) };
    let Some(texts) = decode_as(&text_schema, values)? else { return Ok(None) };
    Ok(correct(&rows, &texts).ok())
}

/// One value, or why it is no row.
pub(super) fn decode_one(schema: &SchemaRef, value: &[u8]) -> Result<Result<RecordBatch, String>> {
    let rows = match decode_one_as(schema, value)? {
        Ok(rows) => rows,
        Err(reason) => return Ok(Err(reason)),
    };
    let Some(text_schema) = text_schema(schema) else { return Ok(Ok(rows)) };
    let texts = decode_one_as(&text_schema, value)?;
    Ok(texts.and_then(|texts| correct(&rows, &texts)))
}

fn decoder(schema: &SchemaRef, rows: usize) -> Result<Decoder> {
    ReaderBuilder::new(Arc::clone(schema))
        .with_batch_size(rows.max(1))
        .with_coerce_primitive(true) // a text takes a number as it is written
        .build_decoder()
        .map_err(|error| ConnectError::fatal("reading rows from JSON", error))
}

/// All values through one decoder of the library.
fn decode_as(schema: &SchemaRef, values: &[Bytes]) -> Result<Option<RecordBatch>> {
    let mut decoder = decoder(schema, values.len())?;
    for (at, value) in values.iter().enumerate() {
        match decoder.decode(value) {
            Ok(read) if read == value.len() && decoder.len() == at + 1 && !decoder.has_partial_record() => {}
            _ => return Ok(None),
        }
    }
    match decoder.flush() {
        Ok(rows) => Ok(Some(rows.unwrap_or_else(|| RecordBatch::new_empty(Arc::clone(schema))))),
        Err(_) => Ok(None),
    }
}

fn decode_one_as(schema: &SchemaRef, value: &[u8]) -> Result<Result<RecordBatch, String>> {
    let mut decoder = decoder(schema, 2)?;
    let read = match decoder.decode(value) {
        Ok(read) => read,
        Err(error) => return Ok(Err(reason(&error.to_string()))),
    };
    if decoder.has_partial_record() {
        return Ok(Err("the JSON object is not complete".to_owned()));
    }
    if read < value.len() || decoder.len() > 1 {
        return Ok(Err("more than one JSON value where one object was expected".to_owned()));
    }
    match decoder.flush() {
        Ok(Some(row)) => Ok(Ok(row)),
        Ok(None) => Ok(Err("no JSON object".to_owned())),
        Err(error) => Ok(Err(reason(&error.to_string()))),
    }
}

/// Without the library's name for its own error.
fn reason(text: &str) -> String {
    text.trim_start_matches("Json error: ").to_owned()
}

/// Numbers and times as text, and nothing else; `None` if there are none.
fn text_schema(schema: &SchemaRef) -> Option<SchemaRef> {
    let fields: Vec<FieldRef> = schema.fields().iter().filter_map(text_field).collect();
    (!fields.is_empty()).then(|| Arc::new(Schema::new(fields)))
}

fn text_field(field: &FieldRef) -> Option<FieldRef> {
    let data_type = match field.data_type() {
        DataType::List(item) => DataType::List(text_field(item)?),
        DataType::Struct(fields) => {
            let fields: Vec<FieldRef> = fields.iter().filter_map(text_field).collect();
            (!fields.is_empty()).then(|| DataType::Struct(fields.into()))?
        }
        DataType::Decimal128(..) => DataType::Utf8,
        simple if simple.is_integer() || simple.is_floating() || simple.is_temporal() => DataType::Utf8,
        _ => return None,
    };
    Some(Arc::new(Field::new(field.name(), data_type, field.is_nullable())))
}

fn correct(rows: &RecordBatch, texts: &RecordBatch) -> Result<RecordBatch, String> {
    let schema = rows.schema();
    let columns = schema.fields().iter().zip(rows.columns()).map(|(field, column)| {
        match texts.column_by_name(field.name()) {
            Some(texts) => correct_column(field.name(), column, texts),
            None => Ok(Arc::clone(column)),
        }
    });
    let columns = columns.collect::<Result<Vec<_>, String>>()?;
    RecordBatch::try_new(schema, columns).map_err(|error| error.to_string())
}

/// The values that `texts` say, where `column` has what the library made of them.
fn correct_column(name: &str, column: &ArrayRef, texts: &ArrayRef) -> Result<ArrayRef, String> {
    macro_rules! numbers {
        ($type:ty, $parse:expr) => {{
            let parse: fn(&str) -> Option<<$type as ArrowPrimitiveType>::Native> = $parse;
            let values = numbers::<$type>(name, column.data_type(), texts.as_string(), parse)?;
            Arc::new(values.with_data_type(column.data_type().clone()))
        }};
    }
    macro_rules! integers {
        ($type:ty) => {
            numbers!($type, |text| exact::scaled(text.trim_ascii(), 0)?.try_into().ok())
        };
    }
    Ok(match column.data_type() {
        DataType::Int8 => integers!(Int8Type),
        DataType::Int16 => integers!(Int16Type),
        DataType::Int32 => integers!(Int32Type),
        DataType::Int64 => integers!(Int64Type),
        DataType::UInt8 => integers!(UInt8Type),
        DataType::UInt16 => integers!(UInt16Type),
        DataType::UInt32 => integers!(UInt32Type),
        DataType::UInt64 => integers!(UInt64Type),
        DataType::Float32 => numbers!(Float32Type, |text| float(text, exact::float32)),
        DataType::Float64 => numbers!(Float64Type, |text| float(text, exact::float64)),
        DataType::Decimal128(precision, scale) => {
            let parse = |text: &str| exact::decimal(text.trim_ascii(), *precision, *scale);
            let values = numbers::<Decimal128Type>(name, column.data_type(), texts.as_string(), parse)?;
            Arc::new(values.with_data_type(column.data_type().clone()))
        }
        DataType::Date32 => dates::<Date32Type>(name, column, texts.as_string(), |text| {
            Date32Type::parse(text).filter(|_| exact::fits_day(text))
        })?,
        DataType::Date64 => dates::<Date64Type>(name, column, texts.as_string(), |text| {
            Date64Type::parse(text).filter(|_| exact::fits_unit(text, TimeUnit::Millisecond))
        })?,
        DataType::List(item) => {
            let (column, texts) = (column.as_list::<i32>(), texts.as_list::<i32>());
            let values = correct_column(&format!("{name}[]"), column.values(), texts.values())?;
            let (offsets, nulls) = (column.offsets().clone(), column.nulls().cloned());
            Arc::new(ListArray::new(Arc::clone(item), offsets, values, nulls))
        }
        DataType::Struct(fields) => {
            let (column, texts) = (column.as_struct(), texts.as_struct());
            let parts = fields.iter().zip(column.columns()).map(|(field, part)| {
                match texts.column_by_name(field.name()) {
                    Some(texts) => correct_column(&format!("{name}.{}", field.name()), part, texts),
                    None => Ok(Arc::clone(part)),
                }
            });
            let parts = parts.collect::<Result<Vec<_>, String>>()?;
            Arc::new(StructArray::new(fields.clone(), parts, column.nulls().cloned()))
        }
        // Other forms of these are the library's to read, if they are not numbers and nothing is cut.
        data_type => {
            let texts: &StringArray = texts.as_string();
            match texts.iter().flatten().find(|text| !is_kept(text, data_type)) {
                Some(text) => return Err(bad(name, text, data_type)),
                None => Arc::clone(column),
            }
        }
    })
}

/// A float that is a number, also in quotes, or the name of what is none.
fn float<T>(text: &str, parse: fn(&str) -> Option<T>) -> Option<T> {
    let number = text.trim_ascii();
    let is_number = number.ends_with(|c: char| c.is_ascii_digit() || c == '.');
    if is_number { parse(number) } else { not_finite(text, parse) }
}

fn is_kept(text: &str, data_type: &DataType) -> bool {
    match data_type {
        DataType::Timestamp(unit, _) | DataType::Time32(unit) | DataType::Time64(unit) => {
            exact::scaled(text, 0).is_none() && exact::fits_unit(text, *unit)
        }
        DataType::Duration(_) => text.parse::<f64>().is_err() || exact::scaled(text, 0).is_some(),
        DataType::Float16 => float(text, exact::float32).is_some(),
        _ => true,
    }
}

fn numbers<T: ArrowPrimitiveType>(
    name: &str,
    data_type: &DataType,
    texts: &StringArray,
    parse: impl Fn(&str) -> Option<T::Native>,
) -> Result<PrimitiveArray<T>, String> {
    let value = |text: Option<&str>| match text {
        Some(text) => parse(text).map(Some).ok_or_else(|| bad(name, text, data_type)),
        None => Ok(None),
    };
    texts.iter().map(value).collect()
}

/// Dates, which may be written as `20130101`. A number that looks the same was taken for a count of days, which shows in the value.
fn dates<T: ArrowPrimitiveType>(
    name: &str,
    column: &ArrayRef,
    texts: &StringArray,
    parse: impl Fn(&str) -> Option<T::Native>,
) -> Result<ArrayRef, String> {
    let dates = numbers::<T>(name, column.data_type(), texts, parse)?;
    let counts = column.as_primitive::<T>();
    match dates.iter().zip(counts).position(|(date, count)| date != count) {
        Some(row) => Err(bad(name, texts.value(row), column.data_type())),
        None => Ok(Arc::new(dates)),
    }
}

fn bad(name: &str, text: &str, data_type: &DataType) -> String {
    format!("column '{name}': {}", exact::why_not(text, data_type))
}
