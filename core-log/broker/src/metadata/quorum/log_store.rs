//! The log as openraft uses it: appended to at once, durable a little later, in the order in which it asked.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::Arc;

use futures::stream::{self, Stream, StreamExt, TryStreamExt};
use millstream_env::Pool;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{OptionalSend, RaftTypeConfig};
use tokio::sync::{mpsc, oneshot};

use super::error::QuorumError;
use super::store::Store;
use super::types::{Entry, LogId, Types, Vote};

/// Bytes of entries that are sent, or applied, in one go.
const ENTRIES_BYTES: usize = 1 << 20;
/// Appends that may wait for the disk; behind that, appending waits too.
const ORDERS_MAX: usize = 1024;

/// Reads entries; replication has one for each follower.
#[derive(Clone)]
pub(super) struct Reader(Arc<Store>);

impl RaftLogReader<Types> for Reader {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        Ok(self.0.entries(indexes(&range), usize::MAX).await?)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        Ok(self.0.entries(start..end, ENTRIES_BYTES).await?)
    }

    /// What is applied is read a piece at a time, however much of it there is.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (store, range) = (Arc::clone(&self.0), indexes(&range));
        let pieces = stream::try_unfold(range, move |range| {
            let store = Arc::clone(&store);
            async move {
                let entries = store.entries(range.clone(), ENTRIES_BYTES).await?;
                let next = entries.last().map(|last| last.log_id.index + 1);
                Ok::<_, io::Error>(
                    next.map(|next| (stream::iter(entries.into_iter().map(Ok)), next..range.end)),
                )
            }
        });
        pieces.try_flatten().boxed()
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.0.vote())
    }
}

fn indexes(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(&start) => start,
        Bound::Excluded(&start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(&end) => end.saturating_add(1),
        Bound::Excluded(&end) => end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

/// What the flusher is to do next.
enum Order {
    /// Tell when all that was appended so far is durable.
    Appended(IOFlushed<Types>),
    /// The same, for a caller that changes something else next.
    Settle(oneshot::Sender<Result<(), String>>),
}

/// The log in openraft's hands. One at a time: votes, cuts and purges wait until what was appended before them is durable.
pub(super) struct LogStore {
    store: Arc<Store>,
    orders: mpsc::Sender<Order>,
}

impl LogStore {
    /// Starts the task that syncs; it ends with this log.
    pub(super) fn new(store: Arc<Store>) -> Self {
        let (orders, waiting) = mpsc::channel(ORDERS_MAX);
        let env = store.env.clone();
        env.spawn("quorum-flush", flush_as_ordered(Arc::clone(&store), waiting));
        Self { store, orders }
    }

    /// Waits until all that was appended is durable.
    async fn settle(&self) -> Result<(), QuorumError> {
        let (done, settled) = oneshot::channel();
        let sent = self.orders.send(Order::Settle(done)).await;
        sent.map_err(|_| QuorumError::stopped("its flusher is gone"))?;
        let result = settled.await.map_err(|_| QuorumError::stopped("its flusher is gone"))?;
        result.map_err(QuorumError::stopped)
    }

    /// Does something that blocks, behind everything that was appended.
    async fn in_turn(
        &self,
        pool: Pool,
        work: impl FnOnce(&Store) -> Result<(), QuorumError> + Send + 'static,
    ) -> Result<(), io::Error> {
        self.settle().await?;
        let store = Arc::clone(&self.store);
        let done = self.store.env.blocking(pool, move || work(&store)).await;
        Ok(done.map_err(QuorumError::stopped)??)
    }
}

/// One sync for all orders that wait. After a failed one nothing is durable any more, and nothing is tried again.
async fn flush_as_ordered(store: Arc<Store>, mut waiting: mpsc::Receiver<Order>) {
    let mut orders = Vec::new();
    while waiting.recv_many(&mut orders, ORDERS_MAX).await > 0 {
        let result = flush(&store).await.map_err(|error| error.to_string());
        for order in orders.drain(..) {
            match order {
                Order::Appended(callback) => {
                    callback.io_completed(result.clone().map_err(io::Error::other));
                }
                Order::Settle(done) => {
                    let _ = done.send(result.clone()); // who asked may have been dropped
                }
            }
        }
    }
}

async fn flush(store: &Arc<Store>) -> Result<(), QuorumError> {
    let _turn = store.flushing.lock().await;
    let Some(job) = store.with_log(millstream_storage::Log::flush_begin) else {
        return Ok(store.with_log(|log| log.files().check_online())?);
    };
    let result = store.env.blocking(Pool::Flush, move || job.run()).await.map_err(QuorumError::stopped)?;
    store.with_log(|log| log.flush_done(result))?;
    Ok(())
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Reader;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let (last_purged_log_id, last_log_id) = self.store.places(|places| (places.purged(), places.last()));
        Ok(LogState { last_purged_log_id, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Reader {
        Reader(Arc::clone(&self.store))
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let vote = *vote;
        self.in_turn(Pool::Flush, move |store| store.save_vote_blocking(vote)).await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = <Types as RaftTypeConfig>::Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.store.append(entries.into_iter())?;
        let sent = self.orders.send(Order::Appended(callback)).await;
        sent.map_err(|_| QuorumError::stopped("its flusher is gone").into())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let from = last.map_or(0, |id| id.index + 1);
        self.in_turn(Pool::Flush, move |store| store.cut_blocking(from)).await
    }

    async fn purge(&mut self, last: LogId) -> Result<(), io::Error> {
        self.in_turn(Pool::General, move |store| store.purge_blocking(last)).await
    }
}
