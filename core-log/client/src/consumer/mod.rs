//! Reading records: [`Consumer::poll`] drives fetches, lookups and rebalances.

mod decode;
mod fetcher;
mod handle;
mod lookup;
mod membership;
mod rebalance;
mod shared;
mod subscription;

use futures::FutureExt;
use std::collections::BTreeSet;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use millstream_env::TaskGroup;
use millstream_record::TopicPartition;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{Client, ClientError, ConsumerConfig, PartitionRecords, Result};

use fetcher::{Answered, Fetcher};
pub use handle::ConsumerHandle;
use lookup::Lookups;
use membership::Membership;
use rebalance::Rebalance;
pub use rebalance::RebalanceListener;
use shared::Shared;
use subscription::{Mode, Subscription};

/// The longest that a waiting poll goes without looking around: the bound of anything it may fail to be told of.
const LOOK_AROUND: Duration = Duration::from_secs(1);

/// Reads records, as a member of a group ([`Consumer::subscribe`]) or on its own ([`Consumer::assign`]).
///
/// It is its [`ConsumerHandle`] and the right to poll.
pub struct Consumer {
    handle: ConsumerHandle,
    fetcher: Fetcher,
    rebalance: Rebalance,
    lookups: Lookups,
    /// A refresh of the metadata under way.
    refresh: Option<BoxFuture<'static, ()>>,
    committed_at: Duration,
    tasks: TaskGroup,
}

/// What a waiting poll is woken by.
enum Woken {
    Fetched(Box<Answered>),
    Located(Result<()>),
    Refreshed,
    Else,
}

impl Deref for Consumer {
    type Target = ConsumerHandle;

    fn deref(&self) -> &ConsumerHandle {
        &self.handle
    }
}

impl Consumer {
    pub(crate) fn new(client: &Client, config: ConsumerConfig) -> Self {
        let cluster = Arc::clone(&client.cluster);
        let tasks = cluster.env.group();
        let shared = Arc::new(Shared {
            links: cluster.links.fork(),
            fetch_links: cluster.links.fork(),
            group_links: cluster.links.fork(),
            subscription: Mutex::new(Subscription::default()),
            membership: Mutex::new(Membership::default()),
            wake: Notify::new(),
            config,
            cluster,
        });
        Self {
            committed_at: shared.cluster.env.elapsed(),
            handle: ConsumerHandle { shared },
            fetcher: Fetcher::default(),
            rebalance: Rebalance::default(),
            lookups: Lookups::default(),
            refresh: None,
            tasks,
        }
    }

    /// The handle, to be kept elsewhere.
    pub fn handle(&self) -> &ConsumerHandle {
        &self.handle
    }

    /// Joins the group for these topics, at the next poll. Replaces an earlier subscription.
    ///
    /// # Errors
    /// Without a group id, or after [`Consumer::assign`].
    pub fn subscribe(
        &mut self,
        topics: impl IntoIterator<Item = impl Into<Arc<str>>>,
        listener: Option<Box<dyn RebalanceListener>>,
    ) -> Result<()> {
        let shared = &self.handle.shared;
        shared.group_id()?;
        let topics: BTreeSet<Arc<str>> = topics.into_iter().map(Into::into).collect();
        let mut subscription = shared.subscription.lock();
        if subscription.mode == Mode::Manual {
            return Err(ClientError::state(
                "partitions are assigned by hand; call unsubscribe before subscribe",
            ));
        }
        for topic in &topics {
            shared.cluster.want(topic);
        }
        subscription.mode = Mode::Group(topics);
        drop(subscription);
        shared.membership.lock().rejoin = true;
        self.rebalance.listen(listener);
        self.rebalance.start_heartbeats(shared, &self.tasks);
        Ok(())
    }

    /// Reads these partitions, without a group's help. Replaces an earlier assignment; positions of partitions that stay are kept.
    ///
    /// # Errors
    /// After [`Consumer::subscribe`].
    pub fn assign(&mut self, partitions: impl IntoIterator<Item = TopicPartition>) -> Result<()> {
        let shared = &self.handle.shared;
        let mut subscription = shared.subscription.lock();
        if matches!(subscription.mode, Mode::Group(_)) {
            return Err(ClientError::state("topics are subscribed to; call unsubscribe before assign"));
        }
        subscription.mode = Mode::Manual;
        subscription.assign(partitions);
        for partition in subscription.partitions.keys() {
            shared.cluster.want(&partition.topic);
        }
        Ok(())
    }

    /// Leaves the group and gives up all partitions.
    ///
    /// # Errors
    /// When the group's coordinator refuses a last commit.
    pub fn unsubscribe(&mut self) -> BoxFuture<'_, Result<()>> {
        async move {
            let shared = Arc::clone(&self.handle.shared);
            let in_group = matches!(shared.subscription.lock().mode, Mode::Group(_));
            let committed =
                if shared.config.enable_auto_commit { self.commit_positions().await } else { Ok(()) };
            if in_group {
                self.rebalance.give_up(&self.handle).await;
                membership::leave(&shared, "the consumer unsubscribed").await;
                shared.membership.lock().reset();
            }
            shared.subscription.lock().clear();
            committed
        }
        .boxed()
    }

    /// Records, as soon as there are some; none after `timeout`. Takes part in rebalances on the way, and tells the listener.
    /// Dropping the future loses no records.
    ///
    /// # Errors
    /// A position that is gone without a reset policy, a batch that cannot be read, a group that refuses this member. After an
    /// error that is not about this consumer's own state, polling again goes on where it stopped.
    pub fn poll(&mut self, timeout: Duration) -> BoxFuture<'_, Result<Vec<PartitionRecords>>> {
        async move {
            let shared = Arc::clone(&self.handle.shared);
            let deadline = shared.cluster.env.elapsed().saturating_add(timeout);
            loop {
                shared.membership.lock().polled_at = shared.cluster.env.elapsed();
                self.rebalance.run(&self.handle, &self.tasks).await?;
                self.auto_commit().await;
                let records = self.fetcher.take(&shared)?;
                let again = self.begin_work();
                if !records.is_empty() {
                    return Ok(records);
                }
                let now = shared.cluster.env.elapsed();
                let until = deadline.min(again).min(now + LOOK_AROUND);
                match self.wait(until).await {
                    Woken::Fetched(answered) => self.fetcher.accept(&shared, *answered),
                    Woken::Refreshed => self.refresh = None,
                    Woken::Located(Err(error)) if error.is_retriable() => {
                        tracing::debug!(%error, "positions are not found yet; trying again");
                        shared.cluster.mark_stale();
                    }
                    Woken::Located(outcome) => outcome?,
                    Woken::Else if shared.cluster.env.elapsed() >= deadline => return Ok(Vec::new()),
                    Woken::Else => {}
                }
            }
        }
        .boxed()
    }

    /// Starts what can be done meanwhile; tells when to look again.
    fn begin_work(&mut self) -> Duration {
        let shared = &self.handle.shared;
        let (again, leaderless) = self.fetcher.ask(shared);
        self.lookups.begin(shared);
        if self.refresh.is_none() && (leaderless || shared.cluster.is_stale()) {
            let cluster = Arc::clone(&shared.cluster);
            self.refresh = Some(Box::pin(async move {
                if let Err(error) = cluster.refresh(cluster.metadata().version).await {
                    tracing::debug!(%error, "a consumer cannot refresh its metadata; it tries again");
                }
            }));
        }
        again
    }

    async fn wait(&mut self, until: Duration) -> Woken {
        let shared = Arc::clone(&self.handle.shared);
        tokio::select! {
            biased;
            Some(answered) = self.fetcher.in_flight.next(), if !self.fetcher.in_flight.is_empty() => {
                Woken::Fetched(Box::new(answered))
            }
            outcome = self.lookups.next() => Woken::Located(outcome),
            () = pending_or(&mut self.refresh) => Woken::Refreshed,
            () = self.rebalance.joined() => Woken::Else,
            () = shared.wake.notified() => Woken::Else,
            () = shared.cluster.env.sleep_until(until) => Woken::Else,
        }
    }

    async fn auto_commit(&mut self) {
        let shared = &self.handle.shared;
        let now = shared.cluster.env.elapsed();
        let due =
            self.committed_at.saturating_add(Duration::from_millis(shared.config.auto_commit_interval_ms));
        if !shared.config.enable_auto_commit || now < due {
            return;
        }
        self.committed_at = now;
        if let Err(error) = self.handle.commit_positions().await {
            tracing::warn!(%error, "an automatic commit failed; the next one covers it");
        }
    }

    /// Gives up partitions (telling the listener), leaves the group, and ends.
    ///
    /// # Errors
    /// When a last commit is refused.
    pub fn close(mut self) -> BoxFuture<'static, Result<()>> {
        async move { self.unsubscribe().await }.boxed()
    }
}

/// The future in `slot`, or none that ever ends.
async fn pending_or<T>(slot: &mut Option<BoxFuture<'static, T>>) -> T {
    match slot {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
