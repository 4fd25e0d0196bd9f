//! The example as a user runs it: a process with a broker of its own, and one on a cluster that is there already.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use millstream_client::{Client, ClientConfig, ConsumerConfig, OffsetReset, ProducerConfig, ProducerRecord};
use millstream_env::testing::private_port;
use millstream_env::{Env, HostRuntime};
use millstream_net::TcpDial;
use millstream_node::{EmbeddedConfig, embedded};
use millstream_protocol::Endpoint;
use millstream_record::TopicPartition;

const PATIENCE: Duration = Duration::from_secs(60);

/// Ends the example with the test, also when that fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it may have ended by itself
        let _ = self.0.wait();
    }
}

fn start(args: &[&str]) -> Running {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millstream-example-wordcount"));
    Running(command.args(args).stdin(Stdio::null()).spawn().unwrap())
}

fn client(env: &Env, address: &str) -> Client {
    let servers = vec![Endpoint::parse(address).unwrap()];
    Client::new(env.clone(), Arc::new(TcpDial::new(env.clone())), ClientConfig::new(servers))
}

/// Waits until somebody listens there and the topics are made.
async fn wait_for_topics(env: &Env, address: &str) {
    let began = env.elapsed();
    loop {
        let admin = client(env, address).admin();
        let described = env.timeout(PATIENCE, admin.describe_topics(&["lines", "counts"])).await.unwrap();
        if described.is_ok_and(|topics| topics.values().all(Result::is_ok)) {
            return;
        }
        assert!(env.elapsed() - began < PATIENCE, "the example did not start");
        env.sleep(Duration::from_millis(20)).await;
    }
}

/// Writes two lines, and waits until the counts are theirs.
async fn check(env: &Env, address: &str) {
    wait_for_topics(env, address).await;
    let client = client(env, address);
    let producer = client.producer(ProducerConfig::default()).unwrap();
    for line in ["To be or not to be", "that is the question to be"] {
        producer.send(ProducerRecord::new("lines", line)).await.unwrap().await.unwrap();
    }
    let config = ConsumerConfig { auto_offset_reset: OffsetReset::Earliest, ..ConsumerConfig::default() };
    let mut consumer = client.consumer(config).unwrap();
    consumer.assign([TopicPartition::new("counts", 0)]).unwrap();
    let words = ["be", "is", "not", "or", "question", "that", "the", "to"].map(str::to_owned);
    let expected: BTreeMap<_, _> = words.into_iter().zip([3, 1, 1, 1, 1, 1, 1, 3]).collect();
    let mut counts = BTreeMap::new();
    let began = env.elapsed();
    while counts != expected {
        assert!(env.elapsed() - began < PATIENCE, "{counts:?}");
        let batches = consumer.poll(Duration::from_millis(100)).await.unwrap();
        for record in batches.into_iter().flat_map(|batch| batch.records) {
            let text = |bytes: Option<bytes::Bytes>| String::from_utf8(bytes.unwrap().to_vec()).unwrap();
            counts.insert(text(record.key), text(record.value).parse::<i32>().unwrap());
        }
    }
}

#[test]
fn it_counts_words_on_a_broker_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let address = format!("127.0.0.1:{}", private_port());
    let _example = start(&["--data", dir.path().to_str().unwrap(), "--listen", &address]);
    let (runtime, env) = HostRuntime::start("test", 1).unwrap();
    runtime.block_on(check(&env, &address));
}

#[test]
fn it_counts_words_on_a_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let (runtime, env) = HostRuntime::start("test", 2).unwrap();
    runtime.block_on(async {
        let config = EmbeddedConfig::new(dir.path().join("log")).with("listeners", "PLAINTEXT://127.0.0.1:0");
        let cluster = embedded(config).await.unwrap();
        let address = cluster.node().local_addr().unwrap().to_owned();
        let data = dir.path().join("data");
        let _example = start(&["--data", data.to_str().unwrap(), "--bootstrap", &address]);
        check(&env, &address).await;
    });
}

#[test]
fn it_counts_words_on_apache_kafka() {
    const PEER: &str = "127.0.0.1:19092";
    if std::env::var_os("PEER_DIR").is_none() {
        let _ = writeln!(std::io::stderr(), "not run: wordcount on Apache Kafka (set PEER_DIR)");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (runtime, env) = HostRuntime::start("test", 1).unwrap();
    runtime.block_on(async {
        forget_earlier_runs(&env, PEER).await;
        let _example = start(&["--data", dir.path().to_str().unwrap(), "--bootstrap", PEER]);
        check(&env, PEER).await;
    });
}

/// Deletes the example's topics, and waits until they are gone.
async fn forget_earlier_runs(env: &Env, address: &str) {
    const TOPICS: [&str; 4] =
        ["lines", "counts", "wordcount-by-word-repartition", "wordcount-word-counts-changelog"];
    let admin = client(env, address).admin();
    let began = env.elapsed();
    while admin.describe_topics(&TOPICS).await.unwrap().values().any(Result::is_ok) {
        assert!(env.elapsed() - began < PATIENCE, "the topics of an earlier run do not go");
        admin.delete_topics(&TOPICS).await.unwrap();
        env.sleep(Duration::from_millis(50)).await;
    }
    let _ = admin.delete_group("wordcount").await; // there is none after the first run
}
