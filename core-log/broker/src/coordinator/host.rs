//! A coordinator at work: its machine behind one short lock, its records in one partition of an internal topic.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use millstream_machine::group::Replay;
use millstream_machine::metadata::Image;
use millstream_machine::replica::{Acks, Outcome};
use millstream_machine::{Ticket, Waiter};
use millstream_protocol::ErrorCode;
use millstream_record::{LeaderEpoch, Millis, Offset};
use millstream_storage::AppendInfo;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use crate::partition::{Appender, Deferred, Partition, Terms, Waiting};
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
    /// Whether the log takes what the next step appends.
    fn log_accepts(&mut self, accepts: bool);
    fn step(&mut self, now: Millis, input: Self::Input) -> Vec<Step<Self>>;
    fn next_deadline(&self) -> Option<Millis>;
    fn durable(ticket: Ticket) -> Self::Input;
    fn late(ticket: Ticket) -> Self::Input;
    fn failed(error: ErrorCode) -> Self::Input;
    fn tick() -> Self::Input;
    fn snapshot(&self) -> Bytes;
    /// What the metadata says that it did not hear before it was loaded.
    fn outdated(&self, _: &Image) -> Option<Self::Input> {
        None
    }
}

/// What a machine asks for.
pub(crate) enum Step<M: Machine> {
    Append { ticket: Ticket, batch: Bytes },
    Answer { waiter: Waiter, answer: M::Answer },
    Errand(M::Errand),
}

/// Takes the answer of a machine to whoever waits for it.
pub(crate) type Reply<A> = Box<dyn FnOnce(A) + Send>;

/// How long an internal record may take to become durable before who waits for it is told to ask again: sooner than clients lose
/// patience with a broker that does not answer. The coordinator itself waits on.
const APPEND_TIMEOUT: Duration = Duration::from_secs(10);

/// One coordinator.
pub(crate) struct Host<M: Machine> {
    partition: Arc<Partition>,
    /// The epoch in which it was loaded; it never writes in another.
    epoch: LeaderEpoch,
    clock: SteadyClock,
    timers: Arc<Timers>,
    way_out: WayOut<M>,
    state: Mutex<State<M>>,
}

/// What a coordinator does beyond its own log.
pub(crate) struct WayOut<M: Machine> {
    /// Does its errands.
    pub(crate) run: Box<dyn Fn(M::Errand) + Send + Sync>,
    /// It has failed and serves nobody any more; called once.
    pub(crate) failed: Box<dyn Fn() + Send + Sync>,
}

struct State<M: Machine> {
    machine: M,
    waiting: FxHashMap<Waiter, Reply<M::Answer>>,
    next_waiter: u64,
    armed: Armed,
    /// Appends since the last snapshot.
    appended: u64,
    failed: bool,
}

/// What is to be done once the lock is released.
#[must_use = "appends and answers would be lost"]
pub(crate) struct After<M: Machine> {
    appends: Vec<Deferred>,
    replies: Vec<(Reply<M::Answer>, M::Answer)>,
    errands: Vec<M::Errand>,
    call_at: Option<Duration>,
    has_failed: bool,
}

impl<M: Machine> Host<M> {
    /// A coordinator whose machine has replayed the partition, which is led in the epoch given.
    pub(crate) fn new(
        (partition, epoch): (Arc<Partition>, LeaderEpoch),
        clock: SteadyClock,
        timers: Arc<Timers>,
        machine: M,
        way_out: WayOut<M>,
    ) -> Self {
        let state = State {
            machine,
            waiting: FxHashMap::default(),
            next_waiter: 0,
            armed: Armed::default(),
            appended: 0,
            failed: false,
        };
        Self { partition, epoch, clock, timers, way_out, state: Mutex::new(state) }
    }

    /// The partition with the records.
    pub(crate) fn partition(&self) -> &Arc<Partition> {
        &self.partition
    }

    /// The leader epoch of the partition in which it was loaded.
    pub(crate) fn epoch(&self) -> LeaderEpoch {
        self.epoch
    }

    /// Whether its partition is led here still, in the same epoch.
    pub(crate) fn is_current(&self) -> bool {
        self.partition.end_in(self.epoch).is_some()
    }

    /// Asks the machine; `reply` is called with its answer, perhaps before this returns.
    pub(crate) fn ask(
        self: &Arc<Self>,
        reply: impl FnOnce(M::Answer) + Send + 'static,
        input: impl FnOnce(Waiter) -> M::Input,
    ) {
        let after = self.ask_locked(&mut self.state.lock(), reply, input);
        self.perform(after);
    }

    /// Asks as [`Host::ask`] does if `still` holds, at a moment when nobody else can ask.
    pub(crate) fn ask_if(
        self: &Arc<Self>,
        still: impl FnOnce(&Partition) -> Result<(), Refusal>,
        reply: impl FnOnce(Result<M::Answer, ErrorCode>) + Send + 'static,
        input: impl FnOnce(Waiter) -> M::Input,
    ) {
        let after = {
            let mut state = self.state.lock();
            if let Err(refusal) = still(&self.partition) {
                drop(state);
                return reply(Err(refusal.code));
            }
            self.ask_locked(&mut state, |answer| reply(Ok(answer)), input)
        };
        self.perform(after);
    }

    fn ask_locked(
        self: &Arc<Self>,
        state: &mut State<M>,
        reply: impl FnOnce(M::Answer) + Send + 'static,
        input: impl FnOnce(Waiter) -> M::Input,
    ) -> After<M> {
        let waiter = Waiter(state.next_waiter);
        state.next_waiter += 1;
        state.waiting.insert(waiter, Box::new(reply));
        self.run(state, input(waiter))
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
            state.machine.log_accepts(self.partition.takes_coordinators());
            let steps = loaded(&mut state.machine, self.clock.now());
            self.take(&mut state, steps)
        };
        self.perform(after);
    }

    /// Looks at the machine, and may do something while it stands still.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&M) -> T) -> T {
        look(&self.state.lock().machine)
    }

    /// A snapshot and the offset behind the last record in it, when more than `least` appends came since the last one. None once
    /// another leads: the log may then have records that the machine does not know.
    pub(crate) fn snapshot_if_due(&self, least: u64) -> Option<(Bytes, Offset)> {
        let mut state = self.state.lock();
        if state.appended <= least || state.failed {
            return None;
        }
        let end = self.partition.end_in(self.epoch)?;
        state.appended = 0;
        Some((state.machine.snapshot(), end))
    }

    /// Forgets who waits, without an answer: the broker is gone.
    pub(crate) fn abandon(&self) {
        let waiting = std::mem::take(&mut self.state.lock().waiting);
        drop(waiting); // outside of the lock: what they hold may lead back here
    }

    fn run(self: &Arc<Self>, state: &mut State<M>, input: M::Input) -> After<M> {
        state.machine.log_accepts(self.partition.takes_coordinators());
        let steps = state.machine.step(self.clock.now(), input);
        self.take(state, steps)
    }

    /// Appends what is to be appended, in order and under the lock; gathers the rest.
    fn take(self: &Arc<Self>, state: &mut State<M>, steps: Vec<Step<M>>) -> After<M> {
        let mut after = After::default();
        let mut steps = VecDeque::from(steps);
        while let Some(step) = steps.pop_front() {
            match step {
                Step::Append { .. } if state.failed => {} // it follows what could not be appended
                Step::Append { ticket, batch } => match self.append(ticket, &batch) {
                    Ok(deferred) => {
                        state.appended += 1;
                        after.appends.push(deferred);
                    }
                    Err(refusal) => {
                        let partition = self.partition.at();
                        tracing::warn!(%partition, ?refusal, "a coordinator cannot write its records; it is loaded anew");
                        let code = match refusal.code {
                            ErrorCode::NotLeaderOrFollower => ErrorCode::NotCoordinator,
                            _ => ErrorCode::CoordinatorNotAvailable,
                        };
                        steps.extend(self.fail(state, &mut after, code));
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

    /// What the machine applied is not in the log, or may not stay there, so it is of no use any more.
    fn fail(&self, state: &mut State<M>, after: &mut After<M>, code: ErrorCode) -> Vec<Step<M>> {
        after.has_failed |= !std::mem::replace(&mut state.failed, true);
        state.machine.step(self.clock.now(), M::failed(code))
    }

    fn append(self: &Arc<Self>, ticket: Ticket, batch: &Bytes) -> Result<Deferred, Refusal> {
        let appender = Appender::Coordinator(self.epoch);
        let terms = Terms { acks: Acks::All, timeout: APPEND_TIMEOUT, appender };
        let waiting = |info: &AppendInfo| Some(self.waiting(ticket, info.last_offset.plus(1)));
        let (_, deferred) = self.partition.append_deferred(batch, terms, waiting)?;
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
            (self.way_out.run)(errand);
        }
        for (reply, answer) in after.replies {
            reply(answer);
        }
        if after.has_failed {
            (self.way_out.failed)();
        }
    }

    /// Takes what becomes of an append, which ends before `end`.
    fn waiting(self: &Arc<Self>, ticket: Ticket, end: Offset) -> Waiting {
        let me = Arc::downgrade(self);
        Box::new(move |outcome| {
            if let Some(host) = me.upgrade() {
                host.settle((ticket, end), outcome);
            }
        })
    }

    /// An append is below the mark, or is not yet, or may never come there.
    fn settle(self: &Arc<Self>, (ticket, end): (Ticket, Offset), outcome: Outcome) {
        match outcome {
            Outcome::Done => self.tell(M::durable(ticket)),
            // It is in the log, so the machine knows nothing that is not. Too few replicas may be in sync for a long time.
            Outcome::TimedOut => {
                self.tell(M::late(ticket));
                let waiting = self.waiting(ticket, end);
                self.partition.await_durable((self.epoch, end), APPEND_TIMEOUT, waiting);
            }
            Outcome::NotLeader => self.end(ErrorCode::NotCoordinator),
            Outcome::StorageFailed | Outcome::Overloaded => self.end(ErrorCode::CoordinatorNotAvailable),
        }
    }

    /// Serves nobody any more: another broker leads the partition, or this one leads it anew.
    pub(crate) fn resign(self: &Arc<Self>) {
        self.end(ErrorCode::NotCoordinator);
    }

    fn end(self: &Arc<Self>, code: ErrorCode) {
        let after = {
            let mut state = self.state.lock();
            let mut failing = After::default();
            let steps = self.fail(&mut state, &mut failing, code);
            After { has_failed: failing.has_failed, ..self.take(&mut state, steps) }
        };
        self.perform(after);
    }
}

impl<M: Machine> Default for After<M> {
    fn default() -> Self {
        Self {
            appends: Vec::new(),
            replies: Vec::new(),
            errands: Vec::new(),
            call_at: None,
            has_failed: false,
        }
    }
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
