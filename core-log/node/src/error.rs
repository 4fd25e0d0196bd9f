//! Why a node cannot start or go on.

use std::io;

use millstream_record::NodeId;

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
    /// The node has lost sight of the cluster's metadata, or is told of another cluster; it serves nobody any more.
    #[error("node {node} cannot take part in its cluster: {why}\nmend that, then start the node again")]
    Lost {
        /// Which node.
        node: NodeId,
        /// What the metadata log said, and how to mend it.
        why: String,
    },
    /// The log directory has failed: a full disk, or a broken one. What was acknowledged is on it, or on the in-sync set.
    #[error("node {node}: {why}\nfree space on that disk, or mend or replace it; then start the node again")]
    Offline {
        /// Which node.
        node: NodeId,
        /// What failed first.
        why: millstream_storage::StorageError,
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
