//! Records as slices of their batch, and as values of their own.

use bytes::Bytes;
use bytestring::ByteString;

use crate::{BatchHeader, Millis, Offset, RecordError, TimestampType, varint};

/// A record, as slices of its batch's decompressed bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RecordRef<'a> {
    /// Its position in the partition.
    pub offset: Offset,
    /// When the producer made it, or the broker appended it.
    pub timestamp: Millis,
    /// The key, if any.
    pub key: Option<&'a [u8]>,
    /// The value; `None` is a tombstone where the topic is compacted.
    pub value: Option<&'a [u8]>,
    /// The headers.
    pub headers: Headers<'a>,
}

impl RecordRef<'_> {
    /// The same record with its bytes shared instead of borrowed. `body` is the buffer that it was read from.
    #[must_use]
    pub fn to_record(&self, body: &Bytes) -> Record {
        Record {
            offset: self.offset,
            timestamp: self.timestamp,
            key: self.key.map(|key| body.slice_ref(key)),
            value: self.value.map(|value| body.slice_ref(value)),
            headers: self.headers.map(|header| header.to_header(body)).collect(),
        }
    }
}

/// A record that shares the bytes of its batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its position in the partition.
    pub offset: Offset,
    /// When the producer made it, or the broker appended it.
    pub timestamp: Millis,
    /// The key, if any.
    pub key: Option<Bytes>,
    /// The value; `None` is a tombstone where the topic is compacted.
    pub value: Option<Bytes>,
    /// The headers, in order, duplicates included.
    pub headers: Vec<Header>,
}

/// A named value beside a record's key and value (KIP-82).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its name; names may repeat.
    pub key: ByteString,
    /// Its value, if any.
    pub value: Option<Bytes>,
}

impl Header {
    /// A header with a value.
    pub fn new(key: impl Into<ByteString>, value: impl Into<Bytes>) -> Self {
        Self { key: key.into(), value: Some(value.into()) }
    }
}

/// A header, as slices of its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderRef<'a> {
    /// Its name, which ought to be UTF-8.
    pub key: &'a [u8],
    /// Its value, if any.
    pub value: Option<&'a [u8]>,
}

impl HeaderRef<'_> {
    /// The same header with its bytes shared. A name that is not UTF-8 is read as Java reads it, with replacement characters: it
    /// must not make the record unreadable.
    #[must_use]
    pub fn to_header(&self, body: &Bytes) -> Header {
        let key = ByteString::try_from(body.slice_ref(self.key))
            .unwrap_or_else(|_| String::from_utf8_lossy(self.key).into_owned().into());
        Header { key, value: self.value.map(|value| body.slice_ref(value)) }
    }
}

/// Walks the headers of a record, in order, duplicates included. It cannot fail: they were checked with the record.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Headers<'a> {
    rest: &'a [u8],
    left: i32,
}

impl<'a> Headers<'a> {
    /// The first value under `key`, if there is one.
    #[must_use]
    pub fn get(mut self, key: &str) -> Option<&'a [u8]> {
        self.find(|header| header.key == key.as_bytes()).and_then(|header| header.value)
    }

    /// Checks every header at the front of `rest` and moves `rest` behind them.
    fn read(rest: &mut &'a [u8]) -> Result<Self, &'static str> {
        let left = varint::read_i32(rest).ok_or("the number of headers is cut off or too long")?;
        if left < 0 {
            return Err("the number of headers is negative");
        }
        let headers = Self { rest, left };
        for _ in 0..left {
            read_header(rest).ok_or("a header is cut off, or its key is null")?;
        }
        Ok(headers)
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = HeaderRef<'a>;

    fn next(&mut self) -> Option<HeaderRef<'a>> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        read_header(&mut self.rest)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::try_from(self.left).unwrap_or(0);
        (left, Some(left))
    }
}

impl ExactSizeIterator for Headers<'_> {}

fn read_header<'a>(rest: &mut &'a [u8]) -> Option<HeaderRef<'a>> {
    let key = read_bytes(rest)??;
    let value = read_bytes(rest)?;
    Some(HeaderRef { key, value })
}

/// Bytes behind their length, where -1 means null. The outer `None` is a fault.
#[inline]
fn read_bytes<'a>(rest: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let length = varint::read_i32(rest)?;
    if length == -1 {
        return Some(None);
    }
    let (bytes, tail) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    *rest = tail;
    Some(Some(bytes))
}

/// Walks the records of a batch and checks them on the way. After an error it ends.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
    base_offset: Offset,
    base_timestamp: Millis,
    /// One time for all, where the broker set it.
    append_time: Option<Millis>,
    last_offset_delta: i32,
    index: i32,
    count: i32,
}

impl<'a> Records<'a> {
    pub(crate) fn new(header: &BatchHeader, body: &'a [u8]) -> Self {
        let by_broker = header.attributes.timestamp_type() == TimestampType::LogAppendTime;
        Self {
            rest: body,
            base_offset: header.base_offset,
            base_timestamp: header.base_timestamp,
            append_time: by_broker.then_some(header.max_timestamp),
            last_offset_delta: header.last_offset_delta,
            index: 0,
            count: header.record_count,
        }
    }

    #[inline]
    fn read(&mut self) -> Result<RecordRef<'a>, &'static str> {
        let length = varint::read_i32(&mut self.rest).ok_or("its length is cut off or too long")?;
        let length = usize::try_from(length).map_err(|_| "its length is negative")?;
        let (mut rest, tail) = self.rest.split_at_checked(length).ok_or("it is longer than the batch")?;
        self.rest = tail;
        let (_attributes, after) = rest.split_first().ok_or("it is empty")?;
        rest = after;
        let timestamp_delta = varint::read_i64(&mut rest).ok_or("its timestamp is cut off or too long")?;
        let offset_delta = varint::read_i32(&mut rest).ok_or("its offset is cut off or too long")?;
        if offset_delta < 0 || offset_delta > self.last_offset_delta {
            return Err("its offset lies outside of the batch");
        }
        let key = read_bytes(&mut rest).ok_or("its key is cut off")?;
        let value = read_bytes(&mut rest).ok_or("its value is cut off")?;
        let headers = Headers::read(&mut rest)?;
        if !rest.is_empty() {
            return Err("bytes follow its headers");
        }
        let timestamp = match self.append_time {
            Some(time) => time,
            None => Millis(self.base_timestamp.0.saturating_add(timestamp_delta)),
        };
        let offset = Offset(self.base_offset.0.saturating_add(i64::from(offset_delta)));
        Ok(RecordRef { offset, timestamp, key, value, headers })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<RecordRef<'a>, RecordError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let index = self.index;
        let result = if index < self.count {
            self.index += 1;
            self.read()
        } else if self.rest.is_empty() {
            return None;
        } else {
            self.rest = &[];
            Err("bytes follow the last record")
        };
        Some(result.map_err(|what| {
            self.count = 0;
            self.rest = &[];
            RecordError::Record { base_offset: self.base_offset.0, index, what }
        }))
    }
}
