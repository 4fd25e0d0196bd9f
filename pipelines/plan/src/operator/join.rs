//! Looking rows of a table up.

use std::sync::Arc;

use arrow::array::{Array, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take};
use arrow::datatypes::{Schema, SchemaRef};
use bytes::Bytes;
use datafusion_physical_expr::PhysicalExpr;
use indexmap::IndexSet;
use millstream_connect_api::convert::{Converter, JsonConverter};
use millstream_connect_api::key;
use millstream_streams_core::chunk::Rows;
use millstream_streams_core::kernel::{KeyColumn, Lookup};
use millstream_streams_core::{Chunk, Result, StreamsError};
use rustc_hash::FxBuildHasher;

use super::evaluate_all;
use super::select::batch;
use crate::sql::Join;

/// Decoded rows of the table that are kept at hand; beyond it the cache starts anew.
const CACHE_ROWS: usize = 8192;

/// Adds the columns of a table's row to each row of a stream.
pub struct TableLookup {
    keys: Vec<Arc<dyn PhysicalExpr>>,
    /// The rows that come out.
    schema: SchemaRef,
    /// The columns of the table that are added.
    table: SchemaRef,
    /// Stored rows, and the same rows decoded, in one order.
    seen: IndexSet<Bytes, FxBuildHasher>,
    decoded: RecordBatch,
}

impl TableLookup {
    /// Looks up as `join` says in a table whose rows have `schema`.
    pub fn new(join: &Join, schema: &Schema) -> Self {
        let fields = join.columns.iter().filter_map(|&at| schema.fields().get(at).cloned());
        let table = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        Self {
            keys: join.keys.clone(),
            schema: Arc::clone(&join.schema),
            decoded: RecordBatch::new_empty(Arc::clone(&table)),
            table,
            seen: IndexSet::default(),
        }
    }

    /// The position of each found row among the decoded ones.
    fn positions(&mut self, found: &[Option<Bytes>]) -> Result<UInt32Array> {
        if self.seen.len() > CACHE_ROWS {
            self.seen.clear();
            self.decoded = RecordBatch::new_empty(Arc::clone(&self.table));
        }
        let known = self.seen.len();
        let mut positions = Vec::with_capacity(found.len());
        for row in found {
            positions.push(match row {
                Some(row) => {
                    let at =
                        self.seen.get_index_of(row).unwrap_or_else(|| self.seen.insert_full(row.clone()).0);
                    Some(u32::try_from(at).expect("a chunk and a cache hold fewer than 2^32 rows"))
                }
                None => None,
            });
        }
        let fresh: Vec<Bytes> = self.seen.iter().skip(known).cloned().collect();
        if !fresh.is_empty() {
            let decoded = JsonConverter.decode(&self.table, &fresh).map_err(StreamsError::user)?;
            if let Some((_, reason)) = decoded.bad.first() {
                return Err(StreamsError::Decode { what: "a row of a table", reason: reason.clone() });
            }
            self.decoded =
                concat_batches(&self.table, [&self.decoded, &decoded.rows]).map_err(StreamsError::user)?;
        }
        Ok(UInt32Array::from(positions))
    }
}

impl Lookup for TableLookup {
    /// The stored form; rows are decoded many at a time.
    type Row = Bytes;

    fn keys(&mut self, chunk: &Chunk, keys: &mut KeyColumn) -> Result<()> {
        let columns = evaluate_all(&self.keys, chunk.batch()?)?;
        for (row, key) in key::encode(&columns).map_err(StreamsError::user)?.iter().enumerate() {
            // SQL: null equals nothing.
            match columns.iter().all(|column| column.is_valid(row)) {
                true => keys.push(key),
                false => keys.push_null(),
            }
        }
        Ok(())
    }

    fn load(&mut self, _key: &[u8], stored: Bytes) -> Result<Option<Bytes>> {
        Ok(Some(stored))
    }

    fn join(&mut self, mut chunk: Chunk, found: Vec<Option<Bytes>>) -> Result<Chunk> {
        let positions = self.positions(&found)?;
        let mut columns = chunk.batch()?.columns().to_vec();
        for column in self.decoded.columns() {
            columns.push(take(column, &positions, None).map_err(StreamsError::user)?);
        }
        chunk.rows = Rows::Arrow(batch(&self.schema, columns, chunk.len())?);
        Ok(chunk)
    }
}
