//! Logs that somebody takes away from a node that others count on.

use std::path::Path;
use std::time::Duration;

use millstream_client::{ConsumerConfig, NewTopic, OffsetReset, ProducerConfig, ProducerRecord};
use millstream_env::HostRuntime;
use millstream_env::testing::PATIENCE;
use millstream_record::{NodeId, TopicPartition};

use crate::nodes::Cluster;

const TOPIC: &str = "lost";
const RECORDS: usize = 20;

/// A topic of one partition with two replicas, the leader first, and records in both.
async fn written(cluster: &Cluster, min_in_sync: &str) -> (NodeId, NodeId) {
    let topic = NewTopic { replication_factor: Some(2), ..NewTopic::new(TOPIC, 1) }
        .with_config("min.insync.replicas", min_in_sync);
    let topic = cluster.client.admin().ensure_topic(topic).await.unwrap();
    let [first, second] = topic.partitions[0].replicas[..] else { panic!("{topic:?}") };
    let producer = cluster.client.producer(ProducerConfig::default()).unwrap();
    for number in 0..RECORDS {
        let record = ProducerRecord::new(TOPIC, number.to_string());
        producer.send(record).await.unwrap().await.unwrap();
    }
    (first, second)
}

/// The leader, and who is in sync.
async fn standing(cluster: &Cluster) -> Option<(Option<NodeId>, Vec<NodeId>)> {
    let topics = cluster.client.admin().describe_topics(&[TOPIC]).await.ok()?;
    let partition = topics.get(TOPIC)?.as_ref().ok()?.partitions.first()?;
    Some((partition.leader, partition.in_sync.clone()))
}

/// Of three nodes, `gone` does not run.
async fn until_others_serve(cluster: &Cluster, gone: NodeId) {
    let others: Vec<NodeId> = (1..=3).map(NodeId).filter(|node| *node != gone).collect();
    let brokers = async || {
        let described = cluster.client.admin().describe_cluster().await;
        let brokers =
            described.map(|cluster| cluster.brokers.into_iter().map(|broker| broker.node).collect());
        brokers.map_or_else(
            |_| Vec::new(),
            |mut brokers: Vec<NodeId>| {
                brokers.sort_unstable();
                brokers
            },
        )
    };
    cluster.until("those serve that run", async || brokers().await == others).await;
}

async fn all_is_read(cluster: &Cluster) {
    let auto_offset_reset = OffsetReset::Earliest;
    let config = ConsumerConfig { auto_offset_reset, ..ConsumerConfig::default() };
    let mut consumer = cluster.client.consumer(config).unwrap();
    consumer.assign(vec![TopicPartition::new(TOPIC, 0)]).unwrap();
    let (mut read, end) = (0, cluster.env.elapsed() + PATIENCE);
    while read < RECORDS {
        assert!(cluster.env.elapsed() < end, "acknowledged records are lost: {read} of {RECORDS} are there");
        let polled = consumer.poll(Duration::from_millis(200)).await.unwrap();
        read += polled.iter().map(|polled| polled.records.len()).sum::<usize>();
    }
}

/// As who mends a file system does: the directory stays, with the topic's id, and what was in it is elsewhere.
fn empty(log: &Path) {
    for entry in std::fs::read_dir(log).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != "partition.metadata" {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
}

#[test]
fn an_eligible_replica_whose_log_was_deleted_is_eligible_no_more() {
    is_eligible_no_more_without(|log| std::fs::remove_dir_all(log).unwrap());
}

#[test]
fn an_eligible_replica_whose_log_was_emptied_is_eligible_no_more() {
    is_eligible_no_more_without(empty);
}

fn is_eligible_no_more_without(take: impl Fn(&Path)) {
    let (runtime, env) = HostRuntime::start("lost", 2).unwrap();
    runtime.block_on(async {
        let mut cluster = Cluster::start(&env, "other", 1).await;
        let (first, second) = written(&cluster, "2").await;
        cluster.crash(second);
        let alone = async || standing(&cluster).await.is_some_and(|(_, in_sync)| in_sync == [first]);
        cluster.until("who is gone is not in sync", async || alone().await).await;
        cluster.crash(first);
        let log = cluster.dir(second).join(format!("{TOPIC}-0"));
        take(&log);
        cluster.restart(second);
        until_others_serve(&cluster, first).await;
        assert_eq!(
            standing(&cluster).await.unwrap().0,
            None,
            "nobody leads who misses what was acknowledged"
        );
        cluster.restart(first);
        if log.exists() {
            let leads = async || standing(&cluster).await.is_some_and(|(leader, _)| leader == Some(first));
            cluster.until("who has it leads", async || leads().await).await;
            cluster.crash(second);
            std::fs::remove_dir_all(&log).unwrap();
            cluster.restart(second);
        }
        let both = async || standing(&cluster).await.is_some_and(|(_, in_sync)| in_sync.len() == 2);
        cluster.until("it is copied again", async || both().await).await;
        all_is_read(&cluster).await;
    });
}

#[test]
fn the_only_replica_in_sync_does_not_lead_without_its_log_and_does_once_that_is_back() {
    let (runtime, env) = HostRuntime::start("lost", 2).unwrap();
    runtime.block_on(async {
        let mut cluster = Cluster::start(&env, "other", 1).await;
        let (first, second) = written(&cluster, "1").await;
        cluster.stop(second);
        let alone = async || standing(&cluster).await.is_some_and(|(_, in_sync)| in_sync == [first]);
        cluster.until("who is gone is not in sync", async || alone().await).await;
        let (log, backup) =
            (cluster.dir(first).join(format!("{TOPIC}-0")), cluster.dir(first).join("backup"));
        cluster.crash(first);
        std::fs::rename(&log, &backup).unwrap();
        for _ in 0..2 {
            cluster.restart(first);
            until_others_serve(&cluster, second).await;
            let nobody = async || standing(&cluster).await.is_some_and(|(leader, _)| leader.is_none());
            cluster.until("nobody leads", async || nobody().await).await;
            assert!(!log.exists(), "no empty log stands in for the one that is gone");
            cluster.crash(first);
        }
        std::fs::rename(&backup, &log).unwrap();
        cluster.restart(first);
        let leads = async || standing(&cluster).await.is_some_and(|(leader, _)| leader == Some(first));
        cluster.until("it leads with what it had", async || leads().await).await;
        all_is_read(&cluster).await;
        cluster.restart(second);
        let both = async || standing(&cluster).await.is_some_and(|(_, in_sync)| in_sync.len() == 2);
        cluster.until("the other is copied", async || both().await).await;
    });
}

#[test]
fn a_topic_that_is_created_again_under_the_name_of_a_lost_log_is_led() {
    let (runtime, env) = HostRuntime::start("lost", 2).unwrap();
    runtime.block_on(async {
        for take in [(|log| std::fs::remove_dir_all(log).unwrap()) as fn(&Path), empty] {
            let mut cluster = Cluster::start(&env, "other", 1).await;
            let (first, second) = written(&cluster, "1").await;
            cluster.stop(second);
            let alone = async || standing(&cluster).await.is_some_and(|(_, in_sync)| in_sync == [first]);
            cluster.until("who is gone is not in sync", async || alone().await).await;
            cluster.crash(first);
            take(&cluster.dir(first).join(format!("{TOPIC}-0")));
            cluster.restart(first);
            until_others_serve(&cluster, second).await;
            let nobody = async || standing(&cluster).await.is_some_and(|(leader, _)| leader.is_none());
            cluster.until("nobody leads", async || nobody().await).await;
            cluster.restart(second);

            cluster.client.admin().delete_topics(&[TOPIC]).await.unwrap();
            let is_gone = async || standing(&cluster).await.is_none();
            cluster.until("the topic is gone", async || is_gone().await).await;
            for round in ["as it was left", "after another start"] {
                let topic = NewTopic { replication_factor: Some(3), ..NewTopic::new(TOPIC, 1) };
                cluster.client.admin().ensure_topic(topic).await.unwrap();
                let all = async || {
                    standing(&cluster)
                        .await
                        .is_some_and(|(leader, in_sync)| leader.is_some() && in_sync.len() == 3)
                };
                cluster.until(round, async || all().await).await;
                cluster.stop(first);
                cluster.restart(first);
            }
        }
    });
}
