//! # Streams core: the pure half of stream processing
//!
//! What a Kafka-Streams-class program *means*, without a network, a disk, a clock or a thread. Two front ends stand on it:
//! the Rust DSL ([`dsl`], typed rows) and the TOML/SQL pipelines (Arrow record batches, in `pipelines/plan`). Both lower to
//! one [`Topology`] of sources, [`Operator`]s, stores, repartitions and sinks; a [`task::Task`] runs one partition of it, and
//! whoever drives the task ([`TestDriver`] here, the `millstream-streams` runtime on a log) only moves records and commits.
//!
//! ## How a front end plugs in
//! 1. Give each input a [`Deserializer`] (records of one partition -> [`Chunk`], with the rows' event times) and each output a
//!    [`Serializer`] (chunk -> records). A chunk holds typed rows behind `dyn`, or an Arrow `RecordBatch`; an operator is
//!    handed what the operator before it forwarded, so a front end uses one kind throughout.
//! 2. Stateless work is an [`Operator`] of its own. Stateful work is one of the kernels in [`kernel`], each generic over a
//!    small trait that speaks of (key bytes, timestamp, row): [`kernel::Fold`] for aggregation with and without windows,
//!    [`kernel::Lookup`] for stream-table joins, [`kernel::TableRows`] for what a table stores. A typed closure implements
//!    them row by row, DataFusion accumulators batch by batch.
//! 3. Put it together with [`TopologyBuilder`]; `describe()` and `to_mermaid()` draw the result.
//!
//! ## Invariants
//! - **Semantics are Kafka Streams 4.x**, except where its behaviour is a known defect; then the right behaviour is ours.
//!   The rules themselves are small pure functions in [`rule`]; kernels call them, so a rule is fixed once.
//! - **Stream time is an operator's own**: the maximum timestamp over the rows it accepted so far, of all keys. It advances
//!   row by row, also within a chunk, and is kept in the operator's store, so a restart does not change what is late. Where rows of
//!   several partitions meet it is that of each row's way, and windows close by the last way ([`ways`]).
//! - **A chunk is a run of one partition**, cut where the head of another input of the task is older, or as old and of an input that
//!   was declared earlier. How rows are cut changes no result: where two ways of a row meet again, at a step, a store or a topic, rows are handed on one by one.
//! - **Names are state.** Stores, repartitions and stateful steps are named by the user, so adding a step renumbers nothing.
//! - **State changes reach a store only at a commit.** Until then they lie in an uncommitted layer ([`store::Layered`]) whose
//!   content, one record for each changed key, is the changelog of the epoch.
//! - **What is due by time leaves in turns**, of as many rows as whoever drives the task allows, with commits in between. Until the last
//!   has left, the task takes no rows and tells nobody that time has come farther, so results are those of one turn. (Only windows
//!   that a row closes where it goes one by one leave with that row.)
//! - Every result depends on the input records, their order and the times passed in, on nothing else.
//!
//! ## Deliberately absent
//! Sliding and session windows, joins of two streams or two tables, the processor API, interactive queries, versioned stores,
//! Kafka's defects as an option (`compat = "kafka"`). A source topic is not reused as the changelog of its table: the two
//! differ when a row fails to decode.

pub mod chunk;
pub mod counter;
pub mod driver;
pub mod dsl;
pub mod error;
pub mod kernel;
pub mod operator;
pub mod rule;
pub mod store;
pub mod task;
pub mod topology;
pub mod ways;

pub use chunk::{Chunk, Data, Header, Headers, Pairs, Rows, TypedRows};
pub use counter::{Counter, NodeCounters};
pub use driver::TestDriver;
pub use error::{Result, StreamsError};
pub use operator::{Epoch, Operator, OperatorContext, Times};
pub use store::{MemoryStore, Store, StoreSpec};
pub use task::{Task, TaskCommit, TaskId};
pub use topology::{
    Decoded, Deserializer, InputRecord, OperatorSpec, OutputRecord, Port, Serializer, SinkSpec, SourceSpec,
    TopicName, Topology, TopologyBuilder,
};

use millstream_record::Millis;

/// The end of event time. An operator is told this stream time when its inputs have ended; every window closes.
pub const END_OF_TIME: Millis = Millis(i64::MAX);
/// The beginning of event time: no row seen yet.
pub const BEGINNING_OF_TIME: Millis = Millis(i64::MIN);
