//! What can be wrong with a batch.

use crate::Compression;

/// A batch is not readable, or cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The bytes end inside of a batch. At the end of a fetch this is ordinary: the broker cuts at a byte limit.
    #[error("the batch at byte {position} needs {needed} bytes, but only {left} are left")]
    Truncated {
        /// Where the batch begins in the buffer.
        position: usize,
        /// Bytes that the batch claims.
        needed: usize,
        /// Bytes that there are.
        left: usize,
    },
    /// The batch has a format that Kafka 4 no longer knows, or the bytes are no batch at all.
    #[error("the batch at byte {position} has magic {magic}; only record batches of version 2 are read")]
    Magic {
        /// Where the batch begins in the buffer.
        position: usize,
        /// The version found.
        magic: i8,
    },
    /// A field of a batch header holds what it cannot hold.
    #[error("the batch at byte {position} has a header that cannot be: {what} is {value}")]
    Header {
        /// Where the batch begins in the buffer.
        position: usize,
        /// The field.
        what: &'static str,
        /// Its value.
        value: i64,
    },
    /// The checksum does not match: the bytes changed on their way.
    #[error(
        "the batch at offset {base_offset} is corrupt: its CRC is {stored:#010x}, its bytes give {computed:#010x}"
    )]
    Crc {
        /// Base offset that the header claims.
        base_offset: i64,
        /// The CRC in the header.
        stored: u32,
        /// The CRC of the bytes.
        computed: u32,
    },
    /// The attributes name a compression that is not known.
    #[error("compression {id} is not known; 0 to 4 are none, gzip, snappy, lz4 and zstd")]
    UnknownCompression {
        /// The number found.
        id: i8,
    },
    /// The compressed bytes cannot be read, or the records cannot be compressed.
    #[error("{compression}: {reason}")]
    Codec {
        /// The compression.
        compression: Compression,
        /// What the codec said.
        reason: String,
    },
    /// The records would take more memory than the reader allows.
    #[error(
        "{compression}: the records take more than {limit_bytes} bytes when decompressed; raise the limit to read them"
    )]
    TooLarge {
        /// The compression.
        compression: Compression,
        /// The limit that was hit.
        limit_bytes: usize,
    },
    /// A record inside of a batch is malformed.
    #[error("record {index} of the batch at offset {base_offset}: {what}")]
    Record {
        /// Base offset of the batch.
        base_offset: i64,
        /// Which record, from 0.
        index: i32,
        /// What is wrong.
        what: &'static str,
    },
    /// A record or batch exceeds what the format can say (2 GiB, 2^31 records, offsets that go back).
    #[error("the record does not fit the batch: {what}")]
    Unbuildable {
        /// What does not fit.
        what: &'static str,
    },
}
