//! Sources: what brings rows into the log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int8Array, RecordBatch, StringArray, TimestampMillisecondArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use futures::future::BoxFuture;
use millstream_record::Millis;

use crate::types::UTC;
use crate::{Config, ConfigDef, Result, TableSchema, TaskContext};

/// Where a source stands, by source partition (a file, a replication slot, a shard). Names and values are the connector's;
/// the worker stores them as they are (`__connect_offsets`) and gives them back.
pub type Positions = BTreeMap<String, serde_json::Value>;

/// A kind of source, such as `file`.
pub trait SourceConnector: Send + Sync {
    /// What `type = "..."` says.
    fn name(&self) -> &'static str;

    /// The keys that a configuration may and must have.
    fn definition(&self) -> ConfigDef;

    /// The tables that the source named `source` will yield and their Arrow schemas, before anything runs. A source with one
    /// table calls it as the source is called; one with several says `<source>.<table>`.
    ///
    /// `known` is what an earlier run of this source fixed; a connector that infers schemas returns those unchanged,
    /// so that a longer sample cannot change a type under data that is already in the log.
    ///
    /// # Errors
    /// [`crate::ConnectError::Config`] when a setting cannot work (it points at the setting), others when the outside world
    /// cannot be asked.
    fn tables<'a>(
        &'a self,
        source: &'a str,
        config: &'a Config,
        known: &'a [TableSchema],
        context: &'a TaskContext,
    ) -> BoxFuture<'a, Result<Vec<TableSchema>>>;

    /// A task that reads `tables` (as [`SourceConnector::tables`] returned them, or as they were stored then).
    ///
    /// # Errors
    /// [`crate::ConnectError::Config`] as for [`SourceConnector::tables`].
    fn task(&self, config: &Config, tables: &[TableSchema]) -> Result<Box<dyn SourceTask>>;
}

/// A running source. Calls never overlap. After an error the worker drops the task and makes another one from what the
/// log holds.
pub trait SourceTask: Send {
    /// Starts at `positions`, the last ones whose rows are durable in the log (empty at the first start).
    fn open(&mut self, positions: Positions, context: TaskContext) -> BoxFuture<'_, Result<()>>;

    /// The next rows. A worker that stops drops the future and does not poll again; what had been read and not handed out is
    /// read again from its position in the task's next life.
    fn poll(&mut self) -> BoxFuture<'_, Result<Polled>>;

    /// The rows up to `positions` are durable in the log; only now may the source forget them (acknowledge, delete, move).
    fn committed(&mut self, positions: &Positions) -> BoxFuture<'_, Result<()>>;

    /// Lets go of everything. Not called when the process is killed, so nothing may depend on it.
    fn close(&mut self) -> BoxFuture<'_, ()>;
}

/// What a poll found.
#[derive(Debug)]
pub enum Polled {
    /// Rows, bad rows, or only a new position.
    Batch(SourceBatch),
    /// Nothing now. Poll again after this long at the latest; the source was already waiting as long as it could itself.
    Idle(Duration),
    /// The source is finite and all of it has been handed out. It is not polled again.
    End,
}

/// Rows of one table from one source partition, and the position behind them.
#[derive(Clone, Debug)]
pub struct SourceBatch {
    /// A name from [`SourceConnector::tables`].
    pub table: Arc<str>,
    /// The rows, in the table's schema. It may have none.
    pub rows: RecordBatch,
    /// What changelog sources say about each row; empty for append-only sources.
    pub system: SystemColumns,
    /// Source partition that the rows came from.
    pub partition: Arc<str>,
    /// Position behind the rows. It becomes durable together with them. Null: the partition is gone, its position is removed.
    pub position: serde_json::Value,
    /// What could not be read as a row; kept as dead letters in the same transaction.
    pub bad: Vec<BadRecord>,
    /// Bytes of the source that were read for this batch.
    pub bytes: u64,
}

/// The three system columns of a changelog; each has as many rows as the batch.
#[derive(Clone, Debug, Default)]
pub struct SystemColumns {
    /// [`Operation`] codes. Absent: every row is a create.
    pub operation: Option<Int8Array>,
    /// Position of each row in the source, as text.
    pub position: Option<StringArray>,
    /// Event time of each row, in milliseconds; it becomes the record's timestamp. Absent: the time of writing.
    pub event_time: Option<TimestampMillisecondArray>,
}

/// What happened to a row in the system it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(i8)]
pub enum Operation {
    /// The row is new.
    Create = 0,
    /// The row replaces the one with the same key.
    Update = 1,
    /// The row with this key is gone; its record has a null value.
    Delete = 2,
    /// The row was read from a snapshot.
    Snapshot = 3,
}

impl Operation {
    /// The operation with this code.
    #[must_use]
    pub fn from_code(code: i8) -> Option<Self> {
        [Self::Create, Self::Update, Self::Delete, Self::Snapshot].into_iter().find(|op| *op as i8 == code)
    }

    /// The one-letter name in record headers, as Debezium writes it.
    #[must_use]
    pub fn letter(self) -> &'static str {
        match self {
            Self::Create => "c",
            Self::Update => "u",
            Self::Delete => "d",
            Self::Snapshot => "r",
        }
    }
}

/// Input that could not become a row, with what is needed to find and mend it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRecord {
    /// Where it came from: a file's path, a topic and partition.
    pub origin: String,
    /// Line number in a file (from 1), or offset in a partition.
    pub line: Option<u64>,
    /// Why it is not a row.
    pub reason: String,
    /// The input itself, cut at the connector's bound.
    pub raw: Vec<u8>,
}

/// Columns of a dead letter: `connector`, `origin` (file, or topic and partition), `line` (or offset), `reason`, `raw` (the input as
/// text; bytes that are no UTF-8 are replaced) and `at`.
pub fn bad_record_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("connector", DataType::Utf8, false),
        Field::new("origin", DataType::Utf8, false),
        Field::new("line", DataType::UInt64, true),
        Field::new("reason", DataType::Utf8, false),
        Field::new("raw", DataType::Utf8, false),
        Field::new("at", DataType::Timestamp(TimeUnit::Millisecond, Some(UTC.into())), false),
    ]))
}

/// Dead letters as rows of [`bad_record_schema`]; `at` tells the time of each.
pub fn bad_record_columns(connector: &str, bad: &[BadRecord], at: impl Fn(usize) -> Millis) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(bad.iter().map(|_| connector))),
        Arc::new(StringArray::from_iter_values(bad.iter().map(|record| record.origin.as_str()))),
        Arc::new(bad.iter().map(|record| record.line).collect::<UInt64Array>()),
        Arc::new(StringArray::from_iter_values(bad.iter().map(|record| record.reason.as_str()))),
        Arc::new(StringArray::from_iter_values(
            bad.iter().map(|record| String::from_utf8_lossy(&record.raw)),
        )),
        Arc::new(
            TimestampMillisecondArray::from_iter_values((0..bad.len()).map(|row| at(row).0))
                .with_timezone(UTC),
        ),
    ];
    RecordBatch::try_new(bad_record_schema(), columns).expect("the columns are those of the schema")
}
