//! Requests of transactions: of those that are not there, and of one that is open.

use bytestring::ByteString;
use millstream_protocol::messages::add_partitions_to_txn::{
    AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction,
};
use millstream_protocol::messages::produce::{PartitionProduceData, TopicProduceData};
use millstream_protocol::messages::txn_offset_commit::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use millstream_protocol::messages::*;
use millstream_protocol::{Request, Response};
use millstream_record::{BatchBuilder, BatchOptions, Millis, ProducerEpoch, ProducerId, Uuid};

use super::Asked;

const TIMEOUT_MS: i32 = 60_000;
/// A producer id that nobody was given.
const NOBODY: i64 = 1 << 40;
const GROUP: &str = "errors-group";

/// A transactional producer.
#[derive(Clone, Debug, Default)]
pub(super) struct Producer {
    transactional_id: ByteString,
    id: i64,
    epoch: i16,
}

impl Producer {
    /// One whose transaction is open, in its second epoch, with a partition in it.
    pub(super) async fn begin(asked: &Asked) -> Self {
        let transactional_id = ByteString::from(format!("{}-open", asked.topic));
        let mut producer = Self { transactional_id, ..Self::default() };
        let coordinator_keys = vec![producer.transactional_id.clone()];
        let find = FindCoordinatorRequest { key_type: 1, coordinator_keys, ..Default::default() };
        asked.settled(find.into()).await; // which makes the topic that it keeps transactions in
        for _ in 0..2 {
            let answer = asked.settled(init(Some(&producer.transactional_id), TIMEOUT_MS, -1, -1)).await;
            let Response::InitProducerId(begun) = answer else {
                panic!("not an answer to begin: {answer:?}")
            };
            (producer.id, producer.epoch) = (begun.producer_id, begun.producer_epoch);
        }
        assert_eq!(producer.epoch, 1, "there is an older epoch");
        asked.codes(producer.add(&asked.topic)).await;
        producer
    }

    fn add(&self, topic: &ByteString) -> Request {
        let topics = vec![AddPartitionsToTxnTopic { name: topic.clone(), partitions: vec![0] }];
        let transaction = AddPartitionsToTxnTransaction {
            transactional_id: self.transactional_id.clone(),
            producer_id: self.id,
            producer_epoch: self.epoch,
            topics,
            ..AddPartitionsToTxnTransaction::default()
        };
        Request::from(AddPartitionsToTxnRequest { transactions: vec![transaction], ..Default::default() })
    }

    fn add_offsets(&self, group: &str) -> Request {
        Request::from(AddOffsetsToTxnRequest {
            transactional_id: self.transactional_id.clone(),
            producer_id: self.id,
            producer_epoch: self.epoch,
            group_id: group.into(),
        })
    }

    fn end(&self, committed: bool) -> Request {
        Request::from(EndTxnRequest {
            transactional_id: self.transactional_id.clone(),
            producer_id: self.id,
            producer_epoch: self.epoch,
            committed,
        })
    }

    /// An offset of `topic`, as part of the transaction; `member` with its generation.
    fn commit(&self, topic: &ByteString, group: &str, member: (&str, i32)) -> TxnOffsetCommitRequest {
        let partition = TxnOffsetCommitRequestPartition { committed_offset: 1, ..Default::default() };
        TxnOffsetCommitRequest {
            transactional_id: self.transactional_id.clone(),
            group_id: group.into(),
            producer_id: self.id,
            producer_epoch: self.epoch,
            generation_id: member.1,
            member_id: member.0.into(),
            topics: vec![TxnOffsetCommitRequestTopic { name: topic.clone(), partitions: vec![partition] }],
            ..TxnOffsetCommitRequest::default()
        }
    }

    /// A batch whose first sequence is this one.
    fn produce(&self, topic: &ByteString, topic_id: Uuid, sequence: i32, transactional: bool) -> Request {
        let mut builder = BatchBuilder::new(BatchOptions {
            producer_id: ProducerId(self.id),
            producer_epoch: ProducerEpoch(self.epoch),
            base_sequence: sequence,
            transactional,
            ..BatchOptions::default()
        });
        builder.append(Millis(1_700_000_000_000), None, Some(b"v"), &[]).unwrap();
        let records = Some(builder.build().unwrap().freeze());
        let partition_data = vec![PartitionProduceData { index: 0, records }];
        Request::from(ProduceRequest {
            transactional_id: Some(self.transactional_id.clone())
                .filter(|id| transactional && !id.is_empty()),
            acks: -1,
            timeout_ms: 5000,
            topic_data: vec![TopicProduceData { name: topic.clone(), topic_id, partition_data }],
        })
    }
}

fn init(id: Option<&str>, transaction_timeout_ms: i32, producer_id: i64, producer_epoch: i16) -> Request {
    Request::from(InitProducerIdRequest {
        transactional_id: id.map(ByteString::from),
        transaction_timeout_ms,
        producer_id,
        producer_epoch,
        ..InitProducerIdRequest::default()
    })
}

/// Requests of transactions that are not there, and of producers that nobody knows.
pub(super) fn without_any(topic: &ByteString) -> Vec<(&'static str, Request)> {
    let (known, unknown) = ("errors-transaction", ByteString::from_static("unknown-topic"));
    let nobody = |id: &str| Producer { transactional_id: id.into(), id: NOBODY, epoch: 0 };
    let (other, lost, nameless) = (nobody(known), nobody("errors-unknown"), nobody(""));
    vec![
        ("an idempotent producer", init(None, TIMEOUT_MS, -1, -1)),
        ("begins", init(Some(known), TIMEOUT_MS, -1, -1)),
        ("begins without an id", init(Some(""), TIMEOUT_MS, -1, -1)),
        ("begins for too long", init(Some(known), i32::MAX, -1, -1)),
        ("begins for less than nothing", init(Some(known), -1, -1, -1)),
        ("begins for no time", init(Some(known), 0, -1, -1)),
        ("begins as another producer", init(Some(known), TIMEOUT_MS, NOBODY, 0)),
        ("begins with an epoch alone", init(Some(known), TIMEOUT_MS, -1, 3)),
        ("adds as another producer", other.add(topic)),
        ("adds to an unknown transaction", lost.add(topic)),
        ("adds without an id", nameless.add(topic)),
        ("adds an unknown topic", other.add(&unknown)),
        ("adds offsets as another producer", other.add_offsets(GROUP)),
        ("adds offsets to an unknown transaction", lost.add_offsets(GROUP)),
        ("adds offsets without a group", other.add_offsets("")),
        ("ends as another producer", other.end(true)),
        ("ends an unknown transaction", lost.end(true)),
        ("ends without an id", nameless.end(true)),
        ("ends to abort an unknown transaction", lost.end(false)),
        ("commits offsets of an unknown transaction", lost.commit(topic, GROUP, ("", -1)).into()),
        ("commits offsets without an id", nameless.commit(topic, GROUP, ("", -1)).into()),
    ]
}

/// Requests of a transaction that is open, in this order; the last ones end it.
pub(super) fn while_one_is_open(
    topic: &ByteString,
    topic_id: Uuid,
    open: &Producer,
) -> Vec<(&'static str, Request)> {
    let unknown = ByteString::from_static("unknown-topic");
    let in_epoch = |epoch| Producer { epoch, ..open.clone() };
    let (before, behind) = (in_epoch(open.epoch - 1), in_epoch(open.epoch + 1));
    let other = Producer { id: NOBODY, ..open.clone() };
    let nameless = Producer { transactional_id: ByteString::new(), ..open.clone() };
    let commit = |member: (&str, i32)| open.commit(topic, GROUP, member);
    let with_partition = |change: fn(&mut TxnOffsetCommitRequestPartition)| {
        let mut request = commit(("", -1));
        change(&mut request.topics[0].partitions[0]);
        Request::from(request)
    };
    vec![
        ("open: adds the same partition", open.add(topic)),
        ("open: adds an unknown topic", open.add(&unknown)),
        ("open: adds in the epoch before", before.add(topic)),
        ("open: adds in an epoch to come", behind.add(topic)),
        ("open: adds as another producer", other.add(topic)),
        ("open: begins as another producer", init(Some(&open.transactional_id), TIMEOUT_MS, NOBODY, 0)),
        ("open: produces", open.produce(topic, topic_id, 0, true)),
        ("open: produces again", open.produce(topic, topic_id, 0, true)),
        ("open: produces without naming it", nameless.produce(topic, topic_id, 1, true)),
        ("open: produces with a gap", open.produce(topic, topic_id, 7, true)),
        ("open: produces outside of it", open.produce(topic, topic_id, 1, false)),
        ("open: produces in the epoch before", before.produce(topic, topic_id, 0, true)),
        ("open: adds offsets", open.add_offsets(GROUP)),
        ("open: adds offsets in the epoch before", before.add_offsets(GROUP)),
        ("open: adds offsets without a group", open.add_offsets("")),
        ("open: commits offsets", commit(("", -1)).into()),
        ("open: commits offsets without a group", open.commit(topic, "", ("", -1)).into()),
        ("open: commits offsets as nobody knows", commit(("nobody", 1)).into()),
        ("open: commits offsets of a generation alone", commit(("", 1)).into()),
        ("open: commits offsets in the epoch before", before.commit(topic, GROUP, ("", -1)).into()),
        ("open: commits offsets as another producer", other.commit(topic, GROUP, ("", -1)).into()),
        ("open: commits offsets of an unknown topic", open.commit(&unknown, GROUP, ("", -1)).into()),
        ("open: commits offsets of an unknown partition", with_partition(|at| at.partition_index = 99)),
        ("open: commits a negative offset", with_partition(|at| at.committed_offset = -5)),
        (
            "open: commits too much metadata",
            with_partition(|at| at.committed_metadata = Some("m".repeat(5000).into())),
        ),
        ("open: ends in the epoch before", before.end(true)),
        ("open: ends in an epoch to come", behind.end(true)),
        ("open: ends as another producer", other.end(true)),
        ("open: ends", open.end(true)),
        ("open: ends again", open.end(true)),
        ("open: aborts what was committed", open.end(false)),
        ("open: commits offsets at its end", commit(("", -1)).into()),
    ]
}
