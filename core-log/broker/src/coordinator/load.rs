//! Reading a coordinator's partition back.

use bytes::Bytes;
use millstream_machine::group::Replay;
use millstream_machine::{KeyValue, TransactionOutcome};
use millstream_protocol::ErrorCode;
use millstream_record::{Batch, Batches, ControlKind, DEFAULT_DECOMPRESSED_LIMIT_BYTES, LeaderEpoch, Offset};

use super::Machine;
use crate::partition::{Isolation, Partition, Reader, Sought};
use crate::refusal::Refusal;

/// Bytes that are read at once.
const READ_BYTES: usize = 1 << 20;

/// Replays `partition` from `from` to its end. Blocks.
///
/// # Errors
/// When records cannot be read or understood; the coordinator must not serve then.
pub(super) fn replay<M: Machine>(
    machine: &mut M,
    partition: &Partition,
    from: Offset,
) -> Result<(), Refusal> {
    let mut next = from.max(partition.marks(LeaderEpoch::NONE)?.start);
    loop {
        let sought = Sought {
            offset: next,
            max_bytes: READ_BYTES,
            at_least_one: true,
            reader: Reader::Consumer(Isolation::Uncommitted),
        };
        let planned = partition.read_plan(sought, LeaderEpoch::NONE, None).map_err(|(refusal, _)| refusal)?;
        if planned.is_at_end {
            return Ok(());
        }
        let slices = planned.plan.run_blocking()?;
        for batch in Batches::new(slices.bytes) {
            replay_batch(machine, &batch.map_err(unreadable)?, next)?;
        }
        if slices.next_offset <= next {
            return Err(unreadable("the log ends before its high watermark"));
        }
        next = slices.next_offset;
    }
}

/// Replays the records of `batch` at `from` and behind it: a batch is read whole, also when `from` lies within.
fn replay_batch<M: Machine>(machine: &mut M, batch: &Batch, from: Offset) -> Result<(), Refusal> {
    let header = batch.header();
    let body = batch.decompress(DEFAULT_DECOMPRESSED_LIMIT_BYTES).map_err(unreadable)?;
    let in_transaction = header.attributes.is_transactional().then_some(header.producer_id);
    for record in batch.records(&body) {
        let record = record.map_err(unreadable)?;
        if record.offset < from {
            continue;
        }
        let key = record.key.unwrap_or_default();
        let entry = if header.attributes.is_control() {
            let outcome = match ControlKind::from_key(key) {
                Some(ControlKind::Commit) => TransactionOutcome::Commit,
                Some(ControlKind::Abort) => TransactionOutcome::Abort,
                _ => continue,
            };
            Replay::Marker { producer_id: header.producer_id, outcome }
        } else {
            let record = KeyValue {
                key: Bytes::copy_from_slice(key),
                value: record.value.map(Bytes::copy_from_slice), // else one offset pins its whole read
            };
            Replay::Record { producer_id: in_transaction, record }
        };
        machine.replay(entry).map_err(unreadable)?;
    }
    Ok(())
}

fn unreadable(error: impl std::fmt::Display) -> Refusal {
    Refusal::new(ErrorCode::CoordinatorNotAvailable, error.to_string())
}
