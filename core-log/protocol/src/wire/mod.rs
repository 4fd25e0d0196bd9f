//! The protocol's basic types on the wire, and what every generated struct stands on.
//!
//! A value knows how to [`put`](Wire::put) itself and how to [`get`](Wire::get) itself; the version and whether it is flexible
//! (compact lengths, tagged fields) are the [`Writer`]'s and the [`Reader`]'s, since they are one message's.

mod reader;
mod segments;
mod types;
mod writer;

use bytes::Bytes;

use crate::CodecError;

pub use reader::Reader;
pub use segments::Segments;
pub use writer::{Tags, Writer};

/// A value with a form on the wire.
pub trait Wire: Sized {
    /// Writes the value.
    ///
    /// # Errors
    /// When the value does not fit the writer's version.
    fn put(&self, w: &mut Writer) -> Result<(), CodecError>;

    /// Reads a value.
    ///
    /// # Errors
    /// When the bytes are no such value.
    fn get(r: &mut Reader) -> Result<Self, CodecError>;

    /// Writes the value where null is allowed. What has a length of its own says so by it; a struct by a byte in front (KIP-893).
    ///
    /// # Errors
    /// As [`Wire::put`].
    fn put_option(value: Option<&Self>, w: &mut Writer) -> Result<(), CodecError> {
        match value {
            Some(value) => {
                w.put_slice(&[1]);
                value.put(w)
            }
            None => {
                w.put_slice(&[0xff]);
                Ok(())
            }
        }
    }

    /// Reads a value where null is allowed.
    ///
    /// # Errors
    /// As [`Wire::get`].
    fn get_option(r: &mut Reader) -> Result<Option<Self>, CodecError> {
        if i8::get(r)? < 0 { Ok(None) } else { Self::get(r).map(Some) }
    }
}

/// A whole message: a request, a response, a record's key or value, or a file's content.
pub trait Message: Wire {
    /// Kafka's name of it.
    const NAME: &'static str;
    /// The API key of a request or response, or the type of a record.
    const KEY: Option<i16>;
    /// First and last version.
    const VERSIONS: (i16, i16);
    /// The first flexible version; [`i16::MAX`] when there is none.
    const FLEXIBLE_SINCE: i16;

    /// Writes the message behind what `writer` holds.
    ///
    /// # Errors
    /// When the version does not exist, or cannot carry the message.
    fn write(&self, writer: &mut Writer, version: i16) -> Result<(), CodecError> {
        writer.begin(Self::NAME, check_version::<Self>(version)?, version >= Self::FLEXIBLE_SINCE);
        self.put(writer)
    }

    /// Reads the message from where `reader` stands.
    ///
    /// # Errors
    /// When the version does not exist, or the bytes are no such message.
    fn read(reader: &mut Reader, version: i16) -> Result<Self, CodecError> {
        reader.begin(Self::NAME, check_version::<Self>(version)?, version >= Self::FLEXIBLE_SINCE);
        Self::get(reader)
    }

    /// The message alone as bytes.
    ///
    /// # Errors
    /// As [`Message::write`].
    fn encode(&self, version: i16) -> Result<Bytes, CodecError> {
        let mut writer = Writer::new();
        self.write(&mut writer, version)?;
        Ok(writer.finish().into_bytes())
    }

    /// Reads a message that is all of `bytes`.
    ///
    /// # Errors
    /// As [`Message::read`], and when bytes are left over.
    fn decode(bytes: Bytes, version: i16) -> Result<Self, CodecError> {
        let mut reader = Reader::new(bytes);
        let message = Self::read(&mut reader, version)?;
        reader.finish()?;
        Ok(message)
    }

    /// The message behind its version in two bytes: how keys and values of coordinator records, consumer subscriptions and
    /// assignments name their version.
    ///
    /// # Errors
    /// As [`Message::write`].
    fn encode_versioned(&self, version: i16) -> Result<Bytes, CodecError> {
        let mut writer = Writer::new();
        writer.put_slice(&version.to_be_bytes());
        self.write(&mut writer, version)?;
        Ok(writer.finish().into_bytes())
    }

    /// Reads what [`Message::encode_versioned`] writes. Of a version newer than ours the part that we know is read, as KIP-896
    /// and the rebalance protocol ask for; what follows is left.
    ///
    /// # Errors
    /// As [`Message::read`].
    fn decode_versioned(bytes: Bytes) -> Result<Self, CodecError> {
        let mut reader = Reader::new(bytes);
        let version = i16::get(&mut reader)?;
        Self::read(&mut reader, version.min(Self::VERSIONS.1))
    }
}

fn check_version<M: Message>(version: i16) -> Result<i16, CodecError> {
    let (first, last) = M::VERSIONS;
    if (first..=last).contains(&version) {
        Ok(version)
    } else {
        Err(CodecError::Version { message: M::NAME, version })
    }
}
