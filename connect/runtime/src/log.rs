//! What a worker asks of a log. The real one is the client over any `Dial`; the one in memory can be killed at any step.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use millstream_record::{Millis, Offset, TopicId, TopicPartition};

use crate::Result;

/// Picks keys.
pub type KeyFilter = Box<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// A log, as a worker sees it.
pub trait Log: Send + Sync + 'static {
    /// Creates the topic if there is none of that name, and says what it is. An existing one is left as it is.
    fn ensure_topic(&self, spec: TopicSpec) -> BoxFuture<'_, Result<TopicFacts>>;

    /// What a topic is; `None` when there is none of that name.
    fn topic(&self, name: String) -> BoxFuture<'_, Result<Option<TopicFacts>>>;

    /// The offset behind the last committed record of each partition of a topic.
    fn ends(&self, topic: String) -> BoxFuture<'_, Result<BTreeMap<TopicPartition, Offset>>>;

    /// The last committed value of each key of a topic; keys whose last value is null are left out. A topic that does not exist has
    /// none. Where an open transaction holds a key that `matters`, its outcome is waited for; others are not.
    fn table(&self, topic: String, matters: KeyFilter) -> BoxFuture<'_, Result<BTreeMap<Bytes, Bytes>>>;

    /// A transactional writer. Any earlier one under this id is fenced, and what it left open is aborted.
    fn writer(&self, transactional_id: String) -> BoxFuture<'_, Result<Box<dyn LogWriter>>>;

    /// A reader of committed records of all partitions of `topics`, whose offsets are committed for `group`.
    fn reader(&self, group: String, topics: Vec<String>) -> BoxFuture<'_, Result<Box<dyn LogReader>>>;
}

/// A topic to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    /// Name.
    pub name: String,
    /// Partitions; the cluster's default when `None`.
    pub partitions: Option<i32>,
    /// What of it is kept.
    pub kept: Kept,
}

/// What is kept of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// What the cluster keeps of any topic.
    Default,
    /// The last value of each key.
    LastOfKey,
    /// All of it. Retention goes by the time of the records, which is that of the rows: a topic between two steps would lose rows of last
    /// month before anybody had read them.
    All,
}

/// A topic that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicFacts {
    /// Its id; [`TopicId::ZERO`] when the cluster gives none.
    pub id: TopicId,
    /// Count of its partitions.
    pub partitions: i32,
}

/// A record to write.
#[derive(Clone, Debug)]
pub struct NewRecord {
    /// Topic.
    pub topic: std::sync::Arc<str>,
    /// Which partition.
    pub placement: Placement,
    /// Key.
    pub key: Option<Bytes>,
    /// Value; null deletes.
    pub value: Option<Bytes>,
    /// Timestamp; the time of writing when `None`.
    pub timestamp: Option<Millis>,
    /// Headers.
    pub headers: Vec<(&'static str, Bytes)>,
}

/// How a record's partition is chosen.
#[derive(Clone, Debug)]
pub enum Placement {
    /// By the hash of its key, as every Kafka client does.
    ByKey,
    /// By the hash of these bytes, so that records without a key that belong together keep their order.
    Like(Bytes),
}

/// A transactional writer.
pub trait LogWriter: Send {
    /// Adds records to the open transaction, which the first call begins. They need not have arrived when this returns.
    fn append(&mut self, records: Vec<NewRecord>) -> BoxFuture<'_, Result<()>>;

    /// Commits the open transaction, if there is one: all of its records are durable and visible when this returns.
    fn commit(&mut self) -> BoxFuture<'_, Result<()>>;
}

/// A reader of committed records.
pub trait LogReader: Send {
    /// The partitions that it reads, with the committed offset of the group.
    fn committed(&mut self) -> BoxFuture<'_, Result<BTreeMap<TopicPartition, Option<Offset>>>>;

    /// Reads each of these partitions from its offset on; `None` from the first record there is.
    fn seek(&mut self, from: BTreeMap<TopicPartition, Option<Offset>>) -> BoxFuture<'_, Result<()>>;

    /// The next records, or none after `wait`. Cancel safe.
    fn poll(&mut self, wait: Duration) -> BoxFuture<'_, Result<Vec<Fetched>>>;

    /// The offset that is read next in each partition. It moves past control records and aborted ones.
    fn positions(&self) -> BTreeMap<TopicPartition, Offset>;

    /// Commits offsets for the group.
    fn commit(&mut self, offsets: BTreeMap<TopicPartition, Offset>) -> BoxFuture<'_, Result<()>>;
}

/// Records of one partition, in order.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Where they are from.
    pub partition: TopicPartition,
    /// Offset of each.
    pub offsets: Vec<Offset>,
    /// Key of each.
    pub keys: Vec<Option<Bytes>>,
    /// Value of each.
    pub values: Vec<Option<Bytes>>,
}
