//! The states of a transactional id.

use crate::TransactionOutcome;

/// Where a transaction stands. The numbers are those of Kafka's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// A producer has the id, and has begun nothing.
    Empty = 0,
    /// Partitions are in the transaction.
    Ongoing = 1,
    /// It will be committed, whatever happens.
    PrepareCommit = 2,
    /// It will be aborted, whatever happens.
    PrepareAbort = 3,
    /// Every partition has its commit marker.
    CompleteCommit = 4,
    /// Every partition has its abort marker.
    CompleteAbort = 5,
    /// The id is forgotten.
    Dead = 6,
}

impl State {
    pub(super) const ALL: [Self; 7] = [
        Self::Empty,
        Self::Ongoing,
        Self::PrepareCommit,
        Self::PrepareAbort,
        Self::CompleteCommit,
        Self::CompleteAbort,
        Self::Dead,
    ];

    pub(super) fn of_code(code: i8) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.code() == code)
    }

    pub(super) fn code(self) -> i8 {
        self as i8
    }

    /// The transition table.
    pub(super) fn can_become(self, next: Self) -> bool {
        use State::{CompleteAbort, CompleteCommit, Dead, Empty, Ongoing, PrepareAbort, PrepareCommit};
        matches!(
            (self, next),
            (Empty | CompleteCommit | CompleteAbort, Empty | Ongoing | Dead)
                | (Ongoing, Ongoing | PrepareCommit | PrepareAbort)
                | (PrepareCommit, CompleteCommit)
                | (PrepareAbort, CompleteAbort)
        )
    }

    /// How a transaction that is being ended ends.
    pub(super) fn prepared(self) -> Option<TransactionOutcome> {
        match self {
            Self::PrepareCommit => Some(TransactionOutcome::Commit),
            Self::PrepareAbort => Some(TransactionOutcome::Abort),
            _ => None,
        }
    }

    /// Whether no transaction is open or being ended.
    pub(super) fn is_idle(self) -> bool {
        matches!(self, Self::Empty | Self::CompleteCommit | Self::CompleteAbort)
    }
}
