//! A topic's configuration, parsed.

/// The topic configurations that Millstream honours, as numbers and choices. Limits in Kafka's sense: -1 means none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TopicConfig {
    /// `cleanup.policy`.
    pub cleanup: Cleanup,
    /// `compression.type`: what the broker stores batches as.
    pub compression: Compression,
    /// `delete.retention.ms`: how long tombstones outlive compaction.
    pub delete_retention_ms: i64,
    /// `file.delete.delay.ms`: how long a deleted segment's files remain.
    pub file_delete_delay_ms: i64,
    /// `index.interval.bytes`: bytes of log between two entries of the sparse index.
    pub index_interval_bytes: i32,
    /// `max.message.bytes`: the largest batch.
    pub max_message_bytes: i32,
    /// `message.timestamp.type`.
    pub timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`: how far a record's time may lie in the past.
    pub timestamp_before_max_ms: i64,
    /// `message.timestamp.after.max.ms`: how far a record's time may lie in the future.
    pub timestamp_after_max_ms: i64,
    /// `min.insync.replicas`.
    pub min_insync_replicas: i32,
    /// `preallocate`.
    pub preallocate: bool,
    /// `retention.bytes`.
    pub retention_bytes: i64,
    /// `retention.ms`.
    pub retention_ms: i64,
    /// `segment.bytes`.
    pub segment_bytes: i32,
    /// `segment.index.bytes`.
    pub segment_index_bytes: i32,
    /// `segment.jitter.ms`.
    pub segment_jitter_ms: i64,
    /// `segment.ms`.
    pub segment_ms: i64,
    /// `unclean.leader.election.enable`.
    pub unclean_leader_election: bool,
}

/// What happens to old data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cleanup {
    /// Segments past retention are deleted.
    pub delete: bool,
    /// Only the last record of each key is kept; records without a key are refused.
    pub compact: bool,
}

/// What a topic stores its batches as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// As the producer sent them.
    Producer,
    /// Not compressed.
    Uncompressed,
    /// gzip.
    Gzip,
    /// snappy.
    Snappy,
    /// lz4.
    Lz4,
    /// zstd.
    Zstd,
}

/// What a record's timestamp means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampType {
    /// The producer's time.
    CreateTime,
    /// The broker's time when it appended.
    LogAppendTime,
}

impl TopicConfig {
    /// Reads each value through `value`. What was stored has been validated, so a text that cannot be read is a default that
    /// has none; it becomes 0.
    pub(super) fn parse(value: impl Fn(&str) -> Option<String>) -> Self {
        let text = |name: &str| value(name).unwrap_or_default();
        let long = |name: &str| text(name).trim().parse::<i64>().unwrap_or_default();
        let int = |name: &str| text(name).trim().parse::<i32>().unwrap_or_default();
        let flag = |name: &str| text(name).trim().eq_ignore_ascii_case("true");
        let policy = text("cleanup.policy");
        let has = |word: &str| policy.split(',').any(|one| one.trim() == word);
        Self {
            cleanup: Cleanup { delete: has("delete"), compact: has("compact") },
            compression: match text("compression.type").trim() {
                "uncompressed" => Compression::Uncompressed,
                "gzip" => Compression::Gzip,
                "snappy" => Compression::Snappy,
                "lz4" => Compression::Lz4,
                "zstd" => Compression::Zstd,
                _ => Compression::Producer,
            },
            delete_retention_ms: long("delete.retention.ms"),
            file_delete_delay_ms: long("file.delete.delay.ms"),
            index_interval_bytes: int("index.interval.bytes"),
            max_message_bytes: int("max.message.bytes"),
            timestamp_type: match text("message.timestamp.type").trim() {
                "LogAppendTime" => TimestampType::LogAppendTime,
                _ => TimestampType::CreateTime,
            },
            timestamp_before_max_ms: long("message.timestamp.before.max.ms"),
            timestamp_after_max_ms: long("message.timestamp.after.max.ms"),
            min_insync_replicas: int("min.insync.replicas"),
            preallocate: flag("preallocate"),
            retention_bytes: long("retention.bytes"),
            retention_ms: long("retention.ms"),
            segment_bytes: int("segment.bytes"),
            segment_index_bytes: int("segment.index.bytes"),
            segment_jitter_ms: long("segment.jitter.ms"),
            segment_ms: long("segment.ms"),
            unclean_leader_election: flag("unclean.leader.election.enable"),
        }
    }
}

/// Judges what holds of a topic only of several values together, or only here: each is right by itself.
///
/// # Errors
/// What is wrong, and what would be right, as a sentence.
pub(crate) fn judge_together(value: impl Fn(&str) -> Option<String>) -> Result<(), String> {
    if value("remote.storage.enable").is_some_and(|flag| flag.trim().eq_ignore_ascii_case("true")) {
        return Err("Tiered storage is not there in this broker, so no topic can use remote log storage; \
                    leave remote.storage.enable at false."
            .to_owned());
    }
    let lag = |name: &str| value(name).and_then(|text| text.trim().parse::<i64>().ok());
    match (lag("min.compaction.lag.ms"), lag("max.compaction.lag.ms")) {
        (Some(min), Some(max)) if min > max => Err(format!(
            "Conflicting topic configs: min.compaction.lag.ms ({min}) is more than max.compaction.lag.ms ({max}); \
             lower the one or raise the other."
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_by_name() {
        let config = TopicConfig::parse(|name| match name {
            "cleanup.policy" => Some("compact, delete".into()),
            "compression.type" => Some("lz4".into()),
            "retention.ms" => Some("-1".into()),
            "preallocate" => Some("TRUE".into()),
            "message.timestamp.type" => Some("LogAppendTime".into()),
            _ => None,
        });
        assert_eq!(config.cleanup, Cleanup { delete: true, compact: true });
        assert_eq!(config.compression, Compression::Lz4);
        assert_eq!((config.retention_ms, config.preallocate), (-1, true));
        assert_eq!(config.timestamp_type, TimestampType::LogAppendTime);
    }
}
