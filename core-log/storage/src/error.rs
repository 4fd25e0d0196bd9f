//! What can go wrong with a log.

use std::io;
use std::path::{Path, PathBuf};

use millstream_record::{NodeId, Offset, ProducerEpoch, ProducerId, Uuid};

/// What can go wrong with a log. The first group is the caller's to answer, the second is the disk's.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// The offset is below the log start or above the log end.
    #[error("offset {offset} is outside of the log, which goes from {start} to {end}")]
    OffsetOutOfRange {
        /// The offset asked for.
        offset: Offset,
        /// First offset of the log.
        start: Offset,
        /// One past the last offset of the log.
        end: Offset,
    },
    /// Bytes handed to the log are not a run of whole batches in format v2.
    #[error("not a run of whole record batches: {what} at byte {position}")]
    MalformedBatch {
        /// What is wrong.
        what: &'static str,
        /// Where in the bytes handed over.
        position: u64,
    },
    /// One batch is larger than `max.message.bytes`.
    #[error(
        "a batch of {size} bytes is larger than max.message.bytes ({max}); raise the topic's max.message.bytes or send smaller batches"
    )]
    BatchTooLarge {
        /// Size of the batch.
        size: u64,
        /// The limit.
        max: u64,
    },
    /// The batches of one append are larger than a segment may be.
    #[error(
        "{size} bytes in one append are more than segment.bytes ({max}); send less at once or raise segment.bytes"
    )]
    AppendTooLarge {
        /// Size of all batches.
        size: u64,
        /// The limit.
        max: u64,
    },
    /// A follower was handed batches that do not continue its log.
    #[error("batches from the leader begin at offset {found}, but the log ends at {expected}")]
    OffsetsOutOfOrder {
        /// The log's end.
        expected: Offset,
        /// First offset of the batches.
        found: Offset,
    },
    /// A sequence number does not follow the last one of its producer.
    #[error("producer {producer_id} sent sequence {found} where {expected} was next")]
    OutOfOrderSequence {
        /// The producer.
        producer_id: ProducerId,
        /// The sequence that would have been accepted.
        expected: i32,
        /// The sequence that came.
        found: i32,
    },
    /// The first batch of a transaction begins with a sequence number that an earlier transaction has used. Its producer has to
    /// abort, and to begin a new epoch.
    #[error(
        "producer {producer_id} began a transaction with sequence {found}, which an earlier transaction has used; {expected} was next"
    )]
    SequenceUsed {
        /// The producer.
        producer_id: ProducerId,
        /// The sequence that would have been accepted.
        expected: i32,
        /// The sequence that came.
        found: i32,
    },
    /// A producer's epoch is older than one that wrote already.
    #[error("producer {producer_id} wrote with epoch {found}, but epoch {current} exists")]
    InvalidProducerEpoch {
        /// The producer.
        producer_id: ProducerId,
        /// The current epoch.
        current: ProducerEpoch,
        /// The epoch that came.
        found: ProducerEpoch,
    },
    /// A marker came from a transaction coordinator that was replaced.
    #[error(
        "a transaction marker of producer {producer_id} came from coordinator epoch {found}, but {current} exists"
    )]
    CoordinatorFenced {
        /// The producer.
        producer_id: ProducerId,
        /// The newest coordinator epoch seen.
        current: i32,
        /// The epoch that came.
        found: i32,
    },
    /// A non-transactional batch of a producer that has a transaction open here.
    #[error("producer {producer_id} sent a batch outside of its open transaction")]
    InvalidTransactionState {
        /// The producer.
        producer_id: ProducerId,
    },
    /// The segment that a read was planned on has been deleted or cut since. Plan again.
    #[error("the log changed while it was read")]
    Changed,
    /// The directory belongs to another topic id than asked for: the topic was deleted and created anew.
    #[error("{path} belongs to topic id {found}, not to {expected}", path = path.display())]
    TopicIdMismatch {
        /// The partition's directory.
        path: PathBuf,
        /// The id asked for.
        expected: Uuid,
        /// The id on disk.
        found: Uuid,
    },
    /// The directory is in use.
    #[error("{path} is locked: another broker runs on this directory; stop it, or use another directory", path = path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },

    /// Bytes on disk that were written once are wrong now. They are never served, and never cut silently.
    #[error("{path}, byte {position}: {what}", path = path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in the file.
        position: u64,
        /// What is wrong.
        what: String,
    },
    /// A directory has logs, and nothing says whose they are. With new ids the cluster would take its replicas for lost.
    #[error(
        "{path} is missing, but the directory has logs, such as {found}: restore that file from a backup, or write it with these lines: \
         version=1, node.id={node_id}, cluster.id=CLUSTER, directory.id={directory}. `millstream cluster status` at another node shows \
         the cluster's id, and the directories of controllers; the cluster.id of a node that is alone may be any. Or name an empty directory",
        path = path.display(),
        directory = directory_id.map_or_else(|| "DIRECTORY".to_owned(), |id| id.to_string())
    )]
    NoIdentity {
        /// The file that is missing.
        path: PathBuf,
        /// One of the logs.
        found: String,
        /// Who asks.
        node_id: NodeId,
        /// The directory's id, where it is known from elsewhere.
        directory_id: Option<Uuid>,
    },
    /// A file is of a format that came after this build. It stays as it is.
    #[error(
        "{path} is of format version {found}, and this build reads none above {known}: a newer build wrote it; \
         start that build again, or restore the directory as it was before the upgrade",
        path = path.display()
    )]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// The version that it names.
        found: i64,
        /// The newest version that is known.
        known: i64,
    },
    /// A call to the disk failed; the log is as it was before.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The disk's words.
        source: io::Error,
    },
    /// A call to the disk failed that is not tried again, such as an append or an fsync. The whole log directory is
    /// offline from here on; a restart recovers what is really there.
    #[error("the log directory is offline after {path}: {message}", path = path.display())]
    Offline {
        /// The file or directory that failed first.
        path: PathBuf,
        /// The disk's words.
        message: String,
    },
}

impl StorageError {
    /// Whether the log directory can no longer be used.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Offline { .. })
    }

    /// Refuses the file at `path`, which is of format `found`, where none above `known` is known. Taken for damaged it might be made anew,
    /// and lose what the newer build keeps in it.
    ///
    /// # Errors
    /// [`StorageError::NewerFormat`].
    pub fn refuse_newer(path: &Path, found: impl Into<i64>, known: impl Into<i64>) -> Result<()> {
        let (found, known) = (found.into(), known.into());
        if found > known { Err(Self::NewerFormat { path: path.to_owned(), found, known }) } else { Ok(()) }
    }

    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), source }
    }

    pub(crate) fn corrupt(path: &Path, position: u64, what: impl Into<String>) -> Self {
        Self::Corrupt { path: path.to_owned(), position, what: what.into() }
    }
}

/// Result of a call to storage.
pub type Result<T, E = StorageError> = std::result::Result<T, E>;
