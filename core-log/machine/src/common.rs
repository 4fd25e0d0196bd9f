//! What the machines share: who waits, what is appended, and where a name lives.

use bytes::Bytes;

/// A request that waits for its answer. The shell numbers them and keeps the way back to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Waiter(pub u64);

/// One append that a coordinator asked for. The shell reports it back when the high watermark has passed the batch.
/// Tickets of a machine rise by one in the order of its appends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// A record of an internal topic. A value of `None` is a tombstone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// Which thing the record is about, in Kafka's internal key format.
    pub key: Bytes,
    /// The thing's new state in Kafka's internal value format, or `None` when it is gone.
    pub value: Option<Bytes>,
}

/// How a transaction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TransactionOutcome {
    /// Its records become visible to read-committed consumers.
    Commit,
    /// Its records are never seen by read-committed consumers.
    Abort,
}

/// The partition of an internal topic that a group id or transactional id belongs to: Java's `String.hashCode` without its
/// sign, modulo the partition count. Clients and tools depend on this placement being Kafka's.
///
/// # Panics
/// When `partitions` is not positive.
#[must_use]
pub fn partition_for(id: &str, partitions: i32) -> i32 {
    assert!(partitions > 0, "an internal topic has at least one partition");
    let hash = id.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    (hash & i32::MAX) % partitions
}

#[cfg(test)]
mod tests {
    use super::partition_for;

    #[test]
    fn placement_is_that_of_java_string_hash_code() {
        // "polygenelubricants".hashCode() is Integer.MIN_VALUE, whose absolute value overflows; Kafka masks the sign.
        for (id, expected) in [("", 0), ("a", 47), ("group-1", 49), ("polygenelubricants", 0)] {
            assert_eq!(partition_for(id, 50), expected, "{id}");
        }
        assert_eq!(partition_for("\u{1F600}", 50), 49, "surrogate pairs hash as two units");
    }
}
