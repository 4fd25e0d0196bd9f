//! JSON, one object for a row.

mod cursor;
mod general;
mod read;
mod write;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;

use super::{Converter, Decoded};
use crate::{ConnectError, Result};

/// Floats that are no numbers of JSON, as Jackson and the JSON mapping of protobuf write them.
const NOT_FINITE: [&str; 3] = ["NaN", "Infinity", "-Infinity"];

/// One JSON object for a row. A null is left out; a key that the schema does not have is ignored.
///
/// Binary is written as hex, timestamps as RFC 3339, decimals as numbers. JSON has no numbers for what is no finite float: `"NaN"`, `"Infinity"`
/// and `"-Infinity"` are written, and read back in columns of floats.
///
/// A value is read exactly or its row is bad: no fraction is cut for an integer or a decimal, no part of a second for a timestamp, no whole number
/// loses digits in a float, and a number is no timestamp, since it does not say what it counts. A text takes a number as it is written.
#[derive(Clone, Copy, Debug, Default)]
pub struct JsonConverter;

impl Converter for JsonConverter {
    fn encode(&self, rows: &RecordBatch) -> Result<Vec<Bytes>> {
        write::write(rows).map_err(|error| ConnectError::fatal("writing rows as JSON", error))
    }

    fn decode(&self, schema: &SchemaRef, values: &[Bytes]) -> Result<Decoded> {
        if let Some(rows) = decode_all(schema, values)? {
            return Ok(Decoded { rows, bad: Vec::new() });
        }
        decode_halves(schema, values)
    }
}

/// All values at once. `None` when any of them is not exactly one row.
fn decode_all(schema: &SchemaRef, values: &[Bytes]) -> Result<Option<RecordBatch>> {
    match read::read(schema, values) {
        Some(rows) => Ok(Some(rows)),
        None => general::decode(schema, values),
    }
}

/// The slow way, taken when a value is bad: halves are tried again, so that a few bad values cost a few more passes and no more.
fn decode_halves(schema: &SchemaRef, values: &[Bytes]) -> Result<Decoded> {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    let mut ranges = Vec::new();
    ranges.push(0..values.len());
    while let Some(range) = ranges.pop() {
        let part = values.get(range.clone()).unwrap_or_default();
        if let [value] = part {
            match general::decode_one(schema, value)? {
                Ok(row) => good.push(row),
                Err(reason) => bad.push((range.start, reason)),
            }
        } else if let Some(rows) = decode_all(schema, part)? {
            good.push(rows);
        } else {
            let middle = range.start + range.len() / 2;
            ranges.push(middle..range.end);
            ranges.push(range.start..middle); // taken next, so that rows stay in order
        }
    }
    let rows = arrow::compute::concat_batches(schema, &good)
        .map_err(|error| ConnectError::fatal("joining rows", error))?;
    Ok(Decoded { rows, bad })
}

/// What one of these names says. Other words for it are texts, and no floats.
fn not_finite<T>(text: &str, parse: fn(&str) -> Option<T>) -> Option<T> {
    NOT_FINITE.contains(&text).then(|| parse(text)).flatten()
}

#[cfg(test)]
mod tests;
