//! Topics that come and go beside the others, also under the same name. Each life of a name is a topic of its own: what was written
//! in one is never read in another.

use millstream_client::{IsolationLevel, NewTopic, ProducerConfig, ProducerRecord};
use millstream_record::{Offset, TopicPartition};

use super::reader::{POLL, consumer};
use super::{GARBLED, PASSING, Scene, value_of};
use crate::history::{Partition, Send};

/// Partitions of each.
const PARTITIONS: u32 = 2;
/// Records that are written to each.
const RECORDS: u64 = 6;
/// The numbers of their partitions in the history begin here: the next of them goes to each life of a name.
const LIVES: Partition = 1_000;

/// Creates, writes, reads and deletes `rounds` topics. The last one stays: nodes that were away for the end of one life and the begin of
/// the next must have the next one's records only.
pub async fn come_and_go(scene: Scene, rounds: u64) {
    let (env, client) = scene.client("admin");
    let admin = client.admin();
    for round in 0..rounds {
        let name = format!("{PASSING}{}", round % 2);
        let life = LIVES + PARTITIONS * scene.fresh() as Partition;
        // It goes again, and all that is in it.
        (0..PARTITIONS).for_each(|index| scene.history.lock().log_start(life + index, i64::MAX));
        let created = admin.create_topics(&[NewTopic::new(name.as_str(), PARTITIONS as i32)]).await;
        tracing::debug!(?created, name, "created");
        write(&scene, &client, &name, life).await;
        // One that was there already may have another life's records in it.
        if created.is_ok_and(|created| created.values().all(Result::is_ok))
            && let Err(error) = read(&scene, &client, &name, life).await
        {
            tracing::debug!(%error, name, "not read");
        }
        scene.dither(&env, 500).await;
        if round + 1 == rounds {
            break;
        }
        let deleted = admin.delete_topics(&[name.as_str()]).await;
        tracing::debug!(?deleted, name, "deleted");
        scene.dither(&env, 300).await;
    }
}

/// Writes, and waits until nothing is on its way: it might be sent again, to the next topic of the name.
async fn write(scene: &Scene, client: &millstream_client::Client, name: &str, life: Partition) {
    let config = ProducerConfig { delivery_timeout_ms: 8_000, ..ProducerConfig::default() };
    let producer = match client.producer(config) {
        Ok(producer) => producer,
        Err(error) => panic!("the workload's producer config is wrong: {error}"),
    };
    let number = scene.fresh() as u32;
    let mut sent = Vec::new();
    for _ in 0..RECORDS {
        let value = scene.fresh();
        let index = scene.sim.below(u64::from(PARTITIONS)) as Partition;
        let send = Send {
            partition: life + index,
            producer: number,
            order: value,
            idempotent: true,
            durable: false,
            txn: None,
        };
        scene.history.lock().sent(value, send);
        let record = ProducerRecord::new(name, scene.payload(value)).with_partition(index as i32);
        sent.extend(producer.send(record).await);
    }
    for delivery in sent {
        if let Err(error) = delivery.await {
            tracing::debug!(%error, name, "not written");
        }
    }
}

async fn read(
    scene: &Scene,
    client: &millstream_client::Client,
    name: &str,
    life: Partition,
) -> Result<(), millstream_client::ClientError> {
    let mut consumer = consumer(client, IsolationLevel::ReadUncommitted);
    let all: Vec<_> = (0..PARTITIONS).map(|index| TopicPartition::new(name, index as i32)).collect();
    consumer.assign(all.clone())?;
    for partition in &all {
        consumer.seek(partition, Offset(0))?;
    }
    for _ in 0..PARTITIONS {
        for batch in consumer.poll(POLL).await? {
            for record in &batch.records {
                let value = record.value.as_deref().and_then(value_of).unwrap_or(GARBLED);
                let partition = life + batch.topic_partition.partition as Partition;
                scene.history.lock().read(partition, record.offset.0, value, false);
            }
        }
    }
    Ok(())
}
