//! Metadata records as a batch of the log, and back.

use bytes::Bytes;
use millstream_machine::Error;
use millstream_machine::metadata::{Committed, ProposeError, Record};
use millstream_protocol::CodecError;
use millstream_record::{Batch, BatchBuilder, BatchOptions, Millis};

/// Most bytes that a batch of metadata records may have when decompressed; we write them uncompressed.
const DECOMPRESSED_MAX: usize = 64 << 20;

/// `records` as one batch, without a place in the log yet.
///
/// # Errors
/// When a record is too large for the format.
pub(crate) fn encode(records: &[Record], now: Millis) -> Result<Bytes, ProposeError> {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    for record in records {
        let value = record.encode().map_err(failed)?;
        builder.append(now, None, Some(&value), &[]).map_err(failed)?;
    }
    Ok(builder.build().map_err(failed)?.freeze())
}

/// What a batch of the log says. A control batch says nothing to an image, but it takes offsets.
///
/// # Errors
/// [`ProposeError::Unreadable`] when a record is not one that this build knows.
pub(crate) fn decode(batch: &Batch) -> Result<Committed, ProposeError> {
    let header = batch.header();
    let mut committed = Committed {
        base: header.base_offset,
        end: header.next_offset(),
        epoch: header.leader_epoch,
        snapshot: false,
        records: Vec::new(),
    };
    if header.attributes.is_control() {
        return Ok(committed);
    }
    let body = batch.decompress(DECOMPRESSED_MAX.max(batch.bytes().len())).map_err(failed)?;
    for record in batch.records(&body) {
        let value = record.map_err(failed)?.value.unwrap_or_default();
        committed.records.push(Record::decode(body.slice_ref(value)).map_err(unreadable)?);
    }
    Ok(committed)
}

/// What a newer build writes is told from what is damaged: the one wants another build, the other another copy.
fn unreadable(error: CodecError) -> ProposeError {
    match error {
        CodecError::UnknownRecord { kind, version } => {
            ProposeError::Unreadable(Error::UnknownRecord { kind, version })
        }
        CodecError::UnknownFrame { version } => ProposeError::Unreadable(Error::UnknownFrame { version }),
        other => failed(other),
    }
}

/// An error of the log's own making, in the log's terms.
pub(crate) fn failed(error: impl std::fmt::Display) -> ProposeError {
    ProposeError::Storage(error.to_string())
}
