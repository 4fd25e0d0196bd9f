//! The same file on a cluster: `--bootstrap` to our broker and to Apache Kafka.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use millstream_client::{Client, ClientConfig};
use millstream_env::{Env, HostRuntime};
use millstream_net::TcpDial;
use millstream_protocol::Endpoint;

use crate::example::Example;
use crate::process::{Broker, PATIENCE, Process, seeded};

/// The peer, when PEER_DIR says that there is one.
const PEER: &str = "127.0.0.1:19092";
/// Kills of the broker while the pipeline runs.
const BROKER_KILLS: u32 = 3;

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
fn the_pipeline_outlives_a_broker_that_is_killed() {
    let (runtime, env) = HostRuntime::start("test", 1).unwrap();
    runtime.block_on(async {
        let mut random = seeded(&env);
        let mut broker = Broker::start(&env).await;
        let example = example(&broker.address(), "flights-outlive");
        let mut process = Process::start(example.command());
        for _ in 0..BROKER_KILLS {
            let moment = Duration::from_millis(random.below(1_500));
            if process.ended(&env, moment).await.is_none() {
                broker.kill_and_restart().await;
            }
        }
        let ended = process.ended(&env, PATIENCE).await;
        assert!(ended.expect("the pipeline ends").success());
        check(&example);
    });
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
