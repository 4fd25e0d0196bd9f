//! Bytes -> values, bounded.

use bytes::Bytes;

use super::Wire;
use crate::CodecError;

/// Lists may take this many bytes of memory for each byte of the frame. Real messages stay below 8.
const MEMORY_FOR_A_BYTE: usize = 16;
/// What lists may take however short the frame is.
const MEMORY_AT_LEAST: usize = 64 * 1024;

/// Reads one frame. Strings and bytes are slices of it; nothing is copied.
///
/// Memory is bounded twice: no length is believed beyond the bytes that remain, and the lists of a message together may not take
/// more than a small multiple of the frame, or the limit given to [`Reader::limited`]. Depth is bounded by the types: none
/// contains itself.
#[derive(Debug)]
pub struct Reader {
    frame: Bytes,
    at: usize,
    end: usize,
    memory_left: usize,
    message: &'static str,
    version: i16,
    flexible: bool,
}

impl Reader {
    /// A reader at the start of `frame`.
    #[must_use]
    pub fn new(frame: Bytes) -> Self {
        Self::limited(frame, usize::MAX)
    }

    /// A reader whose lists together take at most `memory` bytes, whatever the length of the frame.
    #[must_use]
    pub fn limited(frame: Bytes, memory: usize) -> Self {
        let end = frame.len();
        let memory_left = (end.saturating_mul(MEMORY_FOR_A_BYTE)).saturating_add(MEMORY_AT_LEAST).min(memory);
        Self { frame, at: 0, end, memory_left, message: "frame", version: 0, flexible: false }
    }

    /// What follows is `message` in `version`.
    pub(crate) fn begin(&mut self, message: &'static str, version: i16, flexible: bool) {
        self.message = message;
        self.version = version;
        self.flexible = flexible;
    }

    /// The version of the message being read.
    #[must_use]
    pub fn version(&self) -> i16 {
        self.version
    }

    /// Whether that version has compact lengths and tagged fields.
    #[must_use]
    pub fn is_flexible(&self) -> bool {
        self.flexible
    }

    /// Bytes that are left.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.end - self.at
    }

    /// Says that the message is over.
    ///
    /// # Errors
    /// When bytes are left.
    pub fn finish(self) -> Result<(), CodecError> {
        match self.remaining() {
            0 => Ok(()),
            left => Err(CodecError::Trailing { message: self.message, left }),
        }
    }

    /// The next `length` bytes, as a slice of the frame.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn take(&mut self, length: usize) -> Result<Bytes, CodecError> {
        self.need(length)?;
        let slice = self.frame.slice(self.at..self.at + length);
        self.at += length;
        Ok(slice)
    }

    /// The next `N` bytes.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        self.need(N)?;
        let found = self.frame.get(self.at..).and_then(|rest| rest.first_chunk::<N>()).copied();
        self.at += N;
        found.ok_or(CodecError::Malformed { message: self.message, at: self.at, what: "a number" })
    }

    fn need(&self, length: usize) -> Result<(), CodecError> {
        let left = self.remaining();
        if length <= left {
            return Ok(());
        }
        Err(CodecError::Truncated { message: self.message, at: self.at, needed: length, left })
    }

    pub(crate) fn malformed(&self, what: &'static str) -> CodecError {
        CodecError::Malformed { message: self.message, at: self.at, what }
    }

    /// An unsigned number of at most 32 bits in groups of seven, lowest first.
    ///
    /// # Errors
    /// When it is longer, or the bytes end.
    pub fn varint(&mut self) -> Result<u32, CodecError> {
        let mut value = 0u32;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.array()?;
            if shift == 28 && byte > 0x0f {
                break;
            }
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.malformed("a varint"))
    }

    /// A length in the form of the version; `None` is null. `small` says that the form of old is two bytes, not four.
    pub(crate) fn length(&mut self, small: bool) -> Result<Option<usize>, CodecError> {
        let length = if self.flexible {
            i64::from(self.varint()?) - 1
        } else if small {
            i64::from(i16::get(self)?)
        } else {
            i64::from(i32::get(self)?)
        };
        match usize::try_from(length) {
            Ok(length) => {
                self.need(length)?;
                Ok(Some(length))
            }
            Err(_) if length == -1 => Ok(None),
            Err(_) => Err(self.malformed("a length")),
        }
    }

    /// Takes the memory of a list of `count` elements of `size` bytes from what is left for this frame.
    pub(crate) fn charge(&mut self, count: usize, size: usize) -> Result<(), CodecError> {
        match count.checked_mul(size).and_then(|bytes| self.memory_left.checked_sub(bytes)) {
            Some(left) => {
                self.memory_left = left;
                Ok(())
            }
            None => Err(CodecError::TooLarge { message: self.message, at: self.at }),
        }
    }

    /// A field that may be null when `nullable`.
    pub(crate) fn get_nullable<T: Wire>(&mut self, nullable: bool) -> Result<Option<T>, CodecError> {
        if nullable { T::get_option(self) } else { T::get(self).map(Some) }
    }

    /// A struct in a tag that may be null; see [`super::Tags::put_struct`].
    pub(crate) fn get_tagged_struct<T: Wire>(&mut self) -> Result<Option<T>, CodecError> {
        if self.varint()? == 0 { Ok(None) } else { T::get(self).map(Some) }
    }

    /// Reads the tagged fields: `known` reads the one that it knows, and says whether it did.
    pub(crate) fn tags(
        &mut self,
        mut known: impl FnMut(&mut Self, u32) -> Result<bool, CodecError>,
    ) -> Result<(), CodecError> {
        if !self.flexible {
            return Ok(());
        }
        for _ in 0..self.varint()? {
            let tag = self.varint()?;
            let size = self.varint()? as usize;
            self.need(size)?;
            let outer = std::mem::replace(&mut self.end, self.at + size);
            if known(self, tag)? && self.at != self.end {
                return Err(self.malformed("the size of a tagged field"));
            }
            self.at = self.end;
            self.end = outer;
        }
        Ok(())
    }

    /// Skips the tagged fields of a struct that has none for us.
    pub(crate) fn skip_tags(&mut self) -> Result<(), CodecError> {
        self.tags(|_, _| Ok(false))
    }
}
