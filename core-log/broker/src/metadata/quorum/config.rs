//! What a quorum is told when it is opened.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use millstream_protocol::{Dial, Endpoint};
use openraft::SnapshotPolicy;

use super::error::QuorumError;
use super::snapshot::NewCompactor;
use super::store::LowerRecoveryPoint;
use super::types::MemberId;

/// How long a member that fails to answer is left alone before the next attempt.
const BACKOFF: &str = "100ms";
/// Entries in one request, at most; their bytes have a bound of their own.
const ENTRIES_PER_REQUEST: u64 = 1024;
/// Proposals and messages that may wait for the quorum; behind that it refuses proposals.
const QUEUE: u64 = 4096;

/// How fast a quorum notices that its leader is gone. Followers trust a leader for `election_max` after they heard of it, and then
/// wait for as long as they drew before they stand themselves: a new leader is there after about their sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuorumTiming {
    /// How often the leader speaks when it has nothing to say.
    pub heartbeat: Duration,
    /// Least time without a leader before a member stands for election.
    pub election_min: Duration,
    /// Most time; each member draws its own between the two.
    pub election_max: Duration,
}

impl Default for QuorumTiming {
    /// A new leader within a second, and no election for a pause of some hundred milliseconds.
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(60),
            election_min: Duration::from_millis(250),
            election_max: Duration::from_millis(500),
        }
    }
}

impl QuorumTiming {
    /// For members that watch each other's processes and stand for election at once where one is gone: only a machine that pauses,
    /// or a network that is cut, is left to be noticed by silence. So they can speak less, and no busy machine is taken for dead. (A
    /// quorum wakes five times for each heartbeat, which is most of what an idle node does.)
    #[must_use]
    pub const fn watched() -> Self {
        Self {
            heartbeat: Duration::from_millis(250),
            election_min: Duration::from_millis(500),
            election_max: Duration::from_millis(1_000),
        }
    }
}

/// What a quorum is opened with.
#[derive(Clone)]
pub struct QuorumOptions {
    /// Who this node is among the members.
    pub member: MemberId,
    /// The first voters, on a log that names none yet; every one of them is started with the same. Empty where the node joins a quorum
    /// that is there already: it waits until the leader adds it.
    pub founders: BTreeMap<MemberId, Endpoint>,
    /// How to reach the other members.
    pub dial: Arc<dyn Dial>,
    /// How fast failures are noticed.
    pub timing: QuorumTiming,
    /// Entries after which a snapshot is made.
    pub snapshot_after: u64,
    /// Entries before a snapshot that stay, so that a member that lags a little needs no snapshot.
    pub keep_before_snapshot: u64,
    /// The same in bytes and by time, whichever is reached first.
    pub bounds: Bounds,
    /// Makes what a snapshot holds.
    pub compactor: NewCompactor,
    /// Called before the log is cut.
    pub lower_recovery_point: LowerRecoveryPoint,
}

/// How large and how old a member's part of the log may become, however few entries that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of entries after which a snapshot is made (`metadata.log.max.record.bytes.between.snapshots`).
    pub between_snapshots: u64,
    /// How long something may be committed before a snapshot is made that has it (`metadata.log.max.snapshot.interval.ms`).
    pub snapshot_interval: Duration,
    /// Bytes of log and snapshot together above which nothing stays before the snapshot (`metadata.max.retention.bytes`).
    pub retention: u64,
    /// Age of a snapshot above which nothing stays before it (`metadata.max.retention.ms`).
    pub retention_age: Duration,
}

impl Bounds {
    /// Entries alone are counted.
    pub const NONE: Self = Self {
        between_snapshots: u64::MAX,
        snapshot_interval: Duration::MAX,
        retention: u64::MAX,
        retention_age: Duration::MAX,
    };
}

/// The default of [`QuorumOptions::snapshot_after`].
pub const SNAPSHOT_AFTER: u64 = 20_000;
/// The default of [`QuorumOptions::keep_before_snapshot`].
pub const KEEP_BEFORE_SNAPSHOT: u64 = 2_000;

impl QuorumOptions {
    pub(super) fn raft_config(&self) -> Result<openraft::Config, QuorumError> {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let config = openraft::Config {
            cluster_name: "metadata".to_owned(),
            heartbeat_interval: millis(self.timing.heartbeat),
            election_timeout_min: millis(self.timing.election_min),
            election_timeout_max: millis(self.timing.election_max),
            max_payload_entries: ENTRIES_PER_REQUEST,
            api_channel_size: Some(QUEUE),
            notification_channel_size: Some(QUEUE),
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_after),
            replication_lag_threshold: self.keep_before_snapshot.max(self.snapshot_after),
            max_in_snapshot_log_to_keep: u64::MAX, // `compaction` has what is before a snapshot go
            backoff: BACKOFF.to_owned(),
            enable_pre_vote: Some(true),
            // A leader that comes back without the entries that it had not synced must not go on in the term in which it
            // sent them to others.
            enable_leader_restore: Some(false),
            ..openraft::Config::default()
        };
        config.validate().map_err(|error| QuorumError::Members { reason: error.to_string() })
    }
}
