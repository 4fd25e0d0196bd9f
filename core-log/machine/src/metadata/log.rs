//! The log behind the metadata: one local voter today, a consensus engine later.

use std::future::Future;
use std::pin::Pin;

use millstream_record::{LeaderEpoch, NodeId, Offset};
use thiserror::Error;

use super::Record;

/// A future that may be sent between threads. Spelled out here because this room has no async library.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A batch of records that can no longer be lost.
#[derive(Clone, Debug)]
pub struct Committed {
    /// Offset of the first record.
    pub base: Offset,
    /// The offset after the batch: where to read on. What the log itself writes (a change of leader or of members) takes offsets
    /// too, and comes as a batch without records.
    pub end: Offset,
    /// The epoch in which the batch was decided.
    pub epoch: LeaderEpoch,
    /// The records are all that is true at `end`, instead of a change: the log no longer has what came before.
    pub snapshot: bool,
    /// The records. They took effect together.
    pub records: Vec<Record>,
}

/// Why a proposal did not become true. In the first three cases it certainly did not; in the others it may yet.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// Another node leads the metadata log, or none does.
    #[error("this node does not lead the metadata log (leader: {leader:?})")]
    NotLeader {
        /// Who does, as far as is known.
        leader: Option<NodeId>,
    },
    /// The batch was decided in an epoch that has ended, so it is void: its decider may have missed records.
    #[error("the batch was decided in epoch {decided}, but the epoch is {current}")]
    EpochEnded {
        /// The epoch that the batch names.
        decided: LeaderEpoch,
        /// The epoch now.
        current: LeaderEpoch,
    },
    /// More proposals wait already than the log admits.
    #[error("{waiting} proposals to the metadata log wait already")]
    Busy {
        /// How many.
        waiting: usize,
    },
    /// Leadership was lost while the batch was on its way; a later leader may have taken it up or dropped it.
    #[error("leadership of the metadata log was lost before the batch was settled (leader: {leader:?})")]
    Unsettled {
        /// Who leads now, as far as is known.
        leader: Option<NodeId>,
    },
    /// The log has a record that this build does not know. Nothing was proposed; it is what reading gives.
    #[error(transparent)]
    Unreadable(#[from] crate::Error),
    /// The disk failed.
    #[error("the metadata log cannot be written: {0}")]
    Storage(String),
    /// The log is being closed.
    #[error("the metadata log is closed")]
    Closed,
}

/// An ordered, durable log of metadata records with one leader for each epoch.
///
/// The contract that implementations keep, whether there is one voter or five:
/// - A batch is atomic, and is void unless it names the current epoch. So decisions made against an image that misses
///   another leader's records never take effect.
/// - `propose` resolves once the batch is durable on a majority. Batches commit in the order in which `propose` was called.
/// - `read` yields committed batches only, in order, without gaps; each node applies them to its image. Where the log begins behind
///   the offset asked for, the first of them is a snapshot.
/// - A new leader proposes only after its image has applied everything committed in earlier epochs.
pub trait MetadataLog: Send + Sync {
    /// The current epoch, and whether this node leads in it and has caught up (see the contract above).
    fn leadership(&self) -> (LeaderEpoch, bool);

    /// Appends `records` as one batch decided in `epoch`; yields the offset after it once it is committed.
    fn propose(
        &self,
        epoch: LeaderEpoch,
        records: Vec<Record>,
    ) -> BoxFuture<'static, Result<Offset, ProposeError>>;

    /// The end of what is committed.
    fn committed_end(&self) -> Offset;

    /// Up to `max_batches` committed batches from `from` on; waits until there is at least one.
    fn read(
        &self,
        from: Offset,
        max_batches: usize,
    ) -> BoxFuture<'static, Result<Vec<Committed>, ProposeError>>;
}
