//! Requests made up from the protocol's table, with a note of every place that holds a length.

use std::ops::Range;

use millstream_protocol_codegen::schema::{Field, Message, Type};

/// A small generator of numbers (xorshift64*): a test is repeated by its seed.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        ((self.next() >> 11) % bound as u64) as usize
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}

/// How a length is written.
#[derive(Clone, Copy)]
enum Width {
    Short,
    Int,
    Varint,
}

/// One request of one version: header and body, without the size in front.
pub(crate) struct Made {
    pub(crate) bytes: Vec<u8>,
    lengths: Vec<(Range<usize>, Width)>,
}

impl Made {
    /// A valid request; its numbers are as often extreme as not.
    pub(crate) fn new(message: &Message, version: i16, rng: &mut Rng) -> Self {
        let flexible = message.flexible.is_some_and(|range| range.has(version));
        let mut made = Self { bytes: Vec::new(), lengths: Vec::new() };
        made.bytes.extend(message.key.unwrap_or_default().to_be_bytes());
        made.bytes.extend(version.to_be_bytes());
        made.bytes.extend((rng.next() as i32).to_be_bytes());
        made.length(false, true, 4);
        made.bytes.extend(b"evil");
        // ApiVersions has the flexible header too: only its answer has not.
        if flexible {
            made.bytes.push(0);
        }
        Maker { message, version, flexible, rng, made: &mut made }.fields(&message.fields);
        made
    }

    /// The request with each of its lengths, one at a time, made to lie.
    pub(crate) fn with_hostile_lengths(&self) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        for (place, width) in &self.lengths {
            let lies: &[&[u8]] = match width {
                Width::Short => &[&[0x7f, 0xff], &[0x80, 0x00]],
                Width::Int => &[&[0x7f, 0xff, 0xff, 0xff], &[0x80, 0, 0, 0], &[0x01, 0, 0, 0]],
                Width::Varint => &[
                    &[0xff, 0xff, 0xff, 0xff, 0x0f],
                    &[0xff, 0xff, 0xff, 0xff, 0x07],
                    &[0x80, 0x80, 0x80, 0x08],
                    &[0xff; 11],
                ],
            };
            for lie in lies {
                let mut bytes = self.bytes.clone();
                bytes.splice(place.clone(), lie.iter().copied());
                all.push(bytes);
            }
        }
        all
    }

    fn length(&mut self, flexible: bool, small: bool, length: usize) {
        let at = self.bytes.len();
        let width = match (flexible, small) {
            (true, _) => {
                self.bytes.push(length as u8 + 1); // all are below 127
                Width::Varint
            }
            (false, true) => {
                self.bytes.extend((length as i16).to_be_bytes());
                Width::Short
            }
            (false, false) => {
                self.bytes.extend((length as i32).to_be_bytes());
                Width::Int
            }
        };
        self.lengths.push((at..self.bytes.len(), width));
    }
}

struct Maker<'a> {
    message: &'a Message,
    version: i16,
    flexible: bool,
    rng: &'a mut Rng,
    made: &'a mut Made,
}

impl Maker<'_> {
    fn fields(&mut self, fields: &[Field]) {
        let version = self.version;
        for field in fields.iter().filter(|field| field.versions.has(version) && field.tag.is_none()) {
            let nullable = field.nullable.is_some_and(|range| range.has(version));
            if nullable && matches!(field.ty, Type::Struct(_)) {
                self.made.bytes.push(1);
            }
            self.element(&field.ty);
        }
        if self.flexible {
            let at = self.made.bytes.len();
            self.made.lengths.push((at..at + 1, Width::Varint)); // the number of tags
            self.made.bytes.push(0);
        }
    }

    fn element(&mut self, ty: &Type) {
        match ty {
            Type::Basic("bool") => self.number(1, 1),
            Type::Basic("int8") => self.number(1, 8),
            Type::Basic("int16" | "uint16") => self.number(2, 16),
            Type::Basic("int32" | "uint32") => self.number(4, 32),
            Type::Basic("int64" | "float64") => self.number(8, 64),
            Type::Basic("uuid") => {
                let id = self.rng.bytes(16);
                self.made.bytes.extend(id);
            }
            Type::Basic(name) => {
                let length = self.rng.below(40);
                self.made.length(self.flexible, *name == "string", length);
                let text = (0..length).map(|_| b'a' + self.rng.below(26) as u8);
                self.made.bytes.extend(text);
            }
            Type::Struct(name) => {
                let inner = self.message.find(name).expect("the table is whole");
                self.fields(&inner.fields);
            }
            Type::Array(element) => {
                let count = self.rng.below(3);
                self.made.length(self.flexible, false, count);
                (0..count).for_each(|_| self.element(element));
            }
        }
    }

    /// A number of so many bytes: the greatest, the least, -1, 0, 1, or any.
    fn number(&mut self, bytes: usize, bits: u32) {
        let greatest = u64::MAX >> (65 - bits.max(2));
        let number = match self.rng.below(6) {
            0 => greatest,
            1 => greatest.wrapping_add(1),
            2 => u64::MAX,
            3 => 0,
            4 => 1,
            _ => self.rng.next(),
        };
        let number = if bits == 1 { number & 1 } else { number };
        self.made.bytes.extend(&number.to_be_bytes()[8 - bytes..]);
    }
}
