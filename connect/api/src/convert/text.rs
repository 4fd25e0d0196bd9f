//! Text: the one column of a row, as it is.

use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, StringBuilder};
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef};
use bytes::Bytes;

use super::bytes::only_column;
use super::{Converter, Decoded};
use crate::{ConnectError, Result};

/// The one column of a row as UTF-8. A null becomes empty text.
#[derive(Clone, Copy, Debug, Default)]
pub struct StringConverter;

impl Converter for StringConverter {
    fn encode(&self, rows: &RecordBatch) -> Result<Vec<Bytes>> {
        only_column(rows.schema_ref(), "string")?;
        let column = cast(rows.column(0), &DataType::Utf8)
            .map_err(|error| ConnectError::fatal("writing rows as text", error))?;
        let texts = column.as_string::<i32>();
        Ok((0..texts.len()).map(|row| Bytes::copy_from_slice(texts.value(row).as_bytes())).collect())
    }

    fn decode(&self, schema: &SchemaRef, values: &[Bytes]) -> Result<Decoded> {
        let field = only_column(schema, "string")?;
        let mut bad = Vec::new();
        let mut texts = StringBuilder::with_capacity(values.len(), values.iter().map(Bytes::len).sum());
        for (at, value) in values.iter().enumerate() {
            match std::str::from_utf8(value) {
                Ok(text) => texts.append_value(text),
                Err(error) => bad.push((at, format!("not UTF-8: {error}"))),
            }
        }
        let column = cast(&texts.finish(), field)
            .map_err(|error| ConnectError::fatal("reading rows from text", error))?;
        let rows = RecordBatch::try_new(Arc::clone(schema), vec![column])
            .map_err(|error| ConnectError::fatal("reading rows from text", error))?;
        Ok(Decoded { rows, bad })
    }
}
