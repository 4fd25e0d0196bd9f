//! Logs that this node should have and does not.
//!
//! Others count on a replica by what it acknowledged, and that is on its disk, however it ended. Unless somebody took it from there: a
//! directory that an operator deleted, or a log that cannot be opened. The directory notes which logs lie in it, each once it is there
//! and before anything is written to it; so what is noted and was not found by start-up is missing.

use std::collections::{BTreeMap, BTreeSet};

use millstream_machine::metadata::Partition;
use millstream_record::{NodeId, TopicId, TopicPartition};
use millstream_storage::FoundLog;
use parking_lot::Mutex;

/// What became of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lack {
    /// There is nothing under its name, so nothing says of which topic of that name it was.
    Gone,
    /// It is there, of this topic, and cannot be opened.
    Unopened(TopicId),
}

/// Logs that this node should have and does not.
#[derive(Default)]
pub(crate) struct Lacking(Mutex<State>);

#[derive(Default)]
struct State {
    logs: BTreeMap<TopicPartition, Lack>,
    /// Nothing says which logs should be here.
    is_unsure: bool,
}

impl Lacking {
    /// At start: `noted` should be here, where anything is noted at all, and `found` is.
    pub(crate) fn begin(&self, noted: Option<Vec<TopicPartition>>, found: &[FoundLog]) {
        let found: BTreeSet<&TopicPartition> = found.iter().map(|log| &log.partition).collect();
        let mut state = self.0.lock();
        state.is_unsure = noted.is_none();
        let missing = noted.into_iter().flatten().filter(|at| !found.contains(at));
        state.logs = missing.map(|at| (at, Lack::Gone)).collect();
    }

    /// Of what was found, `unopened` could not be opened.
    pub(crate) fn lacks(&self, unopened: impl Iterator<Item = FoundLog>) {
        let lack = |log: FoundLog| Some((log.partition, Lack::Unopened(log.topic_id?)));
        self.0.lock().logs.extend(unopened.filter_map(lack));
    }

    /// Whether nothing says which logs should be here.
    pub(crate) fn is_unsure(&self) -> bool {
        self.0.lock().is_unsure
    }

    /// Whether the log is gone while `partition`, as the metadata has it, hangs on the replica of `node`. An empty one in its place would be
    /// taken for what is gone.
    pub(crate) fn is_missed(&self, at: &TopicPartition, partition: &Partition, node: NodeId) -> bool {
        self.is_gone(at) && partition.hangs_on(node)
    }

    /// Whether there is nothing under the log's name.
    pub(crate) fn is_gone(&self, at: &TopicPartition) -> bool {
        self.0.lock().logs.get(at) == Some(&Lack::Gone)
    }

    /// It is here, or nobody wants it here any more.
    pub(crate) fn forget(&self, at: &TopicPartition) {
        self.0.lock().logs.remove(at);
    }

    /// The metadata is known, and of what lacks it has only what `knows` says for this node, given the topic where that is known too.
    pub(crate) fn retain(&self, knows: impl Fn(&TopicPartition, Option<TopicId>) -> bool) {
        let mut state = self.0.lock();
        state.is_unsure = false;
        state.logs.retain(|at, lack| {
            let topic_id = match lack {
                Lack::Gone => None,
                Lack::Unopened(topic_id) => Some(*topic_id),
            };
            knows(at, topic_id)
        });
        for at in state.logs.iter().filter(|(_, lack)| **lack == Lack::Gone).map(|(at, _)| at) {
            tracing::error!(
                partition = %at,
                "the log that should be here is gone, and this node does not lead the partition: where another replica leads, it is \
                 copied again; else stop the node and restore the directory {at} from a backup, or delete the topic"
            );
        }
    }

    /// All of them.
    pub(crate) fn names(&self) -> Vec<TopicPartition> {
        self.0.lock().logs.keys().cloned().collect()
    }
}
