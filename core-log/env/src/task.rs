//! Tasks and who owns them.

use std::future::Future;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::{AbortHandle, Abortable, BoxFuture};
use parking_lot::Mutex;

use crate::Env;

/// A task in the background. Dropping it leaves the task running.
pub struct Task {
    abort: AbortHandle,
    done: BoxFuture<'static, ()>,
}

impl Task {
    /// Splits `future` into what a runtime has to poll and the handle to it.
    pub fn wrap(future: BoxFuture<'static, ()>) -> (BoxFuture<'static, ()>, Self) {
        let (abort, registration) = AbortHandle::new_pair();
        let (finished, done) = futures::channel::oneshot::channel::<()>();
        let body = Abortable::new(future, registration);
        let run = async move {
            let _held = finished; // dropped at the end, at an abort and at a panic: all of them count as done
            let _ = body.await;
        };
        (run.boxed(), Self { abort, done: done.map(|_| ()).boxed() })
    }

    /// Stops the task at its next await.
    pub fn abort(&self) {
        self.abort.abort();
    }

    /// Waits until the task has ended, by itself or by an abort.
    pub async fn join(self) {
        self.done.await;
    }
}

/// Tasks that belong to one owner; they are aborted when the last clone of the group is dropped.
#[derive(Clone)]
pub struct TaskGroup {
    env: Env,
    members: Arc<Members>,
}

#[derive(Default)]
struct Members(Mutex<Vec<AbortHandle>>);

impl Drop for Members {
    fn drop(&mut self) {
        for handle in self.0.lock().drain(..) {
            handle.abort();
        }
    }
}

/// Finished members are swept out whenever the list has doubled since the last sweep, with at least this many in it.
const SWEEP_FROM: usize = 64;

impl TaskGroup {
    pub(crate) fn new(env: Env) -> Self {
        Self { env, members: Arc::default() }
    }

    /// Spawns a task that ends with this group at the latest.
    pub fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        let (abort, registration) = AbortHandle::new_pair();
        let gate = abort.clone();
        {
            let mut members = self.members.0.lock();
            if members.len() >= SWEEP_FROM && members.len().is_power_of_two() {
                members.retain(|member| !member.is_aborted());
            }
            members.push(abort);
        }
        self.env.spawn(name, async move {
            let _ = Abortable::new(future, registration).await;
            gate.abort(); // marks the member as finished for the sweep
        });
    }

    /// Stops every member now.
    pub fn abort_all(&self) {
        for handle in self.members.0.lock().drain(..) {
            handle.abort();
        }
    }

    /// The env of this group.
    pub fn env(&self) -> &Env {
        &self.env
    }
}
