//! The rows of a table, by key.

use arrow::array::{Array, AsArray};
use arrow::datatypes::{FieldRef, SchemaRef};
use bytes::Bytes;
use millstream_connect_api::convert::{Converter, JsonConverter};
use millstream_connect_api::key;
use millstream_streams_core::kernel::{KeyColumn, TableRows};
use millstream_streams_core::{Chunk, Result, StreamsError};

/// Stores rows as JSON under their key. The last column of its rows says whether a row deletes its key
/// (see [`super::RowReader::table`]).
pub struct KeyedRows {
    key: Vec<usize>,
    schema: SchemaRef,
    /// The JSON of the rows of the chunk at hand.
    values: Vec<Bytes>,
}

impl KeyedRows {
    /// Rows of `schema` whose key is made of the columns at these positions.
    pub fn new(schema: SchemaRef, key: Vec<usize>) -> Self {
        Self { key, schema, values: Vec::new() }
    }
}

impl TableRows for KeyedRows {
    fn layout(&self) -> Option<String> {
        let told = |field: &FieldRef| format!("{}: {}", field.name(), field.data_type());
        let fields = self.schema.fields();
        let columns: Vec<_> = fields.iter().map(told).collect();
        let key: Vec<_> =
            self.key.iter().filter_map(|&at| fields.get(at)).map(|f| f.name().as_str()).collect();
        Some(format!("a table [{}] by [{}]", columns.join(", "), key.join(", ")))
    }

    fn keys(&mut self, chunk: &Chunk, keys: &mut KeyColumn) -> Result<()> {
        let rows = chunk.batch()?;
        let columns: Vec<_> = self.key.iter().map(|&at| rows.column(at).clone()).collect();
        let without_null = |row: usize| columns.iter().all(|column| column.is_valid(row));
        for (row, key) in key::encode(&columns).map_err(StreamsError::user)?.iter().enumerate() {
            match without_null(row) {
                true => keys.push(key),
                false => keys.push_null(),
            }
        }
        let own: Vec<usize> = (0..rows.num_columns().saturating_sub(1)).collect();
        let own = rows.project(&own).map_err(StreamsError::user)?;
        self.values = JsonConverter.encode(&own).map_err(StreamsError::user)?;
        Ok(())
    }

    fn save(&mut self, chunk: &Chunk, row: usize, bytes: &mut Vec<u8>) -> Result<bool> {
        let deleted = chunk.batch()?.columns().last().is_some_and(|column| column.as_boolean().value(row));
        if let Some(value) = self.values.get(row).filter(|_| !deleted) {
            bytes.extend_from_slice(value);
        }
        Ok(!deleted)
    }

    fn changes(&mut self, _chunk: Chunk, _old: Vec<Option<Bytes>>) -> Result<Option<Chunk>> {
        Ok(None)
    }
}
