//! What the broker finds in the records of a batch before it appends it, and how it names what is wrong.

use bytes::{BufMut, Bytes, BytesMut};
use millstream_protocol::ErrorCode;
use millstream_record::{
    Attributes, Batch, BatchBuilder, BatchHeader, BatchOptions, Batches, Compression, HEADER_BYTES,
    LeaderEpoch, Millis, Offset, ProducerEpoch, ProducerId, TimestampType, patch, varint,
};

use crate::harness::{Harness, batch, batch_at, batch_of};

/// One record as producers write it; `headers` begin with their count.
fn record(offset_delta: i32, timestamp_delta: i64, key: Option<&[u8]>, headers: &[u8]) -> Vec<u8> {
    let mut body = vec![0];
    varint::write_i64(&mut body, timestamp_delta);
    varint::write_i32(&mut body, offset_delta);
    varint::write_i32(&mut body, key.map_or(-1, |key| key.len() as i32));
    body.put_slice(key.unwrap_or_default());
    varint::write_i32(&mut body, 1);
    body.put_slice(b"v");
    body.put_slice(headers);
    let mut out = Vec::new();
    varint::write_i32(&mut out, body.len() as i32);
    out.put_slice(&body);
    out
}

fn plain(offset_delta: i32) -> Vec<u8> {
    record(offset_delta, 0, Some(b"k"), &[0])
}

/// A batch of `records` at `time` with a right CRC, whose header says what `change` makes of it.
fn framed(
    time: Millis,
    count: i32,
    records: &[u8],
    compression: Compression,
    change: impl FnOnce(&mut BatchHeader),
) -> Bytes {
    let mut body = BytesMut::new();
    millstream_record::Codec::from(compression).compress(records, &mut body).unwrap();
    let mut header = BatchHeader {
        base_offset: Offset(0),
        length: (HEADER_BYTES - 12 + body.len()) as i32,
        leader_epoch: LeaderEpoch(-1),
        crc: 0,
        attributes: Attributes(i16::from(compression.id())),
        last_offset_delta: count - 1,
        base_timestamp: time,
        max_timestamp: time,
        producer_id: ProducerId(-1),
        producer_epoch: ProducerEpoch(-1),
        base_sequence: -1,
        record_count: count,
    };
    change(&mut header);
    let mut bytes = BytesMut::new();
    header.write(&mut bytes);
    bytes.put_slice(&body);
    patch::refresh_crc(&mut bytes).unwrap();
    bytes.freeze()
}

const LONG_AGO: Millis = Millis(1_700_000_000_000);

fn of(count: i32, records: &[Vec<u8>]) -> Bytes {
    framed(LONG_AGO, count, &records.concat(), Compression::None, |_| ())
}

#[test]
fn a_batch_that_no_consumer_could_read_is_refused_for_good() {
    let node = Harness::start();
    node.create("t", 1, &[]);
    let headers = |bytes: &[u8]| of(1, &[record(0, 0, Some(b"k"), bytes)]);
    let count = |count: i32| {
        let mut number = Vec::new();
        varint::write_i32(&mut number, count);
        headers(&number)
    };
    let header = |change: fn(&mut BatchHeader)| framed(LONG_AGO, 1, &plain(0), Compression::None, change);
    let mut garbage = vec![
        ("fewer records than said", of(5, &[plain(0)])),
        ("more records than said", of(1, &[plain(0), plain(1)])),
        ("no records", of(2, &[vec![0xff; 30]])),
        ("a tail", of(1, &[plain(0), vec![0, 0, 0]])),
        ("a gap in the offsets", of(2, &[plain(0), plain(5)])),
        ("offsets from 5 on", of(2, &[plain(5), plain(7)])),
        ("an offset twice", of(3, &[plain(0), plain(1), plain(1)])),
        ("1000 headers that are not there", count(1000)),
        ("-1 headers", count(-1)),
        ("a header without key", headers(&[2, 1, 2, b'x'])),
        ("a producer without sequence", header(|header| header.producer_id = ProducerId(7))),
        ("a base offset", header(|header| header.base_offset = Offset(99))),
    ];
    for compression in [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
        let packed =
            |count, records: &[Vec<u8>]| framed(LONG_AGO, count, &records.concat(), compression, |_| ());
        garbage.push(("compressed, fewer", packed(3, &[plain(0), plain(1)])));
        garbage.push(("compressed, more", packed(1, &[plain(0), plain(1)])));
        garbage.push(("compressed, a gap", packed(2, &[plain(0), plain(5)])));
        let marked = |header: &mut BatchHeader| header.attributes = Attributes(compression.id().into());
        let noise = framed(LONG_AGO, 2, &[0x12; 30], Compression::None, marked);
        garbage.push(("not compressed, though it says so", noise));
    }
    for (what, bytes) in garbage {
        let answer = node.produce("t", 0, bytes);
        let code = ErrorCode::from_code(answer.error_code);
        // Clients send again what is answered CORRUPT_MESSAGE, and would for ever.
        assert_eq!(code, ErrorCode::InvalidRecord, "{what}: {:?}", answer.error_message);
        assert!(answer.error_message.is_some_and(|why| !why.is_empty()), "{what} is refused without a word");
        assert!(answer.record_errors.is_empty(), "{what}: the batch is at fault, not one of its records");
    }
    assert_eq!(node.offset("t", 0, -1), (ErrorCode::None, 0), "nothing of it was appended");
    assert_eq!(node.put("t", 0, &["a"]), 0);
    for compression in Compression::ALL {
        let records = [plain(0), record(1, 3, None, &[2, 2, b'h', 1])].concat();
        let good = framed(LONG_AGO, 2, &records, compression, |header| {
            header.max_timestamp = Millis(LONG_AGO.0 + 3)
        });
        let answer = node.produce("t", 0, good);
        assert_eq!(answer.error_code, 0, "{compression}: {:?}", answer.error_message);
    }
    assert_eq!(node.values("t", 0, 0).len(), 11);
}

#[test]
fn a_batch_that_unpacks_beyond_all_bounds_is_to_be_split() {
    let node = Harness::start();
    node.create("t", 1, &[]);
    let bomb = framed(LONG_AGO, 1, &vec![0; (32 << 20) + 1], Compression::Zstd, |_| ());
    assert!(bomb.len() < 1 << 20, "{}", bomb.len());
    assert_eq!(ErrorCode::from_code(node.produce("t", 0, bomb).error_code), ErrorCode::MessageTooLarge);
}

#[test]
fn each_records_time_is_held_to_the_bounds_and_the_header_is_not_believed() {
    let node = Harness::start();
    let bounds = [("message.timestamp.before.max.ms", "60000"), ("message.timestamp.after.max.ms", "60000")];
    node.create("t", 1, &bounds);
    let now = node.now();
    let times = |deltas: &[i64], compression| {
        let records: Vec<_> = (0..).zip(deltas).map(|(n, &ms)| record(n, ms, Some(b"k"), &[0])).collect();
        framed(now, deltas.len() as i32, &records.concat(), compression, |_| ())
    };
    for compression in Compression::ALL {
        for (deltas, bad) in [
            (&[0, 5 - now.0, 1][..], &[1][..]),
            (&[-70_000, 0, 80_000], &[0, 2]),
            (&[0, -50_000, 40_000], &[]),
            (&[-1 - now.0], &[]), // -1: no time at all
        ] {
            let answer = node.produce("t", 0, times(deltas, compression));
            let found: Vec<_> = answer.record_errors.iter().map(|error| error.batch_index).collect();
            assert_eq!(found, bad, "{deltas:?} {compression}");
            let expected = if bad.is_empty() { ErrorCode::None } else { ErrorCode::InvalidTimestamp };
            assert_eq!(ErrorCode::from_code(answer.error_code), expected, "{:?}", answer.error_message);
            for error in answer.record_errors {
                let why = error.batch_index_error_message.unwrap();
                assert!(why.contains("message.timestamp.before.max.ms"), "{why}");
            }
        }
    }
}

fn stored(node: &Harness, topic: &str, offset: i64) -> Batch {
    let records = node.fetch(topic, 0, offset).records.unwrap();
    let batch = Batches::new(records).next().unwrap().unwrap();
    batch.check_crc().unwrap();
    batch
}

#[test]
fn the_largest_timestamp_is_that_of_the_records() {
    let node = Harness::start();
    node.create("t", 1, &[]);
    let records = [record(0, -50_000, Some(b"k"), &[0]), record(1, -40_000, Some(b"k"), &[0])].concat();
    let newest = Millis(LONG_AGO.0 - 40_000);
    for compression in Compression::ALL {
        for lie in [LONG_AGO, Millis(0), Millis(LONG_AGO.0 + 1_000_000)] {
            let bytes = framed(LONG_AGO, 2, &records, compression, |header| header.max_timestamp = lie);
            let answer = node.produce("t", 0, bytes);
            assert_eq!(answer.error_code, 0, "{:?}", answer.error_message);
            let kept = stored(&node, "t", answer.base_offset);
            assert_eq!(kept.header().max_timestamp, newest, "{compression} {lie:?}");
            let body = kept.decompress(1 << 20).unwrap();
            let times: Vec<_> = kept.records(&body).map(|record| record.unwrap().timestamp.0).collect();
            assert_eq!(times, [LONG_AGO.0 - 50_000, LONG_AGO.0 - 40_000]);
        }
    }
    // A producer that claims the broker's time says when, and that is kept as its own time.
    let claimed =
        framed(LONG_AGO, 1, &plain(0), Compression::None, |header| header.attributes = Attributes(8));
    let answer = node.produce("t", 0, claimed);
    let kept = *stored(&node, "t", answer.base_offset).header();
    assert_eq!((kept.attributes.timestamp_type(), kept.max_timestamp), (TimestampType::CreateTime, LONG_AGO));
}

#[test]
fn where_the_broker_sets_the_time_a_producer_may_not() {
    let node = Harness::start();
    node.create(
        "t",
        1,
        &[("message.timestamp.type", "LogAppendTime"), ("message.timestamp.before.max.ms", "1")],
    );
    let claimed =
        framed(LONG_AGO, 1, &plain(0), Compression::None, |header| header.attributes = Attributes(8));
    let answer = node.produce("t", 0, claimed);
    assert_eq!(ErrorCode::from_code(answer.error_code), ErrorCode::InvalidTimestamp);
    assert_eq!(node.put("t", 0, &["old, but nobody asks"]), 0);
}

#[test]
fn records_without_key_are_named_one_by_one() {
    let node = Harness::start();
    node.create("t", 1, &[("cleanup.policy", "compact")]);
    for compression in Compression::ALL {
        let mut builder =
            BatchBuilder::new(BatchOptions { codec: compression.into(), ..BatchOptions::default() });
        for key in [Some(&b"k"[..]), None, Some(b""), None, None, None] {
            builder.append(LONG_AGO, key, Some(b"v"), &[]).unwrap();
        }
        let answer = node.produce("t", 0, builder.build().unwrap().freeze());
        assert_eq!(ErrorCode::from_code(answer.error_code), ErrorCode::InvalidRecord);
        let found: Vec<_> = answer.record_errors.iter().map(|error| error.batch_index).collect();
        assert_eq!(found, [1, 3, 4, 5]);
        for error in &answer.record_errors {
            let why = error.batch_index_error_message.as_deref().unwrap();
            assert!(why.contains("has no key"), "{why}");
        }
        let why = answer.error_message.unwrap();
        assert!(why.contains("4 of its records: record 1: ") && why.contains("record 4: "), "{why}");
        assert!(!why.contains("record 5: "), "a sentence is no list: {why}");
    }
    assert_eq!(node.offset("t", 0, -1), (ErrorCode::None, 0));
}

#[test]
fn a_refusal_names_no_more_than_a_thousand_records() {
    let node = Harness::start();
    node.create("t", 1, &[("cleanup.policy", "compact")]);
    let mut builder =
        BatchBuilder::new(BatchOptions { codec: Compression::Zstd.into(), ..BatchOptions::default() });
    for _ in 0..5000 {
        builder.append(LONG_AGO, None, Some(b"v"), &[]).unwrap();
    }
    let answer = node.produce("t", 0, builder.build().unwrap().freeze());
    assert_eq!(answer.record_errors.len(), 1000);
    assert!(answer.error_message.unwrap().contains("5000 of its records"));
}

#[test]
fn an_honest_batch_is_appended_as_it_came() {
    let node = Harness::start();
    node.create("t", 1, &[]);
    let sent = [
        batch(&["a", "b"]),
        batch_of(&["c"], BatchOptions { codec: Compression::Lz4.into(), ..BatchOptions::default() }),
        batch_at(node.now(), &["d", "e"], BatchOptions::default()),
    ];
    for bytes in sent {
        let answer = node.produce("t", 0, bytes.clone());
        let kept = stored(&node, "t", answer.base_offset);
        assert_eq!(kept.bytes()[21..], bytes[21..], "all that the CRC covers");
    }
}
