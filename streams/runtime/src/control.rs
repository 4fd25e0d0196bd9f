//! The handle to a running application.

use std::collections::BTreeMap;
use std::sync::Arc;

use millstream_record::{Offset, TopicPartition};
use millstream_streams_core::{NodeCounters, TaskId};
use parking_lot::Mutex;

/// What an application did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Counters of each node by name, over all tasks of this process since it started.
    pub counters: BTreeMap<Arc<str>, NodeCounters>,
    /// Whether it returned because all its inputs ended (else because it was stopped).
    pub drained: bool,
}

/// Steers a running application from outside. Cheap to clone.
#[derive(Clone)]
pub struct StreamsControl {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    stopping: bool,
    ends: BTreeMap<TopicPartition, Offset>,
    /// Counters of tasks that have left a worker, summed, and of those that run.
    past: BTreeMap<Arc<str>, NodeCounters>,
    live: BTreeMap<(usize, TaskId), BTreeMap<Arc<str>, NodeCounters>>,
}

impl StreamsControl {
    pub(crate) fn new() -> Self {
        Self { state: Arc::default() }
    }

    /// Commits what is done and stops; [`crate::StreamsApp::run`] then returns. Open windows stay in the state.
    pub fn stop(&self) {
        self.state.lock().stopping = true;
    }

    /// The writer of a finite input has drained: partition `partition` of `topic` ends at `end`. Saying it again changes nothing.
    pub fn end_input(&self, topic: &str, partition: i32, end: Offset) {
        self.state.lock().ends.insert(TopicPartition::new(topic, partition), end);
    }

    /// Counters of each node by name, over all tasks of this process.
    #[must_use]
    pub fn counters(&self) -> BTreeMap<Arc<str>, NodeCounters> {
        let state = self.state.lock();
        let mut sum = state.past.clone();
        for (name, counters) in state.live.values().flatten() {
            sum.entry(Arc::clone(name)).or_default().merge(counters);
        }
        sum
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.state.lock().stopping
    }

    pub(crate) fn end_of(&self, partition: &TopicPartition) -> Option<Offset> {
        self.state.lock().ends.get(partition).copied()
    }

    pub(crate) fn report(&self, worker: usize, task: TaskId, counters: BTreeMap<Arc<str>, NodeCounters>) {
        self.state.lock().live.insert((worker, task), counters);
    }

    /// The task has left its worker: what it counted stays counted.
    pub(crate) fn retire(&self, worker: usize, task: TaskId) {
        let mut state = self.state.lock();
        let left = state.live.remove(&(worker, task)).unwrap_or_default();
        for (name, counters) in left {
            state.past.entry(name).or_default().merge(&counters);
        }
    }
}
