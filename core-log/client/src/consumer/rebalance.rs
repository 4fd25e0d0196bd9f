//! A consumer's side of rebalances: what it gives up and takes, and whom it tells.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::BoxFuture;
use millstream_env::TaskGroup;
use millstream_protocol::ErrorCode;
use millstream_record::TopicPartition;

use super::ConsumerHandle;
use super::membership::{Joined, heartbeats, join};
use super::shared::Shared;
use super::subscription::Mode;
use crate::assignor::RebalanceProtocol;
use crate::{ClientError, Result};

/// Told during [`super::Consumer::poll`] when partitions come and go.
pub trait RebalanceListener: Send + 'static {
    /// The partitions are about to be given up, and still ours: commit what was done.
    fn revoked<'a>(
        &'a mut self,
        consumer: &'a ConsumerHandle,
        partitions: &'a [TopicPartition],
    ) -> BoxFuture<'a, ()> {
        let _ = (consumer, partitions);
        async {}.boxed()
    }

    /// The partitions are ours from here on; positions may be sought. With an eager assignor it is told every rebalance, with
    /// all partitions; with a cooperative one, with those added (perhaps none).
    fn assigned<'a>(
        &'a mut self,
        consumer: &'a ConsumerHandle,
        partitions: &'a [TopicPartition],
    ) -> BoxFuture<'a, ()> {
        let _ = (consumer, partitions);
        async {}.boxed()
    }

    /// The partitions were ours and may be somebody else's by now: nothing can be committed.
    fn lost<'a>(
        &'a mut self,
        consumer: &'a ConsumerHandle,
        partitions: &'a [TopicPartition],
    ) -> BoxFuture<'a, ()> {
        self.revoked(consumer, partitions)
    }
}

type Outcome = Result<Option<Joined>>;

#[derive(Default)]
pub(super) struct Rebalance {
    listener: Option<Box<dyn RebalanceListener>>,
    /// A join under way.
    joining: Option<oneshot::Receiver<Outcome>>,
    /// How a join ended, until it is dealt with.
    outcome: Option<Outcome>,
    /// Partition counts that this member, leading, assigned by; a change needs another rebalance.
    counts: Option<BTreeMap<Arc<str>, i32>>,
    heartbeats: bool,
}

impl Rebalance {
    pub(super) fn listen(&mut self, listener: Option<Box<dyn RebalanceListener>>) {
        if listener.is_some() {
            self.listener = listener;
        }
    }

    pub(super) fn start_heartbeats(&mut self, shared: &Arc<Shared>, tasks: &TaskGroup) {
        if !self.heartbeats {
            self.heartbeats = true;
            tasks.spawn("heartbeat", heartbeats(Arc::clone(shared)));
        }
    }

    /// Ends when a join has ended; never, without one.
    pub(super) async fn joined(&mut self) {
        match &mut self.joining {
            Some(joining) => {
                let outcome = joining.await;
                self.joining = None;
                // A join that was aborted is begun again by the next poll.
                self.outcome = outcome.ok();
            }
            None => std::future::pending().await,
        }
    }

    /// Deals with what happened in the group since the last poll, and joins it where needed.
    pub(super) async fn run(&mut self, consumer: &ConsumerHandle, tasks: &TaskGroup) -> Result<()> {
        let shared = &consumer.shared;
        let Mode::Group(topics) = shared.subscription.lock().mode.clone() else { return Ok(()) };
        if let Some(Ok(Some(outcome))) = self.joining.as_mut().map(oneshot::Receiver::try_recv) {
            self.joining = None;
            self.outcome = Some(outcome);
        }
        if let Some(outcome) = self.outcome.take() {
            match outcome {
                Ok(Some(joined)) => self.joined_group(consumer, joined, &topics).await,
                Ok(None) => {} // lost; dealt with below
                Err(error) => {
                    shared.membership.lock().rejoin = true;
                    return Err(error);
                }
            }
        }
        let lost = shared.membership.lock().lost.take();
        if let Some(code) = lost {
            self.lose(consumer, code).await?;
        }
        self.watch_topics(shared);
        if self.joining.is_none() && shared.membership.lock().rejoin {
            self.prepare(consumer, &topics).await;
            self.begin_join(shared, tasks, topics);
        }
        Ok(())
    }

    fn begin_join(&mut self, shared: &Arc<Shared>, tasks: &TaskGroup, topics: BTreeSet<Arc<str>>) {
        let owned = shared.subscription.lock().partitions.keys().cloned().collect();
        {
            let mut membership = shared.membership.lock();
            membership.rejoin = false;
            membership.stable = false;
        }
        let (send, receive) = oneshot::channel();
        let joined = join(Arc::clone(shared), owned, topics);
        tasks.spawn("join", async move {
            let _ = send.send(joined.await); // nobody waits any more: the consumer is being dropped
        });
        self.joining = Some(receive);
    }

    /// Before a join: an eager member gives everything up, a cooperative one what it no longer subscribes to.
    async fn prepare(&mut self, consumer: &ConsumerHandle, topics: &BTreeSet<Arc<str>>) {
        let owned = consumer.assignment();
        let revoked: Vec<_> = match protocol(&consumer.shared) {
            RebalanceProtocol::Eager => owned.iter().cloned().collect(),
            RebalanceProtocol::Cooperative => {
                owned.iter().filter(|partition| !topics.contains(&partition.topic)).cloned().collect()
            }
        };
        let kept = owned.into_iter().filter(|partition| !revoked.contains(partition)).collect::<Vec<_>>();
        self.revoke(consumer, &revoked).await;
        consumer.shared.subscription.lock().assign(kept);
    }

    async fn joined_group(&mut self, consumer: &ConsumerHandle, joined: Joined, topics: &BTreeSet<Arc<str>>) {
        let shared = &consumer.shared;
        {
            let mut membership = shared.membership.lock();
            membership.generation = joined.generation;
            membership.stable = true;
            membership.heard_at = shared.cluster.env.elapsed();
            membership.rejoin |= joined.topics != *topics; // subscribed anew while joining
        }
        self.counts = joined.counts;
        let owned = consumer.assignment();
        let assigned: BTreeSet<_> = joined.assignment.partitions.iter().cloned().collect();
        for partition in &assigned {
            shared.cluster.want(&partition.topic);
        }
        let revoked: Vec<_> = owned.difference(&assigned).cloned().collect();
        if !revoked.is_empty() {
            // Given up now, and told so: the partitions find their new owner in the round after this one (KIP-429).
            self.revoke(consumer, &revoked).await;
            shared.membership.lock().rejoin = true;
        }
        shared.subscription.lock().assign(assigned.iter().cloned());
        joined.assignor.assigned(&joined.assignment, joined.generation);
        let added: Vec<_> = match joined.assignor.protocol() {
            RebalanceProtocol::Eager => assigned.into_iter().collect(),
            RebalanceProtocol::Cooperative => assigned.difference(&owned).cloned().collect(),
        };
        if let Some(listener) = &mut self.listener {
            listener.assigned(consumer, &added).await;
        }
    }

    async fn revoke(&mut self, consumer: &ConsumerHandle, partitions: &[TopicPartition]) {
        if partitions.is_empty() {
            return;
        }
        if consumer.shared.config.enable_auto_commit
            && let Err(error) = consumer.commit_positions().await
        {
            tracing::warn!(%error, "the commit before a rebalance failed; records may be read again");
        }
        if let Some(listener) = &mut self.listener {
            listener.revoked(consumer, partitions).await;
        }
    }

    /// The group does not know us any more.
    async fn lose(&mut self, consumer: &ConsumerHandle, code: ErrorCode) -> Result<()> {
        let shared = &consumer.shared;
        let lost: Vec<_> = consumer.assignment().into_iter().collect();
        tracing::warn!(%code, partitions = lost.len(), "the consumer fell out of its group; it joins again");
        shared.membership.lock().reset();
        if !lost.is_empty() {
            if let Some(listener) = &mut self.listener {
                listener.lost(consumer, &lost).await;
            }
            shared.subscription.lock().assign([]);
        }
        match code {
            ErrorCode::FencedInstanceId => {
                Err(ClientError::broker("Heartbeat", format!("group {}", shared.group_id()?), code))
            }
            _ => Ok(()),
        }
    }

    /// A leading member asks for a rebalance when a topic has got partitions, or has come or gone.
    fn watch_topics(&mut self, shared: &Shared) {
        let Some(counts) = &self.counts else { return };
        let metadata = shared.cluster.metadata();
        let topics = shared.subscription.lock().topics();
        let subscribed =
            topics.iter().any(|topic| counts.get(topic).copied() != metadata.partition_count(topic));
        let others = counts
            .iter()
            .any(|(topic, count)| metadata.partition_count(topic).is_some_and(|now| now != *count));
        if subscribed || others {
            self.counts = None;
            shared.membership.lock().rejoin = true;
        }
    }

    /// Gives everything up, for good.
    pub(super) async fn give_up(&mut self, consumer: &ConsumerHandle) {
        let owned: Vec<_> = consumer.assignment().into_iter().collect();
        if let Some(listener) = &mut self.listener
            && !owned.is_empty()
        {
            listener.revoked(consumer, &owned).await;
        }
        self.joining = None;
        self.outcome = None;
        self.counts = None;
    }
}

/// How this consumer gives partitions away: cooperatively if all of its assignors do (KIP-429).
fn protocol(shared: &Shared) -> RebalanceProtocol {
    let cooperative =
        |assignor: &Arc<dyn crate::assignor::Assignor>| assignor.protocol() == RebalanceProtocol::Cooperative;
    if shared.config.assignors.iter().all(cooperative) {
        RebalanceProtocol::Cooperative
    } else {
        RebalanceProtocol::Eager
    }
}
