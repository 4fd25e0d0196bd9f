//! Between Rust values and the bytes of keys, values and states.

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use crate::chunk::Data;
use crate::error::{Result, StreamsError};

/// A type with one encoding, equal to that of Kafka's serializer for it: text as UTF-8, integers big-endian.
/// Implement it for your own types, or wrap them in [`Json`].
pub trait Serde: Data {
    /// Appends the encoding to `bytes`. False: the value is null, and nothing was appended.
    ///
    /// # Errors
    /// [`StreamsError::Encode`] when the value has no encoding.
    fn encode(&self, bytes: &mut Vec<u8>) -> Result<bool>;

    /// Reads what [`Serde::encode`] wrote.
    ///
    /// # Errors
    /// [`StreamsError::Decode`] when the bytes are something else.
    fn decode(bytes: &Bytes) -> Result<Self>;

    /// The value that null stands for; none when the type has no null.
    fn null() -> Option<Self> {
        None
    }

    /// Whether this value is null.
    fn is_null(&self) -> bool {
        false
    }

    /// As a key: the bytes that choose a record's partition, where they are not the whole key.
    ///
    /// # Errors
    /// As [`Serde::encode`].
    fn partition_key(&self) -> Result<Option<Bytes>> {
        Ok(None)
    }

    /// The value that `bytes`, or null, stand for. `Ok(None)`: they are null, which the type does not have.
    ///
    /// # Errors
    /// As [`Serde::decode`].
    fn decode_nullable(bytes: Option<&Bytes>) -> Result<Option<Self>> {
        bytes.map_or(Ok(Self::null()), |bytes| Self::decode(bytes).map(Some))
    }

    /// The encoding as bytes of their own; `None` for null.
    ///
    /// # Errors
    /// As [`Serde::encode`].
    fn to_bytes(&self) -> Result<Option<Bytes>> {
        let mut bytes = Vec::new();
        Ok(self.encode(&mut bytes)?.then(|| bytes.into()))
    }
}

impl<T: Serde> Serde for Option<T> {
    fn encode(&self, bytes: &mut Vec<u8>) -> Result<bool> {
        self.as_ref().map_or(Ok(false), |value| value.encode(bytes))
    }
    fn decode(bytes: &Bytes) -> Result<Self> {
        T::decode(bytes).map(Some)
    }
    fn null() -> Option<Self> {
        Some(None)
    }
    fn is_null(&self) -> bool {
        self.as_ref().is_none_or(Serde::is_null)
    }
}

impl Serde for String {
    fn encode(&self, bytes: &mut Vec<u8>) -> Result<bool> {
        bytes.extend_from_slice(self.as_bytes());
        Ok(true)
    }
    fn decode(bytes: &Bytes) -> Result<Self> {
        let text = std::str::from_utf8(bytes);
        text.map(str::to_owned)
            .map_err(|error| StreamsError::Decode { what: "text", reason: error.to_string() })
    }
}

impl Serde for Bytes {
    fn encode(&self, bytes: &mut Vec<u8>) -> Result<bool> {
        bytes.extend_from_slice(self);
        Ok(true)
    }
    fn decode(bytes: &Bytes) -> Result<Self> {
        Ok(bytes.clone())
    }
}

impl Serde for Vec<u8> {
    fn encode(&self, bytes: &mut Vec<u8>) -> Result<bool> {
        bytes.extend_from_slice(self);
        Ok(true)
    }
    fn decode(bytes: &Bytes) -> Result<Self> {
        Ok(bytes.to_vec())
    }
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl Serde for $number {
            fn encode(&self, bytes: &mut Vec<u8>) -> Result<bool> {
                bytes.extend_from_slice(&self.to_be_bytes());
                Ok(true)
            }
            fn decode(bytes: &Bytes) -> Result<Self> {
                let digits = bytes.as_ref().try_into().map_err(|_| StreamsError::Decode {
                    what: stringify!($number),
                    reason: format!("{} bytes instead of {}", bytes.len(), size_of::<Self>()),
                })?;
                Ok(Self::from_be_bytes(digits))
            }
        }
    )*};
}
numbers!(i16, i32, i64, u16, u32, u64, f32, f64);

/// A value of any serde type, written as JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Json<T>(pub T);

impl<T> std::ops::Deref for Json<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Serialize + DeserializeOwned + Data> Serde for Json<T> {
    fn encode(&self, bytes: &mut Vec<u8>) -> Result<bool> {
        let written = serde_json::to_writer(bytes, &self.0);
        written.map_err(|error| StreamsError::Encode { what: "JSON", reason: error.to_string() })?;
        Ok(true)
    }
    fn decode(bytes: &Bytes) -> Result<Self> {
        let value = serde_json::from_slice(bytes);
        value.map(Self).map_err(|error| StreamsError::Decode { what: "JSON", reason: error.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: Serde + PartialEq + std::fmt::Debug>(value: T, encoded: Option<&[u8]>) {
        let bytes = value.to_bytes().unwrap();
        assert_eq!(bytes.as_deref(), encoded);
        assert_eq!(T::decode_nullable(bytes.as_ref()).unwrap(), Some(value));
    }

    #[test]
    fn values_have_kafkas_encodings() {
        check("é".to_owned(), Some("é".as_bytes()));
        check(258i32, Some(&[0, 0, 1, 2]));
        check(-1i64, Some(&[255; 8]));
        check(1u64, Some(&[0, 0, 0, 0, 0, 0, 0, 1]));
        check(1.5f64, Some(&[0x3f, 0xf8, 0, 0, 0, 0, 0, 0]));
        check(Some(7i16), Some(&[0, 7]));
        check(None::<i16>, None);
        check(Json(vec![1, 2]), Some(b"[1,2]"));
    }

    #[test]
    fn broken_bytes_are_errors() {
        assert!(String::decode(&Bytes::from_static(&[0xff])).is_err());
        assert!(i64::decode(&Bytes::from_static(&[0; 7])).is_err());
        assert!(Json::<u8>::decode(&Bytes::from_static(b"{")).is_err());
        assert!(String::decode_nullable(None).unwrap().is_none());
    }
}
