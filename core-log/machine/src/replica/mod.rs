//! # The leader's view of one partition
//!
//! Seam 4 of the house: durability is owned here. Storage appends, a flusher calls fsync, followers fetch; this machine is
//! told of each and decides three things: when a group commit is wanted, how far consumers may read, and when a produce
//! request is answered.
//!
//! The high watermark is the least *fsynced* end over the in-sync set, the leader's own included. A fetch offset is not
//! durability, so a follower counts with what it says it has fsynced. Hence no consumer reads, and no acks=all answer
//! reports, what a power cut could take back. A retry that storage found to be a duplicate waits for its original, as the
//! first answer would have meant the same.
//!
//! States: [`State::Leading`] until [`Input::Resigned`] or [`Input::FlushFailed`]; both fail every waiter and are final.
//! A new leader epoch is a new machine.

mod invariant;
mod machine;
#[cfg(test)]
mod tests;
mod unstable;

pub use machine::{Acks, Effect, Input, MAX_WAITERS, Outcome, Replica, Start, State, TransactionChange};
