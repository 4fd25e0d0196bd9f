//! # Broker: the async shell
//!
//! [`Broker`] implements [`millstream_protocol::Service`]: it takes decoded requests from any door (the embedded one, TCP),
//! asks the machines of `millstream-machine` what to do, and performs what they answer on `millstream-storage` and through
//! `millstream-env`. It decides nothing itself.
//!
//! ## The way of a request
//!
//! ```text
//! Service::call -> api/<one file for each> -> Partition (log + replica machine) ------> Flusher (group commit) --+
//!                                          -> Host (coordinator machine) -> Partition                            |
//!                                          -> Metadata (controller machine) -> LocalLog -> image, Partitions     |
//!   answer <----------------------------------------- effects, after every lock is released <-------------------+
//! ```
//!
//! - **Produce** appends to the page cache within `call`; that fixes the order. The replica machine answers when the flush
//!   came back: partitions with unsynced records are gathered while earlier ones are being synced.
//! - **Fetch** reads what is in memory within `call`, else in the read pool; a fetch that finds too little parks, and the
//!   partitions wake it. Record bytes go from the file to the answer as one slice. In a session (KIP-227) partitions mark themselves
//!   where they have something new, and only those are looked at.
//! - **DeleteRecords** moves the start of the leader's log; followers take it from the leader's answers. Each notes it in the
//!   directory's checkpoint, many partitions at once, and the answer waits until all that are alive have: records that were deleted
//!   come back neither with a restart nor with an election.
//! - **Groups and transactions**: each partition of an internal topic has a coordinator, whose answers wait until its records
//!   are below the high watermark. It is loaded by whoever leads the partition, in each leader epoch anew; snapshots bound what is
//!   replayed. A transaction's markers go to the leaders of its partitions, here or by WriteTxnMarkers, until all have them.
//! - **Verification**: before the first batch of a transaction in a partition is appended, the coordinator says that it belongs
//!   there. Where that is another broker, the batch and what the producer sends after it wait in their order, without a lock; a
//!   guard of the partition tells whether the transaction ended meanwhile.
//! - **Metadata**: the active controller decides against the image, the decision is committed to the metadata log, applied, and
//!   only then answered. One decision at a time, and none while it is not known what became of the one before. Every node follows the
//!   log, as a member of the quorum or, a broker only, from afar; whoever is not the active controller asks it.
//! - **Replication**: a follower fetches, appends, waits for its fsync and says so with its next fetch; the leader's machine moves
//!   the mark, and asks the controller for the in-sync set that should be. Who is not in sync may be held back to a rate. Consumers read
//!   from followers, too, and are sent to one in their rack.
//!
//! ## Invariants
//!
//! - What must be in order is in order when `call` returns; dropping a receipt cancels nothing.
//! - Locks are short, and none is held across an fsync, a socket or a cold read. They nest in one direction only: coordinator,
//!   partition. Effects run after the last one is released.
//! - Nobody reads, and no `acks=all` is told, what a power cut could take back.
//! - A failed fsync or append takes the log directory offline, and is never tried again: others lead, and the node ends.
//! - An idle partition has no task, no timer and no open file; one timer task serves whoever has a deadline.
//! - Everything that waits is bounded: produces by the replica machine, fetches by `MAX_PARKED_FETCHES`, files by `OPEN_FILES`.
//!
//! ## Deliberately absent
//!
//! Sockets and frames (see `millstream-net`), decisions (see `millstream-machine`), authorisation, quotas, compaction.

mod api;
mod batches;
mod broker;
mod changed;
mod config;
mod coordinator;
mod error;
mod flusher;
mod gather;
mod housekeeping;
mod lacking;
mod lease;
mod metadata;
mod partition;
mod partitions;
mod peers;
mod records;
mod refusal;
mod replication;
mod shared;
mod starts;
mod steady;
mod timers;
mod topic_settings;
mod verification;
mod view;

pub use broker::Broker;
pub use config::{BrokerConfig, ListenerEndpoint, QuorumConfig};
pub use error::{BrokerError, Result};
pub use metadata::quorum;
pub use view::ReplicaView;
