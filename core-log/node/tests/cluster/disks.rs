//! Disks that fill up.

use millstream_client::{IsolationLevel, ProducerConfig, ProducerRecord};
use millstream_env::{Env, HostRuntime};
use millstream_node::NodeError;
use millstream_record::NodeId;

use crate::nodes::{Cluster, PARTITIONS, send};

const TOPIC: &str = "filled";
/// The node that founds a cluster leads its metadata.
const FOUNDER: NodeId = NodeId(1);

/// A partition that the founder leads, or that it does not lead.
async fn partition(cluster: &Cluster, is_led_by_founder: bool) -> (i32, NodeId) {
    for index in 0..PARTITIONS {
        let leader = cluster.leader(TOPIC, index).await;
        if (leader == FOUNDER) == is_led_by_founder {
            return (index, leader);
        }
    }
    panic!("leaders are spread over all nodes");
}

/// Fills the disk of a leader under a producer that is new to it: of such a one a leader takes any number, also that behind a gap.
async fn fill_a_disk(env: &Env, of_founder: bool) {
    let mut cluster = Cluster::start(env, TOPIC, 3).await;
    let producer = cluster.client.producer(ProducerConfig { linger_ms: 0, ..Default::default() }).unwrap();
    let (index, victim) = partition(&cluster, of_founder).await;
    cluster.fill_disk(victim, &format!("{TOPIC}-{index}/00000000000000000000.log"));
    let mut sent = Vec::new();
    for number in 0..200 {
        let record =
            ProducerRecord { partition: Some(index), ..ProducerRecord::new(TOPIC, number.to_string()) };
        sent.push(producer.send(record).await.unwrap());
    }
    let failure = cluster.failure(victim).await;
    assert!(matches!(failure, NodeError::Offline { node, .. } if node == victim), "{failure}");
    assert!(failure.to_string().contains("free space"), "{failure}");
    if of_founder {
        cluster.crash(victim); // as the program ends then
    }
    for delivery in sent {
        delivery.await.unwrap();
    }
    assert_ne!(cluster.leader(TOPIC, index).await, victim);
    let read = cluster.read(TOPIC, IsolationLevel::ReadCommitted, 200).await;
    assert_eq!(read[&index], (0..200).collect::<Vec<_>>());

    // Started again, with room on its disk, it is in the set as ever.
    cluster.crash(victim);
    cluster.restart(victim);
    let in_sync = async || {
        let topics = cluster.client.admin().describe_topics(&[TOPIC]).await.ok()?;
        let partitions = &topics.get(TOPIC)?.as_ref().ok()?.partitions;
        Some(partitions.iter().all(|partition| partition.in_sync.contains(&victim)))
    };
    cluster.until("it is in sync again", async || in_sync().await == Some(true)).await;
    send(&producer, TOPIC, 200).await;
    let read = cluster.read(TOPIC, IsolationLevel::ReadCommitted, 202 + 1).await;
    assert_eq!(read[&index], (0..=200).collect::<Vec<_>>());
}

/// No session ends within this test's patience, and the node lives on: others lead because it says that its disk has failed.
#[test]
fn a_leader_whose_disk_is_full_gives_way_and_its_producers_neither_stall_nor_lose_their_order() {
    let (runtime, env) = HostRuntime::start("disks", 2).unwrap();
    runtime.block_on(fill_a_disk(&env, false));
}

/// It has nobody to tell, since its metadata is on the same disk; its end tells it.
#[test]
fn so_does_one_that_leads_the_metadata_too() {
    let (runtime, env) = HostRuntime::start("disks", 2).unwrap();
    runtime.block_on(fill_a_disk(&env, true));
}
