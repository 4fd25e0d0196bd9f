//! Who is in sync with a leader, and who should be.

use std::collections::BTreeMap;

use millstream_record::{Millis, NodeId, Offset};

use super::machine::Start;

/// After a refusal the next proposal waits so long: whoever was refused is refused again until the metadata has moved on.
const RETRY_MS: i64 = 500;

/// What one fetch of a follower told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Which incarnation fetched.
    pub broker_epoch: i64,
    /// First offset still in its log.
    pub log_start: Offset,
    /// End of what it has fsynced.
    pub durable_end: Offset,
    /// Whether the metadata allows it into the in-sync set.
    pub eligible: bool,
}

/// What is known of one follower in this epoch.
#[derive(Clone, Copy, Debug)]
struct Follower {
    /// `None` until it has fetched.
    progress: Option<Progress>,
    /// When it last had, durably, all that the log held.
    caught_up: Millis,
    /// When it last fetched, and where the log ended then: had it all by its next fetch, it was caught up at that time.
    last_fetch: (Millis, Offset),
}

/// The in-sync set of one partition as its leader sees it: committed, proposed, and due to change.
#[derive(Debug)]
pub(super) struct InSync {
    node: NodeId,
    replicas: Vec<NodeId>,
    committed: Vec<NodeId>,
    proposed: Option<Vec<NodeId>>,
    partition_epoch: i32,
    lag_max_ms: i64,
    followers: BTreeMap<NodeId, Follower>,
    /// Nothing is proposed before this, after a refusal.
    retry_at: Option<Millis>,
}

impl InSync {
    /// At the start of an epoch every follower has the lag time to show that it is there.
    pub(super) fn new(start: &Start, now: Millis) -> Self {
        let mut in_sync = Self {
            node: start.node,
            replicas: Vec::new(),
            committed: start.isr.clone(),
            proposed: None,
            partition_epoch: start.partition_epoch,
            lag_max_ms: start.lag_max_ms,
            followers: BTreeMap::new(),
            retry_at: None,
        };
        in_sync.assign(start.replicas.clone(), now);
        in_sync
    }

    pub(super) fn committed(&self) -> &[NodeId] {
        &self.committed
    }

    pub(super) fn partition_epoch(&self) -> i32 {
        self.partition_epoch
    }

    /// How many replicas there are.
    pub(super) fn replicas(&self) -> usize {
        self.replicas.len()
    }

    pub(super) fn has_followers(&self) -> bool {
        !self.followers.is_empty()
    }

    pub(super) fn followers(&self) -> impl Iterator<Item = (NodeId, Progress)> {
        self.followers.iter().filter_map(|(node, follower)| Some((*node, follower.progress?)))
    }

    /// Notes a fetch of `node`, made when the log ended at `end`. A fetch of an older incarnation than is known says nothing; a
    /// newer one starts anew, since its disk may have been emptied. What one incarnation has fsynced of this epoch's log it goes on
    /// having: one that says less was overtaken by another on its way.
    pub(super) fn fetched(&mut self, node: NodeId, mut progress: Progress, end: Offset, now: Millis) {
        let Some(follower) = self.followers.get_mut(&node) else { return };
        if let Some(known) = follower.progress {
            if known.broker_epoch > progress.broker_epoch {
                return;
            }
            if known.broker_epoch == progress.broker_epoch {
                progress.durable_end = progress.durable_end.max(known.durable_end);
                progress.log_start = progress.log_start.max(known.log_start);
            }
        }
        if progress.durable_end >= end {
            follower.caught_up = now;
        } else if progress.durable_end >= follower.last_fetch.1 {
            follower.caught_up = follower.caught_up.max(follower.last_fetch.0);
        }
        follower.last_fetch = (now, end);
        follower.progress = Some(progress);
    }

    /// The log, which ended at `end`, grows. Who had all of it was caught up until now, however long ago it said so: a follower with
    /// nothing to copy says nothing new.
    pub(super) fn grows(&mut self, end: Offset, now: Millis) {
        for follower in self.followers.values_mut() {
            if follower.progress.is_some_and(|progress| progress.durable_end >= end) {
                follower.caught_up = now;
            }
        }
    }

    /// When a proposal may be made again that was refused.
    pub(super) fn retry_at(&self) -> Option<Millis> {
        self.retry_at
    }

    /// Takes up what the controller committed, unless something newer is known.
    pub(super) fn commit(
        &mut self,
        replicas: Vec<NodeId>,
        isr: Vec<NodeId>,
        partition_epoch: i32,
        now: Millis,
    ) {
        if partition_epoch <= self.partition_epoch {
            return;
        }
        self.partition_epoch = partition_epoch;
        let left: Vec<NodeId> = self.committed.iter().filter(|node| !isr.contains(node)).copied().collect();
        self.doubt(&left);
        self.committed = isr;
        self.proposed = None;
        self.retry_at = None;
        self.assign(replicas, now);
    }

    /// What was proposed in `partition_epoch` will not be.
    pub(super) fn refused(&mut self, partition_epoch: i32, now: Millis) {
        if partition_epoch == self.partition_epoch {
            let joining = self.proposed.take().unwrap_or_default();
            let joining: Vec<NodeId> =
                joining.into_iter().filter(|node| !self.committed.contains(node)).collect();
            self.doubt(&joining);
            self.retry_at = Some(now.plus_ms(RETRY_MS));
        }
    }

    /// Whoever the controller took out or would not take in has to fetch again before it is proposed: it may be gone, and what it
    /// was allowed then says nothing. A set with one such member is refused as a whole, and would keep the others out as well.
    fn doubt(&mut self, nodes: &[NodeId]) {
        for node in nodes {
            if let Some(progress) = self.followers.get_mut(node).and_then(|one| one.progress.as_mut()) {
                progress.eligible = false;
            }
        }
    }

    fn assign(&mut self, replicas: Vec<NodeId>, now: Millis) {
        self.followers.retain(|node, _| replicas.contains(node));
        for &node in replicas.iter().filter(|&&node| node != self.node) {
            let unknown = Follower { progress: None, caught_up: now, last_fetch: (now, Offset(i64::MAX)) };
            self.followers.entry(node).or_insert(unknown);
        }
        self.replicas = replicas;
    }

    /// The least durable end over the committed and the proposed members, where this broker's is `own`. `None` when some
    /// member has not said.
    pub(super) fn least_durable(&self, own: Offset) -> Option<Offset> {
        let members = self.committed.iter().chain(self.proposed.iter().flatten());
        let durable = |node: &NodeId| match *node == self.node {
            true => Some(own),
            false => self.followers.get(node)?.progress.map(|progress| progress.durable_end),
        };
        members.map(durable).min()?
    }

    /// The least log start over the followers that are committed members or `is_alive`; `None` where there are none. One that has not
    /// said where its log begins may have everything.
    pub(super) fn least_log_start(&self, is_alive: impl Fn(NodeId) -> bool) -> Option<Offset> {
        let counts = |node: NodeId| self.committed.contains(&node) || is_alive(node);
        let counting = self.followers.iter().filter(|(node, _)| counts(**node));
        counting.map(|(_, follower)| follower.progress.map_or(Offset(-1), |it| it.log_start)).min()
    }

    /// The set to ask for when it is not the committed one, and the partition epoch it builds on. The log goes from `start` to `end`;
    /// who joins must have, durably, all below `least`, and must have let go of what is below the start: elected, it would show again
    /// what was deleted on request.
    pub(super) fn propose(
        &mut self,
        now: Millis,
        (start, end): (Offset, Offset),
        least: Offset,
    ) -> Option<(Vec<(NodeId, i64)>, i32)> {
        self.retry_at = self.retry_at.filter(|at| now < *at);
        if self.followers.is_empty() || self.proposed.is_some() || self.retry_at.is_some() {
            return None;
        }
        let should = |node: &NodeId| {
            *node == self.node
                || match self.committed.contains(node) {
                    true => !self.lags(*node, now, end),
                    false => self.may_join(*node, start, least),
                }
        };
        // Looked at after every append, so nothing is allocated unless there is something to ask for.
        let changes = |node: &NodeId| should(node) != self.committed.contains(node);
        if !self.replicas.iter().any(changes) {
            return None;
        }
        let isr: Vec<NodeId> = self.replicas.iter().filter(|node| should(node)).copied().collect();
        let broker_epoch = |node: &NodeId| {
            let progress = self.followers.get(node).and_then(|follower| follower.progress);
            (*node, progress.map_or(-1, |progress| progress.broker_epoch))
        };
        let with_epochs = isr.iter().map(broker_epoch).collect();
        self.proposed = Some(isr);
        Some((with_epochs, self.partition_epoch))
    }

    fn lags(&self, node: NodeId, now: Millis, end: Offset) -> bool {
        let Some(follower) = self.followers.get(&node) else { return true };
        let has_all = follower.progress.is_some_and(|progress| progress.durable_end >= end);
        !has_all && now.since_ms(follower.caught_up) > self.lag_max_ms
    }

    fn may_join(&self, node: NodeId, start: Offset, least: Offset) -> bool {
        let progress = self.followers.get(&node).and_then(|follower| follower.progress);
        progress.is_some_and(|progress| {
            progress.eligible && progress.durable_end >= least && progress.log_start >= start
        })
    }
}
