//! Taking records away: cutting the end (a follower's divergence), and the begin (retention, DeleteRecords).

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use millstream_record::{Millis, Offset};

use crate::disk::{self, Disk, OpenMode};
use crate::epochs::LeaderEpochs;
use crate::error::{Result, StorageError};
use crate::handle::Kind;
use crate::log::{Log, replay};
use crate::producer::ProducerStates;
use crate::scan::Found;
use crate::segment::Segment;
use crate::snapshot;

/// The suffix of a segment's files that wait to be removed.
const DELETED: &str = "deleted";

/// Where a log is cut.
struct CutPoint {
    /// Segments that stay, the last of them shorter.
    keep: usize,
    /// How long it will be.
    position: u64,
    /// The log's end then.
    end: Offset,
}

impl Log {
    /// The log end that [`Log::truncate_to`] would leave: at most `target`, and less where a batch holds it.
    ///
    /// # Errors
    /// [`StorageError::OffsetOutOfRange`] for a target below the log start; [`StorageError::Corrupt`] when the place to cut cannot be
    /// found.
    pub fn cut_point(&self, target: Offset) -> Result<Offset> {
        Ok(self.find_cut(target)?.map_or(self.end, |cut| cut.end))
    }

    fn find_cut(&self, target: Offset) -> Result<Option<CutPoint>> {
        self.files.check_online()?;
        if target >= self.end {
            return Ok(None);
        }
        if target < self.start {
            return Err(StorageError::OffsetOutOfRange { offset: target, start: self.start, end: self.end });
        }
        let keep = self.segments.partition_point(|segment| segment.base < target).max(1);
        let Some(segment) = self.segments.get(keep - 1) else { return Ok(None) };
        let (position, end) = segment.find_cut(target)?;
        Ok(Some(CutPoint { keep, position, end }))
    }

    /// Cuts all records at or behind `target`, and what was derived from them: epochs, producer state, aborted transactions. A batch
    /// that holds `target` goes as a whole. Gives the new log end. Blocks: the cut is durable on return, since unsynced old
    /// batches could come back behind new ones. Lower the recovery point in the directory's checkpoint to the
    /// [`Log::cut_point`] first ([`crate::LogDir::lower_recovery_point`]), lest a crash takes what is cut for lost.
    ///
    /// # Errors
    /// As for [`Log::cut_point`]; [`StorageError::Offline`] when the disk failed half way.
    pub fn truncate_to(&mut self, target: Offset, now: Millis) -> Result<Offset> {
        let Some(cut) = self.find_cut(target)? else {
            // An epoch that was begun at the end and never written in goes all the same.
            if self.epochs.truncate_from_end(target) {
                self.epoch_file.lacks(target);
            }
            return Ok(self.end);
        };
        // From the first change on an error leaves the log in between.
        let dir = self.dir.clone();
        self.cut_end(&cut, target, now)
            .and_then(|()| self.sync_cut())
            .map_err(|error| self.files.fail(&dir, &std::io::Error::other(error.to_string())))?;
        Ok(self.end)
    }

    fn cut_end(&mut self, cut: &CutPoint, target: Offset, now: Millis) -> Result<()> {
        self.flush.standing.lock().cuts += 1;
        while self.segments.len() > cut.keep {
            let Some(gone) = self.segments.pop_back() else { break };
            gone.cuts.fetch_add(1, Ordering::AcqRel);
            self.forget(&gone);
            self.remove_files(gone.base)?;
        }
        self.active_mut().cut(cut.position, target)?;
        self.end = cut.end;
        if self.end < self.start {
            // The batch that holds the log start is gone, so nothing that can be read is left.
            return self.begin_anew(self.start, now);
        }
        if self.epochs.truncate_from_end(self.end) {
            self.epoch_file.lacks(self.end);
        }
        self.flush.flushed = self.flush.flushed.min(self.end);
        self.flush.in_flight = self.flush.in_flight.map(|point| point.min(self.end));
        self.rebuild_producers(now)
    }

    /// Makes the names durable that a cut removed, whatever a job that is out may be doing.
    fn sync_cut(&mut self) -> Result<()> {
        self.files.disk().sync_dir(&self.dir).map_err(StorageError::io(&self.dir))
    }

    /// Makes the producer state anew as of the log end, from the newest snapshot that is ahead of neither it nor the mark.
    fn rebuild_producers(&mut self, now: Millis) -> Result<()> {
        let (end, disk) = (self.end, Arc::clone(self.files.disk()));
        // A job that is out will not write those that it took along, so all that are missing are made anew.
        self.flush.snapshots.clear();
        let mut from = self.segments.front().map_or(self.start, |segment| segment.base);
        let mut states = ProducerStates::default();
        let newest = self.newest_snapshot();
        for offset in self.snapshot_offsets()?.into_iter().rev() {
            let path = Kind::Snapshot.path(&self.dir, offset);
            if offset > end {
                disk.remove(&path).map_err(StorageError::io(&path))?;
            } else if offset <= newest
                && let Ok(found) =
                    snapshot::decode(&disk::read_file(&*disk, &path).map_err(StorageError::io(&path))?)
            {
                (states, from) = (found, offset.max(from));
                break;
            }
        }
        for segment in &self.segments {
            if segment.base > from {
                self.flush.snapshots.push((segment.base, snapshot::encode(&states)));
            }
            let mut scanner = segment.scan_from(from.max(segment.base))?;
            loop {
                match scanner.next().map_err(segment.io())? {
                    Found::Batch { header, bytes, .. } if header.last_offset() >= from => {
                        replay(&mut states, &header, bytes);
                    }
                    Found::Batch { .. } => {}
                    Found::End => break,
                    Found::Bad { position, what } => {
                        return Err(StorageError::corrupt(&segment.log.path(), position, what));
                    }
                }
            }
        }
        states.truncate_from_start(self.start);
        states.expire(now, self.config.producer_id_expiration_ms);
        self.producers = states;
        Ok(())
    }

    fn snapshot_offsets(&self) -> Result<Vec<Offset>> {
        let entries = self.files.disk().list(&self.dir).map_err(StorageError::io(&self.dir))?;
        let offset = |name: &str| {
            Kind::parse(name).filter(|&(kind, _)| kind == Kind::Snapshot).map(|(_, offset)| offset)
        };
        let mut offsets: Vec<Offset> = entries.iter().filter_map(|entry| offset(&entry.name)).collect();
        offsets.sort_unstable();
        Ok(offsets)
    }

    /// Cuts everything and begins anew at `start`: a follower whose leader no longer has what comes next.
    ///
    /// # Errors
    /// As for [`Log::truncate_to`].
    pub fn truncate_fully_and_start_at(&mut self, start: Offset, now: Millis) -> Result<()> {
        self.files.check_online()?;
        let dir = self.dir.clone();
        self.flush.standing.lock().cuts += 1;
        self.begin_anew(start, now)
            .and_then(|()| self.sync_cut())
            .map_err(|error| self.files.fail(&dir, &std::io::Error::other(error.to_string())))
    }

    /// A log has a segment at any time, also after a power loss, since one without any is taken for one that somebody emptied.
    fn begin_anew(&mut self, start: Offset, now: Millis) -> Result<()> {
        while self.segments.len() > 1 {
            let Some(gone) = self.segments.pop_back() else { break };
            gone.cuts.fetch_add(1, Ordering::AcqRel);
            self.forget(&gone);
            self.remove_files(gone.base)?;
        }
        for offset in self.snapshot_offsets()? {
            let path = Kind::Snapshot.path(&self.dir, offset);
            self.files.disk().remove(&path).map_err(StorageError::io(&path))?;
        }
        // What waits to be removed tells nothing of a log that begins anew, perhaps before it.
        for (_, base) in std::mem::take(&mut self.deleted) {
            self.remove_deleted(base)?;
        }
        self.flush.snapshots.clear();
        let segment = match self.segments.pop_back() {
            Some(mut oldest) if oldest.base == start => {
                oldest.cut(0, start)?;
                oldest
            }
            oldest => {
                let segment = Segment::empty(&self.files, &self.dir, start, now);
                let handle = segment.log.handle(OpenMode::Replace).map_err(segment.io())?;
                self.flush.mark(&segment.log, handle);
                if let Some(gone) = oldest {
                    self.sync_cut()?; // the new name first
                    gone.cuts.fetch_add(1, Ordering::AcqRel);
                    self.forget(&gone);
                    self.remove_files(gone.base)?;
                }
                segment
            }
        };
        self.segments.push_back(segment);
        (self.start, self.end) = (start, start);
        self.epochs = LeaderEpochs::default();
        self.producers = ProducerStates::default();
        self.epoch_file.lacks(start);
        self.flush.names = true;
        self.flush.flushed = self.flush.flushed.min(start);
        self.flush.in_flight = self.flush.in_flight.map(|point| point.min(start));
        Ok(())
    }

    /// Moves the log start forward, as DeleteRecords and a leader's answer ask; segments wholly below go with the next
    /// [`Log::retention`]. False when the start is there already.
    ///
    /// # Errors
    /// [`StorageError::OffsetOutOfRange`] beyond the log end.
    pub fn advance_log_start(&mut self, start: Offset) -> Result<bool> {
        if start > self.end {
            return Err(StorageError::OffsetOutOfRange { offset: start, start: self.start, end: self.end });
        }
        if start <= self.start {
            return Ok(false);
        }
        self.start = start;
        if self.epochs.truncate_from_start(start) {
            self.epoch_file.has_too_much();
        }
        self.producers.truncate_from_start(start);
        Ok(true)
    }

    /// Deletes old segments by `retention.ms` and `retention.bytes` (when `cleanup.policy` has `delete`) and below the log start, but
    /// only what lies below `high_watermark`, and removes files whose `file.delete.delay.ms` has passed. Gives the number of
    /// segments deleted.
    ///
    /// # Errors
    /// [`StorageError::Io`]; what was deleted before stays deleted.
    pub fn retention(&mut self, now: Millis, high_watermark: Offset) -> Result<usize> {
        self.files.check_online()?;
        self.producers.expire(now, self.config.producer_id_expiration_ms);
        self.purge(now)?;
        let mut excess = match u64::try_from(self.config.retention_bytes) {
            Ok(keep) if self.config.cleanup_delete => self.size_bytes().saturating_sub(keep),
            _ => 0,
        };
        let mut deleted = 0;
        while let Some(oldest) = self.segments.front() {
            let end = self.segments.get(1).map_or(self.end, |next| next.base);
            let newest_ms = now.since_ms(oldest.newest_timestamp());
            let expired = self.config.cleanup_delete
                && self.config.retention_ms >= 0
                && newest_ms > self.config.retention_ms;
            let unneeded = excess >= oldest.bytes && excess > 0;
            let below_start = end <= self.start;
            if oldest.bytes == 0 || end > high_watermark || !(expired || unneeded || below_start) {
                break;
            }
            excess = excess.saturating_sub(oldest.bytes);
            let is_last = self.segments.len() == 1;
            if is_last {
                self.roll_now(now)?; // the log goes on, empty, at its end
            }
            let Some(next) = self.segments.get(1).map(|next| next.base) else { break };
            if self.flush.snapshots_out.contains(&next) {
                break; // until the job is back nobody knows whether it wrote what must be kept
            }
            let kept = self.keep_producers(next)?;
            if kept || is_last || deleted == 0 {
                self.keep_next_name(kept)?;
            }
            self.delete_oldest(now)?;
            deleted += 1;
        }
        Ok(deleted)
    }

    /// Writes down now what the log knows of producers at `base`, where the segment behind the oldest begins: without the oldest
    /// it could not be replayed, and a batch that is sent again would be appended again. True when no flush had done so.
    fn keep_producers(&mut self, base: Offset) -> Result<bool> {
        let Some(at) = self.flush.snapshots.iter().position(|&(offset, _)| offset == base) else {
            return Ok(false);
        };
        let (_, bytes) = self.flush.snapshots.remove(at);
        let path = Kind::Snapshot.path(&self.dir, base);
        snapshot::write(&**self.files.disk(), &path, &bytes)
            .map_err(|error| self.files.fail(&path, &error))?;
        Ok(true)
    }

    /// Makes the name of the segment behind the oldest durable before the oldest loses its own: of a log without any segment
    /// nobody would know where it ended, and its offsets would be given out again. Waits for the disk only when the roll was
    /// so recent that no flush has come since.
    fn keep_next_name(&self, is_new: bool) -> Result<()> {
        if is_new || self.flush.names || self.flush.in_flight.is_some() {
            self.files.disk().sync_dir(&self.dir).map_err(StorageError::io(&self.dir))?;
        }
        Ok(())
    }

    fn delete_oldest(&mut self, now: Millis) -> Result<()> {
        let Some(oldest) = self.segments.pop_front() else { return Ok(()) };
        self.forget(&oldest);
        oldest.close();
        let disk = Arc::clone(self.files.disk());
        for kind in Kind::ALL {
            let path = kind.path(&self.dir, oldest.base);
            ignore_missing(disk.rename(&path, &path.with_added_extension(DELETED)), &path)?;
        }
        self.deleted.push_back((now, oldest.base));
        self.flush.names = true;
        let begin = self.segments.front().map_or(self.end, |segment| segment.base);
        self.flush.snapshots.retain(|&(offset, _)| offset >= begin);
        if begin > self.start {
            self.advance_log_start(begin)?;
        }
        Ok(())
    }

    /// Removes the files of segments that were deleted long enough ago.
    fn purge(&mut self, now: Millis) -> Result<()> {
        let delay_ms = self.config.file_delete_delay_ms;
        let is_due = |&(since, _): &(Millis, Offset)| now.since_ms(since) >= delay_ms;
        if self.deleted.front().is_some_and(is_due) {
            // Recovery tells by their names that what is older was deleted too; so that has to be durable first.
            self.keep_next_name(false)?;
        }
        while let Some((_, base)) = self.deleted.pop_front_if(|deleted| is_due(deleted)) {
            self.remove_deleted(base)?;
        }
        Ok(())
    }

    fn remove_deleted(&self, base: Offset) -> Result<()> {
        for kind in Kind::ALL {
            let path = kind.path(&self.dir, base).with_added_extension(DELETED);
            ignore_missing(self.files.disk().remove(&path), &path)?;
        }
        Ok(())
    }

    /// What is gone need not be synced.
    fn forget(&mut self, segment: &Segment) {
        let gone = [&segment.log, segment.offsets.file(), segment.times.file(), segment.aborted.file()];
        self.flush.dirty.retain(|dirty| !gone.iter().any(|gone| Arc::ptr_eq(gone, &dirty.file)));
    }

    /// Removes the files of the segment at `base` at once, but for the producer snapshot that names the offset where the log ends.
    pub(crate) fn remove_files(&self, base: Offset) -> Result<()> {
        let disk = self.files.disk();
        for kind in Kind::ALL.into_iter().filter(|&kind| kind != Kind::Snapshot) {
            let path = kind.path(&self.dir, base);
            ignore_missing(disk.remove(&path), &path)?;
        }
        Ok(())
    }
}

/// An error but that of a file that is not there.
pub(crate) fn ignore_missing(result: std::io::Result<()>, path: &Path) -> Result<()> {
    match result {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(StorageError::io(path)(error)),
        _ => Ok(()),
    }
}

/// The base offset of the segment whose log was renamed to `name` by retention, if that is what it is.
pub(crate) fn deleted_segment(name: &str) -> Option<Offset> {
    let (kind, base) = Kind::parse(name.strip_suffix(DELETED)?.strip_suffix('.')?)?;
    (kind == Kind::Log).then_some(base)
}

/// Removes all files of the segment at `base`.
pub(crate) fn remove_segment(disk: &dyn Disk, dir: &Path, base: Offset) -> Result<()> {
    for kind in Kind::ALL {
        let path = kind.path(dir, base);
        ignore_missing(disk.remove(&path), &path)?;
    }
    Ok(())
}

/// Removes a directory and all that is in it.
pub(crate) fn remove_tree(disk: &dyn Disk, dir: &Path) -> Result<()> {
    for entry in disk.list(dir).map_err(StorageError::io(dir))? {
        let path = dir.join(&entry.name);
        if entry.is_dir {
            remove_tree(disk, &path)?;
        } else {
            disk.remove(&path).map_err(StorageError::io(&path))?;
        }
    }
    disk.remove(dir).map_err(StorageError::io(dir))
}
