//! A transactional producer: commits, aborts, and is replaced under the same id when it fails.

use millstream_client::{Producer, ProducerConfig, ProducerRecord};
use millstream_env::Env;

use super::{SHORT, Scene, TOPIC};
use crate::history::{Outcome, Partition, Send};

/// A producer that fails is replaced, at most so often.
const REPLACED_MAX: u64 = 60;
/// Longest rest of a transaction behind a record in the topic with short retention, which may take its begin meanwhile.
const REST_MAX_MS: u64 = 4_000;

/// Runs transactions until `records` records were sent to the world's topic, and to the one with short retention where there is one.
pub async fn transact(scene: Scene, partitions: u32, records: u64, short: bool) {
    let places = Places { partitions, short };
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
            if !one(&scene, &env, &producer, number, &places, size).await {
                break;
            }
            scene.dither(&env, 60).await;
        }
        if sent >= records {
            return;
        }
    }
}

/// Where transactions write to.
struct Places {
    partitions: u32,
    short: bool,
}

impl Places {
    /// A topic, a partition of it, and its number in the history.
    fn pick(&self, scene: &Scene) -> (&'static str, i32, Partition) {
        if self.short && scene.sim.below(4) == 0 {
            return (SHORT.0, 0, SHORT.1);
        }
        let partition = scene.sim.below(u64::from(self.partitions)) as Partition;
        (TOPIC, partition as i32, partition)
    }
}

/// One transaction; false when the producer has to be replaced.
async fn one(scene: &Scene, env: &Env, producer: &Producer, number: u32, places: &Places, size: u64) -> bool {
    let txn = scene.fresh();
    if producer.begin_transaction().is_err() {
        return false;
    }
    let mut whole = true;
    let mut open = Vec::new();
    for _ in 0..size {
        let value = scene.fresh();
        let (topic, index, partition) = places.pick(scene);
        let send = Send {
            partition,
            producer: number,
            order: value,
            idempotent: true,
            durable: true,
            txn: Some(txn),
        };
        scene.history.lock().sent(value, send);
        let record = ProducerRecord::new(topic, scene.payload(value)).with_partition(index);
        match producer.send(record).await {
            Ok(delivery) => open.push((value, delivery)),
            Err(_) => whole = false,
        }
        if topic == SHORT.0 && scene.sim.below(4) == 0 {
            scene.dither(env, REST_MAX_MS).await;
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
