//! # The worker: runs connectors on a log
//!
//! [`run_source`] polls a source task, turns its Arrow batches into records and writes records and positions in one transaction.
//! [`run_sink`] reads records, turns them into Arrow batches and hands them to a sink task. [`Daemon`] runs several of both
//! from one TOML file. All of them stand on [`Log`], the few things a worker asks of a log; [`ClientLog`] is the real one, over
//! any `Dial`.
//!
//! Why it is exactly-once:
//! - A source's writer is transactional under an id made of the worker's namespace and the source's name. Opening it fences and
//!   aborts whatever an earlier process left, and only then are positions read. Rows and the position behind them become
//!   visible together or not at all, and only afterwards is the source told.
//! - A sink says itself where what it holds ends; reading starts there. Offsets are committed after the sink has made rows durable,
//!   so a committed offset is never ahead of the sink.
//! - A sink's dead letters are written in one transaction with a mark of which records they are of, in `__connect_offsets`. Records that
//!   are read again, because the sink had not made durable what stood around them, are not buried twice. Marks that are behind
//!   the sink's progress are removed.
//!
//! Input ends by offsets, never by idleness: a drained source publishes the end offset of each partition that it wrote
//! ([`Ends`]), also durably in `__connect_offsets`; a sink that has read up to the ends of its input finishes.
//!
//! Deliberately absent: parsing of connector settings and schemas (`connect/api`), placement over several processes, REST.

mod backoff;
mod client_log;
mod daemon;
mod dead_letters;
mod error;
mod host;
mod log;
#[cfg(any(test, feature = "testing"))]
pub mod memory;
mod offsets;
mod rows;
mod schemas;
mod sink;
mod sink_letters;
mod source;
mod spec;
mod status;

pub use client_log::ClientLog;
pub use daemon::{Daemon, Lookup};
pub use error::{Result, RuntimeError};
pub use host::{Stop, Stopper, stop_signal};
pub use log::{
    Fetched, Kept, KeyFilter, Log, LogReader, LogWriter, NewRecord, Placement, TopicFacts, TopicSpec,
};
pub use offsets::OFFSETS_TOPIC;
pub use schemas::{SCHEMAS_TOPIC, known_schemas};
pub use sink::run_sink;
pub use source::run_source;
pub use spec::{OnError, RetryPolicy, SinkSpec, SourceSpec, TableTopic, WorkerEnv};
pub use status::{Counts, Ends, Outcome, Status, ends_channel};

#[cfg(test)]
mod tests;
