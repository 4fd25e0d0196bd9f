//! Reading records.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use millstream_record::{Millis, Offset, TopicPartition};

use crate::{
    Client, ConsumerConfig, GroupMetadata, OffsetAndMetadata, OffsetAndTimestamp, Offsets, PartitionRecords,
    Result,
};

/// Reads records, as a member of a group ([`Consumer::subscribe`]) or on its own ([`Consumer::assign`]).
///
/// It is its [`ConsumerHandle`] and the right to poll.
pub struct Consumer {
    handle: ConsumerHandle,
}

/// What may be asked of a consumer from anywhere: positions, commits, lookups. Cheap to clone.
#[derive(Clone)]
pub struct ConsumerHandle {
    client: Client,
}

/// Told during [`Consumer::poll`] when partitions come and go.
pub trait RebalanceListener: Send + 'static {
    /// The partitions are about to be given up, and still ours: commit what was done.
    fn revoked<'a>(
        &'a mut self,
        consumer: &'a ConsumerHandle,
        partitions: &'a [TopicPartition],
    ) -> BoxFuture<'a, ()> {
        let _ = (consumer, partitions);
        async {}.boxed()
    }

    /// The partitions are ours from here on; positions may be sought. With an eager assignor it is told every rebalance, with
    /// all partitions; with a cooperative one, with those added (perhaps none).
    fn assigned<'a>(
        &'a mut self,
        consumer: &'a ConsumerHandle,
        partitions: &'a [TopicPartition],
    ) -> BoxFuture<'a, ()> {
        let _ = (consumer, partitions);
        async {}.boxed()
    }

    /// The partitions were ours and may be somebody else's by now: nothing can be committed.
    fn lost<'a>(
        &'a mut self,
        consumer: &'a ConsumerHandle,
        partitions: &'a [TopicPartition],
    ) -> BoxFuture<'a, ()> {
        self.revoked(consumer, partitions)
    }
}

impl Deref for Consumer {
    type Target = ConsumerHandle;

    fn deref(&self) -> &ConsumerHandle {
        &self.handle
    }
}

impl Consumer {
    pub(crate) fn new(client: Client, config: ConsumerConfig) -> Self {
        let _ = config;
        Self { handle: ConsumerHandle { client } }
    }

    /// The handle, to be kept elsewhere.
    pub fn handle(&self) -> &ConsumerHandle {
        &self.handle
    }

    /// Joins the group for these topics, at the next poll. Replaces an earlier subscription.
    ///
    /// # Errors
    /// Without a group id, or after [`Consumer::assign`].
    pub fn subscribe(
        &mut self,
        topics: impl IntoIterator<Item = impl Into<Arc<str>>>,
        listener: Option<Box<dyn RebalanceListener>>,
    ) -> Result<()> {
        let _ = (topics.into_iter().map(Into::into).collect::<Vec<Arc<str>>>(), listener);
        self.client.unfinished()
    }

    /// Reads these partitions, without a group's help. Replaces an earlier assignment; positions of partitions that stay are kept.
    ///
    /// # Errors
    /// After [`Consumer::subscribe`].
    pub fn assign(&mut self, partitions: impl IntoIterator<Item = TopicPartition>) -> Result<()> {
        let _ = partitions.into_iter().count();
        self.client.unfinished()
    }

    /// Leaves the group and gives up all partitions.
    ///
    /// # Errors
    /// When the group's coordinator refuses a last commit.
    pub async fn unsubscribe(&mut self) -> Result<()> {
        self.client.unfinished()
    }

    /// Records, as soon as there are some; none after `timeout`. Takes part in rebalances on the way, and tells the listener.
    /// Dropping the future loses no records.
    ///
    /// # Errors
    /// A position that is gone without a reset policy, a batch that cannot be read, a group that refuses this member. After an
    /// error that is not about this consumer's own state, polling again goes on where it stopped.
    pub async fn poll(&mut self, timeout: Duration) -> Result<Vec<PartitionRecords>> {
        let _ = timeout;
        self.client.unfinished()
    }

    /// Gives up partitions (telling the listener), leaves the group, and ends.
    ///
    /// # Errors
    /// When a last commit is refused.
    pub async fn close(self) -> Result<()> {
        self.client.unfinished()
    }
}

impl ConsumerHandle {
    /// The partitions assigned now.
    pub fn assignment(&self) -> BTreeSet<TopicPartition> {
        BTreeSet::new()
    }

    /// The topics subscribed to.
    pub fn subscription(&self) -> BTreeSet<Arc<str>> {
        BTreeSet::new()
    }

    /// Who this consumer is in its group; for [`crate::Producer::send_offsets_to_transaction`].
    pub fn group_metadata(&self) -> GroupMetadata {
        GroupMetadata::unmanaged("")
    }

    /// Offset of the next record that poll will return; looked up where it is not known yet.
    ///
    /// # Errors
    /// When the partition is not assigned, or the position cannot be found.
    pub async fn position(&self, partition: &TopicPartition) -> Result<Offset> {
        let _ = partition;
        self.client.unfinished()
    }

    /// Goes on at `offset`.
    ///
    /// # Errors
    /// When the partition is not assigned.
    pub fn seek(&self, partition: &TopicPartition, offset: Offset) -> Result<()> {
        let _ = (partition, offset);
        self.client.unfinished()
    }

    /// Goes on at the position, with the epoch that it was committed with.
    ///
    /// # Errors
    /// When the partition is not assigned.
    pub fn seek_to(&self, partition: &TopicPartition, position: &OffsetAndMetadata) -> Result<()> {
        let _ = (partition, position);
        self.client.unfinished()
    }

    /// Goes on at the first record that there is, to be found at the next poll.
    ///
    /// # Errors
    /// When a partition is not assigned.
    pub fn seek_to_beginning(&self, partitions: &[TopicPartition]) -> Result<()> {
        let _ = partitions;
        self.client.unfinished()
    }

    /// Goes on at the end, to be found at the next poll.
    ///
    /// # Errors
    /// When a partition is not assigned.
    pub fn seek_to_end(&self, partitions: &[TopicPartition]) -> Result<()> {
        let _ = partitions;
        self.client.unfinished()
    }

    /// Poll returns nothing of these partitions until they are resumed. They stay assigned.
    ///
    /// # Errors
    /// When a partition is not assigned.
    pub fn pause(&self, partitions: &[TopicPartition]) -> Result<()> {
        let _ = partitions;
        self.client.unfinished()
    }

    /// Ends [`ConsumerHandle::pause`].
    ///
    /// # Errors
    /// When a partition is not assigned.
    pub fn resume(&self, partitions: &[TopicPartition]) -> Result<()> {
        let _ = partitions;
        self.client.unfinished()
    }

    /// The partitions that are paused.
    pub fn paused(&self) -> BTreeSet<TopicPartition> {
        BTreeSet::new()
    }

    /// Commits these positions.
    ///
    /// # Errors
    /// [`crate::ClientError::CommitRefused`] when a rebalance left this member behind.
    pub async fn commit(&self, offsets: &Offsets) -> Result<()> {
        let _ = offsets;
        self.client.unfinished()
    }

    /// Commits the current positions of all assigned partitions.
    ///
    /// # Errors
    /// As [`ConsumerHandle::commit`].
    pub async fn commit_positions(&self) -> Result<()> {
        self.client.unfinished()
    }

    /// What the group has committed for these partitions; those without a commit are left out.
    ///
    /// # Errors
    /// When the coordinator does not answer in time.
    pub async fn committed(&self, partitions: &[TopicPartition]) -> Result<Offsets> {
        let _ = partitions;
        self.client.unfinished()
    }

    /// The first offsets that there are.
    ///
    /// # Errors
    /// When a leader does not answer in time.
    pub async fn beginning_offsets(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<TopicPartition, Offset>> {
        let _ = partitions;
        self.client.unfinished()
    }

    /// The ends: high watermarks, or last stable offsets for a read-committed consumer.
    ///
    /// # Errors
    /// When a leader does not answer in time.
    pub async fn end_offsets(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<TopicPartition, Offset>> {
        let _ = partitions;
        self.client.unfinished()
    }

    /// For each partition the first record that is not older than the time; partitions without one are left out.
    ///
    /// # Errors
    /// When a leader does not answer in time.
    pub async fn offsets_for_times(
        &self,
        times: &BTreeMap<TopicPartition, Millis>,
    ) -> Result<BTreeMap<TopicPartition, OffsetAndTimestamp>> {
        let _ = times;
        self.client.unfinished()
    }
}
