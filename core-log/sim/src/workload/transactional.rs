//! A transactional producer: commits, aborts, and is replaced under the same id when it fails.

use millstream_client::{Producer, ProducerConfig, ProducerRecord};

use super::{Scene, TOPIC};
use crate::history::{Outcome, Partition, Send};

/// A producer that fails is replaced, at most so often.
const REPLACED_MAX: u64 = 60;

/// Runs transactions until `records` records were sent.
pub async fn transact(scene: Scene, partitions: u32, records: u64) {
    let (env, client) = scene.client("transactional");
    let id = format!("txn-{}", scene.fresh());
    let mut sent = 0;
    for _ in 0..REPLACED_MAX {
        let number = scene.fresh() as u32;
        let config = ProducerConfig {
            transaction_timeout_ms: 10_000,
            delivery_timeout_ms: 30_000,
            linger_ms: scene.sim.below(10),
            ..ProducerConfig::transactional(id.as_str())
        };
        let producer = match client.producer(config) {
            Ok(producer) => producer,
            Err(error) => panic!("the workload's producer config is wrong: {error}"),
        };
        if let Err(error) = producer.init_transactions().await {
            tracing::debug!(%error, "init_transactions failed");
            scene.dither(&env, 500).await;
            continue;
        }
        while sent < records {
            let size = 1 + scene.sim.below(5);
            sent += size;
            if !one(&scene, &producer, number, partitions, size).await {
                break;
            }
            scene.dither(&env, 60).await;
        }
        if sent >= records {
            return;
        }
    }
}

/// One transaction; false when the producer has to be replaced.
async fn one(scene: &Scene, producer: &Producer, number: u32, partitions: u32, size: u64) -> bool {
    let txn = scene.fresh();
    if producer.begin_transaction().is_err() {
        return false;
    }
    let mut whole = true;
    let mut open = Vec::new();
    for _ in 0..size {
        let value = scene.fresh();
        let partition = scene.sim.below(u64::from(partitions)) as Partition;
        let send = Send {
            partition,
            producer: number,
            order: value,
            idempotent: true,
            durable: true,
            txn: Some(txn),
        };
        scene.history.lock().sent(value, send);
        let record = ProducerRecord::new(TOPIC, scene.payload(value)).with_partition(partition as i32);
        match producer.send(record).await {
            Ok(delivery) => open.push((value, delivery)),
            Err(_) => whole = false,
        }
    }
    for (value, delivery) in open {
        match delivery.await {
            Ok(metadata) => {
                if let Some(offset) = metadata.offset {
                    scene.history.lock().acked(value, offset.0);
                }
            }
            Err(_) => whole = false,
        }
    }
    let commit = whole && scene.sim.below(4) != 0;
    let ended = if commit { producer.commit_transaction().await } else { producer.abort_transaction().await };
    match ended {
        Ok(()) => {
            let outcome = if commit { Outcome::Committed } else { Outcome::Aborted };
            scene.history.lock().ended(txn, outcome);
            true
        }
        Err(error) => {
            tracing::debug!(%error, txn, "the transaction's outcome is unknown");
            false
        }
    }
}
