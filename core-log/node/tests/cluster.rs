//! Three nodes on real sockets and disks: they form a cluster, lose one of them, and lose nothing.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use millstream_client::{
    Client, ClientConfig, ConsumerConfig, Delivery, Election, NewTopic, OffsetReset, Producer,
    ProducerConfig, ProducerRecord,
};
use millstream_env::{Env, HostRuntime};
use millstream_net::TcpDial;
use millstream_node::{Node, NodeConfig, serve};
use millstream_protocol::{Endpoint, ErrorCode};
use millstream_record::{NodeId, TopicPartition};
use tempfile::TempDir;

/// How long anything may take that must happen.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(20);
const TOPIC: &str = "t";
const PARTITIONS: i32 = 3;

/// A node's place: its directory and addresses stay, its lives come and go.
struct Place {
    id: i32,
    dir: TempDir,
    clients: u16,
    controllers: u16,
    life: Option<(tokio::runtime::Runtime, Node)>,
}

impl Place {
    fn new(id: i32) -> Self {
        let port = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self { id, dir: TempDir::new().unwrap(), clients: port(), controllers: port(), life: None }
    }

    fn config(&self, bootstrap: u16) -> NodeConfig {
        let mut config = NodeConfig::new(self.dir.path());
        let listeners =
            format!("PLAINTEXT://127.0.0.1:{},CONTROLLER://127.0.0.1:{}", self.clients, self.controllers);
        for (key, value) in [
            ("node.id", self.id.to_string().as_str()),
            ("listeners", &listeners),
            ("controller.listener.names", "CONTROLLER"),
            ("controller.quorum.bootstrap.servers", &format!("127.0.0.1:{bootstrap}")),
            ("controller.quorum.auto.join.enable", "true"),
            // A crash is noticed by the connections that end, not by a session.
            ("broker.session.timeout.ms", "600000"),
            ("default.replication.factor", "3"),
            ("min.insync.replicas", "2"),
            ("offsets.topic.num.partitions", "3"),
            ("group.initial.rebalance.delay.ms", "0"),
        ] {
            config.set(key, value).unwrap();
        }
        config
    }

    fn start(&mut self, bootstrap: u16) {
        let (runtime, env) = HostRuntime::start("node", 2).unwrap();
        let config = self.config(bootstrap);
        let node = runtime.block_on(serve(env, config)).unwrap();
        self.life = Some((runtime, node));
    }

    /// As kill -9 does: the threads end where they are.
    fn crash(&mut self) {
        let (runtime, node) = self.life.take().unwrap();
        runtime.shutdown_timeout(PATIENCE);
        drop(node);
    }

    fn stop(&mut self) {
        let (runtime, node) = self.life.take().unwrap();
        runtime.block_on(node.shutdown()).unwrap();
        runtime.shutdown_timeout(PATIENCE);
    }
}

/// Three places, and a client that knows them all.
struct Cluster {
    places: Vec<Place>,
    env: Env,
    client: Client,
}

impl Cluster {
    fn start(env: &Env) -> Self {
        let mut places: Vec<Place> = (1..=3).map(Place::new).collect();
        let founder = places[0].controllers;
        for place in &mut places {
            place.start(founder);
        }
        let bootstrap = places.iter().map(|place| Endpoint::new("127.0.0.1", place.clients)).collect();
        let config = ClientConfig { metadata_max_age_ms: 1_000, ..ClientConfig::new(bootstrap) };
        let client = Client::new(env.clone(), Arc::new(TcpDial::new(env.clone())), config);
        Self { places, env: env.clone(), client }
    }

    fn place(&mut self, node: NodeId) -> &mut Place {
        self.places.iter_mut().find(|place| place.id == node.0).unwrap()
    }

    fn restart(&mut self, node: NodeId) {
        let others = self.places.iter().find(|place| place.id != node.0).unwrap().controllers;
        self.place(node).start(others);
    }

    async fn until<F: Future<Output = bool>>(&self, what: &str, mut holds: impl FnMut() -> F) {
        let end = self.env.elapsed() + PATIENCE;
        while !holds().await {
            assert!(self.env.elapsed() < end, "{what}: not within {PATIENCE:?}");
            self.env.sleep(LOOK).await;
        }
    }

    async fn brokers(&self) -> usize {
        self.client.admin().describe_cluster().await.map_or(0, |cluster| cluster.brokers.len())
    }

    async fn leader(&self, partition: i32) -> Option<NodeId> {
        let topics = self.client.admin().describe_topics(&[TOPIC]).await.ok()?;
        topics.get(TOPIC)?.as_ref().ok()?.partitions.get(partition as usize)?.leader
    }

    async fn in_sync(&self) -> usize {
        let Ok(topics) = self.client.admin().describe_topics(&[TOPIC]).await else { return 0 };
        let Some(Ok(topic)) = topics.get(TOPIC) else { return 0 };
        topic.partitions.iter().map(|partition| partition.in_sync.len()).min().unwrap_or(0)
    }
}

/// Sends the numbers to all partitions in turn; each has to be acknowledged.
async fn send(producer: &Producer, numbers: std::ops::Range<u32>) {
    let mut sent: Vec<Delivery> = Vec::new();
    for number in numbers {
        let partition = Some(number as i32 % PARTITIONS);
        let record = ProducerRecord { partition, ..ProducerRecord::new(TOPIC, number.to_string()) };
        sent.push(producer.send(record).await.unwrap());
    }
    producer.flush().await.unwrap();
    for delivery in sent {
        delivery.await.unwrap();
    }
}

#[test]
fn what_is_acknowledged_outlives_a_crash_of_any_node_and_is_there_once_in_order() {
    let (runtime, env) = HostRuntime::start("cluster-test", 2).unwrap();
    let mut cluster = Cluster::start(&env);
    let producer = runtime.block_on(async {
        cluster.until("three brokers serve", async || cluster.brokers().await == 3).await;
        let topic = NewTopic { replication_factor: Some(3), ..NewTopic::new(TOPIC, PARTITIONS) };
        cluster.client.admin().ensure_topic(topic).await.unwrap();
        let producer = cluster.client.producer(ProducerConfig::default()).unwrap();
        send(&producer, 0..300).await;
        producer
    });

    let leader = runtime.block_on(cluster.leader(0)).expect("partition 0 has a leader");
    cluster.place(leader).crash();
    runtime.block_on(async {
        send(&producer, 300..600).await;
        assert_ne!(cluster.leader(0).await, Some(leader));
    });
    cluster.restart(leader);
    runtime.block_on(async {
        cluster.until("all are in sync after a crash", async || cluster.in_sync().await == 3).await;
        send(&producer, 600..900).await;
    });

    let next = runtime.block_on(cluster.leader(1)).expect("partition 1 has a leader");
    cluster.place(next).stop();
    runtime.block_on(send(&producer, 900..1200));
    cluster.restart(next);
    runtime.block_on(async {
        cluster.until("all are in sync after a stop", async || cluster.in_sync().await == 3).await;
        for (index, found) in read_all(&cluster, 1200).await {
            let expected: Vec<u32> =
                (0..1200).filter(|number| *number as i32 % PARTITIONS == index).collect();
            assert_eq!(found, expected, "partition {index}");
        }
    });
    for place in &mut cluster.places {
        place.crash();
    }
}

#[test]
fn operators_move_replicas_leaders_and_votes_while_producers_write() {
    let (runtime, env) = HostRuntime::start("cluster-test", 2).unwrap();
    let mut cluster = Cluster::start(&env);
    runtime.block_on(async {
        cluster.until("three brokers serve", async || cluster.brokers().await == 3).await;
        let admin = cluster.client.admin();
        let topic = NewTopic { replication_factor: Some(1), ..NewTopic::new(TOPIC, PARTITIONS) };
        admin.ensure_topic(topic).await.unwrap();
        let producer = cluster.client.producer(ProducerConfig::default()).unwrap();
        send(&producer, 0..300).await;

        // From one replica to two others, which then have what the first had.
        let at = |partition| TopicPartition::new(TOPIC, partition);
        let nodes = |ids: &[i32]| ids.iter().copied().map(NodeId).collect::<Vec<_>>();
        let wanted = (0..PARTITIONS).map(|index| {
            let first = index % 3 + 1;
            (at(index), Some(nodes(&[first, first % 3 + 1])))
        });
        let wanted: BTreeMap<_, _> = wanted.collect();
        for (at, moved) in admin.alter_reassignments(&wanted).await.unwrap() {
            moved.unwrap_or_else(|error| panic!("{at}: {error}"));
        }
        send(&producer, 300..600).await;
        let moving = async || admin.list_reassignments().await.map_or(usize::MAX, |moving| moving.len());
        cluster.until("the replicas have moved", async || moving().await == 0).await;
        let replicas = async |index: i32| {
            let topics = admin.describe_topics(&[TOPIC]).await.unwrap();
            topics[TOPIC].as_ref().unwrap().partitions[index as usize].replicas.clone()
        };
        for index in 0..PARTITIONS {
            assert_eq!(Some(replicas(index).await), wanted[&at(index)], "partition {index}");
        }
        let elected = admin.elect_leaders(Election::Preferred, None).await.unwrap();
        assert!(elected.values().all(Result::is_ok), "{elected:?}");
        for index in 0..PARTITIONS {
            assert_eq!(cluster.leader(index).await, replicas(index).await.first().copied());
        }
        send(&producer, 600..900).await;

        // A vote is taken and given back; its broker serves all the while.
        let voters = async || admin.describe_quorum().await.map_or(0, |quorum| quorum.voters.len());
        cluster.until("three vote", async || voters().await == 3).await;
        let quorum = admin.describe_quorum().await.unwrap();
        let demoted = quorum.voters.iter().find(|voter| Some(voter.node) != quorum.leader).unwrap();
        admin.remove_voter(demoted.node, demoted.directory).await.unwrap();
        let after = admin.describe_quorum().await.unwrap();
        assert!(after.voters.iter().all(|voter| voter.node != demoted.node), "{after:?}");
        assert!(after.observers.iter().any(|observer| observer.node == demoted.node), "{after:?}");
        let unknown = admin.remove_voter(demoted.node, demoted.directory).await.unwrap_err();
        assert_eq!(unknown.code(), Some(ErrorCode::VoterNotFound));
        send(&producer, 900..1200).await;
        let endpoint = demoted.endpoint.clone().expect("where voters are is known");
        admin.add_voter(demoted.node, demoted.directory, "CONTROLLER", &endpoint).await.unwrap();
        assert_eq!(voters().await, 3);
        let running = admin.unregister_broker(demoted.node).await.unwrap_err();
        assert_eq!(running.code(), Some(ErrorCode::InvalidRequest), "{running}");

        for (index, found) in read_all(&cluster, 1200).await {
            let expected: Vec<u32> =
                (0..1200).filter(|number| *number as i32 % PARTITIONS == index).collect();
            assert_eq!(found, expected, "partition {index}");
        }
    });
    for place in &mut cluster.places {
        place.crash();
    }
}

/// The numbers in each partition, once there are `count` of them.
async fn read_all(cluster: &Cluster, count: usize) -> BTreeMap<i32, Vec<u32>> {
    let config = ConsumerConfig { auto_offset_reset: OffsetReset::Earliest, ..ConsumerConfig::default() };
    let mut consumer = cluster.client.consumer(config).unwrap();
    consumer.assign((0..PARTITIONS).map(|index| TopicPartition::new(TOPIC, index))).unwrap();
    let mut read: BTreeMap<i32, Vec<u32>> = BTreeMap::new();
    let end = cluster.env.elapsed() + PATIENCE;
    while read.values().map(Vec::len).sum::<usize>() < count {
        assert!(cluster.env.elapsed() < end, "not all is read within {PATIENCE:?}: {read:?}");
        for polled in consumer.poll(Duration::from_millis(200)).await.unwrap() {
            let number = |value: &[u8]| std::str::from_utf8(value).unwrap().parse::<u32>().unwrap();
            let numbers = polled.records.iter().map(|record| number(record.value.as_ref().unwrap()));
            read.entry(polled.topic_partition.partition).or_default().extend(numbers);
        }
    }
    read
}
