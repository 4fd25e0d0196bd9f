//! The load under which all nodes are restarted in order: nothing that it writes may be refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use millstream_client::{ProducerConfig, ProducerRecord};

use super::{Scene, TOPIC};
use crate::history::{Partition, Send};

/// Longest rest between two records.
const REST_MAX_MS: u64 = 120;

/// Writes with acks=all to all partitions until it is `over`.
///
/// # Errors
/// A record that was given up: with one node away at a time, and each gone in order, none has to be.
pub async fn load(scene: Scene, partitions: u32, over: Arc<AtomicBool>) -> Result<(), String> {
    let (env, client) = scene.client("load");
    let number = scene.fresh() as u32;
    let config = ProducerConfig { linger_ms: 1, delivery_timeout_ms: 30_000, ..ProducerConfig::default() };
    let producer = client.producer(config).map_err(|error| format!("the load's producer config: {error}"))?;
    while !over.load(Ordering::Relaxed) {
        let mut open = Vec::new();
        for partition in 0..partitions {
            let value = scene.fresh();
            let send = Send {
                partition: partition as Partition,
                producer: number,
                order: value,
                idempotent: true,
                durable: true,
                txn: None,
            };
            scene.history.lock().sent(value, send);
            let record = ProducerRecord::new(TOPIC, scene.payload(value)).with_partition(partition as i32);
            open.push((value, producer.send(record).await));
        }
        for (value, delivery) in open {
            let delivered = match delivery {
                Ok(delivery) => delivery.await,
                Err(error) => Err(error),
            };
            let written = delivered.map_err(|error| {
                format!("record {value} was given up while the nodes were restarted in order: {error}")
            })?;
            if let Some(offset) = written.offset {
                scene.history.lock().acked(value, offset.0);
            }
        }
        scene.dither(&env, REST_MAX_MS).await;
    }
    Ok(())
}
