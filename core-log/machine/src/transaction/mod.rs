//! # Transactions
//!
//! One [`Coordinator`] for each partition of `__transaction_state`, in Kafka's record format; transactions v1 (KIP-98, with
//! KIP-360's recovery of epochs and KIP-588's error codes).
//!
//! A transaction begins with the first partition added to it. To end it the coordinator writes PREPARE_COMMIT or
//! PREPARE_ABORT: once that is durable the outcome is decided and the client is answered. Then a marker goes to every
//! partition, retried for ever, and when all are written the transaction is complete. A coordinator that finds PREPARE in its
//! log goes on where the other stopped.
//!
//! A producer is fenced by its epoch: a new instance of a transactional id gets a higher one, and whatever the older one
//! still sends is refused here and at the partitions. A transaction that outlives its timeout is aborted under an epoch that
//! nobody has.
//!
//! While the log takes nothing, for lack of in-sync replicas, no transaction changes; those whose time is over, or whose markers are
//! all written, go on once it does.
//!
//! Deliberately absent: transactions v2 (KIP-890's bump at every end) and two-phase commit (KIP-939).

mod api;
mod coordinator;
mod decide;
mod invariant;
mod owed;
mod producer_ids;
mod refusal;
mod state;
mod stored;
#[cfg(test)]
mod tests;

pub use api::{Answer, Config, Effect, Input, Marker, Verdict};
pub use coordinator::Coordinator;
pub use producer_ids::{PRODUCER_ID_BLOCK, ProducerIds};
