//! # Nouns and record batches
//!
//! The bottom room of Millstream. It holds the words that every other room shares ([`noun`]) and record batch v2, the one
//! format that a record has on disk, on the wire and in memory. A producer builds a batch once ([`BatchBuilder`]); the
//! broker walks its records once to check them, and patches a few header fields in place ([`patch`]); a consumer walks its
//! records ([`Batch::records`]) as slices of the bytes that arrived.
//!
//! ```text
//! base offset 8 | length 4 | leader epoch 4 | magic 1 | crc 4 | attributes 2 | last offset delta 4 | base timestamp 8 |
//! max timestamp 8 | producer id 8 | producer epoch 2 | base sequence 4 | record count 4 | records, perhaps compressed
//! ```
//!
//! The CRC (Castagnoli) begins after its own field, so a broker gives a batch its offset and epoch without touching it.
//!
//! ## Invariants
//! - Reading never panics and never allocates by a number that the bytes merely claim: a length is checked against what is
//!   left, and decompression stops at a limit that the caller names.
//! - Walking the records of a batch allocates nothing per record; headers keep their order and their duplicates.
//! - What a header says about its batch is not believed about the records: they are checked while they are walked, and a
//!   batch with bytes left over, or with too few records, is an error.
//!
//! ## Deliberately absent
//! Message formats v0 and v1 (Kafka 4 dropped them, and so [`BatchHeader::peek`] refuses their magic), files (see
//! `millstream-storage`), and what a record means (keys and values are bytes here).

#![cfg_attr(not(test), warn(clippy::indexing_slicing, clippy::unwrap_used))]

mod batch;
mod builder;
mod compression;
mod control;
mod error;
mod header;
pub mod noun;
pub mod patch;
mod record;
pub mod varint;

pub use batch::{Batch, Batches};
pub use builder::{BatchBuilder, BatchOptions, record_size_upper_bound};
pub use compression::{Codec, Compression, DEFAULT_DECOMPRESSED_LIMIT_BYTES};
pub use control::{ControlKind, EndTxnMarker};
pub use error::RecordError;
pub use header::{
    Attributes, BatchHeader, HEADER_BYTES, LENGTH_PREFIX_BYTES, TimestampType, advance_sequence,
};
pub use noun::{
    LeaderEpoch, Millis, NodeId, Offset, ProducerEpoch, ProducerId, TopicId, TopicPartition, Uuid,
};
pub use record::{Header, HeaderRef, Headers, Record, RecordRef, Records};
