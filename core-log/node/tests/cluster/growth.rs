//! One node becomes three, loses disks on the way, and is one again: nothing is lost, and writers go on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use millstream_client::{
    Admin, Client, ClientConfig, ConsumerConfig, NewTopic, OffsetReset, ProducerConfig, ProducerRecord,
};
use millstream_env::HostRuntime;
use millstream_env::testing::{PATIENCE, until};
use millstream_net::TcpDial;
use millstream_protocol::Endpoint;
use millstream_record::{NodeId, TopicPartition};

use crate::lone::{Lone, Lones, with};

const TOPIC: &str = "kept";

/// What a node is told that is, or is to be, one of several; `others` are controllers that are there already.
pub(crate) fn member(own: u16, others: &[u16]) -> Vec<(&'static str, String)> {
    let known = if others.is_empty() { &[own] } else { others };
    let known: Vec<String> = known.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    vec![
        ("listeners", "CLIENTS,CONTROLLERS".to_owned()),
        ("controller.listener.names", "CONTROLLER".to_owned()),
        ("controller.quorum.bootstrap.servers", known.join(",")),
        ("controller.quorum.auto.join.enable", (!others.is_empty()).to_string()),
    ]
}

/// Moves the topic to `replicas`, and waits until they are all in sync, and nobody else is.
async fn moved(env: &millstream_env::Env, admin: &Admin, replicas: &[i32]) {
    let target: Vec<NodeId> = replicas.iter().map(|id| NodeId(*id)).collect();
    let wanted = BTreeMap::from([(TopicPartition::new(TOPIC, 0), Some(target.clone()))]);
    let asked = async || {
        let asked = admin.alter_reassignments(&wanted).await;
        asked.is_ok_and(|asked| asked.values().all(Result::is_ok))
    };
    until(env, "the move is taken up", asked).await;
    let settled = async || {
        let Ok(topics) = admin.describe_topics(&[TOPIC]).await else { return false };
        let Some(Ok(topic)) = topics.get(TOPIC) else { return false };
        let one = &topic.partitions[0];
        one.replicas == target && one.in_sync.len() == target.len() && one.leader.is_some()
    };
    until(env, "the move is done", settled).await;
}

#[test]
fn one_node_grows_to_three_and_shrinks_back_under_load() {
    let (runtime, env) = HostRuntime::start("growth", 2).unwrap();
    runtime.block_on(async {
        let mut nodes: Lones = (1..=3).map(|id| (id, Lone::new(id))).collect();
        let port = |nodes: &Lones, id: i32| nodes[&id].controllers;
        // Alone, without a quorum; what it keeps then is all of it when it becomes a voter.
        with(&mut nodes, 1, |node| node.start(&[("listeners", "CLIENTS".to_owned())]));
        let bootstrap = (1..=3).map(|id| Endpoint::new("127.0.0.1", nodes[&id].clients)).collect();
        let config = ClientConfig { metadata_max_age_ms: 1_000, ..ClientConfig::new(bootstrap) };
        let client = Client::new(env.clone(), Arc::new(TcpDial::new(env.clone())), config);
        let admin = client.admin();
        admin
            .ensure_topic(NewTopic { replication_factor: Some(1), ..NewTopic::new(TOPIC, 1) })
            .await
            .unwrap();

        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let producer = client.producer(ProducerConfig::default()).unwrap();
        let (done, written) = futures::channel::oneshot::channel();
        let writing = env.spawn("writer", async move {
            let mut number = 0_u32;
            while !stopping.load(Ordering::SeqCst) {
                let record = ProducerRecord::new(TOPIC, number.to_string());
                producer.send(record).await.unwrap().await.unwrap();
                number += 1;
            }
            let _ = done.send(number); // who waits for it is there until the end
        });

        with(&mut nodes, 1, Lone::stop);
        let first = port(&nodes, 1);
        with(&mut nodes, 1, move |node| node.start(&member(first, &[])));
        for id in 2..=3 {
            let own = port(&nodes, id);
            with(&mut nodes, id, move |node| node.start(&member(own, &[first])));
        }
        let voters = async || admin.describe_quorum().await.map_or(0, |quorum| quorum.voters.len());
        let brokers = async || admin.describe_cluster().await.map_or(0, |cluster| cluster.brokers.len());
        until(&env, "three vote and serve", async || voters().await == 3 && brokers().await == 3).await;
        moved(&env, &admin, &[1, 2, 3]).await;

        // The first node, which founded it all, loses its disk.
        let founder = async || {
            let quorum = admin.describe_quorum().await.ok()?;
            quorum.voters.iter().find(|voter| voter.node == NodeId(1)).map(|voter| voter.directory)
        };
        let lost = founder().await.expect("the founder votes");
        let others = [port(&nodes, 2), port(&nodes, 3)];
        with(&mut nodes, 1, move |node| {
            node.wipe();
            node.start(&member(first, &others));
        });
        moved(&env, &admin, &[2, 3, 1]).await;
        // The member of the lost disk goes on being one until the new one takes its place.
        let is_new = async || founder().await.is_some_and(|directory| directory != lost);
        until(&env, "three vote again", async || voters().await == 3 && is_new().await).await;

        // Back to one: replicas go first, then votes, then the nodes.
        moved(&env, &admin, &[3]).await;
        for id in 1..=2 {
            let quorum = admin.describe_quorum().await.unwrap();
            let voter = quorum.voters.iter().find(|voter| voter.node == NodeId(id)).unwrap();
            admin.remove_voter(NodeId(id), voter.directory).await.unwrap();
            with(&mut nodes, id, Lone::stop);
            until(&env, "it is forgotten", async || admin.unregister_broker(NodeId(id)).await.is_ok()).await;
        }
        until(&env, "one votes and serves", async || voters().await == 1 && brokers().await == 1).await;

        stop.store(true, Ordering::SeqCst);
        let written = written.await.expect("no write failed");
        drop(writing);
        let auto_offset_reset = OffsetReset::Earliest;
        let mut consumer =
            client.consumer(ConsumerConfig { auto_offset_reset, ..ConsumerConfig::default() }).unwrap();
        consumer.assign([TopicPartition::new(TOPIC, 0)]).unwrap();
        let mut read = Vec::new();
        let end = env.elapsed() + PATIENCE;
        while read.len() < written as usize {
            assert!(env.elapsed() < end, "{} of {written} are read", read.len());
            for polled in consumer.poll(std::time::Duration::from_millis(200)).await.unwrap() {
                let number = |value: &[u8]| std::str::from_utf8(value).unwrap().parse::<u32>().unwrap();
                read.extend(polled.records.iter().map(|record| number(record.value.as_ref().unwrap())));
            }
        }
        assert_eq!(read, (0..written).collect::<Vec<_>>(), "each once, in order");
    });
}
