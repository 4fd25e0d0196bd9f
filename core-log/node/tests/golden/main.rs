//! Directories that builds of ours wrote (`examples/write_golden.rs`) are opened by this one and written on; what a later build wrote is
//! refused, and stays as it is. A folder is added whenever a format changes, and none is ever taken away.

mod later;
mod places;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use millstream_client::{
    Client, ClientConfig, ConfigResource, ConsumerConfig, IsolationLevel, Links, OffsetReset, ProducerConfig,
    ProducerRecord,
};
use millstream_env::testing::{PATIENCE, until};
use millstream_env::{Env, HostRuntime};
use millstream_net::TcpDial;
use millstream_node::{Node, serve};
use millstream_protocol::messages::{ApiVersionsRequest, InitProducerIdRequest};
use millstream_protocol::{Dial, Endpoint, ErrorCode};
use millstream_record::{Batches, Millis, NodeId, Offset, ProducerEpoch, ProducerId, TopicPartition, Uuid};
use millstream_storage::{LogConfig, LogDir, ReadRequest, RealDisk};
use tempfile::TempDir;

/// The folder of each version of the formats.
fn versions() -> Vec<PathBuf> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let entries = std::fs::read_dir(golden).unwrap().map(|entry| entry.unwrap().path());
    let versions: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
    assert!(versions.len() > 1);
    versions
}

/// A copy to be written on.
pub(crate) fn copy(from: &Path) -> TempDir {
    fn copy_into(from: &Path, to: &Path) {
        for entry in std::fs::read_dir(from).unwrap() {
            let (entry, to) = (entry.as_ref().unwrap(), to.join(entry.as_ref().unwrap().file_name()));
            if entry.file_type().unwrap().is_dir() {
                std::fs::create_dir(&to).unwrap();
                copy_into(&entry.path(), &to);
            } else {
                std::fs::copy(entry.path(), to).unwrap();
            }
        }
    }
    let to = TempDir::new().unwrap();
    copy_into(from, to.path());
    to
}

/// What the files say of themselves, read with nothing but storage.
struct Golden {
    cluster_id: String,
    node: NodeId,
    directory: Uuid,
    topic_id: Uuid,
    /// Who wrote each value of the topic, and in which epoch.
    producers: BTreeMap<String, (ProducerId, ProducerEpoch)>,
}

impl Golden {
    fn of(dir: &Path) -> Self {
        let dir = copy(dir);
        let dir = LogDir::open(Arc::new(RealDisk), dir.path(), 8).unwrap();
        let identity = dir.identity().unwrap().unwrap();
        let at = TopicPartition::new("orders", 0);
        let found = dir.partitions().unwrap().into_iter().find(|log| log.partition == at).unwrap();
        let topic_id = found.topic_id.unwrap();
        let (log, report) = dir.open_log(&at, topic_id, LogConfig::default(), Millis(0)).unwrap();
        assert_eq!((report.rebuilt_indexes, report.cut), (0, None), "it was closed in order");
        let request = ReadRequest {
            offset: Offset(0),
            max_bytes: 1 << 20,
            upper_bound: log.end_offset(),
            at_least_one: true,
            with_aborted: false,
        };
        let mut producers = BTreeMap::new();
        for batch in Batches::new(log.read(request).unwrap().bytes) {
            let batch = batch.unwrap();
            let (header, body) = (*batch.header(), batch.decompress(1 << 20).unwrap());
            for record in batch.records(&body).filter(|_| !header.attributes.is_control()) {
                let value = String::from_utf8(record.unwrap().value.unwrap().to_vec()).unwrap();
                producers.insert(value, (header.producer_id, header.producer_epoch));
            }
        }
        let (cluster_id, node, directory) = (identity.cluster_id, identity.node_id, identity.directory_id);
        Self { cluster_id, node, directory, topic_id, producers }
    }
}

/// What stands in a partition: all of it, and what a reader of finished transactions is given.
fn expected(partition: i32) -> (Vec<String>, Vec<String>) {
    let plain = (0..10).filter(|number| number % 2 == partition).map(|number| format!("plain {number}"));
    let with = |more: &[&str]| plain.clone().chain(more.iter().map(|&id| id.to_owned())).collect();
    (with(&["committed", "aborted", "open"]), with(&["committed"]))
}

struct World {
    env: Env,
    client: Client,
    links: Links,
    bootstrap: Vec<Endpoint>,
}

impl World {
    fn new(env: &Env, bootstrap: Vec<Endpoint>) -> Self {
        let dial: Arc<dyn Dial> = Arc::new(TcpDial::new(env.clone()));
        let links = Links::new(env.clone(), Arc::clone(&dial), "test".into(), Duration::from_secs(10));
        let client = Client::new(env.clone(), dial, ClientConfig::new(bootstrap.clone()));
        Self { env: env.clone(), client, links, bootstrap }
    }

    /// Everything that the logs say, asked for as a client asks.
    async fn is_as_it_was(&self, golden: &[Golden]) {
        let admin = self.client.admin();
        let brokers = async || admin.describe_cluster().await.map_or(0, |cluster| cluster.brokers.len());
        until(&self.env, "all serve", async || brokers().await == golden.len()).await;
        let cluster = admin.describe_cluster().await.unwrap();
        assert_eq!(cluster.cluster_id.as_deref(), Some(&*golden[0].cluster_id));
        let quorum = async || admin.describe_quorum().await.map(|quorum| quorum.voters).unwrap_or_default();
        until(&self.env, "they vote", async || !quorum().await.is_empty()).await;
        let voters: BTreeSet<_> = quorum().await.iter().map(|voter| (voter.node, voter.directory)).collect();
        let is_alone = golden.len() == 1; // then there is no quorum, and no member with a directory
        let members = golden.iter().map(|one| (one.node, if is_alone { Uuid::ZERO } else { one.directory }));
        assert_eq!(voters, members.collect());
        let names: Vec<String> = admin.list_topics().await.unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["__consumer_offsets", "__transaction_state", "orders"]);
        let described = admin.describe_topics(&["orders"]).await.unwrap();
        let orders = described["orders"].as_ref().unwrap();
        assert_eq!((orders.id, orders.partitions.len()), (golden[0].topic_id, 2));
        assert!(orders.partitions.iter().all(|partition| partition.replicas.len() == golden.len()));
        let settings = admin.describe_configs(&ConfigResource::Topic("orders".into())).await.unwrap();
        let set =
            |name: &str| settings.iter().find(|entry| &*entry.name == name).unwrap().value.clone().unwrap();
        assert_eq!((&*set("retention.ms"), &*set("max.message.bytes")), ("-1", "1000019"));
        assert_eq!(self.level("metadata.version").await, 30);
        for partition in 0..2 {
            let (all, finished) = expected(partition);
            assert_eq!(self.read(partition, IsolationLevel::ReadUncommitted, all.len()).await, all);
            assert_eq!(self.read(partition, IsolationLevel::ReadCommitted, finished.len()).await, finished);
        }
        for (group, offset, text) in [("plain", 5, "a note"), ("in a transaction", 3, "")] {
            let offsets = admin.group_offsets(group).await.unwrap();
            let found: Vec<_> =
                offsets.iter().map(|(at, one)| (at.to_string(), one.offset.0, &*one.metadata)).collect();
            assert_eq!(found, [("orders-0".to_owned(), offset, text)], "{group}");
        }
        for (id, next_epoch) in [("committed", Some(1)), ("aborted", Some(1)), ("open", None)] {
            let (producer, epoch) = self.init(id).await;
            let before = golden[0].producers[id];
            assert_eq!(producer, before.0, "{id} is known");
            assert!(epoch > before.1, "{id}: {epoch} fences {}", before.1);
            assert!(next_epoch.is_none_or(|next| epoch == ProducerEpoch(next)), "{id} had ended: {epoch}");
        }
    }

    async fn level(&self, feature: &str) -> i16 {
        let (client_software_name, client_software_version) = ("test".into(), "1".into());
        let request = ApiVersionsRequest { client_software_name, client_software_version };
        let answer = self.links.call(&self.bootstrap[0], request).await.unwrap();
        let level = answer.finalized_features.iter().find(|one| &*one.name == feature);
        level.map_or(0, |one| one.max_version_level)
    }

    /// The next epoch of a transactional id, once what it left open has ended.
    async fn init(&self, id: &str) -> (ProducerId, ProducerEpoch) {
        let given = RefCell::new(None);
        let is_taken_up = async || {
            let found = self.try_init(id).await;
            *given.borrow_mut() = found;
            found.is_some()
        };
        until(&self.env, &format!("{id} is taken up"), is_taken_up).await;
        given.into_inner().unwrap()
    }

    async fn try_init(&self, id: &str) -> Option<(ProducerId, ProducerEpoch)> {
        let admin = self.client.admin();
        let topics = admin.describe_topics(&["__transaction_state"]).await.unwrap();
        let leader = topics["__transaction_state"].as_ref().ok()?.partitions[0].leader;
        let brokers = admin.describe_cluster().await.unwrap().brokers;
        let leader = brokers.iter().find(|broker| Some(broker.node) == leader)?;
        let request = InitProducerIdRequest {
            transactional_id: Some(id.into()),
            transaction_timeout_ms: 60_000,
            ..InitProducerIdRequest::default()
        };
        let answer = self.links.call(&leader.endpoint, request).await.unwrap();
        if answer.error_code == 0 {
            return Some((ProducerId(answer.producer_id), ProducerEpoch(answer.producer_epoch)));
        }
        let code = ErrorCode::from_code(answer.error_code);
        let waits = [
            ErrorCode::ConcurrentTransactions,
            ErrorCode::CoordinatorNotAvailable,
            ErrorCode::CoordinatorLoadInProgress,
            ErrorCode::NotCoordinator,
        ];
        assert!(waits.contains(&code), "{id}: {code}");
        None
    }

    /// The values in a partition, each with the key that it was sent with, once there are `count`.
    async fn read(&self, partition: i32, isolation_level: IsolationLevel, count: usize) -> Vec<String> {
        let auto_offset_reset = OffsetReset::Earliest;
        let config = ConsumerConfig { auto_offset_reset, isolation_level, ..ConsumerConfig::default() };
        let mut consumer = self.client.consumer(config).unwrap();
        consumer.assign([TopicPartition::new("orders", partition)]).unwrap();
        let (mut read, end) = (Vec::new(), self.env.elapsed() + PATIENCE);
        while read.len() < count {
            assert!(self.env.elapsed() < end, "{partition}: {read:?} within {PATIENCE:?}");
            let polled = consumer.poll(Duration::from_millis(200)).await.unwrap();
            for record in polled.into_iter().flat_map(|polled| polled.records) {
                let value = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
                assert_eq!(record.key.unwrap(), format!("key of {value}"));
                read.push(value);
            }
        }
        read
    }

    /// It is no museum: records and transactions go on where they were.
    async fn is_written_on(&self) {
        let producer = self.client.producer(ProducerConfig::transactional("committed")).unwrap();
        producer.init_transactions().await.unwrap();
        producer.begin_transaction().unwrap();
        let key = Some("key of more".into());
        let record = ProducerRecord { partition: Some(0), key, ..ProducerRecord::new("orders", "more") };
        let sent = producer.send(record).await.unwrap();
        producer.commit_transaction().await.unwrap();
        sent.await.unwrap();
        let (_, mut finished) = expected(0);
        finished.push("more".to_owned());
        assert_eq!(self.read(0, IsolationLevel::ReadCommitted, finished.len()).await, finished);
    }
}

/// The files of a directory and of what is in it, by their paths.
fn files(dir: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_dir() {
            names.extend(files(&entry.path()).into_iter().map(|file| format!("{name}/{file}")));
        } else {
            names.insert(name);
        }
    }
    names
}

/// The golden directories have what they are for.
fn has(dir: &Path, wanted: &[&str]) {
    let files = files(dir);
    for wanted in wanted {
        let (folder, suffix) = wanted.split_once('*').unwrap_or((wanted, ""));
        let found = files.iter().any(|file| file.starts_with(folder) && file.ends_with(suffix));
        assert!(found, "{}: no {wanted} among {files:?}", dir.display());
    }
}

const EVERYWHERE: &[&str] = &[
    "meta.properties",
    ".kafka_cleanshutdown",
    "recovery-point-offset-checkpoint",
    "log-start-offset-checkpoint",
    "replication-offset-checkpoint",
    "orders-0/partition.metadata",
    "orders-0/leader-epoch-checkpoint",
    "orders-0/*.log",
    "orders-0/*.snapshot",
    "orders-0/*.txnindex",
    "__cluster_metadata-0/*.log",
];

/// What a crash leaves out: that the end was in order, and what only a close writes.
fn crash(dir: &Path) {
    std::fs::remove_file(dir.join(".kafka_cleanshutdown")).unwrap();
    std::fs::write(dir.join("recovery-point-offset-checkpoint"), "0\n0\n").unwrap();
    for file in files(dir).iter().filter(|file| file.ends_with(".snapshot") || file.ends_with("index")) {
        std::fs::remove_file(dir.join(file)).unwrap();
    }
}

#[test]
fn a_node_that_was_alone_has_all_that_it_had() {
    let (runtime, env) = HostRuntime::start("golden", 2).unwrap();
    runtime.block_on(async {
        for version in versions() {
            let alone = version.join(places::ALONE);
            has(&alone, EVERYWHERE);
            has(
                &alone,
                &["__consumer_offsets-0/coordinator.snapshot", "__transaction_state-0/coordinator.snapshot"],
            );
            for crashed in [false, true] {
                let (golden, dir) = (Golden::of(&alone), copy(&alone));
                if crashed {
                    crash(dir.path());
                }
                let node = serve(env.clone(), places::alone(dir.path())).await.unwrap();
                let world = World::new(&env, vec![Endpoint::parse(node.local_addr().unwrap()).unwrap()]);
                world.is_as_it_was(&[golden]).await;
                world.is_written_on().await;
                node.shutdown().await.unwrap();
            }
        }
    });
}

/// Elsewhere a loopback has one address, and the members are where nobody can listen.
#[cfg(target_os = "linux")]
#[test]
fn a_cluster_of_three_has_all_that_it_had() {
    let (runtime, env) = HostRuntime::start("golden", 4).unwrap();
    runtime.block_on(async {
        let versions = versions();
        assert!(versions.iter().any(|version| begins_with_a_snapshot(version)));
        for version in versions {
            let dirs = places::MEMBERS.map(|id| version.join(places::member(id)));
            for dir in &dirs {
                has(dir, EVERYWHERE);
                has(dir, &["__cluster_metadata-0/quorum-vote"]);
            }
            let golden: Vec<Golden> = dirs.iter().map(|dir| Golden::of(dir)).collect();
            let copies = dirs.each_ref().map(|dir| copy(dir));
            let mut nodes: Vec<Node> = Vec::new();
            for (dir, id) in copies.iter().zip(places::MEMBERS) {
                free(&env, id).await;
                nodes.push(serve(env.clone(), places::of_cluster(dir.path(), id)).await.unwrap());
            }
            let bootstrap = places::MEMBERS.map(|id| Endpoint::new(places::host(id), places::CLIENTS));
            let world = World::new(&env, bootstrap.into());
            world.is_as_it_was(&golden).await;
            world.is_written_on().await;
            drop(nodes);
        }
    });
}

/// Whether the members' metadata logs were cut down to a snapshot, which the first builds did not do for so few records.
pub(crate) fn begins_with_a_snapshot(version: &Path) -> bool {
    places::MEMBERS.iter().all(|id| {
        let files = files(&version.join(places::member(*id)));
        let is_snapshot =
            |file: &String| file.starts_with("__cluster_metadata-0/") && file.ends_with(".checkpoint");
        files.iter().any(is_snapshot) && !files.contains("__cluster_metadata-0/00000000000000000000.log")
    })
}

/// Waits until a member's addresses are free: another run of this test may be at work.
async fn free(env: &Env, id: i32) {
    let is_free = |port| TcpListener::bind((places::host(id).as_str(), port)).is_ok();
    let are_free = async || [places::CLIENTS, places::CONTROLLERS].into_iter().all(is_free);
    until(env, &format!("nobody listens on {}", places::host(id)), are_free).await;
}
