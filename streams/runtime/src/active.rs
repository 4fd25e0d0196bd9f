//! A task that runs on a worker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use millstream_client::{ConsumerHandle, ConsumerRecord, OffsetAndMetadata, PartitionRecords};
use millstream_env::Env;
use millstream_record::{LeaderEpoch, Millis, Offset, TopicPartition};
use millstream_streams_core::task::Gate;
use millstream_streams_core::{InputRecord, Task, TaskId, TopicName};
use parking_lot::Mutex;

use crate::cleanup::Lease;
use crate::control::StreamsControl;
use crate::error::Result;
use crate::layout::Layout;
use crate::pace::Pace;
use crate::restore::{Kept, Slots, restore};
use crate::state::Fold;
use crate::worker::Shared;

/// Runs of rows that one task processes before others do.
const RUNS_PER_TURN: usize = 16;

/// Where a worker's turn ends.
#[derive(Clone, Copy)]
pub(crate) struct TurnBounds {
    /// Monotonic time at which something else is due.
    pub(crate) until: Duration,
    /// A task with more uncommitted state waits for a commit.
    pub(crate) uncommitted_bytes: usize,
}

/// What the metadata of a committed offset begins with when its input was consumed to its end and the task has closed. Behind it is
/// what the task keeps of times.
const ENDED: &str = "end";

/// What it begins with when the task has more to write than what comes of its inputs behind that offset: windows were due together,
/// and not all of their results are in this commit.
const MORE: &str = "more";

/// Whether the metadata of a committed offset says that the task has closed.
pub(crate) fn says_ended(metadata: &str) -> bool {
    metadata.split(' ').next() == Some(ENDED)
}

/// Whether the metadata of a committed offset says that the task has more to write.
pub(crate) fn says_more(metadata: &str) -> bool {
    metadata.split(' ').next() == Some(MORE)
}

/// What the task keeps of times in the metadata of a committed offset.
fn times_of(metadata: &str) -> &str {
    let behind = |word| metadata.strip_prefix(word).map(str::trim_start);
    behind(ENDED).or_else(|| behind(MORE)).unwrap_or(metadata)
}

/// A task with what the runtime knows about it.
pub(crate) struct Active {
    pub(crate) task: Task,
    slots: Slots,
    /// The positions that the stores stand for.
    settled: Positions,
    pub(crate) inputs: Vec<(TopicName, TopicPartition)>,
    /// Leader epoch of the last record of each input.
    epochs: BTreeMap<TopicName, LeaderEpoch>,
    pace: Pace,
    /// Something happened since the last commit.
    pub(crate) dirty: bool,
    /// It is closed, and that is committed.
    pub(crate) done: bool,
    presence: Presence,
    lease: Lease,
}

/// How far inputs are consumed.
type Positions = Vec<(TopicName, Offset)>;

/// What is left of a task that its worker may get back.
pub(crate) struct Left {
    settled: Positions,
    kept: Kept,
    _lease: Lease,
}

/// What is left of a task that is starting, until it is taken. Whoever gives the start up finds it here.
pub(crate) type LeftHere = Arc<Mutex<Option<Left>>>;

impl Active {
    /// Restores the task's stores, and stands its inputs where the group left them. What is `left` of it here is taken where nobody
    /// else has committed anything since.
    pub(crate) async fn start(
        shared: Arc<Shared>,
        worker: usize,
        id: TaskId,
        consumer: ConsumerHandle,
        left: LeftHere,
    ) -> Result<Self> {
        let layout = &shared.layout;
        let lease = shared.tenancy.lease(id, &shared.env); // before anything asks for its stores
        let inputs: Vec<(TopicName, TopicPartition)> =
            layout.inputs_of(id).map(|(topic, partition)| (topic.clone(), partition)).collect();
        let partitions: Vec<_> = inputs.iter().map(|(_, partition)| partition.clone()).collect();
        // Before the stores: this waits for a commit that is still under way, whose changes are then below the end that they are
        // restored to. The other way round its positions would be taken without its state.
        let committed = consumer.committed(&partitions).await?;
        let first = consumer.beginning_offsets(&partitions).await?;
        let position = |partition: &TopicPartition| {
            let start = first.get(partition).copied().unwrap_or_default();
            committed.get(partition).map_or(start, |position| position.offset.max(start))
        };
        let positions: Positions = inputs.iter().map(|(topic, at)| (topic.clone(), position(at))).collect();
        let (kept, slots) = {
            let mut left = left.lock();
            *left = left.take().filter(|left| left.settled == positions);
            let kept = left.iter().flat_map(|left| left.kept.bases.keys().cloned()).collect();
            (kept, left.as_ref().map(|left| left.kept.slots.clone()).unwrap_or_default())
        };
        let stores = restore(layout, &shared.state, &shared.client, id, &kept, slots).await?;
        let ends = consumer.end_offsets(&partitions).await?;
        let (bases, slots) = stores.open(&shared.state, left.lock().take().map(|left| left.kept));
        let application = Arc::clone(&layout.application_id);
        // What other tasks write is seen when they commit, so nothing is to be made of a pause of one commit.
        let idle_ms = shared.config.idle_timeout_ms.max(2 * shared.config.commit_interval_ms);
        let idle_ms = i64::try_from(idle_ms).unwrap_or(i64::MAX);
        let task = Task::new(Arc::clone(&layout.topology), id, application, bases, &positions)?;
        let mut task = task.with_ways(&layout.ways(), idle_ms);
        for (topic, partition) in &inputs {
            consumer.seek(partition, position(partition))?;
            if let Some(position) = committed.get(partition) {
                task.restore_times(topic, times_of(&position.metadata))?;
            }
            let end = ends.get(partition).copied().unwrap_or_default();
            task.observe_log_end(topic, end)?;
            if layout.is_finite(topic, &shared.config) {
                task.expect_end(topic)?;
            }
            task.set_gate(topic, gate(layout, &shared, topic, end))?;
        }
        Ok(Self {
            task,
            slots,
            settled: positions,
            inputs,
            epochs: BTreeMap::new(),
            pace: Pace::new(),
            dirty: false,
            done: false,
            presence: Presence { worker, task: id, control: shared.control.clone() },
            lease,
        })
    }

    /// Takes records of one of its inputs.
    pub(crate) fn add(&mut self, topic: &TopicName, batch: PartitionRecords) -> Result<()> {
        self.task.observe_log_end(topic, batch.last_stable_offset)?;
        self.epochs.insert(topic.clone(), batch.leader_epoch);
        self.dirty = true;
        let records = batch.records.into_iter().map(input_record).collect();
        Ok(self.task.add_records(topic, records, batch.next_offset)?)
    }

    /// Processes rows, and closes the task behind the last one, until there is nothing to do, until its share of the turn is used up, or until a commit is due. One run at least, or no
    /// slow task would ever get on. Tells whether there was anything, and whether there may be more.
    pub(crate) fn work(&mut self, env: &Env, wall: Millis, bounds: TurnBounds) -> Result<(bool, bool)> {
        let (mut runs, mut began) = (0, env.elapsed());
        loop {
            let limit = self.pace.rows();
            let rows = match self.task.process_some(wall, limit)? {
                0 if self.task.is_drained() => self.task.close_some(wall, limit)?,
                rows => rows,
            };
            if rows == 0 {
                return Ok((runs > 0, false));
            }
            let now = env.elapsed();
            self.pace.took(rows, now.saturating_sub(began));
            runs += 1;
            began = now;
            let is_full = self.task.uncommitted_bytes() > bounds.uncommitted_bytes;
            if runs == RUNS_PER_TURN || now >= bounds.until || is_full {
                return Ok((true, true));
            }
        }
    }

    /// The positions to commit.
    pub(crate) fn offsets(
        &self,
        positions: Vec<(TopicName, Offset, String)>,
    ) -> impl Iterator<Item = (TopicPartition, OffsetAndMetadata)> {
        let partition = |topic: &TopicName| {
            self.inputs.iter().find(|(name, _)| name == topic).map(|(_, partition)| partition.clone())
        };
        positions.into_iter().filter_map(move |(topic, offset, times)| {
            let leader_epoch = self.epochs.get(&topic).copied().unwrap_or(LeaderEpoch::NONE);
            let has_more = self.task.has_more() && !self.task.is_closing(); // behind the end of its inputs it is known to have
            let metadata = match (self.task.is_closed(), has_more) {
                (true, _) => format!("{ENDED} {times}").trim_end().into(),
                (false, true) => format!("{MORE} {times}").trim_end().into(),
                (false, false) => times.into(),
            };
            Some((partition(&topic)?, OffsetAndMetadata { offset, leader_epoch, metadata }))
        })
    }

    /// The commit is durable. `reached` holds the changelog offsets after the records that were written.
    pub(crate) fn committed(
        &mut self,
        reached: &BTreeMap<Arc<str>, Offset>,
        folds: &mut Vec<Fold>,
    ) -> Result<()> {
        let on_disk = |name: &str| self.slots.contains_key(name);
        let taken = self.task.fold_or_take(on_disk)?;
        for (name, changes) in taken {
            let Some((slot, to)) = self.slots.get_mut(&name) else { continue };
            if let Some(offset) = reached.get(&name) {
                to.offset = *offset;
            }
            if !changes.is_empty() {
                folds.push(Fold { slot: slot.clone(), changes: changes.into_iter().collect(), reached: *to });
            }
        }
        self.settled = self.task.positions().into_iter().map(|(topic, at, _)| (topic, at)).collect();
        self.dirty = false;
        self.done = self.task.is_closed();
        Ok(())
    }

    /// Tells the control what the task has counted.
    pub(crate) fn report(&self) {
        let counters = self.task.counters().map(|(name, counters)| (Arc::clone(name), *counters)).collect();
        self.presence.control.report(self.presence.worker, self.task.id(), counters);
    }

    /// Ends the task, and what it did since the last commit. Leaves stores that have no changelog, as of that commit.
    pub(crate) fn leave(self, layout: &Layout) -> Option<Left> {
        let Self { task, slots, settled, lease: _lease, .. } = self;
        let names = &layout.topology.subtopologies()[task.id().subtopology].stores;
        let is_unlogged = |name: &Arc<str>| layout.changelog(name).is_none();
        let bases = names.iter().cloned().zip(task.into_bases());
        let bases: BTreeMap<_, _> = bases.filter(|(name, _)| is_unlogged(name)).collect();
        let slots = slots.into_iter().filter(|(name, _)| is_unlogged(name)).collect();
        (!bases.is_empty()).then_some(Left { settled, kept: Kept { bases, slots }, _lease })
    }
}

/// A task that runs here, as the control knows it.
struct Presence {
    worker: usize,
    task: TaskId,
    control: StreamsControl,
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.control.retire(self.worker, self.task);
    }
}

/// How far a bootstrap input must be read first: a finite one to its end, which may not be known yet, another to its present end.
fn gate(layout: &Layout, shared: &Shared, topic: &TopicName, end: Offset) -> Gate {
    if !layout.topology.is_bootstrap(topic) {
        Gate::Open
    } else if layout.is_finite(topic, &shared.config) {
        Gate::Unknown
    } else {
        Gate::At(end)
    }
}

fn input_record(record: ConsumerRecord) -> InputRecord {
    let ConsumerRecord { offset, timestamp, key, value, headers, .. } = record;
    InputRecord { offset, timestamp, key, value, headers }
}
