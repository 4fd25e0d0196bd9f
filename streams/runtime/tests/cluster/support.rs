//! A cluster for a test: the embedded broker, or the peer Apache Kafka where `PEER_DIR` says that there is one.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millstream_client::{
    Client, ClientConfig, ConsumerConfig, ConsumerRecord, IsolationLevel, NewTopic, OffsetReset, Producer,
    ProducerConfig, ProducerRecord,
};
use millstream_env::{Env, HostRuntime};
use millstream_net::TcpDial;
use millstream_node::{Embedded, EmbeddedConfig, embedded};
use millstream_protocol::{Dial, Endpoint};
use millstream_record::{Millis, Offset, TopicPartition};
use millstream_streams::{StreamsApp, StreamsConfig, StreamsControl, Topology};

/// The longest that a test waits for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const PEER: &str = "127.0.0.1:19092";

pub(crate) struct Cluster {
    pub(crate) env: Env,
    pub(crate) dir: tempfile::TempDir,
    /// Begins the names of everything that a test makes, so that tests on the peer do not meet.
    pub(crate) prefix: String,
    dial: Arc<dyn Dial>,
    bootstrap: Vec<Endpoint>,
    _embedded: Option<Embedded>,
}

/// Between two looks at a topic.
pub(crate) const LOOK: Duration = Duration::from_millis(5);

/// Runs `test` on the embedded broker, and on the peer where there is one.
pub(crate) fn on_every_door(test: impl AsyncFn(Cluster)) {
    let (runtime, env) = HostRuntime::start("streams-test", 2).unwrap();
    runtime.block_on(async {
        test(Cluster::embedded(&env).await).await;
        if std::env::var_os("PEER_DIR").is_some() {
            test(Cluster::peer(&env)).await;
        } else {
            let _ = writeln!(std::io::stderr(), "not run: the same on Apache Kafka (set PEER_DIR)");
        }
    });
    runtime.shutdown_background();
}

impl Cluster {
    async fn embedded(env: &Env) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config =
            EmbeddedConfig::new(dir.path().join("log")).with("group.initial.rebalance.delay.ms", "0");
        let broker = embedded(config).await.unwrap();
        Self {
            env: env.clone(),
            dir,
            prefix: String::new(),
            dial: broker.dial(),
            bootstrap: broker.bootstrap(),
            _embedded: Some(broker),
        }
    }

    fn peer(env: &Env) -> Self {
        Self {
            env: env.clone(),
            dir: tempfile::tempdir().unwrap(),
            prefix: format!("t{}-", env.random()),
            dial: Arc::new(TcpDial::new(env.clone())),
            bootstrap: vec![Endpoint::parse(PEER).unwrap()],
            _embedded: None,
        }
    }

    pub(crate) fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.env.clone(), Arc::clone(&self.dial), ClientConfig::new(self.bootstrap.clone()))
    }

    pub(crate) fn config(&self, application: &str) -> StreamsConfig {
        StreamsConfig {
            session_timeout_ms: 6_000,
            ..StreamsConfig::new(self.name(application), self.dir.path().join("state"))
        }
    }

    pub(crate) fn app(&self, topology: Topology, config: StreamsConfig) -> StreamsApp {
        StreamsApp::new(topology, config, self.env.clone(), Arc::clone(&self.dial), self.bootstrap.clone())
    }

    /// The way to the cluster.
    pub(crate) fn dial(&self) -> Arc<dyn Dial> {
        Arc::clone(&self.dial)
    }

    /// An application that reaches the cluster through `dial`.
    pub(crate) fn app_through(
        &self,
        dial: Arc<dyn Dial>,
        topology: Topology,
        config: StreamsConfig,
    ) -> StreamsApp {
        StreamsApp::new(topology, config, self.env.clone(), dial, self.bootstrap.clone())
    }

    pub(crate) async fn create(&self, topics: &[(&str, i32)]) {
        for (topic, partitions) in topics {
            self.client().admin().ensure_topic(NewTopic::new(self.name(topic), *partitions)).await.unwrap();
        }
    }

    pub(crate) fn producer(&self) -> Producer {
        self.client().producer(ProducerConfig::default()).unwrap()
    }

    /// Writes text rows: key, value, timestamp.
    pub(crate) async fn write(&self, topic: &str, rows: impl IntoIterator<Item = (String, String, i64)>) {
        let producer = self.producer();
        for (key, value, at) in rows {
            let mut record = ProducerRecord::new(self.name(topic), value).with_key(key);
            record.timestamp = Some(Millis(at));
            drop(producer.send(record).await.unwrap()); // flush tells the failure
        }
        producer.flush().await.unwrap();
        producer.close().await.unwrap();
    }

    /// The end of each partition.
    pub(crate) async fn ends(&self, topic: &str) -> BTreeMap<TopicPartition, Offset> {
        let client = self.client();
        let described = client.admin().describe_topics(&[&self.name(topic)]).await.unwrap();
        let topic = described.into_values().next().unwrap().unwrap();
        let count = i32::try_from(topic.partitions.len()).unwrap();
        let partitions: Vec<_> =
            (0..count).map(|n| TopicPartition::new(Arc::clone(&topic.name), n)).collect();
        let consumer = client.consumer(Self::reader()).unwrap();
        consumer.end_offsets(&partitions).await.unwrap()
    }

    /// How many offsets were deleted of a topic; none while there is no such topic.
    pub(crate) async fn deleted_of(&self, topic: &str) -> i64 {
        let (client, name) = (self.client(), self.name(topic));
        let described = client.admin().describe_topics(&[&name]).await.unwrap();
        let Some(Ok(topic)) = described.into_values().next() else { return 0 };
        let partitions: Vec<_> =
            topic.partitions.iter().map(|one| TopicPartition::new(name.as_str(), one.partition)).collect();
        let consumer = client.consumer(Self::reader()).unwrap();
        consumer.beginning_offsets(&partitions).await.map_or(0, |begins| begins.values().map(|at| at.0).sum())
    }

    /// Tells an application that a topic ends where it ends now.
    pub(crate) async fn end(&self, control: &StreamsControl, topic: &str) {
        for (partition, end) in self.ends(topic).await {
            control.end_input(&partition.topic, partition.partition, end);
        }
    }

    fn reader() -> ConsumerConfig {
        ConsumerConfig {
            isolation_level: IsolationLevel::ReadCommitted,
            auto_offset_reset: OffsetReset::Earliest,
            ..ConsumerConfig::default()
        }
    }

    /// Every committed record of a topic, by partition in order.
    pub(crate) async fn read(&self, topic: &str) -> Vec<ConsumerRecord> {
        // A log in this process answers at once, so a test that reads until something is there might never let the others run.
        self.env.sleep(LOOK).await;
        let ends = self.ends(topic).await;
        let mut consumer = self.client().consumer(Self::reader()).unwrap();
        consumer.assign(ends.keys().cloned()).unwrap();
        consumer.seek_to_beginning(&ends.keys().cloned().collect::<Vec<_>>()).unwrap();
        let mut next: BTreeMap<TopicPartition, Offset> = BTreeMap::new();
        let mut records = Vec::new();
        let began = self.env.elapsed();
        while ends.iter().any(|(partition, end)| next.get(partition).copied().unwrap_or_default() < *end) {
            assert!(
                self.env.elapsed() - began < PATIENCE,
                "{topic} cannot be read to its end {ends:?}: {next:?}"
            );
            for batch in consumer.poll(Duration::from_millis(100)).await.unwrap() {
                next.insert(batch.topic_partition, batch.next_offset);
                records.extend(batch.records);
            }
        }
        records
    }
}

/// Bytes as text.
pub(crate) fn text(bytes: Option<&Bytes>) -> String {
    bytes.map_or_else(|| "null".to_owned(), |bytes| String::from_utf8_lossy(bytes).into_owned())
}
