//! Readers of whole partitions: one that follows all through the run, and the final reading that is judged.

use std::collections::BTreeMap;
use std::time::Duration;

use millstream_client::{Client, ClientError, Consumer, ConsumerConfig, IsolationLevel, OffsetReset};
use millstream_record::{Offset, TopicPartition};

use super::{GARBLED, Scene, TOPIC, value_of};
use crate::executor::EPOCH;
use crate::history::{Contents, Partition, Sought};

/// A poll waits so long.
pub(super) const POLL: Duration = Duration::from_millis(300);
/// The final reading of all partitions has to end within this.
const FINAL_MAX: Duration = Duration::from_secs(60);

pub(super) fn consumer(client: &Client, isolation: IsolationLevel) -> Consumer {
    let config = ConsumerConfig {
        isolation_level: isolation,
        auto_offset_reset: OffsetReset::Earliest,
        ..ConsumerConfig::default()
    };
    match client.consumer(config) {
        Ok(consumer) => consumer,
        Err(error) => panic!("the workload's consumer config is wrong: {error}"),
    }
}

/// Follows every partition of the world's topic until the scene is over.
pub async fn follow(scene: Scene, partitions: u32, isolation: IsolationLevel) {
    let (env, client) = scene.client("reader");
    let mut consumer = consumer(&client, isolation);
    let all: Vec<TopicPartition> = (0..partitions as i32).map(|p| TopicPartition::new(TOPIC, p)).collect();
    if consumer.assign(all).is_err() {
        return;
    }
    while !scene.is_over() {
        match consumer.poll(POLL).await {
            Ok(batches) => {
                let mut history = scene.history.lock();
                for batch in &batches {
                    for record in &batch.records {
                        let value = record.value.as_deref().and_then(value_of).unwrap_or(GARBLED);
                        let partition = batch.topic_partition.partition as Partition;
                        let committed = isolation == IsolationLevel::ReadCommitted;
                        history.read(partition, record.offset.0, value, committed);
                    }
                }
            }
            Err(error) => {
                tracing::debug!(%error, "a poll failed");
                scene.dither(&env, 200).await;
            }
        }
    }
}

/// Reads here and there, by offset and by time, until the scene is over: what the sparse indexes are for.
pub async fn wander(scene: Scene, partitions: u32) {
    let (env, client) = scene.client("wanderer");
    let mut consumer = consumer(&client, IsolationLevel::ReadUncommitted);
    let mut ends = BTreeMap::new();
    while !scene.is_over() {
        let number = scene.sim.below(u64::from(partitions)) as Partition;
        if let Err(error) = look(&scene, &mut consumer, number, &mut ends).await {
            tracing::debug!(%error, "a search failed");
        }
        scene.dither(&env, 300).await;
    }
}

/// One search. `ends` is what this client was told of where partitions end.
async fn look(
    scene: &Scene,
    consumer: &mut Consumer,
    number: Partition,
    ends: &mut BTreeMap<Partition, Offset>,
) -> Result<(), ClientError> {
    let partition = TopicPartition::new(TOPIC, number as i32);
    let only = std::slice::from_ref(&partition);
    if scene.sim.below(3) == 0 {
        let ago_ms = scene.sim.below(1 + scene.sim.elapsed().as_millis() as u64) as i64;
        let time = EPOCH.plus_ms(ago_ms);
        let found = consumer.offsets_for_times(&BTreeMap::from([(partition.clone(), time)])).await?;
        if let Some(found) = found.get(&partition) {
            scene.history.lock().searched(number, Sought::Since(time.0), found.offset.0);
        }
        return Ok(());
    }
    let end = consumer.end_offsets(only).await?.get(&partition).copied().unwrap_or_default();
    let was = ends.insert(number, end).unwrap_or_default();
    scene.history.lock().ended_at(number, was.0, end.0);
    let from = Offset(scene.sim.below(end.0.unsigned_abs()) as i64);
    consumer.assign(vec![partition.clone()])?;
    consumer.seek(&partition, from)?;
    let batches = consumer.poll(POLL).await?;
    let mut history = scene.history.lock();
    let records: Vec<_> = batches.iter().flat_map(|batch| &batch.records).collect();
    if let Some(first) = records.first() {
        history.searched(number, Sought::From(from.0), first.offset.0);
    }
    for record in records {
        let value = record.value.as_deref().and_then(value_of).unwrap_or(GARBLED);
        history.read(number, record.offset.0, value, false);
    }
    Ok(())
}

/// Reads partitions from their beginning to their end. `numbers` maps topic and partition to the history's number. With
/// `tolerant`, a partition that cannot be read is left where the error struck (after bit rot).
pub async fn read_all(
    scene: &Scene,
    partitions: &[(TopicPartition, Partition)],
    isolation: IsolationLevel,
    tolerant: bool,
) -> Result<Contents, String> {
    let (env, client) = scene.client("judge");
    let mut contents = Contents::default();
    for (partition, number) in partitions {
        let read = env
            .timeout(FINAL_MAX, read_one(scene, &client, partition, *number, isolation, &mut contents))
            .await;
        match read {
            Ok(Ok(())) => {}
            _ if tolerant => {}
            Ok(Err(error)) => return Err(format!("{partition} cannot be read at the end: {error}")),
            Err(_) => return Err(format!("{partition} was not read to its end within {FINAL_MAX:?}")),
        }
    }
    Ok(contents)
}

async fn read_one(
    scene: &Scene,
    client: &Client,
    partition: &TopicPartition,
    number: Partition,
    isolation: IsolationLevel,
    contents: &mut Contents,
) -> Result<(), ClientError> {
    let mut consumer = consumer(client, isolation);
    let only = std::slice::from_ref(partition);
    let start = consumer.beginning_offsets(only).await?.get(partition).copied().unwrap_or_default();
    let end = consumer.end_offsets(only).await?.get(partition).copied().unwrap_or_default();
    consumer.assign(vec![partition.clone()])?;
    consumer.seek(partition, start)?;
    let mut position = start;
    while position < end {
        for batch in consumer.poll(POLL).await? {
            for record in &batch.records {
                let value = record.value.as_deref().and_then(value_of).unwrap_or(GARBLED);
                contents.put(number, record.offset.0, value, record.timestamp.0);
            }
        }
        // Where the consumer stands, not where the last batch ended: retention may have taken what was left meanwhile.
        position = consumer.position(partition).await?;
    }
    let start = consumer.beginning_offsets(only).await?.get(partition).copied().unwrap_or_default();
    scene.history.lock().log_start(number, start.0);
    Ok(())
}
