//! Changes to a batch's header in place: what a broker decides about a batch that it otherwise leaves as it came.
//!
//! Every function takes the bytes of one whole batch, whose header [`BatchHeader::peek`](crate::BatchHeader::peek) has
//! accepted; shorter slices are refused.

use crate::header::CRC_COVERS_FROM;
use crate::{Attributes, LeaderEpoch, Millis, Offset, ProducerEpoch, ProducerId, RecordError, TimestampType};

const BASE_OFFSET_AT: usize = 0;
const LEADER_EPOCH_AT: usize = 12;
const CRC_AT: usize = 17;
const ATTRIBUTES_AT: usize = 21;
const BASE_TIMESTAMP_AT: usize = 27;
const MAX_TIMESTAMP_AT: usize = 35;
const PRODUCER_ID_AT: usize = 43;
const PRODUCER_EPOCH_AT: usize = 51;
const BASE_SEQUENCE_AT: usize = 53;

/// Gives the batch its place in the log. The CRC does not cover these fields and stays.
///
/// # Errors
/// [`RecordError::Truncated`] when `batch` is shorter than a header.
pub fn set_offset_and_epoch(batch: &mut [u8], base: Offset, epoch: LeaderEpoch) -> Result<(), RecordError> {
    put(batch, BASE_OFFSET_AT, base.0.to_be_bytes())?;
    put(batch, LEADER_EPOCH_AT, epoch.0.to_be_bytes())
}

/// Gives the batch the time at which it is appended, as `message.timestamp.type=LogAppendTime` asks, and a new CRC.
///
/// # Errors
/// [`RecordError::Truncated`] when `batch` is shorter than a header.
pub fn set_log_append_time(batch: &mut [u8], now: Millis) -> Result<(), RecordError> {
    let attributes = attributes(batch)?.with_timestamp_type(TimestampType::LogAppendTime);
    put(batch, ATTRIBUTES_AT, attributes.0.to_be_bytes())?;
    put(batch, MAX_TIMESTAMP_AT, now.0.to_be_bytes())?;
    refresh_crc(batch)
}

/// Gives the batch the largest timestamp that its records have, as times that their producer set, and a new CRC: the index by
/// time and retention go by that field, and a producer may have written anything.
///
/// # Errors
/// [`RecordError::Truncated`] when `batch` is shorter than a header.
pub fn set_create_time(batch: &mut [u8], max_timestamp: Millis) -> Result<(), RecordError> {
    let attributes = attributes(batch)?.with_timestamp_type(TimestampType::CreateTime);
    put(batch, ATTRIBUTES_AT, attributes.0.to_be_bytes())?;
    put(batch, MAX_TIMESTAMP_AT, max_timestamp.0.to_be_bytes())?;
    refresh_crc(batch)
}

/// Gives the batch a producer and its first sequence number, and a new CRC: a producer does so when it sends a batch that it
/// built before it knew its id, or that an older epoch of it has failed to send (KIP-360).
///
/// # Errors
/// [`RecordError::Truncated`] when `batch` is shorter than a header.
pub fn set_producer(
    batch: &mut [u8],
    id: ProducerId,
    epoch: ProducerEpoch,
    base_sequence: i32,
) -> Result<(), RecordError> {
    put(batch, PRODUCER_ID_AT, id.0.to_be_bytes())?;
    put(batch, PRODUCER_EPOCH_AT, epoch.0.to_be_bytes())?;
    put(batch, BASE_SEQUENCE_AT, base_sequence.to_be_bytes())?;
    refresh_crc(batch)
}

/// Sets the time from which the cleaner may remove tombstones and markers (KIP-534), and a new CRC. Only for batches without
/// records, such as emptied ones and markers: the records' timestamps count from the field that this overwrites.
///
/// # Errors
/// [`RecordError::Truncated`] when `batch` is shorter than a header.
pub fn set_delete_horizon(batch: &mut [u8], horizon: Millis) -> Result<(), RecordError> {
    let attributes = attributes(batch)?.with_delete_horizon(true);
    put(batch, ATTRIBUTES_AT, attributes.0.to_be_bytes())?;
    put(batch, BASE_TIMESTAMP_AT, horizon.0.to_be_bytes())?;
    refresh_crc(batch)
}

/// Computes the CRC anew.
///
/// # Errors
/// [`RecordError::Truncated`] when `batch` is shorter than a header.
pub fn refresh_crc(batch: &mut [u8]) -> Result<(), RecordError> {
    let covered = batch.get(CRC_COVERS_FROM..).ok_or_else(|| too_short(batch.len()))?;
    let crc = crc32c::crc32c(covered);
    put(batch, CRC_AT, crc.to_be_bytes())
}

fn attributes(batch: &[u8]) -> Result<Attributes, RecordError> {
    let field = batch.get(ATTRIBUTES_AT..ATTRIBUTES_AT + 2).and_then(|field| field.try_into().ok());
    field.map(|field| Attributes(i16::from_be_bytes(field))).ok_or_else(|| too_short(batch.len()))
}

fn put<const N: usize>(batch: &mut [u8], at: usize, field: [u8; N]) -> Result<(), RecordError> {
    let left = batch.len();
    batch.get_mut(at..at + N).ok_or_else(|| too_short(left))?.copy_from_slice(&field);
    Ok(())
}

fn too_short(left: usize) -> RecordError {
    RecordError::Truncated { position: 0, needed: crate::HEADER_BYTES, left }
}
