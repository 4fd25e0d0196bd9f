//! The basic types.

use bytes::Bytes;
use bytestring::ByteString;
use millstream_record::Uuid;

use super::{Reader, Wire, Writer};
use crate::CodecError;

macro_rules! numbers {
    ($($number:ty)*) => {$(
        impl Wire for $number {
            fn put(&self, w: &mut Writer) -> Result<(), CodecError> {
                w.put_slice(&self.to_be_bytes());
                Ok(())
            }

            fn get(r: &mut Reader) -> Result<Self, CodecError> {
                r.array().map(Self::from_be_bytes)
            }
        }
    )*};
}

numbers!(i8 i16 u16 u32 i32 i64 f64);

impl Wire for bool {
    fn put(&self, w: &mut Writer) -> Result<(), CodecError> {
        w.put_slice(&[u8::from(*self)]);
        Ok(())
    }

    fn get(r: &mut Reader) -> Result<Self, CodecError> {
        r.array().map(|[byte]| byte != 0)
    }
}

impl Wire for Uuid {
    fn put(&self, w: &mut Writer) -> Result<(), CodecError> {
        w.put_slice(&self.0);
        Ok(())
    }

    fn get(r: &mut Reader) -> Result<Self, CodecError> {
        r.array().map(Self)
    }
}

/// A value that carries its length, and says null by it.
macro_rules! by_length {
    ($what:literal) => {
        fn put(&self, w: &mut Writer) -> Result<(), CodecError> {
            Self::put_option(Some(self), w)
        }

        fn get(r: &mut Reader) -> Result<Self, CodecError> {
            Self::get_option(r)?.ok_or_else(|| r.malformed(concat!("a null for ", $what)))
        }
    };
}

impl Wire for ByteString {
    by_length!("a string");

    fn put_option(value: Option<&Self>, w: &mut Writer) -> Result<(), CodecError> {
        w.put_length(value.map(|text| text.len()), true, "a string")?;
        w.put_slice(value.map_or(&[], |text| text.as_bytes()));
        Ok(())
    }

    fn get_option(r: &mut Reader) -> Result<Option<Self>, CodecError> {
        let Some(length) = r.length(true)? else { return Ok(None) };
        if length > i16::MAX as usize {
            return Err(r.malformed("the length of a string"));
        }
        let bytes = r.take(length)?;
        Self::try_from(bytes).map(Some).map_err(|_| r.malformed("the UTF-8 of a string"))
    }
}

impl Wire for Bytes {
    by_length!("bytes");

    fn put_option(value: Option<&Self>, w: &mut Writer) -> Result<(), CodecError> {
        w.put_length(value.map(Bytes::len), false, "bytes")?;
        if let Some(bytes) = value {
            w.put_bytes(bytes);
        }
        Ok(())
    }

    fn get_option(r: &mut Reader) -> Result<Option<Self>, CodecError> {
        match r.length(false)? {
            Some(length) => r.take(length).map(Some),
            None => Ok(None),
        }
    }
}

impl<T: Wire> Wire for Vec<T> {
    by_length!("a list");

    fn put_option(value: Option<&Self>, w: &mut Writer) -> Result<(), CodecError> {
        w.put_length(value.map(Vec::len), false, "a list")?;
        value.map_or(&[][..], Vec::as_slice).iter().try_for_each(|element| element.put(w))
    }

    fn get_option(r: &mut Reader) -> Result<Option<Self>, CodecError> {
        // `length` has checked that as many bytes are left as there are elements: none takes less than a byte.
        let Some(count) = r.length(false)? else { return Ok(None) };
        r.charge(count, size_of::<T>())?;
        let mut list = Vec::with_capacity(count);
        for _ in 0..count {
            list.push(T::get(r)?);
        }
        Ok(Some(list))
    }
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, w: &mut Writer) -> Result<(), CodecError> {
        T::put_option(self.as_ref(), w)
    }

    fn get(r: &mut Reader) -> Result<Self, CodecError> {
        T::get_option(r)
    }
}
