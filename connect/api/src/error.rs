//! What can go wrong in a connector, by what the worker does about it.

use crate::config::Problem;

/// Result of a connector's calls.
pub type Result<T, E = ConnectError> = std::result::Result<T, E>;

/// A row that a sink cannot take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedRow {
    /// Its index in the batch that was put.
    pub row: usize,
    /// Why the sink cannot take it.
    pub reason: String,
}

/// An error of a connector. The variant is the class: it decides what the worker does.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// It may work later: the worker waits (backoff), opens the task again from what is durable and goes on.
    #[error("{context}: {reason}")]
    Retriable {
        /// What was being done, to what.
        context: String,
        /// What the other side said.
        reason: String,
    },
    /// It cannot work until somebody mends something: the worker stops the task.
    #[error("{context}: {reason}")]
    Fatal {
        /// What was being done, to what.
        context: String,
        /// What is wrong and how to mend it.
        reason: String,
    },
    /// The configuration is wrong; each problem points into the text it came from.
    #[error("{}", .0.iter().map(|p| p.message.as_str()).collect::<Vec<_>>().join("; "))]
    Config(Vec<Problem>),
    /// A sink refuses these rows of the batch that was put, for what is in them; there is at least one. See [`crate::SinkTask::put`].
    #[error("{}", refused_text(.0))]
    BadRows(Vec<RefusedRow>),
}

impl ConnectError {
    /// An error that may go away by itself.
    pub fn retriable(context: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self::Retriable { context: context.into(), reason: reason.to_string() }
    }

    /// An error that somebody has to mend.
    pub fn fatal(context: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self::Fatal { context: context.into(), reason: reason.to_string() }
    }

    /// Whether trying again may help.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        matches!(self, Self::Retriable { .. })
    }
}

fn refused_text(rows: &[RefusedRow]) -> String {
    let first = rows.first().map(|first| format!("row {}: {}", first.row, first.reason)).unwrap_or_default();
    match rows.len() {
        0 | 1 => first,
        count => format!("{count} rows are refused, first {first}"),
    }
}
