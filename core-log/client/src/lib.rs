//! # A Kafka client over any door
//!
//! Producer, consumer and admin, as streams, connect, the command line and the simulator use them. They talk to whatever a
//! [`Dial`](millstream_protocol::Dial) reaches: the broker in this process, a Millstream cluster, or Apache Kafka. Nothing
//! here knows which one it is.
//!
//! - [`Client`]: the way in. Cheap to clone; hands out the three below, which share its metadata but not its links, so that a
//!   long poll of one never stands in front of another's request.
//! - [`Producer`]: batches records by partition, keeps their order through retries, and runs transactions.
//! - [`Consumer`]: fetches, as a member of a group or on its own; its records are slices of the fetched bytes.
//! - [`Admin`]: topics, configs, groups, offsets.
//!
//! ## Invariants
//! - Every wait is bounded, and the error at its end says what was waited for and what went wrong last.
//! - With idempotence (the default) a record that was acknowledged is in the log once and in the order of `send`, whatever was
//!   retried on the way.
//! - A position never moves past a record that `poll` has not returned, aborted records and control batches aside.
//! - No allocation for a record beyond its place in a batch: a delivery is an index into the outcome of its batch.
//! - Clock, sleep, tasks and randomness come from [`Env`](millstream_env::Env); so the simulator runs this very code.
//!
//! ## Deliberately absent
//! Consumer groups of KIP-848 and share groups (issues of their own), regular-expression subscriptions, interceptors,
//! serializers (keys and values are bytes; see streams and connect for types), fetch sessions (every fetch names its
//! partitions), and transactions v2: transactions are run the way that every broker since 2.5 knows.

mod admin;
pub mod assignor;
mod client;
mod cluster;
mod config;
mod consumer;
mod error;
#[cfg(test)]
mod fake;
mod links;
mod metadata;
mod offsets;
mod producer;
mod retry;
mod types;

pub use admin::Admin;
pub use client::Client;
pub use config::{
    Acks, ClientConfig, ConsumerConfig, IsolationLevel, OffsetReset, Partitioner, ProducerConfig,
};
pub use consumer::{Consumer, ConsumerHandle, RebalanceListener};
pub use error::ClientError;
pub use links::Links;
pub use producer::{Delivery, Producer, murmur2, partition_for_key};
pub use types::{
    AlterConfig, BrokerInfo, ClusterDescription, ConfigEntry, ConfigResource, ConsumerRecord, Election,
    GroupDescription, GroupListing, GroupMember, GroupMetadata, NewTopic, OffsetAndMetadata,
    OffsetAndTimestamp, OffsetSpec, Offsets, PartitionInfo, PartitionRecords, ProducerRecord,
    QuorumDescription, QuorumMember, Reassignment, RecordMetadata, RecordsToDelete, TopicDescription,
};

/// The result of a client's call.
pub type Result<T, E = ClientError> = std::result::Result<T, E>;
