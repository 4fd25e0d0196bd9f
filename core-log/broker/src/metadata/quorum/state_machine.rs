//! What is committed, in openraft's hands. There is nothing to apply here: an entry counts from when its offset is committed, and
//! readers read it from the log. So this only keeps how far that is, who the members are, and snapshots.

use std::io;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use millstream_env::Pool;
use openraft::entry::RaftPayload;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{OptionalSend, Snapshot};

use super::error::QuorumError;
use super::snapshot::{Covers, SnapshotFile};
use super::store::Store;
use super::types::{CommittedLeaderId, LogId, MemberId, SnapshotMeta, StoredMembership, Types};

/// A snapshot as it goes from one part of openraft to another: an open file.
pub(super) type SnapshotData = Arc<SnapshotFile>;
pub(super) type OpenSnapshot =
    Snapshot<CommittedLeaderId, MemberId, millstream_protocol::Endpoint, SnapshotData>;

/// Keeps what is committed.
pub(super) struct StateMachine(Arc<Store>);

impl StateMachine {
    pub(super) fn new(store: Arc<Store>) -> Self {
        Self(store)
    }
}

/// Makes one snapshot.
pub(super) struct Builder {
    store: Arc<Store>,
    covers: Option<Covers>,
}

pub(super) fn opened(file: SnapshotData) -> OpenSnapshot {
    Snapshot { meta: file.covers().meta(), snapshot: file }
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<OpenSnapshot, io::Error> {
        let covers = self.covers.clone();
        let covers =
            covers.ok_or_else(|| QuorumError::format("nothing is applied that a snapshot could hold"))?;
        let store = Arc::clone(&self.store);
        let made = self.store.env.blocking(Pool::General, move || store.compact_blocking(&covers)).await;
        Ok(opened(made.map_err(QuorumError::stopped)??))
    }
}

impl RaftStateMachine<Types> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let progress = self.0.progress();
        Ok((progress.applied, progress.membership))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let id = entry.log_id;
            let end = self.0.places(|places| places.end(id.index));
            let end =
                end.ok_or_else(|| QuorumError::format(format!("entry {id} is committed but not there")))?;
            let membership = entry.payload.get_membership();
            let bytes = entry.payload.stored.as_ref().map_or(0, |stored| stored.len() as u64);
            let now = self.0.env.elapsed();
            self.0.advance(|progress| {
                progress.applied = Some(id);
                progress.end = end;
                progress.count(bytes, now);
                if let Some(membership) = membership {
                    progress.membership = StoredMembership::new(Some(id), membership);
                }
            });
            if let Some(responder) = responder {
                responder.send(end);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let progress = self.0.progress();
        self.0.advance(|progress| progress.pending = None);
        let covers =
            progress.applied.map(|last| Covers { last, end: progress.end, membership: progress.membership });
        Builder { store: Arc::clone(&self.0), covers }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, file: SnapshotData) -> Result<(), io::Error> {
        let covers = file.covers().clone();
        if covers.meta() != *meta {
            return Err(
                QuorumError::format("a snapshot that covers something else than it was sent for").into()
            );
        }
        let store = Arc::clone(&self.0);
        let published = self.0.env.blocking(Pool::Flush, move || store.publish_blocking(file)).await;
        published.map_err(QuorumError::stopped)??;
        self.0.advance(|progress| progress.install(&covers));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<OpenSnapshot>, io::Error> {
        Ok(self.0.progress().snapshot.map(opened))
    }
}
