//! # What the author of a connector sees
//!
//! A connector moves rows between the log and something else: a [`SourceConnector`] brings rows in, a [`SinkConnector`] takes
//! them out. Both exchange Arrow [`RecordBatch`](arrow::array::RecordBatch)es, and the Arrow schema is the schema. Records
//! of the log are made from rows, and rows from records, by [`convert`] and [`key`] at the log's edge only: one row is one
//! record.
//!
//! Who calls what:
//! 1. At check time the configuration (a [`config::Table`] with spans, whatever text it came from) is resolved against the
//!    connector's [`config::ConfigDef`], which finds every mistake at once. Then the connector names its tables and their
//!    schemas, so that a plan can be made before anything runs. A connector that infers a schema is handed what it inferred
//!    before, and sticks to it.
//! 2. At run time the worker (`connect/runtime`) opens a task with the positions that the log holds, polls it, and writes rows
//!    and positions in one transaction. Only [`SourceTask::committed`] allows a source to forget what it read.
//! 3. A sink task says at [`SinkTask::open`] where what it durably holds ends; that wins over the committed offset, and is what
//!    makes a sink exactly-once. It tells in [`SinkTask::flush`] which offsets are safe to commit.
//! 4. A sink that cannot take some rows for what is in them answers [`SinkTask::put`] with all of these at once
//!    ([`ConnectError::BadRows`]) and takes none of the batch. The worker deals with them durably, and puts the others: so neither
//!    a dead letter nor a row is lost when it is killed in between.
//!
//! Invariants:
//! - No tokio type, socket or clock is in this API, nor anything that could not cross the wall of a WASM component: futures
//!   are boxed, time is [`TaskContext::now`], blocking work goes through [`TaskContext::blocking`].
//! - A position is an opaque JSON value that belongs to the connector; it is stored as it is and given back.
//! - The key encoding ([`key`]) is frozen: it decides which partition a row is in, so it may never change.
//! - Bad input is data, not an error: it travels as [`BadRecord`] beside the good rows, so that it can be kept.
//!
//! Deliberately absent: how tasks are placed, retried and restarted (the worker's), topics of bad records (a sink like any
//! other), a global list of connectors (a [`Registry`] is a value).

pub mod config;
pub mod context;
pub mod convert;
pub mod error;
pub mod key;
pub mod registry;
pub mod schema;
pub mod sink;
pub mod source;
pub mod types;

pub use config::{Config, ConfigDef, Key, Problem};
pub use context::{TaskContext, TaskHost};
pub use error::{ConnectError, RefusedRow, Result};
pub use registry::Registry;
pub use schema::TableSchema;
pub use sink::{SinkBatch, SinkConnector, SinkInput, SinkOpen, SinkPartition, SinkTask};
pub use source::{
    BadRecord, Operation, Polled, Positions, SourceBatch, SourceConnector, SourceTask, SystemColumns,
    bad_record_columns, bad_record_schema,
};
