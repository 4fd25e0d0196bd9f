//! Records are deleted, and the power goes right behind the answer: nothing that was deleted comes back, and nothing else is lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use millstream_client::{
    Client, ClientConfig, ConsumerConfig, IsolationLevel, NewTopic, OffsetReset, OffsetSpec, ProducerConfig,
    ProducerRecord, RecordsToDelete,
};
use millstream_env::Env;
use millstream_net::TcpDial;
use millstream_node::NodeConfig;
use millstream_protocol::Endpoint;
use millstream_record::{Offset, TopicPartition};
use millstream_sim::executor::{Owner, Sim};
use millstream_sim::machine::Machine;

const TOPIC: &str = "t";
const SEEDS: u64 = 8;
/// Deletions in one world.
const ROUNDS: i64 = 4;
/// Records that are written before each.
const RECORDS: i64 = 6;
/// Between two looks.
const GLANCE: Duration = Duration::from_millis(10);
/// No world waits longer for one thing.
const PATIENCE: Duration = Duration::from_secs(120);
const WORLD_MAX: Duration = Duration::from_secs(3_600);

/// Some nodes, and a client that knows them all.
struct World {
    sim: Sim,
    env: Env,
    machines: Vec<Machine>,
    client: Client,
    /// Where the log begins, and where it ends: every record's value is its offset.
    begin: i64,
    end: i64,
}

fn config(number: u16, nodes: u16) -> NodeConfig {
    let mut config = NodeConfig::new("/data");
    let mut set = |key: &str, value: &str| config.set(key, value).unwrap();
    if nodes == 1 {
        set("listeners", &format!("PLAINTEXT://host-{number}:9092"));
        return config;
    }
    set("node.id", &number.to_string());
    set("listeners", &format!("PLAINTEXT://host-{number}:9092,CONTROLLER://host-{number}:9093"));
    set("controller.listener.names", "CONTROLLER");
    set("controller.quorum.bootstrap.servers", "host-1:9093");
    set("controller.quorum.auto.join.enable", "true");
    set("default.replication.factor", &nodes.to_string());
    set("min.insync.replicas", "2");
    config
}

impl World {
    async fn start(sim: &Sim, nodes: u16) -> Self {
        let machines: Vec<Machine> =
            (1..=nodes).map(|number| Machine::on_host(sim, config(number, nodes), number)).collect();
        let env = sim.env_of(Owner::WORLD);
        let bootstrap = (1..=nodes).map(|number| Endpoint::new(format!("host-{number}"), 9092)).collect();
        let config = ClientConfig {
            request_timeout_ms: 3_000,
            metadata_max_age_ms: 1_000,
            allow_auto_create_topics: false,
            ..ClientConfig::new(bootstrap)
        };
        let client = Client::new(env.clone(), Arc::new(TcpDial::new(env.clone())), config);
        let world = Self { sim: sim.clone(), env, machines, client, begin: 0, end: 0 };
        world.machines.iter().for_each(Machine::boot);
        let end = world.env.elapsed() + PATIENCE;
        while world.brokers().await < usize::from(nodes) {
            world.wait(end, "all serve").await;
        }
        world.client.admin().ensure_topic(NewTopic::new(TOPIC, 1)).await.unwrap();
        world
    }

    /// Before the next look, which has to come before `end`.
    async fn wait(&self, end: Duration, what: &str) {
        assert!(self.env.elapsed() < end, "{what}: not within {PATIENCE:?}");
        self.env.sleep(GLANCE).await;
    }

    async fn brokers(&self) -> usize {
        self.client.admin().describe_cluster().await.map_or(0, |cluster| cluster.brokers.len())
    }

    async fn in_sync(&self) -> Option<usize> {
        let topics = self.client.admin().describe_topics(&[TOPIC]).await.ok()?;
        Some(topics.get(TOPIC)?.as_ref().ok()?.partitions.first()?.in_sync.len())
    }

    /// Waits until all replicas are in sync.
    async fn whole(&self) {
        let end = self.env.elapsed() + PATIENCE;
        while self.in_sync().await != Some(self.machines.len()) {
            self.wait(end, "all are in sync").await;
        }
    }

    fn leader(&self) -> &Machine {
        let leads = |machine: &&Machine| {
            let image = machine.image();
            let leader = image.and_then(|image| image.partition(TOPIC, 0)?.leader);
            machine.is_up()
                && leader
                    .is_some_and(|leader| self.machines.len() == 1 || leader.0 == i32::from(machine.host()))
        };
        self.machines.iter().find(leads).expect("one leads, since all are in sync")
    }

    async fn write(&mut self) {
        let producer =
            self.client.producer(ProducerConfig { linger_ms: 0, ..ProducerConfig::default() }).unwrap();
        for _ in 0..RECORDS {
            let record = ProducerRecord::new(TOPIC, self.end.to_string());
            let written = producer.send(record).await.unwrap().await.unwrap();
            assert_eq!(written.offset, Some(Offset(self.end)));
            self.end += 1;
        }
        producer.close().await.unwrap();
    }

    async fn delete(&self, before: i64) -> Result<Offset, String> {
        let at = TopicPartition::new(TOPIC, 0);
        let wanted = BTreeMap::from([(at.clone(), RecordsToDelete::Before(Offset(before)))]);
        let mut deleted =
            self.client.admin().delete_records(&wanted).await.map_err(|error| error.to_string())?;
        deleted.remove(&at).unwrap().map_err(|error| error.to_string())
    }

    /// Where the log begins, for whoever asks.
    async fn found_begin(&self) -> i64 {
        let at = TopicPartition::new(TOPIC, 0);
        let wanted = BTreeMap::from([(at.clone(), OffsetSpec::Earliest)]);
        let found = self.client.admin().list_offsets(&wanted, IsolationLevel::ReadUncommitted).await.unwrap();
        found[&at].as_ref().unwrap().unwrap().offset.0
    }

    /// Everything from where the log begins.
    async fn read(&self) -> Vec<i64> {
        let config = ConsumerConfig { auto_offset_reset: OffsetReset::Earliest, ..ConsumerConfig::default() };
        let mut consumer = self.client.consumer(config).unwrap();
        let at = TopicPartition::new(TOPIC, 0);
        consumer.assign([at.clone()]).unwrap();
        let mut read = Vec::new();
        let end = self.env.elapsed() + PATIENCE;
        while consumer.position(&at).await.unwrap() < Offset(self.end) {
            assert!(self.env.elapsed() < end, "not all can be read: {read:?}");
            for polled in consumer.poll(Duration::from_millis(100)).await.unwrap() {
                let value = |bytes: &[u8]| std::str::from_utf8(bytes).unwrap().parse::<i64>().unwrap();
                read.extend(polled.records.iter().map(|one| value(one.value.as_ref().unwrap())));
            }
        }
        read
    }

    async fn check(&self) {
        assert_eq!(self.found_begin().await, self.begin);
        assert_eq!(self.read().await, (self.begin..self.end).collect::<Vec<_>>());
    }

    /// The power of `machines` goes, at once, and comes back.
    async fn power_cut(&self, machines: &[&Machine]) {
        machines.iter().for_each(|machine| machine.stop(true));
        if machines.len() < self.machines.len() {
            self.check().await; // whoever leads now has only what it had noted
        }
        machines.iter().for_each(|machine| machine.boot());
        self.whole().await;
    }

    /// A deletion is answered, and then the power goes: of the leader, or of all.
    async fn deleted_for_good(&mut self) {
        for round in 0..ROUNDS {
            self.whole().await;
            self.write().await;
            let before =
                self.begin + 1 + i64::try_from(self.sim.below((self.end - self.begin) as u64)).unwrap();
            assert_eq!(self.delete(before).await, Ok(Offset(before)));
            self.begin = before;
            let all: Vec<&Machine> = self.machines.iter().collect();
            let cut = if round % 2 == 0 { vec![self.leader()] } else { all };
            self.power_cut(&cut).await;
            self.check().await;
        }
    }

    /// The power goes while a deletion is under way: it is done then, or it is not.
    async fn deleted_or_not(&mut self) {
        for _ in 0..ROUNDS {
            self.whole().await;
            self.write().await;
            let before =
                self.begin + 1 + i64::try_from(self.sim.below((self.end - self.begin) as u64)).unwrap();
            let wait = Duration::from_micros(self.sim.below(20_000));
            let cut = async {
                self.env.sleep(wait).await;
                self.machines.iter().for_each(|machine| machine.stop(true));
                self.env.sleep(GLANCE).await;
                self.machines.iter().for_each(Machine::boot);
            };
            let (deleted, ()) = futures::future::join(self.delete(before), cut).await;
            self.whole().await;
            let found = self.found_begin().await;
            let done = deleted.is_ok();
            assert!(found == before || (!done && found == self.begin), "{deleted:?}: it begins at {found}");
            self.begin = found;
            self.check().await;
        }
    }
}

/// Worlds of so many nodes; in half of them every deletion is interrupted.
fn worlds(nodes: u16) {
    for seed in 0..SEEDS {
        let sim = Sim::new(seed, false);
        let world = sim.clone();
        let told = sim.run(WORLD_MAX, async move {
            let mut world = World::start(&world, nodes).await;
            if seed % 2 == 0 { world.deleted_for_good().await } else { world.deleted_or_not().await }
        });
        assert!(told.is_ok(), "seed {seed}: {told:?}");
        sim.shut_down();
    }
}

#[test]
fn what_a_single_node_deleted_stays_deleted() {
    worlds(1);
}

#[test]
fn what_three_nodes_deleted_stays_deleted_whoever_leads() {
    worlds(3);
}
