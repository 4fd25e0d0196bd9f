//! How one partition's log is kept, in Kafka's words.

use millstream_record::TimestampType;

/// How one partition's log is kept. Field names are those of Kafka's topic configs, defaults too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// A segment that would grow beyond this many bytes is rolled (`segment.bytes`).
    pub segment_bytes: u64,
    /// A segment whose first record is older than this is rolled (`segment.ms`).
    pub segment_ms: i64,
    /// A segment whose index would grow beyond this many bytes is rolled (`segment.index.bytes`).
    pub segment_index_bytes: u64,
    /// Log bytes between two index entries (`index.interval.bytes`).
    pub index_interval_bytes: u64,
    /// Segments whose newest record is older are deleted; -1 keeps them (`retention.ms`).
    pub retention_ms: i64,
    /// Oldest segments are deleted while the log is larger than this; -1 keeps them (`retention.bytes`).
    pub retention_bytes: i64,
    /// Whether retention deletes at all: `cleanup.policy` contains `delete`.
    pub cleanup_delete: bool,
    /// Whether the log is, or was, compacted: `cleanup.policy` contains `compact`. Only then may offsets be missing in what a
    /// crash left.
    pub cleanup_compact: bool,
    /// The largest batch that [`crate::validate_for_append`] accepts (`max.message.bytes`).
    pub max_message_bytes: u64,
    /// Who sets timestamps (`message.timestamp.type`).
    pub message_timestamp_type: TimestampType,
    /// How far a timestamp may lie behind the clock (`message.timestamp.before.max.ms`).
    pub message_timestamp_before_max_ms: i64,
    /// How far a timestamp may lie ahead of the clock (`message.timestamp.after.max.ms`).
    pub message_timestamp_after_max_ms: i64,
    /// How long a deleted segment's files keep their bytes, under the suffix `.deleted` (`file.delete.delay.ms`).
    pub file_delete_delay_ms: i64,
    /// A producer that has not written for this long, and has no open transaction, is forgotten (`producer.id.expiration.ms`).
    pub producer_id_expiration_ms: i64,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 1 << 30,
            segment_ms: 7 * 24 * 3_600_000,
            segment_index_bytes: 10 << 20,
            index_interval_bytes: 4096,
            retention_ms: 7 * 24 * 3_600_000,
            retention_bytes: -1,
            cleanup_delete: true,
            cleanup_compact: false,
            max_message_bytes: 1_048_588,
            message_timestamp_type: TimestampType::CreateTime,
            message_timestamp_before_max_ms: i64::MAX,
            message_timestamp_after_max_ms: 3_600_000,
            file_delete_delay_ms: 60_000,
            producer_id_expiration_ms: 86_400_000,
        }
    }
}

impl LogConfig {
    /// The largest position that Kafka's four-byte index positions can name.
    const POSITION_MAX: u64 = i32::MAX as u64;

    /// `segment.bytes`, held within what an index can address.
    pub(crate) fn segment_limit(&self) -> u64 {
        self.segment_bytes.min(Self::POSITION_MAX)
    }
}
