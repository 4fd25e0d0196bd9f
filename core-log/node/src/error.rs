//! Why a node cannot start or go on.

use std::io;

/// Why a node cannot start or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The broker cannot start or go on.
    #[error(transparent)]
    Broker(#[from] millstream_broker::BrokerError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: String,
        /// What the network said.
        source: io::Error,
    },
    /// The operating system refused a thread.
    #[error("cannot start the node's threads: {0}")]
    Threads(io::Error),
    /// Properties are wrong; all that is wrong is listed, one line each.
    #[error("{}", .0.join("\n"))]
    Config(Vec<String>),
}

/// A result of this room.
pub type Result<T, E = NodeError> = std::result::Result<T, E>;
