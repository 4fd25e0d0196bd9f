//! What can go wrong with an application.

use std::path::PathBuf;

use millstream_client::ClientError;
use millstream_streams_core::StreamsError;

/// The result of the runtime.
pub type Result<T, E = AppError> = std::result::Result<T, E>;

/// An application failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppError {
    /// A setting is wrong.
    #[error("{setting}: {reason}")]
    Config {
        /// The setting.
        setting: &'static str,
        /// What is wrong, and what would do.
        reason: String,
    },
    /// The cluster could not be talked to, or refused.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The topology or one of its tasks failed.
    #[error(transparent)]
    Streams(#[from] StreamsError),
    /// The state directory cannot be used.
    #[error("state directory {path}: {reason}")]
    State {
        /// The directory.
        path: PathBuf,
        /// What the store said, and how to mend it where that is known.
        reason: String,
    },
    /// A topic that the topology reads is missing, or does not fit.
    #[error("topic {topic:?}: {reason}")]
    Topic {
        /// The topic.
        topic: String,
        /// What is wrong, and how to mend it.
        reason: String,
    },
    /// Another process took this one's place in the group: it has the same state directory, or a copy.
    #[error(
        "another process runs {application} as the same member of its group, so the state directory {state_dir} was copied; give that process an empty one of its own"
    )]
    Twin {
        /// The application's id.
        application: String,
        /// The directory of this process.
        state_dir: PathBuf,
    },
    /// Every epoch of a worker failed.
    #[error(
        "gave up after {failures} failures in a row without a commit between them, each of which another attempt might have mended; the last one: {last}"
    )]
    GaveUp {
        /// How many there were.
        failures: u32,
        /// What the last one was.
        last: ClientError,
    },
    /// A worker ended without a result.
    #[error("worker {0} was lost: it panicked, or its threads were shut down")]
    WorkerLost(usize),
}
