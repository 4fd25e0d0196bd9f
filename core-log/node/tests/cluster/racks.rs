//! Consumers read from the replica in their own rack (KIP-392).

use millstream_client::{ConsumerConfig, OffsetReset, ProducerConfig};
use millstream_env::HostRuntime;
use millstream_env::testing::PATIENCE;
use millstream_protocol::messages::fetch::{FetchPartition, FetchTopic, PartitionData};
use millstream_protocol::messages::{FetchRequest, MetadataRequest, metadata::MetadataRequestTopic};
use millstream_record::{Batches, NodeId, TopicId, TopicPartition};

use crate::nodes::{Cluster, PARTITIONS, rack, send};

const TOPIC: &str = "near";

/// One fetch of partition 0, as a consumer in `from` makes it.
async fn fetch(
    cluster: &Cluster,
    node: NodeId,
    (from, topic_id): (&str, TopicId),
    offset: i64,
    wait_ms: i32,
) -> PartitionData {
    let partition =
        FetchPartition { fetch_offset: offset, partition_max_bytes: 1 << 20, ..FetchPartition::default() };
    let request = FetchRequest {
        max_wait_ms: wait_ms,
        min_bytes: 1,
        session_epoch: -1,
        rack_id: from.into(),
        topics: vec![FetchTopic { topic: TOPIC.into(), topic_id, partitions: vec![partition] }],
        ..FetchRequest::default()
    };
    cluster.ask(node, request).await.responses.remove(0).partitions.remove(0)
}

fn count(data: &PartitionData) -> usize {
    let records = data.records.clone().unwrap_or_default();
    Batches::new(records).map(|batch| usize::try_from(batch.unwrap().header().record_count).unwrap()).sum()
}

#[test]
fn a_consumer_reads_from_the_replica_in_its_rack() {
    let (runtime, env) = HostRuntime::start("racks", 2).unwrap();
    runtime.block_on(async {
        let cluster = Cluster::start(&env, TOPIC, 3).await;
        let leader = cluster.leader(TOPIC, 0).await;
        let follower = NodeId(leader.0 % 3 + 1);
        let topic = MetadataRequestTopic { name: Some(TOPIC.into()), ..MetadataRequestTopic::default() };
        let asked = MetadataRequest { topics: Some(vec![topic]), ..MetadataRequest::default() };
        let id = cluster.ask(leader, asked).await.topics[0].topic_id;
        let producer = cluster.client.producer(ProducerConfig::default()).unwrap();
        for number in 0..10 {
            send(&producer, TOPIC, number).await;
        }
        let (near, here, nowhere) = (rack(follower), rack(leader), "rack-of-nobody".to_owned());
        let sent_to_the_follower = async || {
            let told = fetch(&cluster, leader, (&near, id), 0, 0).await;
            told.preferred_read_replica == follower.0 && count(&told) == 0
        };
        cluster.until("the leader knows a nearer replica", sent_to_the_follower).await;
        for rack in [&here, &nowhere] {
            let told = fetch(&cluster, leader, (rack, id), 0, 0).await;
            assert_eq!((told.preferred_read_replica, count(&told)), (-1, 10), "{rack}");
        }
        let at_the_follower = async || {
            let read = fetch(&cluster, follower, (&near, id), 0, 0).await;
            (read.error_code, read.preferred_read_replica, count(&read)) == (0, -1, 10)
        };
        cluster.until("the follower has the mark", at_the_follower).await;
        // One that waits there hears of the next record as soon as its mark moves; nothing else is written meanwhile.
        let waiting = fetch(&cluster, follower, (&near, id), 10, 8_000);
        let (waited, ()) = futures::future::join(waiting, send(&producer, TOPIC, 10)).await;
        assert_eq!((waited.error_code, count(&waited)), (0, 1));

        let config = ConsumerConfig {
            client_rack: Some(near.as_str().into()),
            auto_offset_reset: OffsetReset::Earliest,
            ..ConsumerConfig::default()
        };
        let mut consumer = cluster.client.consumer(config).unwrap();
        consumer.assign((0..PARTITIONS).map(|index| TopicPartition::new(TOPIC, index))).unwrap();
        let mut read = 0;
        let end = env.elapsed() + PATIENCE;
        while read < 11 * usize::try_from(PARTITIONS).unwrap() {
            assert!(env.elapsed() < end, "{read} records within {PATIENCE:?}");
            let polled = consumer.poll(std::time::Duration::from_millis(200)).await.unwrap();
            read += polled.iter().map(|records| records.records.len()).sum::<usize>();
        }
    });
}
