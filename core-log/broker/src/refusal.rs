//! Why a request, or a part of one, is refused: the one place that maps this room's and storage's errors to Kafka's codes.

use std::fmt;

use bytestring::ByteString;
use millstream_protocol::ErrorCode;
use millstream_storage::StorageError;

/// A Kafka error code, and a sentence where the answer has room for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: ErrorCode,
    pub(crate) why: Option<ByteString>,
    /// The records that a batch is refused for, where it is for some of them only (KIP-467).
    pub(crate) records: Vec<BadRecord>,
}

/// A record that a batch is refused for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BadRecord {
    /// Which of the batch's records, from 0.
    pub(crate) index: i32,
    pub(crate) why: ByteString,
}

impl fmt::Display for BadRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "record {}: {}", self.index, self.why)
    }
}

impl Refusal {
    pub(crate) fn new(code: ErrorCode, why: impl Into<ByteString>) -> Self {
        Self { code, why: Some(why.into()), records: Vec::new() }
    }
}

impl From<ErrorCode> for Refusal {
    fn from(code: ErrorCode) -> Self {
        Self { code, why: None, records: Vec::new() }
    }
}

impl From<StorageError> for Refusal {
    fn from(error: StorageError) -> Self {
        Self::new(code_of(&error), error.to_string())
    }
}

fn code_of(error: &StorageError) -> ErrorCode {
    match error {
        StorageError::OffsetOutOfRange { .. } => ErrorCode::OffsetOutOfRange,
        StorageError::MalformedBatch { what, .. } if what.contains("CRC") => ErrorCode::CorruptMessage,
        StorageError::MalformedBatch { .. } => ErrorCode::InvalidRecord,
        StorageError::BatchTooLarge { .. } => ErrorCode::MessageTooLarge,
        StorageError::AppendTooLarge { .. } => ErrorCode::RecordListTooLarge,
        StorageError::OutOfOrderSequence { .. } => ErrorCode::OutOfOrderSequenceNumber,
        StorageError::SequenceUsed { .. } => ErrorCode::UnknownProducerId, // has a client abort and begin a new epoch
        StorageError::InvalidProducerEpoch { .. } => ErrorCode::InvalidProducerEpoch,
        StorageError::CoordinatorFenced { .. } => ErrorCode::TransactionCoordinatorFenced,
        StorageError::InvalidTransactionState { .. } => ErrorCode::InvalidTxnState,
        StorageError::Changed => ErrorCode::NotLeaderOrFollower, // the client asks again, against the log as it is now
        StorageError::Corrupt { .. } => ErrorCode::CorruptMessage,
        StorageError::TopicIdMismatch { .. } => ErrorCode::InconsistentTopicId,
        StorageError::Io { .. } | StorageError::Offline { .. } | StorageError::Locked { .. } => {
            ErrorCode::KafkaStorageError
        }
        _ => ErrorCode::UnknownServerError,
    }
}
