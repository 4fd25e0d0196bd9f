//! Members of one consumer group: they read, commit, ask for what is committed, leave and come back.

use std::collections::BTreeMap;
use std::time::Duration;

use millstream_client::{Consumer, ConsumerConfig, OffsetAndMetadata, OffsetReset};
use millstream_env::Env;
use millstream_record::TopicPartition;

use super::{GARBLED, Scene, TOPIC, value_of};
use crate::history::Partition;

/// Name of the group.
pub const GROUP: &str = "g";
const POLL: Duration = Duration::from_millis(300);

/// One member, until the scene is over.
pub async fn member(scene: Scene, partitions: u32) {
    let (env, client) = scene.client("member");
    while !scene.is_over() {
        let config = ConsumerConfig {
            auto_offset_reset: OffsetReset::Earliest,
            session_timeout_ms: 6_000,
            heartbeat_interval_ms: 500,
            rebalance_timeout_ms: 5_000,
            ..ConsumerConfig::group(GROUP)
        };
        let mut consumer = match client.consumer(config) {
            Ok(consumer) => consumer,
            Err(error) => panic!("the workload's consumer config is wrong: {error}"),
        };
        if consumer.subscribe([TOPIC], None).is_ok() {
            while !scene.is_over() && scene.sim.below(40) != 0 {
                if !work(&scene, &env, &mut consumer, partitions).await {
                    scene.dither(&env, 300).await;
                }
            }
        }
        if scene.sim.below(2) == 0 {
            let _ = env.timeout(Duration::from_secs(5), consumer.close()).await; // a member may also vanish without a word
        }
        scene.dither(&env, 1_000).await;
    }
}

async fn work(scene: &Scene, env: &Env, consumer: &mut Consumer, partitions: u32) -> bool {
    let Ok(batches) = consumer.poll(POLL).await else { return false };
    let mut positions = BTreeMap::new();
    for batch in &batches {
        let partition = batch.topic_partition.partition as Partition;
        let mut history = scene.history.lock();
        for record in &batch.records {
            let value = record.value.as_deref().and_then(value_of).unwrap_or(GARBLED);
            history.read(partition, record.offset.0, value, false);
        }
        positions.insert(batch.topic_partition.clone(), OffsetAndMetadata::new(batch.next_offset));
    }
    if !positions.is_empty() && scene.sim.below(3) != 0 && consumer.commit(&positions).await.is_ok() {
        let mut history = scene.history.lock();
        for (partition, at) in &positions {
            history.committed(GROUP, partition.partition as Partition, at.offset.0);
        }
    }
    if scene.sim.below(8) == 0 {
        ask(scene, consumer, partitions).await;
    }
    scene.dither(env, 100).await;
    true
}

async fn ask(scene: &Scene, consumer: &mut Consumer, partitions: u32) {
    let all: Vec<TopicPartition> = (0..partitions as i32).map(|p| TopicPartition::new(TOPIC, p)).collect();
    let floors: Vec<i64> = (0..partitions).map(|p| scene.history.lock().floor(GROUP, p)).collect();
    let Ok(answer) = consumer.committed(&all).await else { return };
    let mut history = scene.history.lock();
    for (at, partition) in all.iter().enumerate() {
        let offset = answer.get(partition).map_or(-1, |known| known.offset.0);
        history.answered(GROUP, at as Partition, floors[at], offset);
    }
}
