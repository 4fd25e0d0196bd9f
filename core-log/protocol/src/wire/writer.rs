//! Values -> bytes.

use bytes::{BufMut, Bytes, BytesMut};

use super::{Segments, Wire};
use crate::CodecError;

/// Bytes of at least this length are chained, not copied: below it the copy is cheaper than one more piece for the socket.
const CHAIN_FROM: usize = 4096;

/// Collects the bytes of one frame. Long byte strings (records) become pieces of their own and are not copied.
#[derive(Debug, Default)]
pub struct Writer {
    done: Segments,
    tail: BytesMut,
    message: &'static str,
    version: i16,
    flexible: bool,
}

impl Writer {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What follows is `message` in `version`.
    pub(crate) fn begin(&mut self, message: &'static str, version: i16, flexible: bool) {
        self.message = message;
        self.version = version;
        self.flexible = flexible;
    }

    /// The version of the message being written.
    #[must_use]
    pub fn version(&self) -> i16 {
        self.version
    }

    /// Whether that version has compact lengths and tagged fields.
    #[must_use]
    pub fn is_flexible(&self) -> bool {
        self.flexible
    }

    /// Bytes written so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.done.len() + self.tail.len()
    }

    /// Whether nothing has been written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What was written, piece by piece.
    #[must_use]
    pub fn finish(mut self) -> Segments {
        self.done.push(self.tail.freeze());
        self.done
    }

    /// Copies `bytes`.
    pub fn put_slice(&mut self, bytes: &[u8]) {
        self.tail.put_slice(bytes);
    }

    /// Appends `bytes`: by reference when they are long.
    pub fn put_bytes(&mut self, bytes: &Bytes) {
        if bytes.len() < CHAIN_FROM {
            return self.put_slice(bytes);
        }
        self.done.push(self.tail.split().freeze());
        self.done.push(bytes.clone());
    }

    /// An unsigned number in groups of seven bits, lowest first.
    pub fn put_varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.tail.put_u8((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.tail.put_u8(value as u8);
    }

    /// A length in the form of the version; `None` is null. `small` says that the form of old is two bytes, not four.
    pub(crate) fn put_length(
        &mut self,
        length: Option<usize>,
        small: bool,
        what: &'static str,
    ) -> Result<(), CodecError> {
        let limit = if small { i16::MAX as usize } else { i32::MAX as usize - 1 };
        let long = length.filter(|length| *length > limit);
        if let Some(length) = long {
            return Err(CodecError::TooLong { message: self.message, what, length });
        }
        match (self.flexible, small) {
            (true, _) => self.put_varint(length.map_or(0, |length| length as u32 + 1)),
            (false, true) => self.tail.put_i16(length.map_or(-1, |length| length as i16)),
            (false, false) => self.tail.put_i32(length.map_or(-1, |length| length as i32)),
        }
        Ok(())
    }

    /// A field that may be null when `nullable`.
    pub(crate) fn put_nullable<T: Wire>(
        &mut self,
        value: &Option<T>,
        nullable: bool,
        field: &'static str,
    ) -> Result<(), CodecError> {
        match value {
            _ if nullable => T::put_option(value.as_ref(), self),
            Some(value) => value.put(self),
            None => Err(CodecError::Null { message: self.message, field, version: self.version }),
        }
    }

    /// Refuses a value that the version has no field for.
    pub(crate) fn absent(&self, has_value: bool, field: &'static str) -> Result<(), CodecError> {
        if !has_value {
            return Ok(());
        }
        Err(CodecError::Absent { message: self.message, field, version: self.version })
    }

    /// Begins the tagged fields of a struct.
    pub(crate) fn tags(&self) -> Tags {
        let mut body = Self::new();
        body.begin(self.message, self.version, self.flexible);
        Tags { count: 0, body }
    }

    /// Writes the tagged fields of a struct, which come after all others.
    pub(crate) fn put_tags(&mut self, tags: Tags) -> Result<(), CodecError> {
        if self.flexible {
            self.put_varint(tags.count);
            self.put_slice(&tags.body.finish().into_bytes());
        }
        Ok(())
    }

    /// Writes that a struct has no tagged fields.
    pub(crate) fn put_no_tags(&mut self) {
        if self.flexible {
            self.put_varint(0);
        }
    }
}

/// The tagged fields of one struct, in the order of their tags.
#[derive(Debug)]
pub struct Tags {
    count: u32,
    body: Writer,
}

impl Tags {
    /// Adds a struct that may be null. In a tag, null is a varint 0 and a value follows a varint 1: unlike a field's -1 and 1.
    pub(crate) fn put_struct<T: Wire>(&mut self, tag: u32, value: &Option<T>) -> Result<(), CodecError> {
        match value {
            Some(_) => self.put(tag, value),
            None => self.put(tag, &false),
        }
    }

    /// Adds a field that is not ignorable, where the version has it.
    pub(crate) fn put_if(
        &mut self,
        present: bool,
        tag: u32,
        value: &impl Wire,
        field: &'static str,
    ) -> Result<(), CodecError> {
        self.body.absent(!present, field)?;
        self.put(tag, value)
    }

    /// Adds a field.
    pub(crate) fn put(&mut self, tag: u32, value: &impl Wire) -> Result<(), CodecError> {
        let mut field = Writer::new();
        field.begin(self.body.message, self.body.version, self.body.flexible);
        value.put(&mut field)?;
        self.count += 1;
        self.body.put_varint(tag);
        self.body.put_varint(field.len() as u32);
        self.body.put_slice(&field.finish().into_bytes());
        Ok(())
    }
}
