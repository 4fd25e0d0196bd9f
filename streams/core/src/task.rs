//! A task: one subtopology on one partition.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use millstream_record::{Millis, Offset};

mod input;
mod paths;
mod times;

pub use input::Gate;
use input::{Input, Inputs};
use times::{TaskTimes, Telling, Way, ahead};

use crate::END_OF_TIME;
use crate::chunk::Chunk;
use crate::counter::{Counter, NodeCounters};
use crate::error::{Result, StreamsError};
use crate::operator::{Epoch, Operator, OperatorContext, StoreAccess, Times};
use crate::store::{Layered, Store};
use crate::topology::{InputRecord, NodeKind, OutputRecord, Serializer, TopicName, Topology};
use crate::ways;

/// Rows in one run of an input partition, at most.
pub const MAX_RUN_ROWS: usize = 4096;

/// Names a task. Shown as Kafka Streams does: `subtopology_partition`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId {
    /// Number of the subtopology.
    pub subtopology: usize,
    /// Partition of each of its inputs.
    pub partition: i32,
}

impl TaskId {
    /// Reads what [`TaskId`] shows as.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (subtopology, partition) = text.split_once('_')?;
        Some(Self { subtopology: subtopology.parse().ok()?, partition: partition.parse().ok()? })
    }
}

impl std::fmt::Display for TaskId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}_{}", self.subtopology, self.partition)
    }
}

/// What a commit of a task must make durable, all or nothing.
#[derive(Debug, Default)]
pub struct TaskCommit {
    /// Records for topics, in the order of their making.
    pub outputs: Vec<(TopicName, Vec<OutputRecord>)>,
    /// One record for each store entry that changed: store, key, value.
    pub changelog: Vec<(Arc<str>, Bytes, Option<Bytes>)>,
    /// Records for every partition of a topic: how far the task is.
    pub marks: Vec<(TopicName, OutputRecord)>,
    /// The position up to which each input has been consumed, and what [`Task::restore_times`] is to be given with it.
    pub offsets: Vec<(TopicName, Offset, String)>,
}

/// Changes of a store, by key; none is a removal.
pub type StoreChanges = (Arc<str>, BTreeMap<Bytes, Option<Bytes>>);

/// One subtopology on one partition: takes records, runs operators, collects outputs. No I/O: whoever drives it moves
/// records in with [`Task::add_records`], calls [`Task::process`] while that says there was work, and commits with
/// [`Task::prepare_commit`] and then [`Task::fold`] or [`Task::fold_or_take`]. After an error the task must be dropped and built anew.
pub struct Task {
    id: TaskId,
    application_id: Arc<str>,
    topology: Arc<Topology>,
    runners: BTreeMap<usize, Runner>,
    /// Ports behind which rows are handed on one by one.
    one_by_one: BTreeSet<(usize, u16)>,
    stores: Vec<Layered>,
    store_names: Vec<Arc<str>>,
    inputs: Inputs,
    outputs: Vec<(TopicName, Vec<OutputRecord>)>,
    output_bytes: usize,
    counters: BTreeMap<usize, NodeCounters>,
    epoch: Epoch,
    closed: bool,
    times: TaskTimes,
    /// Time is being told, and an operator has more to emit than one turn may.
    telling: Option<Telling>,
    /// Rows that an operator emits in one turn because time has passed, at most.
    limit: usize,
    /// Ways meet again behind the rows that are being handed on: what is due by one goes before the next.
    one_at_a_time: bool,
}

/// The working part of a node that is not a source.
enum Runner {
    Operator { operator: Box<dyn Operator>, stores: Vec<usize> },
    Sink { topic: TopicName, full_name: Arc<str>, serializer: Box<dyn Serializer>, way: Option<Way> },
}

impl Task {
    /// Builds the task. `bases` holds its committed stores, in the order of `Subtopology::stores`. `inputs` names its
    /// inputs with the offset to go on from: topics that lack partition `id.partition` are left out.
    ///
    /// # Errors
    /// What an operator says on reading back its state.
    pub fn new(
        topology: Arc<Topology>,
        id: TaskId,
        application_id: impl Into<Arc<str>>,
        bases: Vec<Box<dyn Store>>,
        inputs: &[(TopicName, Offset)],
    ) -> Result<Self> {
        let application_id = application_id.into();
        let part = topology.subtopologies().get(id.subtopology).ok_or_else(|| StreamsError::Unknown {
            kind: "subtopology",
            name: id.subtopology.to_string(),
            known: format!("{} of them", topology.subtopologies().len()),
        })?;
        let store_names = part.stores.clone();
        let nodes = part.nodes.clone();
        let mut runners = BTreeMap::new();
        for &at in &nodes {
            if let Some(runner) = Runner::new(&topology, at, &store_names, &application_id) {
                runners.insert(at, runner);
            }
        }
        let only_reads = |at: usize| match runners.get(&at) {
            Some(Runner::Operator { operator, .. }) => operator.only_reads(),
            _ => true,
        };
        let one_by_one = paths::one_by_one(&topology, &nodes, only_reads);
        let mut task = Self {
            id,
            inputs: Inputs::new(&topology, id.partition, inputs),
            runners,
            one_by_one,
            stores: bases.into_iter().map(Layered::new).collect(),
            store_names,
            outputs: Vec::new(),
            output_bytes: 0,
            counters: nodes.into_iter().map(|at| (at, NodeCounters::default())).collect(),
            epoch: Epoch(0),
            closed: false,
            times: TaskTimes::default(),
            telling: None,
            limit: MAX_RUN_ROWS,
            one_at_a_time: false,
            application_id,
            topology,
        };
        task.each_operator(|operator, ctx| operator.restore(ctx))?;
        task.resume_telling();
        Ok(task)
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> TaskId {
        self.id
    }

    /// The application it belongs to.
    #[must_use]
    pub fn application_id(&self) -> &Arc<str> {
        &self.application_id
    }

    /// Records arrive, in offset order. `next` is the offset after them, past any control records. Offsets below those that came
    /// before mean that the log was made anew or lost its end: positions follow it.
    ///
    /// # Errors
    /// An input that this task does not have, or a broken record where the source does not skip them.
    pub fn add_records(&mut self, topic: &TopicName, records: Vec<InputRecord>, next: Offset) -> Result<()> {
        let (node, added) = self.inputs.get_mut(topic)?.add(records, next)?;
        let counters = self.counters.entry(node).or_default();
        counters.rows_in += added.records;
        counters.rows_out += added.records - added.dropped - added.bad;
        counters.add(Counter::Dropped, added.dropped);
        counters.add(Counter::Bad, added.bad);
        Ok(())
    }

    /// The log of an input ends at `end` now (its last stable offset). An empty input that has reached it is not waited for.
    ///
    /// # Errors
    /// An input that this task does not have.
    pub fn observe_log_end(&mut self, topic: &TopicName, end: Offset) -> Result<()> {
        self.inputs.get_mut(topic)?.observe_end(end);
        Ok(())
    }

    /// The input is finite and ends at `end`: the task is drained when it has consumed all its inputs to their ends.
    ///
    /// # Errors
    /// An input that this task does not have.
    pub fn end_input(&mut self, topic: &TopicName, end: Offset) -> Result<()> {
        let input = self.inputs.get_mut(topic)?;
        input.end = Some(end);
        input.log_end = Some(end);
        input.gate = Gate::At(end).only_if(input.gate);
        Ok(())
    }

    /// The input is finite, though its end is not known yet: it is waited for, however long nothing comes. To be said at the start,
    /// after [`Task::restore_times`] and [`Task::observe_log_end`].
    ///
    /// # Errors
    /// An input that this task does not have.
    pub fn expect_end(&mut self, topic: &TopicName) -> Result<()> {
        self.inputs.get_mut(topic)?.expect_end();
        Ok(())
    }

    /// How far a bootstrap input must be read before other inputs are.
    ///
    /// # Errors
    /// An input that this task does not have.
    pub fn set_gate(&mut self, topic: &TopicName, gate: Gate) -> Result<()> {
        self.inputs.get_mut(topic)?.gate = gate;
        Ok(())
    }

    /// Rows that wait to be processed; whoever drives the task stops fetching above a bound.
    #[must_use]
    pub fn buffered_rows(&self, topic: &TopicName) -> usize {
        self.inputs.get(topic).map_or(0, |input| input.buffered)
    }

    /// Processes one run of rows, from the input whose head is oldest, or goes on emitting what is due by time. False when nothing
    /// can be processed now: every input is empty, or one is empty that is known to have more.
    ///
    /// # Errors
    /// An error of a node, with its name.
    pub fn process(&mut self, wall: Millis) -> Result<bool> {
        Ok(self.process_some(wall, MAX_RUN_ROWS)? > 0)
    }

    /// The same with a bound on the rows of the run, for steps of which each takes long. Answers how many there were. The bound is also
    /// that of the rows that an operator emits because time has passed; what is due beyond it goes first in the next call.
    ///
    /// # Errors
    /// An error of a node, with its name.
    pub fn process_some(&mut self, wall: Millis, limit: usize) -> Result<usize> {
        self.limit = limit.max(1);
        if self.telling.is_some() {
            return self.go_on_telling(wall);
        }
        let Some((node, port, chunk)) = self.inputs.next_run(limit) else { return Ok(0) };
        let rows = chunk.len();
        self.fan_out(node, port, chunk)?;
        self.tell_time(self.inputs.times(wall))?;
        Ok(rows)
    }

    /// Tells the operators the time, without new rows. While more is due than one call may emit ([`Task::has_more`]) it changes
    /// nothing: [`Task::process`] goes on with that.
    ///
    /// # Errors
    /// An error of a node, with its name.
    pub fn advance(&mut self, wall: Millis) -> Result<()> {
        if self.closed || self.telling.is_some() {
            return Ok(());
        }
        self.tell_time(self.inputs.times(wall)).map(drop)
    }

    /// Whether all inputs are finite and consumed to their ends.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.inputs.all(Input::is_drained)
    }

    /// Moves event time to its end, so that windows close. Once is enough; call it when the task is drained, then commit.
    ///
    /// # Errors
    /// An error of a node, with its name.
    pub fn close(&mut self, wall: Millis) -> Result<()> {
        while !self.closed {
            self.close_some(wall, MAX_RUN_ROWS)?;
        }
        Ok(())
    }

    /// The same in turns, each of which emits so many rows of an operator at most: to be called until the task is closed. A commit in
    /// between is exact; a task that goes on from there is to be closed again, and emits the rest. Answers how many rows there were.
    ///
    /// # Errors
    /// An error of a node, with its name.
    pub fn close_some(&mut self, wall: Millis, limit: usize) -> Result<usize> {
        self.limit = limit.max(1);
        match (self.closed, &self.telling) {
            (true, _) => Ok(0),
            (false, Some(_)) => self.go_on_telling(wall),
            (false, None) => self.tell_time(Times { stream: END_OF_TIME, watermark: None, wall }),
        }
    }

    /// Whether event time has come to its end: [`Task::close`] was called, and everything was emitted.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Memory that changes and outputs take since the last commit; commit early when it outgrows its bound.
    #[must_use]
    pub fn uncommitted_bytes(&self) -> usize {
        let at_hand = |runner: &Runner| match runner {
            Runner::Operator { operator, .. } => operator.uncommitted_bytes(),
            Runner::Sink { .. } => 0,
        };
        let stores = self.stores.iter().map(Layered::uncommitted_bytes);
        let operators = self.runners.values().map(at_hand);
        self.output_bytes + stores.chain(operators).sum::<usize>()
    }

    /// Takes the outputs made so far: with transactions they may be sent before the commit.
    pub fn take_outputs(&mut self) -> Vec<(TopicName, Vec<OutputRecord>)> {
        self.output_bytes = 0;
        std::mem::take(&mut self.outputs)
    }

    /// Ends the epoch: what must become durable together. Stores keep their changes until [`Task::fold`].
    ///
    /// # Errors
    /// An error of a node, with its name.
    pub fn prepare_commit(&mut self) -> Result<TaskCommit> {
        self.epoch = Epoch(self.epoch.0 + 1);
        let epoch = self.epoch;
        self.each_operator(|operator, ctx| operator.on_epoch(ctx, epoch))?;
        let mut changelog = Vec::new();
        for (name, store) in self.store_names.iter().zip(&self.stores) {
            if self.topology.store(name).is_some_and(|spec| spec.changelog) {
                let changes =
                    store.changes().map(|(key, value)| (Arc::clone(name), key.clone(), value.cloned()));
                changelog.extend(changes);
            }
        }
        let marks = self.take_marks();
        Ok(TaskCommit { outputs: self.take_outputs(), changelog, marks, offsets: self.positions() })
    }

    /// What a commit now would say of the inputs: see [`TaskCommit::offsets`].
    #[must_use]
    pub fn positions(&self) -> Vec<(TopicName, Offset, String)> {
        let position = |(at, input): (usize, &Input)| {
            (input.topic.clone(), input.position(), self.times_to_text(at, input))
        };
        self.inputs.iter().enumerate().map(position).collect()
    }

    /// The commit is durable: moves changes into the stores.
    ///
    /// # Errors
    /// What a store says.
    pub fn fold(&mut self) -> Result<()> {
        self.stores.iter_mut().try_for_each(Layered::fold)
    }

    /// The commit is durable: folds the stores for which `taken` is false, and takes the changes of the others out, for a driver
    /// that applies those of many stores in one batch.
    ///
    /// # Errors
    /// What a store says.
    pub fn fold_or_take(&mut self, taken: impl Fn(&str) -> bool) -> Result<Vec<StoreChanges>> {
        let mut changes = Vec::new();
        for (name, store) in self.store_names.iter().zip(&mut self.stores) {
            if taken(name) {
                changes.push((Arc::clone(name), store.take_changes()));
            } else {
                store.fold()?;
            }
        }
        Ok(changes)
    }

    /// Reads a store, uncommitted changes included.
    #[must_use]
    pub fn store(&self, name: &str) -> Option<&dyn Store> {
        let at = self.store_names.iter().position(|known| &**known == name)?;
        self.stores.get(at).map(|store| store as &dyn Store)
    }

    /// Ends the task and hands back its committed stores, without what was not committed.
    #[must_use]
    pub fn into_bases(self) -> Vec<Box<dyn Store>> {
        self.stores.into_iter().map(Layered::into_base).collect()
    }

    /// Counters of each node, by name.
    pub fn counters(&self) -> impl Iterator<Item = (&Arc<str>, &NodeCounters)> {
        self.counters.iter().map(|(at, counters)| (&self.topology.nodes()[*at].name, counters))
    }

    /// Calls every operator, parents before children, and passes on what each one forwards before the next is called.
    fn each_operator(
        &mut self,
        mut call: impl FnMut(&mut dyn Operator, &mut OperatorContext<'_>) -> Result<()>,
    ) -> Result<()> {
        let nodes: Vec<usize> = self.runners.keys().copied().collect();
        for at in nodes {
            self.run(at, &mut call)?;
        }
        Ok(())
    }

    /// Calls one operator and delivers its outputs; answers how many rows these were.
    fn run(
        &mut self,
        at: usize,
        call: &mut dyn FnMut(&mut dyn Operator, &mut OperatorContext<'_>) -> Result<()>,
    ) -> Result<usize> {
        let mut outputs = Vec::new();
        let limit = if self.one_at_a_time { usize::MAX } else { self.limit };
        if let Some(Runner::Operator { operator, stores }) = self.runners.get_mut(&at) {
            let access = StoreAccess { all: &mut self.stores, mine: stores };
            let counters = self.counters.entry(at).or_default();
            let mut ctx =
                OperatorContext::new(access, counters, &mut outputs, self.times.several_ways, limit);
            call(operator.as_mut(), &mut ctx).map_err(|error| error.at(&self.topology.nodes()[at].name))?;
        }
        let rows = outputs.iter().map(|(_, chunk)| chunk.len()).sum();
        for (port, chunk) in outputs {
            self.fan_out(at, port, chunk)?;
        }
        Ok(rows)
    }

    /// Hands a chunk to each node behind a port; the last one gets it without a copy. Where ways behind the port meet again, each
    /// row goes all its ways before the next one.
    fn fan_out(&mut self, from: usize, port: u16, chunk: Chunk) -> Result<()> {
        let one_by_one = self.one_by_one.contains(&(from, port));
        let before = self.one_at_a_time;
        self.one_at_a_time |= one_by_one;
        let outcome = self.hand_on(from, port, chunk, one_by_one);
        self.one_at_a_time = before;
        outcome
    }

    fn hand_on(&mut self, from: usize, port: u16, mut chunk: Chunk, one_by_one: bool) -> Result<()> {
        if chunk.len() > 1 && one_by_one {
            let front = chunk.take_front(chunk.len() / 2); // halves: row by row off the front would move the rest each time
            self.hand_on(from, port, front, one_by_one)?;
            return self.hand_on(from, port, chunk, one_by_one);
        }
        let topology = Arc::clone(&self.topology);
        let mut children = topology.nodes()[from].children.iter().filter(|(p, _)| *p == port).peekable();
        let mut chunk = Some(chunk);
        while let Some((_, child)) = children.next() {
            let rows = if children.peek().is_some() { chunk.clone() } else { chunk.take() };
            self.deliver(*child, rows.expect("taken for the last child only"))?;
        }
        Ok(())
    }

    fn deliver(&mut self, at: usize, chunk: Chunk) -> Result<()> {
        let rows = chunk.len() as u64;
        let counters = self.counters.entry(at).or_default();
        counters.rows_in += rows;
        if let Some(Runner::Sink { topic, full_name, serializer, way }) = self.runners.get_mut(&at) {
            if self.outputs.last().is_none_or(|(last, _)| last != topic) {
                self.outputs.push((topic.clone(), Vec::new()));
            }
            let (_, records) = self.outputs.last_mut().expect("pushed above when empty");
            let before = records.len();
            let ahead = way.map(|_| ahead(&chunk));
            let written = serializer.serialize(full_name, chunk, records);
            if let Some(ahead) = ahead {
                let written = &mut records[before..];
                for record in written.iter_mut().filter(|record| ways::must_note(record)) {
                    ways::note_stream_time(record, record.timestamp);
                }
                for (row, time) in ahead {
                    written.get_mut(row).into_iter().for_each(|record| ways::note_stream_time(record, time));
                }
            }
            counters.rows_out += (records.len() - before) as u64;
            self.output_bytes += records[before..].iter().map(OutputRecord::bytes).sum::<usize>();
            return written.map_err(|error| error.at(&self.topology.nodes()[at].name));
        }
        let mut chunk = Some(chunk);
        self.run(at, &mut |operator, ctx| {
            operator.on_chunk(ctx, chunk.take().expect("an operator is called once for a chunk"))
        })
        .map(drop)
    }
}

impl Runner {
    fn new(topology: &Topology, at: usize, stores: &[Arc<str>], application_id: &str) -> Option<Self> {
        match &topology.nodes()[at].kind {
            NodeKind::Source(_) => None,
            NodeKind::Operator(spec) => {
                let position = |name: &Arc<str>| stores.iter().position(|known| known == name);
                let stores = spec.stores.iter().map(position).collect::<Option<Vec<_>>>();
                let stores = stores.expect("a subtopology lists the stores of all its nodes");
                Some(Self::Operator { operator: (spec.factory)(), stores })
            }
            NodeKind::Sink(spec) => Some(Self::Sink {
                topic: spec.topic.clone(),
                full_name: spec.topic.resolve(application_id),
                serializer: (spec.serializer)(),
                way: None,
            }),
        }
    }
}
