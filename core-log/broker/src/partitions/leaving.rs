//! Giving up replicas: those that were moved away, those of deleted topics, and what start-up found and nobody knows.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use millstream_env::Pool;
use millstream_machine::metadata::{Image, LOST_DIRECTORY, Topic};
use millstream_record::{TopicId, TopicPartition, Uuid};
use millstream_storage::{DeletedLog, StorageError};

use super::{CLUSTER_METADATA, Change, Partitions, Slot, changes};
use crate::partition::Partition;

impl Partitions {
    /// Takes out of sight what `image`, the first that has this life of the broker, does not know: topics that were deleted, or made
    /// anew under the same name, and replicas that were moved away while this node was not there.
    pub(super) async fn sweep(&self, image: &Image) {
        if self.swept.swap(true, Ordering::SeqCst) {
            return;
        }
        let empty = Image::default();
        let mine = changes(&empty, image).filter(|change| self.is_here(change.partition));
        let known: BTreeSet<TopicPartition> = mine.map(|change| change.at()).collect();
        self.lacking.retain(|at, id| {
            let of_that_name = image.topic(&at.topic).filter(|_| known.contains(at));
            of_that_name.is_some_and(|topic| id.is_none_or(|id| id == topic.id))
        });
        self.opened.lock().retain(|at, log| {
            known.contains(at) && image.topic(&at.topic).is_some_and(|topic| topic.id == log.topic_id())
        });
        let mine = changes(&empty, image).filter(|change| self.is_here(change.partition));
        let is_back = |change: &Change<'_>| {
            let directory = change.partition.directory_of(self.context.node);
            directory == LOST_DIRECTORY && self.opened.lock().contains_key(&change.at())
        };
        *self.found_again.lock() =
            mine.filter(is_back).map(|change| (change.topic.id, change.index)).collect();
        if let Err(error) = self.delete_unknown(image, &known).await {
            tracing::warn!(%error, "logs of deleted topics stay on disk until the next start");
        }
    }

    /// Gives up replicas that a reassignment took from this broker.
    pub(super) async fn give_up(&self, before: &Image, next: &Image) {
        let mut gone = Vec::new();
        for change in changes(before, next).filter(|change| !self.is_here(change.partition)) {
            let mut table = self.table.write();
            let slots = table.get_mut(&change.topic.id);
            let place = slots.and_then(|slots| slots.get_mut(usize::try_from(change.index).ok()?));
            let partition = match place.map(|place| std::mem::replace(place, Slot::Elsewhere)) {
                Some(Slot::Here(partition)) => {
                    drop(table);
                    self.context.copying.forget(&partition);
                    partition.retire();
                    Some(partition)
                }
                Some(Slot::Broken(at)) => {
                    self.lacking.forget(&at);
                    None
                }
                Some(Slot::Elsewhere) | None => continue,
            };
            gone.push((change.at(), partition));
        }
        self.delete(gone).await;
    }

    /// Gives up the partitions of a deleted topic. Their directories go out of sight at once, their bytes later.
    pub(super) async fn forget(&self, topic: &Topic) {
        let slots = self.table.write().remove(&topic.id).unwrap_or_default();
        let mut gone = Vec::new();
        for (slot, index) in slots.into_iter().zip(0..) {
            let partition = match slot {
                Slot::Here(partition) => {
                    self.context.copying.forget(&partition);
                    partition.retire();
                    Some(partition)
                }
                Slot::Broken(at) => {
                    self.lacking.forget(&at);
                    None
                }
                Slot::Elsewhere => continue,
            };
            gone.push((TopicPartition::new(Arc::clone(&topic.name), index), partition));
        }
        self.delete(gone).await;
    }

    pub(super) async fn delete_unknown(
        &self,
        image: &Image,
        known: &BTreeSet<TopicPartition>,
    ) -> Result<(), StorageError> {
        let found = self.dir.read().partitions()?;
        let is_metadata = |at: &TopicPartition| &*at.topic == CLUSTER_METADATA;
        let is_known = |at: &TopicPartition, id: Option<TopicId>| {
            known.contains(at)
                && image.topic(&at.topic).is_some_and(|topic| id.is_none_or(|id| id == topic.id))
        };
        let stray = found
            .into_iter()
            .filter(|log| !is_metadata(&log.partition) && !is_known(&log.partition, log.topic_id));
        self.delete(stray.map(|log| (log.partition, None)).collect()).await;
        Ok(())
    }

    /// Takes directories out of sight, and then removes them; replicas that were open have retired.
    async fn delete(&self, gone: Vec<(TopicPartition, Option<Arc<Partition>>)>) {
        if gone.is_empty() {
            return;
        }
        let ids: Vec<Uuid> = gone.iter().map(|_| self.context.env.random_uuid()).collect();
        let dir = Arc::clone(&self.dir);
        let hide = move || -> Vec<DeletedLog> {
            let hidden = gone.into_iter().zip(ids).map(|((at, partition), id)| {
                if let Some(partition) = partition {
                    partition.leave();
                }
                (dir.write().delete_log(&at, id), at)
            });
            let report = |(result, at): (Result<DeletedLog, StorageError>, TopicPartition)| {
                result
                    .inspect_err(
                        |error| tracing::warn!(partition = %at, %error, "a deleted log stays on disk"),
                    )
                    .ok()
            };
            hidden.filter_map(report).collect()
        };
        let Ok(deleted) = self.context.env.blocking(Pool::General, hide).await else { return };
        self.context.env.submit(Pool::General, move || {
            for log in deleted {
                if let Err(error) = log.remove() {
                    tracing::warn!(%error, "a deleted log's bytes stay until the next start");
                }
            }
        });
    }
}
