//! What holds for all records and all bytes; and that the `kafka-protocol` crate agrees.

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records as theirs;
use millstream_record::{
    Batch, BatchBuilder, BatchOptions, Batches, Codec, Compression, Header, Millis, Record, RecordError,
    record_size_upper_bound,
};
use proptest::prelude::*;

const LIMIT_BYTES: usize = 1 << 20;

fn arbitrary_bytes() -> impl Strategy<Value = Option<Bytes>> {
    proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from))
}

fn arbitrary_record() -> impl Strategy<Value = Record> {
    let header = ("[a-c]{0,3}", arbitrary_bytes())
        .prop_map(|(key, value)| Header { key: ByteString::from(key), value });
    let headers = proptest::collection::vec(header, 0..4);
    (0..1i64 << 45, arbitrary_bytes(), arbitrary_bytes(), headers).prop_map(|(time, key, value, headers)| {
        Record { offset: 0.into(), timestamp: Millis(time), key, value, headers }
    })
}

fn arbitrary_compression() -> impl Strategy<Value = Compression> {
    proptest::sample::select(&Compression::ALL[..])
}

fn build(records: &[Record], compression: Compression) -> Bytes {
    let options = BatchOptions { codec: Codec::from(compression), ..BatchOptions::default() };
    let mut builder = BatchBuilder::new(options);
    for record in records {
        let before = builder.size_bytes();
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        builder.append(record.timestamp, key, value, &record.headers).unwrap();
        assert!(builder.size_bytes() - before <= record_size_upper_bound(key, value, &record.headers));
    }
    builder.build().unwrap().freeze()
}

fn read(bytes: Bytes) -> Vec<Record> {
    let batch = Batch::parse(bytes).unwrap();
    batch.check_crc().unwrap();
    let body = batch.decompress(LIMIT_BYTES).unwrap();
    batch.records(&body).map(|record| record.unwrap().to_record(&body)).collect()
}

/// The records as the other crate has them; it cannot hold a header name twice.
fn in_their_words(records: &[Record]) -> Vec<theirs::Record> {
    let record = |(n, record): (usize, &Record)| theirs::Record {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: -1,
        producer_id: -1,
        producer_epoch: -1,
        timestamp_type: theirs::TimestampType::Creation,
        offset: n as i64,
        sequence: -1,
        timestamp: record.timestamp.0,
        key: record.key.clone(),
        value: record.value.clone(),
        headers: record
            .headers
            .iter()
            .map(|h| (StrBytes::from_string(h.key.to_string()), h.value.clone()))
            .collect(),
    };
    records.iter().enumerate().map(record).collect()
}

proptest! {
    #[test]
    fn records_round_trip(
        records in proptest::collection::vec(arbitrary_record(), 1..20),
        compression in arbitrary_compression(),
    ) {
        let read = read(build(&records, compression));
        prop_assert_eq!(read.len(), records.len());
        for (n, (read, record)) in read.into_iter().zip(records).enumerate() {
            prop_assert_eq!(read, Record { offset: (n as i64).into(), ..record });
        }
    }

    #[test]
    fn the_other_crate_reads_what_we_build(
        mut records in proptest::collection::vec(arbitrary_record(), 1..10),
        compression in arbitrary_compression(),
    ) {
        for record in &mut records {
            record.headers.truncate(1);
        }
        let mut bytes = build(&records, compression);
        let set = theirs::RecordBatchDecoder::decode(&mut bytes).unwrap();
        let expected = in_their_words(&records);
        prop_assert_eq!(set.records.len(), expected.len());
        for (found, expected) in set.records.iter().zip(&expected) {
            prop_assert_eq!(found.offset, expected.offset);
            prop_assert_eq!(found.timestamp, expected.timestamp);
            prop_assert_eq!(&found.key, &expected.key);
            prop_assert_eq!(&found.value, &expected.value);
            prop_assert_eq!(&found.headers, &expected.headers);
        }
    }

    #[test]
    fn we_read_what_the_other_crate_builds(
        mut records in proptest::collection::vec(arbitrary_record(), 1..10),
        compression in arbitrary_compression(),
    ) {
        for record in &mut records {
            record.headers.truncate(1);
        }
        let options = theirs::RecordEncodeOptions {
            version: 2,
            compression: match compression {
                Compression::None => theirs::Compression::None,
                Compression::Gzip => theirs::Compression::Gzip,
                Compression::Snappy => theirs::Compression::Snappy,
                Compression::Lz4 => theirs::Compression::Lz4,
                Compression::Zstd => theirs::Compression::Zstd,
            },
        };
        let mut bytes = BytesMut::new();
        theirs::RecordBatchEncoder::encode(&mut bytes, &in_their_words(&records), &options).unwrap();
        let read: Vec<_> = Batches::new(bytes.freeze()).flat_map(|batch| read(batch.unwrap().into_bytes())).collect();
        prop_assert_eq!(read.len(), records.len());
        for (n, (read, record)) in read.into_iter().zip(records).enumerate() {
            prop_assert_eq!(read, Record { offset: (n as i64).into(), ..record });
        }
    }

    #[test]
    fn hostile_bytes_never_panic(
        records in proptest::collection::vec(arbitrary_record(), 1..6),
        compression in arbitrary_compression(),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = BytesMut::from(&build(&records, compression)[..]);
        for (at, to) in flips {
            let at = at.index(bytes.len());
            bytes[at] = to;
        }
        for batch in Batches::new(bytes.freeze()).flatten() {
            let _ = batch.check_crc();
            if let Ok(body) = batch.decompress(LIMIT_BYTES) {
                let most = body.len();
                let walked = batch.records(&body).filter(|record| record.is_ok()).count();
                prop_assert!(walked <= most, "a record takes at least a byte");
            }
        }
    }

    #[test]
    fn random_bytes_are_no_batch(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for batch in Batches::new(bytes.into()).flatten() {
            prop_assert!(batch.bytes().len() >= 61);
        }
    }
}

#[test]
fn offsets_must_rise_and_gaps_are_kept() {
    let mut builder = BatchBuilder::new(BatchOptions { base_offset: 10.into(), ..BatchOptions::default() });
    for (offset, good) in [(10, true), (10, false), (9, false), (14, true)] {
        let result = builder.append_at(offset.into(), Millis(0), None, None, &[]);
        assert_eq!(result.is_ok(), good, "{offset}");
    }
    let batch = Batch::parse(builder.build().unwrap().freeze()).unwrap();
    assert_eq!((batch.header().last_offset().0, batch.header().record_count), (14, 2));
    assert!(!batch.header().is_dense());
    let body = batch.body();
    let offsets: Vec<_> = batch.records(&body).map(|record| record.unwrap().offset.0).collect();
    assert_eq!(offsets, [10, 14]);
}

#[test]
fn a_batch_that_lies_about_its_records_is_an_error() {
    let records: Vec<_> = (0..3)
        .map(|n| Record {
            offset: n.into(),
            timestamp: Millis(0),
            key: None,
            value: Some(Bytes::from_static(b"v")),
            headers: vec![],
        })
        .collect();
    let honest = build(&records, Compression::None);
    for (count, fault_at) in [(2u8, Some(2)), (3, None), (4, Some(3))] {
        let mut bytes = BytesMut::from(&honest[..]);
        bytes[60] = count;
        let batch = Batch::parse(bytes.freeze()).unwrap();
        let body = batch.body();
        let fault = batch.records(&body).find_map(Result::err);
        let index = fault.map(|error| match error {
            RecordError::Record { index, .. } => index,
            other => panic!("{other}"),
        });
        assert_eq!(index, fault_at, "{count}");
    }
}
