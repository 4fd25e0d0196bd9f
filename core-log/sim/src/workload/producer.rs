//! Plain producers: idempotent with acks=all, or with acks=1.

use std::collections::VecDeque;

use millstream_client::{Acks, Delivery, ProducerConfig, ProducerRecord};

use super::{Scene, TOPIC};
use crate::history::{Partition, Send, Value};

/// Deliveries that may be open before the next send waits for the oldest.
const OPEN_MAX: usize = 12;
/// A producer that fails is replaced, at most so often.
const REPLACED_MAX: u64 = 50;

/// Longest rest between two records.
const REST_MAX_MS: u64 = 2_500;

/// Which promise a producer asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// acks=all with idempotence.
    Durable,
    /// acks=1 without.
    Leader,
}

/// The one partition of a topic, by its number in the history.
#[derive(Clone, Copy, Debug)]
pub struct Only {
    /// The topic.
    pub topic: &'static str,
    /// Its partition's number in the history.
    pub partition: Partition,
    /// And in the topic.
    pub index: i32,
    /// Now and then nothing is sent for longer than the topic keeps anything.
    pub rests: bool,
}

/// Sends `records` records to partitions of the world's topic, or all to `only`.
pub async fn produce(scene: Scene, promise: Promise, partitions: u32, records: u64, only: Option<Only>) {
    let (env, client) = scene.client("producer");
    let durable = promise == Promise::Durable;
    let mut sent = 0;
    for _ in 0..REPLACED_MAX {
        let number = scene.fresh() as u32;
        let config = ProducerConfig {
            acks: if durable { Acks::All } else { Acks::Leader },
            enable_idempotence: durable,
            linger_ms: scene.sim.below(20),
            delivery_timeout_ms: 60_000,
            ..ProducerConfig::default()
        };
        let producer = match client.producer(config) {
            Ok(producer) => producer,
            Err(error) => panic!("the workload's producer config is wrong: {error}"),
        };
        let mut open: VecDeque<(Value, Delivery)> = VecDeque::new();
        let mut healthy = true;
        while sent < records && healthy {
            let value = scene.fresh();
            let partition =
                only.map_or_else(|| scene.sim.below(u64::from(partitions)) as Partition, |one| one.partition);
            let record = ProducerRecord::new(only.map_or(TOPIC, |one| one.topic), scene.payload(value))
                .with_partition(only.map_or(partition as i32, |one| one.index));
            let send =
                Send { partition, producer: number, order: value, idempotent: durable, durable, txn: None };
            scene.history.lock().sent(value, send);
            sent += 1;
            match producer.send(record).await {
                Ok(delivery) => open.push_back((value, delivery)),
                Err(_) => healthy = false,
            }
            if open.len() >= OPEN_MAX {
                healthy &= settle(&scene, &mut open).await;
            }
            if scene.sim.below(3) == 0 {
                scene.dither(&env, scene.rest_max_ms).await;
            }
            if only.is_some_and(|one| one.rests) && scene.sim.below(10) == 0 {
                scene.dither(&env, REST_MAX_MS).await;
            }
        }
        while !open.is_empty() {
            settle(&scene, &mut open).await;
        }
        if sent >= records {
            return;
        }
        scene.dither(&env, 500).await;
    }
}

/// Waits for the oldest open delivery; false when it failed.
async fn settle(scene: &Scene, open: &mut VecDeque<(Value, Delivery)>) -> bool {
    let Some((value, delivery)) = open.pop_front() else { return true };
    match delivery.await {
        Ok(metadata) => {
            if let Some(offset) = metadata.offset {
                scene.history.lock().acked(value, offset.0);
            }
            true
        }
        Err(error) => {
            tracing::debug!(value, %error, "a record's outcome is unknown");
            false
        }
    }
}
