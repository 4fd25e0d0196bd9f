//! What the directory notes of logs: checkpoints, and that they are cut.

use std::sync::Arc;

use millstream_machine::metadata::InternalTopic;
use millstream_protocol::ErrorCode;
use millstream_record::{LeaderEpoch, Offset, TopicPartition};
use millstream_storage::{LogDir, Offsets, StorageError};
use parking_lot::{RwLock, RwLockWriteGuard};

use super::Partitions;
use crate::coordinator::Snapshot;
use crate::partition::{Checkpointed, Deferred, Partition};
use crate::refusal::Refusal;

impl Partitions {
    /// Writes the leader epochs of every partition whose file lacks some. Blocks.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn write_epochs(&self) -> Result<(), StorageError> {
        self.all().iter().try_for_each(|partition| partition.write_epochs())
    }

    /// Writes the directory's checkpoints, with that of the metadata log among them, where it is here. Blocks.
    ///
    /// # Errors
    /// Those of the disk; the older checkpoints then still hold.
    pub(crate) fn checkpoint(&self, metadata: impl Fn() -> Option<Checkpointed>) -> Result<(), StorageError> {
        // Held before the table is read: a topic that goes, or a log that is cut, meanwhile must not have its notes written again.
        let (mut dir, metadata) = uncut(&self.dir, metadata);
        // Before the table is read, where what is opening now comes to be.
        let mut unopened: Vec<TopicPartition> = self.opening.lock().iter().cloned().collect();
        unopened.extend(self.lacking.names());
        let (mut recovery, mut starts, mut marks) = (Offsets::new(), Offsets::new(), Offsets::new());
        let all = self.all();
        let noted: Vec<Checkpointed> = all.iter().map(|partition| partition.checkpointed()).collect();
        let begins: Vec<Offset> = noted.iter().map(|one| one.start).collect();
        for one in noted.into_iter().chain(metadata) {
            recovery.insert(one.at.clone(), one.recovery_point);
            starts.insert(one.at.clone(), one.start);
            marks.insert(one.at, one.high_watermark);
        }
        unopened.extend(self.broken());
        unopened.extend(self.opened.lock().keys().cloned());
        dir.checkpoint(recovery, starts, marks, &unopened)?;
        let noted = all.iter().zip(begins).map(|(partition, start)| partition.start_noted(start));
        let noted: Vec<Deferred> = noted.collect();
        drop(dir);
        all.iter().zip(noted).for_each(|(partition, after)| partition.perform(after));
        Ok(())
    }

    /// Cuts a follower's log at `target`, with its recovery point lowered first. Blocks, and keeps checkpoints out meanwhile: one
    /// that was taken before and written after would take what was cut for lost.
    ///
    /// # Errors
    /// As for [`Partition::cut`].
    pub(crate) fn cut(
        &self,
        partition: &Arc<Partition>,
        epoch: LeaderEpoch,
        target: Offset,
    ) -> Result<(), Refusal> {
        let mut dir = self.dir.write();
        self.cut_snapshot(partition, target)?;
        dir.lower_recovery_point(partition.at(), target)?;
        partition.cut(epoch, target)
    }

    /// Has a follower's log begin anew at `start`. Blocks, as [`Partitions::cut`] does.
    ///
    /// # Errors
    /// As for [`Partition::begin_anew`].
    pub(crate) fn begin_anew(
        &self,
        partition: &Arc<Partition>,
        epoch: LeaderEpoch,
        start: Offset,
    ) -> Result<(), Refusal> {
        let mut dir = self.dir.write();
        self.cut_snapshot(partition, Offset(0))?;
        dir.begin_anew(std::slice::from_ref(partition.at()))?;
        partition.begin_anew(epoch, start)
    }

    /// Does `work` while no log is being cut.
    pub(crate) fn between_cuts<T>(&self, work: impl FnOnce() -> T) -> T {
        let _no_cut = self.dir.read();
        work()
    }

    /// Removes what a coordinator noted of records that are going to be cut.
    fn cut_snapshot(&self, partition: &Partition, target: Offset) -> Result<(), Refusal> {
        if InternalTopic::of_name(&partition.at().topic).is_none() {
            return Ok(());
        }
        let dir = partition.dir();
        let failed = |error: std::io::Error| Refusal::new(ErrorCode::KafkaStorageError, error.to_string());
        Snapshot::cut(&*self.context.disk, &dir, target).map_err(failed)
    }

    /// Says that all logs, that of the metadata too, were closed in order. One that could not be opened was not: it may still have
    /// the tail that a crash tore.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn mark_clean(&self) -> Result<(), StorageError> {
        if self.broken().is_empty() && self.opened.lock().is_empty() {
            self.dir.write().mark_clean()
        } else {
            Ok(())
        }
    }
}

/// Takes `dir`, and what `read` gives of a log that is cut without holding it. That log is locked when its recovery point is lowered,
/// so it cannot be read with the directory held; but a cut between the two is seen, and then it is read again.
fn uncut<T>(dir: &RwLock<LogDir>, read: impl Fn() -> T) -> (RwLockWriteGuard<'_, LogDir>, T) {
    loop {
        let lowered = dir.read().lowered();
        let found = read();
        let dir = dir.write();
        if dir.lowered() == lowered {
            return (dir, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::path::Path;

    use millstream_storage::MemoryDisk;

    use super::*;

    #[test]
    fn what_a_checkpoint_says_of_a_log_is_read_again_when_that_was_cut_meanwhile() {
        let dir = RwLock::new(LogDir::open(Arc::new(MemoryDisk::default()), Path::new("/data"), 8).unwrap());
        let end = Cell::new(1000);
        let cut_after = |read: i64| {
            if end.replace(900) == 1000 {
                let mut dir = dir.write();
                dir.lower_recovery_point(&TopicPartition::new("t", 0), Offset(900)).unwrap();
            }
            read
        };
        let (_held, read) = uncut(&dir, || cut_after(end.get()));
        assert_eq!(read, 900);
    }
}
