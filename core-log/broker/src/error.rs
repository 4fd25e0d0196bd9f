//! Why a broker cannot start or go on.

/// Why a broker cannot start or go on. What goes wrong with one request is answered with a Kafka error code instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BrokerError {
    /// The log directory cannot be used.
    #[error(transparent)]
    Storage(#[from] millstream_storage::StorageError),
    /// A record of the metadata log, of an internal topic or of a snapshot cannot be understood.
    #[error(transparent)]
    Machine(#[from] millstream_machine::Error),
    /// Work on the broker's own threads was lost, because they are shutting down or because of a panic.
    #[error(transparent)]
    JobLost(#[from] millstream_env::JobLost),
    /// The cluster's metadata cannot be followed any more.
    #[error("{why}")]
    Lost {
        /// What the metadata log said.
        why: String,
    },
    /// What the metadata log says does not fit what was asked for at start.
    #[error("{what}; {mend}")]
    Refused {
        /// What does not fit.
        what: String,
        /// How to mend it.
        mend: &'static str,
    },
}

/// A result of this room.
pub type Result<T, E = BrokerError> = std::result::Result<T, E>;
