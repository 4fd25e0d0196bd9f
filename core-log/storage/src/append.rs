//! What an append takes and gives, and the checks that need no log.

use millstream_record::{LeaderEpoch, Millis, Offset};

use crate::batch::{self, HEADER_BYTES, Header, Stamp};
use crate::config::LogConfig;
use crate::error::{Result, StorageError};

/// On whose word batches are appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendOrigin {
    /// A client, at the leader: offsets and epoch are assigned, sequences and producer epochs are checked.
    Leader {
        /// The leader's epoch.
        epoch: LeaderEpoch,
    },
    /// The transaction coordinator or another part of the broker, at the leader: as for a client, and markers are fenced by
    /// coordinator epoch.
    Coordinator {
        /// The leader's epoch.
        epoch: LeaderEpoch,
    },
    /// A leader's log, at a follower: offsets and epochs are kept, nothing is checked but that offsets ascend.
    Follower,
}

impl AppendOrigin {
    pub(crate) fn leader_epoch(self) -> Option<LeaderEpoch> {
        match self {
            Self::Leader { epoch } | Self::Coordinator { epoch } => Some(epoch),
            Self::Follower => None,
        }
    }
}

/// What became of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendInfo {
    /// Offset of the first record; for a duplicate that of the original.
    pub base_offset: Offset,
    /// Offset of the last record; for a duplicate that of the original. An answer waits until this one is replicated.
    pub last_offset: Offset,
    /// The time that was stamped on the batches, under `LogAppendTime`.
    pub log_append_time: Option<Millis>,
    /// First offset of the log.
    pub log_start_offset: Offset,
    /// Nothing was written: the batch is one of the last five of its producer, of no transaction that has ended, and is in the log already. It may not be durable yet.
    pub duplicate: bool,
    /// Bytes written.
    pub bytes: u64,
}

/// What [`validate_for_append`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendSummary {
    /// Number of batches.
    pub batches: usize,
    /// Number of records, as the headers claim.
    pub records: u64,
    /// The largest timestamp, as the headers claim.
    pub max_timestamp: Millis,
}

/// Checks the headers of what a client wants appended: whole batches of format v2, their CRCs, `max.message.bytes`, record counts,
/// offsets and sequences as a producer writes them, and that none is a control batch. The records themselves stay opaque here; what
/// a header says of them is not believed before they are walked, which is the broker's to do (`millstream-broker`, `records`).
///
/// # Errors
/// [`StorageError::MalformedBatch`] or [`StorageError::BatchTooLarge`].
pub fn validate_for_append(batches: &[u8], config: &LogConfig) -> Result<AppendSummary> {
    let mut summary = AppendSummary { batches: 0, records: 0, max_timestamp: Millis::NONE };
    for found in parse(batches)? {
        let header = found.header;
        let malformed = |what| StorageError::MalformedBatch { what, position: found.position };
        let (size, max) = (header.size_bytes() as u64, config.max_message_bytes);
        if size > max {
            return Err(StorageError::BatchTooLarge { size, max });
        }
        if !batch::crc_holds(&header, found.bytes) {
            return Err(malformed("the CRC is wrong"));
        }
        if header.attributes.is_control() {
            return Err(malformed("a control batch, which only brokers may write"));
        }
        if !header.is_dense() {
            return Err(malformed("the record count does not fit the last offset"));
        }
        if header.base_offset != Offset(0) {
            return Err(malformed("a base offset that is not 0, which only a broker gives"));
        }
        if header.has_producer() && header.base_sequence < 0 {
            return Err(malformed("a producer id without a sequence"));
        }
        summary.batches += 1;
        summary.records += u64::from(header.record_count.unsigned_abs());
        summary.max_timestamp = summary.max_timestamp.max(header.max_timestamp);
    }
    Ok(summary)
}

/// Checks what a leader sent to its follower: whole batches whose CRCs hold. All else was checked where they were appended
/// first.
///
/// # Errors
/// [`StorageError::MalformedBatch`].
pub fn validate_for_follower(batches: &[u8]) -> Result<()> {
    for found in parse(batches)? {
        if !batch::crc_holds(&found.header, found.bytes) {
            let what = "the CRC is wrong";
            return Err(StorageError::MalformedBatch { what, position: found.position });
        }
    }
    Ok(())
}

/// A batch among those handed over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Incoming<'a> {
    /// The whole batch.
    pub(crate) bytes: &'a [u8],
    pub(crate) header: Header,
    /// Where it begins among the bytes handed over.
    position: u64,
}

/// A batch with the header that goes to disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamped<'a> {
    /// The whole batch as it came.
    pub(crate) bytes: &'a [u8],
    pub(crate) header: Header,
    /// The new header's bytes.
    pub(crate) head: [u8; HEADER_BYTES],
}

/// Splits `bytes` into batches; there must be at least one, and nothing else.
pub(crate) fn parse(bytes: &[u8]) -> Result<Vec<Incoming<'_>>> {
    let mut found = Vec::with_capacity(1);
    let mut rest = bytes;
    while !rest.is_empty() || found.is_empty() {
        let position = (bytes.len() - rest.len()) as u64;
        let malformed = |what| StorageError::MalformedBatch { what, position };
        let header = batch::header(rest).map_err(malformed)?;
        let (batch, behind) = rest
            .split_at_checked(header.size_bytes())
            .ok_or_else(|| malformed("a batch that is longer than the bytes handed over"))?;
        found.push(Incoming { bytes: batch, header, position });
        rest = behind;
    }
    Ok(found)
}

/// The headers as they go to disk: with offsets from `next` on and the leader's epoch, or as they are on a follower.
pub(crate) fn stamp<'a>(
    incoming: &[Incoming<'a>],
    origin: AppendOrigin,
    mut next: Offset,
    log_append_time: Option<Millis>,
) -> Result<Vec<Stamped<'a>>> {
    let mut stamped = Vec::with_capacity(incoming.len());
    for &Incoming { bytes, header, position } in incoming {
        let stamp = match origin.leader_epoch() {
            Some(leader_epoch) => Stamp { base_offset: next, leader_epoch, log_append_time },
            None if header.base_offset < next => {
                return Err(StorageError::OffsetsOutOfOrder { expected: next, found: header.base_offset });
            }
            None => Stamp {
                base_offset: header.base_offset,
                leader_epoch: header.leader_epoch,
                log_append_time: None,
            },
        };
        let (header, head) =
            batch::stamped(bytes, &stamp).map_err(|what| StorageError::MalformedBatch { what, position })?;
        next = header.next_offset();
        stamped.push(Stamped { bytes, header, head });
    }
    Ok(stamped)
}
