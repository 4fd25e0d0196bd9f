//! The 61 bytes in front of a batch's records.

use bytes::{Buf, BufMut};

use crate::{Compression, LeaderEpoch, Millis, Offset, ProducerEpoch, ProducerId, RecordError};

/// Bytes of a batch header, from the base offset to the record count.
pub const HEADER_BYTES: usize = 61;
/// Bytes in front of what the length field counts: base offset and the length itself.
pub const LENGTH_PREFIX_BYTES: usize = 12;
/// Where the bytes begin that the CRC covers.
pub(crate) const CRC_COVERS_FROM: usize = 21;
const MAGIC_AT: usize = 16;
const MAGIC: i8 = 2;

/// What a batch's timestamps mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimestampType {
    /// The producer set them.
    #[default]
    CreateTime,
    /// The broker set one for the whole batch when it appended it (`message.timestamp.type=LogAppendTime`).
    LogAppendTime,
}

/// The attribute bits of a batch.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes(pub i16);

impl Attributes {
    const COMPRESSION: i16 = 0x07;
    const LOG_APPEND_TIME: i16 = 0x08;
    const TRANSACTIONAL: i16 = 0x10;
    const CONTROL: i16 = 0x20;
    const DELETE_HORIZON: i16 = 0x40;

    /// How the records are compressed.
    ///
    /// # Errors
    /// A number that names no compression.
    pub fn compression(self) -> Result<Compression, RecordError> {
        Compression::from_id((self.0 & Self::COMPRESSION) as i8)
    }

    /// What the timestamps mean.
    #[must_use]
    pub fn timestamp_type(self) -> TimestampType {
        if self.0 & Self::LOG_APPEND_TIME == 0 {
            TimestampType::CreateTime
        } else {
            TimestampType::LogAppendTime
        }
    }

    /// Whether the batch belongs to a transaction (data or marker).
    #[must_use]
    pub fn is_transactional(self) -> bool {
        self.0 & Self::TRANSACTIONAL != 0
    }

    /// Whether the batch holds control records, which no application sees.
    #[must_use]
    pub fn is_control(self) -> bool {
        self.0 & Self::CONTROL != 0
    }

    /// Whether the base timestamp is the time at which tombstones and markers may be removed (KIP-534).
    #[must_use]
    pub fn has_delete_horizon(self) -> bool {
        self.0 & Self::DELETE_HORIZON != 0
    }

    pub(crate) fn with_compression(self, compression: Compression) -> Self {
        Self((self.0 & !Self::COMPRESSION) | i16::from(compression.id()))
    }

    pub(crate) fn with_timestamp_type(self, kind: TimestampType) -> Self {
        self.with(Self::LOG_APPEND_TIME, kind == TimestampType::LogAppendTime)
    }

    pub(crate) fn with_transactional(self, on: bool) -> Self {
        self.with(Self::TRANSACTIONAL, on)
    }

    pub(crate) fn with_control(self, on: bool) -> Self {
        self.with(Self::CONTROL, on)
    }

    pub(crate) fn with_delete_horizon(self, on: bool) -> Self {
        self.with(Self::DELETE_HORIZON, on)
    }

    fn with(self, bit: i16, on: bool) -> Self {
        Self(if on { self.0 | bit } else { self.0 & !bit })
    }
}

impl std::fmt::Debug for Attributes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#06x}", self.0)
    }
}

/// The header of a batch, by field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record; a producer writes 0 and the broker the real one.
    pub base_offset: Offset,
    /// Bytes that follow the length field.
    pub length: i32,
    /// Epoch of the leader that appended the batch; -1 from a producer.
    pub leader_epoch: LeaderEpoch,
    /// CRC-32C over everything behind this field.
    pub crc: u32,
    /// Compression and kind.
    pub attributes: Attributes,
    /// Last offset minus base offset. Compaction keeps it when it removes the last record.
    pub last_offset_delta: i32,
    /// What the records' timestamp deltas add to; the delete horizon where [`Attributes::has_delete_horizon`].
    pub base_timestamp: Millis,
    /// Largest timestamp of the batch; the append time where that is what timestamps mean.
    pub max_timestamp: Millis,
    /// The idempotent producer, or -1.
    pub producer_id: ProducerId,
    /// Its incarnation, or -1.
    pub producer_epoch: ProducerEpoch,
    /// Sequence number of the first record, or -1.
    pub base_sequence: i32,
    /// Records in the batch.
    pub record_count: i32,
}

impl BatchHeader {
    /// Reads the header at the front of `bytes`, of which more than [`HEADER_BYTES`] are ignored.
    ///
    /// # Errors
    /// Fewer bytes, another magic, or a field that cannot be. The CRC is not checked: see [`crate::Batch::check_crc`].
    pub fn peek(bytes: &[u8]) -> Result<Self, RecordError> {
        Self::peek_at(bytes, 0)
    }

    pub(crate) fn peek_at(bytes: &[u8], position: usize) -> Result<Self, RecordError> {
        let Some(mut head) = bytes.get(..HEADER_BYTES) else {
            return Err(Self::too_short(bytes, position));
        };
        let base_offset = Offset(head.get_i64());
        let length = head.get_i32();
        let leader_epoch = LeaderEpoch(head.get_i32());
        let magic = head.get_i8();
        if magic != MAGIC {
            return Err(RecordError::Magic { position, magic });
        }
        let header = Self {
            base_offset,
            length,
            leader_epoch,
            crc: head.get_u32(),
            attributes: Attributes(head.get_i16()),
            last_offset_delta: head.get_i32(),
            base_timestamp: Millis(head.get_i64()),
            max_timestamp: Millis(head.get_i64()),
            producer_id: ProducerId(head.get_i64()),
            producer_epoch: ProducerEpoch(head.get_i16()),
            base_sequence: head.get_i32(),
            record_count: head.get_i32(),
        };
        header.check(position)?;
        Ok(header)
    }

    fn too_short(bytes: &[u8], position: usize) -> RecordError {
        if let Some(&magic) = bytes.get(MAGIC_AT)
            && magic as i8 != MAGIC
        {
            return RecordError::Magic { position, magic: magic as i8 };
        }
        RecordError::Truncated { position, needed: HEADER_BYTES, left: bytes.len() }
    }

    fn check(&self, position: usize) -> Result<(), RecordError> {
        let refuse = |what, value: i32| Err(RecordError::Header { position, what, value: i64::from(value) });
        if self.length < (HEADER_BYTES - LENGTH_PREFIX_BYTES) as i32 {
            return refuse("length", self.length);
        }
        if self.last_offset_delta < 0 {
            return refuse("last offset delta", self.last_offset_delta);
        }
        if self.record_count < 0 {
            return refuse("record count", self.record_count);
        }
        Ok(())
    }

    /// Writes the header, [`HEADER_BYTES`] long.
    pub fn write(&self, out: &mut impl BufMut) {
        out.put_i64(self.base_offset.0);
        out.put_i32(self.length);
        out.put_i32(self.leader_epoch.0);
        out.put_i8(MAGIC);
        out.put_u32(self.crc);
        out.put_i16(self.attributes.0);
        out.put_i32(self.last_offset_delta);
        out.put_i64(self.base_timestamp.0);
        out.put_i64(self.max_timestamp.0);
        out.put_i64(self.producer_id.0);
        out.put_i16(self.producer_epoch.0);
        out.put_i32(self.base_sequence);
        out.put_i32(self.record_count);
    }

    /// Bytes of the whole batch.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        LENGTH_PREFIX_BYTES + usize::try_from(self.length).unwrap_or(0)
    }

    /// Offset of the last record (also of one that compaction removed).
    #[must_use]
    pub fn last_offset(&self) -> Offset {
        Offset(self.base_offset.0.saturating_add(i64::from(self.last_offset_delta)))
    }

    /// Offset behind the batch.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        Offset(self.last_offset().0.saturating_add(1))
    }

    /// Sequence number of the last record, or -1 without a producer. Sequences wrap from `i32::MAX` to 0.
    #[must_use]
    pub fn last_sequence(&self) -> i32 {
        if self.base_sequence < 0 { -1 } else { advance_sequence(self.base_sequence, self.last_offset_delta) }
    }

    /// Whether an idempotent producer wrote the batch.
    #[must_use]
    pub fn has_producer(&self) -> bool {
        self.producer_id.0 >= 0
    }

    /// When tombstones and markers of this batch may be removed (KIP-534); `None` until the cleaner has set it.
    #[must_use]
    pub fn delete_horizon(&self) -> Option<Millis> {
        self.attributes.has_delete_horizon().then_some(self.base_timestamp)
    }

    /// Whether the offsets are one for each record without gaps, as in every batch that a producer sends.
    #[must_use]
    pub fn is_dense(&self) -> bool {
        self.record_count > 0 && self.last_offset_delta == self.record_count - 1
    }
}

/// The sequence number `by` records after `sequence`. Sequences wrap from `i32::MAX` to 0 (KIP-98).
#[must_use]
pub fn advance_sequence(sequence: i32, by: i32) -> i32 {
    let sum = i64::from(sequence) + i64::from(by);
    (sum & i64::from(i32::MAX)) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_wrap_to_zero() {
        for (sequence, by, expected) in
            [(0, 0, 0), (5, 3, 8), (i32::MAX, 1, 0), (i32::MAX - 1, 3, 1), (i32::MAX, i32::MAX, i32::MAX - 1)]
        {
            assert_eq!(advance_sequence(sequence, by), expected, "{sequence} + {by}");
        }
    }
}
