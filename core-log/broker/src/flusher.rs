//! Group commit: partitions with unsynced records are gathered while earlier ones are being synced, and go to disk in rounds.

use std::sync::Arc;

use millstream_env::{Env, Pool};
use millstream_storage::{Durability, FlushJob, FlushPoint, StorageError};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::partition::Partition;

/// Syncs that run at once. While they run the next group forms; more of them would only split it.
const LANES: usize = 4;

/// Gathers partitions to be flushed. Its queue is bounded by the partitions there are: each is in it at most once, since the
/// replica machine asks for no second flush while one is on its way.
pub(crate) struct Flusher {
    env: Env,
    queue: Mutex<Queue>,
    idle: Notify,
}

#[derive(Default)]
struct Queue {
    dirty: Vec<Arc<Partition>>,
    running: usize,
}

impl Flusher {
    pub(crate) fn new(env: Env) -> Arc<Self> {
        Arc::new(Self { env, queue: Mutex::default(), idle: Notify::new() })
    }

    /// Puts `partition` into the next group.
    pub(crate) fn submit(self: &Arc<Self>, partition: Arc<Partition>) {
        self.queue.lock().dirty.push(partition);
        self.start_round();
    }

    /// Shares what is dirty out among the lanes that are free.
    fn start_round(self: &Arc<Self>) {
        let (dirty, free) = {
            let mut queue = self.queue.lock();
            let free = LANES - queue.running;
            if free == 0 || queue.dirty.is_empty() {
                return;
            }
            let taken = free.min(queue.dirty.len());
            queue.running += taken;
            (std::mem::take(&mut queue.dirty), taken)
        };
        let jobs: Vec<(Arc<Partition>, FlushJob)> = dirty
            .into_iter()
            .filter_map(|partition| partition.flush_begin().map(|job| (partition, job)))
            .collect();
        let lanes = Durability::new(free).round(jobs);
        self.queue.lock().running -= free - lanes.len(); // fewer jobs than partitions: some were clean already
        for lane in lanes {
            let flusher = Arc::clone(self);
            self.env.submit(Pool::Flush, move || flusher.finish(lane()));
        }
    }

    fn finish(self: &Arc<Self>, results: Vec<(Arc<Partition>, Result<FlushPoint, StorageError>)>) {
        for (partition, result) in results {
            partition.flush_done(result);
        }
        self.queue.lock().running -= 1;
        self.start_round();
        self.idle.notify_waiters();
    }

    /// Waits until nothing is dirty and nothing is being synced.
    pub(crate) async fn drained(&self) {
        loop {
            let change = self.idle.notified();
            {
                let queue = self.queue.lock();
                if queue.running == 0 && queue.dirty.is_empty() {
                    return;
                }
            }
            change.await;
        }
    }
}
