//! State of tasks that are gone: which tasks of this process are at work, and what becomes of the state of the others.
//!
//! A store that is left behind falls ever further back behind its changelog. Once that is compacted beyond what its tombstones are kept
//! for (`delete.retention.ms`), replaying the rest of it would leave keys in the store that were deleted meanwhile. So the state of a
//! task that has been away for long is removed, and restored from the beginning of the changelog when it comes back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use millstream_env::{Env, Pool};
use millstream_streams_core::TaskId;
use parking_lot::Mutex;

use crate::error::Result;
use crate::state::{Slot, StateDir};
use crate::worker::Shared;

/// The longest time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// The shortest.
const LEAST_PAUSE: Duration = Duration::from_millis(100);

/// Which tasks are at work in this process. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Tenancy {
    tenants: Arc<Mutex<Tenants>>,
}

#[derive(Default)]
struct Tenants {
    /// How many leases there are: a task may come to one worker before it has left another.
    at_work: BTreeMap<TaskId, usize>,
    /// Monotonic time since which a task has been away, as far as that is known.
    away_since: BTreeMap<TaskId, Duration>,
}

/// A task is at work for as long as this lives.
pub(crate) struct Lease {
    tenancy: Tenancy,
    task: TaskId,
    env: Env,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.tenancy.leave(self.task, self.env.elapsed());
    }
}

impl Tenancy {
    /// The task comes to work here; its state stays from here on.
    pub(crate) fn lease(&self, task: TaskId, env: &Env) -> Lease {
        self.enter(task);
        Lease { tenancy: self.clone(), task, env: env.clone() }
    }

    fn enter(&self, task: TaskId) {
        let mut tenants = self.tenants.lock();
        *tenants.at_work.entry(task).or_default() += 1;
        tenants.away_since.remove(&task);
    }

    fn leave(&self, task: TaskId, now: Duration) {
        let mut tenants = self.tenants.lock();
        let Some(leases) = tenants.at_work.get_mut(&task) else { return };
        *leases -= 1;
        if *leases == 0 {
            tenants.at_work.remove(&task);
            tenants.away_since.insert(task, now);
        }
    }

    /// Takes the stores of tasks that have been away for `delay` from them. Their rows are still there.
    fn evict(&self, state: &StateDir, now: Duration, delay: Duration) -> Result<Vec<Slot>> {
        // Held throughout, so that no task comes back while its stores are taken.
        let mut tenants = self.tenants.lock();
        let mut slots = Vec::new();
        for task in state.tasks()? {
            if tenants.at_work.contains_key(&task) {
                continue;
            }
            let since = *tenants.away_since.entry(task).or_insert(now);
            if now.saturating_sub(since) >= delay {
                tracing::info!(%task, "removing the state of a task that has been away for long");
                slots.extend(state.disown(task)?);
                tenants.away_since.remove(&task);
            }
        }
        Ok(slots)
    }
}

/// Removes the state of tasks that have been away for long, for as long as the application runs.
pub(crate) async fn clean_up(shared: Arc<Shared>) {
    let delay = Duration::from_millis(shared.config.state_cleanup_delay_ms);
    loop {
        let (state, tenancy, now) = (shared.state.clone(), shared.tenancy.clone(), shared.env.elapsed());
        let done = shared.env.blocking(Pool::General, move || {
            let slots = tenancy.evict(&state, now, delay)?;
            slots.iter().try_for_each(|slot| state.remove_rows(slot))
        });
        if let Ok(Err(error)) = done.await {
            tracing::warn!(%error, "could not remove state that is not needed; trying again later");
        }
        shared.env.sleep(delay.clamp(LEAST_PAUSE, LOOK_EVERY)).await;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use millstream_record::{Offset, TopicId};
    use millstream_streams_core::store::Store;

    use super::*;
    use crate::state::{Fold, Reached};

    const DELAY: Duration = Duration::from_secs(600);

    fn task(partition: i32) -> TaskId {
        TaskId { subtopology: 0, partition }
    }

    #[test]
    fn state_goes_when_its_task_has_been_away_for_long() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let tenancy = Tenancy::default();
        let reached = Reached { topic_id: TopicId::from_random(1, 2), offset: Offset(10) };
        let slots = [1, 10, 2].map(|partition| {
            let slot = state.create(task(partition), "s", reached.topic_id).unwrap();
            let changes = vec![(Bytes::from("k"), Some(Bytes::from("v")))];
            state.fold(vec![Fold { slot: slot.clone(), changes, reached }]).unwrap();
            slot
        });
        let at = Duration::from_secs;
        let look = |now, expected: &[i32]| {
            for slot in tenancy.evict(&state, now, DELAY).unwrap() {
                state.remove_rows(&slot).unwrap();
            }
            let left: Vec<_> = state.tasks().unwrap().into_iter().map(|task| task.partition).collect();
            assert_eq!(left, expected, "at {now:?}");
        };
        tenancy.enter(task(1));
        tenancy.enter(task(10));
        tenancy.enter(task(10)); // another worker of the process takes it over
        look(at(50), &[1, 2, 10]); // the state of task 2 was found here: nobody knows since when it is away
        tenancy.leave(task(1), at(100));
        tenancy.leave(task(10), at(100));
        look(at(649), &[1, 2, 10]);
        look(at(650), &[1, 10]);
        tenancy.enter(task(1)); // it was away, though not for long
        look(at(900), &[1, 10]);
        tenancy.leave(task(1), at(900));
        look(at(1499), &[1, 10]);
        look(at(1500), &[10]);
        assert!(state.find(task(1), "s").unwrap().is_none(), "so it will be restored from the beginning");
        assert!(state.store("s".into(), &slots[0]).get(b"k").unwrap().is_none());
        assert!(state.store("s".into(), &slots[1]).get(b"k").unwrap().is_some());
    }
}
