//! Batches that are larger than their topic takes.

use std::sync::Arc;

use millstream_client::{ConsumerConfig, IsolationLevel, NewTopic, Producer, ProducerConfig, ProducerRecord};
use millstream_protocol::ErrorCode;
use millstream_record::{Codec, Compression, Offset, TopicPartition};

use super::{Door, bytes, values};

const MOST_BYTES: usize = 2_000;
const RECORDS: usize = 600;
/// A record that is too large by itself, among the others.
const HUGE: usize = 333;

/// A hundred bytes, of which compression leaves half.
fn value(n: usize) -> String {
    let digits = |k: u64| format!("{:016x}", (n as u64 * 31 + k).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    (1..7).fold(format!("{n:04}"), |text, k| text + &digits(k))
}

/// Batches of some fifty records, of which the topic takes fewer than twenty.
fn too_large() -> ProducerConfig {
    ProducerConfig { batch_size: 6_000, linger_ms: 1_000, ..ProducerConfig::default() }
}

async fn small_topic(door: &Door) -> Arc<str> {
    let name = door.name("large");
    let topic = NewTopic::new(Arc::clone(&name), 1).with_config("max.message.bytes", MOST_BYTES.to_string());
    door.client.admin().ensure_topic(topic).await.unwrap();
    name
}

/// Sends the records, the first one before all others, so that several batches may be on their way; `huge` is too large.
async fn send(producer: &Producer, topic: &Arc<str>, huge: Option<usize>) {
    let mut deliveries = Vec::new();
    for n in 0..RECORDS {
        let value = if huge == Some(n) { "x".repeat(2 * MOST_BYTES) } else { value(n) };
        let record = ProducerRecord::new(Arc::clone(topic), bytes(value)).with_partition(0);
        deliveries.push(producer.send(record).await.unwrap());
        if n == 0 {
            producer.flush().await.unwrap();
        }
    }
    let flushed = producer.flush().await;
    assert_eq!(flushed.is_err(), huge.is_some(), "{flushed:?}");
    let mut offset = 0;
    for (n, delivery) in deliveries.into_iter().enumerate() {
        match delivery.await {
            Ok(written) => {
                assert_ne!(huge, Some(n));
                // A link that broke may have taken the offset with it.
                assert!(written.offset.is_none_or(|at| at == Offset(offset)), "record {n} is at {written:?}");
                offset += 1;
            }
            Err(error) => {
                assert_eq!(huge, Some(n), "{error}");
                assert_eq!(error.code(), Some(ErrorCode::MessageTooLarge), "{error}");
            }
        }
    }
}

async fn check_written(door: &Door, topic: &Arc<str>, without: Option<usize>) {
    let partition = TopicPartition::new(Arc::clone(topic), 0);
    let config =
        ConsumerConfig { isolation_level: IsolationLevel::ReadCommitted, ..ConsumerConfig::default() };
    let mut consumer = door.reader(config);
    consumer.assign([partition.clone()]).unwrap();
    let expected: Vec<_> = (0..RECORDS).filter(|n| Some(*n) != without).map(value).collect();
    let found = door.read(&mut consumer, expected.len()).await;
    assert_eq!(values(&found[&partition]), expected);
}

/// They go in parts: all records are there, once and in order.
pub(crate) async fn batches_are_split(door: &Door) {
    let codec = Codec::from(Compression::Zstd);
    for config in [
        too_large(),
        ProducerConfig { enable_idempotence: false, max_in_flight: 1, ..too_large() },
        ProducerConfig { compression: codec, batch_size: 60_000, ..too_large() },
    ] {
        let topic = small_topic(door).await;
        let producer = door.client.producer(config).unwrap();
        send(&producer, &topic, None).await;
        producer.close().await.unwrap();
        check_written(door, &topic, None).await;
    }
}

/// Also in a transaction, which does not fail for it.
pub(crate) async fn transactions_are_split(door: &Door) {
    let topic = small_topic(door).await;
    let id = door.name("large");
    let config = ProducerConfig { transactional_id: Some((&*id).into()), ..too_large() };
    let producer = door.client.producer(config).unwrap();
    producer.init_transactions().await.unwrap();
    producer.begin_transaction().unwrap();
    send(&producer, &topic, None).await;
    producer.commit_transaction().await.unwrap();
    check_written(door, &topic, None).await;
    // And over the next one's batches, whose sequences go on.
    let topic = small_topic(door).await;
    producer.begin_transaction().unwrap();
    send(&producer, &topic, None).await;
    producer.commit_transaction().await.unwrap();
    check_written(door, &topic, None).await;
}

/// A record that is too large by itself fails, and nothing else does: not its neighbours, nor what comes behind it.
pub(crate) async fn a_huge_record_fails_alone(door: &Door) {
    let topic = small_topic(door).await;
    let producer = door.client.producer(too_large()).unwrap();
    send(&producer, &topic, Some(HUGE)).await;
    producer.close().await.unwrap();
    check_written(door, &topic, Some(HUGE)).await;
}

/// However often links break meanwhile.
pub(crate) async fn batches_are_split_through_faults(door: &Door) {
    for seed in 1..=3 {
        let topic = small_topic(door).await;
        let producer = door.flaky(seed).client.producer(too_large()).unwrap();
        send(&producer, &topic, Some(HUGE)).await;
        check_written(door, &topic, Some(HUGE)).await;
    }
}
