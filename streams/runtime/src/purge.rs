//! Rows in a repartition topic are read once: what the group has committed of it is deleted now and then (KIP-204).
//!
//! Nothing waits for it, and nothing fails by it: what could not be deleted is deleted the next time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use millstream_client::{ClientError, ConsumerHandle, RecordsToDelete};
use millstream_env::TaskGroup;
use millstream_protocol::{CallError, ErrorCode};
use millstream_record::TopicPartition;

use crate::worker::Shared;

/// A deletion that takes longer is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Nothing is being deleted.
const IDLE: u8 = 0;
/// A deletion is under way.
const BUSY: u8 = 1;
/// The cluster does not delete records, or not for this application: it is not asked again.
const REFUSED: u8 = 2;

/// What one worker deletes: of its own partitions, one deletion at a time.
pub(crate) struct Purge {
    /// The repartition topics, by full name.
    topics: BTreeSet<Arc<str>>,
    interval: Duration,
    last: Duration,
    state: Arc<AtomicU8>,
    tasks: TaskGroup,
}

impl Purge {
    pub(crate) fn new(shared: &Shared) -> Self {
        let made = shared.layout.topology.repartitions().iter();
        Self {
            topics: made.map(|made| made.topic.resolve(&shared.layout.application_id)).collect(),
            interval: Duration::from_millis(shared.config.repartition_purge_interval_ms),
            last: shared.env.elapsed(),
            state: Arc::default(),
            tasks: shared.env.group(),
        }
    }

    /// Has what is committed deleted, where it is time.
    pub(crate) fn committed(&mut self, shared: &Arc<Shared>, consumer: &ConsumerHandle) {
        let now = shared.env.elapsed();
        if self.topics.is_empty()
            || now.saturating_sub(self.last) < self.interval
            || self.state.load(Ordering::Relaxed) != IDLE
        {
            return;
        }
        self.last = now;
        let mut mine = consumer.assignment();
        mine.retain(|partition| self.topics.contains(&partition.topic));
        if mine.is_empty() {
            return;
        }
        self.state.store(BUSY, Ordering::Relaxed);
        let (shared, consumer, state) = (Arc::clone(shared), consumer.clone(), Arc::clone(&self.state));
        self.tasks.spawn("repartition-purge", async move {
            let mine: Vec<TopicPartition> = mine.into_iter().collect();
            let deletion = delete_committed(&shared, &consumer, &mine);
            let next = match shared.env.timeout(PATIENCE, deletion).await {
                Ok(Err(error)) if is_refused(&error) => {
                    tracing::warn!(%error, "rows of repartition topics stay after they were read, since they may not be deleted");
                    REFUSED
                }
                Ok(Err(error)) => {
                    tracing::debug!(%error, "rows of repartition topics are deleted later");
                    IDLE
                }
                Ok(Ok(())) | Err(_) => IDLE,
            };
            state.store(next, Ordering::Relaxed);
        });
    }
}

/// Deletes what the group has committed: a task that starts again begins there, whoever runs it.
async fn delete_committed(
    shared: &Shared,
    consumer: &ConsumerHandle,
    partitions: &[TopicPartition],
) -> millstream_client::Result<()> {
    let committed = consumer.committed(partitions).await?;
    let before = |(partition, committed): (TopicPartition, millstream_client::OffsetAndMetadata)| {
        (partition, RecordsToDelete::Before(committed.offset))
    };
    let wanted: BTreeMap<TopicPartition, RecordsToDelete> = committed.into_iter().map(before).collect();
    let deleted = shared.client.admin().delete_records(&wanted).await?;
    deleted.into_values().try_for_each(|outcome| outcome.map(|_| ()))
}

/// Whether it would be so again the next time.
fn is_refused(error: &ClientError) -> bool {
    match error {
        ClientError::Call { source: CallError::Unsupported { .. }, .. } => true,
        ClientError::TimedOut { last: Some(last), .. } => is_refused(last),
        _ => matches!(
            error.code(),
            Some(
                ErrorCode::UnsupportedVersion
                    | ErrorCode::PolicyViolation
                    | ErrorCode::TopicAuthorizationFailed
                    | ErrorCode::ClusterAuthorizationFailed
            )
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_that_does_not_delete_is_asked_once_and_one_that_is_slow_again() {
        let broker =
            |code| ClientError::Broker { api: "DeleteRecords", subject: "t-0".into(), code, detail: None };
        let source = CallError::Unsupported { peer: "b:1".into(), api: "DeleteRecords" };
        let call = |source| ClientError::Call { api: "DeleteRecords", broker: "b:1".into(), source };
        for (error, expected) in [
            (call(source), true),
            (call(CallError::TimedOut), false),
            (broker(ErrorCode::UnsupportedVersion), true),
            (broker(ErrorCode::TopicAuthorizationFailed), true),
            (broker(ErrorCode::NotLeaderOrFollower), false),
            (broker(ErrorCode::OffsetOutOfRange), false),
        ] {
            assert_eq!(is_refused(&error), expected, "{error}");
        }
    }
}
