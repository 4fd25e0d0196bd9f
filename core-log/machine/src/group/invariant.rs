//! What is true of a group whenever its state changes.

use super::live::Group;
use super::state::State;

/// Names the first invariant that does not hold.
pub(super) fn check(group: &Group) -> Result<(), &'static str> {
    let state = group.state();
    let rebalanced = matches!(state, State::CompletingRebalance | State::Stable);
    let rules = [
        (state != State::Empty || group.members.is_empty(), "an empty group has no members"),
        (!rebalanced || !group.members.is_empty(), "a group with a generation at work has members"),
        (!rebalanced || group.protocol.is_some(), "its members have agreed on a protocol"),
        (
            group.leader.as_ref().is_none_or(|leader| group.members.contains_key(leader)),
            "the leader is a member",
        ),
        (
            group.statics.values().all(|id| group.members.contains_key(id)),
            "every instance id belongs to a member",
        ),
        (
            group.unsynced.iter().all(|id| group.members.contains_key(id)),
            "who has not synchronised is a member",
        ),
        (
            group.expected.iter().all(|id| !group.members.contains_key(id)),
            "who is expected to join is not a member yet",
        ),
        (
            state == State::PreparingRebalance
                || group.members.values().all(|member| member.awaiting_join.is_none())
                || state != State::Stable,
            "nobody waits to join a stable group",
        ),
    ];
    rules.iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, rule)| Err(rule))
}
