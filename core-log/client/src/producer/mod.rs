//! Sending records: [`Producer`] takes them into batches, the sender's task brings those to their leaders.

mod delivery;
mod partitioner;
mod queue;
mod response;
mod sender;
mod split;
mod state;
mod transaction;

use futures::FutureExt;
use futures::future::BoxFuture;
use std::sync::Arc;

use millstream_env::TaskGroup;
use millstream_record::{ProducerId, record_size_upper_bound};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};

use crate::cluster::Cluster;
use crate::links::Links;
use crate::metadata::Metadata;
use crate::retry::Deadline;
use crate::{
    Client, ClientError, GroupMetadata, Offsets, PartitionInfo, ProducerConfig, ProducerRecord, Result,
};

pub use delivery::Delivery;
pub use partitioner::{murmur2, partition_for_key};
use queue::{Common, NOBODY};
use state::State;
use transaction::Phase;

/// Sends records in batches. Cheap to clone; all clones are one producer, which ends with the last of them: what was not
/// flushed by then fails.
#[derive(Clone)]
pub struct Producer {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    _tasks: TaskGroup,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.end();
    }
}

/// What the callers and the sender's task share.
struct Shared {
    cluster: Arc<Cluster>,
    /// A producer's requests have links of their own: a long fetch of somebody else must not stand before them.
    links: Links,
    config: ProducerConfig,
    state: Mutex<State>,
    /// Bytes of `buffer.memory` that are free.
    memory: Semaphore,
    /// Tells the sender that there may be something to do.
    wake: Notify,
    /// Tells whoever waits that a batch landed, or the coordinator answered.
    progress: Notify,
}

impl Producer {
    pub(crate) fn new(client: &Client, config: ProducerConfig) -> Self {
        let cluster = Arc::clone(&client.cluster);
        let shared = Arc::new(Shared {
            links: cluster.links.fork(),
            state: Mutex::new(State::new(&config)),
            memory: Semaphore::new(config.buffer_memory),
            wake: Notify::new(),
            progress: Notify::new(),
            config,
            cluster,
        });
        let tasks = shared.cluster.env.group();
        tasks.spawn("producer", sender::run(Arc::clone(&shared)));
        Self { inner: Arc::new(Inner { shared, _tasks: tasks }) }
    }

    fn shared(&self) -> &Shared {
        &self.inner.shared
    }

    /// Takes a record into its batch. Waits only for metadata and buffer memory, at most `max.block.ms`. The record's own
    /// outcome comes with the [`Delivery`].
    ///
    /// # Errors
    /// A record too large, an unknown topic or partition, no memory in time, or a producer that cannot go on.
    pub async fn send(&self, record: ProducerRecord) -> Result<Delivery> {
        let shared = self.shared();
        shared.state.lock().check_sendable()?;
        let bytes = record_size_upper_bound(record.key.as_deref(), record.value.as_deref(), &record.headers);
        shared.check_size(&record, bytes)?;
        let deadline = Deadline::after(&shared.cluster.env, shared.config.max_block_ms);
        let partitions = shared.partitions(&record, deadline).await?;
        shared.reserve(bytes, deadline).await?;
        let placed = {
            let mut state = shared.state.lock();
            // Checked again: the producer may have failed while this record waited.
            let placed = state.check_sendable().and_then(|()| {
                let partition = shared.partition(&mut state, &record, bytes, partitions);
                let timestamp = record.timestamp.unwrap_or_else(|| shared.cluster.env.now());
                state.place(&shared.config, &record, partition, timestamp, || shared.cluster.env.elapsed())
            });
            placed.inspect_err(|_| shared.memory.add_permits(bytes))?
        };
        if placed.wake {
            shared.wake.notify_one();
        }
        Ok(placed.delivery)
    }

    /// Sends what is waiting, without linger, and waits until every record sent before has its outcome.
    ///
    /// # Errors
    /// The first failure among those records.
    pub fn flush(&self) -> BoxFuture<'_, Result<()>> {
        async move { self.shared().flush().await }.boxed()
    }

    /// Flushes and ends. An open transaction is aborted.
    ///
    /// # Errors
    /// As [`Producer::flush`].
    pub fn close(&self) -> BoxFuture<'_, Result<()>> {
        async move {
            let shared = self.shared();
            let open = matches!(shared.state.lock().transaction.phase, Phase::Open | Phase::Failed(_));
            let done = if open { shared.abort_transaction().await } else { shared.flush().await };
            shared.end();
            done
        }
        .boxed()
    }

    /// Registers the transactional id: fences older producers of that name, and ends what they left open. Call it once, first.
    ///
    /// # Errors
    /// When the coordinator refuses, or does not answer in time (the call may be repeated then).
    pub fn init_transactions(&self) -> BoxFuture<'_, Result<()>> {
        async move { self.shared().init_transactions().await }.boxed()
    }

    /// Begins a transaction. Records sent from here on belong to it.
    ///
    /// # Errors
    /// When there is one already, or the producer is not initialised or failed.
    pub fn begin_transaction(&self) -> Result<()> {
        self.shared().begin_transaction()
    }

    /// Commits a consumer's offsets with the transaction, so that what was read and what was written take effect together.
    ///
    /// # Errors
    /// When there is no transaction, or the group's coordinator refuses (the transaction must be aborted then).
    pub fn send_offsets_to_transaction<'a>(
        &'a self,
        offsets: &'a Offsets,
        group: &'a GroupMetadata,
    ) -> BoxFuture<'a, Result<()>> {
        async move { self.shared().send_offsets(offsets, group).await }.boxed()
    }

    /// Flushes, then commits. After a timeout it may be called again: whether the commit took effect is decided once.
    ///
    /// # Errors
    /// [`ClientError::AbortRequired`] when a record failed; a fatal error when the producer was fenced.
    pub fn commit_transaction(&self) -> BoxFuture<'_, Result<()>> {
        async move { self.shared().commit_transaction().await }.boxed()
    }

    /// Aborts: records not sent yet are dropped, those sent become invisible to read-committed consumers.
    ///
    /// # Errors
    /// A fatal error when the producer was fenced.
    pub fn abort_transaction(&self) -> BoxFuture<'_, Result<()>> {
        async move { self.shared().abort_transaction().await }.boxed()
    }

    /// The partitions of a topic.
    ///
    /// # Errors
    /// When the topic is unknown, or no broker answers in time.
    pub fn partitions_for<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Result<Vec<PartitionInfo>>> {
        async move {
            let shared = self.shared();
            let deadline = Deadline::after(&shared.cluster.env, shared.config.max_block_ms);
            let metadata = shared.cluster.topic(&Arc::from(topic), deadline).await?;
            Ok(metadata.topics.get(topic).map(|topic| topic.partitions.clone()).unwrap_or_default())
        }
        .boxed()
    }

    /// The producer id, once it is known.
    pub fn producer_id(&self) -> Option<ProducerId> {
        Some(self.shared().state.lock().identity)
            .filter(|identity| *identity != NOBODY)
            .map(|identity| identity.id)
    }
}

impl Shared {
    fn check_size(&self, record: &ProducerRecord, bytes: usize) -> Result<()> {
        let limits = [
            ("max.request.size", self.config.max_request_size),
            ("buffer.memory", self.config.buffer_memory),
        ];
        match limits.into_iter().find(|(_, limit)| bytes > *limit) {
            None => Ok(()),
            Some((setting, limit)) => {
                Err(ClientError::RecordTooLarge { topic: record.topic.to_string(), bytes, setting, limit })
            }
        }
    }

    /// How many partitions the record's topic has.
    async fn partitions(&self, record: &ProducerRecord, deadline: Deadline) -> Result<i32> {
        let count = |metadata: &Metadata| metadata.partition_count(&record.topic);
        let mut metadata = self.cluster.metadata();
        if let Some(count) = self.state.lock().counted(&record.topic, metadata.version)
            && record.partition.is_none_or(|partition| (0..count).contains(&partition))
        {
            return Ok(count);
        }
        if count(&metadata).is_none_or(|count| count == 0) {
            metadata = self.cluster.topic(&record.topic, deadline).await?;
        }
        let missing = |metadata: &Metadata| {
            let partitions = count(metadata).unwrap_or(0);
            record.partition.filter(|partition| !(0..partitions).contains(partition))
        };
        if missing(&metadata).is_some() {
            // It may have been added since.
            metadata = self.cluster.refresh(metadata.version).await?;
        }
        let partitions = count(&metadata).unwrap_or(0);
        match missing(&metadata) {
            None if partitions > 0 => {
                self.state.lock().set_counted(&record.topic, metadata.version, partitions);
                Ok(partitions)
            }
            missing => Err(ClientError::NoSuchPartition {
                topic: record.topic.to_string(),
                partition: missing.unwrap_or(0),
                partitions: usize::try_from(partitions).unwrap_or(0),
            }),
        }
    }

    fn partition(&self, state: &mut State, record: &ProducerRecord, bytes: usize, partitions: i32) -> i32 {
        let key = record.key.as_deref();
        match (record.partition, &self.config.partitioner, key) {
            (Some(partition), ..) => partition,
            (None, Some(custom), _) => {
                let chosen = custom.partition(&record.topic, key, record.value.as_deref(), partitions);
                chosen.clamp(0, partitions - 1)
            }
            (None, None, Some(key)) => partition_for_key(key, partitions),
            (None, None, None) => {
                let random = |bound| self.cluster.env.random_below(bound);
                state.sticky(&record.topic, partitions, bytes, self.config.batch_size, random)
            }
        }
    }

    /// Takes `bytes` of buffer memory, in turn with others who wait.
    async fn reserve(&self, bytes: usize, deadline: Deadline) -> Result<()> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        if let Ok(permit) = self.memory.try_acquire_many(bytes) {
            permit.forget();
            return Ok(());
        }
        let late = || deadline.error("waiting for free buffer.memory", None);
        let left = deadline.left(&self.cluster.env).ok_or_else(late)?;
        let _starving = Raised::new(self, |state| &mut state.starving);
        match self.cluster.env.timeout(left, self.memory.acquire_many(bytes)).await {
            Ok(Ok(permit)) => {
                permit.forget();
                Ok(())
            }
            Ok(Err(_)) => Err(ClientError::Closed { what: "producer" }),
            Err(_) => Err(late()),
        }
    }

    async fn flush(&self) -> Result<()> {
        let _hurrying = Raised::new(self, |state| &mut state.hurrying);
        let unfinished = self.state.lock().unfinished();
        let mut first = Ok(());
        for delivery in unfinished {
            let done = delivery.await.map(drop);
            first = first.and(done);
        }
        first
    }

    /// Gives batches their outcome, and their memory back.
    fn finish_batches(&self, batches: Vec<Common>, error: &ClientError) {
        let freed = batches.into_iter().map(|batch| batch.complete(Err(error.clone()))).sum();
        self.memory.add_permits(freed);
        self.progress.notify_waiters();
    }

    fn end(&self) {
        let dropped = {
            let mut state = self.state.lock();
            state.closed = true;
            state.drop_all()
        };
        self.finish_batches(dropped, &ClientError::Closed { what: "producer" });
        self.memory.close();
        self.wake.notify_one();
    }
}

/// A counter of the state, raised for as long as this lives.
struct Raised<'a> {
    shared: &'a Shared,
    counter: fn(&mut State) -> &mut usize,
}

impl<'a> Raised<'a> {
    fn new(shared: &'a Shared, counter: fn(&mut State) -> &mut usize) -> Self {
        *counter(&mut shared.state.lock()) += 1;
        shared.wake.notify_one();
        Self { shared, counter }
    }
}

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        *(self.counter)(&mut self.shared.state.lock()) -= 1;
    }
}
