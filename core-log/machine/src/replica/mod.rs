//! # One partition's replicas: the leader's machine and the follower's
//!
//! Seam 4 of the house: durability is owned here. Storage appends, a flusher calls fsync, followers fetch; the leader's machine
//! is told of each and decides: when a group commit is wanted, how far consumers may read, when a produce request is
//! answered, and which in-sync set to ask the controller for.
//!
//! The high watermark is the least *fsynced* end over the in-sync set, the leader's own included. A fetch offset is not
//! durability, so a follower counts with what it says it has fsynced. Hence no consumer reads, and no acks=all answer
//! reports, what a power cut could take back. A retry that storage found to be a duplicate waits for its original, as the
//! first answer would have meant the same.
//!
//! The in-sync set is the controller's to commit: the leader only proposes, one change at a time, and holds the mark to the
//! members of both sets meanwhile. What the controller commits is numbered, and older numbers are ignored.
//!
//! A follower's log becomes a prefix of its leader's by epochs (KIP-101, KIP-279, KIP-595): [`Follower::cut_for`] says where
//! to cut, again and again until both agree. The mark plays no part in that.
//!
//! States of a leader: [`State::Leading`] until [`Input::Resigned`] or [`Input::FlushFailed`]; both fail every waiter and are
//! final. A new leader epoch is a new machine.

mod follower;
mod insync;
mod invariant;
mod machine;
mod selector;
#[cfg(test)]
mod tests;
mod unstable;

pub use follower::{Diverged, Follower};
pub use insync::Progress;
pub use machine::{Acks, Effect, Input, MAX_WAITERS, Outcome, Replica, Start, State, TransactionChange};
pub use selector::{Candidate, nearest};
