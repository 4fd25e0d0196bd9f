//! Builds a batch, record by record.

use bytes::{BufMut, Bytes, BytesMut};

use crate::varint::{self, MAX_VARINT_BYTES, MAX_VARLONG_BYTES};
use crate::{
    Attributes, BatchHeader, Codec, Compression, EndTxnMarker, HEADER_BYTES, Header, LENGTH_PREFIX_BYTES,
    LeaderEpoch, Millis, Offset, ProducerEpoch, ProducerId, RecordError, TimestampType, patch,
};

/// What a batch says about itself, apart from its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchOptions {
    /// Offset of the first record; a producer leaves 0.
    pub base_offset: Offset,
    /// Epoch of the leader that appends it; a producer leaves -1.
    pub leader_epoch: LeaderEpoch,
    /// Compression and level.
    pub codec: Codec,
    /// What the timestamps mean.
    pub timestamp_type: TimestampType,
    /// The idempotent producer, or -1.
    pub producer_id: ProducerId,
    /// Its incarnation, or -1.
    pub producer_epoch: ProducerEpoch,
    /// Sequence of the first record, or -1.
    pub base_sequence: i32,
    /// Whether the batch belongs to a transaction.
    pub transactional: bool,
    /// Whether the records are control records.
    pub control: bool,
}

impl Default for BatchOptions {
    fn default() -> Self {
        Self {
            base_offset: Offset(0),
            leader_epoch: LeaderEpoch::NONE,
            codec: Codec::default(),
            timestamp_type: TimestampType::CreateTime,
            producer_id: ProducerId(-1),
            producer_epoch: ProducerEpoch(-1),
            base_sequence: -1,
            transactional: false,
            control: false,
        }
    }
}

/// Builds one batch. Records are written where the batch will have them, so an uncompressed batch is never copied.
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    options: BatchOptions,
    /// Room for the header, then the records, not compressed.
    buffer: BytesMut,
    base_timestamp: Millis,
    max_timestamp: Millis,
    count: i32,
    next_offset_delta: i32,
}

impl BatchBuilder {
    /// An empty batch.
    #[must_use]
    pub fn new(options: BatchOptions) -> Self {
        Self::with_capacity(options, 0)
    }

    /// An empty batch with room for `bytes` of records.
    #[must_use]
    pub fn with_capacity(options: BatchOptions, bytes: usize) -> Self {
        let mut buffer = BytesMut::with_capacity(HEADER_BYTES + bytes);
        buffer.put_bytes(0, HEADER_BYTES);
        Self {
            options,
            buffer,
            base_timestamp: Millis::NONE,
            max_timestamp: Millis::NONE,
            count: 0,
            next_offset_delta: 0,
        }
    }

    /// Appends a record at the next offset.
    ///
    /// # Errors
    /// [`RecordError::Unbuildable`] when record or batch outgrow what the format can say.
    pub fn append(
        &mut self,
        timestamp: Millis,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header],
    ) -> Result<(), RecordError> {
        self.append_delta(self.next_offset_delta, timestamp, key, value, headers)
    }

    /// Appends a record at `offset`, which leaves a gap where records were removed by compaction.
    ///
    /// # Errors
    /// As [`BatchBuilder::append`], and when `offset` is not behind the record before.
    pub fn append_at(
        &mut self,
        offset: Offset,
        timestamp: Millis,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header],
    ) -> Result<(), RecordError> {
        let delta = offset.0.checked_sub(self.options.base_offset.0).and_then(|delta| delta.try_into().ok());
        let delta = delta.ok_or(RecordError::Unbuildable { what: "its offset is too far from the first" })?;
        if delta < self.next_offset_delta {
            return Err(RecordError::Unbuildable { what: "its offset is not behind the one before" });
        }
        self.append_delta(delta, timestamp, key, value, headers)
    }

    fn append_delta(
        &mut self,
        offset_delta: i32,
        timestamp: Millis,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header],
    ) -> Result<(), RecordError> {
        let next = offset_delta
            .checked_add(1)
            .ok_or(RecordError::Unbuildable { what: "a batch has at most 2^31 - 1 offsets" })?;
        let base = if self.count == 0 { timestamp } else { self.base_timestamp };
        let timestamp_delta = timestamp.0.wrapping_sub(base.0);
        let length = 1
            + varint::size_i64(timestamp_delta)
            + varint::size_i32(offset_delta)
            + size_of_bytes(key.map(<[u8]>::len))
            + size_of_bytes(value.map(<[u8]>::len))
            + size_of_headers(headers);
        let most = i32::MAX as usize - self.buffer.len() - MAX_VARINT_BYTES;
        if length > most {
            return Err(RecordError::Unbuildable { what: "a batch has at most 2^31 - 1 bytes" });
        }
        self.buffer.reserve(length + MAX_VARINT_BYTES);
        let out = &mut self.buffer;
        varint::write_i32(out, length as i32);
        out.put_i8(0); // attributes of the record: none are defined
        varint::write_i64(out, timestamp_delta);
        varint::write_i32(out, offset_delta);
        write_bytes(out, key);
        write_bytes(out, value);
        varint::write_i32(out, headers.len() as i32);
        for header in headers {
            write_bytes(out, Some(header.key.as_bytes()));
            write_bytes(out, header.value.as_deref());
        }
        self.base_timestamp = base;
        self.max_timestamp = self.max_timestamp.max(timestamp);
        self.count += 1;
        self.next_offset_delta = next;
        Ok(())
    }

    /// Appends the marker that ends a transaction. The batch must be [`BatchOptions::control`].
    ///
    /// # Errors
    /// As [`BatchBuilder::append`].
    pub fn append_marker(&mut self, timestamp: Millis, marker: EndTxnMarker) -> Result<(), RecordError> {
        self.append(timestamp, Some(&marker.kind().key()), Some(&marker.value()), &[])
    }

    /// Records so far.
    #[must_use]
    pub fn record_count(&self) -> i32 {
        self.count
    }

    /// Whether there is no record yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of the batch so far, before compression.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Largest timestamp so far, or [`Millis::NONE`].
    #[must_use]
    pub fn max_timestamp(&self) -> Millis {
        self.max_timestamp
    }

    /// Sets the producer, which is often known only when the batch is sent.
    pub fn set_producer(&mut self, id: ProducerId, epoch: ProducerEpoch, base_sequence: i32) {
        self.options.producer_id = id;
        self.options.producer_epoch = epoch;
        self.options.base_sequence = base_sequence;
    }

    /// The finished batch.
    ///
    /// # Errors
    /// What the codec says, and a compressed batch of more than 2 GiB.
    pub fn build(self) -> Result<BytesMut, RecordError> {
        let header = self.header();
        let codec = self.options.codec;
        let mut batch = self.buffer;
        if codec.compression != Compression::None {
            let records = batch.split_off(HEADER_BYTES);
            batch.reserve(records.len() / 2);
            codec.compress(&records, &mut batch)?;
        }
        let length = i32::try_from(batch.len() - LENGTH_PREFIX_BYTES)
            .map_err(|_| RecordError::Unbuildable { what: "a batch has at most 2^31 - 1 bytes" })?;
        let mut front = batch.get_mut(..HEADER_BYTES).unwrap_or_default();
        BatchHeader { length, ..header }.write(&mut front);
        patch::refresh_crc(&mut batch)?;
        Ok(batch)
    }

    fn header(&self) -> BatchHeader {
        let options = &self.options;
        BatchHeader {
            base_offset: options.base_offset,
            length: 0,
            leader_epoch: options.leader_epoch,
            crc: 0,
            attributes: Attributes::default()
                .with_compression(options.codec.compression)
                .with_timestamp_type(options.timestamp_type)
                .with_transactional(options.transactional)
                .with_control(options.control),
            last_offset_delta: (self.next_offset_delta - 1).max(0),
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            producer_id: options.producer_id,
            producer_epoch: options.producer_epoch,
            base_sequence: options.base_sequence,
            record_count: self.count,
        }
    }

    /// A batch of its own for the marker that ends a transaction of `id` and `epoch`.
    #[must_use]
    pub fn end_txn_marker(
        timestamp: Millis,
        id: ProducerId,
        epoch: ProducerEpoch,
        marker: EndTxnMarker,
    ) -> Bytes {
        let mut builder = Self::new(BatchOptions {
            producer_id: id,
            producer_epoch: epoch,
            transactional: true,
            control: true,
            ..BatchOptions::default()
        });
        builder
            .append_marker(timestamp, marker)
            .and_then(|()| builder.build())
            .expect("a marker of ten bytes fits and is not compressed")
            .freeze()
    }
}

/// Bytes that a record takes at most in a batch, compression aside; for deciding whether it still fits.
#[must_use]
pub fn record_size_upper_bound(key: Option<&[u8]>, value: Option<&[u8]>, headers: &[Header]) -> usize {
    2 * MAX_VARINT_BYTES
        + 1
        + MAX_VARLONG_BYTES
        + size_of_bytes(key.map(<[u8]>::len))
        + size_of_bytes(value.map(<[u8]>::len))
        + size_of_headers(headers)
}

fn size_of_headers(headers: &[Header]) -> usize {
    let each = |header: &Header| {
        size_of_bytes(Some(header.key.len())) + size_of_bytes(header.value.as_ref().map(Bytes::len))
    };
    varint::size_i32(headers.len() as i32) + headers.iter().map(each).sum::<usize>()
}

fn size_of_bytes(length: Option<usize>) -> usize {
    match length {
        None => 1,
        // A length beyond i32 fails the check against the batch's own limit.
        Some(length) => varint::size_i64(length as i64) + length,
    }
}

fn write_bytes(out: &mut BytesMut, bytes: Option<&[u8]>) {
    match bytes {
        None => varint::write_i32(out, -1),
        Some(bytes) => {
            varint::write_i32(out, bytes.len() as i32);
            out.put_slice(bytes);
        }
    }
}
