//! openraft's runtime on top of [`Env`], so that consensus runs wherever an env does: on tokio, or in the simulator.
//!
//! openraft calls its runtime through functions without a receiver (`Runtime::sleep`, `Instant::now`), while every node has an
//! env of its own, and a simulation has many nodes on one thread. So the env is in a thread-local that is set for as long as
//! code of one node is being polled: every task that openraft spawns is wrapped in [`Inside`], and so is every call into it.
//!
//! Invariants: outside of [`Inside`] and [`within`] no function of this runtime is called; what is spawned inherits the env of the
//! task that spawned it. Nothing here depends on addresses, threads or the operating system's randomness, so that equal seeds
//! give equal runs: tokio's own `watch` draws which waiter wakes first, therefore there is another one in [`watch`].

mod channels;
mod instant;
mod watch;

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::channel::oneshot;
use futures::future::BoxFuture;
use millstream_env::{Elapsed, Env, HostRuntime};
use openraft::AsyncRuntime;
use rand::SeedableRng;
use rand::rngs::SmallRng;

pub(super) use instant::Instant;

thread_local! {
    static ENV: RefCell<Option<Env>> = const { RefCell::new(None) };
}

/// Calls `f` as code of the node that `env` belongs to.
pub(super) fn within<T>(env: &Env, f: impl FnOnce() -> T) -> T {
    struct Restore(Option<Env>);
    impl Drop for Restore {
        fn drop(&mut self) {
            ENV.replace(self.0.take());
        }
    }
    let _restore = Restore(ENV.replace(Some(env.clone())));
    f()
}

fn current() -> Env {
    ENV.with_borrow(Clone::clone)
        .expect("consensus code is only polled inside of an env, see the module's text")
}

/// A future that is polled, and dropped, as code of one node.
pub(super) struct Inside<F: Future> {
    env: Env,
    future: Option<Pin<Box<F>>>,
}

impl<F: Future> Inside<F> {
    pub(super) fn new(env: &Env, future: F) -> Self {
        Self { env: env.clone(), future: Some(Box::pin(future)) }
    }
}

impl<F: Future> Future for Inside<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Self { env, future } = &mut *self;
        let Some(running) = future else { return Poll::Pending };
        let output = within(env, || running.as_mut().poll(cx));
        if output.is_ready() {
            within(env, || future.take());
        }
        output
    }
}

impl<F: Future> Drop for Inside<F> {
    fn drop(&mut self) {
        within(&self.env, || drop(self.future.take()));
    }
}

/// The runtime; an instance of it is only needed to block on it, as openraft's own tests do.
pub(super) struct EnvRuntime {
    tokio: tokio::runtime::Runtime,
    env: Env,
}

impl fmt::Debug for EnvRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EnvRuntime")
    }
}

/// A spawned task ended without a result: it panicked, or its node is gone.
#[derive(Debug)]
pub(super) struct TaskLost;

impl fmt::Display for TaskLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a task of the quorum ended without a result")
    }
}

/// Waits for the result of a spawned task; dropping it leaves the task running.
pub(super) struct Joined<T>(oneshot::Receiver<T>);

impl<T> Future for Joined<T> {
    type Output = Result<T, TaskLost>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map_err(|_| TaskLost)
    }
}

/// A future with a bound on its time; the future is polled first, so one that is ready always wins.
pub(super) struct Timeout<F> {
    future: Pin<Box<F>>,
    sleep: BoxFuture<'static, ()>,
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => self.sleep.as_mut().poll(cx).map(|()| Err(Elapsed)),
        }
    }
}

impl AsyncRuntime for EnvRuntime {
    type JoinError = TaskLost;
    type JoinHandle<T: Send + 'static> = Joined<T>;
    type Sleep = BoxFuture<'static, ()>;
    type Instant = Instant;
    type TimeoutError = Elapsed;
    type Timeout<R, T: Future<Output = R> + Send> = Timeout<T>;
    type ThreadLocalRng = SmallRng;
    type Mpsc = channels::Mpsc;
    type Watch = watch::Watch;
    type Oneshot = channels::Oneshot;
    type Mutex<T: Send + 'static> = channels::Mutex<T>;

    fn spawn<T>(future: T) -> Joined<T::Output>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        let env = current();
        let (send, receive) = oneshot::channel();
        let inside = Inside::new(&env, future);
        env.spawn("quorum", async move {
            let _ = send.send(inside.await); // nobody may wait for it
        });
        Joined(receive)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        current().sleep(duration)
    }

    fn sleep_until(deadline: Instant) -> Self::Sleep {
        current().sleep_until(deadline.elapsed_at())
    }

    fn timeout<R, F: Future<Output = R> + Send>(duration: Duration, future: F) -> Timeout<F> {
        Timeout { future: Box::pin(future), sleep: Self::sleep(duration) }
    }

    fn timeout_at<R, F: Future<Output = R> + Send>(deadline: Instant, future: F) -> Timeout<F> {
        Timeout { future: Box::pin(future), sleep: Self::sleep_until(deadline) }
    }

    fn is_panic(_: &TaskLost) -> bool {
        true // tasks are never cancelled, so one without a result panicked
    }

    fn thread_rng() -> SmallRng {
        SmallRng::seed_from_u64(current().random())
    }

    fn new(threads: usize) -> Self {
        let (tokio, env) = HostRuntime::start("quorum", threads)
            .unwrap_or_else(|error| panic!("the operating system refused a thread: {error}"));
        Self { tokio, env }
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.tokio.block_on(Inside::new(&self.env, future))
    }

    async fn spawn_blocking<F, T>(f: F) -> Result<T, std::io::Error>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let env = current();
        env.blocking(millstream_env::Pool::General, f).await.map_err(std::io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_runtime_as_openraft_means_it() {
        openraft::rt::testing::Suite::<EnvRuntime>::test_all();
    }

    #[test]
    fn two_nodes_on_one_thread_each_see_their_own_env() {
        let (_a, first) = HostRuntime::start("first", 1).unwrap();
        let (_b, second) = HostRuntime::start("second", 1).unwrap();
        let far = Duration::from_millis(3);
        within(&first, || {
            let before = <Instant as openraft::Instant>::now();
            let inner = within(&second, <Instant as openraft::Instant>::now);
            assert!(inner.elapsed_at() <= second.elapsed());
            assert!(<Instant as openraft::Instant>::now() >= before, "the outer env is back");
            assert!(before + far > before);
        });
        assert!(ENV.with_borrow(Option::is_none));
    }
}
