//! A log in memory that can be killed at any step: for tests of workers and connectors.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use millstream_record::{Offset, TopicId, TopicPartition};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::log::{
    Fetched, KeyFilter, Log, LogReader, LogWriter, NewRecord, Placement, TopicFacts, TopicSpec,
};
use crate::{Result, RuntimeError};

/// Records in one answer of a reader.
const FETCH_RECORDS: usize = 1000;

/// A log in memory. Clones share it; it outlives the workers that are killed on it.
#[derive(Clone, Default)]
pub struct MemoryLog {
    state: Arc<Mutex<State>>,
    grown: Arc<Notify>,
}

#[derive(Default)]
struct State {
    topics: BTreeMap<String, Topic>,
    epochs: BTreeMap<String, u64>,
    committed: BTreeMap<(String, TopicPartition), Offset>,
    /// Calls left until the process is "killed"; `None` never.
    calls_left: Option<u64>,
    killed: bool,
}

struct Topic {
    id: TopicId,
    /// Records by offset; `None` is a transaction marker.
    partitions: Vec<Vec<Option<Stored>>>,
}

/// A record in a [`MemoryLog`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Key.
    pub key: Option<Bytes>,
    /// Value.
    pub value: Option<Bytes>,
}

impl MemoryLog {
    /// An empty log.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Fails every call from the `calls`th on, until [`MemoryLog::revive`]: the process that calls is as good as dead. Odd steps
    /// fail before they take effect, even ones after.
    pub fn kill_after(&self, calls: u64) {
        self.state.lock().calls_left = Some(calls);
    }

    /// Lets calls succeed again; answers whether the kill had happened.
    pub fn revive(&self) -> bool {
        let mut state = self.state.lock();
        state.calls_left = None;
        std::mem::take(&mut state.killed)
    }

    /// The committed records of a topic, by partition and in order.
    pub fn records(&self, topic: &str) -> Vec<Vec<Stored>> {
        let state = self.state.lock();
        let partitions = state.topics.get(topic).map(|topic| &topic.partitions[..]).unwrap_or_default();
        partitions.iter().map(|records| records.iter().flatten().cloned().collect()).collect()
    }

    /// Appends records to a topic as somebody else would, in one transaction.
    pub fn produce(&self, topic: &str, partition: usize, records: impl IntoIterator<Item = Stored>) {
        let mut state = self.state.lock();
        let to = &mut state.topics.get_mut(topic).expect("the test made the topic").partitions[partition];
        to.extend(records.into_iter().map(Some));
        to.push(None);
        drop(state);
        self.grown.notify_waiters();
    }

    /// Runs `effect` as one step: it may be killed before it, or after it.
    fn step<T>(&self, what: &str, effect: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        let dead = || RuntimeError::log(what, "killed", false);
        let mut state = self.state.lock();
        if state.killed {
            return Err(dead());
        }
        match &mut state.calls_left {
            Some(0) => {
                state.killed = true;
                Err(dead())
            }
            Some(1) => {
                state.calls_left = Some(0);
                state.killed = true;
                let _ = effect(&mut state); // the effect happened, nobody heard
                Err(dead())
            }
            Some(left) => {
                *left -= 2;
                effect(&mut state)
            }
            None => effect(&mut state),
        }
    }
}

impl Log for MemoryLog {
    fn ensure_topic(&self, spec: TopicSpec) -> BoxFuture<'_, Result<TopicFacts>> {
        let made = self.step("creating a topic", |state| {
            let count = u64::try_from(state.topics.len()).expect("few topics");
            let partitions = spec.partitions.unwrap_or(1);
            let topic = state.topics.entry(spec.name).or_insert_with(|| Topic {
                id: TopicId::from_random(count + 1, 1),
                partitions: vec![Vec::new(); usize::try_from(partitions).expect("a count")],
            });
            Ok(topic.facts())
        });
        async move { made }.boxed()
    }

    fn topic(&self, name: String) -> BoxFuture<'_, Result<Option<TopicFacts>>> {
        let found = self.step("describing a topic", |state| Ok(state.topics.get(&name).map(Topic::facts)));
        async move { found }.boxed()
    }

    fn ends(&self, topic: String) -> BoxFuture<'_, Result<BTreeMap<TopicPartition, Offset>>> {
        let ends = self.step("asking for ends", |state| {
            let partitions = state.topics.get(&topic).map(|topic| &topic.partitions[..]).unwrap_or_default();
            Ok(partitions
                .iter()
                .enumerate()
                .map(|(at, records)| (place(&topic, at), offset(records.len())))
                .collect())
        });
        async move { ends }.boxed()
    }

    fn table(&self, topic: String, _matters: KeyFilter) -> BoxFuture<'_, Result<BTreeMap<Bytes, Bytes>>> {
        let table = self.step("reading a table", |state| {
            let mut table = BTreeMap::new();
            let partitions = state.topics.get(&topic).map(|topic| &topic.partitions[..]).unwrap_or_default();
            for Stored { key, value } in partitions.iter().flatten().flatten() {
                let key = key.clone().unwrap_or_default();
                match value {
                    Some(value) => table.insert(key, value.clone()),
                    None => table.remove(&key),
                };
            }
            Ok(table)
        });
        async move { table }.boxed()
    }

    fn writer(&self, transactional_id: String) -> BoxFuture<'_, Result<Box<dyn LogWriter>>> {
        let epoch = self.step("opening a writer", |state| {
            let epoch = state.epochs.entry(transactional_id.clone()).or_default();
            *epoch += 1;
            Ok(*epoch)
        });
        async move {
            let writer = Writer { log: self.clone(), id: transactional_id, epoch: epoch?, open: Vec::new() };
            Ok(Box::new(writer) as Box<dyn LogWriter>)
        }
        .boxed()
    }

    fn reader(&self, group: String, topics: Vec<String>) -> BoxFuture<'_, Result<Box<dyn LogReader>>> {
        async move {
            let reader = Reader { log: self.clone(), group, topics, positions: BTreeMap::new() };
            Ok(Box::new(reader) as Box<dyn LogReader>)
        }
        .boxed()
    }
}

impl Topic {
    fn facts(&self) -> TopicFacts {
        TopicFacts { id: self.id, partitions: i32::try_from(self.partitions.len()).expect("a count") }
    }
}

fn place(topic: &str, partition: usize) -> TopicPartition {
    TopicPartition::new(topic, i32::try_from(partition).expect("a count"))
}

fn offset(at: usize) -> Offset {
    Offset(i64::try_from(at).expect("a count"))
}

struct Writer {
    log: MemoryLog,
    id: String,
    epoch: u64,
    open: Vec<NewRecord>,
}

impl LogWriter for Writer {
    fn append(&mut self, records: Vec<NewRecord>) -> BoxFuture<'_, Result<()>> {
        let appended = self.log.step("appending", |_| Ok(()));
        self.open.extend(records);
        async move { appended }.boxed()
    }

    fn commit(&mut self) -> BoxFuture<'_, Result<()>> {
        let open = std::mem::take(&mut self.open);
        let committed = self.log.step("committing", |state| {
            if state.epochs.get(&self.id) != Some(&self.epoch) {
                return Err(RuntimeError::Fenced { connector: self.id.clone() });
            }
            let mut touched = std::collections::BTreeSet::new();
            for record in open {
                let topic = state.topics.get_mut(&*record.topic).expect("the worker made the topic");
                let count = topic.partitions.len();
                let hashed = match &record.placement {
                    Placement::ByKey => record.key.clone().unwrap_or_default(),
                    Placement::Like(bytes) => bytes.clone(),
                };
                let at = hashed.iter().map(|byte| usize::from(*byte)).sum::<usize>() % count;
                touched.insert((record.topic.to_string(), at));
                topic.partitions[at].push(Some(Stored { key: record.key, value: record.value }));
            }
            for (topic, at) in touched {
                state.topics.get_mut(&topic).expect("just written to").partitions[at].push(None);
            }
            Ok(())
        });
        self.log.grown.notify_waiters();
        async move { committed }.boxed()
    }
}

struct Reader {
    log: MemoryLog,
    group: String,
    topics: Vec<String>,
    positions: BTreeMap<TopicPartition, Offset>,
}

impl Reader {
    fn take(&mut self) -> Result<Vec<Fetched>> {
        let Self { log, positions, .. } = self;
        log.step("polling", |state| {
            let mut all = Vec::new();
            for (partition, position) in positions {
                let topic = state.topics.get(&*partition.topic).expect("the reader found the topic");
                let records = &topic.partitions[usize::try_from(partition.partition).expect("an index")];
                let from = usize::try_from(position.0).expect("an offset");
                let to = records.len().min(from + FETCH_RECORDS);
                let mut fetched =
                    Fetched { partition: partition.clone(), offsets: vec![], keys: vec![], values: vec![] };
                for (at, record) in records.iter().enumerate().take(to).skip(from) {
                    let Some(Stored { key, value }) = record else { continue };
                    fetched.offsets.push(offset(at));
                    fetched.keys.push(key.clone());
                    fetched.values.push(value.clone());
                }
                *position = offset(to);
                if !fetched.offsets.is_empty() {
                    all.push(fetched);
                }
            }
            Ok(all)
        })
    }
}

impl LogReader for Reader {
    fn committed(&mut self) -> BoxFuture<'_, Result<BTreeMap<TopicPartition, Option<Offset>>>> {
        let found = self.log.step("fetching committed offsets", |state| {
            let mut found = BTreeMap::new();
            for topic in &self.topics {
                let count = state.topics.get(topic).map_or(0, |topic| topic.partitions.len());
                for partition in (0..count).map(|at| place(topic, at)) {
                    let committed = state.committed.get(&(self.group.clone(), partition.clone())).copied();
                    found.insert(partition, committed);
                }
            }
            Ok(found)
        });
        async move { found }.boxed()
    }

    fn seek(&mut self, from: BTreeMap<TopicPartition, Option<Offset>>) -> BoxFuture<'_, Result<()>> {
        self.positions = from.into_iter().map(|(at, offset)| (at, offset.unwrap_or(Offset(0)))).collect();
        async { Ok(()) }.boxed()
    }

    fn poll(&mut self, wait: Duration) -> BoxFuture<'_, Result<Vec<Fetched>>> {
        async move {
            let log = self.log.clone();
            let mut grown = std::pin::pin!(log.grown.notified());
            grown.as_mut().enable();
            let fetched = self.take()?;
            if fetched.is_empty() && !wait.is_zero() {
                // Without a clock: the worker's own stop and ends are looked at again whenever the log grows.
                futures::future::select(grown, Box::pin(yield_often())).await;
            }
            Ok(fetched)
        }
        .boxed()
    }

    fn positions(&self) -> BTreeMap<TopicPartition, Offset> {
        self.positions.clone()
    }

    fn commit(&mut self, offsets: BTreeMap<TopicPartition, Offset>) -> BoxFuture<'_, Result<()>> {
        let committed = self.log.step("committing offsets", |state| {
            for (partition, offset) in offsets {
                state.committed.insert((self.group.clone(), partition), offset);
            }
            Ok(())
        });
        async move { committed }.boxed()
    }
}

/// Gives other tasks many turns.
async fn yield_often() {
    for _ in 0..64 {
        let mut yielded = false;
        futures::future::poll_fn(|context| {
            if std::mem::replace(&mut yielded, true) {
                return std::task::Poll::Ready(());
            }
            context.waker().wake_by_ref();
            std::task::Poll::Pending
        })
        .await;
    }
}
