//! Every message as a plain struct, and the enums over all APIs.
//!
//! The structs and their code are generated from the table in `core-log/protocol/messages`; a family of messages has a module
//! ([`fetch`], [`group_records`], ...), and the messages themselves are here. The fields are those of all versions at once; a field
//! that a version lacks has its default after reading, and is dropped (or refused, if that would lose something) when writing.

use bytes::Bytes;

use crate::CodecError;
use crate::wire::{Message, Reader, Wire, Writer};

pub use crate::generated::*;

/// A request with an answer of a known type.
pub trait Rpc: Message + Into<Request> {
    /// What answers it.
    type Response: Message + TryFrom<Response, Error = Response> + Into<Response>;
    /// Its API.
    const API: ApiKey;
}

/// Expands the list of APIs into [`ApiKey`], [`Request`] and [`Response`].
macro_rules! apis {
    ($($name:ident = $key:literal, $request:ident, $response:ident, $unstable:literal;)*) => {
        /// The kind of a request.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(i16)]
        pub enum ApiKey {
            $(#[doc = concat!("[`", stringify!($request), "`]")] $name = $key,)*
        }

        impl ApiKey {
            /// Every API, by number.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The API with this number.
            #[must_use]
            pub fn from_code(code: i16) -> Option<Self> {
                match code {
                    $($key => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// Kafka's name of it.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// The first and the last version that is defined (not: that we serve, see [`crate::versions`]).
            #[must_use]
            pub fn defined(self) -> (i16, i16) {
                match self { $(Self::$name => <$request as $crate::wire::Message>::VERSIONS,)* }
            }

            /// Whether the last version may still change, and so is neither served nor asked for.
            #[must_use]
            pub fn newest_is_unstable(self) -> bool {
                match self { $(Self::$name => $unstable,)* }
            }

            /// The first flexible version.
            #[must_use]
            pub fn flexible_since(self) -> i16 {
                match self { $(Self::$name => <$request as $crate::wire::Message>::FLEXIBLE_SINCE,)* }
            }
        }

        /// A request of any kind.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Request {
            $(#[doc = concat!("[`ApiKey::", stringify!($name), "`]")] $name($request),)*
        }

        impl Request {
            /// Its API.
            #[must_use]
            pub fn api(&self) -> ApiKey {
                match self { $(Self::$name(_) => ApiKey::$name,)* }
            }

            /// Writes the body alone, field by field as the struct has it; [`crate::frames`] writes a frame.
            ///
            /// # Errors
            /// When the version does not exist, or cannot carry the message.
            pub fn write(
                &self,
                w: &mut $crate::wire::Writer,
                version: i16,
            ) -> Result<(), $crate::CodecError> {
                match self { $(Self::$name(message) => $crate::wire::Message::write(message, w, version),)* }
            }

            /// Reads the body alone, field by field as the version has it; [`crate::frames`] reads a frame.
            ///
            /// # Errors
            /// When the version does not exist, or the bytes are no such message.
            pub fn read(
                api: ApiKey,
                r: &mut $crate::wire::Reader,
                version: i16,
            ) -> Result<Self, $crate::CodecError> {
                match api {
                    $(ApiKey::$name => {
                        <$request as $crate::wire::Message>::read(r, version).map(Self::$name)
                    })*
                }
            }
        }

        /// An answer of any kind.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Response {
            $(#[doc = concat!("Answers [`ApiKey::", stringify!($name), "`].")] $name($response),)*
        }

        impl Response {
            /// The API that it answers.
            #[must_use]
            pub fn api(&self) -> ApiKey {
                match self { $(Self::$name(_) => ApiKey::$name,)* }
            }

            /// Writes the body alone, field by field as the struct has it; [`crate::frames`] writes a frame.
            ///
            /// # Errors
            /// When the version does not exist, or cannot carry the message.
            pub fn write(
                &self,
                w: &mut $crate::wire::Writer,
                version: i16,
            ) -> Result<(), $crate::CodecError> {
                match self { $(Self::$name(message) => $crate::wire::Message::write(message, w, version),)* }
            }

            /// Reads the body alone, field by field as the version has it; [`crate::frames`] reads a frame.
            ///
            /// # Errors
            /// When the version does not exist, or the bytes are no such message.
            pub fn read(
                api: ApiKey,
                r: &mut $crate::wire::Reader,
                version: i16,
            ) -> Result<Self, $crate::CodecError> {
                match api {
                    $(ApiKey::$name => {
                        <$response as $crate::wire::Message>::read(r, version).map(Self::$name)
                    })*
                }
            }
        }

        $(
            impl From<$request> for Request {
                fn from(message: $request) -> Self {
                    Self::$name(message)
                }
            }

            impl From<$response> for Response {
                fn from(message: $response) -> Self {
                    Self::$name(message)
                }
            }

            impl TryFrom<Response> for $response {
                type Error = Response;

                fn try_from(response: Response) -> Result<Self, Response> {
                    match response {
                        Response::$name(message) => Ok(message),
                        other => Err(other),
                    }
                }
            }

            impl $crate::messages::Rpc for $request {
                type Response = $response;
                const API: ApiKey = ApiKey::$name;
            }
        )*
    };
}
pub(crate) use apis;

/// Expands the list of metadata records into [`MetadataRecord`].
macro_rules! metadata_types {
    ($($name:ident = $key:literal, $record:ident;)*) => {
        /// A record of the metadata log, of any type.
        #[derive(Clone, Debug, PartialEq)]
        pub enum MetadataRecord {
            $(#[doc = concat!("Type ", stringify!($key), ".")] $name($record),)*
        }

        impl MetadataRecord {
            /// Its type's number.
            #[must_use]
            pub fn record_type(&self) -> i16 {
                match self { $(Self::$name(_) => $key,)* }
            }

            /// Kafka's name of its type.
            #[must_use]
            pub fn name(&self) -> &'static str {
                match self { $(Self::$name(_) => <$record as $crate::wire::Message>::NAME,)* }
            }

            pub(crate) fn newest(&self) -> i16 {
                match self { $(Self::$name(_) => <$record as $crate::wire::Message>::VERSIONS.1,)* }
            }

            pub(crate) fn write(
                &self,
                w: &mut $crate::wire::Writer,
                version: i16,
            ) -> Result<(), $crate::CodecError> {
                match self { $(Self::$name(record) => $crate::wire::Message::write(record, w, version),)* }
            }

            pub(crate) fn read(
                record_type: i16,
                r: &mut $crate::wire::Reader,
                version: i16,
            ) -> Result<Self, $crate::CodecError> {
                match record_type {
                    $($key => <$record as $crate::wire::Message>::read(r, version).map(Self::$name),)*
                    other => Err($crate::CodecError::UnknownKey {
                        what: "metadata record type",
                        key: other.into(),
                    }),
                }
            }
        }

        $(
            impl From<$record> for MetadataRecord {
                fn from(record: $record) -> Self {
                    Self::$name(record)
                }
            }
        )*
    };
}
pub(crate) use metadata_types;

/// The version of the frame around a metadata record.
const METADATA_FRAME: u32 = 1;

impl MetadataRecord {
    /// The record's value: frame version, record type and version as varints, then the record in its newest version.
    ///
    /// # Errors
    /// When a field is longer than its length can say.
    pub fn encode(&self) -> Result<Bytes, CodecError> {
        self.encode_as(self.newest())
    }

    /// As [`MetadataRecord::encode`], in an older version of the record.
    ///
    /// # Errors
    /// Also when the version does not exist, or cannot carry the record.
    pub fn encode_as(&self, version: i16) -> Result<Bytes, CodecError> {
        let mut writer = Writer::new();
        writer.put_varint(METADATA_FRAME);
        writer.put_varint(self.record_type() as u32);
        writer.put_varint(version as u32);
        self.write(&mut writer, version)?;
        Ok(writer.finish().into_bytes())
    }

    /// Reads a record's value.
    ///
    /// # Errors
    /// [`CodecError::UnknownRecord`] when the bytes are no record of a type and version known here: an older node must stop, not skip
    /// (KIP-630).
    pub fn decode(value: Bytes) -> Result<Self, CodecError> {
        let mut reader = Reader::new(value);
        let frame = reader.varint()?;
        if frame != METADATA_FRAME {
            return Err(CodecError::UnknownFrame { version: frame });
        }
        let record_type = i16::try_from(reader.varint()?).map_err(|_| reader.malformed("a record type"))?;
        let version = i16::try_from(reader.varint()?).map_err(|_| reader.malformed("a record version"))?;
        let record = Self::read(record_type, &mut reader, version).map_err(|error| match error {
            CodecError::UnknownKey { .. } | CodecError::Version { .. } => {
                CodecError::UnknownRecord { kind: record_type, version }
            }
            other => other,
        })?;
        reader.finish()?;
        Ok(record)
    }
}

impl ApiKey {
    /// Whether the header of such a request has tagged fields (header version 2); its client id is never compact.
    #[must_use]
    pub fn request_header_is_flexible(self, version: i16) -> bool {
        version >= self.flexible_since()
    }

    /// Whether the header of the answer has tagged fields (header version 1). That of ApiVersions never has: its reader does not
    /// know yet what the broker speaks (KIP-511).
    #[must_use]
    pub fn response_header_is_flexible(self, version: i16) -> bool {
        self != Self::ApiVersions && version >= self.flexible_since()
    }
}

impl std::fmt::Display for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The first two bytes of a coordinator record's key: the type of the record (KIP-848 calls it the record's api key).
///
/// # Errors
/// When there are fewer than two bytes.
pub fn coordinator_record_type(key: &Bytes) -> Result<i16, CodecError> {
    i16::get(&mut Reader::new(key.clone()))
}
