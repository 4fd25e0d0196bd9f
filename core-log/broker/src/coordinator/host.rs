//! A coordinator at work: its machine behind one short lock, its records in one partition of an internal topic.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use millstream_machine::group::Replay;
use millstream_machine::replica::{Acks, Outcome};
use millstream_machine::{Ticket, Waiter};
use millstream_protocol::ErrorCode;
use millstream_record::{LeaderEpoch, Millis, Offset};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use crate::partition::{Appender, Deferred, Partition, Terms};
use crate::refusal::Refusal;
use crate::steady::SteadyClock;
use crate::timers::{Armed, Timed, Timers};

/// A machine that keeps its state in a partition's log, as this shell sees it.
pub(crate) trait Machine: Sized + Send + 'static {
    type Input: Send;
    type Answer: Send + 'static;
    /// What it asks of others than its own log.
    type Errand: Send;

    /// Applies what the log says.
    fn replay(&mut self, entry: Replay) -> Result<(), millstream_machine::Error>;
    /// The log has been replayed.
    fn loaded(&mut self, now: Millis) -> Vec<Step<Self>>;
    fn step(&mut self, now: Millis, input: Self::Input) -> Vec<Step<Self>>;
    fn next_deadline(&self) -> Option<Millis>;
    fn durable(ticket: Ticket) -> Self::Input;
    fn failed(error: ErrorCode) -> Self::Input;
    fn tick() -> Self::Input;
    fn snapshot(&self) -> Bytes;
}

/// What a machine asks for.
pub(crate) enum Step<M: Machine> {
    Append { ticket: Ticket, batch: Bytes },
    Answer { waiter: Waiter, answer: M::Answer },
    Errand(M::Errand),
}

/// Takes the answer of a machine to whoever waits for it.
pub(crate) type Reply<A> = Box<dyn FnOnce(A) + Send>;

/// How long an internal record may take to become durable before its coordinator gives up. Longer than any client waits.
const APPEND_TIMEOUT: Duration = Duration::from_secs(60);

/// One coordinator.
pub(crate) struct Host<M: Machine> {
    partition: Arc<Partition>,
    /// The epoch in which it was loaded; it never writes in another.
    epoch: LeaderEpoch,
    clock: SteadyClock,
    timers: Arc<Timers>,
    runner: Box<dyn Fn(M::Errand) + Send + Sync>,
    state: Mutex<State<M>>,
}

struct State<M: Machine> {
    machine: M,
    waiting: FxHashMap<Waiter, Reply<M::Answer>>,
    next_waiter: u64,
    armed: Armed,
    /// Appends since the last snapshot.
    appended: u64,
}

/// What is to be done once the lock is released.
#[must_use = "appends and answers would be lost"]
pub(crate) struct After<M: Machine> {
    appends: Vec<Deferred>,
    replies: Vec<(Reply<M::Answer>, M::Answer)>,
    errands: Vec<M::Errand>,
    call_at: Option<Duration>,
}

impl<M: Machine> Host<M> {
    /// A coordinator whose machine has replayed the partition, which is led in the epoch given. `runner` does its errands.
    pub(crate) fn new(
        (partition, epoch): (Arc<Partition>, LeaderEpoch),
        clock: SteadyClock,
        timers: Arc<Timers>,
        machine: M,
        runner: Box<dyn Fn(M::Errand) + Send + Sync>,
    ) -> Self {
        let state = State {
            machine,
            waiting: FxHashMap::default(),
            next_waiter: 0,
            armed: Armed::default(),
            appended: 0,
        };
        Self { partition, epoch, clock, timers, runner, state: Mutex::new(state) }
    }

    /// The partition with the records.
    pub(crate) fn partition(&self) -> &Arc<Partition> {
        &self.partition
    }

    /// Asks the machine; `reply` is called with its answer, perhaps before this returns.
    pub(crate) fn ask(
        self: &Arc<Self>,
        reply: impl FnOnce(M::Answer) + Send + 'static,
        input: impl FnOnce(Waiter) -> M::Input,
    ) {
        let after = self.ask_deferred(reply, input);
        self.perform(after);
    }

    /// Asks as [`Host::ask`] does, for a caller that holds a lock: it calls [`Host::perform`] once it holds none.
    pub(crate) fn ask_deferred(
        self: &Arc<Self>,
        reply: impl FnOnce(M::Answer) + Send + 'static,
        input: impl FnOnce(Waiter) -> M::Input,
    ) -> After<M> {
        let mut state = self.state.lock();
        let waiter = Waiter(state.next_waiter);
        state.next_waiter += 1;
        state.waiting.insert(waiter, Box::new(reply));
        self.run(&mut state, input(waiter))
    }

    /// Tells the machine something that has no answer.
    pub(crate) fn tell(self: &Arc<Self>, input: M::Input) {
        let after = {
            let mut state = self.state.lock();
            self.run(&mut state, input)
        };
        self.perform(after);
    }

    /// Does what the machine asks for at the end of loading.
    pub(crate) fn begin(self: &Arc<Self>, loaded: impl FnOnce(&mut M, Millis) -> Vec<Step<M>>) {
        let after = {
            let mut state = self.state.lock();
            let steps = loaded(&mut state.machine, self.clock.now());
            self.take(&mut state, steps)
        };
        self.perform(after);
    }

    /// Looks at the machine, and may do something while it stands still.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&M) -> T) -> T {
        look(&self.state.lock().machine)
    }

    /// A snapshot and the offset behind the last record in it, when more than `least` appends came since the last one.
    pub(crate) fn snapshot_if_due(&self, least: u64) -> Option<(Bytes, Offset)> {
        let mut state = self.state.lock();
        if state.appended <= least {
            return None;
        }
        state.appended = 0;
        Some((state.machine.snapshot(), self.partition.end()))
    }

    /// Forgets who waits, without an answer: the broker is gone.
    pub(crate) fn abandon(&self) {
        let waiting = std::mem::take(&mut self.state.lock().waiting);
        drop(waiting); // outside of the lock: what they hold may lead back here
    }

    fn run(self: &Arc<Self>, state: &mut State<M>, input: M::Input) -> After<M> {
        let steps = state.machine.step(self.clock.now(), input);
        self.take(state, steps)
    }

    /// Appends what is to be appended, in order and under the lock; gathers the rest.
    fn take(self: &Arc<Self>, state: &mut State<M>, steps: Vec<Step<M>>) -> After<M> {
        let mut after =
            After { appends: Vec::new(), replies: Vec::new(), errands: Vec::new(), call_at: None };
        let mut steps = VecDeque::from(steps);
        while let Some(step) = steps.pop_front() {
            match step {
                Step::Append { ticket, batch } => match self.append(ticket, &batch) {
                    Ok(deferred) => {
                        state.appended += 1;
                        after.appends.push(deferred);
                    }
                    Err(refusal) => {
                        let partition = self.partition.at();
                        tracing::error!(%partition, ?refusal, "a coordinator cannot write its records");
                        let failed = M::failed(ErrorCode::CoordinatorNotAvailable);
                        steps.extend(state.machine.step(self.clock.now(), failed));
                    }
                },
                Step::Answer { waiter, answer } => {
                    after.replies.extend(state.waiting.remove(&waiter).map(|reply| (reply, answer)));
                }
                Step::Errand(errand) => after.errands.push(errand),
            }
        }
        let next = state.machine.next_deadline();
        after.call_at = next.and_then(|deadline| state.armed.want(self.clock.elapsed_at(deadline)));
        after
    }

    fn append(self: &Arc<Self>, ticket: Ticket, batch: &Bytes) -> Result<Deferred, Refusal> {
        let appender = Appender::Coordinator(self.epoch);
        let terms = Terms { acks: Acks::All, timeout: APPEND_TIMEOUT, appender };
        let me = Arc::downgrade(self);
        let (_, deferred) = self
            .partition
            .append_deferred(batch, terms, |_| Some(Box::new(move |outcome| settle(&me, ticket, outcome))))?;
        Ok(deferred)
    }

    /// Does what a step asked for. Hold no lock: it may lead anywhere.
    pub(crate) fn perform(self: &Arc<Self>, after: After<M>) {
        for deferred in after.appends {
            self.partition.perform(deferred);
        }
        if let Some(at) = after.call_at {
            let me: Weak<Self> = Arc::downgrade(self);
            self.timers.at(at, me);
        }
        for errand in after.errands {
            (self.runner)(errand);
        }
        for (reply, answer) in after.replies {
            reply(answer);
        }
    }
}

fn settle<M: Machine>(host: &Weak<Host<M>>, ticket: Ticket, outcome: Outcome) {
    let Some(host) = host.upgrade() else { return };
    let input = match outcome {
        Outcome::Done => M::durable(ticket),
        Outcome::NotLeader => M::failed(ErrorCode::NotCoordinator),
        Outcome::TimedOut | Outcome::StorageFailed | Outcome::Overloaded => {
            M::failed(ErrorCode::CoordinatorNotAvailable)
        }
    };
    host.tell(input);
}

impl<M: Machine> Timed for Host<M> {
    fn fire(self: Arc<Self>, at: Duration) {
        let after = {
            let mut state = self.state.lock();
            if !state.armed.fired(at) {
                return;
            }
            self.run(&mut state, M::tick())
        };
        self.perform(after);
    }
}
