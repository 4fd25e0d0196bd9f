//! Writing and reading without a group.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use millstream_client::{
    Acks, AlterConfig, ClientError, ConfigResource, ConsumerConfig, IsolationLevel, NewTopic, OffsetReset,
    OffsetSpec, ProducerConfig, ProducerRecord, partition_for_key,
};
use millstream_env::testing::until;
use millstream_protocol::ErrorCode;
use millstream_record::{Codec, Compression, Header, Millis, Offset, TopicPartition};

use super::{Door, PATIENCE, bytes, producer_config, values};

/// What is written comes back, whatever the compression: keys, values, headers, times, partitions as Java chooses them.
pub(crate) async fn round_trip(door: &Door) {
    for compression in Compression::ALL {
        let topic = door.topic("round-trip", 3).await;
        let config = ProducerConfig { compression: Codec::from(compression), ..producer_config() };
        let producer = door.client.producer(config).unwrap();
        let mut sent = Vec::new();
        for n in 0..50 {
            let record = ProducerRecord {
                topic: Arc::clone(&topic),
                partition: None,
                timestamp: Some(Millis(1_700_000_000_000 + n)),
                key: Some(bytes(format!("key {n}"))),
                value: (n % 7 != 0).then(|| bytes(format!("value {n}"))),
                headers: vec![
                    Header::new("a", "1"),
                    Header::new("a", "2"),
                    Header { key: "b".into(), value: None },
                ],
            };
            sent.push((record.clone(), producer.send(record).await.unwrap()));
        }
        let mut expected = BTreeMap::new();
        for (record, delivery) in sent {
            let written = delivery.await.unwrap();
            let key = record.key.as_ref().unwrap();
            assert_eq!(written.partition.partition, partition_for_key(key, 3));
            assert_eq!(written.timestamp, record.timestamp.unwrap());
            expected.insert((written.partition, written.offset.unwrap()), record);
        }
        let mut consumer = door.reader(ConsumerConfig::default());
        consumer.assign((0..3).map(|p| TopicPartition::new(Arc::clone(&topic), p))).unwrap();
        let found = door.read(&mut consumer, expected.len()).await;
        for (partition, records) in found {
            let offsets: Vec<_> = records.iter().map(|record| record.offset.0).collect();
            assert_eq!(offsets, (0..records.len() as i64).collect::<Vec<_>>());
            for record in records {
                let sent = expected.remove(&(partition.clone(), record.offset)).unwrap();
                assert_eq!((record.key, record.value, record.headers), (sent.key, sent.value, sent.headers));
                assert_eq!(Some(record.timestamp), sent.timestamp);
            }
        }
        assert_eq!(expected.len(), 0, "{compression}");
        producer.close().await.unwrap();
    }
}

/// With `acks=0` a request goes once, also where a part of it is refused: the other part must not stand twice.
pub(crate) async fn without_acks(door: &Door) {
    const RECORDS: usize = 3;
    let topic = door.name("acks-0");
    let new = NewTopic::new(Arc::clone(&topic), 2).with_config("max.message.bytes", "300");
    door.client.admin().ensure_topic(new).await.unwrap();
    let config = ProducerConfig {
        acks: Acks::None,
        enable_idempotence: false,
        linger_ms: 60_000, // both partitions go in one request
        ..ProducerConfig::default()
    };
    let producer = door.client.producer(config).unwrap();
    for n in 0..RECORDS {
        for (partition, value) in [(0, n.to_string()), (1, "x".repeat(400))] {
            let record = ProducerRecord::new(Arc::clone(&topic), bytes(value)).with_partition(partition);
            drop(producer.send(record).await.unwrap());
        }
    }
    door.env.timeout(PATIENCE, producer.flush()).await.expect("nothing is waited for").unwrap();
    let mut consumer = door.reader(ConsumerConfig::default());
    let partitions = [0, 1].map(|p| TopicPartition::new(Arc::clone(&topic), p));
    consumer.assign(partitions.clone()).unwrap();
    let found = door.read(&mut consumer, RECORDS).await;
    assert_eq!(values(&found[&partitions[0]]), ["0", "1", "2"]);
}

/// Many small batches in flight: each record once, in order.
pub(crate) async fn order_and_once(door: &Door) {
    const RECORDS: usize = 20_000;
    let topic = door.topic("order", 2).await;
    let config = ProducerConfig { batch_size: 2_000, buffer_memory: 200_000, ..producer_config() };
    let producer = door.client.producer(config).unwrap();
    for n in 0..RECORDS {
        let record = ProducerRecord::new(Arc::clone(&topic), bytes(n)).with_partition((n % 2) as i32);
        drop(producer.send(record).await.unwrap());
    }
    producer.flush().await.unwrap();
    let mut consumer = door.reader(ConsumerConfig::default());
    let partitions = [0, 1].map(|p| TopicPartition::new(Arc::clone(&topic), p));
    consumer.assign(partitions.clone()).unwrap();
    let found = door.read(&mut consumer, RECORDS).await;
    for (p, partition) in partitions.iter().enumerate() {
        let expected: Vec<_> = (p..RECORDS).step_by(2).map(|n| n.to_string()).collect();
        assert_eq!(values(&found[partition]), expected);
    }
}

/// Positions, searches by time, pauses.
pub(crate) async fn seeking(door: &Door) {
    let topic = door.topic("seek", 1).await;
    let partition = TopicPartition::new(Arc::clone(&topic), 0);
    let producer = door.client.producer(producer_config()).unwrap();
    for n in 0..10i64 {
        let record = ProducerRecord {
            timestamp: Some(Millis(1000 * (n + 1))),
            ..ProducerRecord::new(Arc::clone(&topic), bytes(n))
        };
        producer.send(record).await.unwrap().await.unwrap();
    }
    let mut consumer = door.reader(ConsumerConfig { max_poll_records: 4, ..ConsumerConfig::default() });
    consumer.assign([partition.clone()]).unwrap();
    let one = std::slice::from_ref(&partition);
    assert_eq!(consumer.position(&partition).await.unwrap(), Offset(0));
    assert_eq!(consumer.end_offsets(one).await.unwrap()[&partition], Offset(10));
    assert_eq!(consumer.beginning_offsets(one).await.unwrap()[&partition], Offset(0));
    for (time, expected) in
        [(0, Some(0)), (3000, Some(2)), (3001, Some(3)), (10_000, Some(9)), (10_001, None)]
    {
        let times = BTreeMap::from([(partition.clone(), Millis(time))]);
        let found = consumer.offsets_for_times(&times).await.unwrap();
        assert_eq!(found.get(&partition).map(|found| found.offset.0), expected, "{time}");
    }
    for (seek, first) in [(7, "7"), (0, "0"), (3, "3")] {
        consumer.seek(&partition, Offset(seek)).unwrap();
        let polled = consumer.poll(Duration::from_secs(10)).await.unwrap();
        assert_eq!(values(&polled[0].records)[0], first);
        assert!(polled[0].records.len() <= 4);
        assert_eq!(consumer.position(&partition).await.unwrap(), polled[0].next_offset);
        assert_eq!(polled[0].high_watermark, Offset(10));
    }
    consumer.pause(one).unwrap();
    assert_eq!(consumer.paused().len(), 1);
    assert_eq!(consumer.poll(Duration::from_millis(300)).await.unwrap(), []);
    consumer.resume(one).unwrap();
    assert_eq!(values(&consumer.poll(Duration::from_secs(10)).await.unwrap()[0].records), ["7", "8", "9"]);
    consumer.seek_to_beginning(one).unwrap();
    assert_eq!(values(&consumer.poll(Duration::from_secs(10)).await.unwrap()[0].records)[0], "0");
    consumer.seek_to_end(one).unwrap();
    assert_eq!(consumer.poll(Duration::from_millis(500)).await.unwrap(), []);
    assert_eq!(consumer.position(&partition).await.unwrap(), Offset(10));
    // Out of range: by the policy, here the beginning.
    consumer.seek(&partition, Offset(99)).unwrap();
    assert_eq!(values(&consumer.poll(Duration::from_secs(10)).await.unwrap()[0].records)[0], "0");
}

/// Records of a partition that are read over many fetches.
const IN_MANY_FETCHES: usize = 400;
/// So long a fetch waits when there is nothing. Were it waited for before every other one, they took longer than a test waits.
const FETCH_WAIT_MS: i32 = 5_000;

/// Writes values of 100 bytes to partition 0 of `topic`, a fetch's worth or more in each batch.
async fn write_to_the_first(door: &Door, topic: &Arc<str>) {
    let producer = door.client.producer(ProducerConfig { batch_size: 1_000, ..producer_config() }).unwrap();
    for n in 0..IN_MANY_FETCHES {
        let record = ProducerRecord::new(Arc::clone(topic), bytes(format!("{n:0100}"))).with_partition(0);
        drop(producer.send(record).await.unwrap());
    }
    producer.close().await.unwrap();
}

/// Reads little with each fetch, and waits long for it.
fn in_many_fetches() -> ConsumerConfig {
    ConsumerConfig {
        max_poll_records: 1,
        max_partition_fetch_bytes: 1_000,
        fetch_max_wait_ms: FETCH_WAIT_MS,
        ..ConsumerConfig::default()
    }
}

/// A partition in which nothing happens does not hold up another one of its leader.
pub(crate) async fn an_idle_partition(door: &Door) {
    let topic = door.topic("idle", 2).await;
    write_to_the_first(door, &topic).await;
    let mut consumer = door.reader(in_many_fetches());
    let [full, idle] = [0, 1].map(|p| TopicPartition::new(Arc::clone(&topic), p));
    consumer.assign([full.clone(), idle]).unwrap();
    let found = door.read(&mut consumer, IN_MANY_FETCHES).await;
    let expected: Vec<_> = (0..IN_MANY_FETCHES).map(|n| format!("{n:0100}")).collect();
    assert_eq!(values(&found[&full]), expected);
}

/// Nor does one that is paused while records of it lie there unread; those come once it is resumed.
pub(crate) async fn a_paused_partition(door: &Door) {
    let topic = door.topic("paused", 2).await;
    write_to_the_first(door, &topic).await;
    let producer = door.client.producer(producer_config()).unwrap();
    for n in 0..3 {
        let record = ProducerRecord::new(Arc::clone(&topic), bytes(n)).with_partition(1);
        drop(producer.send(record).await.unwrap());
    }
    producer.close().await.unwrap();
    let mut consumer = door.reader(in_many_fetches());
    let [full, paused] = [0, 1].map(|p| TopicPartition::new(Arc::clone(&topic), p));
    consumer.assign([paused.clone()]).unwrap();
    let first = door.poll_one(&mut consumer).await;
    assert_eq!(values(&first), ["0"], "the other two came with it and lie there");
    consumer.pause(std::slice::from_ref(&paused)).unwrap();
    consumer.assign([full.clone(), paused.clone()]).unwrap();
    let found = door.read(&mut consumer, IN_MANY_FETCHES).await;
    assert_eq!(found[&full].len(), IN_MANY_FETCHES);
    consumer.resume(&[paused]).unwrap();
    let rest = [door.poll_one(&mut consumer).await, door.poll_one(&mut consumer).await].concat();
    assert_eq!(values(&rest), ["1", "2"]);
}

/// What is refused, and in which words.
pub(crate) async fn refusals(door: &Door) {
    let topic = door.topic("refusals", 1).await;
    let partition = TopicPartition::new(Arc::clone(&topic), 0);
    let producer = door.client.producer(ProducerConfig { max_block_ms: 500, ..producer_config() }).unwrap();
    let send = async |record| producer.send(record).await.map(drop).unwrap_err();
    let unknown = send(ProducerRecord::new(door.name("unknown"), "x")).await;
    assert_eq!(unknown.code(), Some(ErrorCode::UnknownTopicOrPartition), "{unknown}");
    let beyond = send(ProducerRecord::new(Arc::clone(&topic), "x").with_partition(1)).await;
    assert!(matches!(beyond, ClientError::NoSuchPartition { partition: 1, partitions: 1, .. }), "{beyond}");
    let large = send(ProducerRecord::new(Arc::clone(&topic), vec![0; 2 << 20])).await;
    assert!(matches!(large, ClientError::RecordTooLarge { .. }), "{large}");
    producer.close().await.unwrap();
    let closed = send(ProducerRecord::new(Arc::clone(&topic), "x")).await;
    assert!(matches!(closed, ClientError::Closed { .. }), "{closed}");

    let none = ConsumerConfig { auto_offset_reset: OffsetReset::None, ..ConsumerConfig::default() };
    let mut consumer = door.client.consumer(none).unwrap();
    consumer.assign([partition.clone()]).unwrap();
    let lost = consumer.poll(Duration::from_secs(10)).await.unwrap_err();
    assert!(matches!(lost, ClientError::NoOffset { .. }), "{lost}");
    consumer.seek(&partition, Offset(5)).unwrap();
    let gone = consumer.poll(Duration::from_secs(10)).await.unwrap_err();
    assert!(matches!(gone, ClientError::OffsetOutOfRange { position: Offset(5), .. }), "{gone}");
    let other = consumer.seek(&TopicPartition::new(topic, 1), Offset(0)).unwrap_err();
    assert!(matches!(other, ClientError::NotAssigned { .. }), "{other}");
}

/// Topics and their settings.
pub(crate) async fn administration(door: &Door) {
    let admin = door.client.admin();
    let name = door.name("admin");
    let topic = NewTopic::new(Arc::clone(&name), 1).with_config("retention.ms", "123456");
    let id = admin.create_topics(std::slice::from_ref(&topic)).await.unwrap().remove(&name).unwrap().unwrap();
    assert!(!id.is_zero());
    let again = admin.create_topics(&[topic]).await.unwrap().remove(&name).unwrap().unwrap_err();
    assert_eq!(again.code(), Some(ErrorCode::TopicAlreadyExists), "{again}");
    let described = admin.ensure_topic(NewTopic::new(Arc::clone(&name), 1)).await.unwrap();
    assert_eq!((described.id, described.partitions.len()), (id, 1));
    assert!(admin.list_topics().await.unwrap().contains(&name));

    let resource = ConfigResource::Topic(Arc::clone(&name));
    let setting = async |wanted: &str| {
        let found = admin.describe_configs(&resource).await.unwrap();
        let entry = found.into_iter().find(|entry| &*entry.name == wanted).unwrap();
        (entry.value.map(|value| value.to_string()).unwrap(), entry.is_default)
    };
    assert_eq!(setting("retention.ms").await, ("123456".to_owned(), false));
    let set = [AlterConfig::Set("retention.ms".into(), "654321".into())];
    admin.incremental_alter_configs(&resource, &set).await.unwrap();
    until(&door.env, "the new setting", async || setting("retention.ms").await.0 == "654321").await;
    let wrong = [AlterConfig::Set("retention.ms".into(), "many".into())];
    let refused = admin.incremental_alter_configs(&resource, &wrong).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::InvalidConfig), "{refused}");

    admin.create_partitions(&name, 3).await.unwrap();
    until(&door.env, "the new partitions", async || {
        let found = admin.describe_topics(&[&name]).await.unwrap().remove(&name).unwrap();
        found.is_ok_and(|topic| {
            topic.partitions.len() == 3 && topic.partitions.iter().all(|p| p.leader.is_some())
        })
    })
    .await;
    let wanted = (0..3).map(|p| (TopicPartition::new(Arc::clone(&name), p), OffsetSpec::Latest)).collect();
    let ends = admin.list_offsets(&wanted, IsolationLevel::ReadUncommitted).await.unwrap();
    assert!(ends.len() == 3 && ends.values().all(|end| end.as_ref().unwrap().unwrap().offset == Offset(0)));
    assert!(!admin.describe_cluster().await.unwrap().brokers.is_empty());

    admin.delete_topics(&[&name]).await.unwrap().remove(&name).unwrap().unwrap();
    until(&door.env, "the topic to go", async || {
        admin.describe_topics(&[&name]).await.unwrap().remove(&name).is_none_or(|topic| topic.is_err())
    })
    .await;
}
