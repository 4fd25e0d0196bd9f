//! Nodes that are controllers only and nodes that are brokers only form one cluster.

use std::sync::Arc;

use millstream_client::{Client, ClientConfig, NewTopic, ProducerConfig, ProducerRecord};
use millstream_env::HostRuntime;
use millstream_env::testing::until;
use millstream_net::TcpDial;
use millstream_protocol::Endpoint;

use crate::lone::{Lone, Lones, with};

/// What a node is told that has one role.
pub(crate) fn properties(role: &str, controllers: &str) -> Vec<(&'static str, String)> {
    let listeners = if role == "controller" { "CONTROLLERS" } else { "CLIENTS" };
    vec![
        ("process.roles", role.to_owned()),
        ("listeners", listeners.to_owned()),
        ("controller.listener.names", "CONTROLLER".to_owned()),
        ("controller.quorum.bootstrap.servers", controllers.to_owned()),
        ("controller.quorum.auto.join.enable", "true".to_owned()),
        ("default.replication.factor", "2".to_owned()),
    ]
}

#[test]
fn controllers_and_brokers_live_apart() {
    let (runtime, env) = HostRuntime::start("roles", 2).unwrap();
    runtime.block_on(async {
        let mut nodes: Lones = (1..=5).map(|id| (id, Lone::new(id))).collect();
        let founder = format!("127.0.0.1:{}", nodes[&1].controllers);
        let all: Vec<String> = (1..=3).map(|id| format!("127.0.0.1:{}", nodes[&id].controllers)).collect();
        let all = all.join(",");
        for id in 1..=5 {
            let told = if id <= 3 { properties("controller", &founder) } else { properties("broker", &all) };
            with(&mut nodes, id, move |node| node.start(&told));
        }
        let bootstrap = (4..=5).map(|id| Endpoint::new("127.0.0.1", nodes[&id].clients)).collect();
        let config = ClientConfig { metadata_max_age_ms: 1_000, ..ClientConfig::new(bootstrap) };
        let client = Client::new(env.clone(), Arc::new(TcpDial::new(env.clone())), config);
        let admin = client.admin();
        let voters = async || {
            let quorum = admin.describe_quorum().await;
            quorum.map_or(0, |quorum| quorum.voters.len())
        };
        let brokers = async || admin.describe_cluster().await.map_or(0, |cluster| cluster.brokers.len());
        until(&env, "three vote", async || voters().await == 3).await;
        until(&env, "two serve", async || brokers().await == 2).await;
        let topic = NewTopic { replication_factor: Some(2), ..NewTopic::new("before", 2) };
        admin.ensure_topic(topic).await.unwrap();
        let producer = client.producer(ProducerConfig::default()).unwrap();
        let send = async |topic: &str, number: u32| {
            let record = ProducerRecord::new(topic, number.to_string());
            producer.send(record).await.unwrap().await.unwrap();
        };
        send("before", 1).await;

        // The active controller dies: another decides, and the brokers find it.
        let active = admin.describe_quorum().await.unwrap().leader.unwrap();
        with(&mut nodes, active.0, Lone::crash);
        let topic = NewTopic { replication_factor: Some(2), ..NewTopic::new("after", 2) };
        admin.ensure_topic(topic).await.unwrap();
        send("after", 2).await;
        let told = properties("controller", &all);
        with(&mut nodes, active.0, move |node| node.start(&told));

        // A broker goes in order, and comes back: it has no log of its own, and reads all of it anew.
        with(&mut nodes, 4, Lone::stop);
        send("after", 3).await;
        let told = properties("broker", &all);
        with(&mut nodes, 4, move |node| node.start(&told));
        let in_sync = async |topic: &str| {
            let described = admin.describe_topics(&[topic]).await;
            let described = described.ok().and_then(|mut topics| topics.remove(topic)?.ok());
            described.is_some_and(|topic| topic.partitions.iter().all(|one| one.in_sync.len() == 2))
        };
        until(&env, "both are in sync", async || in_sync("before").await && in_sync("after").await).await;
        with(&mut nodes, 5, Lone::crash);
        send("before", 4).await;
        until(&env, "three vote again", async || voters().await == 3).await;
    });
}
