//! How the ends of finite inputs pass on.

use std::collections::{BTreeMap, BTreeSet};

use millstream_client::{Admin, IsolationLevel, OffsetSpec, Offsets};
use millstream_record::{Offset, TopicPartition};
use millstream_streams_core::{TaskId, TopicName};

use crate::active::{says_ended, says_more};
use crate::error::Result;
use crate::worker::Shared;

/// What is known about ends at one moment: the group's committed offsets, and the ends of repartition topics.
///
/// A task says that it is closed in the metadata of its committed offsets, in the same transaction as its last outputs. Who
/// reads it there may take the high watermark of the repartition topic for its end: every record of that transaction
/// lies below. (The last stable offset would not do: the transaction's marker may not be written there yet.)
pub(crate) struct Ends {
    committed: Offsets,
    repartitions: BTreeMap<TopicPartition, Offset>,
}

impl Ends {
    /// Asks the cluster.
    pub(crate) async fn ask(shared: &Shared, admin: &Admin) -> Result<Self> {
        let committed = admin.group_offsets(&*shared.layout.application_id).await?;
        let mut wanted = BTreeMap::new();
        for task in shared.layout.tasks() {
            let inputs = shared.layout.inputs_of(task);
            let internal = inputs.filter(|(topic, _)| matches!(topic, TopicName::Internal(_)));
            wanted.extend(internal.map(|(_, partition)| (partition, OffsetSpec::Latest)));
        }
        let mut repartitions = BTreeMap::new();
        if !wanted.is_empty() {
            let listed = admin.list_offsets(&wanted, IsolationLevel::ReadUncommitted).await?;
            for (partition, end) in listed {
                repartitions.insert(partition, end?.map(|end| end.offset).unwrap_or_default());
            }
        }
        Ok(Self { committed, repartitions })
    }

    /// Where an input ends, if that is known by now.
    pub(crate) fn end_of(
        &self,
        shared: &Shared,
        topic: &TopicName,
        partition: &TopicPartition,
    ) -> Option<Offset> {
        if matches!(topic, TopicName::User(_)) {
            return shared.control.end_of(partition);
        }
        let circle = shared.layout.circle_of(topic);
        if !circle.is_empty() {
            return self.is_at_rest(shared, &circle).then(|| self.repartitions.get(partition).copied())?;
        }
        let repartition = shared.layout.topology.repartitions().iter().find(|r| r.topic == *topic)?;
        let upstream = shared.layout.tasks().filter(|task| task.subtopology == repartition.written_by);
        upstream
            .into_iter()
            .all(|task| self.has_ended(shared, task))
            .then(|| self.repartitions.get(partition).copied())?
    }

    /// Whether nothing more can come of subtopologies that feed one another: their other inputs were consumed to their ends, and
    /// all that they have written for one another was consumed, too. What was committed was asked for before the ends of the
    /// topics, and a task writes only with a commit that consumes something, or after one that says so: so nothing was on its way
    /// between the two.
    fn is_at_rest(&self, shared: &Shared, circle: &BTreeSet<usize>) -> bool {
        let made = shared.layout.topology.repartitions();
        let inside = |topic: &TopicName| {
            made.iter().any(|made| made.topic == *topic && circle.contains(&made.written_by))
        };
        let tasks = shared.layout.tasks().filter(|task| circle.contains(&task.subtopology));
        tasks.flat_map(|task| shared.layout.inputs_of(task)).all(|(topic, partition)| {
            let end = match inside(topic) {
                true => self.repartitions.get(&partition).copied(),
                false => self.end_of(shared, topic, &partition),
            };
            let committed = self.committed.get(&partition);
            let consumed = committed.map_or(Offset(0), |at| at.offset);
            end.is_some_and(|end| consumed >= end) && !committed.is_some_and(|at| says_more(&at.metadata))
        })
    }

    /// Whether a task, anywhere in the group, has consumed its inputs to their ends and closed.
    pub(crate) fn has_ended(&self, shared: &Shared, task: TaskId) -> bool {
        shared.layout.inputs_of(task).all(|(topic, partition)| {
            let Some(end) = self.end_of(shared, topic, &partition) else { return false };
            self.committed.get(&partition).is_some_and(|at| at.offset >= end && says_ended(&at.metadata))
        })
    }

    /// Whether every task of the application has ended.
    pub(crate) fn all_ended(&self, shared: &Shared) -> bool {
        shared.layout.tasks().all(|task| self.has_ended(shared, task))
    }
}
