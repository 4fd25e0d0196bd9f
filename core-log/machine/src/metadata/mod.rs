//! # Metadata: what exists, and who decides it
//!
//! Seam 5 of the house. All that the cluster knows of itself is records in one log, `__cluster_metadata`, in Kafka's
//! metadata record format. The [`Controller`] decides what to append, against the [`Image`] of what is committed; the
//! [`MetadataLog`] makes it durable; every node applies the same records in the same order to its own image.
//!
//! Records are facts ("topic x has id y"), never commands ("create topic x"): a node that applies one has nothing left to
//! decide, so two builds cannot decide differently. A record type or version that a build does not know stops it with
//! [`crate::Error::UnknownRecord`]; skipping a fact would let its image drift from the others'.
//!
//! An image is immutable and shared: readers hold an `Arc<Image>` and never lock. Its maps are behind `Arc`s, so that an
//! image that differs in one topic shares the rest.

mod alter_configs;
mod alter_partition;
mod apply;
mod brokers;
mod controller;
mod elections;
mod features;
mod heartbeat;
mod held;
mod image;
mod internal_topic;
pub mod invariant;
mod liveness;
mod log;
mod partition_change;
mod placement;
mod reassignment;
mod snapshot;
#[cfg(test)]
mod tests;
mod topic_name;
mod topics;

pub use controller::{Controller, Decision, MAX_PARTITIONS_PER_REQUEST, NewIds};
pub use elections::MAX_ELECTIONS_PER_BALANCE;
pub use image::{Broker, ConfigScope, ControllerNode, Image, Listener, Partition, Topic};
pub use internal_topic::InternalTopic;
pub use liveness::Liveness;
pub use log::{BoxFuture, Committed, MetadataLog, ProposeError};
pub use millstream_protocol::messages::MetadataRecord as Record;
pub use topic_name::{MAX_TOPIC_NAME_LENGTH, validate_topic_name};
