//! What can go wrong in a worker.

use millstream_connect_api::config::line_column;
use millstream_connect_api::{ConnectError, Problem};

/// Result of the worker's calls.
pub type Result<T, E = RuntimeError> = std::result::Result<T, E>;

/// An error of a worker.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// The connector failed.
    #[error("{connector}: {source}")]
    Connector {
        /// Name of the source or sink.
        connector: String,
        /// What it said.
        source: ConnectError,
    },
    /// The log failed.
    #[error("{context}: {reason}")]
    Log {
        /// What was asked of the log.
        context: String,
        /// What it answered.
        reason: String,
        /// Whether trying again may help.
        retriable: bool,
    },
    /// Input that is no row, where none is tolerated.
    #[error(
        "{connector}: {origin}{}: {reason}; set on_error to \"skip\" or to \"dlq:<sink>\" to go on without it",
        line.map(|line| format!(":{line}")).unwrap_or_default()
    )]
    BadRecord {
        /// Name of the source or sink.
        connector: String,
        /// File, or topic and partition.
        origin: String,
        /// Line or offset.
        line: Option<u64>,
        /// Why it is no row.
        reason: String,
    },
    /// Another worker runs the same source: it has fenced this one.
    #[error("{connector}: another worker has taken over; there can be only one under this name")]
    Fenced {
        /// Name of the source.
        connector: String,
    },
    /// The daemon's file is wrong. As text each problem is `line:column: message (help)`.
    #[error("{file}: {}", problems.iter().map(|problem| describe(text, problem)).collect::<Vec<_>>().join("; "))]
    Config {
        /// The file.
        file: String,
        /// What is written in it.
        text: String,
        /// Everything that is wrong with it.
        problems: Vec<Problem>,
    },
}

impl RuntimeError {
    /// An error of the log.
    pub fn log(context: impl Into<String>, reason: impl std::fmt::Display, retriable: bool) -> Self {
        Self::Log { context: context.into(), reason: reason.to_string(), retriable }
    }

    pub(crate) fn connector(name: &str) -> impl Fn(ConnectError) -> Self + '_ {
        move |source| Self::Connector { connector: name.to_owned(), source }
    }

    /// Whether trying again may help.
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Connector { source, .. } => source.is_retriable(),
            Self::Log { retriable, .. } => *retriable,
            Self::BadRecord { .. } | Self::Fenced { .. } | Self::Config { .. } => false,
        }
    }
}

/// `line:column: message (help)`.
fn describe(text: &str, problem: &Problem) -> String {
    let place = problem.span.map(|span| {
        let (line, column) = line_column(text, span.start);
        format!("{line}:{column}: ")
    });
    let help = problem.help.as_ref().map(|help| format!(" ({help})"));
    format!("{}{}{}", place.unwrap_or_default(), problem.message, help.unwrap_or_default())
}
