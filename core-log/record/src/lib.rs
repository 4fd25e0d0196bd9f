//! # Nouns and record batches
//!
//! The bottom room of Millstream. It holds the words that every other room shares ([`noun`]) and record batch v2, the one
//! format that a record has on disk, on the wire and in memory.

pub mod noun;

pub use noun::{
    LeaderEpoch, Millis, NodeId, Offset, ProducerEpoch, ProducerId, TopicId, TopicPartition, Uuid,
};
