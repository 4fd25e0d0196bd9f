//! Moves that are limited (KIP-73).

use std::collections::BTreeMap;

use millstream_client::{AlterConfig, ConfigResource, ProducerConfig, ProducerRecord};
use millstream_env::HostRuntime;
use millstream_record::{NodeId, TopicPartition};

use crate::nodes::Cluster;

const TOPIC: &str = "moved";

/// Sets how many bytes a second those may copy that are limited, on all brokers and on both sides.
async fn set_rate(cluster: &Cluster, rate: &str) {
    for id in 1..=3 {
        let changes = [
            AlterConfig::Set("leader.replication.throttled.rate".to_owned(), rate.to_owned()),
            AlterConfig::Set("follower.replication.throttled.rate".to_owned(), rate.to_owned()),
        ];
        let broker = ConfigResource::Broker(id.to_string());
        cluster.client.admin().incremental_alter_configs(&broker, &changes).await.unwrap();
    }
}

async fn is_moving(cluster: &Cluster, partition: i32) -> bool {
    let moving = cluster.client.admin().list_reassignments().await.unwrap();
    moving.contains_key(&TopicPartition::new(TOPIC, partition))
}

#[test]
fn a_limited_move_keeps_to_its_rate_and_others_do_not_wait_for_it() {
    let (runtime, env) = HostRuntime::start("moves", 2).unwrap();
    runtime.block_on(async {
        let cluster = Cluster::start(&env, TOPIC, 1).await;
        let admin = cluster.client.admin();
        let producer = cluster.client.producer(ProducerConfig::default()).unwrap();
        // More than three answers may hold: the first may go beyond any rate.
        for partition in [0, 1] {
            for _ in 0..40 {
                let record = ProducerRecord {
                    partition: Some(partition),
                    ..ProducerRecord::new(TOPIC, vec![b'x'; 100_000])
                };
                producer.send(record).await.unwrap().await.unwrap();
            }
        }
        set_rate(&cluster, "1").await;
        let limited = "0:1,0:2,0:3";
        let changes = [
            AlterConfig::Set("leader.replication.throttled.replicas".to_owned(), limited.to_owned()),
            AlterConfig::Set("follower.replication.throttled.replicas".to_owned(), limited.to_owned()),
        ];
        let topic = ConfigResource::Topic(TOPIC.into());
        admin.incremental_alter_configs(&topic, &changes).await.unwrap();
        let elsewhere = async |partition: i32| {
            let leader = cluster.leader(TOPIC, partition).await;
            (TopicPartition::new(TOPIC, partition), Some(vec![NodeId(leader.0 % 3 + 1)]))
        };
        let wanted = BTreeMap::from([elsewhere(0).await, elsewhere(1).await]);
        for asked in admin.alter_reassignments(&wanted).await.unwrap().into_values() {
            asked.unwrap();
        }
        cluster.until("the other partition is moved", async || !is_moving(&cluster, 1).await).await;
        assert!(is_moving(&cluster, 0).await, "4 MB at a byte a second take longer");
        set_rate(&cluster, "100000000").await;
        cluster.until("the limited partition is moved", async || !is_moving(&cluster, 0).await).await;
    });
}
