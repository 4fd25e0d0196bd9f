//! The topic configurations of Apache Kafka 4.3: names, types, defaults and limits.

use super::definition::{Check, Definition, Type, topic};

/// Every topic configuration, ordered by name.
#[rustfmt::skip]
pub(super) static TOPIC: &[Definition] = &[
    topic("cleanup.policy", Type::List, Some("delete"), Check::OneOf(&["compact", "delete"])),
    topic("compression.gzip.level", Type::Int, Some("-1"), Check::GzipLevel),
    topic("compression.lz4.level", Type::Int, Some("9"), Check::Between(1, 17)),
    topic("compression.type", Type::String, Some("producer"), Check::OneOf(&["gzip", "lz4", "producer", "snappy", "uncompressed", "zstd"])),
    topic("compression.zstd.level", Type::Int, Some("3"), Check::Between(-131_072, 22)),
    topic("delete.retention.ms", Type::Long, Some("86400000"), Check::AtLeast(0)),
    topic("file.delete.delay.ms", Type::Long, Some("60000"), Check::AtLeast(0)),
    topic("flush.messages", Type::Long, Some("9223372036854775807"), Check::AtLeast(1)),
    topic("flush.ms", Type::Long, Some("9223372036854775807"), Check::AtLeast(0)),
    topic("follower.replication.throttled.replicas", Type::List, Some(""), Check::Throttled),
    topic("index.interval.bytes", Type::Int, Some("4096"), Check::AtLeast(0)),
    topic("leader.replication.throttled.replicas", Type::List, Some(""), Check::Throttled),
    topic("local.retention.bytes", Type::Long, Some("-2"), Check::AtLeast(-2)),
    topic("local.retention.ms", Type::Long, Some("-2"), Check::AtLeast(-2)),
    topic("max.compaction.lag.ms", Type::Long, Some("9223372036854775807"), Check::AtLeast(1)),
    topic("max.message.bytes", Type::Int, Some("1048588"), Check::AtLeast(0)),
    topic("message.timestamp.after.max.ms", Type::Long, Some("3600000"), Check::AtLeast(0)),
    topic("message.timestamp.before.max.ms", Type::Long, Some("9223372036854775807"), Check::AtLeast(0)),
    topic("message.timestamp.type", Type::String, Some("CreateTime"), Check::OneOf(&["CreateTime", "LogAppendTime"])),
    topic("min.cleanable.dirty.ratio", Type::Double, Some("0.5"), Check::Fraction(0.0, 1.0)),
    topic("min.compaction.lag.ms", Type::Long, Some("0"), Check::AtLeast(0)),
    topic("min.insync.replicas", Type::Int, Some("1"), Check::AtLeast(1)),
    topic("preallocate", Type::Boolean, Some("false"), Check::Any),
    topic("remote.log.copy.disable", Type::Boolean, Some("false"), Check::Any),
    topic("remote.log.delete.on.disable", Type::Boolean, Some("false"), Check::Any),
    topic("remote.storage.enable", Type::Boolean, Some("false"), Check::Any),
    topic("retention.bytes", Type::Long, Some("-1"), Check::Any),
    topic("retention.ms", Type::Long, Some("604800000"), Check::AtLeast(-1)),
    topic("segment.bytes", Type::Int, Some("1073741824"), Check::AtLeast(1_048_576)),
    topic("segment.index.bytes", Type::Int, Some("10485760"), Check::AtLeast(4)),
    topic("segment.jitter.ms", Type::Long, Some("0"), Check::AtLeast(0)),
    topic("segment.ms", Type::Long, Some("604800000"), Check::AtLeast(1)),
    topic("unclean.leader.election.enable", Type::Boolean, Some("false"), Check::Any),
];
