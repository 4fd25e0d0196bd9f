//! One thread, virtual time, one seed: the executor that runs whole nodes.
//!
//! A task is ready or it waits; time moves only when no task is ready. Which ready task runs next, how long a blocking job
//! takes and every random number come from the seed, so the same seed gives the same run, which the trace hash shows.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use millstream_env::{Env, Listener, Pool, Runtime, Stream, Task};
use millstream_record::Millis;
use parking_lot::Mutex;

use crate::network::Network;
use crate::random::Random;
use crate::trace::Trace;

/// Wall clock at the start of every run (2026-01-01T00:00:00Z), so that timestamps look like timestamps.
pub const EPOCH: Millis = Millis(1_767_225_600_000);

/// A blocking job takes up to this long: an fsync on a slow disk.
const JOB_MAX_NS: u64 = 3_000_000;

/// One incarnation of a process. Its tasks, jobs and sockets die together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner(pub u64);

impl Owner {
    /// The test itself, which no fault touches.
    pub const WORLD: Self = Self(0);
}

/// A computer, on which one process after another runs. Links between hosts can be cut; 0 is where everybody is who was put nowhere.
pub type Host = u16;

type TaskId = u64;
type Job = Box<dyn FnOnce() + Send>;

struct Slot {
    owner: Owner,
    name: &'static str,
    future: Option<BoxFuture<'static, ()>>,
    waker: Waker,
}

enum Event {
    Wake(Waker),
    Run(Owner, Job),
}

struct Core {
    now_ns: u64,
    next_id: u64,
    random: Random,
    tasks: BTreeMap<TaskId, Slot>,
    events: BTreeMap<(u64, u64), Event>,
    dead: BTreeSet<Owner>,
    paused: BTreeMap<Owner, Vec<TaskId>>,
    slow_jobs: BTreeMap<Owner, u64>,
    clock_skew_ms: BTreeMap<Owner, i64>,
    hosts: BTreeMap<Owner, Host>,
    trace: Trace,
    steps: u64,
    /// [`Core::steps`] when time moved last.
    steps_before_now: u64,
    /// Whose task was polled last.
    polled: &'static str,
}

#[derive(Default)]
struct Ready(Mutex<Vec<TaskId>>);

struct TaskWaker {
    id: TaskId,
    ready: Arc<Ready>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        let mut ready = self.ready.0.lock();
        if !ready.contains(&self.id) {
            ready.push(self.id);
        }
    }
}

/// A simulated world. Cheap to clone; every clone is the same world.
#[derive(Clone)]
pub struct Sim {
    core: Arc<Mutex<Core>>,
    ready: Arc<Ready>,
    network: Network,
}

/// Why [`Sim::run`] came back without its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stuck {
    /// Nothing is ready and no event is left: the awaited future can never complete.
    Deadlock,
    /// The bound in virtual time was reached.
    TimeUp,
    /// The bound on steps was reached, or that on steps while time stands still; this task was polled last.
    Spinning(&'static str),
}

/// Steps after which a run counts as spinning.
const STEP_MAX: u64 = 50_000_000;
/// The same for steps while time stands still.
const STEP_MAX_AT_ONCE: u64 = 1_000_000;

impl Sim {
    /// A world whose every choice comes from `seed`. `print` writes the trace to standard error.
    pub fn new(seed: u64, print: bool) -> Self {
        let core = Core {
            now_ns: 0,
            next_id: 1,
            random: Random::new(seed),
            tasks: BTreeMap::new(),
            events: BTreeMap::new(),
            dead: BTreeSet::new(),
            paused: BTreeMap::new(),
            slow_jobs: BTreeMap::new(),
            clock_skew_ms: BTreeMap::new(),
            hosts: BTreeMap::new(),
            trace: Trace::new(print),
            steps: 0,
            steps_before_now: 0,
            polled: "",
        };
        Self { core: Arc::new(Mutex::new(core)), ready: Arc::default(), network: Network::default() }
    }

    /// An env for a new incarnation of a process, and its identity.
    pub fn process(&self) -> (Owner, Env) {
        let owner = Owner(self.fresh_id());
        (owner, self.env_of(owner))
    }

    /// The env of an incarnation.
    pub fn env_of(&self, owner: Owner) -> Env {
        Env::new(Arc::new(SimRuntime { sim: self.clone(), owner }))
    }

    /// Kills an incarnation as `kill -9` does: no destructor of its logic gets to do I/O, its sockets close.
    pub fn kill(&self, owner: Owner) {
        let doomed: Vec<Slot> = {
            let mut core = self.core.lock();
            core.note("kill", owner.0);
            core.dead.insert(owner);
            core.paused.remove(&owner);
            let ids: Vec<TaskId> =
                core.tasks.iter().filter(|(_, slot)| slot.owner == owner).map(|(id, _)| *id).collect();
            ids.iter().filter_map(|id| core.tasks.remove(id)).collect()
        };
        self.network.cut_owner(self, owner);
        drop(doomed); // outside of the lock: dropping a future may wake others
    }

    /// Whether the incarnation was killed.
    pub fn is_dead(&self, owner: Owner) -> bool {
        self.core.lock().dead.contains(&owner)
    }

    /// Stops polling an incarnation (SIGSTOP) until [`Sim::resume`].
    pub fn pause(&self, owner: Owner) {
        let mut core = self.core.lock();
        core.note("pause", owner.0);
        core.paused.entry(owner).or_default();
    }

    /// Undoes [`Sim::pause`].
    pub fn resume(&self, owner: Owner) {
        let held = {
            let mut core = self.core.lock();
            core.note("resume", owner.0);
            core.paused.remove(&owner).unwrap_or_default()
        };
        let mut ready = self.ready.0.lock();
        for id in held {
            if !ready.contains(&id) {
                ready.push(id);
            }
        }
    }

    /// From now on a blocking job of `owner` takes up to `max` (a slow disk).
    pub fn slow_jobs(&self, owner: Owner, max: Duration) {
        self.core.lock().slow_jobs.insert(owner, max.as_nanos() as u64);
    }

    /// Moves the wall clock of `owner` by `ms` (the monotonic clock stays).
    pub fn skew_clock(&self, owner: Owner, ms: i64) {
        self.core.lock().clock_skew_ms.insert(owner, ms);
    }

    /// Puts an incarnation on a host.
    pub fn place(&self, owner: Owner, host: Host) {
        self.core.lock().hosts.insert(owner, host);
    }

    /// The host of an incarnation.
    pub(crate) fn host_of(&self, owner: Owner) -> Host {
        self.core.lock().hosts.get(&owner).copied().unwrap_or_default()
    }

    /// From now on nothing that `from` sends reaches `to`, until [`Sim::mend`]: neither bytes nor the end of a connection.
    pub fn cut(&self, from: Host, to: Host) {
        self.note("cut link", u64::from(from) << 16 | u64::from(to));
        self.network.cut(from, to, None);
    }

    /// Nothing more gets from one host to another on connections to `port`, whichever of the two made them.
    pub fn cut_service(&self, from: Host, to: Host, port: u16) {
        self.note("cut service", u64::from(from) << 32 | u64::from(to) << 16 | u64::from(port));
        self.network.cut(from, to, Some(port));
    }

    /// Every link works again; what was sent meanwhile arrives.
    pub fn mend(&self) {
        self.note("mend links", 0);
        self.network.mend();
    }

    /// A host without power says nothing to anybody, not even that a connection is gone.
    pub fn darken(&self, host: Host) {
        self.network.darken(host);
    }

    /// The host has power again.
    pub fn light(&self, host: Host) {
        self.network.light(host);
    }

    /// Drops one open connection, chosen by the seed; tells whether there was one.
    pub fn drop_connection(&self) -> bool {
        self.network.cut_random(self)
    }

    /// Virtual time since the start.
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.core.lock().now_ns)
    }

    /// The next random number of the world itself.
    pub fn random(&self) -> u64 {
        self.core.lock().random.next()
    }

    /// A random number in `0..bound` (`bound` > 0).
    pub fn below(&self, bound: u64) -> u64 {
        self.random() % bound.max(1)
    }

    /// Writes into the trace; the hash covers it.
    pub fn note(&self, what: &str, value: u64) {
        self.core.lock().note(what, value);
    }

    /// Hash of everything that happened so far.
    pub fn trace_hash(&self) -> u64 {
        self.core.lock().trace.hash()
    }

    /// Polls made so far.
    pub fn steps(&self) -> u64 {
        self.core.lock().steps
    }

    /// Runs the world until `main` completes, at most `bound` of virtual time.
    ///
    /// # Errors
    /// [`Stuck`] when `main` cannot or did not complete.
    pub fn run<T: Send + 'static>(
        &self,
        bound: Duration,
        main: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Stuck> {
        let result = Arc::new(Mutex::new(None));
        let slot = Arc::clone(&result);
        self.add_task(Owner::WORLD, "main", main.map(move |value| *slot.lock() = Some(value)).boxed());
        let end_ns = self.core.lock().now_ns.saturating_add(bound.as_nanos() as u64);
        loop {
            if let Some(value) = result.lock().take() {
                return Ok(value);
            }
            if self.poll_one() {
                let core = self.core.lock();
                if core.steps - core.steps_before_now > STEP_MAX_AT_ONCE {
                    return Err(Stuck::Spinning(core.polled));
                }
                continue;
            }
            match self.advance(end_ns) {
                Ok(()) => {}
                Err(stuck) => return Err(stuck),
            }
        }
    }

    /// Drops every task, so that a finished world frees what its tasks hold in cycles.
    pub fn shut_down(&self) {
        let (tasks, events) = {
            let mut core = self.core.lock();
            (std::mem::take(&mut core.tasks), std::mem::take(&mut core.events))
        };
        drop(tasks);
        drop(events);
        self.core.lock().tasks.clear();
    }

    pub(crate) fn fresh_id(&self) -> u64 {
        let mut core = self.core.lock();
        let id = core.next_id;
        core.next_id += 1;
        id
    }

    pub(crate) fn wake_at(&self, at_ns: u64, waker: Waker) {
        self.core.lock().schedule(at_ns, Event::Wake(waker));
    }

    pub(crate) fn now_ns(&self) -> u64 {
        self.core.lock().now_ns
    }

    fn add_task(&self, owner: Owner, name: &'static str, future: BoxFuture<'static, ()>) {
        let id = self.fresh_id();
        let waker = Waker::from(Arc::new(TaskWaker { id, ready: Arc::clone(&self.ready) }));
        {
            let mut core = self.core.lock();
            if core.dead.contains(&owner) {
                return;
            }
            core.tasks.insert(id, Slot { owner, name, future: Some(future), waker });
        }
        self.ready.0.lock().push(id);
    }

    /// Polls one ready task, chosen by the seed. False when none is ready.
    fn poll_one(&self) -> bool {
        let (id, mut future, waker) = loop {
            let mut core = self.core.lock();
            let id = {
                let mut ready = self.ready.0.lock();
                if ready.is_empty() {
                    return false;
                }
                let at = core.random.below(ready.len() as u64) as usize;
                ready.swap_remove(at)
            };
            let Some(slot) = core.tasks.get_mut(&id) else { continue };
            let (owner, name) = (slot.owner, slot.name);
            if let Some(held) = core.paused.get_mut(&owner) {
                held.push(id);
                continue;
            }
            let Some(slot) = core.tasks.get_mut(&id) else { continue };
            let Some(future) = slot.future.take() else { continue };
            let waker = slot.waker.clone();
            core.steps += 1;
            core.polled = name;
            core.note(name, id);
            break (id, future, waker);
        };
        let done = Pin::new(&mut future).poll(&mut Context::from_waker(&waker)) == Poll::Ready(());
        let mut core = self.core.lock();
        if done {
            let slot = core.tasks.remove(&id);
            drop(core);
            drop(slot);
            drop(future);
        } else if let Some(slot) = core.tasks.get_mut(&id) {
            slot.future = Some(future);
        } else {
            drop(core); // killed by itself while it was polled
            drop(future);
        }
        true
    }

    /// Moves time to the next event and lets it happen.
    fn advance(&self, end_ns: u64) -> Result<(), Stuck> {
        let event = {
            let mut core = self.core.lock();
            if core.steps > STEP_MAX {
                return Err(Stuck::Spinning(core.polled));
            }
            let Some(((at_ns, seq), event)) = core.events.pop_first() else { return Err(Stuck::Deadlock) };
            if at_ns > end_ns {
                core.events.insert((at_ns, seq), event);
                return Err(Stuck::TimeUp);
            }
            core.now_ns = core.now_ns.max(at_ns);
            core.steps_before_now = core.steps;
            event
        };
        match event {
            Event::Wake(waker) => waker.wake(),
            Event::Run(owner, job) => {
                let (dead, paused) = {
                    let mut core = self.core.lock();
                    core.note("job", owner.0);
                    (core.dead.contains(&owner), core.paused.contains_key(&owner))
                };
                if dead {
                    drop(job);
                } else if paused {
                    let at_ns = self.now_ns() + JOB_MAX_NS;
                    self.core.lock().schedule(at_ns, Event::Run(owner, job));
                } else {
                    job();
                }
            }
        }
        Ok(())
    }
}

impl Core {
    fn schedule(&mut self, at_ns: u64, event: Event) {
        let seq = self.next_id;
        self.next_id += 1;
        self.events.insert((at_ns, seq), event);
    }

    fn note(&mut self, what: &str, value: u64) {
        self.trace.note(self.now_ns, what, value);
    }
}

/// [`Runtime`] of one incarnation in a simulated world.
struct SimRuntime {
    sim: Sim,
    owner: Owner,
}

impl Runtime for SimRuntime {
    fn now(&self) -> Millis {
        let core = self.sim.core.lock();
        let skew_ms = core.clock_skew_ms.get(&self.owner).copied().unwrap_or(0);
        EPOCH.plus_ms((core.now_ns / 1_000_000) as i64).plus_ms(skew_ms)
    }

    fn elapsed(&self) -> Duration {
        self.sim.elapsed()
    }

    fn sleep_until(&self, at: Duration) -> BoxFuture<'static, ()> {
        let at_ns = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
        Sleep { sim: self.sim.clone(), at_ns, set_for: None }.boxed()
    }

    fn spawn(&self, name: &'static str, future: BoxFuture<'static, ()>) -> Task {
        let (run, task) = Task::wrap(future);
        self.sim.add_task(self.owner, name, run);
        task
    }

    fn run_blocking(&self, _pool: Pool, job: Job) {
        let mut core = self.sim.core.lock();
        let max_ns = core.slow_jobs.get(&self.owner).copied().unwrap_or(JOB_MAX_NS);
        let at_ns = core.now_ns + 10_000 + core.random.below(max_ns);
        core.schedule(at_ns, Event::Run(self.owner, job));
    }

    fn random(&self) -> u64 {
        self.sim.random()
    }

    fn listen(&self, address: String) -> BoxFuture<'static, std::io::Result<Box<dyn Listener>>> {
        let result = self.sim.network.listen(&self.sim, self.owner, address);
        futures::future::ready(result).boxed()
    }

    fn connect(&self, address: String) -> BoxFuture<'static, std::io::Result<Box<dyn Stream>>> {
        self.sim.network.clone().connect(self.sim.clone(), self.owner, address).boxed()
    }
}

struct Sleep {
    sim: Sim,
    at_ns: u64,
    /// The waker that the pending event will wake; polling again with the same one sets no second event.
    set_for: Option<Waker>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.sim.now_ns() >= self.at_ns {
            return Poll::Ready(());
        }
        if !self.set_for.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.sim.wake_at(self.at_ns, cx.waker().clone());
            self.set_for = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_that_spins_while_time_stands_still_is_named() {
        let sim = Sim::new(1, false);
        let (_, env) = sim.process();
        let spinning = env.group();
        let outcome = sim.run(Duration::from_secs(1), async move {
            spinning.spawn("spinner", async {
                std::future::poll_fn::<(), _>(|cx| {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                })
                .await;
            });
            env.sleep(Duration::from_millis(1)).await;
        });
        assert_eq!(outcome, Err(Stuck::Spinning("spinner")));
    }

    fn busy(seed: u64) -> (u64, Duration, Vec<u64>) {
        let sim = Sim::new(seed, false);
        let (_, env) = sim.process();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let out = Arc::clone(&heard);
        sim.run(Duration::from_secs(100), async move {
            let group = env.group();
            for worker in 0..10u64 {
                let (env2, out) = (env.clone(), Arc::clone(&out));
                group.spawn("worker", async move {
                    for _ in 0..5 {
                        env2.sleep(Duration::from_millis(env2.random_below(50))).await;
                        let n = env2.blocking(Pool::General, move || worker).await.unwrap();
                        out.lock().push(n);
                    }
                });
            }
            env.sleep(Duration::from_secs(2)).await;
        })
        .unwrap();
        let order = heard.lock().clone();
        (sim.trace_hash(), sim.elapsed(), order)
    }

    #[test]
    fn the_same_seed_runs_the_same_and_another_does_not() {
        let first = busy(7);
        assert_eq!(first, busy(7));
        assert_ne!(first.0, busy(8).0);
        assert_eq!(first.2.len(), 50);
        assert_eq!(first.1, Duration::from_secs(2));
    }

    #[test]
    fn waiting_for_nothing_is_reported() {
        let sim = Sim::new(1, false);
        assert_eq!(sim.run(Duration::from_secs(1), std::future::pending::<()>()), Err(Stuck::Deadlock));
        let (_, env) = sim.process();
        let late = async move { env.sleep(Duration::from_secs(10)).await };
        assert_eq!(sim.run(Duration::from_secs(1), late), Err(Stuck::TimeUp));
    }

    #[test]
    fn a_killed_process_does_nothing_more_and_a_paused_one_waits() {
        let sim = Sim::new(3, false);
        let (victim, env) = sim.process();
        let ticks = Arc::new(Mutex::new(0));
        let count = Arc::clone(&ticks);
        let env2 = env.clone();
        env.spawn("ticker", async move {
            loop {
                env2.sleep(Duration::from_millis(10)).await;
                *count.lock() += 1;
            }
        });
        let wait = |ms| {
            let env = sim.env_of(Owner::WORLD);
            sim.run(Duration::from_secs(60), async move { env.sleep(Duration::from_millis(ms)).await })
                .unwrap();
            *ticks.lock()
        };
        let ran = wait(1000);
        assert!((90..=101).contains(&ran), "{ran}");
        sim.pause(victim);
        let held = wait(1000);
        sim.resume(victim);
        assert!(held <= ran + 1);
        assert!(wait(1000) > held + 90);
        sim.kill(victim);
        let last = *ticks.lock();
        assert_eq!(wait(1000), last);
    }
}
