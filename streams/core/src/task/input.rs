//! The inputs of a task: decoded rows that wait, and whose turn it is.

use std::collections::VecDeque;
use std::sync::Arc;

use millstream_record::{Millis, Offset};

use crate::BEGINNING_OF_TIME;
use crate::chunk::{Chunk, Columns};
use crate::error::{Result, StreamsError};
use crate::operator::Times;
use crate::topology::{
    BadRecord, Deserializer, InputRecord, NodeKind, OnBad, SourceSpec, TopicName, Topology,
};

/// The port of rows.
const MAIN: u16 = 0;

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
    on_bad: OnBad,
    deserializer: Box<dyn Deserializer>,
    /// In offset order, each with the port that it goes out of.
    queue: VecDeque<(u16, Chunk)>,
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
            let mut decoded = self.deserializer.deserialize(records)?;
            added.bad = decoded.bad.len() as u64;
            added.dropped = decoded.dropped;
            if let Some(chunk) = &mut decoded.chunk {
                chunk.debug_check();
                self.buffered += chunk.len();
            }
            self.take_bad(decoded.bad, &mut decoded.chunk)?;
            self.queue.extend(decoded.chunk.filter(|chunk| !chunk.is_empty()).map(|chunk| (MAIN, chunk)));
        }
        self.fetched = self.fetched.max(next);
        Ok((self.node, added))
    }

    /// Treats broken records as the source says. Those that are forwarded stand between the rows of `rest` where they stood in the
    /// log, so that a commit never counts them without them.
    fn take_bad(&mut self, bad: Vec<BadRecord>, rest: &mut Option<Chunk>) -> Result<()> {
        let Some(first) = bad.first() else { return Ok(()) };
        let topic = self.topic.as_str();
        let rows = match &self.on_bad {
            OnBad::Fail => {
                return Err(StreamsError::Deserialize {
                    topic: topic.into(),
                    partition: self.partition,
                    offset: first.offset.0,
                    reason: first.reason.clone(),
                });
            }
            OnBad::Skip => None,
            OnBad::Forward(rows) => Some(Arc::clone(rows)),
        };
        tracing::warn!(topic, partition = self.partition, offset = first.offset.0, count = bad.len(), reason = %first.reason,
            "left records out that cannot be decoded; the first is shown");
        let Some(rows) = rows else { return Ok(()) };
        let precedes = |chunk: &Chunk, offset| chunk.offsets.iter().take_while(|at| **at < offset).count();
        let mut bad = bad.as_slice();
        while let Some(first) = bad.first() {
            if let Some(chunk) = rest
                && let count @ 1.. = precedes(chunk, first.offset)
            {
                self.queue.push_back((MAIN, chunk.take_front(count)));
            }
            let next = rest.as_ref().and_then(|chunk| chunk.offsets.first().copied());
            let count = bad.iter().take_while(|one| next.is_none_or(|next| one.offset < next)).count();
            let (run, others) = bad.split_at(count);
            let mut columns = Columns::with_capacity(count);
            columns.timestamps.resize(count, BEGINNING_OF_TIME);
            columns.offsets.extend(run.iter().map(|one| one.offset));
            let run = columns.with(rows(self.topic.as_str(), self.partition, run)?);
            self.buffered += run.len();
            self.queue.push_back((SourceSpec::BAD_PORT, run));
            bad = others;
        }
        Ok(())
    }

    /// Everything before this offset has been processed.
    pub(super) fn position(&self) -> Offset {
        self.queue.front().and_then(|(_, chunk)| chunk.offsets.first()).copied().unwrap_or(self.fetched)
    }

    pub(super) fn is_drained(&self) -> bool {
        self.end.is_some_and(|end| self.position() >= end)
    }

    fn head(&self) -> Option<Millis> {
        self.queue.front().and_then(|(_, chunk)| chunk.timestamps.first()).copied()
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
    fn take_run(&mut self, until: Option<Millis>, limit: usize) -> Option<(u16, Chunk)> {
        let (port, head) = self.queue.front_mut()?;
        let port = *port;
        let fits = |at: &Millis| until.is_none_or(|until| *at <= until);
        let count = head.timestamps.iter().take(limit).take_while(|at| fits(at)).count().max(1);
        let run = if count == head.len() { self.queue.pop_front()?.1 } else { head.take_front(count) };
        self.buffered -= run.len();
        self.newest = run.timestamps.iter().fold(self.newest, |newest, at| newest.max(*at));
        Some((port, run))
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
                on_bad: source.on_bad.clone(),
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
    pub(super) fn next_run(&mut self, limit: usize) -> Option<(usize, u16, Chunk)> {
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
        let (port, run) = input.take_run(until, limit)?;
        Some((input.node, port, run))
    }

    pub(super) fn times(&self, wall: Millis) -> Times {
        let newest = || self.inputs.iter().map(|input| input.newest);
        let stream = newest().max().unwrap_or(BEGINNING_OF_TIME);
        Times { stream, watermark: newest().min().unwrap_or(BEGINNING_OF_TIME), wall }
    }
}
