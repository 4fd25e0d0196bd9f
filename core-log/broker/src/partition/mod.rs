//! One partition: its log and its replica machine behind one short lock. What a step asks for happens after the lock is
//! released; no lock is held across an fsync, a socket or a cold read.

mod append;
mod read;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use millstream_env::Env;
use millstream_machine::Waiter;
use millstream_machine::replica::{Effect, Input, Outcome, Replica, Start};
use millstream_record::{LeaderEpoch, Millis, NodeId, Offset, TopicId, TopicPartition};
use millstream_storage::{FlushJob, FlushPoint, Log, StorageError};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::sync::Notify;

pub(crate) use append::Terms;
pub(crate) use read::{Isolation, Marks, Sought};

use crate::flusher::Flusher;
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
    pub(crate) timers: Arc<Timers>,
    pub(crate) flusher: Arc<Flusher>,
    pub(crate) node: NodeId,
}

/// One partition that this broker leads.
pub(crate) struct Partition {
    at: TopicPartition,
    topic_id: TopicId,
    context: Arc<Context>,
    settings: ArcSwap<TopicSettings>,
    state: Mutex<State>,
}

struct State {
    log: Log,
    replica: Replica,
    waiting: FxHashMap<Waiter, Waiting>,
    next_waiter: u64,
    watchers: BTreeMap<u64, Arc<Notify>>,
    armed: Armed,
    /// Where the log ended when it was closed last, if it was found closed.
    closed_at: Option<Offset>,
}

/// What is to be done once the lock is released.
#[derive(Default)]
#[must_use = "answers and flushes would be lost"]
pub(crate) struct Deferred {
    flush: bool,
    call_at: Option<Duration>,
    answers: Vec<(Waiting, Outcome)>,
    woken: Vec<Arc<Notify>>,
}

impl Partition {
    /// Begins to lead `log` in `epoch`. Recovery has made all of the log durable.
    pub(crate) fn lead(
        context: &Arc<Context>,
        at: TopicPartition,
        mut log: Log,
        epoch: LeaderEpoch,
        settings: TopicSettings,
        was_clean: bool,
    ) -> Arc<Self> {
        log.begin_epoch(epoch);
        let open = log.producers().iter().filter_map(|(_, state)| state.open_transaction).collect();
        let replica = Replica::new(Start {
            node: context.node,
            epoch,
            isr: vec![context.node],
            min_isr: settings.min_insync_replicas,
            log_start: log.start_offset(),
            end: log.end_offset(),
            open_transactions: open,
        });
        let (topic_id, end) = (log.topic_id(), log.end_offset());
        log.set_config(settings.log.clone());
        let state = State {
            log,
            replica,
            waiting: FxHashMap::default(),
            next_waiter: 0,
            watchers: BTreeMap::new(),
            armed: Armed::default(),
            closed_at: was_clean.then_some(end),
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

    /// Wakes `notify` whenever more can be read, until [`Partition::unwatch`] with the same key.
    pub(crate) fn watch(&self, key: u64, notify: &Arc<Notify>) {
        self.state.lock().watchers.insert(key, Arc::clone(notify));
    }

    pub(crate) fn unwatch(&self, key: u64) {
        self.state.lock().watchers.remove(&key);
    }

    /// Leads no more: the topic is gone, or the broker ends. Who waits is told to ask elsewhere.
    pub(crate) fn resign(self: &Arc<Self>) {
        let after = {
            let mut state = self.state.lock();
            let mut after = self.step(&mut state, Input::Resigned);
            after.woken.extend(std::mem::take(&mut state.watchers).into_values());
            after
        };
        self.perform(after);
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
            let mark = state.replica.high_watermark();
            state.log.retention(self.context.env.now(), mark)?;
            let log_start = state.log.start_offset();
            self.step(&mut state, Input::LogStartMoved { log_start })
        };
        self.perform(after);
        Ok(())
    }

    /// Leads no more, and leaves the log so that the next open need not scan it. Blocks under the lock: nobody else is left.
    /// A log that was closed before and has not been written to since is left as it is.
    pub(crate) fn close(self: &Arc<Self>) -> Result<(), StorageError> {
        self.resign();
        let mut state = self.state.lock();
        if state.closed_at == Some(state.log.end_offset()) { Ok(()) } else { state.log.close() }
    }

    /// What the directory's checkpoints say of this partition.
    pub(crate) fn checkpointed(&self) -> Checkpointed {
        let state = self.state.lock();
        Checkpointed {
            at: self.at.clone(),
            recovery_point: state.log.flushed_offset(),
            start: state.log.start_offset(),
            high_watermark: state.replica.high_watermark(),
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
            self.step(&mut state, Input::Flushed { point })
        };
        self.perform(after);
        None
    }

    pub(crate) fn flush_done(self: &Arc<Self>, result: Result<FlushPoint, StorageError>) {
        let after = {
            let mut state = self.state.lock();
            let input = match state.log.flush_done(result) {
                Ok(point) => Input::Flushed { point },
                Err(error) => {
                    tracing::error!(partition = %self.at, %error, "a flush failed; the log directory goes offline");
                    Input::FlushFailed
                }
            };
            self.step(&mut state, input)
        };
        self.perform(after);
    }

    fn now(&self) -> Millis {
        monotonic(&self.context.env)
    }

    /// Lets the machine take one step and gathers what it asks for.
    fn step(&self, state: &mut State, input: Input) -> Deferred {
        let mut after = Deferred::default();
        for effect in state.replica.step(self.now(), input) {
            match effect {
                Effect::Flush => after.flush = true,
                Effect::Answer { waiter, outcome } => {
                    after.answers.extend(state.waiting.remove(&waiter).map(|waiting| (waiting, outcome)));
                }
                Effect::Wake { high_watermark, .. } => {
                    state.log.high_watermark_moved(high_watermark);
                    after.woken.extend(state.watchers.values().cloned());
                }
            }
        }
        let next = state.replica.next_deadline();
        after.call_at = next.and_then(|deadline| state.armed.want(since_start(deadline)));
        after
    }

    /// Does what a step asked for. Hold no lock: it may lead anywhere.
    pub(crate) fn perform(self: &Arc<Self>, after: Deferred) {
        for notify in after.woken {
            notify.notify_one();
        }
        if after.flush {
            self.context.flusher.submit(Arc::clone(self));
        }
        if let Some(at) = after.call_at {
            let me = Arc::downgrade(self);
            self.context.timers.at(at, me);
        }
        for (waiting, outcome) in after.answers {
            waiting(outcome);
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

/// The moment, in monotonic time, at which a machine's deadline has passed.
pub(crate) fn since_start(deadline: Millis) -> Duration {
    Duration::from_millis(u64::try_from(deadline.0).unwrap_or(0))
}
