//! Metadata records: the facts that the log holds.

/// One fact about the cluster, in Kafka's metadata record types.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Record {}
