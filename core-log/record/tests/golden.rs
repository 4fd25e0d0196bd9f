//! Batches as Apache Kafka 4.3.1 wrote them: its console producer's and its performance tool's, copied from its segments.

use bytes::{Bytes, BytesMut};
use millstream_record::{
    Batch, BatchBuilder, BatchOptions, Batches, Compression, EndTxnMarker, Record, patch,
};

const LIMIT_BYTES: usize = 1 << 20;

fn golden(name: &str) -> Bytes {
    let path = format!("{}/tests/golden/{name}.bin", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(path).unwrap().into()
}

fn batches(bytes: &Bytes) -> Vec<Batch> {
    Batches::new(bytes.clone()).map(|batch| batch.unwrap()).collect()
}

fn records(batch: &Batch) -> Vec<Record> {
    let body = batch.decompress(LIMIT_BYTES).unwrap();
    batch.records(&body).map(|record| record.unwrap().to_record(&body)).collect()
}

#[test]
fn every_compression_of_kafka_is_read() {
    for compression in Compression::ALL {
        let bytes = golden(compression.name());
        let found = batches(&bytes);
        assert_eq!(found.len(), 1, "{compression}");
        let batch = &found[0];
        batch.check_crc().unwrap();
        assert_eq!(batch.header().attributes.compression(), Ok(compression));
        assert!(batch.header().has_producer() && batch.header().is_dense());
        let records = records(batch);
        assert_eq!(records.len(), 40);
        for (n, record) in records.iter().enumerate() {
            let n_from_1 = n + 1;
            let value = format!(
                "value number {n_from_1} of the golden batch, compressed with care and care and care"
            );
            assert_eq!(record.offset.0, n as i64);
            assert_eq!(record.key.as_deref(), Some(format!("key-{n_from_1}").as_bytes()));
            assert_eq!(record.value.as_deref(), Some(value.as_bytes()));
            let headers: Vec<_> =
                record.headers.iter().map(|h| (&*h.key, h.value.as_deref().unwrap())).collect();
            let last = n_from_1.to_string();
            assert_eq!(headers, [("h1", &b"first"[..]), ("h1", b"again"), ("h2", last.as_bytes())]);
        }
    }
}

#[test]
fn what_we_build_of_the_same_records_is_kafkas_byte_for_byte() {
    let theirs = batches(&golden("none")).remove(0);
    let header = *theirs.header();
    let mut builder = BatchBuilder::new(BatchOptions {
        producer_id: header.producer_id,
        producer_epoch: header.producer_epoch,
        base_sequence: header.base_sequence,
        ..BatchOptions::default()
    });
    for record in records(&theirs) {
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        builder.append(record.timestamp, key, value, &record.headers).unwrap();
    }
    let mut ours = builder.build().unwrap();
    patch::set_offset_and_epoch(&mut ours, header.base_offset, header.leader_epoch).unwrap();
    assert_eq!(ours, theirs.bytes());
}

#[test]
fn transactions_and_their_markers_are_read_and_written_as_kafka_does() {
    let found = batches(&golden("txn"));
    let kinds: Vec<_> = found
        .iter()
        .map(|batch| (batch.header().attributes.is_transactional(), batch.header().attributes.is_control()))
        .collect();
    assert_eq!(kinds, [(true, false), (true, false), (true, true), (true, false), (true, true)]);
    for batch in found.iter().filter(|batch| batch.header().attributes.is_control()) {
        batch.check_crc().unwrap();
        let header = batch.header();
        let record = records(batch).remove(0);
        let marker = EndTxnMarker::read(&record.key.unwrap(), &record.value.unwrap()).unwrap();
        assert!(marker.committed);
        let (id, epoch) = (header.producer_id, header.producer_epoch);
        let ours = BatchBuilder::end_txn_marker(header.max_timestamp, id, epoch, marker);
        let mut ours = BytesMut::from(ours);
        patch::set_offset_and_epoch(&mut ours, header.base_offset, header.leader_epoch).unwrap();
        assert_eq!(ours, batch.bytes());
    }
}

#[test]
fn a_flipped_bit_fails_the_crc_and_patching_the_place_does_not() {
    let bytes = golden("none");
    let mut torn = BytesMut::from(&bytes[..]);
    torn[200] ^= 1;
    assert!(Batch::parse(torn.freeze()).unwrap().check_crc().is_err());
    let mut moved = BytesMut::from(&bytes[..]);
    patch::set_offset_and_epoch(&mut moved, 77.into(), 5.into()).unwrap();
    let moved = Batch::parse(moved.freeze()).unwrap();
    moved.check_crc().unwrap();
    assert_eq!((moved.header().base_offset.0, moved.header().leader_epoch.0), (77, 5));
    assert_eq!(moved.header().last_offset().0, 77 + 39);
    assert_eq!(records(&moved)[3].offset.0, 80);
}

#[test]
fn append_time_is_every_records_time() {
    let mut bytes = BytesMut::from(&golden("gzip")[..]);
    patch::set_log_append_time(&mut bytes, 1234.into()).unwrap();
    let batch = Batch::parse(bytes.freeze()).unwrap();
    batch.check_crc().unwrap();
    assert!(records(&batch).iter().all(|record| record.timestamp.0 == 1234));
}

#[test]
fn a_buffer_that_ends_inside_of_a_batch_is_an_error_or_an_end_as_asked() {
    let bytes = golden("txn");
    for end in 0..=bytes.len() {
        let cut = bytes.slice(..end);
        let whole = Batches::ignoring_partial(cut.clone()).map(Result::unwrap).count();
        let expected = [78, 156, 234, 601, 679].iter().filter(|at| **at <= end).count();
        assert_eq!(whole, expected, "{end}");
        let at_an_edge = [0, 78, 156, 234, 601, 679].contains(&end);
        assert_eq!(Batches::new(cut).all(|batch| batch.is_ok()), at_an_edge, "{end}");
    }
    let mut walk = Batches::ignoring_partial(bytes.slice(..300));
    assert_eq!(walk.by_ref().count(), 3);
    assert_eq!((walk.position(), walk.left_bytes(), walk.needed_bytes()), (234, 66, Some(367)));
}
