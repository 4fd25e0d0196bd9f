//! The log over the client, and so over any `Dial`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use millstream_client::{
    Client, ClientError, Consumer, ConsumerConfig, ConsumerRecord, IsolationLevel, NewTopic,
    OffsetAndMetadata, OffsetReset, OffsetSpec, Producer, ProducerConfig, ProducerRecord, partition_for_key,
};
use millstream_env::Env;
use millstream_record::{Header, Offset, TopicPartition};

use crate::log::{
    Fetched, Kept, KeyFilter, Log, LogReader, LogWriter, NewRecord, Placement, TopicFacts, TopicSpec,
};
use crate::{Result, RuntimeError};

/// Records that one poll of a sink returns: enough for columns to pay.
const POLL_RECORDS: usize = 8192;
/// Bytes of one partition in one answer.
const PARTITION_FETCH_BYTES: i32 = 4 << 20;
/// Bytes of a producer's batch.
const BATCH_BYTES: usize = 512 << 10;
/// Longest wait for a table to be read. An open transaction of somebody else may hold readers of committed records back until it
/// times out, so it is longer than that.
const TABLE_TIMEOUT: Duration = Duration::from_secs(90);
/// Longest wait of one poll while a table is read.
const SCAN_POLL: Duration = Duration::from_millis(500);
/// When the cluster aborts the transaction of a worker that has died. Ours last about half a second.
const TRANSACTION_TIMEOUT_MS: i32 = 15_000;

/// [`Log`] over a [`Client`].
#[derive(Clone)]
pub struct ClientLog {
    client: Client,
    env: Env,
}

impl ClientLog {
    /// The log that `client` reaches.
    pub fn new(client: Client, env: Env) -> Self {
        Self { client, env }
    }

    async fn describe(&self, name: &str) -> Result<Option<TopicFacts>> {
        let failed = error(format!("describing topic {name}"));
        let found = self.client.admin().describe_topics(&[name]).await.map_err(&failed)?;
        match found.into_iter().next() {
            Some((_, Ok(topic))) => {
                Ok(Some(TopicFacts { id: topic.id, partitions: count(topic.partitions.len()) }))
            }
            Some((_, Err(refused))) if is_unknown(&refused) => Ok(None),
            Some((_, Err(refused))) => Err(failed(refused)),
            None => Ok(None),
        }
    }

    async fn partitions(&self, topic: &str) -> Result<Vec<TopicPartition>> {
        let partitions = self.describe(topic).await?.map_or(0, |facts| facts.partitions);
        let topic: Arc<str> = topic.into();
        Ok((0..partitions).map(|partition| TopicPartition::new(Arc::clone(&topic), partition)).collect())
    }

    /// Offsets of partitions, before or behind transactions that are open.
    async fn offsets(
        &self,
        partitions: &[TopicPartition],
        at: OffsetSpec,
        isolation: IsolationLevel,
    ) -> Result<BTreeMap<TopicPartition, Offset>> {
        let failed = error("asking for offsets".to_owned());
        let wanted = partitions.iter().map(|partition| (partition.clone(), at)).collect();
        let found = self.client.admin().list_offsets(&wanted, isolation).await.map_err(&failed)?;
        let offset = |(partition, found): (TopicPartition, Result<Option<_>, ClientError>)| {
            let found: Option<millstream_client::OffsetAndTimestamp> = found.map_err(&failed)?;
            Ok((partition, found.map_or(Offset(0), |found| found.offset)))
        };
        found.into_iter().map(offset).collect()
    }

    fn consumer(
        &self,
        group: Option<String>,
        partitions: &[TopicPartition],
        isolation: IsolationLevel,
    ) -> Result<Consumer> {
        let config = ConsumerConfig {
            group_id: group.map(Into::into),
            auto_offset_reset: OffsetReset::Earliest,
            isolation_level: isolation,
            max_poll_records: POLL_RECORDS,
            max_partition_fetch_bytes: PARTITION_FETCH_BYTES,
            ..ConsumerConfig::default()
        };
        let failed = error("opening a consumer".to_owned());
        let mut consumer = self.client.consumer(config).map_err(&failed)?;
        consumer.assign(partitions.iter().cloned()).map_err(&failed)?;
        Ok(consumer)
    }

    /// The last value of each key. Open transactions are waited for only where they hold keys that matter to the caller: those of a
    /// process that died elsewhere stay open until they time out.
    async fn read_table(&self, topic: &str, matters: KeyFilter) -> Result<BTreeMap<Bytes, Bytes>> {
        let partitions = self.partitions(topic).await?;
        let starts = self.offsets(&partitions, OffsetSpec::Earliest, IsolationLevel::ReadUncommitted).await?;
        let ends = self.offsets(&partitions, OffsetSpec::Latest, IsolationLevel::ReadUncommitted).await?;
        let mut stable = self.offsets(&partitions, OffsetSpec::Latest, IsolationLevel::ReadCommitted).await?;
        let mut undecided = Vec::new();
        self.scan(topic, IsolationLevel::ReadUncommitted, &stable, &ends, |partition, record| {
            if record.key.as_ref().is_some_and(|key| matters(key)) {
                undecided.push(partition.clone());
            }
        })
        .await?;
        for partition in undecided {
            if let Some(end) = ends.get(&partition) {
                stable.insert(partition, *end);
            }
        }
        let mut table = BTreeMap::new();
        self.scan(topic, IsolationLevel::ReadCommitted, &starts, &stable, |_, record| {
            let key = record.key.unwrap_or_default();
            match record.value {
                Some(value) => table.insert(key, value),
                None => table.remove(&key),
            };
        })
        .await?;
        Ok(table)
    }

    /// Visits the records of each partition in its range.
    async fn scan(
        &self,
        topic: &str,
        isolation: IsolationLevel,
        from: &BTreeMap<TopicPartition, Offset>,
        to: &BTreeMap<TopicPartition, Offset>,
        mut visit: impl FnMut(&TopicPartition, ConsumerRecord),
    ) -> Result<()> {
        let mut left = to.clone();
        left.retain(|partition, end| from.get(partition).is_some_and(|start| start < end));
        if left.is_empty() {
            return Ok(());
        }
        let failed = error(format!("reading topic {topic}"));
        let mut consumer = self.consumer(None, &left.keys().cloned().collect::<Vec<_>>(), isolation)?;
        for (partition, start) in from.iter().filter(|(partition, _)| left.contains_key(partition)) {
            consumer.seek(partition, *start).map_err(&failed)?;
        }
        let deadline = self.env.elapsed() + TABLE_TIMEOUT;
        while !left.is_empty() {
            if self.env.elapsed() >= deadline {
                let reason = "its end was not reached in time; a transaction may be open on it";
                return Err(RuntimeError::log(format!("reading topic {topic}"), reason, true));
            }
            for fetched in consumer.poll(SCAN_POLL).await.map_err(&failed)? {
                let partition = &fetched.topic_partition;
                let end = left.get(partition).copied().unwrap_or(Offset(0));
                fetched
                    .records
                    .into_iter()
                    .filter(|record| record.offset < end)
                    .for_each(|record| visit(partition, record));
                if fetched.next_offset >= end {
                    left.remove(partition);
                }
            }
        }
        Ok(())
    }
}

impl Log for ClientLog {
    fn ensure_topic(&self, spec: TopicSpec) -> BoxFuture<'_, Result<TopicFacts>> {
        async move {
            let name = spec.name.clone();
            let topic = NewTopic { partitions: spec.partitions, ..NewTopic::new(spec.name, 1) };
            let topic = match spec.kept {
                Kept::LastOfKey => topic.with_config("cleanup.policy", "compact"),
                Kept::Default => topic.with_any_time(),
                Kept::All => topic.with_any_time().with_config("retention.ms", "-1"),
            };
            let made = self.client.admin().ensure_topic(topic).await;
            let made = made.map_err(error(format!("creating topic {name}")))?;
            Ok(TopicFacts { id: made.id, partitions: count(made.partitions.len()) })
        }
        .boxed()
    }

    fn topic(&self, name: String) -> BoxFuture<'_, Result<Option<TopicFacts>>> {
        async move { self.describe(&name).await }.boxed()
    }

    fn ends(&self, topic: String) -> BoxFuture<'_, Result<BTreeMap<TopicPartition, Offset>>> {
        async move {
            let partitions = self.partitions(&topic).await?;
            // Behind what is open: whoever reads committed records up to there has waited for it to be decided.
            self.offsets(&partitions, OffsetSpec::Latest, IsolationLevel::ReadUncommitted).await
        }
        .boxed()
    }

    fn table(&self, topic: String, matters: KeyFilter) -> BoxFuture<'_, Result<BTreeMap<Bytes, Bytes>>> {
        async move { self.read_table(&topic, matters).await }.boxed()
    }

    fn writer(&self, transactional_id: String) -> BoxFuture<'_, Result<Box<dyn LogWriter>>> {
        async move {
            let failed = error(format!("opening the transactional producer {transactional_id}"));
            let config = ProducerConfig {
                batch_size: BATCH_BYTES,
                transaction_timeout_ms: TRANSACTION_TIMEOUT_MS,
                ..ProducerConfig::transactional(transactional_id.clone())
            };
            let producer = self.client.producer(config).map_err(&failed)?;
            producer.init_transactions().await.map_err(&failed)?;
            let writer =
                ClientWriter { producer, id: transactional_id, open: false, partitions: BTreeMap::new() };
            Ok(Box::new(writer) as Box<dyn LogWriter>)
        }
        .boxed()
    }

    fn reader(&self, group: String, topics: Vec<String>) -> BoxFuture<'_, Result<Box<dyn LogReader>>> {
        async move {
            let mut partitions = Vec::new();
            for topic in &topics {
                let found = self.partitions(topic).await?;
                if found.is_empty() {
                    return Err(RuntimeError::log(
                        format!("reading topic {topic}"),
                        "there is no such topic",
                        true,
                    ));
                }
                partitions.extend(found);
            }
            let consumer = self.consumer(Some(group.clone()), &partitions, IsolationLevel::ReadCommitted)?;
            let reader =
                ClientReader { log: self.clone(), consumer, group, partitions, positions: BTreeMap::new() };
            Ok(Box::new(reader) as Box<dyn LogReader>)
        }
        .boxed()
    }
}

struct ClientWriter {
    producer: Producer,
    id: String,
    open: bool,
    /// Count of partitions by topic.
    partitions: BTreeMap<Arc<str>, i32>,
}

impl ClientWriter {
    async fn partition(&mut self, record: &NewRecord) -> Result<Option<i32>> {
        let Placement::Like(bytes) = &record.placement else { return Ok(None) };
        let count = match self.partitions.get(&record.topic) {
            Some(count) => *count,
            None => {
                let found = self.producer.partitions_for(&record.topic).await;
                let found = count(found.map_err(error(format!("looking up topic {}", record.topic)))?.len());
                self.partitions.insert(Arc::clone(&record.topic), found);
                found
            }
        };
        Ok(Some(if count > 1 { partition_for_key(bytes, count) } else { 0 }))
    }

    fn failed(&self, doing: &str) -> impl Fn(ClientError) -> RuntimeError + use<> {
        let (id, context) = (self.id.clone(), format!("{doing} ({})", self.id));
        move |failure| match failure.is_fenced() {
            true => RuntimeError::Fenced { connector: id.clone() },
            // The next attempt opens a new producer under the same id, which aborts what this one leaves.
            false => RuntimeError::log(
                context.clone(),
                &failure,
                failure.is_retriable() || failure.requires_abort() || failure.is_fatal(),
            ),
        }
    }
}

impl LogWriter for ClientWriter {
    fn append(&mut self, records: Vec<NewRecord>) -> BoxFuture<'_, Result<()>> {
        async move {
            let failed = self.failed("writing records");
            if !self.open {
                self.producer.begin_transaction().map_err(&failed)?;
                self.open = true;
            }
            for record in records {
                let partition = self.partition(&record).await?;
                let headers =
                    record.headers.into_iter().map(|(name, value)| Header::new(name, value)).collect();
                let record = ProducerRecord {
                    topic: record.topic,
                    partition,
                    timestamp: record.timestamp,
                    key: record.key,
                    value: record.value,
                    headers,
                };
                // The outcome of each is in that of the commit.
                drop(self.producer.send(record).await.map_err(&failed)?);
            }
            Ok(())
        }
        .boxed()
    }

    fn commit(&mut self) -> BoxFuture<'_, Result<()>> {
        async move {
            if !self.open {
                return Ok(());
            }
            self.producer.commit_transaction().await.map_err(self.failed("committing a transaction"))?;
            self.open = false;
            Ok(())
        }
        .boxed()
    }
}

struct ClientReader {
    log: ClientLog,
    consumer: Consumer,
    group: String,
    partitions: Vec<TopicPartition>,
    positions: BTreeMap<TopicPartition, Offset>,
}

impl LogReader for ClientReader {
    fn committed(&mut self) -> BoxFuture<'_, Result<BTreeMap<TopicPartition, Option<Offset>>>> {
        async move {
            let found = self.consumer.committed(&self.partitions).await;
            let found = found.map_err(error(format!("fetching the offsets of {}", self.group)))?;
            let offset = |at: &TopicPartition| (at.clone(), found.get(at).map(|committed| committed.offset));
            Ok(self.partitions.iter().map(offset).collect())
        }
        .boxed()
    }

    fn seek(&mut self, from: BTreeMap<TopicPartition, Option<Offset>>) -> BoxFuture<'_, Result<()>> {
        async move {
            let partitions: Vec<_> = from.keys().cloned().collect();
            let starts =
                self.log.offsets(&partitions, OffsetSpec::Earliest, IsolationLevel::ReadUncommitted).await?;
            for (partition, position) in from {
                // A position below the start would stay where it is when nothing comes behind: the end would never be reached.
                let start = starts.get(&partition).copied().unwrap_or(Offset(0));
                let offset = position.map_or(start, |position| position.max(start));
                if let Some(position) = position.filter(|position| *position < start) {
                    tracing::warn!(group = self.group, %partition, position = position.0, start = start.0,
                        "records that were not read yet have been deleted from the topic; reading goes on where it begins now");
                }
                self.consumer.seek(&partition, offset).map_err(error(format!("seeking in {partition}")))?;
                self.positions.insert(partition, offset);
            }
            Ok(())
        }
        .boxed()
    }

    fn poll(&mut self, wait: Duration) -> BoxFuture<'_, Result<Vec<Fetched>>> {
        async move {
            let polled =
                self.consumer.poll(wait).await.map_err(error(format!("reading for {}", self.group)))?;
            let mut all = Vec::with_capacity(polled.len());
            for records in polled {
                self.positions.insert(records.topic_partition.clone(), records.next_offset);
                let mut fetched = Fetched {
                    partition: records.topic_partition,
                    offsets: vec![],
                    keys: vec![],
                    values: vec![],
                };
                for record in records.records {
                    fetched.offsets.push(record.offset);
                    fetched.keys.push(record.key);
                    fetched.values.push(record.value);
                }
                if !fetched.offsets.is_empty() {
                    all.push(fetched);
                }
            }
            Ok(all)
        }
        .boxed()
    }

    fn positions(&self) -> BTreeMap<TopicPartition, Offset> {
        self.positions.clone()
    }

    fn commit(&mut self, offsets: BTreeMap<TopicPartition, Offset>) -> BoxFuture<'_, Result<()>> {
        async move {
            let offsets =
                offsets.into_iter().map(|(at, offset)| (at, OffsetAndMetadata::new(offset))).collect();
            let committed = self.consumer.commit(&offsets).await;
            committed.map_err(error(format!("committing the offsets of {}", self.group)))
        }
        .boxed()
    }
}

fn error(context: String) -> impl Fn(ClientError) -> RuntimeError {
    move |failure| RuntimeError::log(context.clone(), &failure, failure.is_retriable())
}

fn is_unknown(refused: &ClientError) -> bool {
    refused.code() == Some(millstream_protocol::ErrorCode::UnknownTopicOrPartition)
}

fn count(length: usize) -> i32 {
    i32::try_from(length).unwrap_or(i32::MAX)
}
