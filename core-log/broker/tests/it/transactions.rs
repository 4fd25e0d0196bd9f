//! Idempotent and transactional producers.

use millstream_protocol::ErrorCode;
use millstream_protocol::messages::add_partitions_to_txn::{
    AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction,
};
use millstream_protocol::messages::txn_offset_commit::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use millstream_protocol::messages::{
    AddOffsetsToTxnRequest, AddPartitionsToTxnRequest, EndTxnRequest, FetchRequest, FindCoordinatorRequest,
    InitProducerIdRequest, ProduceRequest, TxnOffsetCommitRequest,
};
use millstream_record::BatchOptions;

use crate::groups::{committed, settled};
use crate::harness::{Harness, batch_at, fetch_request, idempotent, produce_request, values_of};

/// A transactional producer, as a client library would keep it.
struct Producer {
    transactional_id: &'static str,
    id: i64,
    epoch: i16,
    sequence: i32,
}

fn find(node: &Harness, key: &str, key_type: i8) {
    let request = FindCoordinatorRequest {
        key_type,
        coordinator_keys: vec![key.into()],
        ..FindCoordinatorRequest::default()
    };
    assert_eq!(node.call(request).coordinators[0].error_code, 0);
}

impl Producer {
    fn begin(node: &Harness, transactional_id: &'static str) -> Self {
        Self::with_timeout(node, transactional_id, 60_000)
    }

    fn with_timeout(node: &Harness, transactional_id: &'static str, transaction_timeout_ms: i32) -> Self {
        find(node, transactional_id, 1);
        let request = InitProducerIdRequest {
            transactional_id: Some(transactional_id.into()),
            transaction_timeout_ms,
            producer_id: -1,
            producer_epoch: -1,
            ..InitProducerIdRequest::default()
        };
        for _ in 0..2000 {
            let answer = node.call(request.clone());
            match ErrorCode::from_code(answer.error_code) {
                ErrorCode::None => {
                    let (id, epoch) = (answer.producer_id, answer.producer_epoch);
                    return Self { transactional_id, id, epoch, sequence: 0 };
                }
                ErrorCode::ConcurrentTransactions | ErrorCode::CoordinatorLoadInProgress => node.pause(),
                other => panic!("{other}"),
            }
        }
        panic!("the producer cannot begin");
    }

    fn add(&self, node: &Harness, topic: &str) -> ErrorCode {
        let request = AddPartitionsToTxnRequest {
            transactions: vec![AddPartitionsToTxnTransaction {
                transactional_id: self.transactional_id.into(),
                producer_id: self.id,
                producer_epoch: self.epoch,
                verify_only: false,
                topics: vec![AddPartitionsToTxnTopic { name: topic.into(), partitions: vec![0] }],
            }],
            ..AddPartitionsToTxnRequest::default()
        };
        for _ in 0..2000 {
            let answer = node.call(request.clone());
            let code = answer.results_by_transaction[0].topic_results[0].results_by_partition[0]
                .partition_error_code;
            match ErrorCode::from_code(code) {
                ErrorCode::ConcurrentTransactions | ErrorCode::CoordinatorLoadInProgress => node.pause(),
                other => return other,
            }
        }
        panic!("the last transaction does not end");
    }

    fn send(&mut self, node: &Harness, topic: &str, values: &[&str]) -> ErrorCode {
        let options = BatchOptions { transactional: true, ..idempotent(self.id, self.epoch, self.sequence) };
        let answer = node.call(ProduceRequest {
            transactional_id: Some(self.transactional_id.into()),
            ..produce_request(topic, 0, batch_at(node.now(), values, options))
        });
        let code = ErrorCode::from_code(answer.responses[0].partition_responses[0].error_code);
        if code == ErrorCode::None {
            self.sequence += i32::try_from(values.len()).unwrap();
        }
        code
    }

    fn end(&self, node: &Harness, committed: bool) -> ErrorCode {
        let answer = node.call(EndTxnRequest {
            transactional_id: self.transactional_id.into(),
            producer_id: self.id,
            producer_epoch: self.epoch,
            committed,
        });
        ErrorCode::from_code(answer.error_code)
    }
}

/// What a read-committed consumer reads from the start: it leaves out what the answer names as aborted, as clients do.
fn read_committed(node: &Harness, topic: &str) -> (Vec<String>, i64) {
    let request = FetchRequest { isolation_level: 1, ..fetch_request(topic, 0, 0) };
    let data = node.call(request).responses[0].partitions[0].clone();
    assert_eq!(ErrorCode::from_code(data.error_code), ErrorCode::None);
    let aborted = data.aborted_transactions.unwrap();
    let mut values = Vec::new();
    let mut left_out: Vec<(i64, i64)> = aborted.iter().map(|a| (a.producer_id, a.first_offset)).collect();
    for batch in millstream_record::Batches::new(data.records.unwrap()) {
        let batch = batch.unwrap();
        let header = *batch.header();
        let is_aborted =
            |&(id, first): &(i64, i64)| id == header.producer_id.0 && header.base_offset.0 >= first;
        let void = header.attributes.is_transactional() && left_out.iter().any(is_aborted);
        if header.attributes.is_control() {
            if let Some(at) = left_out.iter().position(is_aborted) {
                left_out.remove(at);
            }
        } else if !void {
            values.extend(values_of(batch.bytes()));
        }
    }
    (values, data.last_stable_offset)
}

/// Waits until read-committed consumers see everything up to `offset`.
fn stable(node: &Harness, topic: &str, offset: i64) {
    for _ in 0..2000 {
        if read_committed(node, topic).1 >= offset {
            return;
        }
        node.pause();
    }
    panic!("the last stable offset stays below {offset}: {:?}", read_committed(node, topic));
}

#[test]
fn idempotent_producers_get_ids_that_nobody_else_has() {
    let mut node = Harness::start();
    let fresh = |node: &Harness| {
        let answer =
            node.call(InitProducerIdRequest { transactional_id: None, ..InitProducerIdRequest::default() });
        assert_eq!((answer.error_code, answer.producer_epoch), (0, 0));
        answer.producer_id
    };
    let (a, b) = (fresh(&node), fresh(&node));
    node.crash();
    let c = fresh(&node);
    assert!(a != b && b != c && a != c, "{a} {b} {c}");
    assert!(c >= 1000, "a block that was granted is never granted again");
}

#[test]
fn a_transaction_is_seen_whole_once_it_is_committed_and_never_when_aborted() {
    let mut node = Harness::start();
    node.create("t", 1, &[]);
    let mut producer = Producer::begin(&node, "tx");
    assert_eq!(
        producer.send(&node, "t", &["early"]),
        ErrorCode::TransactionAbortable,
        "not in the transaction yet"
    );
    assert_eq!(producer.add(&node, "t"), ErrorCode::None);
    assert_eq!(producer.send(&node, "t", &["a", "b"]), ErrorCode::None);
    node.put("t", 0, &["plain"]);
    assert_eq!(read_committed(&node, "t"), (vec![], 0));
    assert_eq!(node.values("t", 0, 0), ["a", "b", "plain"], "read-uncommitted sees it at once");
    assert_eq!(producer.end(&node, true), ErrorCode::None);
    stable(&node, "t", 4);
    assert_eq!(read_committed(&node, "t").0, ["a", "b", "plain"]);

    assert_eq!(producer.add(&node, "t"), ErrorCode::None);
    assert_eq!(producer.send(&node, "t", &["void"]), ErrorCode::None);
    assert_eq!(producer.end(&node, false), ErrorCode::None);
    stable(&node, "t", 6);
    assert_eq!(read_committed(&node, "t").0, ["a", "b", "plain"]);
    node.crash();
    assert_eq!(read_committed(&node, "t"), (vec!["a".into(), "b".into(), "plain".into()], 6));
    assert_eq!(node.values("t", 0, 0), ["a", "b", "plain", "void"]);
    assert_eq!(node.offset("t", 0, -1), (ErrorCode::None, 6));
}

#[test]
fn a_crash_leaves_the_transaction_open_and_a_new_instance_aborts_it() {
    let mut node = Harness::start();
    node.create("t", 1, &[]);
    let mut old = Producer::begin(&node, "tx");
    assert_eq!(old.add(&node, "t"), ErrorCode::None);
    assert_eq!(old.send(&node, "t", &["a"]), ErrorCode::None);
    node.crash();
    assert_eq!(read_committed(&node, "t"), (vec![], 0));
    let mut new = Producer::begin(&node, "tx");
    assert_eq!(new.id, old.id);
    assert!(new.epoch > old.epoch);
    stable(&node, "t", 2);
    assert_eq!(old.send(&node, "t", &["fenced"]), ErrorCode::InvalidProducerEpoch);
    assert_eq!(old.end(&node, true), ErrorCode::ProducerFenced);
    assert_eq!(new.add(&node, "t"), ErrorCode::None);
    assert_eq!(new.send(&node, "t", &["b"]), ErrorCode::None);
    assert_eq!(new.end(&node, true), ErrorCode::None);
    stable(&node, "t", 4);
    assert_eq!(read_committed(&node, "t").0, ["b"]);
}

#[test]
fn a_transaction_that_uses_the_sequences_of_an_ended_one_is_refused_and_not_taken_for_its_retry() {
    let mut node = Harness::start();
    node.create("t", 1, &[]);
    let mut producer = Producer::begin(&node, "tx");
    let mut stands = 0;
    for committed in [false, true] {
        for crash in [false, true] {
            assert_eq!(producer.add(&node, "t"), ErrorCode::None);
            let before = producer.sequence;
            assert_eq!(producer.send(&node, "t", &["a", "b"]), ErrorCode::None);
            producer.sequence = before;
            assert_eq!(producer.send(&node, "t", &["a", "b"]), ErrorCode::None, "a retry");
            assert_eq!(producer.end(&node, committed), ErrorCode::None);
            stands += 3;
            stable(&node, "t", stands);
            if crash {
                node.crash();
            }
            // A client that was told that its batch was not written counts from there again.
            assert_eq!(producer.add(&node, "t"), ErrorCode::None);
            producer.sequence = before;
            let refused = producer.send(&node, "t", &["c", "d"]);
            assert_eq!(refused, ErrorCode::UnknownProducerId, "committed: {committed}, crash: {crash}");
            assert_eq!(producer.end(&node, false), ErrorCode::None);
            assert_eq!(producer.add(&node, "t"), ErrorCode::None);
            producer.sequence = before + 2;
            assert_eq!(producer.send(&node, "t", &["e"]), ErrorCode::None, "where the last one ended");
            assert_eq!(producer.end(&node, true), ErrorCode::None);
            stands += 3; // the void transaction's marker, too
            stable(&node, "t", stands);
        }
    }
    assert_eq!(read_committed(&node, "t").0, ["e", "e", "a", "b", "e", "a", "b", "e"]);
}

#[test]
fn offsets_of_a_transaction_count_once_it_is_committed() {
    let node = Harness::start();
    node.create("in", 1, &[]);
    node.create("out", 1, &[]);
    find(&node, "g", 0);
    let producer = Producer::begin(&node, "tx");
    let send_offsets = |offset: i64| {
        let added = node.call(AddOffsetsToTxnRequest {
            transactional_id: "tx".into(),
            producer_id: producer.id,
            producer_epoch: producer.epoch,
            group_id: "g".into(),
        });
        assert_eq!(ErrorCode::from_code(added.error_code), ErrorCode::None);
        let request = TxnOffsetCommitRequest {
            transactional_id: "tx".into(),
            group_id: "g".into(),
            producer_id: producer.id,
            producer_epoch: producer.epoch,
            generation_id: -1,
            topics: vec![TxnOffsetCommitRequestTopic {
                name: "in".into(),
                partitions: vec![TxnOffsetCommitRequestPartition {
                    committed_offset: offset,
                    ..TxnOffsetCommitRequestPartition::default()
                }],
            }],
            ..TxnOffsetCommitRequest::default()
        };
        let ask = || node.call(request.clone()).topics[0].partitions[0].error_code;
        assert_eq!(ErrorCode::from_code(settled(&node, ask, |code| *code)), ErrorCode::None);
    };
    let outside = TxnOffsetCommitRequest {
        transactional_id: "tx".into(),
        group_id: "g".into(),
        producer_id: producer.id,
        producer_epoch: producer.epoch,
        generation_id: -1,
        topics: vec![TxnOffsetCommitRequestTopic {
            name: "in".into(),
            partitions: vec![TxnOffsetCommitRequestPartition::default()],
        }],
        ..TxnOffsetCommitRequest::default()
    };
    let refused = node.call(outside).topics[0].partitions[0].error_code;
    assert_ne!(ErrorCode::from_code(refused), ErrorCode::None, "the group is not in a transaction");
    for (offset, commit, expected) in [(5, true, 5), (9, false, 5), (11, true, 11)] {
        for _ in 0..2000 {
            let request = AddOffsetsToTxnRequest {
                transactional_id: "tx".into(),
                producer_id: producer.id,
                producer_epoch: producer.epoch,
                group_id: "g".into(),
            };
            if ErrorCode::from_code(node.call(request).error_code) != ErrorCode::ConcurrentTransactions {
                break;
            }
            node.pause();
        }
        send_offsets(offset);
        assert_eq!(committed(&node, "g", "in", true), Err(ErrorCode::UnstableOffsetCommit));
        assert_eq!(producer.end(&node, commit), ErrorCode::None);
        let mut found = Err(ErrorCode::UnstableOffsetCommit);
        for _ in 0..2000 {
            found = committed(&node, "g", "in", true);
            if found != Err(ErrorCode::UnstableOffsetCommit) {
                break;
            }
            node.pause();
        }
        assert_eq!(found, Ok(expected));
    }
}

#[test]
fn a_transaction_that_takes_too_long_is_aborted_and_its_producer_fenced() {
    let node = Harness::start();
    node.create("t", 1, &[]);
    let mut producer = Producer::with_timeout(&node, "tx", 50);
    assert_eq!(producer.add(&node, "t"), ErrorCode::None);
    assert_eq!(producer.send(&node, "t", &["void"]), ErrorCode::None);
    node.put("t", 0, &["plain"]);
    stable(&node, "t", 3);
    assert_eq!(read_committed(&node, "t").0, ["plain"]);
    assert_eq!(producer.send(&node, "t", &["late"]), ErrorCode::InvalidProducerEpoch);
    assert_eq!(producer.end(&node, true), ErrorCode::ProducerFenced);
}
