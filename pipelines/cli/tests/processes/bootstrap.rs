//! The same file on a cluster: `--bootstrap` to our broker and to Apache Kafka, and `[log] bootstrap` in the file itself.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use millstream_client::{Client, ClientConfig, IsolationLevel, OffsetSpec};
use millstream_env::testing::private_port;
use millstream_env::{Env, HostRuntime};
use millstream_net::TcpDial;
use millstream_protocol::Endpoint;
use millstream_record::TopicPartition;

use crate::example::Example;
use crate::process::{Broker, LOOK, PATIENCE, Process, seeded};

/// The peer, when PEER_DIR says that there is one.
const PEER: &str = "127.0.0.1:19092";
/// Kills of the broker while the pipeline runs.
const BROKER_KILLS: u32 = 3;
/// Records that are acknowledged between two kills, at most. The example writes more than twice as many for each of them.
const BETWEEN_KILLS: u64 = 4_000;

/// The example on the cluster at `address`, under a name that nobody else uses there.
fn example(address: &str, name: &str) -> Example {
    Example::new(&["--bootstrap", address], |text| {
        let renamed = text.replace("name = \"flights\"", &format!("name = \"{name}\""));
        assert_ne!(renamed, text, "the example has a name");
        renamed
    })
}

/// Runs it to its end and once more.
fn check(example: &Example) {
    example.run();
    assert_eq!(example.rows(), example.expected());
    let again = example.run();
    assert!(again.starts_with("nothing new"), "{again}");
    assert_eq!(example.rows(), example.expected());
}

#[test]
fn the_pipeline_runs_on_our_broker() {
    let (runtime, env) = HostRuntime::start("test", 1).unwrap();
    runtime.block_on(async {
        let broker = Broker::start(&env).await;
        check(&example(&broker.address(), "flights-on-ours"));
    });
}

#[test]
fn a_file_may_name_the_cluster_that_it_runs_on() {
    let (runtime, env) = HostRuntime::start("test", 1).unwrap();
    runtime.block_on(async {
        let broker = Broker::start(&env).await;
        let named = |address: String, name: &str| {
            let renamed = format!("name = \"{name}\"");
            move |text: String| {
                let text = text.replace("name = \"flights\"", &renamed);
                format!("{text}\n[log]\nbootstrap = \"{address}\"\n")
            }
        };
        check(&Example::new(&[], named(broker.address(), "flights-named")));
        assert!(acknowledged(&broker.client(), "flights-named").await > 0, "it ran there");
        // What is said at the command counts more than what the file says.
        let elsewhere = format!("127.0.0.1:{}", private_port());
        check(&Example::new(&["--bootstrap", &broker.address()], named(elsewhere, "flights-told")));
        assert!(acknowledged(&broker.client(), "flights-told").await > 0);
    });
}

#[test]
fn the_pipeline_outlives_a_broker_that_is_killed() {
    let (runtime, env) = HostRuntime::start("test", 1).unwrap();
    runtime.block_on(async {
        let mut random = seeded(&env);
        let mut broker = Broker::start(&env).await;
        let example = example(&broker.address(), "flights-outlive");
        let mut process = Process::start(example.command());
        let client = broker.client();
        let mut kills = 0;
        for _ in 0..BROKER_KILLS {
            let due = acknowledged(&client, "flights-outlive").await + random.below(BETWEEN_KILLS);
            while process.ended(&env, LOOK).await.is_none() {
                if acknowledged(&client, "flights-outlive").await > due {
                    broker.kill_and_restart().await;
                    kills += 1;
                    break;
                }
            }
        }
        let ended = process.ended(&env, PATIENCE).await;
        assert!(ended.expect("the pipeline ends").success());
        assert!(kills > 0, "the pipeline was done before the broker was killed");
        check(&example);
    });
}

/// Records in the topics of a pipeline; the broker tells only of those that are durable.
async fn acknowledged(client: &Client, pipeline: &str) -> u64 {
    let admin = client.admin();
    let topics = admin.list_topics().await.unwrap();
    let ours: Vec<&str> =
        topics.iter().map(AsRef::as_ref).filter(|name| name.starts_with(pipeline)).collect();
    let described = admin.describe_topics(&ours).await.unwrap();
    let partitions = described.into_values().flatten().flat_map(|topic| {
        let at = move |(_, index)| TopicPartition::new(Arc::clone(&topic.name), index);
        topic.partitions.into_iter().zip(0..).map(at)
    });
    let wanted: BTreeMap<_, _> = partitions.map(|at| (at, OffsetSpec::Latest)).collect();
    let ends = admin.list_offsets(&wanted, IsolationLevel::ReadUncommitted).await.unwrap();
    ends.into_values().flatten().flatten().map(|end| end.offset.0.unsigned_abs()).sum()
}

#[test]
fn the_pipeline_runs_on_apache_kafka() {
    if std::env::var_os("PEER_DIR").is_none() {
        let _ = writeln!(std::io::stderr(), "not run: the flights example on Apache Kafka (set PEER_DIR)");
        return;
    }
    let (runtime, env) = HostRuntime::start("test", 1).unwrap();
    runtime.block_on(async {
        let name = format!("flights-{:x}", env.random());
        check(&example(PEER, &name));
        clean_up(&env, &name).await;
    });
}

/// Deletes what a pipeline made on a cluster that others use.
async fn clean_up(env: &Env, name: &str) {
    let config = ClientConfig::new(vec![Endpoint::parse(PEER).unwrap()]);
    let admin = Client::new(env.clone(), Arc::new(TcpDial::new(env.clone())), config).admin();
    let topics = admin.list_topics().await.unwrap();
    let ours: Vec<&str> = topics.iter().map(AsRef::as_ref).filter(|topic| topic.starts_with(name)).collect();
    assert!(!ours.is_empty());
    admin.delete_topics(&ours).await.unwrap().into_values().for_each(|deleted| deleted.unwrap());
}
