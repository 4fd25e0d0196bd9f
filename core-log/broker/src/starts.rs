//! Makes the starts of logs durable that were moved on request: many at once, since all of a directory's are in one file.

use std::collections::BTreeMap;
use std::sync::Arc;

use millstream_env::{Env, Pool};
use millstream_record::TopicId;
use millstream_storage::{LogDir, StorageError};
use parking_lot::{Mutex, RwLock};

use crate::partition::{Deferred, Partition};

/// Gathers replicas whose log start is to be noted. While the file is being written the next group forms, so however many wait, one
/// write is under way, and each waits for two at most.
pub(crate) struct Starts {
    env: Env,
    dir: Arc<RwLock<LogDir>>,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    /// Each once, however often its start has moved.
    moved: BTreeMap<(TopicId, i32), Arc<Partition>>,
    is_writing: bool,
}

impl Starts {
    pub(crate) fn new(env: Env, dir: Arc<RwLock<LogDir>>) -> Arc<Self> {
        Arc::new(Self { env, dir, queue: Mutex::default() })
    }

    /// Has the start of `partition` noted with the next group.
    pub(crate) fn submit(self: &Arc<Self>, partition: Arc<Partition>) {
        let is_writing = {
            let mut queue = self.queue.lock();
            queue.moved.insert((partition.topic_id(), partition.at().partition), partition);
            std::mem::replace(&mut queue.is_writing, true)
        };
        if !is_writing {
            let me = Arc::clone(self);
            self.env.submit(Pool::General, move || me.write());
        }
    }

    fn write(&self) {
        loop {
            let moved: Vec<Arc<Partition>> = {
                let mut queue = self.queue.lock();
                queue.is_writing = !queue.moved.is_empty();
                std::mem::take(&mut queue.moved).into_values().collect()
            };
            if moved.is_empty() {
                return;
            }
            if let Err(error) = self.note(&moved) {
                tracing::error!(%error, "where logs begin cannot be noted; the log directory goes offline");
                moved.iter().for_each(|partition| partition.perform(partition.start_not_noted()));
            }
        }
    }

    fn note(&self, moved: &[Arc<Partition>]) -> Result<(), StorageError> {
        // Held before the starts are read, as for a checkpoint.
        let mut dir = self.dir.write();
        let begin = |partition: &Arc<Partition>| Some((Arc::clone(partition), partition.start_to_note()?));
        let begins: Vec<_> = moved.iter().filter_map(begin).collect();
        dir.note_log_starts(begins.iter().map(|(partition, start)| (partition.at().clone(), *start)))?;
        let noted = |(partition, start): (Arc<Partition>, _)| (partition.start_noted(start), partition);
        let noted: Vec<(Deferred, _)> = begins.into_iter().map(noted).collect();
        drop(dir);
        noted.into_iter().for_each(|(after, partition)| partition.perform(after));
        Ok(())
    }
}
