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
use crate::ways::{self, Mark, Progress, Ways};

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
    /// In offset order. A mark is never in front: it is heeded as soon as everything before it has been processed.
    queue: VecDeque<Queued>,
    pub(super) buffered: usize,
    /// The offset after the records taken in.
    fetched: Offset,
    /// The log went back behind rows that still wait: how many entries of the queue are older than that, and where it went on.
    went_back: Option<(usize, Offset)>,
    /// The end of the log, as last seen.
    pub(super) log_end: Option<Offset>,
    /// The end of a finite input.
    pub(super) end: Option<Offset>,
    pub(super) gate: Gate,
    /// The highest timestamp processed.
    newest: Millis,
    /// Where several ways meet in this topic: how far each is.
    ways: Option<Vec<Progress>>,
    /// Rows are given the stream time of their way, since those of several ways meet in the task; the one of this input.
    stream_time: Option<Millis>,
    /// It is finite, though where it ends may not be known yet.
    pub(super) is_finite: bool,
    /// Marks before this offset may be of an earlier run, whose ends are not those of this one.
    idle_from: Offset,
    /// Since when it has been read to the end of its log.
    quiet_since: Option<Millis>,
}

/// What waits to be processed.
enum Queued {
    /// Rows, with the port that they go out of.
    Rows(u16, Chunk),
    /// How far a way was here.
    Mark(Mark),
}

/// What became of records on arrival.
pub(super) struct Added {
    pub(super) records: u64,
    pub(super) dropped: u64,
    pub(super) bad: u64,
}

impl Input {
    /// Decodes records and queues their rows. Also tells which source node they belong to.
    pub(super) fn add(&mut self, mut records: Vec<InputRecord>, next: Offset) -> Result<(usize, Added)> {
        if !records.is_empty() {
            self.quiet_since = None;
        }
        let first = records.first().map_or(next, |record| record.offset.min(next));
        if first < self.fetched {
            self.go_back(first);
        }
        let mut marks = Vec::new();
        let mut times = Vec::new();
        if self.ways.is_some() {
            records.retain_mut(|record| {
                times.extend(ways::take_stream_time(record).map(|time| (record.offset, time)));
                let mut mark = Mark::read(record);
                if let Some(mark) = mark.as_mut().filter(|_| record.offset < self.idle_from) {
                    mark.progress.idle = false;
                }
                marks.extend(mark.map(|mark| (record.offset, mark)));
                mark.is_none()
            });
        }
        let mut added = Added { records: records.len() as u64, dropped: 0, bad: 0 };
        let mut rest: Option<Chunk> = None;
        if !records.is_empty() {
            let mut decoded = self.deserializer.deserialize(records)?;
            added.bad = decoded.bad.len() as u64;
            added.dropped = decoded.dropped;
            if let Some(chunk) = &mut decoded.chunk {
                chunk.debug_check();
                self.buffered += chunk.len();
                self.give_stream_times(chunk, &times);
            }
            self.take_bad(decoded.bad, &mut decoded.chunk)?;
            rest = decoded.chunk;
        }
        for (offset, mark) in marks {
            self.queue_before(offset, &mut rest);
            self.queue.push_back(Queued::Mark(mark));
        }
        self.queue.extend(rest.filter(|chunk| !chunk.is_empty()).map(|chunk| Queued::Rows(MAIN, chunk)));
        self.fetched = next;
        self.heed_marks();
        Ok((self.node, added))
    }

    /// The log was made anew, or lost its end, and goes on at `first`. Rows that are here already stay: no log has them any more.
    fn go_back(&mut self, first: Offset) {
        let topic = self.topic.as_str();
        tracing::warn!(
            topic,
            partition = self.partition,
            from = self.fetched.0,
            to = first.0,
            "the log of an input went back"
        );
        if !self.queue.is_empty() {
            let earlier = self.went_back.map_or(first, |(_, earlier)| earlier);
            self.went_back = Some((self.queue.len(), first.min(earlier)));
        }
        if self.is_finite {
            self.idle_from = Offset(i64::MAX); // nothing tells any more of which run a mark is
        }
    }

    /// The log ends at `end` now.
    pub(super) fn observe_end(&mut self, end: Offset) {
        self.log_end = Some(end);
        if let Gate::At(at) = self.gate
            && end < self.fetched
            && !self.is_finite
        {
            self.gate = Gate::At(at.min(end)); // it went back, and may never come so far again
        }
    }

    fn pop_front(&mut self) {
        self.queue.pop_front();
        let left = self.went_back.and_then(|(count, to)| Some((count.checked_sub(1)?, to)));
        self.went_back = left.filter(|(count, _)| *count > 0);
    }

    /// Queues the rows of `rest` that stand before `offset`.
    fn queue_before(&mut self, offset: Offset, rest: &mut Option<Chunk>) {
        let Some(chunk) = rest else { return };
        let count = chunk.offsets.iter().take_while(|at| **at < offset).count();
        if count > 0 {
            self.queue.push_back(Queued::Rows(MAIN, chunk.take_front(count)));
        }
    }

    /// Where several ways meet: the stream time of each row's own way, which is in `times` where the row is older.
    fn give_stream_times(&mut self, chunk: &mut Chunk, times: &[(Offset, Millis)]) {
        let Some(highest) = &mut self.stream_time else { return };
        let mut times = times.iter().copied().peekable();
        let rows = chunk.offsets.iter().zip(&chunk.timestamps);
        let own = rows.map(|(offset, timestamp)| match self.ways {
            None => {
                *highest = (*highest).max(*timestamp);
                *highest
            }
            Some(_) => {
                while times.next_if(|(at, _)| at < offset).is_some() {}
                times.next_if(|(at, _)| at == offset).map_or(*timestamp, |(_, time)| time.max(*timestamp))
            }
        });
        chunk.stream_times = Some(own.collect());
    }

    /// Marks in front say how far their ways are now.
    fn heed_marks(&mut self) {
        while let Some(Queued::Mark(mark)) = self.queue.front() {
            let ways = self.ways.as_deref_mut().unwrap_or_default();
            if let Some(way) = usize::try_from(mark.writer).ok().and_then(|at| ways.get_mut(at)) {
                *way = Progress { time: way.time.max(mark.progress.time), idle: mark.progress.idle };
            }
            self.pop_front();
        }
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
        let mut bad = bad.as_slice();
        while let Some(first) = bad.first() {
            self.queue_before(first.offset, rest);
            let next = rest.as_ref().and_then(|chunk| chunk.offsets.first().copied());
            let count = bad.iter().take_while(|one| next.is_none_or(|next| one.offset < next)).count();
            let (run, others) = bad.split_at(count);
            let mut columns = Columns::with_capacity(count);
            columns.timestamps.resize(count, BEGINNING_OF_TIME);
            columns.offsets.extend(run.iter().map(|one| one.offset));
            let run = columns.with(rows(self.topic.as_str(), self.partition, run)?);
            self.buffered += run.len();
            self.queue.push_back(Queued::Rows(SourceSpec::BAD_PORT, run));
            bad = others;
        }
        Ok(())
    }

    /// It is finite: who had ended in an earlier run is waited for again. So windows may close later, but never too early.
    pub(super) fn expect_end(&mut self) {
        self.is_finite = true;
        self.idle_from = self.log_end.unwrap_or(self.fetched);
        self.ways.iter_mut().flatten().for_each(|way| way.idle = false);
    }

    /// Everything before this offset has been processed. While rows wait that the log lost, they are not what it is about.
    pub(super) fn position(&self) -> Offset {
        let at = self.front().and_then(|chunk| chunk.offsets.first()).copied().unwrap_or(self.fetched);
        self.went_back.map_or(at, |(_, to)| at.min(to))
    }

    fn front(&self) -> Option<&Chunk> {
        match self.queue.front() {
            Some(Queued::Rows(_, chunk)) => Some(chunk),
            Some(Queued::Mark(_)) | None => None,
        }
    }

    pub(super) fn is_drained(&self) -> bool {
        self.end.is_some_and(|end| self.position() >= end)
    }

    fn head(&self) -> Option<Millis> {
        self.front().and_then(|chunk| chunk.timestamps.first()).copied()
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

    /// Takes rows from the front, up to `limit`, as long as it is their turn, and not across the gate, where others come in.
    fn take_run(&mut self, limit: usize, is_next: impl Fn(Millis) -> bool) -> Option<(u16, Chunk)> {
        let Some(Queued::Rows(port, head)) = self.queue.front_mut() else { return None };
        let port = *port;
        let gate = match self.gate {
            Gate::At(end) if head.offsets.first().is_some_and(|at| *at < end) => Some(end),
            Gate::At(_) | Gate::Unknown | Gate::Open => None,
        };
        let fits = |(time, at): &(&Millis, &Offset)| is_next(**time) && gate.is_none_or(|end| **at < end);
        let count = head.timestamps.iter().zip(&head.offsets).take(limit).take_while(fits).count().max(1);
        let run = head.take_front(count);
        if head.is_empty() {
            self.pop_front();
            self.heed_marks();
        }
        self.buffered -= run.len();
        self.newest = run.timestamps.iter().fold(self.newest, |newest, at| newest.max(*at));
        Some((port, run))
    }

    /// How far event time has come here. An input that ends somewhere is not idle before that; another is when nothing has come
    /// for `idle_ms`.
    fn progress(&mut self, wall: Millis, idle_ms: i64) -> Progress {
        if let Some(ways) = &self.ways {
            return Progress::of_all(ways.iter().copied());
        }
        let at_end = self.queue.is_empty() && self.log_end.is_some_and(|end| self.fetched >= end);
        self.quiet_since = at_end.then(|| self.quiet_since.unwrap_or(wall).min(wall)); // a clock may be set back
        let quiet = self.quiet_since.is_some_and(|since| wall.0.saturating_sub(since.0) >= idle_ms);
        let idle = self.is_drained() || (quiet && !self.is_finite && self.end.is_none());
        Progress { time: self.newest, idle }
    }

    /// What is to be kept of its ways, as text.
    pub(super) fn times_to_text(&self) -> String {
        let own = [Progress { time: self.newest, idle: false }];
        ways::to_text(self.ways.as_deref().unwrap_or(&own))
    }

    /// Reads what [`Input::times_to_text`] gave.
    pub(super) fn read_times(&mut self, text: &str) {
        if let Some(ways) = &mut self.ways {
            return ways::read_text(text, ways);
        }
        let mut own = [Progress::NONE];
        ways::read_text(text, &mut own);
        self.newest = own[0].time;
        self.stream_time = self.stream_time.map(|_| self.newest);
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
                went_back: None,
                log_end: None,
                end: None,
                gate: if source.bootstrap { Gate::Unknown } else { Gate::Open },
                newest: BEGINNING_OF_TIME,
                ways: None,
                stream_time: None,
                is_finite: false,
                idle_from: Offset(0),
                quiet_since: None,
            })
        };
        Self { inputs: inputs.iter().filter_map(input).collect() }
    }

    /// Says where several ways meet; rows are given the stream time of their way from now on.
    pub(super) fn set_ways(&mut self, ways: &Ways) {
        for input in &mut self.inputs {
            input.ways = ways.writers(&input.topic).map(|count| vec![Progress::NONE; count]);
            input.stream_time = Some(BEGINNING_OF_TIME);
        }
    }

    /// How far event time has come in what the source `node` reads.
    pub(super) fn progress(&mut self, node: usize, wall: Millis, idle_ms: i64) -> Progress {
        let inputs = self.inputs.iter_mut().filter(|input| input.node == node);
        Progress::of_all(inputs.map(|input| input.progress(wall, idle_ms)))
    }

    /// How far event time has come there at the end, when nothing is to be expected any more.
    pub(super) fn last_progress(&self, node: usize) -> Progress {
        let inputs = self.inputs.iter().filter(|input| input.node == node);
        let times =
            inputs.flat_map(|input| input.ways.iter().flatten().map(|way| way.time).chain([input.newest]));
        Progress::of_all(times.map(|time| Progress { time, idle: true }))
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

    /// The next run: of the input whose head is oldest (the first declared among equals), cut where it is another's turn by the
    /// same rule: were equals treated otherwise in the midst of a run, where a fetch ends would decide what a join finds.
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
        let second = heads.get(1).copied();
        let input = &mut self.inputs[at];
        let (port, run) = input.take_run(limit, |time| second.is_none_or(|second| (time, at) < second))?;
        Some((input.node, port, run))
    }

    pub(super) fn times(&self, wall: Millis) -> Times {
        let stream = self.inputs.iter().map(|input| input.newest).max().unwrap_or(BEGINNING_OF_TIME);
        Times { stream, watermark: None, wall }
    }
}
