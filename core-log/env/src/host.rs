//! The real world: tokio for tasks, timers and sockets; threads for blocking work; the operating system's clock.
#![allow(clippy::disallowed_methods)] // this module is where the banned calls live

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::FutureExt;
use futures::future::BoxFuture;
use millstream_record::Millis;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::{Accepted, Env, Listener, Pool, Runtime, Stream, Task};

type Job = Box<dyn FnOnce() + Send>;

/// Threads that may fsync at once: enough to overlap the device's latency over many partitions.
const FLUSH_THREADS: usize = 8;
/// Threads that may read cold data at once.
const READ_THREADS: usize = 8;
/// Threads for everything else.
const GENERAL_THREADS: usize = 16;

/// [`Runtime`] on tokio.
pub struct HostRuntime {
    handle: tokio::runtime::Handle,
    began: Instant,
    flush: Arc<Semaphore>,
    read: Arc<Semaphore>,
    general: Arc<Semaphore>,
}

impl HostRuntime {
    /// An [`Env`] on the tokio runtime that `handle` names.
    pub fn on(handle: tokio::runtime::Handle) -> Env {
        Env::new(Arc::new(Self {
            handle,
            began: Instant::now(),
            flush: Arc::new(Semaphore::new(FLUSH_THREADS)),
            read: Arc::new(Semaphore::new(READ_THREADS)),
            general: Arc::new(Semaphore::new(GENERAL_THREADS)),
        }))
    }

    /// An [`Env`] on the tokio runtime that runs the caller.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn current() -> Env {
        Self::on(tokio::runtime::Handle::current())
    }

    /// A tokio runtime of its own with `threads` workers, and an [`Env`] on it. Keep the runtime as long as the env is used.
    ///
    /// # Errors
    /// When the operating system refuses a thread.
    pub fn start(name: &str, threads: usize) -> io::Result<(tokio::runtime::Runtime, Env)> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads.max(1))
            .thread_name(name)
            .enable_all()
            .build()?;
        let env = Self::on(runtime.handle().clone());
        Ok((runtime, env))
    }
}

impl Runtime for HostRuntime {
    fn now(&self) -> Millis {
        // A clock before 1970 is a broken host; 0 keeps timestamps valid until somebody mends it.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    fn sleep_until(&self, at: Duration) -> BoxFuture<'static, ()> {
        let _inside = self.handle.enter();
        // Far deadlines (Duration::MAX as "never") would overflow the clock; a year is as good as never.
        let at = at.min(self.began.elapsed() + Duration::from_secs(365 * 86_400));
        tokio::time::sleep_until((self.began + at).into()).boxed()
    }

    fn spawn(&self, _name: &'static str, future: BoxFuture<'static, ()>) -> Task {
        let (run, task) = Task::wrap(future);
        self.handle.spawn(run);
        task
    }

    fn run_blocking(&self, pool: Pool, job: Job) {
        let Some(job) = after_this_one(pool, job) else { return };
        let slots = match pool {
            Pool::Flush => &self.flush,
            Pool::Read => &self.read,
            Pool::General => &self.general,
        };
        match Arc::clone(slots).try_acquire_owned() {
            Ok(slot) => {
                self.handle.spawn_blocking(move || {
                    work(pool, job);
                    drop(slot);
                });
            }
            Err(_) => {
                let slots = Arc::clone(slots);
                let handle = self.handle.clone();
                self.handle.spawn(async move {
                    let Ok(slot) = slots.acquire_owned().await else { return };
                    handle.spawn_blocking(move || {
                        work(pool, job);
                        drop(slot);
                    });
                });
            }
        }
    }

    fn random(&self) -> u64 {
        rand::random()
    }

    fn listen(&self, address: String) -> BoxFuture<'static, io::Result<Box<dyn Listener>>> {
        let handle = self.handle.clone();
        async move {
            let _inside = handle.enter();
            let std = std::net::TcpListener::bind(&address)?;
            std.set_nonblocking(true)?;
            let listener = TcpListener::from_std(std)?;
            let local = listener.local_addr()?.to_string();
            Ok(Box::new(HostListener { listener, local }) as Box<dyn Listener>)
        }
        .boxed()
    }

    fn connect(&self, address: String) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        let handle = self.handle.clone();
        async move {
            // Spawned, because a caller may be polled outside of tokio.
            let stream = handle
                .spawn(async move { TcpStream::connect(address).await })
                .await
                .map_err(io::Error::other)??;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        }
        .boxed()
    }
}

thread_local! {
    /// On a thread that is flushing: what it does next. `None` on all others.
    static NEXT: RefCell<Option<Vec<Job>>> = const { RefCell::new(None) };
}

/// Runs `job`, and then what it left for this thread.
fn work(pool: Pool, job: Job) {
    struct Over;
    impl Drop for Over {
        fn drop(&mut self) {
            NEXT.take();
        }
    }
    let _over = Over;
    if pool == Pool::Flush {
        NEXT.set(Some(Vec::new()));
    }
    let mut now = Some(job);
    while let Some(job) = now {
        job();
        now = NEXT.with_borrow_mut(|next| next.as_mut()?.pop());
    }
}

/// A flush that asks for another one, as each does for what became dirty meanwhile, leaves it to its own thread: to wake another for
/// it takes longer than many a sync. Only one, since others can run beside it; `job` comes back where it has to find a thread. A flush waits
/// for no other job, so what it leaves is never waited for by itself.
fn after_this_one(pool: Pool, job: Job) -> Option<Job> {
    NEXT.with_borrow_mut(|next| match next {
        Some(next) if pool == Pool::Flush && next.is_empty() => {
            next.push(job);
            None
        }
        _ => Some(job),
    })
}

struct HostListener {
    listener: TcpListener,
    local: String,
}

impl Listener for HostListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Accepted>> {
        async move {
            let (stream, peer) = self.listener.accept().await?;
            stream.set_nodelay(true)?;
            Ok(Accepted { stream: Box::new(stream), peer: peer.to_string() })
        }
        .boxed()
    }

    fn local_addr(&self) -> String {
        self.local.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::Elapsed;

    #[test]
    fn a_group_takes_its_tasks_with_it() {
        let (runtime, env) = HostRuntime::start("env-test", 2).unwrap();
        runtime.block_on(async {
            let group = env.group();
            let (alive, ended) = futures::channel::oneshot::channel::<()>();
            group.spawn("forever", async move {
                let _alive = alive;
                futures::future::pending::<()>().await;
            });
            drop(group);
            assert!(env.timeout(Duration::from_secs(5), ended).await.expect("ended in time").is_err());
        });
    }

    #[test]
    fn a_timeout_ends_a_wait_and_a_ready_future_wins() {
        let (runtime, env) = HostRuntime::start("env-test", 1).unwrap();
        runtime.block_on(async {
            let never = futures::future::pending::<()>();
            assert_eq!(env.timeout(Duration::from_millis(1), never).await, Err(Elapsed));
            assert_eq!(env.timeout(Duration::ZERO, async { 7 }).await, Ok(7));
        });
    }

    #[test]
    fn a_pool_runs_at_most_its_bound_at_once_and_every_job() {
        let (runtime, env) = HostRuntime::start("env-test", 2).unwrap();
        let running = Arc::new(AtomicUsize::new(0));
        let most = Arc::new(AtomicUsize::new(0));
        runtime.block_on(async {
            let jobs = (0..100).map(|_| {
                let (running, most) = (Arc::clone(&running), Arc::clone(&most));
                env.blocking(Pool::Flush, move || {
                    most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::yield_now();
                    running.fetch_sub(1, Ordering::SeqCst);
                })
            });
            assert!(futures::future::join_all(jobs).await.iter().all(Result::is_ok));
        });
        assert!(most.load(Ordering::SeqCst) <= FLUSH_THREADS);
    }

    #[test]
    fn a_flush_that_follows_another_stays_on_its_thread() {
        let (runtime, env) = HostRuntime::start("env-test", 2).unwrap();
        let here = || std::thread::current().id();
        let (flush, other) = runtime.block_on(async {
            let (send, receive) = futures::channel::oneshot::channel();
            let (inner, first) = (env.clone(), here);
            env.submit(Pool::Flush, move || {
                let began = first();
                let (told, hear) = std::sync::mpsc::channel();
                inner.submit(Pool::General, move || told.send(first()).unwrap());
                let other = hear.recv().unwrap() != began; // a job of another pool does not wait for this one
                inner.submit(Pool::Flush, move || {
                    send.send((began == first(), other)).expect("somebody waits")
                });
            });
            env.timeout(Duration::from_secs(5), receive).await.unwrap().unwrap()
        });
        assert!(flush && other);
    }

    #[test]
    fn bytes_cross_a_socket() {
        let (runtime, env) = HostRuntime::start("env-test", 2).unwrap();
        runtime.block_on(async {
            let mut listener = env.listen("127.0.0.1:0").await.unwrap();
            let mut near = env.connect(&listener.local_addr()).await.unwrap();
            let mut far = listener.accept().await.unwrap().stream;
            near.write_all(b"hello").await.unwrap();
            let mut heard = [0; 5];
            far.read_exact(&mut heard).await.unwrap();
            assert_eq!(&heard, b"hello");
        });
    }
}
