//! Bringing the stores of a task to where its changelogs end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use millstream_client::{
    Client, ClientError, Consumer, ConsumerConfig, IsolationLevel, OffsetAndTimestamp, OffsetReset,
    OffsetSpec,
};
use millstream_record::{Offset, TopicId, TopicPartition};
use millstream_streams_core::TaskId;
use millstream_streams_core::store::{MemoryStore, Store};

use crate::error::{AppError, Result};
use crate::layout::Layout;
use crate::state::{Fold, Reached, Slot, StateDir};

/// A replay that hears nothing for so long has failed.
const SILENCE_MS: u64 = 60_000;
const POLL: Duration = Duration::from_millis(500);

/// The stores of a task, as the runtime keeps them.
pub(crate) struct Stores {
    names: Vec<Arc<str>>,
    memory: BTreeMap<Arc<str>, MemoryStore>,
    /// Those on disk, by name.
    slots: Slots,
}

/// Stores on disk, by name.
pub(crate) type Slots = BTreeMap<Arc<str>, (Slot, Reached)>;

/// Stores without a changelog, of a task that stays with its worker while its group rebalances: nothing else could bring them back.
pub(crate) struct Kept {
    pub(crate) bases: BTreeMap<Arc<str>, Box<dyn Store>>,
    pub(crate) slots: Slots,
}

impl Stores {
    /// Bases for [`millstream_streams_core::Task::new`], in order, and those of them that are on disk.
    pub(crate) fn open(mut self, state: &StateDir, kept: Option<Kept>) -> (Vec<Box<dyn Store>>, Slots) {
        let mut kept = kept.map(|kept| kept.bases).unwrap_or_default();
        let base = |name: &Arc<str>| match (kept.remove(name), self.slots.get(name)) {
            (Some(kept), _) => kept,
            (None, Some((slot, _))) => Box::new(state.store(Arc::clone(name), slot)) as Box<dyn Store>,
            (None, None) => Box::new(self.memory.remove(name).unwrap_or_default()),
        };
        (self.names.iter().map(base).collect(), self.slots)
    }
}

/// Opens the stores of `task` but for those `kept`, which have these `slots`, and replays what their changelogs have beyond them, read-committed.
pub(crate) async fn restore(
    layout: &Layout,
    state: &StateDir,
    client: &Client,
    task: TaskId,
    kept: &BTreeSet<Arc<str>>,
    mut slots: Slots,
) -> Result<Stores> {
    let names = layout.topology.subtopologies()[task.subtopology].stores.clone();
    let mut replays = BTreeMap::new();
    let mut memory = BTreeMap::new();
    let ends = changelog_ends(layout, client, task, &names).await?;
    for name in &names {
        if kept.contains(name) {
            continue;
        }
        let topic_id = layout.changelog(name);
        let changelog = TopicPartition::new(layout.changelog_name(name), task.partition);
        let end = ends.get(&changelog).copied();
        let mut from = Offset(0);
        if layout.topology.store(name).is_some_and(|spec| spec.in_memory) {
            memory.insert(Arc::clone(name), MemoryStore::default());
        } else {
            let (slot, reached) = open(state, task, name, topic_id, end)?;
            from = reached.offset;
            slots.insert(Arc::clone(name), (slot, reached));
        }
        if let Some(end) = end.filter(|end| from < *end) {
            replays.insert(changelog, Replay { store: Arc::clone(name), next: from, end });
        }
    }
    if !replays.is_empty() {
        replay(state, client, task, replays, &mut slots, &mut memory).await?;
    }
    Ok(Stores { names, memory, slots })
}

/// A changelog to be replayed.
struct Replay {
    store: Arc<str>,
    next: Offset,
    end: Offset,
}

/// The store on disk, emptied when it does not fit its changelog: of another topic, or ahead of it (the log lost its end). Without a
/// changelog nothing tells which commit it reached, so it starts empty.
fn open(
    state: &StateDir,
    task: TaskId,
    name: &Arc<str>,
    topic_id: Option<TopicId>,
    end: Option<Offset>,
) -> Result<(Slot, Reached)> {
    if let Some((slot, reached)) = state.find(task, name)? {
        let ahead = end.is_some_and(|end| reached.offset > end);
        if Some(reached.topic_id) == topic_id && !ahead {
            return Ok((slot, reached));
        }
        let store = &**name;
        tracing::warn!(%task, store, reached = %reached.offset, ahead, "discarding a store that does not fit its changelog");
    }
    let topic_id = topic_id.unwrap_or(TopicId::ZERO);
    Ok((state.create(task, name, topic_id)?, Reached { topic_id, offset: Offset(0) }))
}

/// The high watermarks of a task's changelogs. Not their last stable offsets: a lost process may hold those back with an open
/// transaction in front of records that are committed. The replay waits until the broker has ended it.
async fn changelog_ends(
    layout: &Layout,
    client: &Client,
    task: TaskId,
    names: &[Arc<str>],
) -> Result<BTreeMap<TopicPartition, Offset>> {
    let logged = names.iter().filter(|name| layout.changelog(name).is_some());
    let partition = |name: &Arc<str>| TopicPartition::new(layout.changelog_name(name), task.partition);
    let wanted: BTreeMap<_, _> = logged.map(|name| (partition(name), OffsetSpec::Latest)).collect();
    if wanted.is_empty() {
        return Ok(BTreeMap::new());
    }
    let listed = client.admin().list_offsets(&wanted, IsolationLevel::ReadUncommitted).await?;
    let end = |(partition, end): (_, Result<Option<OffsetAndTimestamp>, ClientError>)| {
        Ok((partition, end?.map(|end| end.offset).unwrap_or_default()))
    };
    listed.into_iter().map(end).collect()
}

fn reader() -> ConsumerConfig {
    ConsumerConfig {
        isolation_level: IsolationLevel::ReadCommitted,
        auto_offset_reset: OffsetReset::Earliest,
        ..ConsumerConfig::default()
    }
}

async fn replay(
    state: &StateDir,
    client: &Client,
    task: TaskId,
    mut replays: BTreeMap<TopicPartition, Replay>,
    slots: &mut Slots,
    memory: &mut BTreeMap<Arc<str>, MemoryStore>,
) -> Result<()> {
    let mut consumer: Consumer = client.consumer(reader())?;
    consumer.assign(replays.keys().cloned())?;
    for (partition, replay) in &replays {
        consumer.seek(partition, replay.next)?;
    }
    let mut silent_ms = 0;
    while replays.values().any(|replay| replay.next < replay.end) {
        let batches = consumer.poll(POLL).await?;
        silent_ms = if batches.is_empty() { silent_ms + POLL.as_millis() as u64 } else { 0 };
        if silent_ms >= SILENCE_MS {
            let stuck = replays.keys().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            return Err(AppError::Topic {
                topic: stuck,
                reason: format!(
                    "no answer for {SILENCE_MS} ms while the state of task {task} was restored from it"
                ),
            });
        }
        for batch in batches {
            let Some(replay) = replays.get_mut(&batch.topic_partition) else { continue };
            replay.next = batch.next_offset;
            let changes = batch.records.into_iter().filter_map(|record| Some((record.key?, record.value)));
            match slots.get_mut(&replay.store) {
                Some((slot, reached)) => {
                    reached.offset = batch.next_offset;
                    let fold = Fold { slot: slot.clone(), changes: changes.collect(), reached: *reached };
                    state.fold(vec![fold])?;
                }
                None => {
                    let store = memory.entry(Arc::clone(&replay.store)).or_default();
                    for (key, value) in changes {
                        match value {
                            Some(value) => store.put(&key, &value)?,
                            None => store.delete(&key)?,
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_does_not_fit_its_changelog_is_discarded() {
        const TASK: TaskId = TaskId { subtopology: 0, partition: 0 };
        let topic = TopicId::from_random(1, 2);
        // What the store is opened with: its changelog and where that ends; and where the replay then begins.
        let check = |changelog: Option<TopicId>, end: Option<i64>, expected: i64| {
            let dir = tempfile::tempdir().unwrap();
            let state = StateDir::open(dir.path()).unwrap();
            let slot = state.create(TASK, "s", topic).unwrap();
            let reached = Reached { topic_id: topic, offset: Offset(10) };
            let changes = vec![("k".into(), Some("v".into()))];
            state.fold(vec![Fold { slot, changes, reached }]).unwrap();
            let (slot, reached) = open(&state, TASK, &"s".into(), changelog, end.map(Offset)).unwrap();
            let kept = state.store("s".into(), &slot).get(b"k").unwrap().is_some();
            assert_eq!((reached.offset.0, kept), (expected, expected > 0), "{changelog:?} {end:?}");
        };
        check(Some(topic), Some(10), 10);
        check(Some(topic), Some(25), 10);
        check(Some(topic), Some(9), 0);
        check(Some(TopicId::from_random(3, 4)), Some(25), 0);
        check(None, None, 0);
    }
}
