//! Sending records.

mod partitioner;

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use millstream_record::ProducerId;

use crate::{
    Client, GroupMetadata, Offsets, PartitionInfo, ProducerConfig, ProducerRecord, RecordMetadata, Result,
};

pub use partitioner::{murmur2, partition_for_key};

/// Sends records in batches. Cheap to clone; all clones are one producer.
#[derive(Clone)]
pub struct Producer {
    client: Client,
}

/// The outcome of one record, to be awaited. Dropping it changes nothing: the record is on its way.
#[must_use = "the outcome says whether the record was written"]
pub struct Delivery(Option<Result<RecordMetadata>>);

impl Future for Delivery {
    type Output = Result<RecordMetadata>;

    fn poll(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.take().map_or(Poll::Pending, Poll::Ready)
    }
}

impl Producer {
    pub(crate) fn new(client: Client, config: ProducerConfig) -> Self {
        let _ = config;
        Self { client }
    }

    /// Takes a record into its batch. Waits only for metadata and buffer memory, at most `max.block.ms`. The record's own
    /// outcome comes with the [`Delivery`].
    ///
    /// # Errors
    /// A record too large, an unknown topic or partition, no memory in time, or a producer that cannot go on.
    pub async fn send(&self, record: ProducerRecord) -> Result<Delivery> {
        let _ = record;
        self.client.unfinished()
    }

    /// Sends what is waiting, without linger, and waits until every record sent before has its outcome.
    ///
    /// # Errors
    /// The first failure among those records.
    pub async fn flush(&self) -> Result<()> {
        self.client.unfinished()
    }

    /// Flushes and ends. An open transaction is aborted.
    ///
    /// # Errors
    /// As [`Producer::flush`].
    pub async fn close(&self) -> Result<()> {
        self.client.unfinished()
    }

    /// Registers the transactional id: fences older producers of that name, and ends what they left open. Call it once, first.
    ///
    /// # Errors
    /// When the coordinator refuses, or does not answer in time (the call may be repeated then).
    pub async fn init_transactions(&self) -> Result<()> {
        self.client.unfinished()
    }

    /// Begins a transaction. Records sent from here on belong to it.
    ///
    /// # Errors
    /// When there is one already, or the producer is not initialised or failed.
    pub fn begin_transaction(&self) -> Result<()> {
        self.client.unfinished()
    }

    /// Commits a consumer's offsets with the transaction, so that what was read and what was written take effect together.
    ///
    /// # Errors
    /// When there is no transaction, or the group's coordinator refuses (the transaction must be aborted then).
    pub async fn send_offsets_to_transaction(&self, offsets: &Offsets, group: &GroupMetadata) -> Result<()> {
        let _ = (offsets, group);
        self.client.unfinished()
    }

    /// Flushes, then commits.
    ///
    /// # Errors
    /// [`crate::ClientError::AbortRequired`] when a record failed; a fatal error when the producer was fenced.
    pub async fn commit_transaction(&self) -> Result<()> {
        self.client.unfinished()
    }

    /// Aborts: records not sent yet are dropped, those sent become invisible to read-committed consumers.
    ///
    /// # Errors
    /// A fatal error when the producer was fenced.
    pub async fn abort_transaction(&self) -> Result<()> {
        self.client.unfinished()
    }

    /// The partitions of a topic.
    ///
    /// # Errors
    /// When the topic is unknown, or no broker answers in time.
    pub async fn partitions_for(&self, topic: &str) -> Result<Vec<PartitionInfo>> {
        let _ = topic;
        self.client.unfinished()
    }

    /// The producer id, once it is known.
    pub fn producer_id(&self) -> Option<ProducerId> {
        None
    }
}
