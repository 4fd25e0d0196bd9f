//! The one look into records that the broker takes: a compacted topic's must have keys.

use bytes::Bytes;
use millstream_protocol::ErrorCode;
use millstream_record::{Batches, DEFAULT_DECOMPRESSED_LIMIT_BYTES, RecordError};

use crate::refusal::Refusal;

/// Refuses batches with a record that has no key, and such that cannot be read.
pub(crate) fn require(records: &Bytes) -> Result<(), Refusal> {
    let invalid = |why: String| Refusal::new(ErrorCode::InvalidRecord, why);
    match first_without_key(records) {
        Ok(None) => Ok(()),
        Ok(Some(at)) => {
            Err(invalid(format!("record {at} of the batch has no key, which a compacted topic requires")))
        }
        Err(error) => Err(invalid(error.to_string())),
    }
}

fn first_without_key(records: &Bytes) -> Result<Option<usize>, RecordError> {
    for batch in Batches::new(records.clone()) {
        let batch = batch?;
        let body = batch.decompress(DEFAULT_DECOMPRESSED_LIMIT_BYTES)?;
        for (at, record) in batch.records(&body).enumerate() {
            if record?.key.is_none() {
                return Ok(Some(at));
            }
        }
    }
    Ok(None)
}
