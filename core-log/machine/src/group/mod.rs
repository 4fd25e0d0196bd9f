//! # Groups and their committed offsets
//!
//! One [`Coordinator`] for each partition of `__consumer_offsets`. It speaks the classic group protocol: members join and
//! wait for each other, a leader among them assigns the work, everyone synchronises, then heartbeats until somebody comes
//! or goes. How members share the work is opaque here, so eager and cooperative consumers differ only in what they pass
//! (KIP-429).
//!
//! ## What is durable, and what is not
//!
//! Committed offsets, and a group's generation with its members' assignments, are records of `__consumer_offsets` in Kafka's
//! format. Who is just joining is not: after a restart the members join again. An answer that promises something durable
//! waits for its records ([`Effect::Append`], [`Input::Durable`]); an answer that reads offsets waits for every record that
//! was appended before it, so nobody reads a commit that could still be lost.
//!
//! Offsets committed inside a transaction stay pending until its marker arrives in the same partition; a later commit of the
//! same partition wins over an earlier pending one, by position in the log.
//!
//! While the log takes nothing, for lack of in-sync replicas, whatever would have to be written is refused to who asks for it, and
//! the rest goes on: members live, offsets are read. What nobody asks for and has to be written nevertheless is owed (`owed`).
//!
//! ## Waiting
//!
//! A join waits until all have joined or the rebalance timeout ends, a sync until the leader has sent the assignment. Such
//! waiters are answered by whatever ends their wait, including their member's removal.
//!
//! Deliberately absent: KIP-848, share and streams groups; authorisation and the existence of topics (the shell's).

mod api;
mod coordinator;
mod invariant;
mod join;
mod live;
mod member;
mod membership;
mod offsets;
mod owed;
mod query;
mod rebalance;
mod refusal;
mod state;
mod stored;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

pub use api::{Answer, Batch, Client, Config, Effect, Input};
pub use coordinator::{Coordinator, Replay};
