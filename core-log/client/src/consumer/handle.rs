//! What may be asked of a consumer from anywhere.

use futures::FutureExt;
use futures::future::BoxFuture;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use millstream_record::{LeaderEpoch, Millis, Offset, TopicPartition};

use super::lookup;
use super::shared::Shared;
use super::subscription::{Position, Standing};
use crate::offsets::Missing;
use crate::retry::{Backoff, Deadline};
use crate::{
    GroupMetadata, OffsetAndMetadata, OffsetAndTimestamp, OffsetReset, OffsetSpec, Offsets, Result, offsets,
};

/// What may be asked of a consumer from anywhere: positions, commits, lookups. Cheap to clone.
#[derive(Clone)]
pub struct ConsumerHandle {
    pub(super) shared: Arc<Shared>,
}

impl ConsumerHandle {
    /// The partitions assigned now.
    pub fn assignment(&self) -> BTreeSet<TopicPartition> {
        self.shared.subscription.lock().partitions.keys().cloned().collect()
    }

    /// The topics subscribed to.
    pub fn subscription(&self) -> BTreeSet<Arc<str>> {
        self.shared.subscription.lock().topics()
    }

    /// Who this consumer is in its group; for [`crate::Producer::send_offsets_to_transaction`].
    pub fn group_metadata(&self) -> GroupMetadata {
        self.shared.group_metadata()
    }

    /// Offset of the next record that poll will return; looked up where it is not known yet.
    ///
    /// # Errors
    /// When the partition is not assigned, or the position cannot be found.
    pub fn position<'a>(&'a self, partition: &'a TopicPartition) -> BoxFuture<'a, Result<Offset>> {
        async move {
            let cluster = &self.shared.cluster;
            let deadline = Deadline::after(&cluster.env, cluster.config.api_timeout_ms);
            let mut backoff = Backoff::new(&cluster.config);
            let mut last = None;
            loop {
                let known = self.shared.subscription.lock().get_mut(partition)?.position();
                if let Some(position) = known {
                    return Ok(position.offset);
                }
                let late = |last| deadline.error(format!("finding the position of {partition}"), last);
                let Some(left) = deadline.left(&cluster.env) else { return Err(late(last)) };
                let asked = cluster.env.timeout(left, self.look_up(partition)).await;
                match asked.unwrap_or_else(|_| Err(late(last.take()))) {
                    Ok(true) => continue, // one answer leads to the next question
                    Ok(false) => {}
                    Err(error) if error.is_retriable() && deadline.left(&cluster.env).is_some() => {
                        cluster.mark_stale();
                        last = Some(error);
                    }
                    Err(error) => return Err(error),
                }
                cluster.env.sleep(backoff.next(&cluster.env).min(left)).await;
            }
        }
        .boxed()
    }

    /// Asks the next question about a position; tells whether there was anybody to ask.
    async fn look_up(&self, partition: &TopicPartition) -> Result<bool> {
        let cluster = &self.shared.cluster;
        if cluster.is_stale() {
            cluster.refresh(cluster.metadata().version).await?;
        }
        lookup::one(&self.shared, partition).await
    }

    fn set(&self, partitions: &[TopicPartition], standing: Standing) -> Result<()> {
        let mut subscription = self.shared.subscription.lock();
        partitions.iter().try_for_each(|partition| subscription.set(partition, standing))?;
        drop(subscription);
        self.shared.wake.notify_one();
        Ok(())
    }

    /// Goes on at `offset`.
    ///
    /// # Errors
    /// When the partition is not assigned.
    pub fn seek(&self, partition: &TopicPartition, offset: Offset) -> Result<()> {
        let position = Position { offset, offset_epoch: LeaderEpoch::NONE };
        self.set(std::slice::from_ref(partition), Standing::At(position))
    }

    /// Goes on at the position, with the epoch that it was committed with.
    ///
    /// # Errors
    /// When the partition is not assigned.
    pub fn seek_to(&self, partition: &TopicPartition, position: &OffsetAndMetadata) -> Result<()> {
        let position = Position { offset: position.offset, offset_epoch: position.leader_epoch };
        self.set(std::slice::from_ref(partition), Standing::Unvalidated(position))
    }

    /// Goes on at the first record that there is, to be found at the next poll.
    ///
    /// # Errors
    /// When a partition is not assigned.
    pub fn seek_to_beginning(&self, partitions: &[TopicPartition]) -> Result<()> {
        self.set(partitions, Standing::Reset(OffsetReset::Earliest))
    }

    /// Goes on at the end, to be found at the next poll.
    ///
    /// # Errors
    /// When a partition is not assigned.
    pub fn seek_to_end(&self, partitions: &[TopicPartition]) -> Result<()> {
        self.set(partitions, Standing::Reset(OffsetReset::Latest))
    }

    /// Poll returns nothing of these partitions until they are resumed. They stay assigned.
    ///
    /// # Errors
    /// When a partition is not assigned.
    pub fn pause(&self, partitions: &[TopicPartition]) -> Result<()> {
        self.set_paused(partitions, true)
    }

    /// Ends [`ConsumerHandle::pause`].
    ///
    /// # Errors
    /// When a partition is not assigned.
    pub fn resume(&self, partitions: &[TopicPartition]) -> Result<()> {
        self.set_paused(partitions, false)
    }

    fn set_paused(&self, partitions: &[TopicPartition], paused: bool) -> Result<()> {
        let mut subscription = self.shared.subscription.lock();
        for partition in partitions {
            subscription.get_mut(partition)?.paused = paused;
        }
        drop(subscription);
        self.shared.wake.notify_one();
        Ok(())
    }

    /// The partitions that are paused.
    pub fn paused(&self) -> BTreeSet<TopicPartition> {
        let subscription = self.shared.subscription.lock();
        let paused = subscription.partitions.iter().filter(|(_, assigned)| assigned.paused);
        paused.map(|(partition, _)| partition.clone()).collect()
    }

    /// Commits these positions.
    ///
    /// # Errors
    /// [`crate::ClientError::CommitRefused`] when a rebalance left this member behind. When a topic is gone: the positions in the
    /// other ones are committed.
    pub fn commit<'a>(&'a self, offsets: &'a Offsets) -> BoxFuture<'a, Result<()>> {
        async move {
            self.shared.group_id()?;
            let group = self.shared.group_metadata();
            offsets::commit(&self.shared.cluster, &self.shared.links, &group, offsets, Missing::Tell).await
        }
        .boxed()
    }

    /// Commits the current positions of all assigned partitions.
    ///
    /// # Errors
    /// As [`ConsumerHandle::commit`].
    pub fn commit_positions(&self) -> BoxFuture<'_, Result<()>> {
        async move {
            let positions = self.shared.subscription.lock().positions();
            self.commit(&positions).await
        }
        .boxed()
    }

    /// What the group has committed for these partitions; those without a commit are left out.
    ///
    /// # Errors
    /// When the coordinator does not answer in time.
    pub fn committed<'a>(&'a self, partitions: &'a [TopicPartition]) -> BoxFuture<'a, Result<Offsets>> {
        async move {
            let group = self.shared.group_id()?;
            offsets::fetch_committed(&self.shared.cluster, &self.shared.links, group, Some(partitions)).await
        }
        .boxed()
    }

    /// The first offsets that there are.
    ///
    /// # Errors
    /// When a leader does not answer in time.
    pub fn beginning_offsets<'a>(
        &'a self,
        partitions: &'a [TopicPartition],
    ) -> BoxFuture<'a, Result<BTreeMap<TopicPartition, Offset>>> {
        async move { self.edges(partitions, OffsetSpec::Earliest).await }.boxed()
    }

    /// The ends: high watermarks, or last stable offsets for a read-committed consumer.
    ///
    /// # Errors
    /// When a leader does not answer in time.
    pub fn end_offsets<'a>(
        &'a self,
        partitions: &'a [TopicPartition],
    ) -> BoxFuture<'a, Result<BTreeMap<TopicPartition, Offset>>> {
        async move { self.edges(partitions, OffsetSpec::Latest).await }.boxed()
    }

    async fn edges(
        &self,
        partitions: &[TopicPartition],
        spec: OffsetSpec,
    ) -> Result<BTreeMap<TopicPartition, Offset>> {
        let wanted = partitions.iter().map(|partition| (partition.clone(), spec)).collect();
        let found = self.list(&wanted).await?;
        Ok(found.into_iter().map(|(partition, found)| (partition, found.offset)).collect())
    }

    /// For each partition the first record that is not older than the time; partitions without one are left out.
    ///
    /// # Errors
    /// When a leader does not answer in time.
    pub fn offsets_for_times<'a>(
        &'a self,
        times: &'a BTreeMap<TopicPartition, Millis>,
    ) -> BoxFuture<'a, Result<BTreeMap<TopicPartition, OffsetAndTimestamp>>> {
        async move {
            let spec = |(partition, time): (&TopicPartition, &Millis)| {
                (partition.clone(), OffsetSpec::Timestamp(*time))
            };
            self.list(&times.iter().map(spec).collect()).await
        }
        .boxed()
    }

    async fn list(
        &self,
        wanted: &BTreeMap<TopicPartition, OffsetSpec>,
    ) -> Result<BTreeMap<TopicPartition, OffsetAndTimestamp>> {
        let shared = &self.shared;
        let found =
            offsets::list(&shared.cluster, &shared.links, wanted, shared.config.isolation_level).await?;
        let each = found.into_iter().filter_map(|(partition, found)| Some((partition, found.transpose()?)));
        each.map(|(partition, found)| Ok((partition, found?))).collect()
    }
}
