//! What can go wrong with a quorum.

use std::fmt::Display;
use std::io;

use millstream_machine::metadata::ProposeError;
use millstream_storage::StorageError;

use super::types::{MemberId, Types};

/// What can go wrong with a quorum.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuorumError {
    /// The log, the vote or a snapshot cannot be read or written.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Bytes of the log, of a snapshot or of a message are not what they have to be.
    #[error("the metadata log has something that this build cannot read: {what}")]
    Format {
        /// What is wrong.
        what: String,
    },
    /// A record is not one that this build knows.
    #[error(transparent)]
    Record(#[from] millstream_machine::Error),
    /// The log belongs to a cluster already, and another one was to be founded on it.
    #[error(
        "the metadata log has {end} offsets already, but {voters} voters were to found a cluster on it; \
         start it as the only voter and add the others while it runs"
    )]
    NotEmpty {
        /// Where it ends.
        end: i64,
        /// How many voters were named.
        voters: usize,
    },
    /// The members cannot be changed so.
    #[error("the members of the quorum cannot be changed: {reason}")]
    Members {
        /// Why.
        reason: String,
    },
    /// Only the leader can do that.
    #[error("this node does not lead the quorum (leader: {leader:?})")]
    NotLeader {
        /// Who does, as far as is known.
        leader: Option<MemberId>,
    },
    /// The quorum has stopped, after a failure or because it was closed.
    #[error("the quorum has stopped: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
}

impl QuorumError {
    pub(super) fn format(what: impl Display) -> Self {
        Self::Format { what: what.to_string() }
    }

    pub(super) fn stopped(reason: impl Display) -> Self {
        Self::Stopped { reason: reason.to_string() }
    }
}

impl From<ProposeError> for QuorumError {
    /// What reading a batch can say.
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::Unreadable(error) => Self::Record(error),
            other => Self::format(other),
        }
    }
}

impl From<QuorumError> for io::Error {
    /// The form in which openraft takes an error of storage; it stops the node for good.
    fn from(error: QuorumError) -> Self {
        Self::other(error)
    }
}

impl From<openraft::errors::Fatal<Types>> for QuorumError {
    fn from(error: openraft::errors::Fatal<Types>) -> Self {
        Self::stopped(error)
    }
}
