//! The one error of this room.

use thiserror::Error;

/// Why a machine could not take what it was given. Bad *requests* are not errors: they are answered with Kafka's codes.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// A record of an internal topic or of the metadata log could not be read.
    #[error("cannot read a {what} record: {reason}")]
    Malformed {
        /// Which kind of record.
        what: &'static str,
        /// What was wrong with its bytes.
        reason: String,
    },
    /// A record of a kind, or of a version, that this build does not know. A node must stop rather than skip a fact.
    #[error(
        "metadata record type {kind} version {version} is newer than this build knows; \
         upgrade this node before the cluster's feature level is raised"
    )]
    UnknownRecord {
        /// Kafka's number for the record type.
        kind: u32,
        /// Version of the record's format.
        version: u32,
    },
    /// A metadata record contradicts the image that it is applied to.
    #[error("metadata record {record} does not fit the image at offset {offset}: {reason}")]
    Contradiction {
        /// Name of the record type.
        record: &'static str,
        /// Offset of the last record applied before it.
        offset: i64,
        /// What does not fit.
        reason: String,
    },
    /// A snapshot's bytes are not what [`crate::group::Coordinator::snapshot`] or its sibling wrote.
    #[error("cannot restore the {what} snapshot: {reason}")]
    Snapshot {
        /// Which machine's snapshot.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}
