//! What is true of every change of a transactional id.

use super::state::State;
use super::stored::Transaction;

/// Names the first rule that the change breaks.
pub(super) fn change(before: Option<&Transaction>, after: &Transaction) -> Result<(), &'static str> {
    let same_producer = before.filter(|before| before.producer_id == after.producer_id);
    let rules = [
        (
            before.is_none_or(|before| before.state.can_become(after.state)),
            "states change along the transition table only",
        ),
        (
            same_producer.is_none_or(|before| before.epoch <= after.epoch),
            "a producer's epoch never goes back",
        ),
        (
            (after.state == State::Ongoing) <= !after.partitions.is_empty(),
            "an open transaction has partitions",
        ),
        (!after.state.is_idle() || after.partitions.is_empty(), "an ended transaction has none"),
        (
            before.is_none_or(|before| {
                after.state.prepared().is_none() || before.partitions == after.partitions
            }),
            "every partition of a transaction gets its marker",
        ),
    ];
    rules.iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, rule)| Err(rule))
}
