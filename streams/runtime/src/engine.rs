//! The tasks of one worker, and their commits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use millstream_client::{
    ClientError, ConsumerHandle, Delivery, Offsets, PartitionRecords, Producer, ProducerConfig,
    ProducerRecord, partition_for_key,
};
use millstream_record::{Offset, TopicPartition};
use millstream_streams_core::{OutputRecord, TaskCommit, TaskId, TopicName};
use parking_lot::Mutex;

use crate::active::{Active, Left, LeftHere, TurnBounds};
use crate::config::ProcessingGuarantee;
use crate::ends::Ends;
use crate::error::Result;
use crate::worker::Shared;

/// How far the changelogs of each task's stores reach.
type Changelogs = BTreeMap<TaskId, BTreeMap<Arc<str>, Offset>>;

/// Tasks that start take so long of a turn at most. What they have to restore may take far longer than the group waits for a poll.
const START_SLICE: Duration = Duration::from_millis(200);

/// A task that is on its way up.
struct Starting {
    id: TaskId,
    left: LeftHere,
    active: BoxFuture<'static, Result<Active>>,
}

/// Everything between the consumer and the log: tasks, producer, transaction.
pub(crate) struct Engine {
    shared: Arc<Shared>,
    worker: usize,
    producer: Producer,
    /// The producer lost its transaction, or cannot end it: the next one needs a producer made anew.
    spent: bool,
    tasks: BTreeMap<TaskId, Active>,
    /// Tasks assigned and not started yet.
    waiting: BTreeSet<TaskId>,
    /// The first of these, where it has begun to start.
    starting: Option<Starting>,
    /// What is left here of tasks that may come back with the next assignment.
    left: BTreeMap<TaskId, Left>,
    /// The task that worked last.
    last_in_turn: Option<TaskId>,
    in_transaction: bool,
    /// Records of this epoch that no transaction answers for.
    open: Vec<Delivery>,
    widths: BTreeMap<Arc<str>, i32>,
}

impl Engine {
    /// Registers the worker's producer, which ends what an earlier one of this worker left open.
    pub(crate) async fn new(shared: Arc<Shared>, worker: usize) -> Result<Self> {
        let producer = registered(&shared, worker).await?;
        Ok(Self {
            shared,
            worker,
            producer,
            spent: false,
            tasks: BTreeMap::new(),
            waiting: BTreeSet::new(),
            starting: None,
            left: BTreeMap::new(),
            last_in_turn: None,
            in_transaction: false,
            open: Vec::new(),
            widths: BTreeMap::new(),
        })
    }

    /// Where the producer cannot go on, puts another of the same name in its place. That ends what the old one left open, so it
    /// comes before tasks ask for what is committed: a commit that nobody answered has taken effect by then, or never will.
    pub(crate) async fn ensure_producer(&mut self) -> Result<()> {
        if self.spent {
            self.producer = registered(&self.shared, self.worker).await?;
            self.spent = false;
        }
        Ok(())
    }

    /// The tasks that the group has given to this worker, all of them; they start with the next [`Engine::start_waiting`].
    pub(crate) fn assign(&mut self, partitions: &[TopicPartition]) {
        for partition in partitions {
            if let Some((task, _)) = self.shared.layout.reader_of(partition) {
                self.waiting.insert(task);
            }
        }
        self.left.retain(|task, _| self.waiting.contains(task));
    }

    /// Whether tasks are assigned of which none has begun to start.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty() && self.starting.is_none()
    }

    /// Whether a task has begun to start.
    pub(crate) fn is_starting(&self) -> bool {
        self.starting.is_some()
    }

    /// Restores and starts tasks that were assigned, for a while: the next call goes on. In between the worker polls, as its group
    /// wants it to, and the tasks that have started work.
    pub(crate) async fn start_waiting(&mut self, consumer: &ConsumerHandle) -> Result<()> {
        let until = self.shared.env.elapsed() + START_SLICE;
        while let Some(id) = self.waiting.first().copied() {
            let starting = self.starting.get_or_insert_with(|| {
                let left = LeftHere::new(Mutex::new(self.left.remove(&id)));
                let (shared, consumer) = (Arc::clone(&self.shared), consumer.clone());
                let active = Active::start(shared, self.worker, id, consumer, Arc::clone(&left)).boxed();
                Starting { id, left, active }
            });
            let slice = until.saturating_sub(self.shared.env.elapsed());
            let Ok(started) = self.shared.env.timeout(slice, &mut starting.active).await else { break };
            self.stop_starting();
            let active = started?;
            self.waiting.remove(&id);
            tracing::debug!(task = %id, worker = self.worker, "task started");
            self.tasks.insert(id, active);
        }
        Ok(())
    }

    /// Lets go of a task that is on its way up, but for what is left of it here.
    fn stop_starting(&mut self) {
        if let Some(Starting { id, left, .. }) = self.starting.take() {
            self.left.extend(left.lock().take().map(|left| (id, left)));
        }
    }

    /// Hands records to the tasks that read them.
    pub(crate) fn add(&mut self, batches: Vec<PartitionRecords>) -> Result<()> {
        let layout = Arc::clone(&self.shared.layout);
        for batch in batches {
            let Some((id, topic)) = layout.reader_of(&batch.topic_partition) else { continue };
            if let Some(active) = self.tasks.get_mut(&id) {
                active.add(topic, batch)?;
            }
        }
        Ok(())
    }

    /// Lets each task work for a while and sends what it made, until the turn is over; the next one begins with the tasks that had
    /// none. True when one of them could go on.
    pub(crate) async fn process(&mut self, until: Duration) -> Result<bool> {
        let wall = self.shared.env.now();
        let bounds = TurnBounds { until, uncommitted_bytes: self.shared.config.max_uncommitted_bytes };
        let (mut busy, mut worked) = (false, false);
        for id in self.in_turn() {
            let Some(active) = self.tasks.get_mut(&id) else { continue };
            let (did_some, has_more) = active.work(&self.shared.env, wall, bounds)?;
            if !did_some {
                active.task.advance(wall)?;
            }
            busy |= has_more || active.task.has_more();
            worked |= did_some;
            active.dirty |= did_some;
            active.report();
            let outputs = active.task.take_outputs();
            active.dirty |= !outputs.is_empty(); // time alone may have made them, and changed stores
            active.dirty |= active.task.has_news();
            let is_full = active.task.uncommitted_bytes() > bounds.uncommitted_bytes;
            self.send(outputs).await?;
            self.last_in_turn = Some(id);
            if is_full || (worked && self.shared.env.elapsed() >= until) {
                return Ok(true);
            }
        }
        Ok(busy)
    }

    /// The tasks, from the one after that which worked last.
    fn in_turn(&self) -> Vec<TaskId> {
        let is_behind = |id: &&TaskId| self.last_in_turn.is_none_or(|last| **id > last);
        let (first, then): (Vec<_>, Vec<_>) = self.tasks.keys().partition(is_behind);
        first.into_iter().chain(then).copied().collect()
    }

    /// Whether a commit must not wait for its time: uncommitted state has outgrown its bound, or a task has just closed.
    pub(crate) fn is_commit_due(&self) -> bool {
        let limit = self.shared.config.max_uncommitted_bytes;
        let due = |active: &Active| {
            active.task.uncommitted_bytes() > limit || (active.task.is_closed() && !active.done)
        };
        self.tasks.values().any(due)
    }

    /// Commits what all tasks have done: outputs, changelog and positions, then the local stores. False when there was nothing.
    pub(crate) async fn commit(&mut self, consumer: &ConsumerHandle) -> Result<bool> {
        let mut offsets = Offsets::new();
        let (mut last, mut all_marks) = (BTreeMap::new(), Vec::new());
        let dirty: Vec<_> = self.tasks.iter().filter(|(_, active)| active.dirty).map(|(id, _)| *id).collect();
        for id in &dirty {
            let Some(active) = self.tasks.get_mut(id) else { continue };
            let TaskCommit { outputs, changelog, marks, offsets: positions } =
                active.task.prepare_commit()?;
            offsets.extend(active.offsets(positions));
            self.send(outputs).await?;
            all_marks.extend(marks);
            for (store, key, value) in changelog {
                let topic = self.shared.layout.changelog_name(&store);
                let record = ProducerRecord {
                    topic,
                    partition: Some(id.partition),
                    timestamp: None,
                    key: Some(key),
                    value,
                    headers: Vec::new(),
                };
                let delivery = self.send_one(record).await?;
                if let Some(earlier) = last.insert((*id, store), delivery)
                    && !self.in_transaction
                {
                    self.open.push(earlier);
                }
            }
        }
        if dirty.is_empty() && !self.in_transaction {
            return Ok(false);
        }
        if !self.in_transaction && !all_marks.is_empty() {
            self.settle().await?; // a mark must not be there without the rows before it
        }
        self.send_marks(all_marks).await?;
        let reached = self.make_durable(consumer, &offsets, last).await?;
        self.fold(&dirty, reached)?;
        Ok(true)
    }

    /// Ends the epoch in the log: positions are committed once everything that came of them is there. Answers how far changelogs reach.
    async fn make_durable(
        &mut self,
        consumer: &ConsumerHandle,
        offsets: &Offsets,
        last: BTreeMap<(TaskId, Arc<str>), Delivery>,
    ) -> Result<Changelogs> {
        match self.shared.config.processing_guarantee {
            ProcessingGuarantee::ExactlyOnce => {
                self.begin()?;
                self.producer.send_offsets_to_transaction(offsets, &consumer.group_metadata()).await?;
                self.producer.commit_transaction().await?;
                self.in_transaction = false;
                ends_of(last).await
            }
            ProcessingGuarantee::AtLeastOnce => {
                self.settle().await?;
                let reached = ends_of(last).await?;
                consumer.commit(offsets).await?;
                Ok(reached)
            }
        }
    }

    /// Waits for records that no transaction answers for.
    async fn settle(&mut self) -> Result<()> {
        let _hurry = self.producer.flush().await; // what fails is told by its delivery
        for delivery in std::mem::take(&mut self.open) {
            delivery.await?;
        }
        Ok(())
    }

    /// Moves the epoch's changes to the local stores, with the changelog offsets that they reach.
    fn fold(&mut self, dirty: &[TaskId], mut reached: Changelogs) -> Result<()> {
        let mut folds = Vec::new();
        for id in dirty {
            if let Some(active) = self.tasks.get_mut(id) {
                active.committed(reached.entry(*id).or_default(), &mut folds)?;
            }
        }
        if folds.is_empty() { Ok(()) } else { self.shared.state.fold(folds) }
    }

    /// Forgets every task and what it did since the last commit. What a failed abort leaves open is ended by the next producer, or
    /// by the broker after the transaction's timeout.
    pub(crate) async fn abandon(&mut self) {
        for (id, active) in std::mem::take(&mut self.tasks) {
            self.left.extend(active.leave(&self.shared.layout).map(|left| (id, left)));
        }
        self.stop_starting();
        self.waiting.clear();
        self.open.clear();
        if std::mem::take(&mut self.in_transaction)
            && let Err(error) = self.producer.abort_transaction().await
        {
            tracing::warn!(worker = self.worker, %error, "could not abort a transaction; its producer is made anew");
            self.spent = true;
        }
    }

    /// The producer failed for good. To be said after [`Engine::abandon`].
    pub(crate) fn give_up_producer(&mut self) {
        self.spent = true;
    }

    /// Tells tasks the ends of their inputs, as far as they are known. Ends of repartition topics are known only if `asked`.
    pub(crate) fn tell_ends(&mut self, asked: Option<&Ends>) -> Result<()> {
        for active in self.tasks.values_mut() {
            for (topic, partition) in &active.inputs {
                let end = match (asked, topic) {
                    (_, TopicName::User(_)) => self.shared.control.end_of(partition),
                    (Some(ends), TopicName::Internal(_)) => ends.end_of(&self.shared, topic, partition),
                    (None, TopicName::Internal(_)) => None,
                };
                if let Some(end) = end {
                    active.task.end_input(topic, end)?;
                }
            }
        }
        Ok(())
    }

    /// Whether every task here is closed and committed.
    pub(crate) fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.tasks.values().all(|active| active.done)
    }

    /// Inputs that hold too many rows or whose tasks have not started, and those that have room.
    pub(crate) fn pressure(&self) -> (Vec<TopicPartition>, Vec<TopicPartition>) {
        let limit = self.shared.config.max_buffered_rows;
        let of_waiting = self.waiting.iter().flat_map(|id| self.shared.layout.inputs_of(*id));
        let mut full: Vec<_> = of_waiting.map(|(_, partition)| partition.clone()).collect();
        let mut free = Vec::new();
        for active in self.tasks.values() {
            for (topic, partition) in &active.inputs {
                let rows = active.task.buffered_rows(topic);
                if rows >= limit {
                    full.push(partition.clone());
                } else if rows <= limit / 2 {
                    free.push(partition.clone());
                }
            }
        }
        (full, free)
    }

    /// Flushes and ends the producer.
    pub(crate) async fn close(&mut self) -> Result<()> {
        self.tasks.clear();
        if self.spent { Ok(()) } else { Ok(self.producer.close().await?) }
    }

    async fn send(&mut self, outputs: Vec<(TopicName, Vec<OutputRecord>)>) -> Result<()> {
        for (topic, records) in outputs {
            let topic = topic.resolve(&self.shared.layout.application_id);
            for record in records {
                let OutputRecord { key, partition_key, value, timestamp, headers } = record;
                let partition = match partition_key {
                    Some(bytes) => Some(partition_for_key(&bytes, self.width(&topic).await?)),
                    None => None,
                };
                let topic = Arc::clone(&topic);
                let record =
                    ProducerRecord { topic, partition, timestamp: Some(timestamp), key, value, headers };
                let delivery = self.send_one(record).await?;
                if !self.in_transaction {
                    self.open.push(delivery); // a transaction fails with its records
                }
            }
        }
        Ok(())
    }

    /// Tells every partition of a topic how far a task is.
    async fn send_marks(&mut self, marks: Vec<(TopicName, OutputRecord)>) -> Result<()> {
        for (topic, OutputRecord { headers, .. }) in marks {
            let topic = topic.resolve(&self.shared.layout.application_id);
            for partition in 0..self.width(&topic).await? {
                let record = ProducerRecord {
                    topic: Arc::clone(&topic),
                    partition: Some(partition),
                    timestamp: None,
                    key: None,
                    value: None,
                    headers: headers.clone(),
                };
                let delivery = self.send_one(record).await?;
                if !self.in_transaction {
                    self.open.push(delivery);
                }
            }
        }
        Ok(())
    }

    async fn send_one(&mut self, record: ProducerRecord) -> Result<Delivery, ClientError> {
        self.begin()?;
        self.producer.send(record).await
    }

    /// Opens the transaction of the epoch with its first record.
    fn begin(&mut self) -> Result<(), ClientError> {
        let exactly_once = self.shared.config.processing_guarantee == ProcessingGuarantee::ExactlyOnce;
        if exactly_once && !self.in_transaction {
            self.producer.begin_transaction()?;
            self.in_transaction = true;
        }
        Ok(())
    }

    async fn width(&mut self, topic: &Arc<str>) -> Result<i32> {
        if let Some(width) = self.widths.get(topic) {
            return Ok(*width);
        }
        let partitions = self.producer.partitions_for(topic).await?;
        let width = i32::try_from(partitions.len()).unwrap_or(i32::MAX).max(1);
        self.widths.insert(Arc::clone(topic), width);
        Ok(width)
    }
}

/// Waits for the last record of each changelog.
async fn ends_of(last: BTreeMap<(TaskId, Arc<str>), Delivery>) -> Result<Changelogs> {
    let mut reached = Changelogs::new();
    for ((id, store), delivery) in last {
        if let Some(offset) = delivery.await?.offset {
            reached.entry(id).or_default().insert(store, offset.plus(1));
        }
    }
    Ok(reached)
}

/// The worker's producer. With transactions it takes its name over, and ends what an earlier one of that name left open.
async fn registered(shared: &Shared, worker: usize) -> Result<Producer> {
    let producer = shared.writing.producer(producer_config(shared, worker))?;
    if shared.config.processing_guarantee == ProcessingGuarantee::ExactlyOnce {
        producer.init_transactions().await?;
    }
    Ok(producer)
}

fn producer_config(shared: &Shared, worker: usize) -> ProducerConfig {
    match shared.config.processing_guarantee {
        ProcessingGuarantee::AtLeastOnce => ProducerConfig::default(),
        ProcessingGuarantee::ExactlyOnce => {
            let id = format!("{}-{}-{worker}", shared.layout.application_id, shared.process);
            let timeout = shared.config.transaction_timeout_ms;
            ProducerConfig { transaction_timeout_ms: timeout, ..ProducerConfig::transactional(id) }
        }
    }
}
