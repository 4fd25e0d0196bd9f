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
//! ## How the active controller is driven
//!
//! 1. On becoming the leader of the log, once the image has everything committed before: [`Liveness::lead`], then
//!    [`Controller::bootstrap`] where the log is empty.
//! 2. One decision at a time: decide against the image, [`MetadataLog::propose`], apply, [`Liveness::observe`], answer, next. A
//!    decision without records is answered at once. A batch lands exactly at the [`Image::end`] that it was decided against, since
//!    whatever else a new leader appends, it applies before it decides; broker epochs are offsets by that.
//! 3. A broker registers ([`Controller::register_broker`]), follows the log, and says with each heartbeat how far it is:
//!    [`Liveness::heard`], then [`Controller::heartbeat`].
//! 4. At every [`Liveness::next_look`]: [`Liveness::expired`], and [`Controller::fence`] for those.
//! 5. Every `leader.imbalance.check.interval.seconds`, if `auto.leader.rebalance.enable`: [`Controller::balance_leaders`] and
//!    [`Controller::elect_leaderless`], again as long as they say that there is more.
//!
//! A node that is too far behind to read the log takes [`Image::to_records`] from another, see [`Image::from_records`].
//!
//! ## What keeps acknowledged records
//!
//! Only a leader proposes who is in sync ([`Controller::alter_partition`]), and names the broker epoch of whoever joins; the
//! controller takes out who is fenced, stops or begins again. Below `min.insync.replicas` (see [`Partition::min_isr`]) leaders
//! acknowledge nothing, so that whoever leaves the in-sync set then stays eligible to lead (KIP-966), until so many are in sync
//! again. A replica whose log directory is not among those that its broker registered with leads nothing; and a broker that cannot
//! find the log of one says so ([`Controller::assign_directories`]).
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
mod replica_dirs;
mod snapshot;
#[cfg(test)]
mod tests;
mod topic_name;
mod topics;

pub use brokers::WHATEVER_EPOCH;
pub use controller::{Controller, Decision, MAX_PARTITIONS_PER_REQUEST, NewIds};
pub use elections::MAX_ELECTIONS_PER_BALANCE;
pub use features::SupportedFeatures;
pub use image::{Broker, ConfigScope, ControllerNode, Image, Listener, Partition, Topic};
pub use internal_topic::InternalTopic;
pub use liveness::Liveness;
pub use log::{BoxFuture, Committed, MetadataLog, ProposeError};
pub use millstream_protocol::messages::MetadataRecord as Record;
pub use replica_dirs::LOST_DIRECTORY;
pub use topic_name::{MAX_TOPIC_NAME_LENGTH, validate_topic_name};
