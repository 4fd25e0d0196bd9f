//! One replica of a partition: its log and its machine, the leader's or the follower's, behind one short lock. What a step
//! asks for happens after the lock is released; no lock is held across an fsync, a socket or a cold read, but for one: a
//! follower that cuts its log, which nobody reads or writes meanwhile.

mod append;
mod deletion;
mod follow;
mod guard;
mod read;
mod role;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use millstream_env::Env;
use millstream_machine::Waiter;
use millstream_machine::metadata::Image;
use millstream_machine::replica::{Effect, Input, Outcome};
use millstream_record::{Millis, NodeId, Offset, TopicId, TopicPartition};
use millstream_storage::{Disk, FlushJob, FlushPoint, Log, StorageError};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

pub(crate) use append::{Appender, Terms};
pub(crate) use follow::{Fetched, Position};
use guard::Guards;
pub(crate) use guard::{Guard, Word};
pub(crate) use read::{FollowerState, Isolation, Marks, Planned, Reader, Sought, Waits};
use role::Role;
pub(crate) use role::{Assigned, Leadership};

use crate::changed::{Changed, Watcher};
use crate::flusher::Flusher;
use crate::replication::{Copying, Limited, Proposals, Side, Throttle, WantedIsr};
use crate::starts::Starts;
use crate::timers::{Armed, Timed, Timers};
use crate::topic_settings::TopicSettings;

/// Called when a request's records are as durable as it asked for, or will not be.
pub(crate) type Waiting = Box<dyn FnOnce(Outcome) + Send>;

/// What the directory's checkpoints say of a log.
pub(crate) struct Checkpointed {
    pub(crate) at: TopicPartition,
    /// All below survived, whatever happens.
    pub(crate) recovery_point: Offset,
    pub(crate) start: Offset,
    pub(crate) high_watermark: Offset,
}

/// What every partition needs of the broker.
pub(crate) struct Context {
    pub(crate) env: Env,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) timers: Arc<Timers>,
    pub(crate) flusher: Arc<Flusher>,
    pub(crate) starts: Arc<Starts>,
    pub(crate) copying: Arc<Copying>,
    pub(crate) proposals: Arc<Proposals>,
    pub(crate) throttle: Arc<Throttle>,
    pub(crate) node: NodeId,
    /// `replica.lag.time.max.ms`
    pub(crate) lag_max_ms: i64,
}

/// One replica of a partition, on this broker.
pub(crate) struct Partition {
    at: TopicPartition,
    topic_id: TopicId,
    context: Arc<Context>,
    settings: ArcSwap<TopicSettings>,
    state: Mutex<State>,
}

struct State {
    log: Log,
    role: Role,
    /// Who leads in the role's epoch, as the metadata has it.
    leader: Option<NodeId>,
    waiting: FxHashMap<Waiter, Waiting>,
    next_waiter: u64,
    /// Fetches of consumers, which wait for the marks to move.
    consumers: Watchers,
    /// Fetches of followers, which wait for the log to grow; and, where this replica follows, who waits for its fsync.
    followers: Watchers,
    /// Deletions of records, which wait for every replica to have let go of them.
    deleters: Watchers,
    /// Where a restart would have the log begin.
    noted_start: Offset,
    /// Who copies this replica: its next fetch says where the replica is, where that has changed.
    copier: Option<Watcher>,
    armed: Armed,
    guards: Guards,
    /// The flusher has this partition, or will be given it.
    flushing: bool,
    /// The log was found closed and has not been written to since.
    is_closed: bool,
}

/// Who waits for a replica, by the keys that they have.
#[derive(Default)]
struct Watchers(BTreeMap<u64, Watcher>);

impl Watchers {
    /// Those who wait look again, and wait no more: with their next look they may be done.
    fn wake(&mut self, after: &mut Deferred) {
        after.woken.extend(std::mem::take(&mut self.0).into_values().map(Watcher::marked));
    }

    /// Those who wait look again with their next look, but go on waiting.
    fn mark(&self) {
        self.0.values().for_each(Watcher::mark);
    }
}

/// What is to be done once the lock is released.
#[derive(Default)]
#[must_use = "answers and flushes would be lost"]
pub(crate) struct Deferred {
    flush: bool,
    /// The start of the log is to be noted.
    note_start: bool,
    call_at: Option<Duration>,
    answers: Vec<(Waiting, Outcome)>,
    woken: Vec<Arc<Changed>>,
    /// The in-sync set to ask the controller for. Its epochs are of the step that wanted it: they may have passed once the lock is free.
    proposal: Option<WantedIsr>,
}

impl Partition {
    /// The replica that `log` is, which plays no part yet: [`Partition::assume`] gives it one. `high_watermark` is what the last
    /// checkpoint says of it.
    pub(crate) fn new(
        context: &Arc<Context>,
        at: TopicPartition,
        mut log: Log,
        settings: TopicSettings,
        high_watermark: Offset,
        was_clean: bool,
    ) -> Arc<Self> {
        let topic_id = log.topic_id();
        log.set_config(settings.log.clone());
        let state = State {
            role: Role::none(&log, high_watermark),
            noted_start: log.start_offset(),
            log,
            leader: None,
            waiting: FxHashMap::default(),
            next_waiter: 0,
            consumers: Watchers::default(),
            followers: Watchers::default(),
            deleters: Watchers::default(),
            copier: None,
            armed: Armed::default(),
            guards: Guards::default(),
            flushing: false,
            is_closed: was_clean,
        };
        Arc::new(Self {
            at,
            topic_id,
            context: Arc::clone(context),
            settings: ArcSwap::from_pointee(settings),
            state: Mutex::new(state),
        })
    }

    /// Topic and index.
    pub(crate) fn at(&self) -> &TopicPartition {
        &self.at
    }

    /// Where its files are.
    pub(crate) fn dir(&self) -> std::path::PathBuf {
        self.state.lock().log.dir().to_owned()
    }

    /// The id of its topic.
    pub(crate) fn topic_id(&self) -> TopicId {
        self.topic_id
    }

    /// What the topic's configuration says.
    pub(crate) fn settings(&self) -> Arc<TopicSettings> {
        self.settings.load_full()
    }

    /// Whether what `follower` copies of this partition is limited here, on that side.
    pub(crate) fn is_limited(&self, side: Side, follower: NodeId, image: &Image) -> bool {
        let settings = self.settings.load();
        let limited = match side {
            Side::Leader => &settings.sending_limited,
            Side::Follower => &settings.receiving_limited,
        };
        *limited != Limited::None
            && self.context.throttle.limits(limited, (self.topic_id, self.at.partition), follower, image)
    }

    /// Takes up a changed configuration.
    pub(crate) fn configure(self: &Arc<Self>, settings: TopicSettings) {
        let min_isr = settings.min_insync_replicas;
        let log_config = settings.log.clone();
        self.settings.store(Arc::new(settings));
        let after = {
            let mut state = self.state.lock();
            state.log.set_config(log_config);
            self.step(&mut state, Input::MinIsrChanged { min_isr })
        };
        self.perform(after);
    }

    /// Wakes `watcher` when `reader` could read more, or has to ask elsewhere: once, or never after [`Partition::unwatch`] with the
    /// same key.
    pub(crate) fn watch(&self, reader: Reader, key: u64, watcher: Watcher) {
        self.state.lock().watch(reader, key, watcher);
    }

    pub(crate) fn unwatch(&self, key: u64) {
        let mut state = self.state.lock();
        state.followers.0.remove(&key);
        state.deleters.0.remove(&key);
        if state.consumers.0.remove(&key).is_some() {
            state.position_changed();
        }
    }

    /// The directory of this replica, which has retired, may be deleted from now on. Blocks under the lock while a flush writes there.
    pub(crate) fn leave(&self) {
        self.state.lock().log.leave();
    }

    /// Forgets who waits, without an answer: the broker is gone.
    pub(crate) fn abandon(&self) {
        let waiting = std::mem::take(&mut self.state.lock().waiting);
        drop(waiting); // outside of the lock: what they hold may lead back here
    }

    /// Deletes what is beyond retention.
    pub(crate) fn retain(self: &Arc<Self>) -> Result<(), StorageError> {
        let after = {
            let mut state = self.state.lock();
            if matches!(state.role, Role::Retired { .. }) {
                return Ok(());
            }
            let (mark, known_start) = (state.role.high_watermark(), state.log.start_offset());
            state.log.retention(self.context.env.now(), mark)?;
            let log_start = state.log.start_offset();
            if log_start != known_start {
                state.log_start_moved();
            }
            self.step(&mut state, Input::LogStartMoved { log_start })
        };
        self.perform(after);
        Ok(())
    }

    /// The broker ends, or the replica is gone from it: nothing is written from now on, whoever asks, so that what is flushed and
    /// closed then stays so. A follower that went on copying would add to a log that the directory says was closed. Who waits is
    /// told to ask elsewhere.
    pub(crate) fn retire(self: &Arc<Self>) {
        let after = {
            let mut state = self.state.lock();
            let after = self.resign_locked(&mut state);
            if !matches!(state.role, Role::Failed(_)) {
                let (epoch, high_watermark) = (state.role.epoch(), state.role.high_watermark());
                state.role = Role::Retired { epoch, high_watermark };
            }
            after
        };
        self.perform(after);
    }

    /// Leaves the log of a partition that has retired so that the next open need not scan it. Blocks under the lock: nobody else is
    /// left. A log that was closed before and has not been written to since is left as it is.
    pub(crate) fn close(&self) -> Result<(), StorageError> {
        let mut state = self.state.lock();
        if state.is_closed { Ok(()) } else { state.log.close() }
    }

    /// Writes the leader epochs where their file lacks some, so that the recovery point can pass. Blocks; the lock is free meanwhile.
    pub(crate) fn write_epochs(&self) -> Result<(), StorageError> {
        let Some(job) = self.state.lock().log.epochs_begin() else { return Ok(()) };
        let written = job.run();
        self.state.lock().log.epochs_done(written)
    }

    /// What the directory's checkpoints say of this partition.
    pub(crate) fn checkpointed(&self) -> Checkpointed {
        let state = self.state.lock();
        Checkpointed {
            at: self.at.clone(),
            recovery_point: state.log.recovery_point(),
            start: state.log.start_offset(),
            high_watermark: state.role.high_watermark(),
        }
    }

    /// The next group's part of this partition. Where somebody flushed already there is none, and the machine is told so.
    pub(crate) fn flush_begin(self: &Arc<Self>) -> Option<FlushJob> {
        let after = {
            let mut state = self.state.lock();
            if let Some(job) = state.log.flush_begin() {
                return Some(job);
            }
            let point = state.log.flushed_offset();
            self.flushed(&mut state, point)
        };
        self.perform(after);
        None
    }

    pub(crate) fn flush_done(self: &Arc<Self>, result: Result<FlushPoint, StorageError>) {
        let after = {
            let mut state = self.state.lock();
            match state.log.flush_done(result) {
                Ok(point) => self.flushed(&mut state, point),
                Err(error) => {
                    tracing::error!(partition = %self.at, %error, "a flush failed; the log directory goes offline");
                    self.flush_failed(&mut state)
                }
            }
        };
        self.perform(after);
    }

    /// Whoever plays which part learns how far the log is durable. What was appended meanwhile wants another flush.
    fn flushed(&self, state: &mut State, point: Offset) -> Deferred {
        state.flushing = false;
        let mut after = self.step(state, Input::Flushed { point });
        if let Role::Following(follower) = &mut state.role {
            follower.flushed(point);
            state.followers.wake(&mut after);
            state.position_changed();
            if point < state.log.end_offset() {
                state.want_flush(&mut after);
            }
        }
        after
    }

    fn flush_failed(&self, state: &mut State) -> Deferred {
        state.flushing = false;
        let mut after = self.step(state, Input::FlushFailed);
        if let Role::Following(follower) = &state.role {
            state.role = Role::Failed(follower.epoch());
        }
        state.followers.wake(&mut after);
        after
    }

    fn now(&self) -> Millis {
        monotonic(&self.context.env)
    }

    /// Lets the leader's machine, where there is one, take one step and gathers what it asks for.
    fn step(&self, state: &mut State, input: Input) -> Deferred {
        let mut after = Deferred::default();
        let Role::Leading(leader) = &mut state.role else { return after };
        let effects = leader.step(self.now(), input);
        let leader_epoch = leader.epoch();
        let next = leader.next_deadline();
        for effect in effects {
            match effect {
                Effect::Flush => state.want_flush(&mut after),
                Effect::Answer { waiter, outcome } => {
                    after.answers.extend(state.waiting.remove(&waiter).map(|waiting| (waiting, outcome)));
                }
                Effect::Wake { high_watermark, .. } => {
                    state.log.high_watermark_moved(high_watermark);
                    state.consumers.wake(&mut after);
                    state.followers.mark(); // they are told the mark with the next answer
                }
                Effect::WakeFollowers => state.followers.wake(&mut after),
                Effect::HearFollowers => state.followers.mark(),
                Effect::ProposeIsr { isr, partition_epoch } => {
                    after.proposal = Some(WantedIsr { leader_epoch, partition_epoch, isr });
                }
            }
        }
        after.call_at = next.and_then(|deadline| state.armed.want(since_start(deadline)));
        after
    }

    /// Does what a step asked for. Hold no lock: it may lead anywhere.
    pub(crate) fn perform(self: &Arc<Self>, after: Deferred) {
        for changed in after.woken {
            changed.wake();
        }
        if after.flush {
            self.context.flusher.submit(Arc::clone(self));
        }
        if after.note_start {
            self.context.starts.submit(Arc::clone(self));
        }
        if let Some(at) = after.call_at {
            let me = Arc::downgrade(self);
            self.context.timers.at(at, me);
        }
        if let Some(wanted) = after.proposal {
            self.context.proposals.submit(self, wanted);
        }
        for (waiting, outcome) in after.answers {
            waiting(outcome);
        }
    }
}

impl State {
    fn watch(&mut self, reader: Reader, key: u64, watcher: Watcher) {
        match reader {
            Reader::Consumer(_) | Reader::Roaming(_) => {
                self.consumers.0.insert(key, watcher);
                self.position_changed(); // whether a consumer waits is part of it
            }
            Reader::Follower => {
                self.followers.0.insert(key, watcher);
            }
        }
    }

    /// A follower's next fetch says something new.
    fn position_changed(&self) {
        self.copier.iter().for_each(Watcher::mark);
    }

    /// Retention, a deletion of records or the leader moved the start of the log: whoever reads is told with the next answer.
    fn log_start_moved(&self) {
        self.consumers.mark();
        self.followers.mark();
        self.position_changed();
    }

    /// Has the flusher take this partition, unless it has it already: what is appended meanwhile goes along or is flushed after.
    fn want_flush(&mut self, after: &mut Deferred) {
        if !self.flushing {
            self.flushing = true;
            after.flush = true;
        }
    }
}

impl Timed for Partition {
    fn fire(self: Arc<Self>, at: Duration) {
        let after = {
            let mut state = self.state.lock();
            if !state.armed.fired(at) {
                return;
            }
            self.step(&mut state, Input::Tick)
        };
        self.perform(after);
    }
}

/// Monotonic time as the machines take it: a replica's deadlines must not move when somebody sets the clock.
pub(crate) fn monotonic(env: &Env) -> Millis {
    Millis(i64::try_from(env.elapsed().as_millis()).unwrap_or(i64::MAX))
}

fn since_start(at: Millis) -> Duration {
    Duration::from_millis(u64::try_from(at.0).unwrap_or(0))
}
