//! Three nodes on real sockets and disks, and a client that knows them all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use millstream_client::{
    Client, ClientConfig, ConsumerConfig, IsolationLevel, Links, NewTopic, OffsetReset, Producer,
    ProducerConfig, ProducerRecord,
};
use millstream_env::testing::{PATIENCE, private_port, until};
use millstream_env::{Env, HostRuntime};
use millstream_machine::partition_for;
use millstream_net::TcpDial;
use millstream_node::{Node, NodeConfig, NodeError};
use millstream_protocol::{Endpoint, Rpc};
use millstream_record::{NodeId, TopicPartition};
use millstream_storage::disk::{Fault, Op};
use millstream_storage::{FaultyDisk, RealDisk};
use tempfile::TempDir;

/// The `metadata.version` at which this build's clusters run.
pub(crate) const THIS_BUILD: i16 = 30;
/// Partitions of every topic, the internal ones too, each on all nodes.
pub(crate) const PARTITIONS: i32 = 3;

/// A node's place: its directory and addresses stay, its lives come and go.
struct Place {
    id: i32,
    dir: TempDir,
    disk: FaultyDisk,
    clients: u16,
    controllers: u16,
    /// The highest `metadata.version` that its build supports.
    supports: i16,
    life: Option<(tokio::runtime::Runtime, Node)>,
}

impl Place {
    fn new(id: i32) -> Self {
        let (clients, controllers) = (private_port(), private_port());
        let disk = FaultyDisk::new(Arc::new(RealDisk));
        Self {
            id,
            dir: TempDir::new().unwrap(),
            disk,
            clients,
            controllers,
            supports: THIS_BUILD,
            life: None,
        }
    }

    fn config(&self, bootstrap: u16) -> NodeConfig {
        let mut config = NodeConfig::new(self.dir.path());
        let listeners =
            format!("PLAINTEXT://127.0.0.1:{},CONTROLLER://127.0.0.1:{}", self.clients, self.controllers);
        let partitions = PARTITIONS.to_string();
        for (key, value) in [
            ("node.id", self.id.to_string().as_str()),
            ("listeners", &listeners),
            ("controller.listener.names", "CONTROLLER"),
            ("controller.quorum.bootstrap.servers", &format!("127.0.0.1:{bootstrap}")),
            ("controller.quorum.auto.join.enable", "true"),
            // A crash is noticed by the connections that end, not by a session.
            ("broker.session.timeout.ms", "600000"),
            ("leader.imbalance.check.interval.seconds", "2"),
            ("log.retention.check.interval.ms", "500"),
            ("broker.rack", &rack(NodeId(self.id))),
            ("replica.selector.class", "org.apache.kafka.common.replica.RackAwareReplicaSelector"),
            ("default.replication.factor", "3"),
            ("min.insync.replicas", "2"),
            ("offsets.topic.num.partitions", &partitions),
            ("transaction.state.log.num.partitions", &partitions),
            ("group.initial.rebalance.delay.ms", "0"),
        ] {
            config.set(key, value).unwrap();
        }
        config.support_feature("metadata.version", 7, self.supports);
        config
    }

    fn start(&mut self, bootstrap: u16) {
        let (runtime, env) = HostRuntime::start("node", 2).unwrap();
        let config = self.config(bootstrap);
        let node = runtime.block_on(Node::start(env, Arc::new(self.disk.clone()), config)).unwrap();
        self.life = Some((runtime, node));
    }

    /// Starts where it cannot go on, and ends again; gives the reason.
    fn fails(&mut self, bootstrap: u16) -> String {
        let (runtime, env) = HostRuntime::start("node", 2).unwrap();
        match runtime.block_on(Node::start(env, Arc::new(self.disk.clone()), self.config(bootstrap))) {
            Err(error) => error.to_string(),
            Ok(node) => {
                let why = failure(&runtime, &node);
                self.life = Some((runtime, node));
                self.crash();
                why
            }
        }
    }

    /// As kill -9 does: the threads end where they are.
    fn crash(&mut self) {
        if let Some((runtime, node)) = self.life.take() {
            runtime.shutdown_timeout(PATIENCE);
            drop(node);
        }
    }

    fn stop(&mut self) {
        let (runtime, node) = self.life.take().expect("it runs");
        runtime.block_on(node.shutdown()).unwrap();
        runtime.shutdown_timeout(PATIENCE);
    }
}

/// Why a node that was started cannot go on, once it has found that out.
pub(crate) fn failure(runtime: &tokio::runtime::Runtime, node: &Node) -> String {
    let failed = node.broker().env().timeout(PATIENCE, node.failed());
    runtime.block_on(failed).expect("it fails in time").to_string()
}

/// The rack of a node: each has its own.
pub(crate) fn rack(node: NodeId) -> String {
    format!("rack-{node}")
}

/// Three nodes, and a client that knows them all.
pub(crate) struct Cluster {
    places: Vec<Place>,
    pub(crate) env: Env,
    pub(crate) client: Client,
    pub(crate) links: Links,
}

impl Cluster {
    /// Three nodes that serve, with a topic of so many replicas.
    pub(crate) async fn start(env: &Env, topic: &str, replicas: i16) -> Self {
        let places: Vec<Place> = (1..=3).map(Place::new).collect();
        let founder = places[0].controllers;
        let places = places.into_iter().map(|mut place| {
            // Nodes bring runtimes of their own, which must not be entered from within another.
            let started = move || {
                place.start(founder);
                place
            };
            outside(started)
        });
        let places: Vec<Place> = places.collect();
        let bootstrap = places.iter().map(|place| Endpoint::new("127.0.0.1", place.clients)).collect();
        let config = ClientConfig { metadata_max_age_ms: 1_000, ..ClientConfig::new(bootstrap) };
        let dial = Arc::new(TcpDial::new(env.clone()));
        let links = Links::new(env.clone(), dial.clone(), "test".into(), Duration::from_secs(10));
        let client = Client::new(env.clone(), dial, config);
        let cluster = Self { places, env: env.clone(), client, links };
        let brokers = async || {
            cluster.client.admin().describe_cluster().await.map_or(0, |cluster| cluster.brokers.len())
        };
        cluster.until("three brokers serve", async || brokers().await == 3).await;
        let topic = NewTopic { replication_factor: Some(replicas), ..NewTopic::new(topic, PARTITIONS) };
        cluster.client.admin().ensure_topic(topic).await.unwrap();
        cluster
    }

    pub(crate) fn crash(&mut self, node: NodeId) {
        self.outside(node, Place::crash);
    }

    /// In order, as an operator stops it.
    pub(crate) fn stop(&mut self, node: NodeId) {
        self.outside(node, Place::stop);
    }

    pub(crate) fn restart(&mut self, node: NodeId) {
        let others = self.controllers_but(node);
        self.outside(node, |place| place.start(others));
    }

    /// Starts a node that was stopped, as a build that supports `metadata.version` up to `highest`.
    pub(crate) fn restart_as(&mut self, node: NodeId, highest: i16) {
        self.outside(node, |place| place.supports = highest);
        self.restart(node);
    }

    /// The same where the node cannot go on with that build; gives the reason with which it ends.
    pub(crate) fn fails_as(&mut self, node: NodeId, highest: i16) -> String {
        let others = self.controllers_but(node);
        self.outside(node, |place| {
            place.supports = highest;
            place.fails(others)
        })
    }

    /// Where a controller is that is not this node.
    pub(crate) fn controllers_but(&self, node: NodeId) -> u16 {
        self.places.iter().find(|place| place.id != node.0).unwrap().controllers
    }

    fn outside<T: Send>(&mut self, node: NodeId, work: impl FnOnce(&mut Place) -> T + Send) -> T {
        let place = self.places.iter_mut().find(|place| place.id == node.0).unwrap();
        std::thread::scope(|scope| scope.spawn(|| work(place)).join().unwrap())
    }

    /// Where the files of `node` are.
    pub(crate) fn dir(&self, node: NodeId) -> &std::path::Path {
        self.place(node).dir.path()
    }

    /// The next write of `node` to a file whose path ends in `suffix` finds the disk full.
    pub(crate) fn fill_disk(&self, node: NodeId, suffix: &str) {
        self.place(node).disk.arm(Op::Write, suffix, 0, Fault::Full);
    }

    /// Waits until `node` says that it cannot go on.
    pub(crate) async fn failure(&self, node: NodeId) -> NodeError {
        let (_, running) = self.place(node).life.as_ref().expect("it runs");
        self.env.timeout(PATIENCE, running.failed()).await.expect("it fails")
    }

    fn place(&self, node: NodeId) -> &Place {
        self.places.iter().find(|place| place.id == node.0).unwrap()
    }

    pub(crate) async fn until<F: Future<Output = bool>>(&self, what: &str, holds: impl FnMut() -> F) {
        until(&self.env, what, holds).await;
    }

    /// The leader of a partition, once there is one.
    pub(crate) async fn leader(&self, topic: &str, partition: i32) -> NodeId {
        let mut leader = None;
        let find = async || {
            let topics = self.client.admin().describe_topics(&[topic]).await.ok()?;
            let description = topics.get(topic)?.as_ref().ok()?;
            description.partitions.get(usize::try_from(partition).ok()?)?.leader
        };
        let end = self.env.elapsed() + PATIENCE;
        while leader.is_none() {
            assert!(self.env.elapsed() < end, "{topic}-{partition} has no leader within {PATIENCE:?}");
            leader = find().await;
        }
        leader.unwrap()
    }

    /// The broker that coordinates a transactional id.
    pub(crate) async fn coordinator(&self, transactional_id: &str) -> NodeId {
        self.leader("__transaction_state", partition_for(transactional_id, PARTITIONS)).await
    }

    /// Where a node serves clients.
    pub(crate) fn clients(&self, node: NodeId) -> Endpoint {
        Endpoint::new("127.0.0.1", self.place(node).clients)
    }

    /// Asks one node directly.
    pub(crate) async fn ask<R: Rpc>(&self, node: NodeId, request: R) -> R::Response {
        self.links.call(&self.clients(node), request).await.unwrap()
    }

    pub(crate) async fn transactional(&self, id: &str) -> Producer {
        let config = ProducerConfig { linger_ms: 1, ..ProducerConfig::transactional(id) };
        let producer = self.client.producer(config).unwrap();
        producer.init_transactions().await.unwrap();
        producer
    }

    /// What a consumer reads in each partition, once there are `count` records.
    pub(crate) async fn read(
        &self,
        topic: &str,
        isolation_level: IsolationLevel,
        count: usize,
    ) -> BTreeMap<i32, Vec<u32>> {
        let auto_offset_reset = OffsetReset::Earliest;
        let config = ConsumerConfig { auto_offset_reset, isolation_level, ..ConsumerConfig::default() };
        let mut consumer = self.client.consumer(config).unwrap();
        let partitions: Vec<TopicPartition> =
            (0..PARTITIONS).map(|index| TopicPartition::new(topic, index)).collect();
        consumer.assign(partitions.clone()).unwrap();
        let mut read: BTreeMap<i32, Vec<u32>> = BTreeMap::new();
        let end = self.env.elapsed() + PATIENCE;
        while read.values().map(Vec::len).sum::<usize>() < count {
            assert!(self.env.elapsed() < end, "not {count} are read within {PATIENCE:?}: {read:?}");
            for polled in consumer.poll(Duration::from_millis(200)).await.unwrap() {
                let number = |value: &[u8]| std::str::from_utf8(value).unwrap().parse::<u32>().unwrap();
                let numbers = polled.records.iter().map(|record| number(record.value.as_ref().unwrap()));
                read.entry(polled.topic_partition.partition).or_default().extend(numbers);
            }
        }
        let ends = consumer.end_offsets(&partitions).await.unwrap();
        for at in partitions {
            let position = consumer.position(&at).await.unwrap();
            assert_eq!(position, ends[&at], "{at}: there is nothing more to read");
        }
        read
    }
}

/// Runs `work` on a thread that no runtime has entered.
#[expect(clippy::disallowed_methods, reason = "a runtime is neither started nor ended within another one")]
pub(crate) fn outside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    std::thread::spawn(work).join().expect("it does not panic")
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let places = std::mem::take(&mut self.places);
        let crash = || places.into_iter().for_each(|mut place| place.crash());
        outside(crash);
    }
}

/// Sends `number` to every partition of `topic`; all are in the log on return.
pub(crate) async fn send(producer: &Producer, topic: &str, number: u32) {
    let mut sent = Vec::new();
    for index in 0..PARTITIONS {
        let record =
            ProducerRecord { partition: Some(index), ..ProducerRecord::new(topic, number.to_string()) };
        sent.push(producer.send(record).await.unwrap());
    }
    for delivery in sent {
        delivery.await.unwrap();
    }
}
