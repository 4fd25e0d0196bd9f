//! DeleteRecords on one node.

use millstream_protocol::ErrorCode;
use millstream_protocol::messages::DeleteRecordsRequest;
use millstream_protocol::messages::delete_records::{DeleteRecordsPartition, DeleteRecordsTopic};
use millstream_storage::disk::{Fault, Op};

use crate::harness::{Harness, batch};

const EARLIEST: i64 = -2;

fn request(topic: &str, partition: i32, offset: i64) -> DeleteRecordsRequest {
    let asked = DeleteRecordsPartition { partition_index: partition, offset };
    let topic = DeleteRecordsTopic { name: topic.into(), partitions: vec![asked] };
    DeleteRecordsRequest { topics: vec![topic], timeout_ms: 10_000 }
}

/// The code and the low watermark.
fn delete(node: &Harness, topic: &str, partition: i32, offset: i64) -> (ErrorCode, i64) {
    let answer = node.call(request(topic, partition, offset));
    let found = &answer.topics[0].partitions[0];
    (ErrorCode::from_code(found.error_code), found.low_watermark)
}

#[test]
fn what_was_deleted_is_not_shown_again_after_a_crash_right_behind_the_answer() {
    let mut node = Harness::start();
    node.create("t", 2, &[]);
    node.put("t", 0, &["a", "b", "c"]);
    node.put("t", 0, &["d"]);
    node.put("t", 1, &["x", "y"]);
    assert_eq!(delete(&node, "t", 0, 2), (ErrorCode::None, 2));
    node.crash();
    assert_eq!(node.offset("t", 0, EARLIEST), (ErrorCode::None, 2));
    assert_eq!(ErrorCode::from_code(node.fetch("t", 0, 1).error_code), ErrorCode::OffsetOutOfRange);
    assert_eq!(node.values("t", 0, 3), ["d"]);
    assert_eq!(node.values("t", 1, 0), ["x", "y"], "what others have stays");
    assert_eq!(delete(&node, "t", 0, -1), (ErrorCode::None, 4));
    assert_eq!(delete(&node, "t", 1, 1), (ErrorCode::None, 1));
    node.crash();
    assert_eq!(node.offset("t", 0, EARLIEST), (ErrorCode::None, 4));
    assert_eq!(node.put("t", 0, &["e"]), 4, "the log goes on where it ended");
    assert_eq!(node.offset("t", 1, EARLIEST), (ErrorCode::None, 1));
    node.restart();
    assert_eq!(node.offset("t", 0, EARLIEST), (ErrorCode::None, 4));
    assert_eq!(node.values("t", 0, 4), ["e"]);
}

#[test]
fn it_is_refused_where_kafka_refuses_it() {
    let node = Harness::start();
    node.create("t", 1, &[]);
    node.create("compacted", 1, &[("cleanup.policy", "compact")]);
    node.create("both", 1, &[("cleanup.policy", "compact,delete")]);
    node.put("t", 0, &["a", "b"]);
    node.produce("both", 0, batch(&["a"]));
    for (what, topic, partition, offset, expected) in [
        ("unknown topic", "nowhere", 0, 0, (ErrorCode::UnknownTopicOrPartition, -1)),
        ("unknown partition", "t", 1, 0, (ErrorCode::UnknownTopicOrPartition, -1)),
        ("beyond the mark", "t", 0, 3, (ErrorCode::OffsetOutOfRange, -1)),
        ("negative", "t", 0, -2, (ErrorCode::OffsetOutOfRange, -1)),
        ("compacted only", "compacted", 0, -1, (ErrorCode::PolicyViolation, -1)),
        ("compacted and deleted", "both", 0, -1, (ErrorCode::None, 1)),
        ("nothing below", "t", 0, 0, (ErrorCode::None, 0)),
    ] {
        assert_eq!(delete(&node, topic, partition, offset), expected, "{what}");
    }
    assert_eq!(node.values("t", 0, 0), ["a", "b"]);
}

#[test]
fn it_waits_for_nobody_else_where_the_request_does_not() {
    let node = Harness::start();
    node.create("t", 1, &[]);
    node.put("t", 0, &["a", "b"]);
    let answer = node.call(DeleteRecordsRequest { timeout_ms: 0, ..request("t", 0, 1) });
    let found = &answer.topics[0].partitions[0];
    assert_eq!((ErrorCode::from_code(found.error_code), found.low_watermark), (ErrorCode::None, 1));
}

/// An answer that came without the note would be one that a crash takes back.
#[test]
fn it_is_not_done_where_it_cannot_be_noted() {
    let mut node = Harness::start();
    node.create("t", 1, &[]);
    node.put("t", 0, &["a", "b"]);
    node.disk.arm(Op::Sync, "log-start-offset-checkpoint.tmp", 0, Fault::Error);
    assert_eq!(delete(&node, "t", 0, 1), (ErrorCode::KafkaStorageError, -1));
    assert_eq!(node.disk.pending(), 0, "the fault has hit");
    node.crash();
    assert_eq!(node.values("t", 0, 0), ["a", "b"]);
    assert_eq!(delete(&node, "t", 0, 1), (ErrorCode::None, 1));
}
