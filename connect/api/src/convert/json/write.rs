//! Rows to JSON objects.

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, PrimitiveArray, RecordBatch, StringArray};
use arrow::datatypes::*;
use arrow::error::ArrowError;
use arrow_json::writer::{Encoder, EncoderOptions, NullableEncoder, make_encoder};
use bytes::Bytes;

use crate::convert::DateTime;

/// Bytes that a row is guessed to take.
const ROW_BYTES: usize = 256;

/// One object for each row; a null is left out. Common types are written here, the others by the library.
pub(super) fn write(rows: &RecordBatch) -> Result<Vec<Bytes>, ArrowError> {
    let (schema, options) = (rows.schema(), EncoderOptions::default());
    let mut columns = Vec::with_capacity(rows.num_columns());
    for (field, column) in schema.fields().iter().zip(rows.columns()) {
        let name = serde_json::to_string(field.name()).expect("a string is JSON");
        columns.push((format!(",{name}:").into_bytes(), encoder(field, column, &options)?));
    }
    let mut text = Vec::with_capacity(rows.num_rows() * ROW_BYTES);
    let mut ends = Vec::with_capacity(rows.num_rows());
    for row in 0..rows.num_rows() {
        let begin = text.len();
        for (name, column) in columns.iter_mut().filter(|(_, column)| !column.is_null(row)) {
            text.extend_from_slice(name);
            column.encode(row, &mut text);
        }
        match text.get_mut(begin) {
            Some(first) => *first = b'{', // instead of the comma
            None => text.push(b'{'),
        }
        text.push(b'}');
        ends.push(text.len());
    }
    let (text, mut from) = (Bytes::from(text), 0);
    Ok(ends.into_iter().map(|end| text.slice(std::mem::replace(&mut from, end)..end)).collect())
}

fn encoder<'a>(
    field: &'a FieldRef,
    column: &'a ArrayRef,
    options: &'a EncoderOptions,
) -> Result<NullableEncoder<'a>, ArrowError> {
    let general = make_encoder(field, column, options)?;
    let own: Box<dyn Encoder + 'a> = match column.data_type() {
        DataType::Int16 => Box::new(Integers(column.as_primitive::<Int16Type>())),
        DataType::Int32 => Box::new(Integers(column.as_primitive::<Int32Type>())),
        DataType::Int64 => Box::new(Integers(column.as_primitive::<Int64Type>())),
        DataType::Utf8 => Box::new(Texts { column: column.as_string(), general }),
        DataType::Timestamp(unit, zone) if zone.as_deref().is_none_or(|zone| zone == crate::types::UTC) => {
            let counts = match unit {
                TimeUnit::Second => column.as_primitive::<TimestampSecondType>().values(),
                TimeUnit::Millisecond => column.as_primitive::<TimestampMillisecondType>().values(),
                TimeUnit::Microsecond => column.as_primitive::<TimestampMicrosecondType>().values(),
                TimeUnit::Nanosecond => column.as_primitive::<TimestampNanosecondType>().values(),
            };
            Box::new(DateTimes { counts, unit: *unit, is_utc: zone.is_some(), general })
        }
        _ => return Ok(general),
    };
    Ok(NullableEncoder::new(own, column.nulls().cloned()))
}

struct Integers<'a, T: ArrowPrimitiveType>(&'a PrimitiveArray<T>);

impl<T: ArrowPrimitiveType<Native: itoa::Integer>> Encoder for Integers<'_, T> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(itoa::Buffer::new().format(self.0.value(row)).as_bytes());
    }
}

struct Texts<'a> {
    column: &'a StringArray,
    /// For texts in which something is escaped.
    general: NullableEncoder<'a>,
}

impl Encoder for Texts<'_> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        let text = self.column.value(row).as_bytes();
        if text.iter().any(|byte| *byte < b' ' || matches!(byte, b'"' | b'\\')) {
            return self.general.encode(row, out);
        }
        out.push(b'"');
        out.extend_from_slice(text);
        out.push(b'"');
    }
}

struct DateTimes<'a> {
    counts: &'a [i64],
    unit: TimeUnit,
    is_utc: bool,
    /// For years of fewer or more than four digits.
    general: NullableEncoder<'a>,
}

impl Encoder for DateTimes<'_> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        let (begin, count) = (out.len(), self.counts.get(row).copied().unwrap_or_default());
        out.push(b'"');
        if DateTime::of_count(count, self.unit).write(self.is_utc, out) {
            out.push(b'"');
        } else {
            out.truncate(begin);
            self.general.encode(row, out);
        }
    }
}
