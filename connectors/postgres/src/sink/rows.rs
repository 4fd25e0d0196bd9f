//! The rows of a batch in the form in which they are written: for upsert, each key once.

use std::ops::Range;

use arrow::array::{Array, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use bytes::Bytes;
use millstream_connect_api::{ConnectError, Operation, RefusedRow, Result, SinkBatch, key};

use super::settings::{Mode, Settings};

/// Rows ready to be written, in the order of their batch.
pub(super) struct Rows<'a> {
    batch: &'a SinkBatch,
    /// The last row of each key, or every row where there is no key.
    pub(super) chosen: Chosen,
    /// For each row of the batch the one before it of the same key, if ON CONFLICT must not meet a key twice.
    before: Vec<Option<u32>>,
}

/// Some rows of a batch.
pub(super) struct Chosen {
    rows: RecordBatch,
    deletes: Vec<bool>,
    /// Which row of the batch each was.
    origin: Vec<u32>,
}

impl<'a> Rows<'a> {
    /// Leaves out the `skip` rows that are held already and, for upsert, all but the last row of each key: ON CONFLICT may meet a
    /// key once.
    ///
    /// # Errors
    /// [`ConnectError::BadRows`] with the rows whose key is null.
    pub(super) fn of(batch: &'a SinkBatch, settings: &Settings, skip: usize) -> Result<Self> {
        let rows = batch.rows.num_rows();
        let mut origin: Vec<u32> = (skip..rows).map(row_index).collect();
        let mut before = Vec::new();
        if settings.mode == Mode::Upsert {
            refuse_null_keys(batch, settings, skip)?;
            let keys = key::encode_columns(&batch.rows, &settings.key)?;
            let mut last: rustc_hash::FxHashMap<&Bytes, u32> = rustc_hash::FxHashMap::default();
            before.resize(rows, None);
            for ((row, key), before) in keys.iter().enumerate().zip(&mut before).skip(skip) {
                *before = last.insert(key, row_index(row));
            }
            origin.retain(|row| keys.get(*row as usize).and_then(|key| last.get(key)) == Some(row));
        }
        Ok(Self { batch, chosen: Chosen::new(batch, origin)?, before })
    }

    /// What takes the place of rows that were refused: of each the row before it of the same key, if there is one.
    pub(super) fn instead_of(&self, refused: &[RefusedRow]) -> Result<Chosen> {
        let before = |refused: &RefusedRow| self.before.get(refused.row).copied().flatten();
        let mut origin: Vec<u32> = refused.iter().filter_map(before).collect();
        origin.sort_unstable();
        Chosen::new(self.batch, origin)
    }

    /// Whether some row of the batch is deleted.
    pub(super) fn has_deletes(&self) -> bool {
        self.batch.operation.as_ref().is_some_and(|codes| codes.values().contains(&(Operation::Delete as i8)))
    }
}

impl Chosen {
    fn new(batch: &SinkBatch, origin: Vec<u32>) -> Result<Self> {
        let deleted = |row: &u32| {
            batch
                .operation
                .as_ref()
                .is_some_and(|codes| codes.value(*row as usize) == Operation::Delete as i8)
        };
        let deletes = origin.iter().map(deleted).collect();
        let rows = take_record_batch(&batch.rows, &UInt32Array::from(origin.clone()))
            .map_err(|error| ConnectError::fatal("choosing rows", error))?;
        Ok(Self { rows, deletes, origin })
    }

    pub(super) fn len(&self) -> usize {
        self.origin.len()
    }

    /// The columns of some of the rows.
    pub(super) fn part(&self, range: &Range<usize>) -> RecordBatch {
        self.rows.slice(range.start, range.len())
    }

    /// Which of some of the rows are deletes.
    pub(super) fn deletes(&self, range: &Range<usize>) -> &[bool] {
        self.deletes.get(range.clone()).unwrap_or_default()
    }

    /// Which row of the batch the one at `at` is.
    pub(super) fn origin(&self, at: usize) -> usize {
        self.origin.get(at).map_or(0, |row| *row as usize)
    }
}

fn row_index(row: usize) -> u32 {
    u32::try_from(row).expect("a batch is bounded far below 4 billion rows")
}

fn refuse_null_keys(batch: &SinkBatch, settings: &Settings, skip: usize) -> Result<()> {
    let null = |row: usize| {
        let null = |name: &&String| batch.rows.column_by_name(name).is_none_or(|column| column.is_null(row));
        settings
            .key
            .iter()
            .find(null)
            .map(|name| RefusedRow { row, reason: format!("key column '{name}' is null") })
    };
    let refused: Vec<_> = (skip..batch.rows.num_rows()).filter_map(null).collect();
    if refused.is_empty() { Ok(()) } else { Err(ConnectError::BadRows(refused)) }
}
