//! Settings, with Kafka's names and defaults; times end in their unit.

use std::sync::Arc;

use bytestring::ByteString;
use millstream_protocol::Endpoint;
use millstream_record::Codec;

use crate::ClientError;
use crate::assignor::{Assignor, RangeAssignor};

/// How a client finds and talks to a cluster.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// `bootstrap.servers`: where to ask first. One reachable address is enough.
    pub bootstrap: Vec<Endpoint>,
    /// `client.id`: shows up in the broker's logs and quotas.
    pub client_id: ByteString,
    /// `request.timeout.ms`: how long one answer may take.
    pub request_timeout_ms: u64,
    /// `default.api.timeout.ms`: how long a call may take with its retries.
    pub api_timeout_ms: u64,
    /// `metadata.max.age.ms`: how long metadata is used without asking again.
    pub metadata_max_age_ms: u64,
    /// `retry.backoff.ms`: the wait before the first retry; it doubles with each further one.
    pub retry_backoff_ms: u64,
    /// `retry.backoff.max.ms`: where doubling ends.
    pub retry_backoff_max_ms: u64,
    /// `allow.auto.create.topics`: whether asking for a topic may create it, where the broker allows that.
    pub allow_auto_create_topics: bool,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            bootstrap: Vec::new(),
            client_id: ByteString::from_static("millstream"),
            request_timeout_ms: 30_000,
            api_timeout_ms: 60_000,
            metadata_max_age_ms: 300_000,
            retry_backoff_ms: 100,
            retry_backoff_max_ms: 1_000,
            allow_auto_create_topics: true,
        }
    }
}

impl ClientConfig {
    /// The defaults, with these addresses.
    #[must_use]
    pub fn new(bootstrap: Vec<Endpoint>) -> Self {
        Self { bootstrap, ..Self::default() }
    }
}

/// When a produce counts as done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Acks {
    /// `0`: as soon as it is sent. Offsets are not known.
    None,
    /// `1`: when the leader has it.
    Leader,
    /// `all`: when every in-sync replica has it durably.
    #[default]
    All,
}

impl Acks {
    /// The number on the wire.
    #[must_use]
    pub fn code(self) -> i16 {
        match self {
            Self::None => 0,
            Self::Leader => 1,
            Self::All => -1,
        }
    }
}

/// Settings of a producer.
#[derive(Clone, Debug)]
pub struct ProducerConfig {
    /// `acks`.
    pub acks: Acks,
    /// `linger.ms`: how long a batch waits for more records. 0 sends at once.
    pub linger_ms: u64,
    /// `batch.size`: bytes of records, before compression, at which a batch is sent without waiting.
    pub batch_size: usize,
    /// `buffer.memory`: bytes of records that may wait or be on their way; beyond it [`crate::Producer::send`] waits.
    pub buffer_memory: usize,
    /// `max.request.size`: bytes of one request, and so of one record.
    pub max_request_size: usize,
    /// `compression.type` and level.
    pub compression: Codec,
    /// `enable.idempotence`: retries neither duplicate nor reorder records. Needs acks=all.
    pub enable_idempotence: bool,
    /// `transactional.id`: the name under which this producer's transactions are fenced and recovered.
    pub transactional_id: Option<ByteString>,
    /// `transaction.timeout.ms`: after how long the coordinator aborts a transaction.
    pub transaction_timeout_ms: i32,
    /// `delivery.timeout.ms`: how long a record may take from `send` to its outcome, retries included.
    pub delivery_timeout_ms: u64,
    /// `max.in.flight.requests.per.connection`: at most 5 with idempotence (brokers remember 5 batches).
    pub max_in_flight: usize,
    /// `max.block.ms`: how long [`crate::Producer::send`] may wait for metadata and for buffer memory.
    pub max_block_ms: u64,
    /// `partitioner.class`: `None` is Kafka's default (hash of the key, sticky without one).
    pub partitioner: Option<Arc<dyn Partitioner>>,
}

impl Default for ProducerConfig {
    fn default() -> Self {
        Self {
            acks: Acks::All,
            linger_ms: 5,
            batch_size: 16 << 10,
            buffer_memory: 32 << 20,
            max_request_size: 1 << 20,
            compression: Codec::default(),
            enable_idempotence: true,
            transactional_id: None,
            transaction_timeout_ms: 60_000,
            delivery_timeout_ms: 120_000,
            max_in_flight: 5,
            max_block_ms: 60_000,
            partitioner: None,
        }
    }
}

/// Batches that a broker remembers for each producer and partition, and so the most that may be in flight with idempotence.
pub(crate) const MAX_IDEMPOTENT_IN_FLIGHT: usize = 5;

impl ProducerConfig {
    /// The defaults, as a transactional producer.
    #[must_use]
    pub fn transactional(id: impl Into<ByteString>) -> Self {
        Self { transactional_id: Some(id.into()), ..Self::default() }
    }

    pub(crate) fn check(&self) -> Result<(), ClientError> {
        let refuse = |setting, reason: &str| Err(ClientError::Config { setting, reason: reason.to_owned() });
        if self.enable_idempotence && self.acks != Acks::All {
            return refuse("acks", "an idempotent producer needs acks=all; or set enable.idempotence=false");
        }
        if self.enable_idempotence && self.max_in_flight > MAX_IDEMPOTENT_IN_FLIGHT {
            return refuse(
                "max.in.flight.requests.per.connection",
                "an idempotent producer may have at most 5",
            );
        }
        if self.max_in_flight == 0 {
            return refuse("max.in.flight.requests.per.connection", "it must be at least 1");
        }
        if self.transactional_id.is_some() && !self.enable_idempotence {
            return refuse("transactional.id", "a transactional producer needs enable.idempotence=true");
        }
        if self.buffer_memory == 0 || u32::try_from(self.buffer_memory).is_err() {
            return refuse("buffer.memory", "it must be from 1 byte to 4 GiB");
        }
        if self.delivery_timeout_ms < self.linger_ms {
            return refuse("delivery.timeout.ms", "it must not be below linger.ms");
        }
        Ok(())
    }
}

/// Chooses the partition of a record that names none.
pub trait Partitioner: Send + Sync + std::fmt::Debug + 'static {
    /// The partition, in `0..partitions`, for this key and value.
    fn partition(&self, topic: &str, key: Option<&[u8]>, value: Option<&[u8]>, partitions: i32) -> i32;
}

/// Where to begin when a group has no committed offset, or the offset is out of range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OffsetReset {
    /// At the first record that there is.
    Earliest,
    /// At the end: only what comes.
    #[default]
    Latest,
    /// Nowhere: an error.
    None,
}

/// Which records of transactions a consumer sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IsolationLevel {
    /// All of them, aborted and undecided ones included.
    #[default]
    ReadUncommitted,
    /// Those of committed transactions, up to the first undecided one.
    ReadCommitted,
}

impl IsolationLevel {
    /// The number on the wire.
    #[must_use]
    pub fn code(self) -> i8 {
        match self {
            Self::ReadUncommitted => 0,
            Self::ReadCommitted => 1,
        }
    }
}

/// Settings of a consumer.
#[derive(Clone, Debug)]
pub struct ConsumerConfig {
    /// `group.id`: needed to subscribe and to commit.
    pub group_id: Option<ByteString>,
    /// `group.instance.id`: a static member (KIP-345).
    pub group_instance_id: Option<ByteString>,
    /// Whether a static member leaves its group when it is closed (KIP-1092); else it stays until its session ends. Others always leave.
    pub leave_group_on_close: bool,
    /// `client.rack`: reads from a replica in this rack, where the leader knows one (KIP-392).
    pub client_rack: Option<ByteString>,
    /// `auto.offset.reset`.
    pub auto_offset_reset: OffsetReset,
    /// `isolation.level`.
    pub isolation_level: IsolationLevel,
    /// `enable.auto.commit`: commits positions in the background of `poll`. Off here, unlike in Java.
    pub enable_auto_commit: bool,
    /// `auto.commit.interval.ms`.
    pub auto_commit_interval_ms: u64,
    /// `max.poll.records`: most records that one poll returns.
    pub max_poll_records: usize,
    /// `max.poll.interval.ms`: a member that does not poll for so long leaves its group.
    pub max_poll_interval_ms: u64,
    /// `fetch.min.bytes`: a fetch waits until it has so much.
    pub fetch_min_bytes: i32,
    /// `fetch.max.wait.ms`: ... but no longer than this.
    pub fetch_max_wait_ms: i32,
    /// `fetch.max.bytes`: most bytes of one answer.
    pub fetch_max_bytes: i32,
    /// `max.partition.fetch.bytes`: most bytes of one partition in one answer.
    pub max_partition_fetch_bytes: i32,
    /// Most bytes that the records of one batch may take when decompressed; a larger batch is an error.
    pub max_decompressed_batch_bytes: usize,
    /// `check.crcs`.
    pub check_crcs: bool,
    /// `session.timeout.ms`: a member without heartbeat for so long is removed.
    pub session_timeout_ms: i32,
    /// `heartbeat.interval.ms`.
    pub heartbeat_interval_ms: u64,
    /// How long members have to rejoin when the group rebalances; Java takes `max.poll.interval.ms`.
    pub rebalance_timeout_ms: i32,
    /// `partition.assignment.strategy`, the preferred one first.
    pub assignors: Vec<Arc<dyn Assignor>>,
}

impl Default for ConsumerConfig {
    fn default() -> Self {
        Self {
            group_id: None,
            group_instance_id: None,
            leave_group_on_close: false,
            client_rack: None,
            auto_offset_reset: OffsetReset::Latest,
            isolation_level: IsolationLevel::ReadUncommitted,
            enable_auto_commit: false,
            auto_commit_interval_ms: 5_000,
            max_poll_records: 500,
            max_poll_interval_ms: 300_000,
            fetch_min_bytes: 1,
            fetch_max_wait_ms: 500,
            fetch_max_bytes: 50 << 20,
            max_partition_fetch_bytes: 1 << 20,
            max_decompressed_batch_bytes: millstream_record::DEFAULT_DECOMPRESSED_LIMIT_BYTES,
            check_crcs: true,
            session_timeout_ms: 45_000,
            heartbeat_interval_ms: 3_000,
            rebalance_timeout_ms: 300_000,
            assignors: vec![Arc::new(RangeAssignor)],
        }
    }
}

impl ConsumerConfig {
    /// The defaults, as a member of `group`.
    #[must_use]
    pub fn group(group: impl Into<ByteString>) -> Self {
        Self { group_id: Some(group.into()), ..Self::default() }
    }

    pub(crate) fn check(&self) -> Result<(), ClientError> {
        let refuse = |setting, reason: &str| Err(ClientError::Config { setting, reason: reason.to_owned() });
        if self.assignors.is_empty() {
            return refuse("partition.assignment.strategy", "at least one assignor is needed");
        }
        if self.max_poll_records == 0 {
            return refuse("max.poll.records", "it must be at least 1");
        }
        if i128::from(self.heartbeat_interval_ms) >= i128::from(self.session_timeout_ms) {
            return refuse("heartbeat.interval.ms", "it must be below session.timeout.ms");
        }
        if self.enable_auto_commit && self.group_id.is_none() {
            return refuse("enable.auto.commit", "committing needs a group.id");
        }
        Ok(())
    }
}
