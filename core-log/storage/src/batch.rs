//! Record batches as the log sees them: a header to read and to stamp, records that stay opaque (but for transaction markers).

use bytes::Bytes;
use millstream_record::{Attributes, Batch, EndTxnMarker, LeaderEpoch, Millis, Offset, RecordError};
pub(crate) use millstream_record::{BatchHeader as Header, HEADER_BYTES};

use crate::producer::{DataBatch, Marker};

/// Where the part of a batch begins that its CRC covers.
const CRC_FROM: usize = 21;
const LOG_APPEND_TIME: i16 = 1 << 3;

/// Reads the header at the begin of `bytes`, which may end before the batch does.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn header(bytes: &[u8]) -> Result<Header, &'static str> {
    let header = Header::peek(bytes).map_err(|error| match error {
        RecordError::Truncated { .. } => "cut off within a batch header",
        RecordError::Magic { .. } => "not a batch of format v2 (magic is not 2)",
        _ => "a batch header with an impossible field",
    })?;
    let end = header.base_offset.0.checked_add(i64::from(header.last_offset_delta));
    if end.is_none_or(|end| end == i64::MAX) { Err("an impossible last offset") } else { Ok(header) }
}

/// Whether the CRC in `header` is that of `batch`, which is the whole batch.
pub(crate) fn crc_holds(header: &Header, batch: &[u8]) -> bool {
    batch.get(CRC_FROM..).is_some_and(|covered| crc32c::crc32c(covered) == header.crc)
}

/// The batch as the producer state sees it; `None` for batches without a producer and for markers.
pub(crate) fn produced(header: &Header) -> Option<DataBatch> {
    if !header.has_producer() || header.base_sequence < 0 || header.attributes.is_control() {
        return None;
    }
    Some(DataBatch {
        producer_id: header.producer_id,
        epoch: header.producer_epoch,
        first_sequence: header.base_sequence,
        offset_delta: header.last_offset_delta,
        timestamp: header.max_timestamp,
        transactional: header.attributes.is_transactional(),
    })
}

/// The transaction marker that `batch`, all of it, holds.
pub(crate) fn marker(header: &Header, batch: &[u8]) -> Option<Marker> {
    if !header.attributes.is_control() || !header.has_producer() {
        return None;
    }
    let batch = Batch::parse(Bytes::copy_from_slice(batch)).ok()?;
    let body = batch.body();
    let record = batch.records(&body).next()?.ok()?;
    let EndTxnMarker { committed, coordinator_epoch } = EndTxnMarker::read(record.key?, record.value?)?;
    Some(Marker {
        producer_id: header.producer_id,
        epoch: header.producer_epoch,
        coordinator_epoch,
        abort: !committed,
        timestamp: header.max_timestamp,
    })
}

/// What the broker writes over a batch's header when it appends it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp {
    pub(crate) base_offset: Offset,
    pub(crate) leader_epoch: LeaderEpoch,
    /// The append time, under `message.timestamp.type=LogAppendTime`.
    pub(crate) log_append_time: Option<Millis>,
}

/// The header of `batch` with `stamp` on it. Base offset and leader epoch lie before what the CRC covers; only an append time
/// needs a new CRC.
pub(crate) fn stamped(batch: &[u8], stamp: &Stamp) -> Result<(Header, [u8; HEADER_BYTES]), &'static str> {
    let mut header = self::header(batch)?;
    header.base_offset = stamp.base_offset;
    header.leader_epoch = stamp.leader_epoch;
    let mut head = [0; HEADER_BYTES];
    if let Some(now) = stamp.log_append_time {
        header.attributes = Attributes(header.attributes.0 | LOG_APPEND_TIME);
        header.max_timestamp = now;
        header.write(&mut head.as_mut_slice());
        let records = batch.get(HEADER_BYTES..).unwrap_or_default();
        header.crc = crc32c::crc32c_append(crc32c::crc32c(head.get(CRC_FROM..).unwrap_or_default()), records);
    }
    header.write(&mut head.as_mut_slice());
    Ok((header, head))
}
