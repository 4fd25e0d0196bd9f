//! # The metadata log with a quorum of voters
//!
//! The second implementation of [`millstream_machine::metadata::MetadataLog`]: openraft decides who leads and what is
//! committed; our storage log is its log, an [`millstream_env::Env`] its runtime, a [`millstream_protocol::Dial`] its network.
//! See decision 5 in `docs/decisions`.
//!
//! - `quorum_log`: opening it, proposing, reading. `members`: changing who the members are. `server`: what they ask.
//! - `compaction`: when a snapshot is made, and what of the log goes then.
//! - `store`: log, vote and snapshot on disk; `places` keeps which entry lies where; `batches` is an entry's form.
//! - `log_store`, `state_machine`, `network`, `wire`, `runtime`: what openraft asks for.
//!
//! ## One entry is one batch
//! A proposed batch of records is one entry and one record batch on disk: it is there or not, on every member and after every crash,
//! so it can neither be cut in two by a new leader nor come half into effect. Entries are counted by index, records by offset;
//! the term of an entry is the leader epoch of its batch. A leader change and a change of members are control batches, which take
//! an offset and say nothing to an image.
//!
//! ## Invariants
//! - A vote is durable before it is given, an entry before it is acknowledged, a cut before anything is answered.
//! - A failed sync is never tried again: the log directory goes offline, openraft stops, and every waiting caller is told why.
//! - A member is a node *and* a directory; requests name both, and who is not meant refuses.
//! - A leader that restarts leads only after another election: in its old term it may have sent what it has lost since.
//! - What is removed from the begin of the log is in a snapshot that is durable.
//! - A run is repeated by its seed: there is no map with random order, no clock and no randomness but the env's.
//!
//! ## Deliberately absent
//! Applying records (an image is built from [`millstream_machine::metadata::MetadataLog::read`]), observers (they fetch), and
//! linearizable reads (who decides does so against an image that has all of its epoch, and its proposal is void in another).

mod batches;
mod compaction;
mod config;
mod error;
mod log_store;
mod members;
mod network;
mod places;
mod quorum_log;
mod reading;
mod runtime;
mod server;
mod snapshot;
mod state_machine;
mod store;
mod types;
mod vote;
mod wire;

pub use config::{Bounds, KEEP_BEFORE_SNAPSHOT, QuorumOptions, QuorumTiming, SNAPSHOT_AFTER};
pub use error::QuorumError;
pub use members::{MemberStatus, QuorumStatus};
pub(super) use network::Found;
pub use quorum_log::QuorumLog;
pub use reading::Kept;
pub(crate) use snapshot::read_whole as read_snapshot;
pub use snapshot::{Compactor, NewCompactor};
pub use store::LowerRecoveryPoint;
pub use types::MemberId;

use super::codec;
