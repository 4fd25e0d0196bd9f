//! The inputs of a task: decoded rows that wait, and whose turn it is.

use std::collections::VecDeque;

use millstream_record::{Millis, Offset};

use crate::BEGINNING_OF_TIME;
use crate::chunk::Chunk;
use crate::error::{Result, StreamsError};
use crate::operator::Times;
use crate::topology::{Deserializer, InputRecord, NodeKind, TopicName, Topology};

/// How far a bootstrap input must be read before other inputs may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gate {
    /// Not a bootstrap input, or read far enough.
    #[default]
    Open,
    /// It must be read, but its end is not known yet.
    Unknown,
    /// It must be read up to this offset.
    At(Offset),
}

impl Gate {
    /// This gate when there was one before.
    pub(super) fn only_if(self, before: Self) -> Self {
        if before == Self::Open { Self::Open } else { self }
    }
}

/// One input partition.
pub(super) struct Input {
    pub(super) topic: TopicName,
    partition: i32,
    node: usize,
    skip_bad: bool,
    deserializer: Box<dyn Deserializer>,
    queue: VecDeque<Chunk>,
    pub(super) buffered: usize,
    /// The offset after the records taken in.
    fetched: Offset,
    /// The end of the log, as last seen.
    pub(super) log_end: Option<Offset>,
    /// The end of a finite input.
    pub(super) end: Option<Offset>,
    pub(super) gate: Gate,
    /// The highest timestamp processed.
    newest: Millis,
}

/// What became of records on arrival.
pub(super) struct Added {
    pub(super) records: u64,
    pub(super) dropped: u64,
    pub(super) bad: u64,
}

impl Input {
    /// Decodes records and queues their rows. Also tells which source node they belong to.
    pub(super) fn add(&mut self, records: Vec<InputRecord>, next: Offset) -> Result<(usize, Added)> {
        let mut added = Added { records: records.len() as u64, dropped: 0, bad: 0 };
        if !records.is_empty() {
            let decoded = self.deserializer.deserialize(records)?;
            if let Some(bad) = decoded.bad.first() {
                let topic = self.topic.as_str();
                if !self.skip_bad {
                    return Err(StreamsError::Deserialize {
                        topic: topic.into(),
                        partition: self.partition,
                        offset: bad.offset.0,
                        reason: bad.reason.clone(),
                    });
                }
                let count = decoded.bad.len();
                tracing::warn!(topic, partition = self.partition, offset = bad.offset.0, count, reason = %bad.reason,
                    "skipped records that cannot be decoded; the first is shown");
            }
            added.bad = decoded.bad.len() as u64;
            added.dropped = decoded.dropped;
            if let Some(chunk) = decoded.chunk.filter(|chunk| !chunk.is_empty()) {
                chunk.debug_check();
                self.buffered += chunk.len();
                self.queue.push_back(chunk);
            }
        }
        self.fetched = self.fetched.max(next);
        Ok((self.node, added))
    }

    /// Everything before this offset has been processed.
    pub(super) fn position(&self) -> Offset {
        self.queue.front().and_then(|chunk| chunk.offsets.first()).copied().unwrap_or(self.fetched)
    }

    pub(super) fn is_drained(&self) -> bool {
        self.end.is_some_and(|end| self.position() >= end)
    }

    fn head(&self) -> Option<Millis> {
        self.queue.front().and_then(|chunk| chunk.timestamps.first()).copied()
    }

    /// Whether it must be read before others.
    fn holds_others(&self) -> bool {
        match self.gate {
            Gate::Open => false,
            Gate::Unknown => true,
            Gate::At(end) => self.position() < end,
        }
    }

    /// Whether it is empty now, while records are known or may be presumed to come.
    fn is_awaited(&self) -> bool {
        self.queue.is_empty() && self.log_end.is_none_or(|end| self.fetched < end)
    }

    /// Takes rows from the front, up to `limit` and as long as none is newer than `until`.
    fn take_run(&mut self, until: Option<Millis>, limit: usize) -> Option<Chunk> {
        let head = self.queue.front_mut()?;
        let fits = |at: &Millis| until.is_none_or(|until| *at <= until);
        let count = head.timestamps.iter().take(limit).take_while(|at| fits(at)).count().max(1);
        let run = if count == head.len() { self.queue.pop_front()? } else { head.take_front(count) };
        self.buffered -= run.len();
        self.newest = run.timestamps.iter().fold(self.newest, |newest, at| newest.max(*at));
        Some(run)
    }
}

/// All inputs of a task.
pub(super) struct Inputs {
    inputs: Vec<Input>,
}

impl Inputs {
    pub(super) fn new(topology: &Topology, partition: i32, inputs: &[(TopicName, Offset)]) -> Self {
        let input = |(topic, position): &(TopicName, Offset)| {
            let node = topology.source_of(topic)?;
            let NodeKind::Source(source) = &topology.nodes()[node].kind else { return None };
            Some(Input {
                topic: topic.clone(),
                partition,
                node,
                skip_bad: source.skip_bad,
                deserializer: (source.deserializer)(),
                queue: VecDeque::new(),
                buffered: 0,
                fetched: *position,
                log_end: None,
                end: None,
                gate: if source.bootstrap { Gate::Unknown } else { Gate::Open },
                newest: BEGINNING_OF_TIME,
            })
        };
        Self { inputs: inputs.iter().filter_map(input).collect() }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Input> {
        self.inputs.iter()
    }

    pub(super) fn all(&self, test: impl FnMut(&Input) -> bool) -> bool {
        self.inputs.iter().all(test)
    }

    pub(super) fn get(&self, topic: &TopicName) -> Option<&Input> {
        self.inputs.iter().find(|input| input.topic == *topic)
    }

    pub(super) fn get_mut(&mut self, topic: &TopicName) -> Result<&mut Input> {
        let Some(at) = self.inputs.iter().position(|input| input.topic == *topic) else {
            let known: Vec<_> = self.inputs.iter().map(|input| input.topic.as_str()).collect();
            let known = known.join(", ");
            return Err(StreamsError::Unknown { kind: "input", name: topic.as_str().to_owned(), known });
        };
        Ok(&mut self.inputs[at])
    }

    /// The next run: of the input whose head is oldest (the first declared among equals), cut where another head is older.
    /// While a bootstrap input must still be read, only bootstrap inputs take part.
    pub(super) fn next_run(&mut self, limit: usize) -> Option<(usize, Chunk)> {
        let held = self.inputs.iter().any(Input::holds_others);
        let takes_part = |input: &Input| !held || input.gate != Gate::Open;
        if self.inputs.iter().any(|input| takes_part(input) && input.is_awaited()) {
            return None;
        }
        let mut heads: Vec<(Millis, usize)> = self
            .inputs
            .iter()
            .enumerate()
            .filter(|(_, input)| takes_part(input))
            .filter_map(|(at, input)| Some((input.head()?, at)))
            .collect();
        heads.sort_unstable();
        let (_, at) = *heads.first()?;
        let until = heads.get(1).map(|(timestamp, _)| *timestamp);
        let input = &mut self.inputs[at];
        Some((input.node, input.take_run(until, limit)?))
    }

    pub(super) fn times(&self, wall: Millis) -> Times {
        let newest = || self.inputs.iter().map(|input| input.newest);
        let stream = newest().max().unwrap_or(BEGINNING_OF_TIME);
        Times { stream, watermark: newest().min().unwrap_or(BEGINNING_OF_TIME), wall }
    }
}
