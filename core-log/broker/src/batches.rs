//! Batches that the broker itself writes.

use bytes::Bytes;
use millstream_machine::KeyValue;
use millstream_record::{BatchBuilder, BatchOptions, Millis};

/// One batch with these records, in order.
///
/// # Panics
/// When a machine's records outgrow what a batch can hold (2 GiB); they are bounded by the requests they come from.
pub(crate) fn of_records(options: BatchOptions, now: Millis, records: &[KeyValue]) -> Bytes {
    let mut builder = BatchBuilder::new(options);
    for record in records {
        builder
            .append(now, Some(&record.key), record.value.as_deref(), &[])
            .expect("an internal record is no larger than the request it comes from");
    }
    builder.build().expect("no compression, and no more bytes than a request has").freeze()
}
