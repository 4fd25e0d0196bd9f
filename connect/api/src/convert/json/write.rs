//! Rows to JSON objects.

use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, PrimitiveArray, RecordBatch, StringArray};
use arrow::datatypes::*;
use arrow::error::ArrowError;
use arrow_json::writer::{Encoder, EncoderFactory, EncoderOptions, NullableEncoder, make_encoder};
use bytes::Bytes;

use crate::convert::DateTime;

/// Bytes that a row is guessed to take.
const ROW_BYTES: usize = 256;

/// One object for each row; a null is left out. Common types are written here, the others by the library.
pub(super) fn write(rows: &RecordBatch) -> Result<Vec<Bytes>, ArrowError> {
    let schema = rows.schema();
    let options = EncoderOptions::default().with_encoder_factory(Arc::new(FloatsByName));
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

/// Makes the library ask here about floats, also about those in lists and structs: it writes null for what is not finite.
#[derive(Debug)]
struct FloatsByName;

/// Without [`FloatsByName`].
static PLAIN: LazyLock<EncoderOptions> = LazyLock::new(EncoderOptions::default);

impl EncoderFactory for FloatsByName {
    fn make_default_encoder<'a>(
        &self,
        field: &'a FieldRef,
        array: &'a dyn Array,
        _options: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        let names: Vec<_> = match array.data_type() {
            DataType::Float16 => names(array.as_primitive::<Float16Type>(), f64::from),
            DataType::Float32 => names(array.as_primitive::<Float32Type>(), f64::from),
            DataType::Float64 => names(array.as_primitive::<Float64Type>(), f64::from),
            _ => return Ok(None),
        };
        if names.is_empty() {
            return Ok(None);
        }
        let floats = Floats { names, general: make_encoder(field, array, &PLAIN)? };
        Ok(Some(NullableEncoder::new(Box::new(floats), array.nulls().cloned())))
    }
}

/// Rows whose value is not finite, ascending, and what is written for it.
fn names<T: ArrowPrimitiveType>(
    floats: &PrimitiveArray<T>,
    wide: fn(T::Native) -> f64,
) -> Vec<(usize, &'static str)> {
    let values = floats.values().iter().map(|value| wide(*value)).enumerate();
    let not_finite = values.filter(|(_, value)| !value.is_finite());
    let name = |value: f64| match value {
        value if value.is_nan() => "\"NaN\"",
        value if value > 0.0 => "\"Infinity\"",
        _ => "\"-Infinity\"",
    };
    not_finite.map(|(row, value)| (row, name(value))).collect()
}

struct Floats<'a> {
    names: Vec<(usize, &'static str)>,
    /// For what is finite.
    general: NullableEncoder<'a>,
}

impl Encoder for Floats<'_> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        match self.names.binary_search_by_key(&row, |(row, _)| *row) {
            Ok(at) => out.extend(self.names.get(at).map(|(_, name)| name.as_bytes()).unwrap_or_default()),
            Err(_) => self.general.encode(row, out),
        }
    }
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
