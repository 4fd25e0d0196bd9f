//! The leader's machine itself.

use std::collections::{BTreeMap, BTreeSet};

use millstream_record::{LeaderEpoch, Millis, NodeId, Offset};

use super::insync::{InSync, Progress};
use super::invariant;
use super::unstable::Unstable;
use crate::Waiter;

/// Most acks=all requests that may wait on one partition. Beyond it a produce is refused rather than queued, so a stuck
/// follower or disk cannot grow memory without end.
pub const MAX_WAITERS: usize = 100_000;

/// What a partition's log looks like when its leadership begins.
#[derive(Clone, Debug)]
pub struct Start {
    /// This broker.
    pub node: NodeId,
    /// The epoch led.
    pub epoch: LeaderEpoch,
    /// Every replica, this broker included.
    pub replicas: Vec<NodeId>,
    /// The committed in-sync set, this broker included.
    pub isr: Vec<NodeId>,
    /// Which change of the partition said so.
    pub partition_epoch: i32,
    /// `min.insync.replicas` of the topic.
    pub min_isr: usize,
    /// `replica.lag.time.max.ms`: a follower that has not caught up for so long leaves the in-sync set.
    pub lag_max_ms: i64,
    /// First offset still in the log.
    pub log_start: Offset,
    /// End of the log.
    pub end: Offset,
    /// End of what is fsynced here. After recovery that is all of the log; a follower that is elected may still be flushing.
    pub durable_end: Offset,
    /// The mark as far as this broker knew it when it was elected: from its last leader, or from a checkpoint.
    pub high_watermark: Offset,
    /// Transactions by first offset that are open in the log, or whose marker may not be below the mark yet.
    pub unstable: Vec<(Offset, Option<Offset>)>,
}

impl Start {
    /// How the only replica of a partition begins on a log that is durable, all of it.
    #[must_use]
    pub fn alone(node: NodeId, epoch: LeaderEpoch, log_start: Offset, end: Offset) -> Self {
        Self {
            node,
            epoch,
            replicas: vec![node],
            isr: vec![node],
            partition_epoch: 0,
            min_isr: 1,
            lag_max_ms: i64::MAX,
            log_start,
            end,
            durable_end: end,
            high_watermark: log_start,
            unstable: Vec::new(),
        }
    }
}

/// How much durability a produce asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acks {
    /// `acks=0`: nobody waits.
    None,
    /// `acks=1`: answered once the leader has appended, before fsync. The user chose that these may be lost.
    Leader,
    /// `acks=all`: answered once the records are fsynced on the in-sync set.
    All,
}

/// What an append did to a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionChange {
    /// The batch is not transactional, or continues a transaction.
    None,
    /// The batch is the first of a transaction in this partition, at this offset.
    Opened(Offset),
    /// The batch is the marker at `marker` that ends the transaction which began at `first`.
    Closed {
        /// Where the transaction began.
        first: Offset,
        /// Offset of the marker.
        marker: Offset,
    },
}

/// What the replica machine is told.
#[derive(Clone, Debug)]
pub enum Input {
    /// Storage appended a batch; the log now ends at `end`.
    Appended {
        /// End offset of the log after the batch.
        end: Offset,
        /// What the producer asked for.
        acks: Acks,
        /// The request to answer; `None` for acks=0 and for the broker's own appends nobody waits for.
        waiter: Option<Waiter>,
        /// When to give up with [`Outcome::TimedOut`].
        deadline: Millis,
        /// What the batch did to its producer's transaction.
        transaction: TransactionChange,
    },
    /// Storage recognised the batch as one it already has, ending at `end`. The answer waits as the original's did.
    Duplicate {
        /// End offset of the original batch.
        end: Offset,
        /// What the producer asked for.
        acks: Acks,
        /// The request to answer.
        waiter: Option<Waiter>,
        /// When to give up.
        deadline: Millis,
    },
    /// Everything below `point`, which was taken before the fsync began, is durable on this broker.
    Flushed {
        /// End of the log when the fsync was started.
        point: Offset,
    },
    /// An fsync failed. It is never retried: the pages may already be gone, and the next fsync would succeed wrongly.
    FlushFailed,
    /// A follower whose log is a prefix of this one fetched from its end, and said how far it has fsynced.
    FollowerFetched {
        /// The follower.
        node: NodeId,
        /// Which incarnation of it: its broker epoch.
        broker_epoch: i64,
        /// First offset still in its log.
        log_start: Offset,
        /// End of what is durable on it.
        durable_end: Offset,
        /// Whether the metadata has this incarnation as one that may be in sync: registered, not fenced, not shutting down.
        eligible: bool,
    },
    /// The controller committed a state of the partition in which this broker goes on leading in the same epoch.
    Committed {
        /// Every replica.
        replicas: Vec<NodeId>,
        /// The in-sync set, this broker included.
        isr: Vec<NodeId>,
        /// Which change of the partition this is; an older one than is known is ignored.
        partition_epoch: i32,
    },
    /// The controller has refused what [`Effect::ProposeIsr`] asked for, for good: it will not be committed.
    IsrRefused {
        /// The partition epoch that the proposal was made in.
        partition_epoch: i32,
    },
    /// `min.insync.replicas` was changed.
    MinIsrChanged {
        /// The new minimum.
        min_isr: usize,
    },
    /// DeleteRecords or retention moved the start of the log.
    LogStartMoved {
        /// First offset still in the log.
        log_start: Offset,
    },
    /// Somebody waits for every record below `end` to be readable (a coordinator's own append, a topic deletion).
    Await {
        /// The watermark waited for.
        end: Offset,
        /// Who waits.
        waiter: Waiter,
        /// When to give up.
        deadline: Millis,
    },
    /// Another broker leads now, or the partition is gone.
    Resigned,
    /// Time passed; call at or after [`Replica::next_deadline`].
    Tick,
}

/// What must happen outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Put this partition into the next group commit. Not repeated while one is on its way.
    Flush,
    /// Answer a waiter.
    Answer {
        /// Who is answered.
        waiter: Waiter,
        /// With what.
        outcome: Outcome,
    },
    /// The log has grown: wake followers that wait for more. Only where there are any.
    WakeFollowers,
    /// What followers said of themselves may count no more: with its next fetch each is to be heard again, even one that has nothing
    /// new to say.
    HearFollowers,
    /// Ask the controller for another in-sync set. Until that is committed or refused no other is asked for, and the mark is
    /// held by the members of both sets.
    ProposeIsr {
        /// The set, each member with the broker epoch that it fetched in (KIP-903); -1 where it has not fetched yet.
        isr: Vec<(NodeId, i64)>,
        /// The partition epoch that it builds on.
        partition_epoch: i32,
    },
    /// More can be read: wake fetchers, and let storage know both marks.
    Wake {
        /// End of what is durable on the in-sync set.
        high_watermark: Offset,
        /// End of what read-committed consumers may see.
        last_stable: Offset,
    },
}

/// How a produce ended, once its records are in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As durable as was asked for.
    Done,
    /// The deadline came first: REQUEST_TIMED_OUT. The records may yet become durable.
    TimedOut,
    /// This broker no longer leads: NOT_LEADER_OR_FOLLOWER.
    NotLeader,
    /// The disk failed: KAFKA_STORAGE_ERROR.
    StorageFailed,
    /// More than [`MAX_WAITERS`] wait already: NOT_ENOUGH_REPLICAS_AFTER_APPEND, which clients retry with a backoff.
    Overloaded,
}

/// Whether this machine still leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Takes appends and moves the mark.
    Leading,
    /// Another broker leads; final.
    Resigned,
    /// The disk failed under it; final.
    Failed,
}

/// The leader of one partition in one epoch.
#[derive(Debug)]
pub struct Replica {
    epoch: LeaderEpoch,
    state: State,
    end: Offset,
    log_start: Offset,
    /// Where the log ended when the epoch began; the mark is not to be shown before it has come there.
    epoch_start: Offset,
    high_watermark: Offset,
    min_isr: usize,
    in_sync: InSync,
    /// End of what is fsynced here.
    durable_end: Offset,
    flush_pending: bool,
    unstable: Unstable,
    waiting: BTreeMap<(Offset, Waiter), Millis>,
    deadlines: BTreeSet<(Millis, Offset, Waiter)>,
}

impl Replica {
    /// Begins to lead at `now`. With a single in-sync replica the high watermark is what is durable at once; else it rises from
    /// where it was known to be, as followers fetch.
    #[must_use]
    pub fn new(now: Millis, start: Start) -> Self {
        let mark = start.high_watermark.max(start.log_start).min(start.durable_end.max(start.log_start));
        let mut replica = Self {
            epoch: start.epoch,
            state: State::Leading,
            end: start.end,
            log_start: start.log_start,
            epoch_start: start.end,
            high_watermark: mark,
            min_isr: start.min_isr,
            in_sync: InSync::new(&start, now),
            durable_end: start.durable_end,
            flush_pending: false,
            unstable: Unstable::new(start.unstable),
            waiting: BTreeMap::new(),
            deadlines: BTreeSet::new(),
        };
        replica.raise_mark();
        replica
    }

    /// The epoch led.
    #[must_use]
    pub fn epoch(&self) -> LeaderEpoch {
        self.epoch
    }

    /// Whether it still leads.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// End of the log.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.end
    }

    /// End of what is fsynced on the whole in-sync set: the most that any consumer may read.
    #[must_use]
    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// Whether the mark has come to where this epoch began. Before that an earlier leader may have shown a higher one, so who
    /// asks for the end is told OFFSET_NOT_AVAILABLE, lest it be seen to go back (KIP-207).
    #[must_use]
    pub fn has_settled(&self) -> bool {
        self.high_watermark >= self.epoch_start
    }

    /// End of what a read-committed consumer may read: before the first transaction that is open, or whose marker is not yet
    /// below the high watermark. Such a one may have begun before what is left of the log.
    #[must_use]
    pub fn last_stable(&self) -> Offset {
        let first = self.unstable.first().map(|first| first.max(self.log_start));
        first.map_or(self.high_watermark, |first| first.min(self.high_watermark))
    }

    /// The committed in-sync set.
    #[must_use]
    pub fn isr(&self) -> &[NodeId] {
        self.in_sync.committed()
    }

    /// The partition epoch of the committed in-sync set.
    #[must_use]
    pub fn partition_epoch(&self) -> i32 {
        self.in_sync.partition_epoch()
    }

    /// The in-sync followers from which a consumer could read at `offset`, each with the end of what it has.
    pub fn followers_with(&self, offset: Offset) -> impl Iterator<Item = (NodeId, Offset)> {
        let has = move |progress: &Progress| progress.log_start <= offset && offset <= progress.durable_end;
        let in_sync = |node: &NodeId| self.in_sync.committed().contains(node);
        let followers =
            self.in_sync.followers().filter(move |(node, progress)| in_sync(node) && has(progress));
        followers.map(|(node, progress)| (node, progress.durable_end))
    }

    /// The least log start over this broker, where it is `own`, and every replica that is in sync or `is_alive`: records below it are
    /// gone for good. Less than any offset as long as one of them has not said where its log begins.
    #[must_use]
    pub fn low_watermark(&self, own: Offset, is_alive: impl Fn(NodeId) -> bool) -> Offset {
        self.in_sync.least_log_start(is_alive).map_or(own, |least| least.min(own))
    }

    /// Whether an acks=all produce may be appended: enough committed in-sync replicas, else NOT_ENOUGH_REPLICAS before the
    /// append. More than all replicas is never asked for; the controller counts alike.
    #[must_use]
    pub fn has_min_isr(&self) -> bool {
        self.in_sync.committed().len() >= self.min_isr.min(self.in_sync.replicas())
    }

    /// When it is to be told that time passed: a waiter's deadline, or a refused proposal is due again.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Millis> {
        let waiter = self.deadlines.first().map(|(deadline, _, _)| *deadline);
        let retry = self.in_sync.retry_at().filter(|_| self.state == State::Leading);
        waiter.into_iter().chain(retry).min()
    }

    /// Takes one input and says what must happen.
    pub fn step(&mut self, now: Millis, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        let marks_before = (self.high_watermark, self.last_stable());
        match input {
            Input::Appended { end, acks, waiter, deadline, transaction } => {
                self.appended(now, end, transaction, &mut effects);
                self.admit(end, acks, waiter, deadline, &mut effects);
            }
            Input::Duplicate { end, acks, waiter, deadline } => {
                self.admit(end, acks, waiter, deadline, &mut effects);
            }
            Input::Await { end, waiter, deadline } => {
                self.admit(end, Acks::All, Some(waiter), deadline, &mut effects);
            }
            Input::Flushed { point } => self.flushed(point, &mut effects),
            Input::FlushFailed => self.stop(State::Failed, &mut effects),
            Input::Resigned => self.stop(State::Resigned, &mut effects),
            Input::FollowerFetched { node, broker_epoch, log_start, durable_end, eligible } => {
                let durable_end = durable_end.min(self.end);
                let progress = Progress { broker_epoch, log_start, durable_end, eligible };
                self.in_sync.fetched(node, progress, self.end, now);
            }
            Input::Committed { replicas, isr, partition_epoch } => {
                self.in_sync.commit(replicas, isr, partition_epoch, now);
                effects.push(Effect::HearFollowers);
            }
            Input::IsrRefused { partition_epoch } => {
                self.in_sync.refused(partition_epoch, now);
                effects.push(Effect::HearFollowers);
            }
            Input::MinIsrChanged { min_isr } => self.min_isr = min_isr,
            Input::LogStartMoved { log_start } => self.log_start = self.log_start.max(log_start),
            Input::Tick => {}
        }
        self.settle(now, marks_before, &mut effects);
        debug_assert_eq!(invariant::check(self.view()), Ok(()));
        effects
    }

    fn appended(
        &mut self,
        now: Millis,
        end: Offset,
        transaction: TransactionChange,
        effects: &mut Vec<Effect>,
    ) {
        debug_assert!(end >= self.end, "a leader's log only grows");
        self.in_sync.grows(self.end, now);
        self.end = end;
        match transaction {
            TransactionChange::None => {}
            TransactionChange::Opened(first) => self.unstable.open(first),
            TransactionChange::Closed { first, marker } => self.unstable.close(first, marker),
        }
        if self.state != State::Leading {
            return;
        }
        if !self.flush_pending {
            self.flush_pending = true;
            effects.push(Effect::Flush);
        }
        if self.in_sync.has_followers() {
            effects.push(Effect::WakeFollowers);
        }
    }

    fn admit(
        &mut self,
        end: Offset,
        acks: Acks,
        waiter: Option<Waiter>,
        deadline: Millis,
        effects: &mut Vec<Effect>,
    ) {
        let Some(waiter) = waiter else { return };
        let outcome = match (self.state, acks) {
            (State::Resigned, _) => Outcome::NotLeader,
            (State::Failed, _) => Outcome::StorageFailed,
            (State::Leading, Acks::None | Acks::Leader) => Outcome::Done,
            (State::Leading, Acks::All) if self.high_watermark >= end => Outcome::Done,
            (State::Leading, Acks::All) if self.waiting.len() >= MAX_WAITERS => Outcome::Overloaded,
            (State::Leading, Acks::All) => {
                self.waiting.insert((end, waiter), deadline);
                self.deadlines.insert((deadline, end, waiter));
                return;
            }
        };
        effects.push(Effect::Answer { waiter, outcome });
    }

    fn flushed(&mut self, point: Offset, effects: &mut Vec<Effect>) {
        if self.state != State::Leading {
            return;
        }
        self.durable_end = self.durable_end.max(point.min(self.end));
        self.flush_pending = self.durable_end < self.end;
        if self.flush_pending {
            effects.push(Effect::Flush);
        }
    }

    /// Moves the mark to the least durable end over the committed and the proposed in-sync set. It never goes back, and
    /// stands still while fewer members are committed than `min.insync.replicas` (KIP-966).
    fn raise_mark(&mut self) {
        if self.state != State::Leading || !self.has_min_isr() {
            return;
        }
        let least = self.in_sync.least_durable(self.durable_end);
        let mark = least.unwrap_or(self.log_start).max(self.high_watermark);
        self.high_watermark = mark;
        self.unstable.settle_below(mark);
    }

    /// Asks for the in-sync set that should be, when it is not the one there is.
    fn propose(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        if self.state != State::Leading {
            return;
        }
        let least = self.high_watermark.max(self.epoch_start);
        if let Some((isr, partition_epoch)) = self.in_sync.propose(now, (self.log_start, self.end), least) {
            effects.push(Effect::ProposeIsr { isr, partition_epoch });
        }
    }

    fn settle(&mut self, now: Millis, marks_before: (Offset, Offset), effects: &mut Vec<Effect>) {
        self.raise_mark();
        self.propose(now, effects);
        while let Some(((end, waiter), deadline)) = self.waiting.first_key_value().map(|(k, v)| (*k, *v)) {
            if end > self.high_watermark {
                break;
            }
            self.waiting.remove(&(end, waiter));
            self.deadlines.remove(&(deadline, end, waiter));
            effects.push(Effect::Answer { waiter, outcome: Outcome::Done });
        }
        while let Some(&(deadline, end, waiter)) = self.deadlines.first() {
            if deadline > now {
                break;
            }
            self.deadlines.pop_first();
            self.waiting.remove(&(end, waiter));
            effects.push(Effect::Answer { waiter, outcome: Outcome::TimedOut });
        }
        let marks = (self.high_watermark, self.last_stable());
        if marks != marks_before {
            effects.push(Effect::Wake { high_watermark: marks.0, last_stable: marks.1 });
        }
    }

    fn stop(&mut self, state: State, effects: &mut Vec<Effect>) {
        if self.state != State::Leading {
            return;
        }
        self.state = state;
        self.deadlines.clear();
        let outcome = if state == State::Failed { Outcome::StorageFailed } else { Outcome::NotLeader };
        for (_, waiter) in std::mem::take(&mut self.waiting).into_keys() {
            effects.push(Effect::Answer { waiter, outcome });
        }
    }

    fn view(&self) -> invariant::View<'_> {
        invariant::View {
            end: self.end,
            high_watermark: self.high_watermark,
            last_stable: self.last_stable(),
            own_durable: self.durable_end,
            first_waiting: self.waiting.first_key_value().map(|((end, _), _)| *end),
            waiting: self.waiting.len(),
            deadlines: self.deadlines.len(),
            isr: self.in_sync.committed(),
        }
    }
}
