//! What can go wrong in a topology.

use std::sync::Arc;

/// The result of streams code.
pub type Result<T, E = StreamsError> = std::result::Result<T, E>;

/// An error of a topology or of one of its tasks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamsError {
    /// The topology contradicts itself; every problem found is listed.
    #[error("the topology is invalid: {}", .problems.join("; "))]
    Topology {
        /// One sentence for each problem, with the way to mend it.
        problems: Vec<String>,
    },
    /// A record could not be turned into a row.
    #[error("{topic}-{partition} offset {offset}: {reason}")]
    Deserialize {
        /// Topic of the record.
        topic: Arc<str>,
        /// Partition of the record.
        partition: i32,
        /// Offset of the record.
        offset: i64,
        /// What was wrong with it.
        reason: String,
    },
    /// Bytes of a key, a value or a state are not what the type expects.
    #[error("cannot decode {what}: {reason}")]
    Decode {
        /// The type or the thing that was expected.
        what: &'static str,
        /// What the bytes were instead.
        reason: String,
    },
    /// A row could not be turned into bytes.
    #[error("cannot encode {what}: {reason}")]
    Encode {
        /// The type that was to be written.
        what: &'static str,
        /// Why it failed.
        reason: String,
    },
    /// An operator was handed rows of another kind than it was built for: the front end lowered its graph wrongly.
    #[error("expected rows of {expected}, got {got}")]
    RowType {
        /// The row type of the operator.
        expected: &'static str,
        /// The row type that arrived.
        got: &'static str,
    },
    /// A node failed; names the node.
    #[error("in step {node:?}: {source}")]
    Node {
        /// Name of the node.
        node: Arc<str>,
        /// What happened in it.
        source: Box<StreamsError>,
    },
    /// A state store failed.
    #[error("store {store:?}: {reason}")]
    Store {
        /// Name of the store.
        store: Arc<str>,
        /// What the engine said.
        reason: String,
    },
    /// A store holds entries that mean something else.
    #[error(
        "its state is of {was}, and it is {now} now; put that back, give the step another name, or begin anew without the state (of a pipeline: millstream reset)"
    )]
    Layout {
        /// What wrote the entries.
        was: String,
        /// What was to read them.
        now: String,
    },
    /// Code of the front end or of the user failed.
    #[error("{0}")]
    User(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Something was addressed by a name that does not exist.
    #[error("no {kind} named {name:?}; there are {known}")]
    Unknown {
        /// "store", "topic" or "step".
        kind: &'static str,
        /// The name asked for.
        name: String,
        /// The names that exist.
        known: String,
    },
}

impl StreamsError {
    /// Adds the node in which this happened, once.
    #[must_use]
    pub fn at(self, node: &Arc<str>) -> Self {
        match self {
            Self::Node { .. } => self,
            other => Self::Node { node: Arc::clone(node), source: Box::new(other) },
        }
    }

    /// Wraps an error of user code.
    pub fn user(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::User(source.into())
    }
}
