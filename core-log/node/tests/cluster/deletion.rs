//! Records that are deleted on request, from three replicas.

use std::collections::BTreeMap;

use millstream_client::{IsolationLevel, NewTopic, OffsetSpec, ProducerConfig, RecordsToDelete};
use millstream_env::HostRuntime;
use millstream_protocol::ErrorCode;
use millstream_protocol::messages::DeleteRecordsRequest;
use millstream_protocol::messages::delete_records::{DeleteRecordsPartition, DeleteRecordsTopic};
use millstream_record::{NodeId, Offset, TopicPartition};

use crate::nodes::{Cluster, PARTITIONS, send};

const TOPIC: &str = "deleted";

async fn delete(cluster: &Cluster, before: i64) -> Vec<i64> {
    let wanted = (0..PARTITIONS)
        .map(|index| (TopicPartition::new(TOPIC, index), RecordsToDelete::Before(Offset(before))));
    let deleted = cluster.client.admin().delete_records(&wanted.collect()).await.unwrap();
    deleted.into_values().map(|low| low.unwrap().0).collect()
}

async fn begins(cluster: &Cluster) -> Vec<i64> {
    let wanted: BTreeMap<_, _> =
        (0..PARTITIONS).map(|index| (TopicPartition::new(TOPIC, index), OffsetSpec::Earliest)).collect();
    let begins = cluster.client.admin().list_offsets(&wanted, IsolationLevel::ReadUncommitted).await.unwrap();
    begins.into_values().map(|begin| begin.unwrap().unwrap().offset.0).collect()
}

/// Whether all replicas of every partition are in sync.
async fn is_whole(cluster: &Cluster) -> bool {
    let topics = cluster.client.admin().describe_topics(&[TOPIC]).await.unwrap_or_default();
    let topic = topics.get(TOPIC).and_then(|topic| topic.as_ref().ok());
    topic.is_some_and(|topic| topic.partitions.iter().all(|partition| partition.in_sync.len() == 3))
}

fn request(partition: i32, before: i64, timeout_ms: i32) -> DeleteRecordsRequest {
    let asked = DeleteRecordsPartition { partition_index: partition, offset: before };
    let topic = DeleteRecordsTopic { name: TOPIC.into(), partitions: vec![asked] };
    DeleteRecordsRequest { topics: vec![topic], timeout_ms }
}

#[test]
fn what_was_deleted_comes_back_neither_with_another_leader_nor_with_the_one_that_was_killed() {
    let (runtime, env) = HostRuntime::start("deletion", 2).unwrap();
    runtime.block_on(async {
        let mut cluster = Cluster::start(&env, TOPIC, 3).await;
        let producer = cluster.client.producer(ProducerConfig::default()).unwrap();
        for number in 0..8 {
            send(&producer, TOPIC, number).await;
        }
        cluster.until("all are in sync", async || is_whole(&cluster).await).await;
        assert_eq!(delete(&cluster, 5).await, [5, 5, 5]);
        // Each replica is killed right behind an answer, so whoever leads next has only what it had noted.
        for (number, before) in [(1, 5), (2, 6), (3, 7)] {
            assert_eq!(delete(&cluster, before).await, [before; 3]);
            cluster.crash(NodeId(number));
            for index in 0..PARTITIONS {
                let led = async || cluster.leader(TOPIC, index).await != NodeId(number);
                cluster.until("another leads", async || led().await).await;
            }
            assert_eq!(begins(&cluster).await, [before; 3]);
            cluster.restart(NodeId(number));
            cluster.until("all are in sync again", async || is_whole(&cluster).await).await;
        }
        let read = cluster.read(TOPIC, IsolationLevel::ReadUncommitted, 3).await;
        assert!(read.values().all(|read| *read == [7]), "nothing else is gone: {read:?}");
    });
}

/// Who is away is not waited for, and does not come back in sync before it has let go as well.
#[test]
fn a_replica_that_was_away_lets_go_before_it_may_lead() {
    let (runtime, env) = HostRuntime::start("deletion", 2).unwrap();
    runtime.block_on(async {
        let mut cluster = Cluster::start(&env, "other", 1).await;
        let topic = NewTopic { replication_factor: Some(3), ..NewTopic::new(TOPIC, PARTITIONS) };
        let topic = cluster.client.admin().ensure_topic(topic).await.unwrap();
        let leader = topic.partitions[0].replicas[0];
        let away = topic.partitions[0].replicas[1];
        let producer = cluster.client.producer(ProducerConfig::default()).unwrap();
        for number in 0..4 {
            send(&producer, TOPIC, number).await;
        }
        cluster.stop(away);
        let led = async || cluster.leader(TOPIC, 0).await == leader;
        cluster.until("the first leads", async || led().await).await;
        let answer = cluster.ask(leader, request(0, 3, 10_000)).await;
        let found = &answer.topics[0].partitions[0];
        assert_eq!((ErrorCode::from_code(found.error_code), found.low_watermark), (ErrorCode::None, 3));
        let follower = topic.partitions[0].replicas[2];
        let answer = cluster.ask(follower, request(0, 3, 10_000)).await;
        let code = ErrorCode::from_code(answer.topics[0].partitions[0].error_code);
        assert_eq!(code, ErrorCode::NotLeaderOrFollower);
        cluster.restart(away);
        cluster.until("all are in sync again", async || is_whole(&cluster).await).await;
        cluster.crash(leader);
        let led = async || cluster.leader(TOPIC, 0).await == away;
        cluster.until("who was away leads", async || led().await).await;
        assert_eq!(begins(&cluster).await[0], 3);
    });
}
