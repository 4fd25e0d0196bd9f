//! Produce, Fetch, ListOffsets, OffsetForLeaderEpoch.

use std::path::Path;

use futures::FutureExt;
use millstream_protocol::messages::describe_log_dirs::{
    DescribableLogDirTopic, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use millstream_protocol::messages::list_offsets::{ListOffsetsPartition, ListOffsetsTopic};
use millstream_protocol::messages::offset_for_leader_epoch::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use millstream_protocol::messages::{
    AlterReplicaLogDirsRequest, DeleteTopicsRequest, DescribeLogDirsRequest, FetchRequest,
    ListOffsetsRequest, OffsetForLeaderEpochRequest, ProduceRequest,
};
use millstream_protocol::{CallError, ErrorCode};
use millstream_record::{BatchOptions, Compression};
use millstream_storage::FaultyDisk;
use millstream_storage::disk::{Fault, Op};

use crate::harness::{Harness, batch, batch_of, fetch_request, idempotent, produce_request, values_of};

#[test]
fn what_is_acknowledged_is_read_back_also_after_restart_and_crash() {
    let mut node = Harness::start();
    node.create("t", 2, &[]);
    assert_eq!(node.put("t", 0, &["a", "b"]), 0);
    assert_eq!(node.put("t", 0, &["c"]), 2);
    assert_eq!(node.put("t", 1, &["x"]), 0);
    assert_eq!(node.values("t", 0, 0), ["a", "b", "c"]);
    node.restart();
    assert_eq!(node.values("t", 0, 2), ["c"]);
    assert_eq!(node.put("t", 0, &["d"]), 3);
    node.crash();
    assert_eq!(node.values("t", 0, 0), ["a", "b", "c", "d"]);
    assert_eq!(node.values("t", 1, 0), ["x"]);
    assert_eq!(node.put("t", 1, &["y"]), 1);
}

#[test]
fn produce_refuses_what_kafka_refuses() {
    let node = Harness::with(&[("message.max.bytes", "2000")]);
    node.create("t", 1, &[]);
    node.create("compacted", 1, &[("cleanup.policy", "compact")]);
    let mut flipped = batch(&["a"]).to_vec();
    *flipped.last_mut().unwrap() ^= 1;
    let mut old = batch(&["a"]).to_vec();
    old[16] = 1;
    let two = [batch(&["a"]), batch(&["b"])].concat();
    let large = batch(&[&"x".repeat(3000)]);
    let control = batch_of(&["a"], BatchOptions { control: true, ..BatchOptions::default() });
    for (what, topic, bytes, expected) in [
        ("unknown topic", "nowhere", batch(&["a"]), ErrorCode::UnknownTopicOrPartition),
        ("flipped bit", "t", flipped.into(), ErrorCode::CorruptMessage),
        ("magic 1", "t", old.into(), ErrorCode::InvalidRecord),
        ("two batches", "t", two.into(), ErrorCode::InvalidRecord),
        ("nothing", "t", Default::default(), ErrorCode::InvalidRecord),
        ("too large", "t", large, ErrorCode::MessageTooLarge),
        ("control batch", "t", control, ErrorCode::InvalidRecord),
        ("keys are there", "compacted", batch(&["a"]), ErrorCode::None),
    ] {
        let found = node.produce(topic, 0, bytes);
        assert_eq!(ErrorCode::from_code(found.error_code), expected, "{what}: {:?}", found.error_message);
    }
    let bad_acks = ProduceRequest { acks: 2, ..produce_request("t", 0, batch(&["a"])) };
    let answer = node.call(bad_acks);
    let code = answer.responses[0].partition_responses[0].error_code;
    assert_eq!(ErrorCode::from_code(code), ErrorCode::InvalidRequiredAcks);
    assert_eq!(node.offset("t", 0, -1), (ErrorCode::None, 0), "nothing of it was appended");
}

#[test]
fn acks_zero_has_no_answer_and_acks_one_has() {
    let node = Harness::start();
    node.create("t", 1, &[]);
    let silent = node.send(ProduceRequest { acks: 0, ..produce_request("t", 0, batch(&["a"])) });
    assert!(silent.is_none());
    let one = node.call(ProduceRequest { acks: 1, ..produce_request("t", 0, batch(&["b"])) });
    assert_eq!(one.responses[0].partition_responses[0].base_offset, 1);
    assert_eq!(node.put("t", 0, &["c"]), 2);
    assert_eq!(node.values("t", 0, 0), ["a", "b", "c"]);
}

#[test]
fn order_is_fixed_when_call_returns() {
    let node = Harness::start();
    node.create("t", 1, &[]);
    let values: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    let receipts: Vec<_> =
        values.iter().map(|value| node.send(produce_request("t", 0, batch(&[value])))).collect();
    for (receipt, expected) in receipts.into_iter().zip(0..) {
        let answer = node.wait::<ProduceRequest>(receipt).unwrap();
        assert_eq!(answer.responses[0].partition_responses[0].base_offset, expected);
    }
    assert_eq!(node.values("t", 0, 0), values);
}

#[test]
fn a_duplicate_gets_the_originals_offset_and_a_gap_is_refused() {
    let mut node = Harness::start();
    node.create("t", 1, &[]);
    let send = |node: &Harness, sequence: i32, epoch: i16| {
        // The events are years old; their producer is not.
        let answer = node.produce("t", 0, batch_of(&["a", "b"], idempotent(7, epoch, sequence)));
        (ErrorCode::from_code(answer.error_code), answer.base_offset)
    };
    assert_eq!(send(&node, 0, 3), (ErrorCode::None, 0));
    assert_eq!(send(&node, 2, 3), (ErrorCode::None, 2));
    assert_eq!(send(&node, 0, 3), (ErrorCode::None, 0));
    assert_eq!(send(&node, 5, 3).0, ErrorCode::OutOfOrderSequenceNumber);
    assert_eq!(send(&node, 4, 2).0, ErrorCode::InvalidProducerEpoch);
    node.crash();
    assert_eq!(send(&node, 2, 3), (ErrorCode::None, 2), "the state survives");
    assert_eq!(send(&node, 4, 3), (ErrorCode::None, 4));
    assert_eq!(node.offset("t", 0, -1), (ErrorCode::None, 6));
}

#[test]
fn a_fetch_waits_for_records_and_for_no_longer_than_asked() {
    let node = Harness::start();
    node.create("t", 1, &[]);
    let mut waiting = node.send(FetchRequest { max_wait_ms: 20_000, ..fetch_request("t", 0, 0) });
    assert!((&mut waiting).now_or_never().is_none(), "there is nothing to read yet");
    node.put("t", 0, &["a"]);
    let answer = node.wait::<FetchRequest>(waiting).unwrap();
    assert_eq!(values_of(answer.responses[0].partitions[0].records.as_ref().unwrap()), ["a"]);
    let short = node.call(FetchRequest { max_wait_ms: 20, ..fetch_request("t", 0, 1) });
    assert_eq!(short.responses[0].partitions[0].records.as_ref().unwrap().len(), 0);
    assert_eq!(short.responses[0].partitions[0].high_watermark, 1);
}

#[test]
fn a_fetch_is_answered_as_soon_as_enough_has_come() {
    let node = Harness::start();
    node.create("t", 2, &[]);
    let value = "x".repeat(400);
    node.put("t", 0, &[&value]);
    let mut request = FetchRequest { max_wait_ms: 60_000, min_bytes: 1000, ..fetch_request("t", 0, 0) };
    let mut second = request.topics[0].partitions[0].clone();
    second.partition = 1;
    request.topics[0].partitions.push(second);
    let mut waiting = node.send(request);
    assert!((&mut waiting).now_or_never().is_none(), "400 bytes are too few");
    node.put("t", 0, &[&value]);
    node.put("t", 1, &[&value]);
    let answer = node.wait::<FetchRequest>(waiting).unwrap();
    let bytes = answer.responses[0].partitions.iter().map(|data| data.records.as_ref().unwrap().len());
    assert!(bytes.sum::<usize>() >= 1000, "{answer:?}");
}

#[test]
fn a_fetch_that_can_get_no_more_does_not_wait_for_it() {
    let node = Harness::start();
    node.create("t", 1, &[]);
    for _ in 0..5 {
        node.put("t", 0, &[&"x".repeat(400)]);
    }
    let got = |min_bytes: i32, max_bytes: i32, partition_max_bytes: i32| {
        let mut request =
            FetchRequest { max_wait_ms: 60_000, min_bytes, max_bytes, ..fetch_request("t", 0, 0) };
        request.topics[0].partitions[0].partition_max_bytes = partition_max_bytes;
        values_of(node.call(request).responses[0].partitions[0].records.as_ref().unwrap()).len()
    };
    assert_eq!(got(1000, 1 << 20, 1000), 2, "a third batch does not fit into what one partition may give");
    assert_eq!(got(1000, 1000, 1 << 20), 2, "nor into the answer");
    assert_eq!(got(1 << 20, 1000, 1 << 20), 2, "no answer holds more than its bound");
}

#[test]
fn a_refused_batch_without_acknowledgement_ends_the_connection() {
    let node = Harness::start();
    node.create("t", 1, &[]);
    let produce = |topic: &str| {
        let request = ProduceRequest { acks: 0, ..produce_request(topic, 0, batch(&["a"])) };
        node.wait::<ProduceRequest>(node.send(request)).unwrap_err()
    };
    assert_eq!(produce("t"), CallError::NoAnswer);
    let refused = produce("missing");
    assert!(matches!(refused, CallError::Disconnected { .. }), "{refused}");
    assert_eq!(node.put("t", 0, &["b"]), 1, "the other one is in the log");
}

#[test]
fn a_partition_asked_for_twice_is_refused_once() {
    let node = Harness::start();
    node.create("t", 2, &[]);
    let of = |partition_index: i32, timestamp: i64| ListOffsetsPartition {
        partition_index,
        timestamp,
        ..ListOffsetsPartition::default()
    };
    let topic = ListOffsetsTopic { name: "t".into(), partitions: vec![of(0, -1), of(1, -1), of(0, -2)] };
    let answer = node.call(ListOffsetsRequest { topics: vec![topic], ..ListOffsetsRequest::default() });
    let told = answer.topics[0].partitions.iter();
    let told = told.map(|told| (told.partition_index, ErrorCode::from_code(told.error_code)));
    assert_eq!(told.collect::<Vec<_>>(), [(0, ErrorCode::InvalidRequest), (1, ErrorCode::None)]);
}

#[test]
fn a_fetch_is_bounded_but_never_stuck() {
    let node = Harness::start();
    node.create("t", 2, &[]);
    let large = "x".repeat(1000);
    for partition in [0, 1] {
        for _ in 0..3 {
            node.put("t", partition, &[&large]);
        }
    }
    let fetch = |partition_max_bytes: i32, max_bytes: i32| {
        let mut request = FetchRequest { max_bytes, ..fetch_request("t", 0, 0) };
        request.topics[0].partitions[0].partition_max_bytes = partition_max_bytes;
        let mut second = request.topics[0].partitions[0].clone();
        second.partition = 1;
        request.topics[0].partitions.push(second);
        let answer = node.call(request);
        let counts = answer.responses[0].partitions.iter();
        counts.map(|data| values_of(data.records.as_ref().unwrap()).len()).collect::<Vec<_>>()
    };
    assert_eq!(fetch(1 << 20, 1 << 20), [3, 3]);
    assert_eq!(fetch(1, 1 << 20), [1, 0], "only the first batch of the answer may break a limit");
    assert_eq!(fetch(2500, 1 << 20), [2, 2]);
    assert_eq!(fetch(1 << 20, 1), [1, 0]);
    assert_eq!(fetch(1 << 20, 4600), [3, 1]);
}

#[test]
fn fetch_refuses_wrong_offsets_epochs_and_sessions() {
    let node = Harness::start();
    node.create("t", 1, &[]);
    node.put("t", 0, &["a"]);
    let code = |offset: i64, epoch: i32| {
        let mut request = fetch_request("t", 0, offset);
        request.topics[0].partitions[0].current_leader_epoch = epoch;
        let answer = node.call(request);
        ErrorCode::from_code(answer.responses[0].partitions[0].error_code)
    };
    assert_eq!(code(1, -1), ErrorCode::None);
    assert_eq!(code(2, -1), ErrorCode::OffsetOutOfRange);
    assert_eq!(code(-5, -1), ErrorCode::OffsetOutOfRange);
    assert_eq!(code(0, 0), ErrorCode::None);
    assert_eq!(code(0, 9), ErrorCode::UnknownLeaderEpoch);
    for (id, epoch, expected) in [
        (0, -1, ErrorCode::None),
        (0, 3, ErrorCode::FetchSessionIdNotFound),
        (5, 1, ErrorCode::FetchSessionIdNotFound),
    ] {
        let request = FetchRequest { session_id: id, session_epoch: epoch, ..fetch_request("t", 0, 0) };
        let answer = node.call(request);
        assert_eq!(ErrorCode::from_code(answer.error_code), expected, "session {id} epoch {epoch}");
        assert_eq!(answer.session_id, 0);
    }
}

#[test]
fn compressed_batches_stay_as_they_were_sent() {
    let node = Harness::start();
    node.create("t", 1, &[]);
    for compression in [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
        let options = BatchOptions { codec: compression.into(), ..BatchOptions::default() };
        assert_eq!(node.produce("t", 0, batch_of(&["a", "b"], options)).error_code, 0);
    }
    assert_eq!(node.values("t", 0, 0), ["a", "b", "a", "b", "a", "b", "a", "b"]);
}

#[test]
fn offsets_are_found_by_place_and_by_time() {
    let node = Harness::start();
    node.create("t", 1, &[]);
    assert_eq!(node.offset("t", 0, -2), (ErrorCode::None, 0));
    assert_eq!(node.offset("t", 0, -3), (ErrorCode::None, -1));
    node.put("t", 0, &["a", "b", "c"]);
    node.put("t", 0, &["d"]);
    let began = 1_700_000_000_000;
    for (timestamp, expected) in [
        (-2, 0),
        (-1, 4),
        (-4, 0),
        (-3, 2),
        (began, 0),
        (began - 1, 0),
        (began + 1, 1),
        (began + 2, 2),
        (began + 3, -1),
    ] {
        assert_eq!(node.offset("t", 0, timestamp), (ErrorCode::None, expected), "{timestamp}");
    }
    for tiered in [-5, -6] {
        let found = node.offset("t", 0, tiered);
        assert_eq!(found, (ErrorCode::None, -1), "{tiered}: there is no tier above this one");
    }
    assert_eq!(node.offset("t", 5, -1).0, ErrorCode::UnknownTopicOrPartition);
    assert_eq!(node.offset("t", 0, -9).0, ErrorCode::UnsupportedVersion);
}

#[test]
fn each_start_leads_in_a_new_epoch_that_fences_older_clients() {
    let mut node = Harness::start();
    node.create("t", 1, &[]);
    node.put("t", 0, &["a", "b"]);
    node.restart();
    node.put("t", 0, &["c"]);
    let end_of = |epoch: i32, known: i32| {
        let answer = node.call(OffsetForLeaderEpochRequest {
            topics: vec![OffsetForLeaderTopic {
                topic: "t".into(),
                partitions: vec![OffsetForLeaderPartition {
                    partition: 0,
                    current_leader_epoch: known,
                    leader_epoch: epoch,
                }],
            }],
            ..OffsetForLeaderEpochRequest::default()
        });
        let found = answer.topics[0].partitions[0].clone();
        (ErrorCode::from_code(found.error_code), found.leader_epoch, found.end_offset)
    };
    assert_eq!(end_of(0, -1), (ErrorCode::None, 0, 2));
    // Epoch 1 began when the new start was registered and had no leader, epoch 2 when it was let serve.
    assert_eq!(end_of(2, 2), (ErrorCode::None, 2, 3));
    assert_eq!(end_of(0, 1).0, ErrorCode::FencedLeaderEpoch);
    assert_eq!(end_of(0, 3).0, ErrorCode::UnknownLeaderEpoch);
}

#[test]
fn log_append_time_is_stamped_and_told() {
    let node = Harness::start();
    node.create("t", 1, &[("message.timestamp.type", "LogAppendTime")]);
    let answer = node.produce("t", 0, batch(&["a"]));
    assert!(answer.log_append_time_ms > 1_700_000_000_000);
    assert_eq!(node.values("t", 0, 0), ["a"]);
    assert_eq!(node.offset("t", 0, answer.log_append_time_ms), (ErrorCode::None, 0));
}

#[test]
fn a_failed_fsync_acknowledges_nothing_and_is_not_tried_again() {
    let mut node = Harness::start();
    node.create("t", 1, &[]);
    assert_eq!(node.put("t", 0, &["kept"]), 0);
    node.disk.arm(Op::Sync, ".log", 0, Fault::Error);
    let code = |node: &Harness| ErrorCode::from_code(node.produce("t", 0, batch(&["lost"])).error_code);
    assert_eq!(code(&node), ErrorCode::KafkaStorageError);
    assert_eq!(node.disk.pending(), 0, "the fault has hit, so the disk is well again");
    assert_eq!(code(&node), ErrorCode::KafkaStorageError, "the directory is offline all the same");
    let read = ErrorCode::from_code(node.fetch("t", 0, 0).error_code);
    assert_eq!(read, ErrorCode::KafkaStorageError);
    node.crash();
    assert_eq!(node.values("t", 0, 0)[0], "kept");
    assert_eq!(code(&node), ErrorCode::None);
}

#[test]
fn what_is_not_served_is_refused_by_name() {
    let node = Harness::start();
    let refused = node
        .wait::<AlterReplicaLogDirsRequest>(node.send(AlterReplicaLogDirsRequest::default()))
        .unwrap_err();
    assert!(refused.to_string().contains("AlterReplicaLogDirs"), "{refused}");
}

#[test]
fn the_log_directory_says_what_is_in_it() {
    let node = Harness::start();
    node.create("t", 2, &[]);
    node.create("u", 1, &[]);
    node.put("t", 1, &["a", "b"]);
    node.put("t", 1, &["c"]);
    let bytes = (batch(&["a", "b"]).len() + batch(&["c"]).len()) as i64;
    let describe = |topics| {
        let answer = node.call(DescribeLogDirsRequest { topics });
        assert_eq!((answer.error_code, answer.results.len()), (0, 1), "there is one directory");
        answer.results[0].clone()
    };
    let named = |name: &str, partitions: &[i32]| DescribableLogDirTopic {
        topic: name.into(),
        partitions: partitions.to_vec(),
    };
    let sizes = |result: &DescribeLogDirsResult| {
        let sized = |topic: &DescribeLogDirsTopic| {
            let name = topic.name.to_string();
            let partitions = topic.partitions.iter();
            assert!(partitions.clone().all(|one| one.offset_lag == 0 && !one.is_future_key), "it leads");
            partitions
                .map(move |one| (name.clone(), one.partition_index, one.partition_size))
                .collect::<Vec<_>>()
        };
        result.topics.iter().flat_map(sized).collect::<Vec<_>>()
    };
    let at = |name: &str, index: i32, size: i64| (name.to_owned(), index, size);
    let all = describe(None);
    assert_eq!(all.error_code, 0);
    let dir = std::path::Path::new(&*all.log_dir);
    assert!(dir.is_absolute() && dir.join("t-1").is_dir(), "{}", all.log_dir);
    assert!(all.usable_bytes > 0 && all.total_bytes > all.usable_bytes, "{all:?}");
    assert_eq!(sizes(&all), [at("t", 0, 0), at("t", 1, bytes), at("u", 0, 0)]);
    assert_eq!(sizes(&describe(Some(vec![named("t", &[1, 7]), named("none", &[0])]))), [at("t", 1, bytes)]);
    assert_eq!(sizes(&describe(Some(Vec::new()))), []);
    node.disk.arm(Op::Sync, ".log", 0, Fault::Error);
    assert_ne!(node.produce("t", 0, batch(&["lost"])).error_code, 0);
    let offline = describe(None);
    assert_eq!(ErrorCode::from_code(offline.error_code), ErrorCode::KafkaStorageError);
    assert_eq!((offline.log_dir, offline.topics, offline.total_bytes), (all.log_dir, Vec::new(), -1));
}

#[test]
fn a_hole_in_the_offsets_is_damage_also_where_the_policy_says_compact() {
    let mut node = Harness::start();
    node.create("t", 1, &[("cleanup.policy", "compact")]);
    for (value, offset) in ["a", "b", "c"].into_iter().zip(0..) {
        assert_eq!(node.put("t", 0, &[value]), offset);
    }
    let file = node.dir().join("t-0/00000000000000000000.log");
    node.crash_after(|| {
        let mut bytes = std::fs::read(&file).unwrap();
        let last = bytes.windows(8).rposition(|eight| eight == 2i64.to_be_bytes()).unwrap();
        bytes[last..last + 8].copy_from_slice(&100i64.to_be_bytes()); // the CRC does not cover the offset
        std::fs::write(&file, bytes).unwrap();
    });
    assert_eq!(node.values("t", 0, 0), ["a", "b"]);
    assert_eq!(node.offset("t", 0, -1), (ErrorCode::None, 2));
}

/// Where the log of `t-0` lies, under the broker's directory.
const LOG: &str = "t-0/00000000000000000000.log";

/// Start-up opens every log, and what failed once more when the metadata is published.
fn fail_to_open(disk: &FaultyDisk) {
    (0..2).for_each(|_| disk.arm(Op::Open, LOG, 0, Fault::Error));
}

fn code_of_fetch(node: &Harness) -> ErrorCode {
    ErrorCode::from_code(node.fetch("t", 0, 0).error_code)
}

#[test]
fn a_log_that_did_not_open_keeps_its_checkpoint_lest_damage_is_taken_for_a_torn_tail() {
    let mut node = Harness::start();
    node.create("t", 1, &[]);
    node.put("t", 0, &["a"]);
    node.put("t", 0, &["b"]);
    node.restart();
    let disk = node.disk.clone();
    node.restart_after(|_| fail_to_open(&disk));
    assert_eq!((disk.pending(), code_of_fetch(&node)), (0, ErrorCode::KafkaStorageError));
    let flip = |dir: &Path| {
        let mut bytes = std::fs::read(dir.join(LOG)).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(dir.join(LOG), bytes).unwrap();
    };
    node.restart_after(|dir| {
        for name in ["recovery-point-offset-checkpoint", "replication-offset-checkpoint"] {
            let text = std::fs::read_to_string(dir.join(name)).unwrap();
            assert!(text.lines().any(|line| line == "t 0 2"), "{name}: {text}");
        }
        flip(dir);
    });
    assert_eq!(code_of_fetch(&node), ErrorCode::KafkaStorageError, "an acknowledged record is damaged");
    node.restart_after(flip);
    assert_eq!(node.values("t", 0, 0), ["a", "b"], "nothing of it was cut off");
}

#[test]
fn a_log_that_did_not_open_after_a_crash_is_recovered_when_it_does() {
    let mut node = Harness::start();
    node.create("t", 1, &[]);
    node.put("t", 0, &["a"]);
    let (disk, log) = (node.disk.clone(), node.dir().join(LOG));
    node.crash_after(|| {
        let whole = std::fs::read(&log).unwrap();
        let torn = [&whole[..], &whole[..whole.len() / 2]].concat();
        std::fs::write(&log, torn).unwrap();
        fail_to_open(&disk);
    });
    assert_eq!((disk.pending(), code_of_fetch(&node)), (0, ErrorCode::KafkaStorageError));
    node.restart_after(|dir| {
        let clean = dir.join(".kafka_cleanshutdown");
        assert!(!clean.exists(), "a log that was never opened was not closed in order");
    });
    assert_eq!(node.values("t", 0, 0), ["a"]);
    assert_eq!(node.put("t", 0, &["b"]), 1);
}

#[test]
fn a_log_that_somebody_took_away_is_missed_until_it_is_back_or_its_topic_is_gone() {
    let code = |node: &Harness| ErrorCode::from_code(node.produce("t", 0, batch(&["new"])).error_code);
    let is_broken = |code: ErrorCode| code == ErrorCode::KafkaStorageError;
    for keeps_the_directory in [false, true] {
        let mut node = Harness::start();
        node.create("t", 1, &[]);
        node.put("t", 0, &["a", "b"]);
        let (log, backup) = (node.dir().join("t-0"), node.dir().join("backup"));
        let take = |_: &Path| {
            std::fs::rename(&log, &backup).unwrap();
            if keeps_the_directory {
                std::fs::create_dir(&log).unwrap();
                std::fs::copy(backup.join("partition.metadata"), log.join("partition.metadata")).unwrap();
            }
        };
        node.restart_after(take);
        assert!(is_broken(code(&node)), "no empty log stands in for it");
        node.crash();
        assert!(is_broken(code(&node)), "nor after a crash");

        node.restart_after(|_| {
            let _remains = std::fs::remove_dir_all(&log);
            std::fs::rename(&backup, &log).unwrap();
        });
        assert_eq!(node.values("t", 0, 0), ["a", "b"]);
        node.restart_after(take);
        let topic_names = vec!["t".into()];
        let deleted = node.call(DeleteTopicsRequest { topic_names, ..DeleteTopicsRequest::default() });
        assert_eq!(deleted.responses[0].error_code, 0);
        node.create("t", 1, &[]);
        assert_eq!(node.put("t", 0, &["c"]), 0);
        node.crash();
        assert_eq!(node.values("t", 0, 0), ["c"]);

        node.restart_after(|dir| {
            std::fs::remove_dir_all(&log).unwrap();
            std::fs::remove_file(dir.join("recovery-point-offset-checkpoint")).unwrap();
        });
        assert_eq!(node.put("t", 0, &["d"]), 0, "nothing says any more that a log was here");
    }
}
