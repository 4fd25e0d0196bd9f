//! A deterministic driver for tests: a whole topology in memory, without a broker, a clock or a thread.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use millstream_record::{Millis, Offset};

use crate::chunk::Header;
use crate::dsl::Serde;
use crate::error::{Result, StreamsError};
use crate::store::{MemoryStore, Store};
use crate::task::{Gate, Task, TaskId};
use crate::topology::{InputRecord, OutputRecord, TopicName, Topology};

/// The application id of a driven topology.
const APPLICATION_ID: &str = "test";

/// A record read from an output topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row<K, V> {
    /// Its key.
    pub key: K,
    /// Its value.
    pub value: V,
    /// Its timestamp in milliseconds.
    pub timestamp_ms: i64,
}

/// Drives every task of a topology (each topic has one partition). As in Kafka's `TopologyTestDriver` a record is processed to the
/// end, repartitions included, and committed, before the next is taken; [`TestDriver::manual_commit`] changes that, and
/// [`TestDriver::crash`] then loses what was not committed, as a real crash would.
pub struct TestDriver {
    topology: Arc<Topology>,
    tasks: BTreeMap<TaskId, Task>,
    /// Every record of every topic that a task reads or writes, and that is committed.
    topics: BTreeMap<TopicName, Vec<InputRecord>>,
    /// Records written since the last commit, in order.
    pending: Vec<(TopicName, OutputRecord)>,
    /// How many records of each output topic were read.
    read: BTreeMap<TopicName, usize>,
    /// How many records of each input were handed to its task.
    handed: BTreeMap<TopicName, usize>,
    committed: BTreeMap<(TaskId, TopicName), Offset>,
    wall: Millis,
    auto_commit: bool,
    in_chunks: bool,
}

impl TestDriver {
    /// Starts every task at wall clock 0.
    ///
    /// # Errors
    /// What an operator says on starting.
    pub fn new(topology: Topology) -> Result<Self> {
        let mut driver = Self {
            topology: Arc::new(topology),
            tasks: BTreeMap::new(),
            topics: BTreeMap::new(),
            pending: Vec::new(),
            read: BTreeMap::new(),
            handed: BTreeMap::new(),
            committed: BTreeMap::new(),
            wall: Millis(0),
            auto_commit: true,
            in_chunks: false,
        };
        for subtopology in 0..driver.topology.subtopologies().len() {
            let stores = driver.topology.subtopologies()[subtopology].stores.len();
            let bases = (0..stores).map(|_| Box::new(MemoryStore::default()) as Box<dyn Store>).collect();
            driver.start_task(TaskId { subtopology, partition: 0 }, bases)?;
        }
        Ok(driver)
    }

    /// Commits only when told to.
    #[must_use]
    pub fn manual_commit(mut self) -> Self {
        self.auto_commit = false;
        self
    }

    /// Hands a task all records that wait for it as one chunk, as an application on a log is handed what a fetch brought; without
    /// this each record is a chunk of its own. Results are the same, except that an aggregation without windows emits a key once
    /// for each chunk. See [`TestDriver::pipe_all`].
    #[must_use]
    pub fn in_chunks(mut self) -> Self {
        self.in_chunks = true;
        self
    }

    /// Appends a record to an input topic and processes it to the end.
    ///
    /// # Errors
    /// An unknown topic, or an error of the topology.
    pub fn pipe<K: Serde, V: Serde>(
        &mut self,
        topic: &str,
        key: &K,
        value: &V,
        timestamp_ms: i64,
    ) -> Result<()> {
        let (key, value) = (key.to_bytes()?, value.to_bytes()?);
        self.pipe_record(topic, key, value, timestamp_ms, Vec::new())
    }

    /// Appends records (key, value, timestamp in milliseconds) to an input topic, and processes them when all are there.
    ///
    /// # Errors
    /// An unknown topic, or an error of the topology.
    pub fn pipe_all<K: Serde, V: Serde>(
        &mut self,
        topic: &str,
        rows: impl IntoIterator<Item = (K, V, i64)>,
    ) -> Result<()> {
        let topic = self.input_topic(topic)?;
        for (key, value, timestamp_ms) in rows {
            let record = OutputRecord {
                key: key.to_bytes()?,
                partition_key: None,
                value: value.to_bytes()?,
                timestamp: Millis(timestamp_ms),
                headers: Vec::new(),
            };
            self.append(&topic, record);
        }
        self.run()
    }

    /// As [`TestDriver::pipe`], with bytes and headers.
    ///
    /// # Errors
    /// An unknown topic, or an error of the topology.
    pub fn pipe_record(
        &mut self,
        topic: &str,
        key: Option<Bytes>,
        value: Option<Bytes>,
        timestamp_ms: i64,
        headers: Vec<Header>,
    ) -> Result<()> {
        let topic = self.input_topic(topic)?;
        let record =
            OutputRecord { key, partition_key: None, value, timestamp: Millis(timestamp_ms), headers };
        self.append(&topic, record);
        self.run()
    }

    /// Moves the wall clock.
    ///
    /// # Errors
    /// An error of the topology.
    pub fn advance_wall_clock(&mut self, ms: i64) -> Result<()> {
        self.wall = self.wall.plus_ms(ms);
        self.tasks.values_mut().try_for_each(|task| task.advance(self.wall))?;
        self.run()
    }

    /// Ends every input: tasks are drained and closed from the first subtopology to the last, and windows close.
    ///
    /// # Errors
    /// An error of the topology.
    pub fn end_inputs(&mut self) -> Result<()> {
        self.run()?;
        self.commit()?;
        let ids: Vec<_> = self.tasks.keys().copied().collect();
        for id in ids {
            self.feed(id)?;
            for topic in self.topology.subtopologies()[id.subtopology].inputs.clone() {
                let end = self.log_end(&topic);
                self.task(id).end_input(&topic, end)?;
            }
            self.drain(id)?;
            debug_assert!(self.task(id).is_drained(), "everything was handed over and processed");
            let wall = self.wall;
            self.task(id).close(wall)?;
            self.collect(id);
            self.commit()?;
        }
        Ok(())
    }

    /// Commits every task: its outputs become visible, its changes go to its stores.
    ///
    /// # Errors
    /// An error of the topology.
    pub fn commit(&mut self) -> Result<()> {
        for (id, task) in &mut self.tasks {
            let commit = task.prepare_commit()?;
            for (topic, records) in commit.outputs {
                self.pending.extend(records.into_iter().map(|record| (topic.clone(), record)));
            }
            self.committed.extend(commit.offsets.into_iter().map(|(topic, at, _)| ((*id, topic), at)));
            task.fold()?;
        }
        for (topic, record) in std::mem::take(&mut self.pending) {
            self.append(&topic, record);
        }
        Ok(())
    }

    /// Stops every task without a commit and starts it again from what was committed.
    ///
    /// # Errors
    /// An error of the topology.
    pub fn crash(&mut self) -> Result<()> {
        self.pending.clear();
        self.handed.clear();
        for (id, task) in std::mem::take(&mut self.tasks) {
            self.start_task(id, task.into_bases())?;
        }
        self.run()
    }

    /// The committed records of an output topic that were not read before.
    ///
    /// # Errors
    /// Bytes that are not of these types.
    pub fn read<K: Serde, V: Serde>(&mut self, topic: &str) -> Result<Vec<Row<K, V>>> {
        let null =
            |what| StreamsError::Decode { what, reason: "null, which the type does not have".to_owned() };
        let row = |record: InputRecord| {
            Ok(Row {
                key: K::decode_nullable(record.key.as_ref())?.ok_or_else(|| null("key"))?,
                value: V::decode_nullable(record.value.as_ref())?.ok_or_else(|| null("value"))?,
                timestamp_ms: record.timestamp.0,
            })
        };
        self.read_records(topic).into_iter().map(row).collect()
    }

    /// As [`TestDriver::read`], as records. A topic that nothing wrote to is empty.
    pub fn read_records(&mut self, topic: &str) -> Vec<InputRecord> {
        let topic = TopicName::User(topic.into());
        let records = self.topics.get(&topic).map(Vec::as_slice).unwrap_or_default();
        let from = self.read.insert(topic, records.len()).unwrap_or(0);
        records[from..].to_vec()
    }

    /// The topics that tasks have written to and committed, in order of name.
    pub fn output_topics(&self) -> impl Iterator<Item = &str> {
        let is_output = |topic: &&TopicName| self.topology.source_of(topic).is_none();
        self.topics.keys().filter(is_output).map(TopicName::as_str)
    }

    /// A store, uncommitted changes included.
    ///
    /// # Errors
    /// A name that no store has.
    pub fn store(&self, name: &str) -> Result<&dyn Store> {
        self.tasks.values().find_map(|task| task.store(name)).ok_or_else(|| StreamsError::Unknown {
            kind: "store",
            name: name.to_owned(),
            known: self.topology.stores().map(|spec| &*spec.name).collect::<Vec<_>>().join(", "),
        })
    }

    /// What a table or an aggregation without windows holds for `key`, with its timestamp.
    ///
    /// # Errors
    /// A name that no store has, or bytes that are not of these types.
    pub fn value<K: Serde, V: Serde>(&self, store: &str, key: &K) -> Result<Option<Row<(), V>>> {
        let Some(key) = key.to_bytes()? else { return Ok(None) };
        let Some(stored) = self.store(store)?.get(&key)? else { return Ok(None) };
        let (timestamp, value) = crate::kernel::split_stored(&stored)?;
        Ok(Some(Row { key: (), value: V::decode(&value)?, timestamp_ms: timestamp.0 }))
    }

    /// The counters of a node, over all tasks.
    #[must_use]
    pub fn counters(&self, node: &str) -> crate::NodeCounters {
        let mut sum = crate::NodeCounters::default();
        let all = self.tasks.values().flat_map(Task::counters);
        all.filter(|(name, _)| &***name == node).for_each(|(_, counters)| sum.merge(counters));
        sum
    }

    fn start_task(&mut self, id: TaskId, bases: Vec<Box<dyn Store>>) -> Result<()> {
        let topics = self.topology.subtopologies()[id.subtopology].inputs.clone();
        let mut inputs = Vec::with_capacity(topics.len());
        for topic in &topics {
            let at = self.committed.get(&(id, topic.clone())).copied().unwrap_or_default();
            self.handed.insert(topic.clone(), usize::try_from(at.0).unwrap_or(0));
            inputs.push((topic.clone(), at));
        }
        let mut task = Task::new(Arc::clone(&self.topology), id, APPLICATION_ID, bases, &inputs)?;
        for topic in &topics {
            task.set_gate(topic, Gate::Open)?; // the script decides what is read first
        }
        self.tasks.insert(id, task);
        Ok(())
    }

    fn input_topic(&self, topic: &str) -> Result<TopicName> {
        let user = TopicName::User(topic.into());
        if self.topology.source_of(&user).is_some() {
            return Ok(user);
        }
        let inputs = self.topology.subtopologies().iter().flat_map(|part| &part.inputs);
        let known: Vec<_> = inputs.map(TopicName::as_str).collect();
        Err(StreamsError::Unknown { kind: "input topic", name: topic.to_owned(), known: known.join(", ") })
    }

    fn append(&mut self, topic: &TopicName, record: OutputRecord) {
        let offset = self.log_end(topic);
        let OutputRecord { key, value, timestamp, headers, .. } = record;
        self.topics.entry(topic.clone()).or_default().push(InputRecord {
            offset,
            timestamp,
            key,
            value,
            headers,
        });
    }

    fn log_end(&self, topic: &TopicName) -> Offset {
        let records = self.topics.get(topic).map_or(0, Vec::len);
        Offset(i64::try_from(records).expect("a test has fewer records than an i64 counts"))
    }

    /// Processes until nothing is left. With automatic commit each step of each task is committed, so that what it wrote to a
    /// repartition topic is processed next, as Kafka's driver does.
    fn run(&mut self) -> Result<()> {
        loop {
            let mut worked = false;
            let ids: Vec<_> = self.tasks.keys().copied().collect();
            for id in ids {
                self.feed(id)?;
                let wall = self.wall;
                while self.task(id).process(wall)? {
                    worked = true;
                    self.collect(id);
                    if self.auto_commit {
                        self.commit()?;
                    }
                }
            }
            if !worked {
                return if self.auto_commit { self.commit() } else { Ok(()) };
            }
        }
    }

    fn drain(&mut self, id: TaskId) -> Result<()> {
        let wall = self.wall;
        while self.task(id).process(wall)? {}
        self.collect(id);
        Ok(())
    }

    /// Hands a task the records that it has not seen: one at a time, so that each is a chunk of its own, or all at once.
    fn feed(&mut self, id: TaskId) -> Result<()> {
        let in_chunks = self.in_chunks;
        for topic in self.topology.subtopologies()[id.subtopology].inputs.clone() {
            let from = self.handed.get(&topic).copied().unwrap_or(0);
            let records = self.topics.get(&topic).map(|all| all[from..].to_vec()).unwrap_or_default();
            self.handed.insert(topic.clone(), from + records.len());
            let end = self.log_end(&topic);
            let task = self.task(id);
            task.observe_log_end(&topic, end)?;
            if in_chunks {
                task.add_records(&topic, records, end)?;
                continue;
            }
            for record in records {
                let next = record.offset.plus(1);
                task.add_records(&topic, vec![record], next)?;
            }
        }
        Ok(())
    }

    fn collect(&mut self, id: TaskId) {
        for (topic, records) in self.task(id).take_outputs() {
            self.pending.extend(records.into_iter().map(|record| (topic.clone(), record)));
        }
    }

    fn task(&mut self, id: TaskId) -> &mut Task {
        self.tasks.get_mut(&id).expect("every subtopology has a task")
    }
}
