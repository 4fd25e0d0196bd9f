//! Producer snapshots: the producer state at an offset, in Kafka's format (`ProducerSnapshot`, version 1).

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::path::Path;

use millstream_record::{Millis, Offset, ProducerEpoch, ProducerId};

use crate::disk::{Disk, OpenMode};
use crate::error::StorageError;
use crate::producer::{NO_SEQUENCE, ProducedBatch, ProducerState, ProducerStates};

const VERSION: i16 = 1;
const ENTRY_BYTES: usize = 46;

/// The bytes of a snapshot file. Of each producer only the last batch has a place; the others are read back from the log.
pub(crate) fn encode(states: &ProducerStates) -> Vec<u8> {
    let producers = states.sorted();
    let mut out = Vec::with_capacity(4 + producers.len() * ENTRY_BYTES);
    out.extend_from_slice(&i32::try_from(producers.len()).unwrap_or(i32::MAX).to_be_bytes());
    for (id, state) in producers {
        let last = state.batches.back();
        out.extend_from_slice(&id.0.to_be_bytes());
        out.extend_from_slice(&state.epoch.0.to_be_bytes());
        out.extend_from_slice(&last.map_or(NO_SEQUENCE, |batch| batch.last_sequence).to_be_bytes());
        out.extend_from_slice(&last.map_or(-1, |batch| batch.last_offset.0).to_be_bytes());
        out.extend_from_slice(&last.map_or(0, |batch| batch.offset_delta).to_be_bytes());
        out.extend_from_slice(&state.last_timestamp.0.to_be_bytes());
        out.extend_from_slice(&state.coordinator_epoch.to_be_bytes());
        out.extend_from_slice(&state.open_transaction.map_or(-1, |offset| offset.0).to_be_bytes());
    }
    [&VERSION.to_be_bytes()[..], &crc32c::crc32c(&out).to_be_bytes(), &out].concat()
}

/// Writes a snapshot file and syncs it, but not its name. A torn one is told by its CRC, so it needs no renaming.
pub(crate) fn write(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let file = disk.open(path, OpenMode::Replace)?;
    file.write_at(&[IoSlice::new(bytes)], 0)?;
    file.sync()
}

/// Refuses a snapshot file that a newer build wrote; a torn or damaged one is for [`decode`] to judge.
///
/// # Errors
/// [`StorageError::NewerFormat`]
pub(crate) fn refuse_newer(path: &Path, bytes: &[u8]) -> Result<(), StorageError> {
    let mut input = Input(bytes);
    let head = input.take().map(i16::from_be_bytes).zip(input.take().map(u32::from_be_bytes));
    match head {
        Some((version, crc)) if crc32c::crc32c(input.0) == crc => {
            StorageError::refuse_newer(path, version, VERSION)
        }
        _ => Ok(()),
    }
}

/// Reads a snapshot file.
///
/// # Errors
/// What is wrong with it; the log then has to be replayed from an older one.
pub(crate) fn decode(bytes: &[u8]) -> Result<ProducerStates, &'static str> {
    let mut input = Input(bytes);
    let cut = "cut off";
    if input.take().map(i16::from_be_bytes).ok_or(cut)? != VERSION {
        return Err("not version 1");
    }
    let crc = input.take().map(u32::from_be_bytes).ok_or(cut)?;
    if crc32c::crc32c(input.0) != crc {
        return Err("its CRC is wrong");
    }
    let count = input.take().map(i32::from_be_bytes).ok_or(cut)?;
    if usize::try_from(count).ok().and_then(|count| count.checked_mul(ENTRY_BYTES)) != Some(input.0.len()) {
        return Err("its length does not match its count");
    }
    let mut states = ProducerStates::default();
    for _ in 0..count {
        let (id, state) = entry(&mut input).ok_or(cut)?;
        states.restore(id, state);
    }
    Ok(states)
}

fn entry(input: &mut Input<'_>) -> Option<(ProducerId, ProducerState)> {
    let id = ProducerId(i64::from_be_bytes(input.take()?));
    let epoch = ProducerEpoch(i16::from_be_bytes(input.take()?));
    let last_sequence = i32::from_be_bytes(input.take()?);
    let last_offset = Offset(i64::from_be_bytes(input.take()?));
    let offset_delta = i32::from_be_bytes(input.take()?);
    let timestamp = Millis(i64::from_be_bytes(input.take()?));
    let coordinator_epoch = i32::from_be_bytes(input.take()?);
    let first = i64::from_be_bytes(input.take()?);
    let open_transaction = (first >= 0).then_some(Offset(first));
    // There is no place for it in the format. Whoever has or had a transaction writes in transactions only.
    let transactional = open_transaction.is_some() || coordinator_epoch >= 0;
    let batch = ProducedBatch { last_sequence, last_offset, offset_delta, timestamp, transactional };
    let batches: VecDeque<_> = (last_offset.0 >= 0).then_some(batch).into_iter().collect();
    Some((
        id,
        ProducerState { epoch, coordinator_epoch, last_timestamp: timestamp, open_transaction, batches },
    ))
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::producer::DataBatch;

    #[test]
    fn snapshots_round_trip_and_every_flipped_byte_is_found() {
        let mut states = ProducerStates::default();
        for id in 1..4 {
            let batch = DataBatch {
                producer_id: ProducerId(id),
                epoch: ProducerEpoch(2),
                first_sequence: 10,
                offset_delta: 4,
                timestamp: Millis(99),
                transactional: id == 2,
            };
            states.apply(&batch, Offset(100 * id));
        }
        let bytes = encode(&states);
        assert_eq!(bytes.len(), 10 + 3 * 46);
        assert_eq!(decode(&bytes).unwrap(), states);
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(decode(&bad).is_err(), "byte {at}");
            assert!(decode(&bytes[..at]).is_err(), "length {at}");
        }
    }
}
