//! Reading the log from afar: what nodes without a place in the quorum are given.

use std::sync::Arc;

use bytes::Bytes;
use millstream_env::Pool;
use millstream_machine::metadata::MetadataLog;
use millstream_record::{LeaderEpoch, Offset};
use millstream_storage::StorageError;

use super::error::QuorumError;
use super::quorum_log::QuorumLog;
use super::snapshot::SnapshotFile;
use super::types::epoch_of;

/// What there is of the log from some offset on.
#[derive(Clone, Debug)]
pub enum Kept {
    /// Batches, whole, at least one.
    Batches(Bytes),
    /// The log has them no more; a snapshot says all that was true at `end`.
    Snapshot {
        /// The offset after the last record that it covers.
        end: Offset,
        /// The epoch of that record.
        epoch: LeaderEpoch,
    },
}

impl QuorumLog {
    /// Waits until there is something committed behind `from`, or this member leads no more.
    pub async fn grown(&self, from: Offset) {
        loop {
            let moved = self.store.moved.notified();
            let seen = self.leadership();
            if self.store.progress().end > from || !seen.1 {
                return;
            }
            let deposed = std::pin::pin!(self.leadership_changed(seen));
            futures::future::select(std::pin::pin!(moved), deposed).await;
        }
    }

    /// What there is of the log from `from` on, which is before the end of what is committed.
    ///
    /// # Errors
    /// [`QuorumError::Storage`].
    pub async fn kept(&self, from: Offset, max_bytes: usize) -> Result<Kept, QuorumError> {
        loop {
            if let Some(file) = self.store.snapshot_instead_of(from) {
                let covers = file.covers();
                return Ok(Kept::Snapshot { end: covers.end, epoch: epoch_of(covers.last.leader_id.term) });
            }
            match self.store.read(from, self.store.progress().end, max_bytes).await {
                Ok(batches) => return Ok(Kept::Batches(batches)),
                // Purged meanwhile; the next look finds the snapshot.
                Err(QuorumError::Storage(StorageError::Changed)) => {}
                Err(QuorumError::Storage(StorageError::OffsetOutOfRange { .. }))
                    if self.store.snapshot_instead_of(from).is_some() => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The snapshot that ends at `end`, whose last record is of `epoch`; none when there is another by now.
    #[must_use]
    pub(crate) fn snapshot(&self, (end, epoch): (Offset, LeaderEpoch)) -> Option<Arc<SnapshotFile>> {
        self.store.progress().snapshot.filter(|file| {
            let covers = file.covers();
            covers.end == end && epoch_of(covers.last.leader_id.term) == epoch
        })
    }

    /// A part of a snapshot.
    ///
    /// # Errors
    /// [`QuorumError::Storage`].
    pub(crate) async fn chunk(
        &self,
        snapshot: Arc<SnapshotFile>,
        position: u64,
        max_bytes: usize,
    ) -> Result<Bytes, QuorumError> {
        let chunk = self.env.blocking(Pool::Read, move || snapshot.chunk(position, max_bytes)).await;
        chunk.map_err(QuorumError::stopped)?
    }
}
