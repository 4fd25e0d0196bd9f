//! What a task knows of time where ways meet ([`crate::ways`]): before it, at each of its nodes, and behind it.

use std::collections::BTreeMap;
use std::sync::Arc;

use millstream_record::Millis;

use super::input::Input;
use super::{Runner, Task};
use crate::chunk::Chunk;
use crate::error::Result;
use crate::topology::{NodeKind, OutputRecord, TopicName};
use crate::ways::{self, Mark, Progress, Ways};

/// What a task knows of time where ways meet.
#[derive(Default)]
pub(super) struct TaskTimes {
    /// Rows come over several ways, or their way is one of several behind this task.
    pub(super) several_ways: bool,
    /// An input that has nothing for so long is idle.
    idle_ms: i64,
    /// How far event time has come before each node and behind it, as last looked at.
    pub(super) progress: BTreeMap<usize, (Progress, Progress)>,
}

/// What is told behind a sink.
#[derive(Clone, Copy)]
pub(super) struct Way {
    /// How far it is.
    progress: Progress,
    /// What the last mark said.
    told: Option<Progress>,
}

impl Task {
    /// Says in which topics several ways meet, and after how long without a record an input that does not end is idle. Without
    /// this there is one task of each subtopology.
    #[must_use]
    pub fn with_ways(mut self, ways: &Ways, idle_ms: i64) -> Self {
        let mut several_ways = self.inputs.iter().any(|input| ways.meet_in(&input.topic));
        for runner in self.runners.values_mut() {
            if let Runner::Sink { topic, way, .. } = runner
                && ways.meet_in(topic)
            {
                *way = Some(Way { progress: Progress::NONE, told: None });
                several_ways = true;
            }
        }
        if several_ways {
            self.inputs.set_ways(ways);
        }
        self.times = TaskTimes { several_ways, idle_ms, progress: BTreeMap::new() };
        self
    }

    /// Gives back what a commit of the task said beside an offset.
    ///
    /// # Errors
    /// An input that this task does not have.
    pub fn restore_times(&mut self, topic: &TopicName, text: &str) -> Result<()> {
        let mut parts = text.split(' ');
        let first = self.inputs.iter().next().is_some_and(|input| input.topic == *topic);
        self.inputs.get_mut(topic)?.read_times(parts.next().unwrap_or_default());
        if first && self.times.several_ways {
            let mut own = vec![Progress::NONE; self.own_times().len()];
            ways::read_text(parts.next().unwrap_or_default(), &mut own);
            let operators = self.runners.values_mut().filter_map(|runner| match runner {
                Runner::Operator { operator, .. } if operator.own_time().is_some() => Some(operator),
                _ => None,
            });
            operators.zip(own).for_each(|(operator, own)| operator.restore_own_time(own.time));
        }
        Ok(())
    }

    /// What is to be kept with the offset of an input: how far its ways are, and with the first one the times that steps give.
    pub(super) fn times_to_text(&self, at: usize, input: &Input) -> String {
        match (self.times.several_ways, at) {
            (false, _) => String::new(),
            (true, 0) => format!("{} {}", input.times_to_text(), ways::to_text(&self.own_times())),
            (true, _) => input.times_to_text(),
        }
    }

    fn own_times(&self) -> Vec<Progress> {
        let own = |runner: &Runner| match runner {
            Runner::Operator { operator, .. } => operator.own_time(),
            Runner::Sink { .. } => None,
        };
        let times = self.runners.values().filter_map(own);
        times.map(|time| Progress { time, idle: false }).collect()
    }

    /// Whether time has moved since the last commit in a way that other tasks should be told.
    #[must_use]
    pub fn has_news(&self) -> bool {
        let differs = |way: Way| way.told != Some(way.progress);
        self.runners
            .values()
            .any(|runner| matches!(runner, Runner::Sink { way: Some(way), .. } if differs(*way)))
    }

    pub(super) fn take_marks(&mut self) -> Vec<(TopicName, OutputRecord)> {
        let mut marks = Vec::new();
        for runner in self.runners.values_mut() {
            if let Runner::Sink { topic, way: Some(way), .. } = runner
                && way.told.replace(way.progress) != Some(way.progress)
            {
                marks.push((
                    topic.clone(),
                    Mark { writer: self.id.partition, progress: way.progress }.record(),
                ));
            }
        }
        marks
    }

    /// Finds out how far event time has come at every node, parents before children.
    pub(super) fn look_at_ways(&mut self, wall: Millis) {
        if !self.times.several_ways {
            return;
        }
        // A task with an end is not idle before it has closed: until then it may hold windows whose results are still to come.
        let idles = self.closed || !self.inputs.all(|input| input.is_finite || input.end.is_some());
        let topology = Arc::clone(&self.topology);
        let nodes = &topology.subtopologies()[self.id.subtopology].nodes;
        let TaskTimes { idle_ms, progress, .. } = &mut self.times;
        for &at in nodes {
            let node = &topology.nodes()[at];
            let before = match &node.kind {
                NodeKind::Source(_) if self.closed => self.inputs.last_progress(at),
                NodeKind::Source(_) => self.inputs.progress(at, wall, *idle_ms),
                _ => {
                    let parents = node.parents.iter().filter_map(|parent| progress.get(&parent.node()));
                    Progress::of_all(parents.map(|(_, behind)| *behind))
                }
            };
            let behind = match self.runners.get_mut(&at) {
                Some(Runner::Operator { operator, .. }) => {
                    Progress { time: operator.watermark(before.time), ..before }
                }
                Some(Runner::Sink { way: Some(way), .. }) => {
                    let idle = self.closed || (before.idle && idles);
                    way.progress = Progress { time: before.time.max(way.progress.time), idle };
                    before
                }
                Some(Runner::Sink { .. }) | None => before,
            };
            progress.insert(at, (before, behind));
        }
    }
}

/// The rows whose way is ahead of them, each with that way's stream time.
pub(super) fn ahead(chunk: &Chunk) -> Vec<(usize, Millis)> {
    let times = chunk.timestamps.iter().enumerate();
    let ahead = times.map(|(row, timestamp)| (row, chunk.stream_time_of(row), timestamp));
    ahead.filter(|(_, time, timestamp)| time > *timestamp).map(|(row, time, _)| (row, time)).collect()
}
