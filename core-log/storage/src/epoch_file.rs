//! The file with the leader epochs of a log, `leader-epoch-checkpoint`: written now and then, not with every flush.
//!
//! What the file lacks stands in the batches, and recovery reads those behind the recovery point in any case. So all that is
//! needed is that the recovery point does not pass what the file lacks ([`Log::recovery_point`]). Whoever notes recovery points writes
//! the file first, by an [`EpochsJob`]; a leader's first record in a new epoch does not wait for it, nor do thousands of partitions
//! whose leader was lost at once.

use std::fmt;
use std::sync::Arc;

use millstream_record::{LeaderEpoch, Offset};
use parking_lot::Mutex;

use crate::disk;
use crate::error::Result;
use crate::flush::Standing;
use crate::handle::{Home, OpenFiles};
use crate::log::Log;

/// The name of the file with [`crate::LeaderEpochs`].
pub(crate) const EPOCHS_FILE: &str = "leader-epoch-checkpoint";

/// How far the file and the log's epochs agree.
#[derive(Debug, Default)]
pub(crate) struct EpochFile {
    /// The first offset from which on they may differ.
    differs_from: Option<Offset>,
    /// The same for what a job that is out writes.
    being_written: Option<Offset>,
    /// How many texts were made. A newer one is never replaced by an older one.
    texts: u64,
}

impl EpochFile {
    /// The file does not say what has become of epochs that begin at or behind `from`.
    pub(crate) fn lacks(&mut self, from: Offset) {
        self.differs_from = Some(self.differs_from.map_or(from, |known| known.min(from)));
    }

    /// The file has entries before the log's start, which are harmless.
    pub(crate) fn has_too_much(&mut self) {
        self.lacks(Offset(i64::MAX));
    }

    fn agrees_below(&self) -> Offset {
        [self.differs_from, self.being_written].into_iter().flatten().min().unwrap_or(Offset(i64::MAX))
    }
}

/// The text of the file, to be written.
#[must_use = "nothing is written before the job has run"]
pub struct EpochsJob {
    files: Arc<OpenFiles>,
    dir: Arc<Home>,
    text: String,
    number: u64,
    standing: Arc<Mutex<Standing>>,
}

impl EpochsJob {
    /// Replaces the file, durably. Blocks.
    ///
    /// # Errors
    /// [`crate::StorageError::Offline`], as for [`crate::FlushJob::run`].
    pub fn run(self) -> Result<()> {
        self.files.check_online()?;
        let mut standing = self.standing.lock();
        if self.dir.has_left() || standing.epochs >= self.number {
            return Ok(());
        }
        let path = self.dir.join(EPOCHS_FILE);
        disk::replace_file(&**self.files.disk(), &path, self.text.as_bytes())
            .map_err(|error| self.files.fail(&path, &error))?;
        standing.epochs = self.number;
        Ok(())
    }
}

impl fmt::Debug for EpochsJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EpochsJob")
            .field("dir", &self.dir)
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

impl Log {
    /// What the directory's checkpoint may say of this log: all below is durable, and the epoch file says which epochs begin there.
    #[must_use]
    pub fn recovery_point(&self) -> Offset {
        self.flushed_offset().min(self.epoch_file.agrees_below())
    }

    /// Notes that `epoch` begins at `start`, unless that is known.
    pub(crate) fn note_epoch(&mut self, epoch: LeaderEpoch, start: Offset) {
        if let Some(from) = self.epochs.assign(epoch, start) {
            self.epoch_file.lacks(from);
        }
    }

    /// What must be written so that the recovery point can pass; `None` when the file is as it should be, or a job is out whose
    /// result has not come back. Short; nothing is written here.
    pub fn epochs_begin(&mut self) -> Option<EpochsJob> {
        if self.epoch_file.being_written.is_some() {
            return None;
        }
        self.epoch_file.being_written = Some(self.epoch_file.differs_from.take()?);
        Some(self.epochs_job())
    }

    fn epochs_job(&mut self) -> EpochsJob {
        self.epoch_file.texts += 1;
        EpochsJob {
            files: Arc::clone(&self.files),
            dir: Arc::clone(&self.dir),
            text: self.epochs.to_text(),
            number: self.epoch_file.texts,
            standing: Arc::clone(&self.flush.standing),
        }
    }

    /// Takes back the result of the job that is out.
    ///
    /// # Errors
    /// The job's own error; the directory is then offline.
    pub fn epochs_done(&mut self, result: Result<()>) -> Result<()> {
        let wrote = self.epoch_file.being_written.take();
        if let (Err(_), Some(from)) = (&result, wrote) {
            self.epoch_file.lacks(from);
        }
        result
    }

    /// The file is right on return, also where a job is out. Blocks; for closing.
    pub(crate) fn write_epochs_blocking(&mut self) -> Result<()> {
        if self.epoch_file.agrees_below() < Offset(i64::MAX) || self.epoch_file.differs_from.is_some() {
            self.epochs_job().run()?;
            self.epoch_file.differs_from = None;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use millstream_record::{BatchBuilder, BatchOptions, Millis, TopicId, TopicPartition};

    use super::*;
    use crate::disk::{Fault, Op};
    use crate::{AppendOrigin, Disk, FaultyDisk, LogConfig, LogDir, MemoryDisk};

    fn open(disk: &(impl Disk + Clone + 'static)) -> (LogDir, Log) {
        let dir = LogDir::open(Arc::new(disk.clone()), Path::new("/data"), 8).unwrap();
        let at = TopicPartition::new("t", 0);
        let (log, _) = dir.open_log(&at, TopicId::ZERO, LogConfig::default(), Millis(0)).unwrap();
        (dir, log)
    }

    fn append(log: &mut Log, epoch: i32) {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        builder.append(Millis(1), None, Some(b"x"), &[]).unwrap();
        let origin = AppendOrigin::Leader { epoch: LeaderEpoch(epoch) };
        log.append(&builder.build().unwrap().freeze(), origin, Millis(1)).unwrap();
    }

    fn note(dir: &mut LogDir, log: &Log) {
        let at = TopicPartition::new("t", 0);
        dir.checkpoint([(at, log.recovery_point())].into(), [].into(), [].into(), &[]).unwrap();
    }

    fn write(log: &mut Log) {
        if let Some(job) = log.epochs_begin() {
            log.epochs_done(job.run()).unwrap();
        }
    }

    #[test]
    fn the_recovery_point_waits_for_the_file() {
        let disk = MemoryDisk::default();
        let (_dir, mut log) = open(&disk);
        append(&mut log, 3);
        append(&mut log, 3);
        log.flush_blocking().unwrap();
        assert_eq!((log.flushed_offset(), log.recovery_point()), (Offset(2), Offset(0)));
        let job = log.epochs_begin().unwrap();
        append(&mut log, 4);
        log.flush_blocking().unwrap();
        assert_eq!(log.recovery_point(), Offset(0), "the job is out");
        assert!(log.epochs_begin().is_none(), "one at a time");
        log.epochs_done(job.run()).unwrap();
        assert_eq!(log.recovery_point(), Offset(2), "epoch 4 came while the file was written");
        write(&mut log);
        assert_eq!(log.recovery_point(), Offset(3));
        append(&mut log, 4);
        log.flush_blocking().unwrap();
        assert_eq!(log.recovery_point(), Offset(4), "nothing new is to be written");
        assert!(log.epochs_begin().is_none());
    }

    #[test]
    fn what_the_file_lacks_or_has_too_much_after_a_crash_is_read_from_the_batches() {
        let disk = MemoryDisk::default();
        let (mut dir, mut log) = open(&disk);
        for epoch in [1, 1, 2, 2] {
            append(&mut log, epoch);
        }
        log.flush_blocking().unwrap();
        write(&mut log);
        note(&mut dir, &log);
        // The file says that epoch 2 begins at 2; from now on that is not so.
        dir.lower_recovery_point(&TopicPartition::new("t", 0), log.cut_point(Offset(1)).unwrap()).unwrap();
        log.truncate_to(Offset(1), Millis(2)).unwrap();
        for epoch in [1, 1, 3] {
            append(&mut log, epoch);
        }
        log.flush_blocking().unwrap();
        assert_eq!(log.recovery_point(), Offset(1));
        note(&mut dir, &log);
        let known = log.leader_epochs().clone();
        drop((dir, log));
        let (mut dir, mut log) = open(&disk);
        assert_eq!(log.leader_epochs(), &known);
        assert_eq!(log.recovery_point(), Offset(2), "where the file and the log begin to differ");
        write(&mut log);
        note(&mut dir, &log);
        drop((dir, log));
        let (_dir, log) = open(&disk);
        assert_eq!((log.leader_epochs(), log.recovery_point()), (&known, Offset(4)));
    }

    #[test]
    fn a_failed_write_takes_the_directory_offline_and_holds_the_recovery_point() {
        for op in [Op::Write, Op::Sync] {
            let disk = FaultyDisk::new(Arc::new(MemoryDisk::default()));
            let (_dir, mut log) = open(&disk);
            append(&mut log, 1);
            log.flush_blocking().unwrap();
            disk.arm(op, "leader-epoch-checkpoint.tmp", 0, Fault::Full);
            let job = log.epochs_begin().unwrap();
            assert!(log.epochs_done(job.run()).unwrap_err().is_fatal(), "{op:?}");
            assert_eq!((log.flushed_offset(), log.recovery_point()), (Offset(1), Offset(0)), "{op:?}");
            let again = log.epochs_begin().unwrap();
            assert!(log.epochs_done(again.run()).is_err(), "a failed write is not tried again");
            assert!(log.files().check_online().is_err(), "{op:?}");
        }
    }

    #[test]
    fn an_older_text_never_replaces_a_newer_one() {
        let disk = MemoryDisk::default();
        let (mut dir, mut log) = open(&disk);
        append(&mut log, 1);
        let older = log.epochs_begin().unwrap();
        append(&mut log, 2);
        log.close().unwrap();
        older.run().unwrap();
        note(&mut dir, &log);
        dir.mark_clean().unwrap();
        let known = log.leader_epochs().clone();
        drop((dir, log));
        assert_eq!(open(&disk).1.leader_epochs(), &known);
    }
}
