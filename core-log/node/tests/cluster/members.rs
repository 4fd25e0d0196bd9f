//! Nodes crash, come back and stop, and operators move replicas, leaders and votes.

use std::collections::BTreeMap;
use std::sync::Arc;

use millstream_client::{
    Client, ClientConfig, Delivery, Election, IsolationLevel, NewTopic, Producer, ProducerConfig,
    ProducerRecord,
};
use millstream_env::HostRuntime;
use millstream_net::TcpDial;
use millstream_protocol::ErrorCode;
use millstream_record::{NodeId, TopicPartition};

use crate::nodes::{Cluster, PARTITIONS};

const TOPIC: &str = "t";
/// Numbers that each test sends.
const NUMBERS: u32 = 1_200;

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

/// Every number is in its partition once, in order.
async fn all_is_there(cluster: &Cluster) {
    let expected = |index| (0..NUMBERS).filter(move |number| *number as i32 % PARTITIONS == index);
    let expected: BTreeMap<i32, Vec<u32>> =
        (0..PARTITIONS).map(|index| (index, expected(index).collect())).collect();
    assert_eq!(cluster.read(TOPIC, IsolationLevel::ReadCommitted, NUMBERS as usize).await, expected);
}

/// The replicas in sync of the partition that has the fewest.
async fn in_sync(cluster: &Cluster) -> usize {
    let Ok(topics) = cluster.client.admin().describe_topics(&[TOPIC]).await else { return 0 };
    let Some(Ok(topic)) = topics.get(TOPIC) else { return 0 };
    topic.partitions.iter().map(|partition| partition.in_sync.len()).min().unwrap_or(0)
}

/// Whether every partition is led by its first replica.
async fn preferred_lead(cluster: &Cluster) -> bool {
    let Ok(topics) = cluster.client.admin().describe_topics(&[TOPIC]).await else { return false };
    let Some(Ok(topic)) = topics.get(TOPIC) else { return false };
    topic.partitions.iter().all(|partition| partition.leader == partition.replicas.first().copied())
}

#[test]
fn what_is_acknowledged_outlives_a_crash_of_any_node_and_is_there_once_in_order() {
    let (runtime, env) = HostRuntime::start("cluster-test", 2).unwrap();
    runtime.block_on(async {
        let mut cluster = Cluster::start(&env, TOPIC, 3).await;
        let producer = cluster.client.producer(ProducerConfig::default()).unwrap();
        send(&producer, 0..300).await;

        let leader = cluster.leader(TOPIC, 0).await;
        cluster.crash(leader);
        send(&producer, 300..600).await;
        assert_ne!(cluster.leader(TOPIC, 0).await, leader);
        cluster.restart(leader);
        cluster.until("all are in sync after a crash", async || in_sync(&cluster).await == 3).await;
        send(&producer, 600..900).await;

        let next = cluster.leader(TOPIC, 1).await;
        cluster.stop(next);
        send(&producer, 900..NUMBERS).await;
        cluster.restart(next);
        cluster.until("all are in sync after a stop", async || in_sync(&cluster).await == 3).await;
        all_is_there(&cluster).await;
        // Who was away leads again what it was first chosen for, without anybody asking.
        cluster.until("the preferred lead", async || preferred_lead(&cluster).await).await;
    });
}

/// No node is left that knows anything but what is on its disk.
#[test]
fn what_is_acknowledged_outlives_a_crash_of_all_nodes_at_once() {
    let (runtime, env) = HostRuntime::start("cluster-test", 2).unwrap();
    runtime.block_on(async {
        let mut cluster = Cluster::start(&env, TOPIC, 3).await;
        let producer = cluster.client.producer(ProducerConfig::default()).unwrap();
        send(&producer, 0..600).await;
        let nodes = [1, 2, 3].map(NodeId);
        nodes.into_iter().for_each(|node| cluster.crash(node));
        nodes.into_iter().for_each(|node| cluster.restart(node));
        cluster.until("all are in sync again", async || in_sync(&cluster).await == 3).await;
        send(&producer, 600..NUMBERS).await;
        all_is_there(&cluster).await;
    });
}

#[test]
fn operators_move_replicas_leaders_and_votes_while_producers_write() {
    let (runtime, env) = HostRuntime::start("cluster-test", 2).unwrap();
    runtime.block_on(async {
        let cluster = Cluster::start(&env, TOPIC, 1).await;
        let admin = cluster.client.admin();
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
        // Any broker may be asked, and hears of it when it does.
        cluster.until("the preferred lead", async || preferred_lead(&cluster).await).await;
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

        all_is_there(&cluster).await;
    });
}

#[test]
fn an_operator_is_answered_when_the_broker_that_was_asked_last_is_gone() {
    let (runtime, env) = HostRuntime::start("cluster-test", 2).unwrap();
    runtime.block_on(async {
        let mut cluster = Cluster::start(&env, TOPIC, 3).await;
        cluster.until("three are in sync", async || in_sync(&cluster).await == 3).await;
        let known = NodeId(2);
        let config = ClientConfig {
            metadata_max_age_ms: 600_000,
            api_timeout_ms: 20_000,
            ..ClientConfig::new(vec![cluster.clients(known)])
        };
        let client = Client::new(env.clone(), Arc::new(TcpDial::new(env.clone())), config);
        let producer = client.producer(ProducerConfig::default()).unwrap();
        send(&producer, 0..1).await; // its metadata came from the broker that it knows, which names itself
        drop(producer); // and nobody asks again
        cluster.crash(known);
        let created = client.admin().create_topics(&[NewTopic::new("next", 1)]).await.unwrap();
        assert!(created["next"].is_ok(), "{created:?}");
    });
}
