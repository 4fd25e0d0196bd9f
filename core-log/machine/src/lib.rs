//! # Deterministic state machines
//!
//! Every decision that the broker makes about replication, groups, transactions and metadata is made here, by a machine
//! that is a plain function of what it was told: `step(now, input) -> effects`. No machine has a clock, randomness, I/O,
//! a lock or a task. What is random or takes time arrives as an input; what must happen outside leaves as an effect. So
//! the same inputs give the same outcome on a server, in a test and in the simulator.
//!
//! | machine | one for each | decides |
//! | --- | --- | --- |
//! | [`replica::Replica`] | partition that this broker leads | when records are durable, what consumers may read, which produce is answered |
//! | [`group::Coordinator`] | partition of `__consumer_offsets` | membership, generations and committed offsets of its groups |
//! | [`transaction::Coordinator`] | partition of `__transaction_state` | producer epochs, and the way of each transaction from begin to its last marker |
//! | [`metadata::Controller`] | cluster | topics, partitions, configs, brokers, features, producer-id blocks; who leads and who may be in sync |
//! | [`metadata::Liveness`] | active controller | which brokers are silent, and which may stop |
//!
//! ## How a decision becomes true
//!
//! A decision is records to append and an answer that waits. Only `replay(record)` changes durable state; `step` calls it
//! with exactly the records that it hands to the shell, in the order in which the shell appends them. The answer leaves
//! once the append is below the high watermark ([`Ticket`]), so no client hears of something that a power cut could take
//! back. Replaying the log into a new machine therefore gives the state that was decided. Should an append fail, the
//! machine refuses everything that follows: the shell drops it and loads another one from the log.
//!
//! ## Invariants
//!
//! - Every [`Waiter`] given to a machine is answered exactly once, except where the input's documentation says otherwise.
//! - Answers that depend on records leave in the order in which those records were appended.
//! - A machine never sees a version number of the protocol; what depends on one arrives as a named fact.
//! - The rules a machine must never break are small pure functions in its `invariant` module, called by `debug_assert!`,
//!   by the tests and by the simulator.
//!
//! ## Deliberately absent
//!
//! Bytes of requests (see `millstream-protocol`), files (see `millstream-storage`), threads, sockets and clocks (see
//! `millstream-broker`, which performs the effects).

mod common;
pub mod config;
mod error;
pub mod group;
pub mod metadata;
pub mod replica;
mod tickets;
mod timers;
pub mod transaction;
mod wire;

pub use common::{KeyValue, Ticket, TransactionOutcome, Waiter, partition_for};
pub use error::Error;
