//! Raw bytes: the one column of a row, as it is.

use std::sync::Arc;

use arrow::array::{Array, AsArray, BinaryBuilder, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef};
use bytes::Bytes;

use super::{Converter, Decoded};
use crate::{ConnectError, Result};

/// The one column of a row as bytes. A null becomes empty.
#[derive(Clone, Copy, Debug, Default)]
pub struct BytesConverter;

impl Converter for BytesConverter {
    fn encode(&self, rows: &RecordBatch) -> Result<Vec<Bytes>> {
        only_column(rows.schema_ref(), "bytes")?;
        let column = cast(rows.column(0), &DataType::Binary)
            .map_err(|error| ConnectError::fatal("writing rows as bytes", error))?;
        let values = column.as_binary::<i32>();
        Ok((0..values.len()).map(|row| Bytes::copy_from_slice(values.value(row))).collect())
    }

    fn decode(&self, schema: &SchemaRef, values: &[Bytes]) -> Result<Decoded> {
        let field = only_column(schema, "bytes")?;
        let mut builder = BinaryBuilder::with_capacity(values.len(), values.iter().map(Bytes::len).sum());
        values.iter().for_each(|value| builder.append_value(value));
        let column = cast(&builder.finish(), field)
            .map_err(|error| ConnectError::fatal("reading rows from bytes", error))?;
        let rows = RecordBatch::try_new(Arc::clone(schema), vec![column])
            .map_err(|error| ConnectError::fatal("reading rows from bytes", error))?;
        Ok(Decoded { rows, bad: Vec::new() })
    }
}

/// The type of the one column that these formats have room for.
pub(super) fn only_column<'a>(schema: &'a SchemaRef, format: &str) -> Result<&'a DataType> {
    match schema.fields().as_ref() {
        [field] => Ok(field.data_type()),
        fields => Err(ConnectError::fatal(
            format!("format {format}"),
            format!(
                "it holds exactly one column, the rows have {}; choose json, or select one column",
                fields.len()
            ),
        )),
    }
}
