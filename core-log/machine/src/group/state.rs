//! The states of a group.

/// What a group is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It has no members, but may have offsets.
    Empty,
    /// It waits for members to join.
    PreparingRebalance,
    /// All have joined; it waits for the leader's assignment.
    CompletingRebalance,
    /// Every member may have its assignment.
    Stable,
    /// It is deleted.
    Dead,
}

impl State {
    /// The transition table.
    pub(super) fn can_become(self, next: Self) -> bool {
        use State::{CompletingRebalance, Dead, Empty, PreparingRebalance, Stable};
        matches!(
            (self, next),
            (Empty | CompletingRebalance | Stable, PreparingRebalance)
                | (PreparingRebalance, Empty | CompletingRebalance)
                | (CompletingRebalance, Stable)
                | (Empty | PreparingRebalance | CompletingRebalance | Stable, Dead)
        )
    }

    /// Kafka's name of it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
            Self::Dead => "Dead",
        }
    }
}
