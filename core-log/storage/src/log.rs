//! [`Log`]: one partition's log.

use std::collections::VecDeque;
use std::fmt;
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;

use millstream_record::{LeaderEpoch, Millis, Offset, ProducerEpoch, ProducerId, TimestampType, TopicId};
use parking_lot::Mutex;

use crate::append::{self, AppendInfo, AppendOrigin, Incoming, Stamped};
use crate::batch::{self, HEADER_BYTES, Header};
use crate::config::LogConfig;
use crate::disk::{DiskFile, OpenMode};
use crate::epoch_file::EpochFile;
use crate::epochs::LeaderEpochs;
use crate::error::{Result, StorageError};
use crate::flush::{FlushJob, FlushPoint, Standing};
use crate::handle::{Dirty, Home, LazyFile, OpenFiles};
use crate::producer::{AbortedTransaction, DataBatch, Marker, ProducerState, ProducerStates};
use crate::segment::Segment;
use crate::snapshot;

/// One partition's log. Its owner keeps it behind a short mutex, appends and plans reads and flushes under it, and
/// runs the plans outside.
pub struct Log {
    pub(crate) files: Arc<OpenFiles>,
    pub(crate) dir: Arc<Home>,
    pub(crate) topic_id: TopicId,
    pub(crate) config: LogConfig,
    /// Ordered by base offset; never empty; the last one is appended to.
    pub(crate) segments: VecDeque<Segment>,
    pub(crate) start: Offset,
    pub(crate) end: Offset,
    pub(crate) epochs: LeaderEpochs,
    pub(crate) epoch_file: EpochFile,
    pub(crate) producers: ProducerStates,
    pub(crate) flush: FlushState,
    /// All below is replicated; `None` where nobody says so. What is known of producers is made anew from a snapshot that is not
    /// ahead of it, since a snapshot does not tell of transactions whose markers could yet be taken back.
    pub(crate) mark: Option<Offset>,
    /// Segments whose files wait, renamed, for `file.delete.delay.ms` to pass: when they were deleted, and their base.
    pub(crate) deleted: VecDeque<(Millis, Offset)>,
}

/// What is not durable yet.
#[derive(Default)]
pub(crate) struct FlushState {
    /// All below is durable.
    pub(crate) flushed: Offset,
    /// A job is out. Its point counts only up to where the log was cut meanwhile.
    pub(crate) in_flight: Option<Offset>,
    pub(crate) dirty: Vec<Dirty>,
    pub(crate) bytes: u64,
    pub(crate) names: bool,
    /// Producer snapshots to write. Each segment but the oldest has one at its base: here, on disk, or with the job that is out.
    pub(crate) snapshots: Vec<(Offset, Vec<u8>)>,
    /// Those that the job that is out has to write.
    pub(crate) snapshots_out: Vec<Offset>,
    /// What a job that is out has to know.
    pub(crate) standing: Arc<Mutex<Standing>>,
}

impl FlushState {
    /// Has `file` synced by the next job.
    pub(crate) fn mark(&mut self, file: &Arc<LazyFile>, handle: Arc<dyn DiskFile>) {
        if !self.dirty.iter().any(|known| Arc::ptr_eq(&known.file, file)) {
            self.dirty.push(Dirty { file: Arc::clone(file), handle });
        }
    }
}

impl Log {
    /// First offset that can be read.
    #[must_use]
    pub fn start_offset(&self) -> Offset {
        self.start
    }

    /// One past the last offset.
    #[must_use]
    pub fn end_offset(&self) -> Offset {
        self.end
    }

    /// All records below this offset survive a power cut.
    #[must_use]
    pub fn flushed_offset(&self) -> Offset {
        self.flush.flushed
    }

    /// The id of the topic that this log belongs to.
    #[must_use]
    pub fn topic_id(&self) -> TopicId {
        self.topic_id
    }

    /// The directory of the partition.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The configuration in use.
    #[must_use]
    pub fn config(&self) -> &LogConfig {
        &self.config
    }

    /// Changes the configuration from the next append on.
    pub fn set_config(&mut self, config: LogConfig) {
        self.config = config;
    }

    /// Bytes in all segments.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Base offsets of the segments, oldest first.
    #[must_use]
    pub fn segment_bases(&self) -> Vec<Offset> {
        self.segments.iter().map(|segment| segment.base).collect()
    }

    /// The leader epochs of the log.
    #[must_use]
    pub fn leader_epochs(&self) -> &LeaderEpochs {
        &self.epochs
    }

    /// Where `epoch`, or the largest one below it, ends (KIP-101); see [`LeaderEpochs::end_offset`].
    #[must_use]
    pub fn epoch_end_offset(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        self.epochs.end_offset(epoch, self.end)
    }

    /// Notes that this broker leads from here on under `epoch`, even before it has appended anything.
    pub fn begin_epoch(&mut self, epoch: LeaderEpoch) {
        self.note_epoch(epoch, self.end);
    }

    /// The last stable offset: no transaction that began below it is undecided, given that all below `high_watermark` is
    /// replicated. Never above `high_watermark`, nor below the log start, behind which an undecided one may have begun.
    #[must_use]
    pub fn last_stable_offset(&self, high_watermark: Offset) -> Offset {
        self.producers
            .first_unstable(high_watermark)
            .map_or(high_watermark, |first| first.max(self.start).min(high_watermark))
    }

    /// Transactions by first offset that are open, or whose marker (the second offset) was not below the mark when
    /// [`Log::high_watermark_moved`] was called last: what a new leader's machine has to know.
    #[must_use]
    pub fn unstable(&self) -> Vec<(Offset, Option<Offset>)> {
        self.producers.unstable()
    }

    /// The epoch of the last record; `None` for an empty log.
    #[must_use]
    pub fn last_epoch(&self) -> Option<LeaderEpoch> {
        if self.end > self.start { self.epochs.epoch_at(self.end.plus(-1)) } else { None }
    }

    /// Lets go of what is only kept for transactions that end below `high_watermark`. Call it when the mark moves.
    pub fn high_watermark_moved(&mut self, high_watermark: Offset) {
        self.mark = self.mark.max(Some(high_watermark));
        self.producers.decided_below(high_watermark);
    }

    /// Whether the coordinator of `coordinator_epoch` may append a marker of this producer.
    ///
    /// # Errors
    /// [`StorageError::InvalidProducerEpoch`], [`StorageError::CoordinatorFenced`].
    pub fn check_marker(
        &self,
        producer_id: ProducerId,
        epoch: ProducerEpoch,
        coordinator_epoch: i32,
    ) -> Result<()> {
        let marker = Marker { producer_id, epoch, coordinator_epoch, abort: false, timestamp: Millis::NONE };
        self.producers.check_marker(&marker)
    }

    /// What the log knows of a producer.
    #[must_use]
    pub fn producer(&self, producer: ProducerId) -> Option<&ProducerState> {
        self.producers.get(producer)
    }

    /// All producers, ordered by id, as DescribeProducers lists them.
    #[must_use]
    pub fn producers(&self) -> Vec<(ProducerId, &ProducerState)> {
        self.producers.sorted()
    }

    /// Appends whole batches to the page cache. At the leader offsets, epoch and (under `LogAppendTime`) the time are stamped on
    /// their headers while they are written; the bytes handed over are not changed and not copied. A batch that repeats one
    /// of its producer's last five, of no transaction that has ended, writes nothing and gives the original's offsets. See [`crate::validate_for_append`] for
    /// the checks that come before.
    ///
    /// # Errors
    /// Any of the first group of [`StorageError`] when the batches may not be appended; [`StorageError::Offline`] when the disk did
    /// not take them. One that is full takes the directory offline too, as in Kafka: a smaller batch might fit where its producer's
    /// one before did not, and would leave a gap that no retry fills.
    pub fn append(&mut self, batches: &[u8], origin: AppendOrigin, now: Millis) -> Result<AppendInfo> {
        self.files.check_online()?;
        let incoming = append::parse(batches)?;
        let size = batches.len() as u64;
        if size > self.config.segment_limit() {
            return Err(StorageError::AppendTooLarge { size, max: self.config.segment_limit() });
        }
        if origin != AppendOrigin::Follower {
            if let Some(duplicate) = self.find_duplicate(&incoming) {
                return Ok(duplicate);
            }
            match self.check_producers(&incoming, origin) {
                Err(refused @ StorageError::OutOfOrderSequence { .. }) => {
                    self.recall(&incoming)?;
                    return self.find_duplicate(&incoming).ok_or(refused);
                }
                checked => checked?,
            }
        }
        let stamped_time = match self.config.message_timestamp_type {
            TimestampType::LogAppendTime if origin != AppendOrigin::Follower => Some(now),
            _ => None,
        };
        let stamped = append::stamp(&incoming, origin, self.end, stamped_time)?;
        let (Some(first), Some(last)) = (stamped.first(), stamped.last()) else {
            return Err(StorageError::MalformedBatch { what: "no batch at all", position: 0 });
        };
        let (base_offset, last_offset) = (first.header.base_offset, last.header.last_offset());
        let newest = stamped.iter().map(|batch| batch.header.max_timestamp).max().unwrap_or(Millis::NONE);
        let written = self.write(&stamped, size, now, (last_offset, newest));
        written.map_err(|error| self.files.fail_with(error))?;
        self.take_up(&stamped);
        Ok(AppendInfo {
            base_offset,
            last_offset,
            log_append_time: stamped_time,
            log_start_offset: self.start,
            duplicate: false,
            bytes: size,
        })
    }

    fn check_producers(&self, incoming: &[Incoming<'_>], origin: AppendOrigin) -> Result<()> {
        let mut before: Option<DataBatch> = None;
        for Incoming { bytes, header, .. } in incoming {
            if let Some(marker) = batch::marker(header, bytes) {
                if matches!(origin, AppendOrigin::Coordinator { .. }) {
                    self.producers.check_marker(&marker)?;
                }
            } else if let Some(batch) = batch::produced(header) {
                match before.replace(batch).filter(|before| before.producer_id == batch.producer_id) {
                    Some(before) => before.check_followed_by(&batch)?,
                    None => self.producers.check(&batch)?,
                }
            }
        }
        Ok(())
    }

    /// Writes behind the last batch, in a new segment if it is time for one. A write that failed half way is cut off again, since
    /// whole batches of it, which were refused, might otherwise come to life with the next start.
    fn write(
        &mut self,
        stamped: &[Stamped<'_>],
        size: u64,
        now: Millis,
        (last_offset, newest): (Offset, Millis),
    ) -> Result<()> {
        if self.active().must_roll(size, last_offset, newest, now, &self.config) {
            self.roll(last_offset, now)?;
        }
        self.active_mut().make_room()?;
        let active = self.active();
        let handle = active.log.handle(OpenMode::Create).map_err(active.io())?;
        let mut parts = Vec::with_capacity(2 * stamped.len());
        for Stamped { bytes, head, .. } in stamped {
            parts.push(IoSlice::new(head));
            parts.push(IoSlice::new(bytes.get(HEADER_BYTES..).unwrap_or_default()));
        }
        if let Err(error) = handle.write_at(&parts, active.bytes) {
            let _ = handle.truncate(active.bytes); // the directory goes offline either way
            return Err(active.io()(error));
        }
        let file = Arc::clone(&active.log);
        self.flush.mark(&file, handle);
        self.flush.bytes += size;
        Ok(())
    }

    /// Takes up what was written into indexes, epochs and producer state. Cannot fail.
    fn take_up(&mut self, stamped: &[Stamped<'_>]) {
        let interval = self.config.index_interval_bytes;
        for Stamped { bytes, header, .. } in stamped {
            self.note_epoch(header.leader_epoch, header.base_offset);
            let aborted = replay(&mut self.producers, header, bytes);
            let active = self.active_mut();
            active.note(header, interval);
            aborted.into_iter().for_each(|aborted| active.aborted.push(aborted));
            self.end = header.next_offset();
        }
    }

    /// Closes the active segment to writes and begins a new one at the log end. Nothing is synced here: the next flush job syncs
    /// the old segment and the directory before what follows counts as durable.
    fn roll(&mut self, last_offset: Offset, now: Millis) -> Result<()> {
        // A follower may be handed offsets so far ahead that four bytes relative to the log end cannot name them.
        let base = self.end.max(Offset(last_offset.0 - i64::from(i32::MAX)));
        let sealed = self.active_mut().seal()?;
        let segment = Segment::empty(&self.files, &self.dir, base, now);
        let handle = segment.log.handle(OpenMode::Replace).map_err(segment.io())?;
        for Dirty { file, handle } in sealed {
            self.flush.mark(&file, handle);
        }
        self.flush.mark(&segment.log, handle);
        self.flush.names = true;
        self.producers.expire(now, self.config.producer_id_expiration_ms);
        self.flush.snapshots.push((base, snapshot::encode(&self.producers)));
        if self.active().bytes == 0 {
            // Only behind a jump in offsets; an empty segment in the middle serves nobody.
            if let Some(empty) = self.segments.pop_back() {
                self.remove_files(empty.base)?;
            }
        }
        self.segments.push_back(segment);
        Ok(())
    }

    /// Begins a new segment now, whatever the old one's size; for tests and for deletion of the newest records.
    ///
    /// # Errors
    /// As for [`Log::append`].
    pub fn roll_now(&mut self, now: Millis) -> Result<()> {
        self.files.check_online()?;
        if self.active().bytes == 0 {
            return Ok(());
        }
        self.roll(self.end, now).map_err(|error| self.files.fail_with(error))
    }

    /// Notes the log end and what must be synced so that all below it is durable; `None` when it is already, or when a job is
    /// out whose result has not come back. Short; nothing is written here.
    pub fn flush_begin(&mut self) -> Option<FlushJob> {
        let FlushState { flushed, in_flight, dirty, names, snapshots, .. } = &self.flush;
        let nothing = *flushed >= self.end && dirty.is_empty() && !names && snapshots.is_empty();
        if nothing || in_flight.is_some() || self.dir.has_left() {
            return None;
        }
        self.flush.in_flight = Some(self.end);
        self.flush.snapshots_out = self.flush.snapshots.iter().map(|&(offset, _)| offset).collect();
        Some(FlushJob {
            files: Arc::clone(&self.files),
            dir: Arc::clone(&self.dir),
            point: self.end,
            bytes: std::mem::take(&mut self.flush.bytes),
            dirty: std::mem::take(&mut self.flush.dirty),
            snapshots: std::mem::take(&mut self.flush.snapshots),
            names: std::mem::take(&mut self.flush.names),
            standing: Arc::clone(&self.flush.standing),
            cuts_seen: self.flush.standing.lock().cuts,
        })
    }

    /// Takes back the result of the job that is out; gives the offset below which all is durable now.
    ///
    /// # Errors
    /// The job's own error; the directory is then offline.
    pub fn flush_done(&mut self, result: Result<FlushPoint>) -> Result<Offset> {
        let valid_up_to = self.flush.in_flight.take();
        self.flush.snapshots_out.clear();
        let FlushPoint(point) = result?;
        let point = valid_up_to.map_or(point, |valid| point.min(valid));
        self.flush.flushed = self.flush.flushed.max(point);
        Ok(self.flush.flushed)
    }

    /// Flushes here and now. Blocks; for closing and for tests.
    ///
    /// # Errors
    /// As for [`FlushJob::run`].
    pub fn flush_blocking(&mut self) -> Result<Offset> {
        match self.flush_begin() {
            Some(job) => self.flush_done(job.run()),
            None => Ok(self.flush.flushed),
        }
    }

    /// Leaves the log so that the next open needs to scan nothing: indexes written, producer snapshot at the log end, all
    /// synced. Blocks. The log directory then writes its checkpoints and says that the shutdown was clean.
    ///
    /// # Errors
    /// As for [`FlushJob::run`], or [`StorageError::Io`]; also while a job is out, whose bytes may not be durable yet.
    pub fn close(&mut self) -> Result<()> {
        self.files.check_online()?;
        if self.flush.in_flight.is_some() {
            let under_way = std::io::Error::other("a flush is under way");
            return Err(StorageError::io(&self.dir)(under_way));
        }
        for Dirty { file, handle } in self.active_mut().seal()? {
            self.flush.mark(&file, handle);
        }
        self.flush.names = true;
        self.flush.snapshots.push((self.end, snapshot::encode(&self.producers)));
        self.flush_blocking()?;
        self.write_epochs_blocking()?;
        self.close_files();
        Ok(())
    }

    /// The directory is to be deleted, and another log may have its name soon: nothing is written or read there by name any more, also by a
    /// job that is out. Write to the log no more.
    pub fn leave(&mut self) {
        let _written = self.flush.standing.lock();
        self.dir.leave();
    }

    /// Closes the files of an idle log; they are opened again when needed. Files with unsynced bytes stay open until synced.
    pub fn close_files(&self) {
        self.segments.iter().for_each(Segment::close);
    }

    /// Producer snapshots beyond this offset are not to be begun from. What lies below the oldest segment was replicated, however old
    /// the mark is that is known.
    pub(crate) fn newest_snapshot(&self) -> Offset {
        let oldest = self.segments.front().map_or(self.start, |segment| segment.base);
        self.mark.map_or(Offset(i64::MAX), |mark| mark.max(oldest))
    }

    pub(crate) fn active(&self) -> &Segment {
        self.segments
            .back()
            .expect("a log has at least one segment: open makes one and deletion keeps the last")
    }

    pub(crate) fn active_mut(&mut self) -> &mut Segment {
        self.segments
            .back_mut()
            .expect("a log has at least one segment: open makes one and deletion keeps the last")
    }
}

/// Takes a batch that is in the log up into the producer state; gives the transaction that it aborts.
pub(crate) fn replay(
    producers: &mut ProducerStates,
    header: &Header,
    bytes: &[u8],
) -> Option<AbortedTransaction> {
    if let Some(data) = batch::produced(header) {
        producers.apply(&data, header.last_offset());
        return None;
    }
    let marker = batch::marker(header, bytes)?;
    let completed = producers.apply_marker(&marker, header.last_offset())?;
    completed.aborted.then(|| AbortedTransaction {
        producer_id: completed.producer_id,
        first_offset: completed.first_offset,
        last_offset: completed.last_offset,
        last_stable_offset: producers.stable_after(&completed),
    })
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("dir", &self.dir)
            .field("start", &self.start)
            .field("end", &self.end)
            .field("segments", &self.segments.len())
            .finish_non_exhaustive()
    }
}
