//! Opening a log: taking a clean one as it is, and finding out what a crash left.
//!
//! After a crash the segments from the recovery point on are read batch by batch. The first batch whose length, offset or CRC
//! is wrong ends the log there if it lies at or behind the recovery point (a torn tail: it was never durable, so nobody was
//! promised it). Below the recovery point the same is corruption, which is reported and never cut. Indexes of what was read are
//! made anew, producer state is replayed from the newest snapshot that is not ahead of them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millstream_record::{Millis, Offset, TopicId};

use crate::config::LogConfig;
use crate::disk::{self, Disk, OpenMode};
use crate::epoch_file::{EPOCHS_FILE, EpochFile};
use crate::epochs::LeaderEpochs;
use crate::error::{Result, StorageError};
use crate::handle::{Dirty, Home, Kind, OpenFiles};
use crate::log::{FlushState, Log, replay};
use crate::producer::ProducerStates;
use crate::retention;
use crate::scan::Found;
use crate::segment::Segment;
use crate::{checkpoint, meta, snapshot};

/// How the process that wrote the log ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// [`Log::close`] succeeded, and the directory says so: nothing needs to be scanned.
    Clean,
    /// In any other way.
    Crash,
}

/// What the directory's checkpoints say of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Noted {
    /// The log was here, and all records below this offset were durable. `None` where nothing is noted of it.
    pub recovery_point: Option<Offset>,
    /// First offset that can be read.
    pub log_start: Option<Offset>,
    /// All below was replicated. `None` for a log that is not replicated.
    pub high_watermark: Option<Offset>,
}

/// What opening found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Bytes read to find the log end and to rebuild state.
    pub scanned_bytes: u64,
    /// Segments whose indexes were made anew.
    pub rebuilt_indexes: usize,
    /// Batches that were replayed into the producer state.
    pub replayed_batches: u64,
    /// The torn tail that was cut off, if any.
    pub cut: Option<Cut>,
}

/// A torn tail that was cut off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The file that was cut.
    pub path: PathBuf,
    /// Where.
    pub position: u64,
    /// Bytes that went, with those of later segments.
    pub bytes: u64,
    /// What was wrong there.
    pub what: String,
    /// A good batch followed: after a power cut that happens, since a disk writes in any order; after a mere crash of the process it
    /// means that the disk went wrong.
    pub good_batch_behind: bool,
}

impl Log {
    /// Opens the log in `dir`, or makes an empty one that begins where it is noted to begin.
    ///
    /// # Errors
    /// [`StorageError::TopicIdMismatch`] when the directory is another topic's; [`StorageError::Corrupt`] when records that were
    /// durable are damaged; [`StorageError::Io`].
    pub fn open(
        files: &Arc<OpenFiles>,
        dir: &Path,
        topic_id: TopicId,
        config: LogConfig,
        now: Millis,
        shutdown: Shutdown,
        noted: Noted,
    ) -> Result<(Self, RecoveryReport)> {
        files.check_online()?;
        let disk = Arc::clone(files.disk());
        meta::claim_partition(&*disk, dir, topic_id)?;
        let names = Names::read(&*disk, dir)?;
        let log = Self {
            files: Arc::clone(files),
            dir: Home::new(dir),
            topic_id,
            config,
            segments: Default::default(),
            start: noted.log_start.unwrap_or_default(),
            end: Offset(0),
            epochs: LeaderEpochs::default(),
            epoch_file: EpochFile::default(),
            producers: ProducerStates::default(),
            flush: FlushState::default(),
            mark: noted.high_watermark,
            deleted: Default::default(),
        };
        let recovery = Recovery {
            log,
            names,
            now,
            shutdown,
            durable: noted.recovery_point,
            report: RecoveryReport::default(),
            scan_at_latest: usize::MAX,
            epochs_on_disk: LeaderEpochs::default(),
        };
        recovery.run()
    }
}

/// What a partition's directory holds.
struct Names {
    segments: Vec<Offset>,
    snapshots: Vec<Offset>,
}

impl Names {
    /// Lists the directory, and removes what an interrupted step left behind.
    fn read(disk: &dyn Disk, dir: &Path) -> Result<Self> {
        let mut names = Self { segments: Vec::new(), snapshots: Vec::new() };
        let mut others = Vec::new();
        let mut newest_deleted = None;
        for entry in disk.list(dir).map_err(StorageError::io(dir))? {
            match Kind::parse(&entry.name) {
                Some((Kind::Log, base)) => names.segments.push(base),
                Some((Kind::Snapshot, offset)) => names.snapshots.push(offset),
                Some((_, base)) => others.push((base, entry.name)),
                None if [".deleted", ".tmp"].iter().any(|suffix| entry.name.ends_with(suffix)) => {
                    newest_deleted = newest_deleted.max(retention::deleted_segment(&entry.name));
                    others.push((Offset(-1), entry.name));
                }
                None => {}
            }
        }
        if let Some(newest) = newest_deleted {
            names.finish_retention(disk, dir, newest)?;
        }
        for (base, name) in others {
            if !names.segments.contains(&base) {
                let path = dir.join(name);
                retention::ignore_missing(disk.remove(&path), &path)?;
            }
        }
        names.segments.sort_unstable();
        names.snapshots.sort_unstable();
        Ok(names)
    }

    /// Retention takes the oldest segment first, but a power loss may undo the renaming of an older one and not that of the one at
    /// `newest`. The older ones go now: the gap behind them would be taken for a loss, and all that follows for garbage.
    fn finish_retention(&mut self, disk: &dyn Disk, dir: &Path, newest: Offset) -> Result<()> {
        let (older, kept): (Vec<_>, Vec<_>) = self.segments.iter().partition(|base| **base < newest);
        if older.is_empty() || kept.is_empty() {
            return Ok(());
        }
        for base in older {
            retention::remove_segment(disk, dir, base)?;
            self.snapshots.retain(|offset| *offset != base);
        }
        disk.sync_dir(dir).map_err(StorageError::io(dir))?; // before the names that say so go
        self.segments = kept;
        Ok(())
    }
}

struct Recovery {
    log: Log,
    names: Names,
    now: Millis,
    shutdown: Shutdown,
    /// As [`Noted::recovery_point`].
    durable: Option<Offset>,
    report: RecoveryReport,
    /// The number of the first segment that must be read because its indexes, or the epoch file, are missing.
    scan_at_latest: usize,
    epochs_on_disk: LeaderEpochs,
}

impl Recovery {
    fn run(mut self) -> Result<(Log, RecoveryReport)> {
        if self.names.segments.is_empty() {
            self.expect_new()?;
            self.create_first(self.log.start)?;
            return self.finish();
        }
        self.load_epochs()?;
        self.load_segments()?;
        let scan_from = self.first_to_scan();
        self.find_clean_end(scan_from)?;
        let replay_from = self.load_snapshot(scan_from)?;
        for at in 0..self.log.segments.len() {
            if at >= self.log.segments.len() {
                break; // a torn tail took the rest along
            }
            let segment_end = self.log.segments.get(at + 1).map_or(Offset(i64::MAX), |next| next.base);
            if at >= scan_from {
                self.scan(at, replay_from)?;
            } else if segment_end > replay_from {
                self.renew_snapshot(at, replay_from);
                self.replay(at, replay_from)?;
            }
        }
        self.finish()
    }

    /// Where the point of a crash is compared: from here on what lies in the log may never have been durable.
    fn unsure_from(&self) -> Option<Offset> {
        (self.shutdown == Shutdown::Crash).then(|| self.durable.unwrap_or_default())
    }

    /// A log has a segment from before it is noted. So one that is noted and has none was emptied by somebody, or by a mended file system.
    fn expect_new(&self) -> Result<()> {
        let Some(durable) = self.durable else { return Ok(()) };
        let what = format!("its segments are gone, and all below offset {durable} was durable");
        Err(StorageError::corrupt(&self.log.dir, 0, what))
    }

    fn create_first(&mut self, base: Offset) -> Result<()> {
        let log = &mut self.log;
        let segment = Segment::empty(&log.files, &log.dir, base, self.now);
        let handle = segment.log.handle(OpenMode::Replace).map_err(segment.io())?;
        log.flush.mark(&segment.log, handle);
        log.flush.names = true;
        log.segments.push_back(segment);
        log.end = base;
        Ok(())
    }

    /// Reads the epoch file. A missing or broken one is made anew from the batches; one of a newer build is not.
    fn load_epochs(&mut self) -> Result<()> {
        let path = self.log.dir.join(EPOCHS_FILE);
        let bytes = match disk::read_file(&**self.log.files.disk(), &path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(StorageError::io(&path)(error)),
        };
        let text = String::from_utf8_lossy(&bytes);
        checkpoint::refuse_newer(&path, &text)?;
        match LeaderEpochs::parse(&text) {
            Ok(epochs) => {
                self.log.epochs = epochs.clone();
                self.epochs_on_disk = epochs;
            }
            Err(_) => {
                self.scan_at_latest = 0;
                self.log.epoch_file.has_too_much(); // it is written anew even where there is no epoch
            }
        }
        Ok(())
    }

    fn load_segments(&mut self) -> Result<()> {
        let log = &mut self.log;
        for &base in &self.names.segments {
            match Segment::load(&log.files, &log.dir, base, self.now)? {
                Some(segment) => log.segments.push_back(segment),
                None => {
                    let mut segment = Segment::empty(&log.files, &log.dir, base, self.now);
                    segment.bytes = segment.open()?.len().map_err(segment.io())?;
                    self.scan_at_latest = self.scan_at_latest.min(log.segments.len());
                    log.segments.push_back(segment);
                }
            }
        }
        Ok(())
    }

    /// The number of the first segment whose bytes are checked.
    fn first_to_scan(&self) -> usize {
        let segments = &self.log.segments;
        let unsure = match self.unsure_from() {
            None => segments.len(),
            // The segment that ends at the recovery point is read too: its indexes were written when it was rolled, which may have
            // been after the sync that set the point.
            Some(recovery_point) => {
                segments.partition_point(|segment| segment.base < recovery_point).saturating_sub(1)
            }
        };
        unsure.min(self.scan_at_latest)
    }

    /// The log end, if it need not be found by scanning: the end of the last segment, from its last index entry on.
    fn find_clean_end(&mut self, scan_from: usize) -> Result<()> {
        let Some(last) = self.log.segments.back_mut() else { return Ok(()) };
        self.log.end = last.base;
        if scan_from < self.log.segments.len() {
            return Ok(());
        }
        let Some(last) = self.log.segments.back_mut() else { return Ok(()) };
        let from = last.offsets.last().map_or(last.base, |entry| entry.offset);
        let mut scanner = last.scan_from(from)?;
        let begin = scanner.position();
        let mut jump = None;
        loop {
            let expected = (scanner.position() > begin || begin == 0).then(|| scanner.next_offset());
            match scanner.next().map_err(last.io())? {
                Found::Batch { header, position, .. } => {
                    jump = jump.or(expected.filter(|&end| header.base_offset > end).map(|_| position));
                }
                Found::End => break,
                Found::Bad { position, what } => {
                    return Err(StorageError::corrupt(&last.log.path(), position, what));
                }
            }
        }
        // A clean close leaves a snapshot that names the log end, so a jump that contradicts it is a flipped bit.
        let end_confirmed = self.names.snapshots.contains(&scanner.next_offset());
        if let Some(position) = jump.filter(|_| !end_confirmed && !self.names.snapshots.is_empty()) {
            return Err(StorageError::corrupt(
                &last.log.path(),
                position,
                "a batch whose base offset is wrong",
            ));
        }
        self.report.scanned_bytes += scanner.position() - begin;
        self.log.end = scanner.next_offset();
        last.find_largest()
    }

    /// Loads the newest producer snapshot that is ahead neither of what is known to be in the log nor of the mark; gives the offset
    /// from which batches are replayed. Snapshots that are ahead of the log, or broken, go.
    fn load_snapshot(&mut self, scan_from: usize) -> Result<Offset> {
        let log = &mut self.log;
        let limit = log.segments.get(scan_from).map_or(log.end, |segment| segment.base);
        let limit = limit.min(log.newest_snapshot());
        let oldest = log.segments.front().map_or(log.start, |segment| segment.base);
        for &offset in self.names.snapshots.iter().rev() {
            if offset > limit {
                continue;
            }
            let path = Kind::Snapshot.path(&log.dir, offset);
            let bytes = disk::read_file(&**log.files.disk(), &path).map_err(StorageError::io(&path))?;
            snapshot::refuse_newer(&path, &bytes)?;
            if let Ok(states) = snapshot::decode(&bytes) {
                log.producers = states;
                return Ok(offset.max(oldest));
            }
        }
        Ok(oldest)
    }

    /// Has what is known of producers where segment `at` begins written once more when batches before it had to be replayed: that
    /// snapshot may have been lost, and must be there before the older segments are deleted.
    fn renew_snapshot(&mut self, at: usize, replay_from: Offset) {
        let log = &mut self.log;
        let base = log.segments[at].base;
        if base > replay_from {
            log.flush.snapshots.push((base, snapshot::encode(&log.producers)));
        }
    }

    /// Takes the batches of a segment that is trusted, from `from` on, up into the producer state.
    fn replay(&mut self, at: usize, from: Offset) -> Result<()> {
        let segment = &self.log.segments[at];
        let mut scanner = segment.scan_from(from)?;
        let begin = scanner.position();
        loop {
            match scanner.next().map_err(segment.io())? {
                Found::Batch { header, bytes, .. } if header.last_offset() >= from => {
                    replay(&mut self.log.producers, &header, bytes);
                    self.report.replayed_batches += 1;
                }
                Found::Batch { .. } => {}
                Found::End => break,
                Found::Bad { position, what } => {
                    return Err(StorageError::corrupt(&segment.log.path(), position, what));
                }
            }
        }
        self.report.scanned_bytes += scanner.position() - begin;
        Ok(())
    }

    /// Checks every batch of a segment and makes its indexes anew; cuts a torn tail.
    fn scan(&mut self, at: usize, replay_from: Offset) -> Result<()> {
        let unsure_from = self.unsure_from();
        let log = &mut self.log;
        let base = log.segments[at].base;
        let never_durable = unsure_from.is_some_and(|recovery_point| base > recovery_point);
        if at > 0 && base > log.end && never_durable {
            // A roll begins the new segment at the log end, so what lies between was lost. (Below the recovery point a gap may be
            // what compaction left.)
            return self.cut(at - 1, None, "the next segment does not begin where this one ends");
        }
        self.renew_snapshot(at, replay_from);
        let log = &mut self.log;
        let old = &log.segments[at];
        let (size, io) = (old.bytes, old.io());
        let mut segment = Segment::empty(&log.files, &log.dir, base, self.now);
        // A jump in offsets that was never durable is more likely a flipped bit than what compaction left: the CRC does not cover them.
        let dense_from = match unsure_from {
            Some(recovery_point) if !log.config.cleanup_compact => recovery_point,
            _ => Offset(i64::MAX),
        };
        old.open()?.forget_clean().map_err(old.io())?;
        let mut scanner = old.scan_from(base)?.dense_from(dense_from);
        let interval = log.config.index_interval_bytes;
        let bad = loop {
            match scanner.next() {
                Err(error) => return Err(io(error)),
                Ok(Found::End) => break None,
                Ok(Found::Bad { what, .. }) => break Some(what),
                Ok(Found::Batch { header, bytes, .. }) => {
                    segment.make_room()?;
                    segment.note(&header, interval);
                    log.epochs.confirm(header.leader_epoch, header.base_offset);
                    if header.last_offset() >= replay_from {
                        let aborted = replay(&mut log.producers, &header, bytes);
                        aborted.into_iter().for_each(|aborted| segment.aborted.push(aborted));
                        self.report.replayed_batches += 1;
                    }
                }
            }
        };
        log.end = scanner.next_offset();
        self.report.scanned_bytes += scanner.position();
        self.report.rebuilt_indexes += 1;
        // What was read may only be in the page cache yet; from here on it counts as durable. Below the recovery point it is, but
        // a cut is to be synced, too.
        let was_durable = unsure_from.is_some_and(|recovery_point| log.end <= recovery_point);
        if bad.is_some() || !was_durable {
            let handle = segment.open()?;
            log.flush.mark(&segment.log, handle);
        }
        log.segments[at] = segment;
        match bad {
            None => self.rewrite_indexes(at),
            Some(what) => {
                let behind = scanner.good_batch_behind().unwrap_or(false);
                self.rewrite_indexes(at)?;
                self.cut(at, Some((size, behind)), what)
            }
        }
    }

    fn rewrite_indexes(&mut self, at: usize) -> Result<()> {
        let log = &mut self.log;
        let newest = at + 1 == log.segments.len();
        let segment = &mut log.segments[at];
        // Entries of an older life must not show up behind those of this one.
        segment.offsets.drop_unknown()?;
        segment.times.drop_unknown()?;
        segment.aborted.drop_unknown()?;
        if !newest {
            for Dirty { file, handle } in segment.seal()? {
                log.flush.mark(&file, handle);
            }
            log.flush.names = true;
        }
        Ok(())
    }

    /// Ends the log behind the last good batch of segment `at`, unless that would take what was durable.
    fn cut(&mut self, at: usize, torn: Option<(u64, bool)>, what: &str) -> Result<()> {
        let unsure_from = self.unsure_from();
        let log = &mut self.log;
        let segment = &log.segments[at];
        let (path, position) = (segment.log.path(), segment.bytes);
        if unsure_from.is_none_or(|recovery_point| log.end < recovery_point) {
            return Err(StorageError::corrupt(&path, position, format!("{what}, below the recovery point")));
        }
        let (size, good_batch_behind) = torn.unwrap_or((position, false));
        segment.open()?.truncate(position).map_err(segment.io())?;
        let mut bytes = size - position;
        while log.segments.len() > at + 1 {
            let Some(gone) = log.segments.pop_back() else { break };
            bytes += gone.bytes;
            log.remove_files(gone.base)?;
        }
        log.flush.names = true;
        self.report.cut = Some(Cut { path, position, bytes, what: what.to_owned(), good_batch_behind });
        Ok(())
    }

    fn finish(mut self) -> Result<(Log, RecoveryReport)> {
        let log = &mut self.log;
        let oldest = log.segments.front().map_or(log.end, |segment| segment.base);
        log.start = log.start.max(oldest);
        if let Some(durable) = self.durable.filter(|durable| log.end.max(log.start) < *durable) {
            let (path, position) = (log.active().log.path(), log.active().bytes);
            let what = format!("the log ends at offset {}, but all below {durable} was durable", log.end);
            return Err(StorageError::corrupt(&path, position, what));
        }
        if log.start > log.end {
            // All that was left was deleted before: the log goes on where the checkpoint says. The new segment is there first, since a
            // log without any is taken for one that somebody emptied.
            let bases = log.segment_bases();
            log.segments.clear();
            let start = log.start;
            self.create_first(start)?;
            let log = &mut self.log;
            log.files.disk().sync_dir(&log.dir).map_err(StorageError::io(&log.dir))?;
            bases.into_iter().try_for_each(|base| log.remove_files(base))?;
        }
        let log = &mut self.log;
        log.epochs.truncate_from_end(log.end);
        log.epochs.truncate_from_start(log.start);
        log.producers.truncate_from_start(log.start);
        log.producers.expire(self.now, log.config.producer_id_expiration_ms);
        for &offset in self.names.snapshots.iter().filter(|&&offset| offset > log.end) {
            let path = Kind::Snapshot.path(&log.dir, offset);
            log.files.disk().remove(&path).map_err(StorageError::io(&path))?;
        }
        // Whoever died may have made the newest segment, or removed files, and not come to sync the names.
        let snapshots_fit = self.names.snapshots.iter().all(|&offset| offset <= log.end);
        let settled = |point: Offset| log.end <= point && log.active().base < point && snapshots_fit;
        if self.shutdown == Shutdown::Crash && !settled(self.durable.unwrap_or_default()) {
            log.flush.names = true;
        }
        if let Some(from) = log.epochs.differs_from(&self.epochs_on_disk) {
            log.epoch_file.lacks(from);
        }
        log.flush.flushed = log.start;
        if self.shutdown == Shutdown::Clean && self.report.rebuilt_indexes == 0 {
            log.flush.flushed = log.end;
        }
        log.flush_blocking()?;
        log.close_files();
        Ok((self.log, self.report))
    }
}
