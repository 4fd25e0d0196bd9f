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

/// What a task knows of time where ways meet, before it or behind it.
#[derive(Default)]
pub(super) struct TaskTimes {
    /// Rows come over several ways.
    pub(super) several_ways: bool,
    /// Its inputs or outputs have ways.
    kept: bool,
    /// An input that has nothing for so long is idle.
    idle_ms: i64,
    /// How far event time has come before each node and behind it, as last looked at.
    pub(super) progress: BTreeMap<usize, (Progress, Progress)>,
}

/// The way that begins or goes on at a sink.
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
        let several_ways = self.inputs.set_ways(ways);
        let mut kept = several_ways;
        for runner in self.runners.values_mut() {
            if let Runner::Sink { topic, way, .. } = runner
                && ways.meet_in(topic)
            {
                *way = Some(Way { progress: Progress::NONE, told: None });
                kept = true;
            }
        }
        self.times = TaskTimes { several_ways, kept, idle_ms, progress: BTreeMap::new() };
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
        if first {
            let mut sinks = self.ways_out();
            ways::read_text(parts.next().unwrap_or_default(), &mut sinks);
            let all = self.runners.values_mut().filter_map(Runner::way);
            all.zip(sinks).for_each(|(way, progress)| way.progress = progress);
        }
        Ok(())
    }

    /// What is to be kept with the offset of an input: how far its ways are, and with the first one how far the task's own are.
    pub(super) fn times_to_text(&self, at: usize, input: &Input) -> String {
        match (self.times.kept, at) {
            (false, _) => String::new(),
            (true, 0) => format!("{} {}", input.times_to_text(), ways::to_text(&self.ways_out())),
            (true, _) => input.times_to_text(),
        }
    }

    fn ways_out(&self) -> Vec<Progress> {
        let way = |runner: &Runner| match runner {
            Runner::Sink { way, .. } => way.map(|way| way.progress),
            Runner::Operator { .. } => None,
        };
        self.runners.values().filter_map(way).collect()
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
        if !self.times.kept {
            return;
        }
        let topology = Arc::clone(&self.topology);
        let nodes = &topology.subtopologies()[self.id.subtopology].nodes;
        let TaskTimes { several_ways, idle_ms, progress, .. } = &mut self.times;
        for &at in nodes {
            let node = &topology.nodes()[at];
            let before = match &node.kind {
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
                    // Where rows come over one way, it is as far as the rows that were written.
                    let time = if *several_ways { before.time } else { way.progress.time };
                    way.progress = Progress { time: time.max(way.progress.time), idle: before.idle };
                    before
                }
                Some(Runner::Sink { .. }) | None => before,
            };
            progress.insert(at, (before, behind));
        }
    }
}

impl Runner {
    fn way(&mut self) -> Option<&mut Way> {
        match self {
            Self::Sink { way, .. } => way.as_mut(),
            Self::Operator { .. } => None,
        }
    }
}

impl Way {
    /// The rows whose way is ahead of them, each with that way's stream time. Rows that came over several ways have it; those
    /// that came over one are the way, as far as it is known here.
    pub(super) fn ahead(&mut self, chunk: &Chunk, several_ways: bool) -> Vec<(usize, Millis)> {
        let mut ahead = Vec::new();
        for (row, timestamp) in chunk.timestamps.iter().enumerate() {
            let stream_time = if several_ways {
                chunk.stream_time_of(row)
            } else {
                self.progress.time = self.progress.time.max(*timestamp);
                self.progress.time
            };
            if stream_time > *timestamp {
                ahead.push((row, stream_time));
            }
        }
        ahead
    }
}
