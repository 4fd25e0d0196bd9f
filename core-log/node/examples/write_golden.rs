//! Writes the golden directories as this build writes them: those of a node that is alone, and of a cluster of three.
//!
//! ```sh
//! cargo run -p millstream-node --example write_golden -- core-log/node/tests/golden/VERSION
//! ```
//! They are written once for each version of a format, and never again: what they are for is to be opened by later builds.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use millstream_client::{
    AlterConfig, Client, ClientConfig, ConfigResource, GroupMetadata, NewTopic, OffsetAndMetadata, Producer,
    ProducerConfig, ProducerRecord,
};
use millstream_env::{Env, HostRuntime};
use millstream_net::TcpDial;
use millstream_node::{Node, NodeConfig, serve};
use millstream_protocol::{Dial, Endpoint};
use millstream_record::{Offset, TopicPartition};

#[path = "../tests/golden/places.rs"]
mod places;

const PATIENCE: Duration = Duration::from_secs(90);

fn main() {
    let target = std::env::args().nth(1).expect("name the folder to write");
    let target = Path::new(&target);
    assert!(!target.exists(), "{} is there already, and stays as it is", target.display());
    let scratch = tempfile::TempDir::new().unwrap();
    let (runtime, env) = HostRuntime::start("golden", 4).unwrap();
    runtime.block_on(async {
        let dir = |name: &str| scratch.path().join(name);
        let node = start(&env, places::alone(&dir(places::ALONE))).await;
        let at = Endpoint::parse(node.local_addr().unwrap()).unwrap();
        fill(&env, vec![at], 1).await;
        node.shutdown().await.unwrap();

        let mut nodes = Vec::new();
        for id in places::MEMBERS {
            nodes.push(start(&env, places::of_cluster(&dir(&places::member(id)), id)).await);
        }
        let bootstrap = places::MEMBERS.map(|id| Endpoint::new(places::host(id), places::CLIENTS));
        fill(&env, bootstrap.into(), 3).await;
        for node in nodes {
            node.shutdown().await.unwrap();
        }
    });
    runtime.shutdown_timeout(PATIENCE);
    copy(scratch.path(), target);
}

async fn start(env: &Env, config: NodeConfig) -> Node {
    serve(env.clone(), config).await.unwrap()
}

/// Has something of everything in the logs: plain records, transactions of every outcome, offsets, settings.
async fn fill(env: &Env, bootstrap: Vec<Endpoint>, replicas: usize) {
    let dial: Arc<dyn Dial> = Arc::new(TcpDial::new(env.clone()));
    let client = Client::new(env.clone(), dial, ClientConfig::new(bootstrap));
    let admin = client.admin();
    let ready = async || {
        let brokers = admin.describe_cluster().await.map_or(0, |cluster| cluster.brokers.len());
        let voters = admin.describe_quorum().await.map_or(0, |quorum| quorum.voters.len());
        brokers == replicas && voters == replicas
    };
    let end = env.elapsed() + PATIENCE;
    while !ready().await {
        assert!(env.elapsed() < end, "the nodes do not serve");
        env.sleep(Duration::from_millis(20)).await;
    }
    let factor = Some(i16::try_from(replicas).unwrap());
    for name in ["orders", "deleted"] {
        let topic = NewTopic { replication_factor: factor, ..NewTopic::new(name, 2) };
        admin.ensure_topic(topic.with_config("retention.ms", "-1")).await.unwrap();
    }
    admin.delete_topics(&["deleted"]).await.unwrap();
    let settings = ConfigResource::Topic("orders".into());
    for bytes in 0..20 {
        let change = [AlterConfig::Set("max.message.bytes".to_owned(), (1_000_000 + bytes).to_string())];
        admin.incremental_alter_configs(&settings, &change).await.unwrap(); // more of the metadata log than a snapshot needs
    }

    let plain = client.producer(ProducerConfig::default()).unwrap();
    for number in 0..10 {
        send(&plain, number % 2, &format!("plain {number}")).await;
    }
    let begin = async |id: &str| {
        let producer = client.producer(ProducerConfig::transactional(id)).unwrap();
        producer.init_transactions().await.unwrap();
        producer.begin_transaction().unwrap();
        send(&producer, 0, id).await;
        send(&producer, 1, id).await;
        producer
    };
    let read = |orders: i64, text: &str| {
        let position = OffsetAndMetadata { metadata: text.into(), ..OffsetAndMetadata::new(Offset(orders)) };
        BTreeMap::from([(TopicPartition::new("orders", 0), position)])
    };
    let committed = begin("committed").await;
    let group = GroupMetadata::unmanaged("in a transaction");
    committed.send_offsets_to_transaction(&read(3, ""), &group).await.unwrap();
    committed.commit_transaction().await.unwrap();
    let aborted = begin("aborted").await;
    aborted.send_offsets_to_transaction(&read(4, ""), &group).await.unwrap();
    aborted.abort_transaction().await.unwrap();
    admin.alter_group_offsets("plain", &read(5, "a note")).await.unwrap();
    let _open = begin("open").await;
}

async fn send(producer: &Producer, partition: i32, value: &str) {
    let (partition, key) = (Some(partition), Some(format!("key of {value}").into()));
    let record = ProducerRecord { partition, key, ..ProducerRecord::new("orders", value.to_owned()) };
    producer.send(record).await.unwrap().await.unwrap();
}

/// Copies what a node wrote, but for the lock and what waits to be removed.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if name == ".lock" || name.ends_with(".deleted") || name.ends_with("-delete") {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to.join(name));
        } else {
            std::fs::copy(entry.path(), to.join(name)).unwrap();
        }
    }
}
