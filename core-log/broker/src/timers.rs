//! One timer for the whole broker: whoever has a deadline asks to be called, and an idle partition asks for nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::future::{Either, select};
use millstream_env::{Env, TaskGroup};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Something with deadlines of its own.
pub(crate) trait Timed: Send + Sync + 'static {
    /// The moment `at` that was asked for has come. Who asked again for an earlier one in between is called for both, and
    /// ignores the one that it no longer knows.
    fn fire(self: Arc<Self>, at: Duration);
}

/// What one owner has asked of [`Timers`]; kept under the owner's own lock.
#[derive(Debug, Default)]
pub(crate) struct Armed(Option<Duration>);

impl Armed {
    /// Notes that the owner wants to be called at `at`; gives the moment to ask for, unless an earlier call is on its way.
    pub(crate) fn want(&mut self, at: Duration) -> Option<Duration> {
        if self.0.is_some_and(|set| set <= at) {
            return None;
        }
        self.0 = Some(at);
        self.0
    }

    /// Whether the call for `at` is the one that the owner waits for; it waits for none after that.
    pub(crate) fn fired(&mut self, at: Duration) -> bool {
        let current = self.0 == Some(at);
        if current {
            self.0 = None;
        }
        current
    }
}

/// The deadlines of everybody, by time. Bounded by its owners: each has at most one call outstanding that it waits for.
pub(crate) struct Timers {
    env: Env,
    queue: Mutex<Queue>,
    earlier: Notify,
}

#[derive(Default)]
struct Queue {
    by_time: BTreeMap<(Duration, u64), Weak<dyn Timed>>,
    next: u64,
}

impl Timers {
    /// Starts the one task, in `tasks`.
    pub(crate) fn start(tasks: &TaskGroup) -> Arc<Self> {
        let timers =
            Arc::new(Self { env: tasks.env().clone(), queue: Mutex::default(), earlier: Notify::new() });
        tasks.spawn("timers", Arc::clone(&timers).run());
        timers
    }

    /// Calls `owner` at `at`, in monotonic time, if it still exists then.
    pub(crate) fn at(&self, at: Duration, owner: Weak<dyn Timed>) {
        let is_first = {
            let mut queue = self.queue.lock();
            let number = queue.next;
            queue.next += 1;
            queue.by_time.insert((at, number), owner);
            queue.by_time.first_key_value().is_some_and(|(first, _)| *first == (at, number))
        };
        if is_first {
            self.earlier.notify_one();
        }
    }

    async fn run(self: Arc<Self>) {
        loop {
            let next = self.queue.lock().by_time.first_key_value().map(|((at, _), _)| *at);
            let earlier = std::pin::pin!(self.earlier.notified());
            match next {
                None => earlier.await,
                Some(at) => match select(self.env.sleep_until(at), earlier).await {
                    Either::Left(_) => self.fire_due(),
                    Either::Right(_) => {}
                },
            }
        }
    }

    fn fire_due(&self) {
        let now = self.env.elapsed();
        loop {
            let due = {
                let mut queue = self.queue.lock();
                match queue.by_time.first_entry() {
                    Some(entry) if entry.key().0 <= now => Some(entry.remove_entry()),
                    _ => None,
                }
            };
            let Some(((at, _), owner)) = due else { return };
            if let Some(owner) = owner.upgrade() {
                owner.fire(at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_asks_again_only_for_an_earlier_moment() {
        let at = Duration::from_millis;
        let mut armed = Armed::default();
        assert_eq!(armed.want(at(10)), Some(at(10)));
        assert_eq!(armed.want(at(20)), None);
        assert_eq!(armed.want(at(5)), Some(at(5)));
        assert!(!armed.fired(at(10)), "replaced by the one at 5");
        assert!(armed.fired(at(5)));
        assert_eq!(armed.want(at(20)), Some(at(20)));
    }
}
