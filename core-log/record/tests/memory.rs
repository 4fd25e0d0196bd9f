//! What looking at the records of a batch allocates: measured at the allocator, so this file holds one test only.

use std::alloc::System;

use millstream_record::{Batch, BatchBuilder, BatchOptions, Compression, Header, Millis};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const RECORDS: usize = 50_000;
const LIMIT: usize = 64 << 20;

fn batch(compression: Compression) -> Batch {
    let mut builder =
        BatchBuilder::new(BatchOptions { codec: compression.into(), ..BatchOptions::default() });
    let headers = [Header::new("name", &b"value"[..])];
    for n in 0..RECORDS {
        builder.append(Millis(n as i64), Some(&n.to_be_bytes()), Some(&[b'v'; 200]), &headers).unwrap();
    }
    Batch::parse(builder.build().unwrap().freeze()).unwrap()
}

/// Decompresses, walks all records and their headers; gives the bytes of the records.
fn look(batch: &Batch, buffer: &mut Vec<u8>) -> usize {
    let body = batch.decompress_into(LIMIT, buffer).unwrap();
    let mut headers = 0;
    for record in batch.records(body) {
        headers += record.unwrap().headers.count();
    }
    assert_eq!(headers, RECORDS);
    body.len()
}

#[test]
fn a_look_at_records_allocates_nothing_for_them() {
    let mut buffer = Vec::new();
    for compression in Compression::ALL {
        let batch = batch(compression);
        let size = look(&batch, &mut buffer); // has the buffer grow
        let region = Region::new(ALLOCATOR);
        look(&batch, &mut buffer);
        let taken = region.change();
        if compression == Compression::None {
            assert_eq!((taken.allocations, taken.reallocations), (0, 0));
        }
        // A codec keeps a window of a few MiB at most, and no copy of what comes out.
        let (calls, bytes) = (taken.allocations + taken.reallocations, taken.bytes_allocated);
        assert!(
            calls < 1000 && bytes < size / 2,
            "{compression}: {calls} calls took {bytes} bytes of {size}"
        );
    }
}
