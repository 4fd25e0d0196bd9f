//! The four compressions of Kafka, both ways, with a bound on what comes out.

use std::fmt;
use std::io::{Read, Write};

use bytes::{Bytes, BytesMut};

use crate::RecordError;

/// A generous limit for the decompressed records of one batch: far above any sensible batch, far below a machine's memory.
pub const DEFAULT_DECOMPRESSED_LIMIT_BYTES: usize = 256 << 20;

/// Bytes that one block of a snappy stream holds when we write it; Java's default.
const SNAPPY_BLOCK_BYTES: usize = 32 << 10;
/// What Java's snappy stream begins with: a magic, then version and lowest compatible version, both 1.
const XERIAL_HEADER: [u8; 16] = *b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";
const XERIAL_MAGIC: &[u8] = b"\x82SNAPPY\0";
/// Snappy's longest copy is 64 bytes from a 2-byte element, so no honest stream expands more than this.
const SNAPPY_MOST_EXPANSION: usize = 64;

/// How the records of a batch are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// DEFLATE in a gzip frame.
    Gzip,
    /// Snappy: written as Java's block stream; that and a raw block are both read.
    Snappy,
    /// LZ4 frames.
    Lz4,
    /// Zstandard (KIP-110).
    Zstd,
}

impl Compression {
    /// Every compression.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The number in a batch's attributes.
    #[must_use]
    pub fn id(self) -> i8 {
        self as i8
    }

    /// The compression with this number.
    ///
    /// # Errors
    /// A number that names none.
    pub fn from_id(id: i8) -> Result<Self, RecordError> {
        Self::ALL.into_iter().find(|codec| codec.id() == id).ok_or(RecordError::UnknownCompression { id })
    }

    /// The name in `compression.type`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// The compression of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| codec.name() == name)
    }

    /// What `bytes` hold, decompressed.
    ///
    /// # Errors
    /// Bytes that the codec cannot read, and [`RecordError::TooLarge`] when more than `limit_bytes` come out.
    pub fn decompress(self, bytes: &[u8], limit_bytes: usize) -> Result<Bytes, RecordError> {
        let mut out = Vec::new();
        self.decompress_into(bytes, limit_bytes, &mut out)?;
        Ok(out.into())
    }

    /// Puts what `bytes` hold, decompressed, in the place of what is in `out`, for a caller that uses one buffer again and
    /// again. After an error it holds what came out until then.
    ///
    /// # Errors
    /// As [`Compression::decompress`].
    pub fn decompress_into(
        self,
        bytes: &[u8],
        limit_bytes: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), RecordError> {
        out.clear();
        match self {
            Self::None if bytes.len() > limit_bytes => Err(self.too_large(limit_bytes)),
            Self::None => {
                out.extend_from_slice(bytes);
                Ok(())
            }
            Self::Gzip => {
                self.read_all(flate2::read::MultiGzDecoder::new(bytes), bytes.len(), limit_bytes, out)
            }
            Self::Snappy => self.unsnap(bytes, limit_bytes, out),
            Self::Lz4 => {
                self.read_all(lz4_flex::frame::FrameDecoder::new(bytes), bytes.len(), limit_bytes, out)
            }
            Self::Zstd => {
                let decoder =
                    zstd::stream::read::Decoder::with_buffer(bytes).map_err(|error| self.failed(&error))?;
                self.read_all(decoder, bytes.len(), limit_bytes, out)
            }
        }
    }

    /// Reads `source` to its end. The buffer grows with what has come out, never by what a frame claims.
    fn read_all(
        self,
        source: impl Read,
        hint: usize,
        limit_bytes: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), RecordError> {
        out.reserve(hint.saturating_mul(2).min(limit_bytes));
        // One byte more than the limit tells "just fits" from "too large".
        let most = (limit_bytes as u64).saturating_add(1);
        source.take(most).read_to_end(out).map_err(|error| self.failed(&error))?;
        if out.len() > limit_bytes { Err(self.too_large(limit_bytes)) } else { Ok(()) }
    }

    fn unsnap(self, bytes: &[u8], limit_bytes: usize, out: &mut Vec<u8>) -> Result<(), RecordError> {
        if !bytes.starts_with(XERIAL_MAGIC) {
            return self.unsnap_block(bytes, out, limit_bytes);
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            // A stream may hold several, each with its own header: concatenated streams are one stream.
            if rest.starts_with(XERIAL_MAGIC) {
                rest =
                    rest.get(XERIAL_HEADER.len()..).ok_or_else(|| self.failed(&"its header is cut off"))?;
                continue;
            }
            let (length, tail) =
                rest.split_first_chunk().ok_or_else(|| self.failed(&"a block length is cut off"))?;
            let block = usize::try_from(i32::from_be_bytes(*length))
                .ok()
                .and_then(|length| tail.split_at_checked(length));
            let (block, tail) = block.ok_or_else(|| self.failed(&"a block is longer than the stream"))?;
            self.unsnap_block(block, out, limit_bytes)?;
            rest = tail;
        }
        Ok(())
    }

    fn unsnap_block(self, block: &[u8], out: &mut Vec<u8>, limit_bytes: usize) -> Result<(), RecordError> {
        let length = snap::raw::decompress_len(block).map_err(|error| self.failed(&error))?;
        if length > limit_bytes.saturating_sub(out.len()) {
            return Err(self.too_large(limit_bytes));
        }
        if length > block.len().saturating_mul(SNAPPY_MOST_EXPANSION) {
            return Err(self.failed(&"a block claims more bytes than it can hold"));
        }
        let at = out.len();
        out.resize(at + length, 0);
        let target = out.get_mut(at..).unwrap_or_default();
        snap::raw::Decoder::new().decompress(block, target).map_err(|error| self.failed(&error))?;
        Ok(())
    }

    fn failed(self, reason: &dyn fmt::Display) -> RecordError {
        RecordError::Codec { compression: self, reason: reason.to_string() }
    }

    fn too_large(self, limit_bytes: usize) -> RecordError {
        RecordError::TooLarge { compression: self, limit_bytes }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A compression with its level, as a producer chooses it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Codec {
    /// The compression.
    pub compression: Compression,
    /// Its level; `None` is the codec's default. gzip has 0 to 9, zstd -131072 to 22; snappy and lz4 have none here.
    pub level: Option<i32>,
}

impl From<Compression> for Codec {
    fn from(compression: Compression) -> Self {
        Self { compression, level: None }
    }
}

impl Codec {
    /// Appends `records`, compressed, to `out`.
    ///
    /// # Errors
    /// What the codec says; for a level that it does not know, that.
    pub fn compress(self, records: &[u8], out: &mut BytesMut) -> Result<(), RecordError> {
        let failed = |error: &dyn fmt::Display| self.compression.failed(error);
        match self.compression {
            Compression::None => out.extend_from_slice(records),
            Compression::Gzip => {
                let level = match self.level.map(u32::try_from) {
                    None => flate2::Compression::default(),
                    Some(Ok(level @ 0..=9)) => flate2::Compression::new(level),
                    Some(_) => return Err(failed(&"the level must be 0 to 9")),
                };
                let mut encoder = flate2::write::GzEncoder::new(Sink(out), level);
                encoder.write_all(records).map_err(|error| failed(&error))?;
                encoder.finish().map_err(|error| failed(&error))?;
            }
            Compression::Snappy => snap(records, out).map_err(|error| failed(&error))?,
            Compression::Lz4 => {
                // What Java writes: independent blocks of 64 KiB, no checksums (the batch has its CRC).
                let frame = lz4_flex::frame::FrameInfo::new()
                    .block_size(lz4_flex::frame::BlockSize::Max64KB)
                    .block_mode(lz4_flex::frame::BlockMode::Independent);
                let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(frame, Sink(out));
                encoder.write_all(records).map_err(|error| failed(&error))?;
                encoder.finish().map_err(|error| failed(&error))?;
            }
            Compression::Zstd => {
                let level = self.level.unwrap_or(zstd::DEFAULT_COMPRESSION_LEVEL);
                if !zstd::compression_level_range().contains(&level) {
                    return Err(failed(&format!(
                        "the level must be in {:?}",
                        zstd::compression_level_range()
                    )));
                }
                zstd::stream::copy_encode(records, Sink(out), level).map_err(|error| failed(&error))?;
            }
        }
        Ok(())
    }
}

fn snap(records: &[u8], out: &mut BytesMut) -> Result<(), snap::Error> {
    out.extend_from_slice(&XERIAL_HEADER);
    let mut encoder = snap::raw::Encoder::new();
    for block in records.chunks(SNAPPY_BLOCK_BYTES) {
        let length_at = out.len();
        let block_at = length_at + 4;
        out.resize(block_at + snap::raw::max_compress_len(block.len()), 0);
        let written = encoder.compress(block, out.get_mut(block_at..).unwrap_or_default())?;
        out.truncate(block_at + written);
        if let Some(length) = out.get_mut(length_at..block_at) {
            length.copy_from_slice(&(written as u32).to_be_bytes());
        }
    }
    Ok(())
}

/// Lets codecs append to a buffer.
struct Sink<'a>(&'a mut BytesMut);

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 1 << 20;

    fn pack(codec: impl Into<Codec>, records: &[u8]) -> BytesMut {
        let mut out = BytesMut::new();
        codec.into().compress(records, &mut out).unwrap();
        out
    }

    #[test]
    fn every_compression_gives_back_what_went_in() {
        let long: Vec<u8> = (0..200_000u32).flat_map(|n| (n / 7).to_be_bytes()).collect();
        for compression in Compression::ALL {
            for records in [&b""[..], b"a", b"hello hello hello", &long] {
                let packed = pack(compression, records);
                assert_eq!(compression.decompress(&packed, LIMIT).unwrap(), records, "{compression}");
            }
        }
    }

    #[test]
    fn one_buffer_serves_many_batches_and_keeps_nothing_of_the_one_before() {
        let mut out = Vec::new();
        for compression in Compression::ALL {
            for records in [&b"longer than the next"[..], b"short", b""] {
                let packed = pack(compression, records);
                compression.decompress_into(&packed, LIMIT, &mut out).unwrap();
                assert_eq!(out, records, "{compression}");
            }
        }
    }

    #[test]
    fn levels_are_taken_or_refused() {
        let records = b"level ".repeat(100);
        for (compression, level, good) in [
            (Compression::Gzip, 0, true),
            (Compression::Gzip, 9, true),
            (Compression::Gzip, 10, false),
            (Compression::Gzip, -1, false),
            (Compression::Zstd, -7, true),
            (Compression::Zstd, 22, true),
            (Compression::Zstd, 23, false),
        ] {
            let mut out = BytesMut::new();
            let result = Codec { compression, level: Some(level) }.compress(&records, &mut out);
            assert_eq!(result.is_ok(), good, "{compression} {level}");
            if good {
                assert_eq!(compression.decompress(&out, LIMIT).unwrap(), records);
            }
        }
    }

    #[test]
    fn what_would_come_out_too_large_is_an_error() {
        let zeros = vec![0u8; LIMIT];
        for compression in Compression::ALL {
            let packed = pack(compression, &zeros);
            assert_eq!(compression.decompress(&packed, LIMIT).unwrap().len(), LIMIT);
            assert_eq!(
                compression.decompress(&packed, LIMIT - 1),
                Err(RecordError::TooLarge { compression, limit_bytes: LIMIT - 1 })
            );
        }
    }

    #[test]
    fn snappy_reads_a_raw_block_and_concatenated_streams() {
        let records = b"raw ".repeat(50);
        let raw = snap::raw::Encoder::new().compress_vec(&records).unwrap();
        assert_eq!(Compression::Snappy.decompress(&raw, LIMIT).unwrap(), records);
        let twice = [pack(Compression::Snappy, &records), pack(Compression::Snappy, &records)].concat();
        assert_eq!(Compression::Snappy.decompress(&twice, LIMIT).unwrap(), records.repeat(2));
    }

    #[test]
    fn hostile_bytes_are_errors() {
        let claims_much = [0xff, 0xff, 0xff, 0x7f, 0];
        let huge_block = [&XERIAL_HEADER[..], &[0x7f, 0xff, 0xff, 0xff, 1]].concat();
        let negative_block = [&XERIAL_HEADER[..], &[0xff; 5]].concat();
        let table: &[(Compression, &[u8])] = &[
            (Compression::Snappy, &claims_much),
            (Compression::Snappy, &huge_block),
            (Compression::Snappy, &negative_block),
            (Compression::Snappy, &XERIAL_HEADER[..12]),
            (Compression::Gzip, b"\x1f\x8b\x08 nonsense"),
            (Compression::Lz4, b"\x04\x22\x4d\x18 nonsense"),
            (Compression::Zstd, b"\x28\xb5\x2f\xfd nonsense"),
        ];
        for (compression, bytes) in table {
            assert!(compression.decompress(bytes, LIMIT).is_err(), "{compression} {bytes:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            for compression in Compression::ALL {
                if let Ok(out) = compression.decompress(&bytes, 4096) {
                    assert!(out.len() <= 4096);
                }
            }
        }
    }
}
