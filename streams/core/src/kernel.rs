//! Stateful operators, written once for both front ends over (key bytes, timestamp, row).
//!
//! | kernel | front end supplies | store holds |
//! | --- | --- | --- |
//! | [`WindowAggregate`] | [`Fold`] | window start, key -> timestamp, state |
//! | [`KeyAggregate`] | [`Fold`] | key -> timestamp, state |
//! | [`TableUpsert`] | [`TableRows`] | key -> timestamp, row |
//! | [`StreamTableJoin`] | [`Lookup`] | (reads what a [`TableUpsert`] or [`KeyAggregate`] wrote) |
//!
//! **For a SQL front end**: key bytes are your frozen key encoding of the GROUP BY or join columns; a [`Fold`] over
//! DataFusion accumulators gets each chunk once with (row, slot) pairs, so it may evaluate argument expressions on the whole
//! batch, `take` the picked rows and feed one accumulator for each slot, or a `GroupsAccumulator` with the slots as group
//! indices. Rows that WHERE removed do not reach the kernel, so they do not move its stream time.

use bytes::{BufMut, Bytes};
use millstream_record::Millis;

mod fold;
mod groups;
mod join;
mod key_aggregate;
mod keys;
mod layout;
mod table;
mod window_aggregate;

pub use fold::{Fold, Group, Pick};
pub use join::{Lookup, StreamTableJoin};
pub use key_aggregate::KeyAggregate;
pub use keys::KeyColumn;
pub use table::{TableRows, TableUpsert};
pub use window_aggregate::{Emit, WindowAggregate, WindowOptions};

/// The port of late rows of a [`WindowAggregate`].
pub const LATE_PORT: u16 = 1;

/// Rows in a store begin with their timestamp.
const TIMESTAMP_BYTES: usize = 8;

/// Splits what a kernel stored into timestamp and row (or state).
///
/// # Errors
/// [`crate::StreamsError::Decode`] when the bytes are too short to be a stored row.
pub fn split_stored(stored: &Bytes) -> crate::Result<(Millis, Bytes)> {
    let Some(head) = stored.first_chunk::<TIMESTAMP_BYTES>() else {
        let reason = format!("{} bytes are too few for a timestamp", stored.len());
        return Err(crate::StreamsError::Decode { what: "stored row", reason });
    };
    Ok((Millis(i64::from_be_bytes(*head)), stored.slice(TIMESTAMP_BYTES..)))
}

/// Begins a stored row: its timestamp. The row's own bytes follow.
fn begin_stored(buffer: &mut Vec<u8>, timestamp: Millis) {
    buffer.clear();
    buffer.put_i64(timestamp.0);
}
