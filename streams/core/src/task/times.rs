//! What a task knows of time where ways meet ([`crate::ways`]): before it, at each of its nodes, and behind it.

use std::collections::BTreeMap;
use std::sync::Arc;

use millstream_record::Millis;

use super::input::Input;
use super::{Runner, Task};
use crate::chunk::Chunk;
use crate::error::Result;
use crate::operator::Times;
use crate::topology::{NodeKind, OutputRecord, TopicName};
use crate::ways::{self, Mark, Progress, Ways};
use crate::{BEGINNING_OF_TIME, END_OF_TIME};

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

/// How far the telling of time has come that an operator with more to emit has interrupted. Until it is over no rows are taken, so
/// nothing is judged or joined otherwise than if all had been emitted at once, and nobody is told that time has come farther.
pub(super) struct Telling {
    times: Times,
    /// The node that has more.
    at: usize,
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

    /// Tells the operators the time, parents before children.
    pub(super) fn tell_time(&mut self, times: Times) -> Result<usize> {
        self.look_at_ways(times);
        if times.stream == BEGINNING_OF_TIME && !self.times.several_ways {
            return Ok(0); // nothing has been processed, so no event time has passed
        }
        self.telling = Some(Telling { times, at: 0 });
        self.go_on_telling(times.wall)
    }

    /// Goes on with that up to an operator that has more to emit than a turn may. Answers how many rows there were, one at least.
    pub(super) fn go_on_telling(&mut self, wall: Millis) -> Result<usize> {
        let Some(Telling { times, at }) = self.telling.take() else { return Ok(0) };
        let nodes: Vec<usize> = self.runners.range(at..).map(|(at, _)| *at).collect();
        let mut rows = 0;
        for at in nodes {
            let progress = self.times.several_ways.then(|| self.times.progress.get(&at)).flatten();
            let watermark = progress.map(|(before, _)| before.time);
            let now = Times { watermark, wall, ..times };
            rows += self.run(at, &mut |operator, ctx| operator.on_time(ctx, now))?;
            if self.runners.get(&at).is_some_and(Runner::has_more) {
                self.telling = Some(Telling { times, at });
                return Ok(rows.max(self.limit)); // windows that close without a row count, too
            }
        }
        self.closed |= times.stream == END_OF_TIME;
        Ok(rows.max(1))
    }

    /// After a restart: a commit came between the rows of windows that were due together.
    pub(super) fn resume_telling(&mut self) {
        if self.runners.values().any(Runner::has_more) {
            self.telling = Some(Telling { times: self.inputs.times(BEGINNING_OF_TIME), at: 0 });
        }
    }

    /// Whether more is due than one call may emit; [`Task::process`] goes on with it.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.telling.is_some()
    }

    /// Whether the end of event time is being told, and not over.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.telling.as_ref().is_some_and(|telling| telling.times.stream == END_OF_TIME)
    }

    /// Whether time has moved since the last commit in a way that other tasks should be told.
    #[must_use]
    pub fn has_news(&self) -> bool {
        if self.telling.is_some() {
            return false; // rows are due that are older than that
        }
        let differs = |way: Way| way.told != Some(way.progress);
        self.runners
            .values()
            .any(|runner| matches!(runner, Runner::Sink { way: Some(way), .. } if differs(*way)))
    }

    pub(super) fn take_marks(&mut self) -> Vec<(TopicName, OutputRecord)> {
        let mut marks = Vec::new();
        if self.telling.is_some() {
            return marks; // see `has_news`
        }
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
    fn look_at_ways(&mut self, Times { stream, wall, .. }: Times) {
        if !self.times.several_ways {
            return;
        }
        // A task with an end is not idle before it has closed: until then it may hold windows whose results are still to come.
        let closed = self.closed || stream == END_OF_TIME;
        let idles = closed || !self.inputs.all(|input| input.is_finite || input.end.is_some());
        let topology = Arc::clone(&self.topology);
        let nodes = &topology.subtopologies()[self.id.subtopology].nodes;
        let TaskTimes { idle_ms, progress, .. } = &mut self.times;
        for &at in nodes {
            let node = &topology.nodes()[at];
            let before = match &node.kind {
                NodeKind::Source(_) if closed => self.inputs.last_progress(at),
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
                    let idle = closed || (before.idle && idles);
                    way.progress = Progress { time: before.time.max(way.progress.time), idle };
                    before
                }
                Some(Runner::Sink { .. }) | None => before,
            };
            progress.insert(at, (before, behind));
        }
    }
}

impl Runner {
    fn has_more(&self) -> bool {
        matches!(self, Self::Operator { operator, .. } if operator.has_more())
    }
}

/// The rows whose way is ahead of them, each with that way's stream time.
pub(super) fn ahead(chunk: &Chunk) -> Vec<(usize, Millis)> {
    let times = chunk.timestamps.iter().enumerate();
    let ahead = times.map(|(row, timestamp)| (row, chunk.stream_time_of(row), timestamp));
    ahead.filter(|(_, time, timestamp)| time > *timestamp).map(|(row, time, _)| (row, time)).collect()
}
