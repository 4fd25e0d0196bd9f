//! A promise that was broken, and in which words it is told.

use std::fmt;

use super::{Partition, Sought, Txn, Value};

/// A broken promise.
#[allow(missing_docs)] // each variant says what its fields name
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Breach {
    /// Rule 1: acknowledged as durable, and not in the log.
    Lost { value: Value, partition: Partition, offset: i64, found: Option<Value> },
    /// Rule 2: the same record twice.
    Repeated { value: Value, partition: Partition, offsets: Vec<i64> },
    /// Rule 2: two records of one producer in the wrong order.
    Reordered { partition: Partition, earlier: Value, later: Value },
    /// Rule 3: an offset that showed two values.
    Changed { partition: Partition, offset: i64, was: Value, is: Option<Value> },
    /// Rule 4: a value that nobody sent there.
    Invented { partition: Partition, offset: i64, value: Value },
    /// Rule 5: a value of an aborted transaction.
    AbortedRead { partition: Partition, offset: i64, value: Value },
    /// Rule 5: a committed transaction with a part missing.
    Torn { txn: Txn, missing: Value },
    /// Rule 6: a committed offset that went back.
    WentBack { group: String, partition: Partition, committed: i64, answered: i64 },
    /// Rule 7: a search that led to the wrong record.
    Misled { partition: Partition, sought: Sought, found: i64, right: i64 },
    /// Rule 8: an end that went back.
    Shrunk { partition: Partition, was: i64, is: i64 },
    /// Rule 9: a partition with two members in one generation.
    Shared { group: String, generation: i32, partition: Partition, members: [u64; 2] },
    /// Rule 10: a commit of a generation that was over.
    NotFenced { group: String, generation: i32, newest: i32 },
    /// Rule 11: a member that began before what was committed.
    TookUpTooEarly { group: String, partition: Partition, committed: i64, from: i64 },
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost { value, partition, offset, found } => write!(
                f,
                "lost: record {value} was acknowledged at {partition}@{offset}, where the log has {found:?}"
            ),
            Self::Repeated { value, partition, offsets } => {
                write!(f, "repeated: record {value} stands in partition {partition} at {offsets:?}")
            }
            Self::Reordered { partition, earlier, later } => {
                write!(f, "reordered: in partition {partition} record {later} stands before {earlier}")
            }
            Self::Changed { partition, offset, was, is } => {
                write!(f, "changed: {partition}@{offset} was read as {was}, and later as {is:?}")
            }
            Self::Invented { partition, offset, value } => {
                write!(f, "invented: {partition}@{offset} holds {value}, which nobody sent there")
            }
            Self::AbortedRead { partition, offset, value } => {
                write!(f, "aborted read: {partition}@{offset} gave {value} of an aborted transaction")
            }
            Self::Torn { txn, missing } => {
                write!(f, "torn: transaction {txn} committed, yet its record {missing} is not there")
            }
            Self::WentBack { group, partition, committed, answered } => write!(
                f,
                "went back: group {group} committed {committed} in partition {partition}, and was answered {answered}"
            ),
            Self::Misled { partition, sought, found, right } => {
                write!(f, "misled: {sought:?} in partition {partition} led to {found} instead of {right}")
            }
            Self::Shrunk { partition, was, is } => {
                write!(
                    f,
                    "shrunk: a client was told that partition {partition} ends at {was}, and later at {is}"
                )
            }
            Self::Shared { group, generation, partition, members: [one, other] } => write!(
                f,
                "shared: in generation {generation} of group {group} members {one} and {other} were both assigned partition \
                 {partition}"
            ),
            Self::NotFenced { group, generation, newest } => write!(
                f,
                "not fenced: a commit of generation {generation} of group {group} was accepted, though it was sent after members had \
                 been assigned in generation {newest}"
            ),
            Self::TookUpTooEarly { group, partition, committed, from } => write!(
                f,
                "took up too early: a member of group {group} began in partition {partition} at {from}, where {committed} was committed"
            ),
        }
    }
}
