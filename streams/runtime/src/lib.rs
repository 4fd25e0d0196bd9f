//! # Streams runtime: topologies on a log
//!
//! Runs a [`millstream_streams_core::Topology`] against any cluster that a [`millstream_client`] can reach: an embedded broker,
//! Millstream over TCP, Apache Kafka. The topology says what is computed; here is how it survives: tasks on members of a
//! consumer group, state on disk with a changelog, commits that are exactly-once.
//!
//! ## The ways of the data
//! - A [`StreamsApp`] runs `threads` workers. Each is one group member with a consumer and a transactional producer of its own; the
//!   group's leader places tasks (a subtopology on one partition) with an assignor that leaves them where their state is.
//! - A worker polls, hands records to its tasks, and sends what they make. Every `commit_interval_ms`, or when uncommitted
//!   state outgrows its bound, it commits: outputs, changelog and input offsets in one transaction; only then are the
//!   changes folded into the local store, in one batch with the changelog offsets that they reach.
//! - A task that comes in restores: it replays its changelogs, read-committed, from the offsets that the local store has
//!   reached. A local store that is ahead of its changelog, or belongs to another topic id, is discarded.
//!   That may take long, so it goes on in slices between polls, while other tasks of the worker work.
//!
//! ## Invariants
//! - The changelog is the truth. The local store is a cache of a prefix of it, never ahead of what is committed, so a crash at any
//!   point costs a replay of the difference and nothing else.
//! - With exactly-once, what a worker computed and did not commit is invisible: an aborted transaction takes outputs, changelog and
//!   offsets with it, and a task whose epoch failed is built anew.
//! - Input ends by offsets (never by idleness): a finite input ends where its writer said, a task is done when it has consumed
//!   all its inputs to their ends; then event time ends, windows close, and the ends pass on through repartition topics as a word
//!   in the committed offsets' metadata, so that any member of the group can read them.
//! - A worker is a static member of its group and its producer has a lasting transactional id, both named by the state
//!   directory: after a crash it comes back at once and ends what it left open, and a twin of it is fenced.
//! - No turn does more than its transaction has time for: rows in, and rows out of windows that close together, are as many as a run
//!   of a few milliseconds takes, and a commit may come behind each. A worker whose epochs all fail gives up, and says why.
//! - State of a task that has been away for `state_cleanup_delay_ms` is removed: its changelog would be compacted beyond what a
//!   replay of the rest can tell.
//! - All stores of a process share one fjall keyspace: one for each store would let an idle one pin the journal of all.
//!
//! ## Deliberately absent
//! Standby replicas, warm-up, interactive queries, regular-expression subscriptions, growing the partitions of an input while running.

mod active;
mod app;
mod assignor;
mod cleanup;
mod config;
mod control;
mod ends;
mod engine;
mod error;
mod layout;
mod missing;
mod pace;
mod purge;
mod restore;
mod state;
mod worker;

pub use app::StreamsApp;
pub use config::{ProcessingGuarantee, StreamsConfig};
pub use control::{StreamsControl, Summary};
pub use error::{AppError, Result};
pub use millstream_streams_core::{
    Counter, NodeCounters, StreamsError, TaskId, TestDriver, Topology, TopologyBuilder, dsl,
};
