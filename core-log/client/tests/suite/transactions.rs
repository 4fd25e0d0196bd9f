//! Transactions.

use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use millstream_client::{
    ClientError, ConsumerConfig, IsolationLevel, OffsetAndMetadata, Offsets, Producer, ProducerConfig,
    ProducerRecord,
};
use millstream_env::testing::until;
use millstream_record::{LeaderEpoch, Offset, TopicPartition};

use super::{Door, bytes, values};

async fn transactional(door: &Door, id: &str) -> Producer {
    let config = ProducerConfig { linger_ms: 1, ..ProducerConfig::transactional(id) };
    let producer = door.client.producer(config).unwrap();
    producer.init_transactions().await.unwrap();
    producer
}

fn committed() -> ConsumerConfig {
    ConsumerConfig { isolation_level: IsolationLevel::ReadCommitted, ..ConsumerConfig::default() }
}

/// Committed records are seen by all, aborted ones by those who read uncommitted only.
pub(crate) async fn commit_and_abort(door: &Door) {
    let topic = door.topic("txn", 1).await;
    let partition = TopicPartition::new(Arc::clone(&topic), 0);
    let producer = transactional(door, &door.name("txn")).await;
    let early = producer.send(ProducerRecord::new(Arc::clone(&topic), "x")).await.map(drop).unwrap_err();
    assert!(matches!(early, ClientError::State { .. }), "{early}");
    for (values, commit) in [(["a", "b"], true), (["c", "d"], false), (["e", "f"], true)] {
        producer.begin_transaction().unwrap();
        for value in values {
            producer.send(ProducerRecord::new(Arc::clone(&topic), value)).await.unwrap().await.unwrap();
        }
        match commit {
            true => producer.commit_transaction().await.unwrap(),
            false => producer.abort_transaction().await.unwrap(),
        }
    }
    // Nothing in it: nothing to be told.
    producer.begin_transaction().unwrap();
    producer.commit_transaction().await.unwrap();
    // An open one is not seen, nor what comes after it.
    producer.begin_transaction().unwrap();
    producer.send(ProducerRecord::new(Arc::clone(&topic), "g")).await.unwrap().await.unwrap();
    for (config, expected) in [
        (committed(), vec!["a", "b", "e", "f"]),
        (ConsumerConfig::default(), vec!["a", "b", "c", "d", "e", "f", "g"]),
    ] {
        let mut consumer = door.reader(config);
        consumer.assign([partition.clone()]).unwrap();
        let found = door.read(&mut consumer, expected.len()).await;
        assert_eq!(values(&found[&partition]), expected);
    }
    let mut consumer = door.reader(committed());
    consumer.assign([partition.clone()]).unwrap();
    door.read(&mut consumer, 4).await;
    let stable = consumer.position(&partition).await.unwrap();
    assert_eq!(consumer.end_offsets(std::slice::from_ref(&partition)).await.unwrap()[&partition], stable);
    producer.commit_transaction().await.unwrap();
    assert_eq!(values(&door.read(&mut consumer, 1).await[&partition]), ["g"]);
}

/// Offsets and records take effect together, or not at all.
pub(crate) async fn consume_transform_produce(door: &Door) {
    let (input, output) = (door.topic("in", 1).await, door.topic("out", 1).await);
    let (from, to) =
        (TopicPartition::new(Arc::clone(&input), 0), TopicPartition::new(Arc::clone(&output), 0));
    let group = ByteString::from(&*door.name("group"));
    let feeder = door.client.producer(super::producer_config()).unwrap();
    for n in 0..6 {
        drop(feeder.send(ProducerRecord::new(Arc::clone(&input), bytes(n))).await.unwrap());
    }
    feeder.close().await.unwrap();
    let producer = transactional(door, &door.name("ctp")).await;
    for commit in [false, true] {
        let mut consumer = door.reader(ConsumerConfig { group_id: Some(group.clone()), ..committed() });
        consumer.subscribe([Arc::clone(&input)], None).unwrap();
        let found = door.read(&mut consumer, 6).await; // from the beginning, both times
        producer.begin_transaction().unwrap();
        for record in &found[&from] {
            let value = format!("{}!", values(std::slice::from_ref(record))[0]);
            drop(producer.send(ProducerRecord::new(Arc::clone(&output), value.into_bytes())).await.unwrap());
        }
        let done = OffsetAndMetadata { leader_epoch: LeaderEpoch(0), ..OffsetAndMetadata::new(Offset(6)) };
        let offsets = Offsets::from([(from.clone(), done)]);
        producer.send_offsets_to_transaction(&offsets, &consumer.group_metadata()).await.unwrap();
        match commit {
            true => producer.commit_transaction().await.unwrap(),
            false => producer.abort_transaction().await.unwrap(),
        }
        consumer.close().await.unwrap();
    }
    let admin = door.client.admin();
    // A commit is answered before its markers are written; until then Kafka does not list what was never committed before.
    let committed_at = async || {
        let offsets = admin.group_offsets(group.clone()).await.unwrap();
        offsets.get(&from).map(|committed| committed.offset)
    };
    until(&door.env, "the group's offsets are committed", async || committed_at().await.is_some()).await;
    assert_eq!(committed_at().await, Some(Offset(6)));
    let mut consumer = door.reader(committed());
    consumer.assign([to.clone()]).unwrap();
    assert_eq!(values(&door.read(&mut consumer, 6).await[&to]), ["0!", "1!", "2!", "3!", "4!", "5!"]);
}

/// A second producer of the same name ends what the first one left open, and shuts it out.
pub(crate) async fn fencing(door: &Door) {
    let topic = door.topic("fence", 1).await;
    let partition = TopicPartition::new(Arc::clone(&topic), 0);
    let id = door.name("fence");
    let old = transactional(door, &id).await;
    old.begin_transaction().unwrap();
    old.send(ProducerRecord::new(Arc::clone(&topic), "old")).await.unwrap().await.unwrap();
    let new = transactional(door, &id).await;
    new.begin_transaction().unwrap();
    new.send(ProducerRecord::new(Arc::clone(&topic), "new")).await.unwrap().await.unwrap();
    new.commit_transaction().await.unwrap();
    let fenced = old.commit_transaction().await.unwrap_err();
    assert!(fenced.is_fenced() && fenced.is_fatal(), "{fenced}");
    assert!(old.begin_transaction().unwrap_err().is_fenced());
    let mut consumer = door.reader(committed());
    consumer.assign([partition.clone()]).unwrap();
    assert_eq!(values(&door.read(&mut consumer, 1).await[&partition]), ["new"]);
    assert_eq!(consumer.poll(Duration::from_millis(300)).await.unwrap(), []);
}
