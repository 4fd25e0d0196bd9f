//! JSON, one object for a row.

mod cursor;
mod read;
mod write;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_json::ReaderBuilder;
use arrow_json::reader::Decoder;
use bytes::Bytes;

use super::{Converter, Decoded};
use crate::{ConnectError, Result};

/// One JSON object for a row. A null is left out; a key that the schema does not have is ignored.
///
/// Binary is written as hex, timestamps as RFC 3339, decimals as numbers. JSON has no infinity and no NaN: those become null.
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

fn decoder(schema: &SchemaRef, rows: usize) -> Result<Decoder> {
    ReaderBuilder::new(Arc::clone(schema))
        .with_batch_size(rows.max(1))
        .build_decoder()
        .map_err(|error| ConnectError::fatal("reading rows from JSON", error))
}

/// All values at once. `None` when any of them is not exactly one row.
fn decode_all(schema: &SchemaRef, values: &[Bytes]) -> Result<Option<RecordBatch>> {
    match read::read(schema, values) {
        Some(rows) => Ok(Some(rows)),
        None => decode_generally(schema, values),
    }
}

/// All values through one decoder of the library.
fn decode_generally(schema: &SchemaRef, values: &[Bytes]) -> Result<Option<RecordBatch>> {
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

/// The slow way, taken when a value is bad: halves are tried again, so that a few bad values cost a few more passes and no more.
fn decode_halves(schema: &SchemaRef, values: &[Bytes]) -> Result<Decoded> {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    let mut ranges = Vec::new();
    ranges.push(0..values.len());
    while let Some(range) = ranges.pop() {
        let part = values.get(range.clone()).unwrap_or_default();
        if let [value] = part {
            match decode_one(schema, value)? {
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

fn decode_one(schema: &SchemaRef, value: &[u8]) -> Result<Result<RecordBatch, String>> {
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

#[cfg(test)]
mod tests;
