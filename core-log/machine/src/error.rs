//! The one error of this room.

use thiserror::Error;

/// Why a machine could not take what it was given. Bad *requests* are not errors: they are answered with Kafka's codes.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
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
        kind: i16,
        /// Version of the record's format.
        version: i16,
    },
    /// A metadata record is wrapped in another way than is known here.
    #[error("metadata records of frame version {version} are newer than this build knows; upgrade this node")]
    UnknownFrame {
        /// The frame's version.
        version: u32,
    },
    /// A snapshot of the metadata is of a newer form.
    #[error("a metadata snapshot of version {version} is newer than this build knows; upgrade this node")]
    UnknownSnapshot {
        /// The version that its header names.
        version: i16,
    },
    /// The cluster runs at a level of a feature that this node does not support.
    #[error(
        "{feature} is at level {level}, and this node supports {lowest} to {highest} only; \
         start a build on this node that supports level {level}"
    )]
    UnsupportedLevel {
        /// The feature.
        feature: String,
        /// Its level.
        level: i16,
        /// The lowest level that the node supports.
        lowest: i16,
        /// The highest.
        highest: i16,
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
