//! A topic's configuration, as partitions use it.

use millstream_machine::config::{Compression, TimestampType, TopicConfig};
use millstream_storage::LogConfig;

use crate::replication::Limited;

/// A topic's configuration, as partitions use it.
#[derive(Clone, Debug)]
pub(crate) struct TopicSettings {
    pub(crate) log: LogConfig,
    pub(crate) min_insync_replicas: usize,
    /// Records without a key are refused.
    pub(crate) compacted: bool,
    /// Replicas that send, and that receive, no faster than the brokers' rates while they are not in sync.
    pub(crate) sending_limited: Limited,
    pub(crate) receiving_limited: Limited,
}

impl TopicSettings {
    pub(crate) fn new(config: &TopicConfig, producer_id_expiration_ms: i64) -> Self {
        let bytes = |value: i32| u64::try_from(value).unwrap_or(0);
        if config.compression != Compression::Producer {
            tracing::debug!(compression = ?config.compression, "compression.type is kept; batches stay as they are sent");
        }
        let log = LogConfig {
            segment_bytes: bytes(config.segment_bytes),
            segment_ms: config.segment_ms,
            segment_index_bytes: bytes(config.segment_index_bytes),
            index_interval_bytes: bytes(config.index_interval_bytes),
            retention_ms: config.retention_ms,
            retention_bytes: config.retention_bytes,
            cleanup_delete: config.cleanup.delete,
            // Nothing here compacts yet, so a hole in a log's offsets is damage whatever the policy says, or said before.
            cleanup_compact: false,
            max_message_bytes: bytes(config.max_message_bytes),
            message_timestamp_type: match config.timestamp_type {
                TimestampType::CreateTime => millstream_record::TimestampType::CreateTime,
                TimestampType::LogAppendTime => millstream_record::TimestampType::LogAppendTime,
            },
            message_timestamp_before_max_ms: config.timestamp_before_max_ms,
            message_timestamp_after_max_ms: config.timestamp_after_max_ms,
            file_delete_delay_ms: config.file_delete_delay_ms,
            producer_id_expiration_ms,
        };
        Self {
            log,
            min_insync_replicas: usize::try_from(config.min_insync_replicas).unwrap_or(1),
            compacted: config.cleanup.compact,
            sending_limited: Limited::None,
            receiving_limited: Limited::None,
        }
    }
}
