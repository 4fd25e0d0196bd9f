//! Keys, values and snapshots of the coordinators' logs.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use bytestring::ByteString;
use millstream_protocol::messages::coordinator_record_type;
use millstream_protocol::wire::Message;

use crate::{Error, KeyValue};

/// A copy that does not keep the frame alive which the text came in.
pub(crate) fn own(text: &ByteString) -> ByteString {
    ByteString::from(&**text)
}

/// A copy that does not keep the frame alive which the bytes came in.
pub(crate) fn own_bytes(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

/// A record's key: its type in two bytes, then the key.
pub(crate) fn encode_key<M: Message>(key: &M) -> Bytes {
    let record_type = M::KEY.expect("the key of a coordinator record has a type");
    let body = key.encode(0).expect("ids fit a key: they came in a request with the same limits");
    let mut bytes = BytesMut::with_capacity(2 + body.len());
    bytes.put_i16(record_type);
    bytes.extend_from_slice(&body);
    bytes.freeze()
}

/// A record's value in `version`.
pub(crate) fn encode_value<M: Message>(value: &M, version: i16) -> Bytes {
    value.encode_versioned(version).expect("the fields are those that the version has")
}

/// The type of the record with this key.
///
/// # Errors
/// When the key is too short to say.
pub(crate) fn record_type(key: &Bytes, what: &'static str) -> Result<i16, Error> {
    coordinator_record_type(key).map_err(|error| Error::Malformed { what, reason: error.to_string() })
}

/// Reads a key that [`encode_key`] wrote, once its type is known.
///
/// # Errors
/// When the bytes are no such key.
pub(crate) fn decode_key<M: Message>(key: &Bytes, what: &'static str) -> Result<M, Error> {
    let body = if key.len() >= 2 { key.slice(2..) } else { Bytes::new() };
    M::decode(body, 0).map_err(|error| Error::Malformed { what, reason: error.to_string() })
}

/// Reads a value.
///
/// # Errors
/// When the bytes are no such value.
pub(crate) fn decode_value<M: Message>(value: Bytes, what: &'static str) -> Result<M, Error> {
    M::decode_versioned(value).map_err(|error| Error::Malformed { what, reason: error.to_string() })
}

/// First bytes of a snapshot: what it is, and the version of its format.
const SNAPSHOT_MAGIC: &[u8; 4] = b"MSC\x01";

/// Writes a snapshot: a run of entries, each a number and a record.
#[derive(Debug)]
pub(crate) struct SnapshotWriter(BytesMut);

impl SnapshotWriter {
    pub(crate) fn new() -> Self {
        Self(BytesMut::from(&SNAPSHOT_MAGIC[..]))
    }

    /// Adds an entry. `tag` is the writer's to use.
    pub(crate) fn entry(&mut self, tag: i64, record: &KeyValue) {
        self.0.put_i64(tag);
        self.bytes(&record.key);
        self.bytes(record.value.as_deref().unwrap_or_default());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.put_u32(
            u32::try_from(bytes.len()).expect("a record is smaller than its batch, which is under 2 GiB"),
        );
        self.0.extend_from_slice(bytes);
    }

    pub(crate) fn finish(self) -> Bytes {
        self.0.freeze()
    }
}

/// Reads what [`SnapshotWriter`] wrote.
///
/// # Errors
/// [`Error::Snapshot`] when the bytes are not that.
pub(crate) fn read_snapshot(what: &'static str, mut bytes: Bytes) -> Result<Vec<(i64, KeyValue)>, Error> {
    let fail = |reason: &str| Error::Snapshot { what, reason: reason.to_owned() };
    if !bytes.starts_with(SNAPSHOT_MAGIC) {
        return Err(fail("it does not begin as a snapshot of this version does"));
    }
    bytes.advance(SNAPSHOT_MAGIC.len());
    let mut entries = Vec::new();
    while bytes.has_remaining() {
        let tag = bytes.try_get_i64().map_err(|_| fail("it ends within an entry"))?;
        let mut part = || {
            let length = bytes.try_get_u32().ok().and_then(|length| usize::try_from(length).ok());
            match length {
                Some(length) if length <= bytes.remaining() => Ok(bytes.split_to(length)),
                _ => Err(fail("it ends within an entry")),
            }
        };
        let (key, value) = (part()?, part()?);
        entries.push((tag, KeyValue { key, value: Some(value) }));
    }
    Ok(entries)
}
