//! # Env: the one handle to the outside world
//!
//! Everything that would make two runs differ comes through here: clock, sleep, spawn, randomness, blocking I/O and the
//! network. The broker, the client, the network room, the node and the runtimes of streams and connect hold an [`Env`] and
//! nothing else of the kind; clippy bans the direct calls. In production an `Env` stands on tokio and its threads
//! ([`host`]); in `core-log/sim` the same code stands on one thread, virtual time and a seed.
//!
//! Invariants:
//! - Time has two clocks. [`Env::now`] is the wall clock ([`Millis`], may jump); [`Env::elapsed`] is monotonic and is what
//!   deadlines are made of.
//! - A spawned task belongs to somebody: a [`TaskGroup`] aborts what it spawned when it is dropped, so a node that goes
//!   takes its tasks with it.
//! - Blocking work runs in a named, bounded [`Pool`]; it never runs on the threads that poll futures.
//!
//! Deliberately absent: files (storage has its own `Disk`, which is synchronous), TLS (net), timers that repeat.

pub mod host;
mod task;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, Either, select};
use millstream_record::{Millis, Uuid};
use tokio::io::{AsyncRead, AsyncWrite};

pub use host::HostRuntime;
pub use task::{Task, TaskGroup};

/// A byte stream between two nodes.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// A stream that a peer opened, with the peer's address as text.
pub struct Accepted {
    /// The connection.
    pub stream: Box<dyn Stream>,
    /// `host:port` of the peer.
    pub peer: String,
}

/// Accepts connections on one address.
pub trait Listener: Send + 'static {
    /// Waits for the next connection. Cancel safe.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Accepted>>;
    /// The address in use, as `host:port`; it tells the port when 0 was asked for.
    fn local_addr(&self) -> String;
}

/// Where a blocking job runs. Each pool has its own bound, so that slow reads never hold up an fsync.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pool {
    /// fsync and what belongs to it.
    Flush,
    /// Reads of cold log data.
    Read,
    /// Anything else: directory scans, retention, a connector's files.
    General,
}

/// The outside world, as the host or the simulator provides it. Users hold an [`Env`].
pub trait Runtime: Send + Sync + 'static {
    /// Wall clock, UTC.
    fn now(&self) -> Millis;
    /// Monotonic time since this runtime began.
    fn elapsed(&self) -> Duration;
    /// Completes when [`Runtime::elapsed`] has reached `at`.
    fn sleep_until(&self, at: Duration) -> BoxFuture<'static, ()>;
    /// Runs `future` to its end in the background. `name` shows up in traces.
    fn spawn(&self, name: &'static str, future: BoxFuture<'static, ()>) -> Task;
    /// Runs `job` in `pool`; jobs beyond the pool's bound wait in order.
    fn run_blocking(&self, pool: Pool, job: Box<dyn FnOnce() + Send>);
    /// The next random number.
    fn random(&self) -> u64;
    /// Listens on `host:port`.
    fn listen(&self, address: String) -> BoxFuture<'static, io::Result<Box<dyn Listener>>>;
    /// Connects to `host:port`.
    fn connect(&self, address: String) -> BoxFuture<'static, io::Result<Box<dyn Stream>>>;
}

/// A wait took longer than its bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

impl std::fmt::Display for Elapsed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the wait took longer than its bound")
    }
}
impl std::error::Error for Elapsed {}

/// A blocking job was dropped before it ran, or it panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobLost;

impl std::fmt::Display for JobLost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the blocking job was lost: its pool is shutting down, or the job panicked")
    }
}
impl std::error::Error for JobLost {}

/// Cheap, cloneable handle to a [`Runtime`].
#[derive(Clone)]
pub struct Env(Arc<dyn Runtime>);

impl Env {
    /// A handle to `runtime`.
    pub fn new(runtime: Arc<dyn Runtime>) -> Self {
        Self(runtime)
    }

    /// Wall clock, UTC. It may jump; use it for timestamps only.
    pub fn now(&self) -> Millis {
        self.0.now()
    }

    /// Monotonic time since the runtime began; use it for deadlines.
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    /// Waits `duration`.
    pub fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.0.sleep_until(self.0.elapsed().saturating_add(duration))
    }

    /// Waits until [`Env::elapsed`] has reached `at`.
    pub fn sleep_until(&self, at: Duration) -> BoxFuture<'static, ()> {
        self.0.sleep_until(at)
    }

    /// `future`, or [`Elapsed`] after `bound`. The future is polled first, so one that is ready always wins.
    pub async fn timeout<F: Future>(&self, bound: Duration, future: F) -> Result<F::Output, Elapsed> {
        let future = std::pin::pin!(future);
        match select(future, self.sleep(bound)).await {
            Either::Left((output, _)) => Ok(output),
            Either::Right(((), _)) => Err(Elapsed),
        }
    }

    /// Runs `future` in the background. The task goes on when the [`Task`] is dropped; prefer a [`TaskGroup`].
    pub fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) -> Task {
        self.0.spawn(name, Box::pin(future))
    }

    /// Runs `job` in `pool` and hands back its result.
    pub async fn blocking<T: Send + 'static>(
        &self,
        pool: Pool,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JobLost> {
        let (send, receive) = futures::channel::oneshot::channel();
        self.submit(pool, move || {
            let _ = send.send(job()); // nobody waits any more: the work itself still had to be done
        });
        receive.await.map_err(|_| JobLost)
    }

    /// Runs `job` in `pool`; nobody waits for it.
    pub fn submit(&self, pool: Pool, job: impl FnOnce() + Send + 'static) {
        self.0.run_blocking(pool, Box::new(job));
    }

    /// The next random number.
    pub fn random(&self) -> u64 {
        self.0.random()
    }

    /// A random number in `0..bound`; 0 when `bound` is 0.
    pub fn random_below(&self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.random() % bound }
    }

    /// A random id, fit for topics and directories.
    pub fn random_uuid(&self) -> Uuid {
        Uuid::from_random(self.random(), self.random())
    }

    /// Listens on `host:port`; port 0 picks a free one.
    pub async fn listen(&self, address: &str) -> io::Result<Box<dyn Listener>> {
        self.0.listen(address.to_owned()).await
    }

    /// Connects to `host:port`.
    pub async fn connect(&self, address: &str) -> io::Result<Box<dyn Stream>> {
        self.0.connect(address.to_owned()).await
    }

    /// A group of tasks that ends with its owner.
    pub fn group(&self) -> TaskGroup {
        TaskGroup::new(self.clone())
    }
}

impl std::fmt::Debug for Env {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Env")
    }
}
