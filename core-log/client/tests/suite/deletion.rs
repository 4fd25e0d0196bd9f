//! Deleting records on request.

use std::collections::BTreeMap;
use std::sync::Arc;

use millstream_client::{
    ClientError, ConsumerConfig, IsolationLevel, NewTopic, OffsetReset, OffsetSpec, ProducerRecord,
    RecordsToDelete,
};
use millstream_protocol::ErrorCode;
use millstream_record::{Offset, TopicPartition};

use super::{Door, PATIENCE, bytes, producer_config, values};

async fn write(door: &Door, topic: &Arc<str>, partition: i32, count: i32) {
    let producer = door.client.producer(producer_config()).unwrap();
    for n in 0..count {
        let record = ProducerRecord::new(Arc::clone(topic), bytes(n)).with_partition(partition);
        producer.send(record).await.unwrap().await.unwrap();
    }
    producer.close().await.unwrap();
}

async fn delete(
    door: &Door,
    wanted: impl IntoIterator<Item = (TopicPartition, RecordsToDelete)>,
) -> BTreeMap<TopicPartition, Result<Offset, ClientError>> {
    let wanted = wanted.into_iter().collect();
    door.apart().client.admin().delete_records(&wanted).await.unwrap()
}

/// What is deleted is gone for whoever asks where the log begins, and for consumers, who are sent to where it begins now.
pub(crate) async fn of_records(door: &Door) {
    let topic = door.topic("delete", 2).await;
    let [first, second] = [0, 1].map(|p| TopicPartition::new(Arc::clone(&topic), p));
    write(door, &topic, 0, 10).await;
    write(door, &topic, 1, 4).await;
    let mut behind = door.reader(ConsumerConfig { max_poll_records: 2, ..ConsumerConfig::default() });
    behind.assign([first.clone()]).unwrap();
    assert_eq!(values(&door.poll_one(&mut behind).await), ["0", "1"]);

    let wanted =
        [(first.clone(), RecordsToDelete::Before(Offset(6))), (second.clone(), RecordsToDelete::All)];
    let deleted = delete(door, wanted).await;
    assert_eq!((&deleted[&first], &deleted[&second]), (&Ok(Offset(6)), &Ok(Offset(4))));
    let earliest = [&first, &second].map(|partition| (partition.clone(), OffsetSpec::Earliest)).into();
    let begins = door.client.admin().list_offsets(&earliest, IsolationLevel::ReadUncommitted).await.unwrap();
    let begin = |partition| begins[partition].as_ref().unwrap().unwrap().offset;
    assert_eq!((begin(&first), begin(&second)), (Offset(6), Offset(4)));

    // Below where the log begins already: no error, and nothing happens.
    for less in [0, 3, 6] {
        let again = delete(door, [(first.clone(), RecordsToDelete::Before(Offset(less)))]).await;
        assert_eq!(again[&first], Ok(Offset(6)), "{less}");
    }
    let mut consumer = door.reader(ConsumerConfig::default());
    consumer.assign([first.clone(), second.clone()]).unwrap();
    assert_eq!(values(&door.read(&mut consumer, 4).await[&first]), ["6", "7", "8", "9"]);
    // The log goes on where it ended.
    write(door, &topic, 1, 1).await;
    assert_eq!(door.read(&mut consumer, 1).await[&second][0].offset, Offset(4));

    // Who had read less begins anew, by its policy; without one it is told so.
    behind.seek(&first, Offset(2)).unwrap();
    assert_eq!(door.poll_one(&mut behind).await[0].offset, Offset(6));
    let strict = ConsumerConfig { auto_offset_reset: OffsetReset::None, ..ConsumerConfig::default() };
    let mut strict = door.client.consumer(strict).unwrap();
    strict.assign([first.clone()]).unwrap();
    strict.seek(&first, Offset(5)).unwrap();
    match strict.poll(PATIENCE).await {
        Err(ClientError::OffsetOutOfRange { position, .. }) => assert_eq!(position, Offset(5)),
        other => panic!("{other:?}"),
    }
}

/// What cannot be deleted is refused, each by itself.
pub(crate) async fn refusals(door: &Door) {
    let topic = door.topic("delete-refused", 2).await;
    let compacted = door.name("delete-compacted");
    let policy = NewTopic::new(Arc::clone(&compacted), 1).with_config("cleanup.policy", "compact");
    door.client.admin().ensure_topic(policy).await.unwrap();
    write(door, &topic, 0, 3).await;
    write(door, &topic, 1, 3).await;
    let [first, second] = [0, 1].map(|p| TopicPartition::new(Arc::clone(&topic), p));
    let compacted = TopicPartition::new(compacted, 0);
    let wanted = [
        (first.clone(), RecordsToDelete::Before(Offset(4))),
        (second.clone(), RecordsToDelete::Before(Offset(1))),
        (compacted.clone(), RecordsToDelete::All),
    ];
    let deleted = delete(door, wanted).await;
    let code = |partition| deleted[partition].as_ref().unwrap_err().code();
    assert_eq!(code(&first), Some(ErrorCode::OffsetOutOfRange));
    assert_eq!(code(&compacted), Some(ErrorCode::PolicyViolation));
    assert_eq!(deleted[&second], Ok(Offset(1)), "the others are done");
    let negative = delete(door, [(first.clone(), RecordsToDelete::Before(Offset(-2)))]).await;
    assert_eq!(negative[&first].as_ref().unwrap_err().code(), Some(ErrorCode::OffsetOutOfRange));
    let mut consumer = door.reader(ConsumerConfig::default());
    consumer.assign([first.clone()]).unwrap();
    assert_eq!(values(&door.read(&mut consumer, 3).await[&first]), ["0", "1", "2"], "nothing went");
}
