//! A replica that may miss acknowledged records leads, because the topic allows that.

use std::time::Duration;

use millstream_client::{ConsumerConfig, NewTopic, OffsetReset, ProducerConfig, ProducerRecord};
use millstream_env::HostRuntime;
use millstream_env::testing::PATIENCE;
use millstream_record::{NodeId, TopicPartition};

use crate::nodes::Cluster;

const TOPIC: &str = "forked";

/// The leader, and how many are in sync.
async fn standing(cluster: &Cluster) -> Option<(Option<NodeId>, usize)> {
    let topics = cluster.client.admin().describe_topics(&[TOPIC]).await.ok()?;
    let partition = topics.get(TOPIC)?.as_ref().ok()?.partitions.first()?;
    Some((partition.leader, partition.in_sync.len()))
}

/// Each value is its number, with zeros before it until it has that many bytes.
async fn put(cluster: &Cluster, numbers: std::ops::Range<i32>, bytes: usize) {
    let producer = cluster.client.producer(ProducerConfig::default()).unwrap();
    for number in numbers {
        let record = ProducerRecord::new(TOPIC, format!("{number:0bytes$}"));
        producer.send(record).await.unwrap().await.unwrap();
    }
}

/// The log of who led begins behind the place where the new leader's ends.
#[test]
fn a_replica_whose_log_begins_behind_the_fork_follows_from_where_its_leader_begins() {
    let (runtime, env) = HostRuntime::start("unclean", 2).unwrap();
    runtime.block_on(async {
        let mut cluster = Cluster::start(&env, "other", 1).await;
        let topic = NewTopic { replication_factor: Some(2), ..NewTopic::new(TOPIC, 1) }
            .with_config("min.insync.replicas", "1")
            .with_config("segment.bytes", "1048576")
            .with_config("retention.bytes", "1048576")
            .with_config("unclean.leader.election.enable", "true");
        let topic = cluster.client.admin().ensure_topic(topic).await.unwrap();
        let [first, second] = topic.partitions[0].replicas[..] else { panic!("{topic:?}") };
        put(&cluster, 0..20, 2).await;
        cluster.stop(second);
        put(&cluster, 20..90, 60_000).await;
        let begin = async || {
            let consumer = cluster.client.consumer(ConsumerConfig::default()).unwrap();
            let begins = consumer.beginning_offsets(&[TopicPartition::new(TOPIC, 0)]).await;
            begins.map_or(0, |begins| begins[&TopicPartition::new(TOPIC, 0)].0)
        };
        cluster.until("retention takes what the one that is away has", async || begin().await > 20).await;
        cluster.crash(first);
        cluster.restart(second);
        let leads =
            async |node: NodeId| standing(&cluster).await.is_some_and(|(leader, _)| leader == Some(node));
        cluster.until("who was behind leads", async || leads(second).await).await;
        cluster.restart(first);
        let in_sync = async || standing(&cluster).await.is_some_and(|(_, in_sync)| in_sync == 2);
        cluster.until("who led is in sync again", async || in_sync().await).await;
        let leads =
            async |node: NodeId| standing(&cluster).await.is_some_and(|(leader, _)| leader == Some(node));
        cluster.until("it is given its lead back", async || leads(first).await).await;

        let auto_offset_reset = OffsetReset::Earliest;
        let config = ConsumerConfig { auto_offset_reset, ..ConsumerConfig::default() };
        let mut consumer = cluster.client.consumer(config).unwrap();
        let at = TopicPartition::new(TOPIC, 0);
        let begins = consumer.beginning_offsets(std::slice::from_ref(&at)).await.unwrap();
        assert_eq!(begins[&at].0, 0, "it has what comes before the fork");
        consumer.assign(vec![at]).unwrap();
        let (mut read, end) = (Vec::new(), env.elapsed() + PATIENCE);
        while read.len() < 20 {
            assert!(env.elapsed() < end, "not all that the new leader had: {read:?}");
            for polled in consumer.poll(Duration::from_millis(200)).await.unwrap() {
                let number = |value: &[u8]| std::str::from_utf8(value).unwrap().parse::<i32>().unwrap();
                read.extend(polled.records.iter().map(|one| number(one.value.as_ref().unwrap())));
            }
        }
        assert_eq!(read, (0..20).collect::<Vec<_>>());
    });
}
