//! [`QuorumLog`]: the metadata log with a quorum of voters.

use std::future::{Future, IntoFuture};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{Either, select};
use millstream_env::{Env, Pool};
use millstream_machine::metadata::{BoxFuture, Committed, MetadataLog, ProposeError, Record};
use millstream_protocol::Endpoint;
use millstream_record::{LeaderEpoch, Offset};
use millstream_storage::{Log, StorageError};
use openraft::ServerState;
use openraft::async_runtime::{WatchReceiver, watch::Watch};
use openraft::errors::ClientWriteError;
use openraft::impls::OneshotResponder;
use openraft::metrics::{RaftMetrics, RaftServerMetrics};
use tokio::sync::Mutex;

use super::config::QuorumOptions;
use super::error::QuorumError;
use super::log_store::LogStore;
use super::network::Network;
use super::runtime::{EnvRuntime, Inside, within};
use super::server::Receiving;
use super::state_machine::StateMachine;
use super::store::{Progress, Store, StoreOptions};
use super::types::{Group, MemberId, Raft, Types, epoch_of, log_id, term_of};
use super::{batches, codec, compaction};

pub(super) type Metrics =
    <<EnvRuntime as openraft::AsyncRuntime>::Watch as Watch>::Receiver<RaftMetrics<Types>>;

/// Of the server only: it changes with elections and members, not with each heartbeat.
type ServerMetrics =
    <<EnvRuntime as openraft::AsyncRuntime>::Watch as Watch>::Receiver<RaftServerMetrics<Types>>;

/// For how long an answer of a majority shows that nobody else leads, in longest election timeouts: a busy machine may be late with one.
const MAJORITY_HOLDS: u32 = 2;

/// Proposals that may wait in openraft's queue, as the refusal says.
const PROPOSALS_MAX: usize = 4096;

/// The metadata log with a quorum of voters. See the module's text.
pub struct QuorumLog {
    pub(super) env: Env,
    pub(super) store: Arc<Store>,
    pub(super) raft: Raft,
    pub(super) metrics: Metrics,
    pub(super) server: ServerMetrics,
    pub(super) receiving: Arc<Mutex<Option<Receiving>>>,
    pub(super) network: Network,
    majority_holds: Duration,
}

impl QuorumLog {
    /// Opens this member's part of the quorum on `log`, which nobody else uses. A node that is the only voter leads a moment later.
    ///
    /// # Errors
    /// [`QuorumError::Storage`] or [`QuorumError::Format`] when the log, the vote or the snapshot cannot be used, and
    /// [`QuorumError::NotEmpty`] when several founders are named for a log that has records already.
    pub async fn open(env: Env, log: Log, options: QuorumOptions) -> Result<Arc<Self>, QuorumError> {
        let config = Arc::new(options.raft_config()?);
        let keep = options.keep_before_snapshot;
        let QuorumOptions { member, founders, dial, timing, bounds, compactor, lower_recovery_point, .. } =
            options;
        let store_options = StoreOptions { me: member, founders, compactor, lower_recovery_point };
        let inside = env.clone();
        let opened = env.blocking(Pool::General, move || Store::open(inside, log, store_options)).await;
        let store = Arc::new(opened.map_err(QuorumError::stopped)??);
        let network =
            Network { env: env.clone(), dial, patience: timing.election_min, addresses: Default::default() };
        let peers = network.clone();
        let starting = async {
            let log_store = LogStore::new(Arc::clone(&store));
            let machine = StateMachine::new(Arc::clone(&store));
            let raft = Raft::new(member, config, peers, log_store, machine).await?;
            let metrics = raft.metrics();
            let alone = move |state: &openraft::RaftState<Types>| {
                batches::votes_alone(state.membership_state.effective().membership(), member)
            };
            if raft.with_raft_state(alone).await? {
                raft.trigger().elect(false).await?; // nobody else could; waiting for a timeout serves nobody
            }
            let server = raft.server_metrics();
            Ok::<_, QuorumError>((raft, metrics, server))
        };
        let (raft, metrics, server) = Inside::new(&env, starting).await?;
        let watching = notice_the_end(Arc::clone(&store), metrics.clone());
        env.spawn("quorum-watch", Inside::new(&env, watching));
        let majority_holds = timing.election_max * MAJORITY_HOLDS;
        let receiving = Arc::default();
        let quorum = Arc::new(Self { env, store, raft, metrics, server, receiving, network, majority_holds });
        let compacting = compaction::run(Arc::downgrade(&quorum), quorum.metrics.clone(), keep, bounds);
        quorum.env.spawn("quorum-compaction", Inside::new(&quorum.env, compacting));
        Ok(quorum)
    }

    /// Who this node is among the members.
    #[must_use]
    pub fn member(&self) -> MemberId {
        self.store.me
    }

    /// Stops taking part, and leaves the log so that the next open is fast.
    ///
    /// # Errors
    /// Those of the disk.
    pub async fn close(&self) -> Result<(), QuorumError> {
        // First, so that nobody takes the end that follows for a failure.
        self.store.advance(|progress| {
            progress.stopped.get_or_insert_with(|| CLOSED.to_owned());
        });
        let stopped = Inside::new(&self.env, self.raft.shutdown()).await;
        stopped.map_err(QuorumError::stopped)?;
        let store = Arc::clone(&self.store);
        let _turn = self.store.flushing.lock().await; // openraft does not wait for the sync that it ordered last
        let closed = self.env.blocking(Pool::General, move || store.with_log(Log::close)).await;
        Ok(closed.map_err(QuorumError::stopped)??)
    }

    /// Uses the log for a moment: its offsets are what the directory's checkpoints say of it.
    pub fn with_log<T>(&self, look: impl FnOnce(&Log) -> T) -> T {
        self.store.with_log(|log| look(log))
    }

    /// Writes the log's leader epochs where their file lacks some, so that its recovery point can pass. Blocks.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn write_epochs_blocking(&self) -> Result<(), StorageError> {
        let Some(job) = self.store.with_log(Log::epochs_begin) else { return Ok(()) };
        let written = job.run();
        self.store.with_log(|log| log.epochs_done(written))
    }

    /// Waits until [`MetadataLog::leadership`] is another than `seen`.
    pub async fn leadership_changed(&self, seen: (LeaderEpoch, bool)) {
        let mut server = self.server.clone();
        loop {
            let moved = std::pin::pin!(self.store.moved.notified());
            drop(server.borrow_and_update());
            if self.leadership() != seen {
                return;
            }
            let elected = std::pin::pin!(server.changed());
            if let Either::Right((Err(_), moved)) = select(moved, elected).await {
                moved.await; // openraft is gone; that is the end of the log, and moves it
            }
        }
    }

    /// Whether this member leads, and a majority of the voters has answered lately to what it said as their leader. openraft calls a
    /// member the leader until it hears of another, so one that is cut off from the voters leads long after they have elected anew.
    /// Nobody else had been elected [`QuorumLog::majority_holds`] before this was true.
    #[must_use]
    pub fn has_majority(&self) -> bool {
        let metrics = self.metrics.borrow_watched();
        if metrics.state != ServerState::Leader {
            return false;
        }
        let is_recent = |at: Duration| self.env.elapsed().saturating_sub(at) <= self.majority_holds;
        batches::votes_alone(metrics.membership_config.membership(), self.store.me)
            || metrics.last_quorum_acked.is_some_and(|acked| is_recent(acked.into_inner().elapsed_at()))
    }

    /// For how long at most [`QuorumLog::has_majority`] is true of a leader when another has been elected.
    #[must_use]
    pub fn majority_holds(&self) -> Duration {
        self.majority_holds
    }

    /// In which epoch who leads, and where it is reached, as far as this member knows.
    #[must_use]
    pub fn leader(&self) -> (LeaderEpoch, Option<(MemberId, Endpoint)>) {
        let server = self.server.borrow_watched();
        let leader = server.current_leader.and_then(|leader| {
            let endpoint = server.membership_config.membership().get_node(&leader)?;
            Some((leader, endpoint.clone()))
        });
        (epoch_of(server.vote.leader_id.term), leader)
    }

    /// Waits until [`QuorumLog::leader`] is another than `seen`; for ever once the quorum has stopped here.
    pub async fn leader_changed(&self, seen: &(LeaderEpoch, Option<(MemberId, Endpoint)>)) {
        let mut server = self.server.clone();
        loop {
            drop(server.borrow_and_update());
            if self.leader() != *seen {
                return;
            }
            if server.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Runs code of openraft as this node's.
    pub(super) fn inside<F: Future>(&self, future: F) -> Inside<F> {
        Inside::new(&self.env, future)
    }

    fn refused(
        store: &Store,
        metrics: &Metrics,
        decided: LeaderEpoch,
        error: ClientWriteError<Types>,
    ) -> ProposeError {
        let leader = |forward: &openraft::errors::ForwardToLeader<Types>| forward.leader_id.map(|id| id.node);
        match &error {
            ClientWriteError::ForwardToLeader(forward) => {
                let current = epoch_of(metrics.borrow_watched().current_term);
                if current != decided && forward.leader_id == Some(store.me) {
                    ProposeError::EpochEnded { decided, current }
                } else {
                    ProposeError::NotLeader { leader: leader(forward) }
                }
            }
            ClientWriteError::LogEntryDiscarded(forward) => {
                ProposeError::Unsettled { leader: leader(forward) }
            }
            other => codec::failed(other),
        }
    }
}

/// The reason that a quorum gives which was closed in order.
const CLOSED: &str = "it was closed";

fn ended(progress: &Progress) -> ProposeError {
    match &progress.stopped {
        Some(reason) if reason != CLOSED => ProposeError::Storage(reason.clone()),
        _ => ProposeError::Closed,
    }
}

/// Wakes those who wait for what will not come any more.
async fn notice_the_end(store: Arc<Store>, mut metrics: Metrics) {
    let reason = loop {
        if let Err(fatal) = &metrics.borrow_watched().running_state {
            break fatal.to_string();
        }
        if metrics.changed().await.is_err() {
            break CLOSED.to_owned();
        }
    };
    if reason != CLOSED && store.progress().stopped.is_none() {
        tracing::error!(%reason, "the metadata quorum has stopped on this node; restart it once that is mended");
    }
    store.advance(|progress| {
        progress.stopped.get_or_insert(reason);
    });
}

impl MetadataLog for QuorumLog {
    fn leadership(&self) -> (LeaderEpoch, bool) {
        let (term, leads) = {
            let server = self.server.borrow_watched();
            (server.vote.leader_id.term, server.state == ServerState::Leader)
        };
        // A leader's first entry commits all that earlier leaders left; once it is applied, so is the rest.
        let progress = self.store.progress();
        let caught_up = progress.applied.is_some_and(|id| id.leader_id.term == term);
        (epoch_of(term), leads && caught_up && progress.stopped.is_none())
    }

    fn propose(
        &self,
        epoch: LeaderEpoch,
        records: Vec<Record>,
    ) -> BoxFuture<'static, Result<Offset, ProposeError>> {
        let group = match codec::encode(&records, self.env.now()) {
            Ok(bytes) => Group(bytes),
            Err(error) => return async move { Err(error) }.boxed(),
        };
        let (responder, outcome) = OneshotResponder::<Types, _>::new_pair();
        let leader = log_id(term_of(epoch), 0).leader_id;
        // Polled once, here: that puts the proposal into openraft's queue, in the order of these calls, unless the queue is full.
        let queued = within(&self.env, || {
            self.raft.write(group).with_leader(leader).responder(responder).into_future().now_or_never()
        });
        let (store, metrics) = (Arc::clone(&self.store), self.metrics.clone());
        let settling = async move {
            match queued {
                None => return Err(ProposeError::Busy { waiting: PROPOSALS_MAX }),
                Some(Err(_)) => return Err(ended(&store.progress())),
                Some(Ok(())) => {}
            }
            match outcome.await {
                Ok(Ok(written)) => Ok(written.data),
                Ok(Err(error)) => Err(Self::refused(&store, &metrics, epoch, error)),
                Err(_) => Err(ended(&store.progress())),
            }
        };
        Inside::new(&self.env, settling).boxed()
    }

    fn committed_end(&self) -> Offset {
        self.store.progress().end
    }

    fn read(
        &self,
        from: Offset,
        max_batches: usize,
    ) -> BoxFuture<'static, Result<Vec<Committed>, ProposeError>> {
        let store = Arc::clone(&self.store);
        async move {
            loop {
                let moved = store.moved.notified();
                let progress = store.progress();
                if progress.end > from {
                    match store.committed(from, progress.end, max_batches).await {
                        Ok(batches) if !batches.is_empty() => return Ok(batches),
                        Ok(_) => {}
                        // Purged meanwhile; the next look finds the snapshot.
                        Err(QuorumError::Storage(
                            StorageError::Changed | StorageError::OffsetOutOfRange { .. },
                        )) => continue,
                        Err(QuorumError::Record(error)) => return Err(ProposeError::Unreadable(error)),
                        Err(error) => return Err(codec::failed(error)),
                    }
                }
                if progress.stopped.is_some() {
                    return Err(ended(&progress));
                }
                moved.await;
            }
        }
        .boxed()
    }
}
