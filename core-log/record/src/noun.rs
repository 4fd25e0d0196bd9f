//! The words every room shares: offsets, epochs, times, ids and names of partitions.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl From<$inner> for $name {
            fn from(value: $inner) -> Self {
                Self(value)
            }
        }
    };
}

number! {
    /// Position of a record in its partition; the first record has offset 0.
    Offset(i64)
}
number! {
    /// Term of a partition's leader. A batch carries the epoch in which it was appended; -1 means unknown.
    LeaderEpoch(i32)
}
number! {
    /// Milliseconds since the Unix epoch (UTC). Kafka writes -1 for "no timestamp".
    Millis(i64)
}
number! {
    /// Identity of an idempotent or transactional producer; -1 means none.
    ProducerId(i64)
}
number! {
    /// Incarnation of a producer id; an older epoch is fenced.
    ProducerEpoch(i16)
}
number! {
    /// Identity of a broker (`node.id`).
    NodeId(i32)
}

impl Offset {
    /// The offset after `count` more records.
    #[must_use]
    pub fn plus(self, count: i64) -> Self {
        Self(self.0 + count)
    }
}

impl LeaderEpoch {
    /// No epoch known (what old clients and local batches carry).
    pub const NONE: Self = Self(-1);
}

impl Millis {
    /// No timestamp.
    pub const NONE: Self = Self(-1);

    /// `self - earlier`, in milliseconds, saturating.
    #[must_use]
    pub fn since_ms(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// This instant moved `ms` milliseconds later, saturating.
    #[must_use]
    pub fn plus_ms(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms))
    }
}

/// A 128-bit id (topic id, directory id, cluster id), shown as Kafka shows it: URL-safe base64 without padding.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid(pub [u8; 16]);

/// The id of a topic; a re-created topic of the same name has another one (KIP-516).
pub type TopicId = Uuid;

impl Uuid {
    /// The id that means "none".
    pub const ZERO: Self = Self([0; 16]);

    /// Whether this is [`Uuid::ZERO`].
    #[must_use]
    pub fn is_zero(&self) -> bool {
        *self == Self::ZERO
    }

    /// A version 4 UUID from 128 random bits. Kafka avoids ids that start with `-`, since tools take those for options; so do we.
    #[must_use]
    pub fn from_random(high: u64, low: u64) -> Self {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&high.to_be_bytes());
        bytes[8..].copy_from_slice(&low.to_be_bytes());
        bytes[6] = (bytes[6] & 0x0f) | 0x40;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        if bytes[0] >> 2 == 62 {
            bytes[0] &= 0x7f; // 62 is '-' in the URL-safe alphabet
        }
        Self(bytes)
    }

    /// Reads the 22-character form that [`fmt::Display`] writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 22 {
            return None;
        }
        let mut value: u128 = 0;
        for (at, digit) in digits.iter().enumerate() {
            let six = ALPHABET.iter().position(|c| c == digit)? as u128;
            value = if at == 21 { (value << 2) | (six >> 4) } else { (value << 6) | six };
        }
        Some(Self(value.to_be_bytes()))
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = u128::from_be_bytes(self.0);
        for at in 0..22u32 {
            let six = if at == 21 { (value << 4) & 0x3f } else { (value >> (122 - 6 * at)) & 0x3f };
            let letter = ALPHABET.get(six as usize).copied().unwrap_or(b'-'); // six bits always name one of 64
            write!(f, "{}", char::from(letter))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A partition of a topic, by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// Topic name.
    pub topic: std::sync::Arc<str>,
    /// Index of the partition, from 0.
    pub partition: i32,
}

impl TopicPartition {
    /// Names partition `partition` of `topic`.
    pub fn new(topic: impl Into<std::sync::Arc<str>>, partition: i32) -> Self {
        Self { topic: topic.into(), partition }
    }
}

impl fmt::Display for TopicPartition {
    /// `topic-partition`, the name of its directory on disk.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuid_text_round_trips_and_never_starts_with_a_dash() {
        for seed in 0..2000u64 {
            let high = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let id = Uuid::from_random(high, !high);
            let text = id.to_string();
            assert_eq!(text.len(), 22);
            assert!(!text.starts_with('-'), "{text}");
            assert_eq!(Uuid::parse(&text), Some(id));
        }
        assert_eq!(Uuid::ZERO.to_string(), "AAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!(Uuid::parse("short"), None);
    }
}
