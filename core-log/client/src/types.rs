//! The words of the client's API.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use millstream_record::{Header, LeaderEpoch, Millis, NodeId, Offset, TopicId, TopicPartition, Uuid};

use millstream_protocol::{Endpoint, ErrorCode};

/// A record to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerRecord {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition; `None` lets the partitioner choose.
    pub partition: Option<i32>,
    /// Its time; `None` is the time of `send`.
    pub timestamp: Option<Millis>,
    /// The key, if any.
    pub key: Option<Bytes>,
    /// The value; `None` is a tombstone where the topic is compacted.
    pub value: Option<Bytes>,
    /// Headers, in order; names may repeat.
    pub headers: Vec<Header>,
}

impl ProducerRecord {
    /// A record without key.
    pub fn new(topic: impl Into<Arc<str>>, value: impl Into<Bytes>) -> Self {
        Self {
            topic: topic.into(),
            partition: None,
            timestamp: None,
            key: None,
            value: Some(value.into()),
            headers: Vec::new(),
        }
    }

    /// The same record with a key.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// The same record for this partition.
    #[must_use]
    pub fn with_partition(mut self, partition: i32) -> Self {
        self.partition = Some(partition);
        self
    }
}

/// Where a record ended up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordMetadata {
    /// Its partition.
    pub partition: TopicPartition,
    /// Its offset; `None` with `acks=0`, and for a duplicate whose offset the broker no longer knows.
    pub offset: Option<Offset>,
    /// Its time: the producer's, or the broker's where the topic says so.
    pub timestamp: Millis,
}

/// A record that was fetched. Key, value and header values share the fetched buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerRecord {
    /// Its offset.
    pub offset: Offset,
    /// Its time.
    pub timestamp: Millis,
    /// The key, if any.
    pub key: Option<Bytes>,
    /// The value, if any.
    pub value: Option<Bytes>,
    /// Headers, in order; names may repeat.
    pub headers: Vec<Header>,
    /// Epoch of the leader that appended it.
    pub leader_epoch: LeaderEpoch,
}

/// Consecutive records of one partition, as one poll returns them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionRecords {
    /// The partition.
    pub topic_partition: TopicPartition,
    /// Its records in order; may be empty where the position moved past control batches or aborted records only.
    pub records: Vec<ConsumerRecord>,
    /// The position after them, past control batches and aborted records: what to commit.
    pub next_offset: Offset,
    /// Epoch of the last record, for [`OffsetAndMetadata::leader_epoch`].
    pub leader_epoch: LeaderEpoch,
    /// End of what may be read uncommitted, when it was fetched.
    pub high_watermark: Offset,
    /// End of what may be read committed, when it was fetched.
    pub last_stable_offset: Offset,
}

/// A position to commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetAndMetadata {
    /// Offset of the next record to be read.
    pub offset: Offset,
    /// Epoch of the last record read; lets the next owner notice that the log was cut off (KIP-320).
    pub leader_epoch: LeaderEpoch,
    /// Free text.
    pub metadata: ByteString,
}

impl OffsetAndMetadata {
    /// A position without epoch or text.
    #[must_use]
    pub fn new(offset: Offset) -> Self {
        Self { offset, leader_epoch: LeaderEpoch::NONE, metadata: ByteString::new() }
    }
}

/// Offsets by partition.
pub type Offsets = BTreeMap<TopicPartition, OffsetAndMetadata>;

/// What a search by time found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetAndTimestamp {
    /// The first offset whose record is not older.
    pub offset: Offset,
    /// That record's time.
    pub timestamp: Millis,
    /// Epoch of its leader.
    pub leader_epoch: LeaderEpoch,
}

/// Who a consumer is in its group, for committing its offsets in a transaction (KIP-447).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMetadata {
    /// The group.
    pub group_id: ByteString,
    /// The generation; -1 outside of one.
    pub generation_id: i32,
    /// The member's id; empty outside of a generation.
    pub member_id: ByteString,
    /// The static member's name.
    pub group_instance_id: Option<ByteString>,
}

impl GroupMetadata {
    /// A group whose membership somebody else manages: offsets are committed without a generation.
    pub fn unmanaged(group_id: impl Into<ByteString>) -> Self {
        Self {
            group_id: group_id.into(),
            generation_id: -1,
            member_id: ByteString::new(),
            group_instance_id: None,
        }
    }
}

/// Which offset of a partition is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetSpec {
    /// The first one that there is.
    Earliest,
    /// The end: the high watermark, or the last stable offset for read-committed.
    Latest,
    /// The record of the largest timestamp.
    MaxTimestamp,
    /// The first record that is not older than this.
    Timestamp(Millis),
}

impl OffsetSpec {
    /// The number in the timestamp field of ListOffsets.
    #[must_use]
    pub fn code(self) -> i64 {
        match self {
            Self::Latest => -1,
            Self::Earliest => -2,
            Self::MaxTimestamp => -3,
            Self::Timestamp(time) => time.0,
        }
    }
}

/// Which records of a partition are to be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordsToDelete {
    /// Those below this offset.
    Before(Offset),
    /// All that are replicated: those below the high watermark, whatever it is when the leader is asked.
    All,
}

impl RecordsToDelete {
    /// The number in the offset field of DeleteRecords.
    #[must_use]
    pub fn offset(self) -> Offset {
        match self {
            Self::Before(offset) => offset,
            Self::All => Offset(-1),
        }
    }
}

/// A partition as the cluster describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionInfo {
    /// Its index.
    pub partition: i32,
    /// Its leader; `None` while there is none.
    pub leader: Option<NodeId>,
    /// The leader's epoch.
    pub leader_epoch: LeaderEpoch,
    /// Brokers that hold it.
    pub replicas: Vec<NodeId>,
    /// Those in sync.
    pub in_sync: Vec<NodeId>,
}

/// A topic as the cluster describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicDescription {
    /// Its name.
    pub name: Arc<str>,
    /// Its id; zero where the broker knows none.
    pub id: TopicId,
    /// Whether brokers keep their own state in it.
    pub is_internal: bool,
    /// Its partitions, by index.
    pub partitions: Vec<PartitionInfo>,
}

/// A broker as the cluster describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerInfo {
    /// Its id.
    pub node: NodeId,
    /// Its address.
    pub endpoint: Endpoint,
    /// Its rack, if it has one.
    pub rack: Option<ByteString>,
}

/// A member of the quorum that keeps the metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuorumMember {
    /// Its node.
    pub node: NodeId,
    /// The directory that it runs on: an emptied one is another member.
    pub directory: Uuid,
    /// Where the others reach it; known of voters.
    pub endpoint: Option<Endpoint>,
    /// The end of its log.
    pub log_end: Option<Offset>,
    /// When the leader heard of it.
    pub last_fetch: Option<Millis>,
    /// When it had all that the leader had.
    pub last_caught_up: Option<Millis>,
}

/// The quorum that keeps the metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuorumDescription {
    /// The active controller.
    pub leader: Option<NodeId>,
    /// The epoch that it leads in.
    pub leader_epoch: LeaderEpoch,
    /// The end of what is committed.
    pub high_watermark: Offset,
    /// Who votes.
    pub voters: Vec<QuorumMember>,
    /// Who follows the log without a vote.
    pub observers: Vec<QuorumMember>,
}

/// Which leaders are elected by request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Election {
    /// The first of the replicas, where it is in sync.
    Preferred,
    /// Any replica, where nobody in sync is left: records may be lost.
    Unclean,
}

/// A partition whose replicas are moving.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reassignment {
    /// All its replicas for now, the old ones and the new ones.
    pub replicas: Vec<NodeId>,
    /// Those that come.
    pub adding: Vec<NodeId>,
    /// Those that go.
    pub removing: Vec<NodeId>,
}

/// The cluster as a broker describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterDescription {
    /// Its id.
    pub cluster_id: Option<ByteString>,
    /// The active controller, where one is told.
    pub controller: Option<NodeId>,
    /// Its brokers, by id.
    pub brokers: Vec<BrokerInfo>,
}

/// A topic to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name.
    pub name: Arc<str>,
    /// How many partitions; `None` is the broker's default.
    pub partitions: Option<i32>,
    /// How many replicas of each; `None` is the broker's default.
    pub replication_factor: Option<i16>,
    /// Its settings.
    pub configs: BTreeMap<String, String>,
}

impl NewTopic {
    /// A topic with so many partitions, and the broker's defaults for the rest.
    pub fn new(name: impl Into<Arc<str>>, partitions: i32) -> Self {
        Self {
            name: name.into(),
            partitions: Some(partitions),
            replication_factor: None,
            configs: BTreeMap::new(),
        }
    }

    /// The same topic with a setting.
    #[must_use]
    pub fn with_config(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.configs.insert(name.into(), value.into());
        self
    }

    /// The same topic, which takes records of any time, also of one that lies far ahead of the clock (KIP-937). A cluster older than
    /// that rule has no such bound, and [`crate::Admin::ensure_topic`] makes the topic there without the setting.
    #[must_use]
    pub fn with_any_time(self) -> Self {
        self.with_config(AFTER_MAX, i64::MAX.to_string())
    }
}

/// How far a record's time may lie ahead of the broker's clock.
pub(crate) const AFTER_MAX: &str = "message.timestamp.after.max.ms";

/// What has settings.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConfigResource {
    /// A topic.
    Topic(Arc<str>),
    /// A broker; an empty name means the defaults of all brokers.
    Broker(String),
}

/// One setting as a broker tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigEntry {
    /// Its name.
    pub name: ByteString,
    /// Its value; `None` where it is secret or unset.
    pub value: Option<ByteString>,
    /// Whether it is the default, not set for this resource.
    pub is_default: bool,
    /// Whether it can only be set in the broker's file.
    pub read_only: bool,
    /// Whether its value is kept secret.
    pub is_sensitive: bool,
}

/// A change of one setting (KIP-339).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AlterConfig {
    /// Sets it.
    Set(String, String),
    /// Back to the default.
    Delete(String),
    /// Adds to a list.
    Append(String, String),
    /// Takes out of a list.
    Subtract(String, String),
}

/// A group in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupListing {
    /// Its id.
    pub group_id: ByteString,
    /// `consumer`, `connect`, ...; empty for a group that only commits.
    pub protocol_type: ByteString,
    /// `Stable`, `Empty`, ...
    pub state: ByteString,
}

/// A classic group as its coordinator describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupDescription {
    /// Its id.
    pub group_id: ByteString,
    /// `Stable`, `Empty`, `PreparingRebalance`, `CompletingRebalance`, `Dead`.
    pub state: ByteString,
    /// `consumer`, `connect`, ...
    pub protocol_type: ByteString,
    /// The assignor in use.
    pub protocol: ByteString,
    /// Its members.
    pub members: Vec<GroupMember>,
    /// Why it could not be described, if so.
    pub error: Option<ErrorCode>,
}

/// A member of a classic group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMember {
    /// Its id.
    pub member_id: ByteString,
    /// The static member's name.
    pub group_instance_id: Option<ByteString>,
    /// Its `client.id`.
    pub client_id: ByteString,
    /// Its address.
    pub host: ByteString,
    /// Its partitions, where the group is one of consumers and has an assignment.
    pub assignment: Vec<TopicPartition>,
}
