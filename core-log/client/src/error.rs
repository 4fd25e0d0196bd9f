//! What can go wrong when a client talks to a cluster.

use std::sync::Arc;

use millstream_protocol::{CallError, CodecError, DialError, ErrorCode};
use millstream_record::{Offset, RecordError, TopicPartition};

/// A client's call failed. Cloneable, since one failure may concern many records.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// A setting, or a combination of settings, is not valid.
    #[error("{setting}: {reason}")]
    Config {
        /// The setting, by its Kafka name.
        setting: &'static str,
        /// Why it is refused, and what would be accepted.
        reason: String,
    },
    /// No broker could be reached; every known one and the bootstrap addresses were tried.
    #[error(
        "no broker answers at {tried}; the last one said: {last}. Is the address right, and is a broker running there?"
    )]
    Unreachable {
        /// The addresses tried.
        tried: String,
        /// The last failure.
        last: String,
    },
    /// One broker could not be reached.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// A broker gave no answer.
    #[error("{api} to {broker}: {source}")]
    Call {
        /// The API's name.
        api: &'static str,
        /// The broker's address.
        broker: String,
        /// Why.
        source: CallError,
    },
    /// A broker answered with an error.
    #[error("{api} of {subject}: {code}{}", .detail.as_ref().map(|text| format!(": {text}")).unwrap_or_default())]
    Broker {
        /// The API's name.
        api: &'static str,
        /// The topic, partition, group or transactional id concerned.
        subject: String,
        /// The broker's error.
        code: ErrorCode,
        /// What the broker added in words.
        detail: Option<String>,
    },
    /// A broker's answer lacks what was asked for, or is of another kind.
    #[error("{api} to {broker}: the answer does not fit the request: {what}")]
    Answer {
        /// The API's name.
        api: &'static str,
        /// The broker's address.
        broker: String,
        /// What is missing or wrong.
        what: String,
    },
    /// Something did not happen in the time given for it.
    #[error("{what} took longer than {timeout_ms} ms{}", .last.as_ref().map(|error| format!("; the last error was: {error}")).unwrap_or_default())]
    TimedOut {
        /// What was waited for.
        what: String,
        /// The bound.
        timeout_ms: u64,
        /// The failure that was retried until then.
        last: Option<Arc<ClientError>>,
    },
    /// The cluster has no such partition.
    #[error("{topic} has {partitions} partitions, so there is no partition {partition}")]
    NoSuchPartition {
        /// The topic.
        topic: String,
        /// The partition asked for.
        partition: i32,
        /// How many there are.
        partitions: usize,
    },
    /// A record is larger than a request may be, or than the buffer.
    #[error(
        "a record of {bytes} bytes for {topic} exceeds {setting} ({limit} bytes); raise it, and the topic's max.message.bytes"
    )]
    RecordTooLarge {
        /// The topic.
        topic: String,
        /// The record's size.
        bytes: usize,
        /// The setting that limits it.
        setting: &'static str,
        /// Its value.
        limit: usize,
    },
    /// A batch cannot be built, or a fetched one cannot be read.
    #[error("{partition}: {source}")]
    Record {
        /// The partition.
        partition: TopicPartition,
        /// What is wrong.
        source: RecordError,
    },
    /// Bytes of the rebalance protocol cannot be read.
    #[error("{what}: {source}")]
    Codec {
        /// Whose bytes.
        what: String,
        /// What is wrong.
        source: CodecError,
    },
    /// Another producer took over this transactional id, or the coordinator aborted a transaction that took too long; this producer
    /// can only be closed.
    #[error(
        "the producer {who} was fenced: its transaction took longer than transaction.timeout.ms, or a newer producer uses the same transactional.id"
    )]
    Fenced {
        /// The transactional id, or the producer id.
        who: String,
    },
    /// The transaction failed and must be aborted; the producer may go on after that.
    #[error("the transaction must be aborted: {cause}")]
    AbortRequired {
        /// What made it fail.
        cause: Arc<ClientError>,
    },
    /// The records were not sent since their transaction was aborted.
    #[error("the transaction was aborted before the records were sent")]
    Aborted,
    /// The producer hit an error that it cannot recover from; it can only be closed.
    #[error("the producer cannot go on: {cause}")]
    Fatal {
        /// What it hit.
        cause: Arc<ClientError>,
    },
    /// The call does not fit the state of the producer or consumer.
    #[error("{what}")]
    State {
        /// What does not fit, and what to call first.
        what: String,
    },
    /// The consumer is no longer a member of the group's generation, so the commit was refused: other members may own the partitions.
    #[error(
        "group {group} refuses the commit of a member that was left behind by a rebalance ({code}); poll more often, or raise max.poll.interval.ms"
    )]
    CommitRefused {
        /// The group.
        group: String,
        /// What the coordinator said.
        code: ErrorCode,
    },
    /// There is no committed offset, and `auto.offset.reset` is `none`.
    #[error(
        "{partition} has no committed offset, and auto.offset.reset is none; seek, or choose earliest or latest"
    )]
    NoOffset {
        /// The partition.
        partition: TopicPartition,
    },
    /// The position lies outside of the log, and `auto.offset.reset` is `none`.
    #[error(
        "{partition} has no offset {position} any more, and auto.offset.reset is none; seek, or choose earliest or latest"
    )]
    OffsetOutOfRange {
        /// The partition.
        partition: TopicPartition,
        /// Where the consumer stands.
        position: Offset,
    },
    /// The log was cut off below the position after a failover (KIP-320), and `auto.offset.reset` is `none`.
    #[error(
        "{partition} was cut off at offset {end}, below the position {position}: records that were read are gone; seek to go on"
    )]
    LogTruncated {
        /// The partition.
        partition: TopicPartition,
        /// Where the consumer stood.
        position: Offset,
        /// Where the log ends for the epoch that the consumer knew.
        end: Offset,
    },
    /// The partition is not assigned to this consumer.
    #[error("{partition} is not assigned to this consumer")]
    NotAssigned {
        /// The partition.
        partition: TopicPartition,
    },
    /// The producer or consumer was closed.
    #[error("the {what} is closed")]
    Closed {
        /// What was closed.
        what: &'static str,
    },
}

impl ClientError {
    /// Whether the same call may succeed later. The client has retried within its bounds already.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Dial(_) | Self::TimedOut { .. } => true,
            Self::Call { source, .. } => source.is_retriable(),
            Self::Broker { code, .. } => code.is_retriable(),
            _ => false,
        }
    }

    /// Whether the transaction must be aborted before the producer can go on.
    #[must_use]
    pub fn requires_abort(&self) -> bool {
        matches!(self, Self::AbortRequired { .. })
    }

    /// Whether the producer can only be closed.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Fenced { .. } | Self::Fatal { .. })
    }

    /// Whether another producer took over.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        match self {
            Self::Fenced { .. } => true,
            Self::Fatal { cause } | Self::AbortRequired { cause } => cause.is_fenced(),
            _ => false,
        }
    }

    /// The broker's error code, where a broker refused.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Broker { code, .. } | Self::CommitRefused { code, .. } => Some(*code),
            Self::Fatal { cause } | Self::AbortRequired { cause } => cause.code(),
            Self::TimedOut { last, .. } => last.as_ref().and_then(|last| last.code()),
            _ => None,
        }
    }

    pub(crate) fn broker(api: &'static str, subject: impl ToString, code: ErrorCode) -> Self {
        Self::Broker { api, subject: subject.to_string(), code, detail: None }
    }

    pub(crate) fn state(what: impl Into<String>) -> Self {
        Self::State { what: what.into() }
    }
}
