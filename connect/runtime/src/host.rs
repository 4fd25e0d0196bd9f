//! The worker's side of a task's context, and the stop signal.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Either, select};
use millstream_connect_api::{TaskContext, TaskHost};
use millstream_env::{Env, Pool};
use millstream_record::Millis;
use tokio::sync::watch;

/// Asks tasks to stop. Dropping it does too.
#[derive(Debug)]
pub struct Stopper(watch::Sender<bool>);

/// Hears the request to stop.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

/// A stop signal: one side asks, any number of tasks hear it.
pub fn stop_signal() -> (Stopper, Stop) {
    let (send, receive) = watch::channel(false);
    (Stopper(send), Stop(receive))
}

impl Stopper {
    /// Asks to stop. Tasks commit what they have and end.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Stop {
    /// Whether a stop was asked for.
    pub fn is_stopping(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }

    /// Completes when a stop is asked for.
    pub fn wait(&self) -> BoxFuture<'static, ()> {
        let mut receive = self.0.clone();
        async move {
            let _ = receive.wait_for(|stopping| *stopping).await; // an error means that the stopper is gone: stop as well
        }
        .boxed()
    }
}

impl Stop {
    /// `future`, or `None` when a stop is asked for; a stop that was asked for already wins over a future that is ready.
    pub(crate) async fn or<F: Future>(&self, future: F) -> Option<F::Output> {
        match select(self.wait(), std::pin::pin!(future)).await {
            Either::Left(_) => None,
            Either::Right((output, _)) => Some(output),
        }
    }
}

struct Host {
    env: Env,
    stop: Stop,
}

pub(crate) fn task_context(env: &Env, stop: &Stop) -> TaskContext {
    TaskContext::new(Arc::new(Host { env: env.clone(), stop: stop.clone() }))
}

impl TaskHost for Host {
    fn now(&self) -> Millis {
        self.env.now()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.env.sleep(duration)
    }

    fn submit(&self, job: Box<dyn FnOnce() + Send>) {
        self.env.submit(Pool::General, job);
    }

    fn stopping(&self) -> bool {
        self.stop.is_stopping()
    }

    fn stopped(&self) -> BoxFuture<'static, ()> {
        self.stop.wait()
    }
}
