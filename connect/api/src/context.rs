//! What a running task may ask of its worker.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use millstream_record::Millis;

use crate::{ConnectError, Result};

/// The worker's side of [`TaskContext`].
pub trait TaskHost: Send + Sync {
    /// Wall clock, UTC.
    fn now(&self) -> Millis;
    /// Completes after `duration`.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
    /// Runs `job` where it may block, in a bounded pool.
    fn submit(&self, job: Box<dyn FnOnce() + Send>);
    /// Whether the task has been asked to stop.
    fn stopping(&self) -> bool;
    /// Completes when the task is asked to stop.
    fn stopped(&self) -> BoxFuture<'static, ()>;
}

/// Clock, waiting, blocking work and the stop signal of a task. Cheap to clone.
#[derive(Clone)]
pub struct TaskContext(Arc<dyn TaskHost>);

impl TaskContext {
    /// A context that stands on `host`.
    pub fn new(host: Arc<dyn TaskHost>) -> Self {
        Self(host)
    }

    /// A context without a worker, for check time and tests: blocking jobs run where they are asked for, sleeps end at
    /// once, the clock stands still at `now`, and nobody asks to stop.
    pub fn inline(now: Millis) -> Self {
        Self(Arc::new(Inline { now }))
    }

    /// Wall clock, UTC.
    pub fn now(&self) -> Millis {
        self.0.now()
    }

    /// Waits `duration`.
    pub fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.0.sleep(duration)
    }

    /// Runs `job` where it may block and hands back its result.
    ///
    /// # Errors
    /// Retriable when the job was lost: the worker is shutting down, or the job panicked.
    pub async fn blocking<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let (send, receive) = futures::channel::oneshot::channel();
        self.0.submit(Box::new(move || {
            let _ = send.send(job()); // nobody waits any more: the work itself still had to be done
        }));
        receive.await.map_err(|_| ConnectError::retriable("blocking work", "the job was lost"))
    }

    /// Whether the task has been asked to stop.
    pub fn stopping(&self) -> bool {
        self.0.stopping()
    }

    /// Completes when the task is asked to stop.
    pub fn stopped(&self) -> BoxFuture<'static, ()> {
        self.0.stopped()
    }
}

impl std::fmt::Debug for TaskContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TaskContext")
    }
}

struct Inline {
    now: Millis,
}

impl TaskHost for Inline {
    fn now(&self) -> Millis {
        self.now
    }

    fn sleep(&self, _duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(futures::future::ready(()))
    }

    fn submit(&self, job: Box<dyn FnOnce() + Send>) {
        job();
    }

    fn stopping(&self) -> bool {
        false
    }

    fn stopped(&self) -> BoxFuture<'static, ()> {
        Box::pin(futures::future::pending())
    }
}
