//! Batches that say of their records what is not so.

use bytes::{BufMut, BytesMut};
use bytestring::ByteString;
use millstream_protocol::Request;
use millstream_protocol::messages::ProduceRequest;
use millstream_protocol::messages::produce::{PartitionProduceData, TopicProduceData};
use millstream_record::{BatchHeader, HEADER_BYTES, Millis, Offset, ProducerId, Uuid, patch};

/// A record of one byte at an offset: no time, no key, no headers.
fn record(offset_delta: u8) -> [u8; 8] {
    [14, 0, 0, offset_delta * 2, 1, 2, b'v', 0] // numbers are zigzag
}

/// A batch with these bytes for records and a right CRC, whose header says what `change` makes of it.
fn batch(records: &[u8], count: i32, change: impl FnOnce(&mut BatchHeader)) -> BytesMut {
    let mut header = BatchHeader::peek(&super::batch(1)).unwrap();
    header.length = (HEADER_BYTES - 12 + records.len()) as i32;
    header.record_count = count;
    header.last_offset_delta = count - 1;
    change(&mut header);
    let mut bytes = BytesMut::new();
    header.write(&mut bytes);
    bytes.put_slice(records);
    patch::refresh_crc(&mut bytes).unwrap();
    bytes
}

pub(super) fn cases(topic: &ByteString, topic_id: Uuid) -> Vec<(&'static str, Request)> {
    let produce = |records: BytesMut| {
        let partition_data = vec![PartitionProduceData { index: 0, records: Some(records.freeze()) }];
        let topic_data = vec![TopicProduceData { name: topic.clone(), topic_id, partition_data }];
        Request::from(ProduceRequest { acks: -1, timeout_ms: 5000, topic_data, ..ProduceRequest::default() })
    };
    let one = |change: fn(&mut BatchHeader)| batch(&record(0), 1, change);
    let with_headers = |count: u8| {
        let mut bytes = record(0);
        bytes[7] = count;
        batch(&bytes, 1, |_| ())
    };
    let two = [record(0), record(1)].concat();
    let all = vec![
        ("a batch with one record", one(|_| ())),
        ("a batch with fewer records than it says", batch(&two, 3, |_| ())),
        ("a batch with more records than it says", batch(&two, 1, |_| ())),
        ("a batch with a tail", batch(&[&record(0)[..], &[0, 0, 0]].concat(), 1, |_| ())),
        ("a batch that says that it has no records", one(|header| header.record_count = 0)),
        ("a batch that says that it has -1 records", one(|header| header.record_count = -1)),
        ("a batch with another last offset", one(|header| header.last_offset_delta = 3)),
        ("a batch at an offset", one(|header| header.base_offset = Offset(99))),
        ("a batch of a producer without a sequence", one(|header| header.producer_id = ProducerId(7))),
        ("a batch of times to come", one(|header| header.base_timestamp = Millis(i64::MAX / 2))),
        ("a batch that lies about its times", one(|header| header.max_timestamp = Millis(i64::MAX / 2))),
        ("a record with headers that are not there", with_headers(126)),
        ("a record with -1 headers", with_headers(1)),
        ("a batch of noise", batch(&[0xff; 30], 2, |_| ())),
        ("a batch of noise that says gzip", batch(&[0x12; 30], 2, |header| header.attributes.0 = 1)),
        ("a batch with a gap in its offsets", batch(&[record(0), record(5)].concat(), 2, |_| ())),
    ];
    all.into_iter().map(|(case, bytes)| (case, produce(bytes))).collect()
}
