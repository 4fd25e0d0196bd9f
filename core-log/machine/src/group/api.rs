//! What goes into the group coordinator and what comes out.

use bytestring::ByteString;
use millstream_protocol::ErrorCode;
use millstream_protocol::messages::delete_groups::DeletableGroupResult;
use millstream_protocol::messages::offset_fetch::{OffsetFetchRequestGroup, OffsetFetchResponseGroup};
use millstream_protocol::messages::{
    HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
    LeaveGroupResponse, OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse,
    SyncGroupRequest, SyncGroupResponse, TxnOffsetCommitRequest, TxnOffsetCommitResponse,
};
use millstream_record::{ProducerEpoch, ProducerId};

use crate::{KeyValue, Ticket, TransactionOutcome, Waiter};

/// The broker's settings for groups; the names are Kafka's.
#[derive(Clone, Debug)]
pub struct Config {
    /// `group.min.session.timeout.ms`.
    pub min_session_timeout_ms: i32,
    /// `group.max.session.timeout.ms`.
    pub max_session_timeout_ms: i32,
    /// `group.initial.rebalance.delay.ms`: how long an empty group waits for more members after the first.
    pub initial_rebalance_delay_ms: i32,
    /// `group.max.size`.
    pub max_size: usize,
    /// `offset.metadata.max.bytes`.
    pub offset_metadata_max_bytes: usize,
    /// `offsets.retention.minutes`, in milliseconds.
    pub offsets_retention_ms: i64,
    /// `offsets.retention.check.interval.ms`.
    pub offsets_retention_check_interval_ms: i64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            min_session_timeout_ms: 6_000,
            max_session_timeout_ms: 1_800_000,
            initial_rebalance_delay_ms: 3_000,
            max_size: i32::MAX as usize,
            offset_metadata_max_bytes: 4_096,
            offsets_retention_ms: 7 * 24 * 60 * 60 * 1_000,
            offsets_retention_check_interval_ms: 600_000,
        }
    }
}

/// Who sent a join.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Client {
    /// `client.id`; begins the member id.
    pub id: ByteString,
    /// Its network address, as Kafka shows it: `/127.0.0.1`.
    pub host: ByteString,
}

/// What the group coordinator is told.
#[derive(Clone, Debug)]
pub enum Input {
    /// A member joins, for the first time or again.
    Join {
        /// Who waits.
        waiter: Waiter,
        /// Where it comes from.
        client: Client,
        /// What it asks.
        request: JoinGroupRequest,
        /// Fact: a member without an id is told one first and comes back with it (KIP-394).
        must_know_member_id: bool,
        /// Fact: the leader can be told to keep the assignment (KIP-814).
        can_skip_assignment: bool,
        /// 128 random bits for the member id, should a new one be needed.
        random: u128,
    },
    /// A member asks for its assignment; the leader brings everyone's.
    Sync {
        /// Who waits.
        waiter: Waiter,
        /// What it asks.
        request: SyncGroupRequest,
    },
    /// A member lives.
    Heartbeat {
        /// Who waits.
        waiter: Waiter,
        /// What it asks.
        request: HeartbeatRequest,
    },
    /// Members leave (KIP-345). A request without `members` is of the older form, about `member_id` alone.
    Leave {
        /// Who waits.
        waiter: Waiter,
        /// What it asks.
        request: LeaveGroupRequest,
    },
    /// Offsets are committed. Topics that do not exist have been taken out.
    OffsetCommit {
        /// Who waits.
        waiter: Waiter,
        /// What it asks.
        request: OffsetCommitRequest,
    },
    /// Offsets are committed within a transaction, which the shell has verified to hold this partition.
    TxnOffsetCommit {
        /// Who waits.
        waiter: Waiter,
        /// What it asks.
        request: TxnOffsetCommitRequest,
    },
    /// The committed offsets of one group are read.
    OffsetFetch {
        /// Who waits.
        waiter: Waiter,
        /// Which group, and which of its partitions (none named: all).
        request: OffsetFetchRequestGroup,
        /// Fact: a partition with a pending transaction answers UNSTABLE_OFFSET_COMMIT (KIP-447).
        require_stable: bool,
    },
    /// Offsets of a group are deleted (KIP-496). Topics that do not exist have been taken out.
    OffsetDelete {
        /// Who waits.
        waiter: Waiter,
        /// What it asks.
        request: OffsetDeleteRequest,
    },
    /// A group is deleted with its offsets.
    Delete {
        /// Who waits.
        waiter: Waiter,
        /// Which group.
        group_id: ByteString,
    },
    /// A transaction coordinator ends a transaction that has offsets in this partition.
    EndTransaction {
        /// Who waits.
        waiter: Waiter,
        /// The producer.
        producer_id: ProducerId,
        /// Its epoch.
        producer_epoch: ProducerEpoch,
        /// The epoch of the transaction coordinator, for the marker.
        coordinator_epoch: i32,
        /// How it ends.
        outcome: TransactionOutcome,
    },
    /// Topics were deleted, so offsets committed for them are void.
    TopicsDeleted {
        /// Their names.
        topics: Vec<ByteString>,
    },
    /// The append with this ticket, and so every one before it, is below the high watermark.
    Durable {
        /// Which append.
        ticket: Ticket,
    },
    /// The append with this ticket is in the log, but did not come below the high watermark in time. Who waits for it is answered
    /// with COORDINATOR_NOT_AVAILABLE; it may yet become durable, and [`Input::Durable`] says so then.
    Late {
        /// Which append.
        ticket: Ticket,
    },
    /// An append failed, or this broker no longer leads the partition. Everyone who waits is answered with `error`, and so is
    /// everyone who comes later; the shell loads another coordinator when it may.
    Failed {
        /// NOT_COORDINATOR, or COORDINATOR_NOT_AVAILABLE.
        error: ErrorCode,
    },
    /// Time passed; call at or after [`super::Coordinator::next_deadline`].
    Tick,
}

/// What must happen outside.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Append this as one batch, in the order of the tickets; report [`Input::Durable`] once it is below the high watermark,
    /// or [`Input::Failed`].
    Append {
        /// Names the append.
        ticket: Ticket,
        /// What to append.
        batch: Batch,
    },
    /// Answer a waiter.
    Answer {
        /// Who is answered.
        waiter: Waiter,
        /// With what.
        answer: Answer,
    },
}

/// One batch for the partition of `__consumer_offsets`.
#[derive(Clone, Debug, PartialEq)]
pub enum Batch {
    /// Plain records.
    Records(Vec<KeyValue>),
    /// Records within a transaction.
    Transactional {
        /// The producer.
        producer_id: ProducerId,
        /// Its epoch.
        producer_epoch: ProducerEpoch,
        /// The records.
        records: Vec<KeyValue>,
    },
    /// The control record that ends a transaction.
    Marker {
        /// The producer.
        producer_id: ProducerId,
        /// Its epoch.
        producer_epoch: ProducerEpoch,
        /// The epoch of the transaction coordinator.
        coordinator_epoch: i32,
        /// How it ends.
        outcome: TransactionOutcome,
    },
}

/// The answer to an input with a waiter.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// To [`Input::Join`].
    Join(JoinGroupResponse),
    /// To [`Input::Sync`].
    Sync(SyncGroupResponse),
    /// To [`Input::Heartbeat`].
    Heartbeat(HeartbeatResponse),
    /// To [`Input::Leave`]. For the older form of the request, `error_code` is the member's and `members` is empty.
    Leave(LeaveGroupResponse),
    /// To [`Input::OffsetCommit`].
    OffsetCommit(OffsetCommitResponse),
    /// To [`Input::TxnOffsetCommit`].
    TxnOffsetCommit(TxnOffsetCommitResponse),
    /// To [`Input::OffsetFetch`].
    OffsetFetch(OffsetFetchResponseGroup),
    /// To [`Input::OffsetDelete`].
    OffsetDelete(OffsetDeleteResponse),
    /// To [`Input::Delete`].
    Delete(DeletableGroupResult),
    /// To [`Input::EndTransaction`].
    EndTransaction(ErrorCode),
}
