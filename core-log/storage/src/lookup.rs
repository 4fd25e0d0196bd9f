//! Finding an offset by timestamp, as ListOffsets asks for it: planned under the log's lock, done outside of it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use millstream_record::{Batch, DEFAULT_DECOMPRESSED_LIMIT_BYTES, LeaderEpoch, Millis, Offset};

use crate::batch::Header;
use crate::disk::OpenMode;
use crate::error::{Result, StorageError};
use crate::handle::LazyFile;
use crate::index::{Access, IndexView, OffsetEntry, TimeEntry};
use crate::log::Log;
use crate::scan::{Found, Scanner};
use crate::segment::Segment;

/// A record found by its timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimestampOffset {
    /// Its timestamp.
    pub timestamp: Millis,
    /// Its offset.
    pub offset: Offset,
    /// The epoch of its batch.
    pub leader_epoch: LeaderEpoch,
}

/// What to look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    /// The first record whose timestamp is at or above this.
    AtOrAfter(Millis),
    /// The first record that has the largest timestamp.
    Largest,
}

impl Log {
    /// Plans to find the first record whose timestamp is at or above `timestamp`; `None` when the log has none.
    #[must_use]
    pub fn offset_for_timestamp(&self, timestamp: Millis) -> Option<LookupPlan> {
        let at = self
            .segments
            .iter()
            .position(|segment| segment.largest.is_some_and(|l| l.timestamp >= timestamp))?;
        // A record below the log start does not count, so the segments behind the first are looked at as well.
        let candidates = self.segments.iter().skip(at).filter(|segment| segment.bytes > 0);
        Some(LookupPlan::new(self, candidates, Target::AtOrAfter(timestamp)))
    }

    /// Plans to find the record with the largest timestamp (KIP-734); `None` when the log has no records.
    #[must_use]
    pub fn offset_of_max_timestamp(&self) -> Option<LookupPlan> {
        let newest = self.segments.iter().filter_map(|segment| segment.largest).map(|l| l.timestamp).max()?;
        let holding =
            self.segments.iter().filter(|s| s.largest.is_some_and(|l| l.timestamp == newest)).take(1);
        Some(LookupPlan::new(self, holding, Target::Largest))
    }
}

/// A lookup that is decided and needs the log no more.
#[derive(Debug)]
pub struct LookupPlan {
    start: Offset,
    target: Target,
    segments: Vec<SegmentView>,
}

#[derive(Debug)]
struct SegmentView {
    base: Offset,
    bytes: u64,
    largest: Option<TimeEntry>,
    log: Arc<LazyFile>,
    offsets: IndexView<OffsetEntry>,
    times: IndexView<TimeEntry>,
    cuts: Arc<AtomicU64>,
    cuts_seen: u64,
}

impl LookupPlan {
    fn new<'a>(log: &Log, segments: impl Iterator<Item = &'a Segment>, target: Target) -> Self {
        let view = |segment: &Segment| SegmentView {
            base: segment.base,
            bytes: segment.bytes,
            largest: segment.largest,
            log: Arc::clone(&segment.log),
            offsets: segment.offsets.view(),
            times: segment.times.view(),
            cuts: Arc::clone(&segment.cuts),
            cuts_seen: segment.cuts.load(Ordering::Acquire),
        };
        Self { start: log.start, target, segments: segments.map(view).collect() }
    }

    /// Looks. Blocks; records of one batch of each segment are decompressed at most.
    ///
    /// # Errors
    /// As for [`crate::ReadPlan::run_blocking`].
    pub fn run_blocking(&self) -> Result<Option<TimestampOffset>> {
        for view in &self.segments {
            let found = match self.target {
                Target::AtOrAfter(timestamp) => view.first_at_or_after(timestamp, self.start),
                Target::Largest => {
                    view.first_at_or_after(view.largest.map_or(Millis::NONE, |l| l.timestamp), self.start)
                }
            };
            if let Some(found) = found.map_err(|error| view.explain(error))? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

impl SegmentView {
    fn explain(&self, error: StorageError) -> StorageError {
        let cut = self.cuts.load(Ordering::Acquire) != self.cuts_seen;
        match error {
            StorageError::Corrupt { .. } if cut => StorageError::Changed,
            StorageError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                StorageError::Changed
            }
            other => other,
        }
    }

    fn first_at_or_after(&self, timestamp: Millis, start: Offset) -> Result<Option<TimestampOffset>> {
        if self.largest.is_none_or(|largest| largest.timestamp < timestamp) {
            return Ok(None);
        }
        let mut scanner = self.scanner_before(timestamp, start)?;
        let io = |source| StorageError::Io { path: self.log.path(), source };
        loop {
            match scanner.next().map_err(io)? {
                Found::Batch { header, bytes, position } => {
                    if header.max_timestamp >= timestamp && header.last_offset() >= start {
                        let bytes = Bytes::copy_from_slice(bytes);
                        if let Some(found) = self.in_batch(&header, bytes, position, timestamp, start)? {
                            return Ok(Some(found));
                        }
                    }
                }
                Found::End => return Ok(None),
                Found::Bad { position, what } => {
                    return Err(StorageError::corrupt(&self.log.path(), position, what));
                }
            }
        }
    }

    /// A scanner at a batch before which no timestamp reaches `timestamp`, going by the indexes.
    fn scanner_before(&self, timestamp: Millis, start: Offset) -> Result<Scanner> {
        let io = |source| StorageError::Io { path: self.log.path(), source };
        let file = self.log.handle(OpenMode::Read).map_err(io)?;
        let below =
            self.times.last_where(|entry| entry.timestamp < timestamp, Access::Blocking).map_err(io)?;
        let from = below.map_or(self.base, |entry| entry.offset).max(start);
        let hint = self.offsets.floor(from.0, Access::Blocking).map_err(io)?;
        let position = hint
            .map(|entry| u64::from(entry.position))
            .filter(|&position| position < self.bytes)
            .unwrap_or(0);
        let mut head = [0; crate::batch::HEADER_BYTES];
        let read = file.read_at(&mut head, position).map_err(io)?;
        let trusted = crate::batch::header(head.get(..read).unwrap_or_default())
            .is_ok_and(|header| header.base_offset >= self.base && header.base_offset <= from);
        Ok(Scanner::new(file, if trusted { position } else { 0 }, self.bytes, self.base))
    }

    fn in_batch(
        &self,
        header: &Header,
        bytes: Bytes,
        position: u64,
        timestamp: Millis,
        start: Offset,
    ) -> Result<Option<TimestampOffset>> {
        let corrupt = |error| StorageError::corrupt(&self.log.path(), position, format!("{error}"));
        let batch = Batch::parse(bytes).map_err(corrupt)?;
        let body = batch.decompress(DEFAULT_DECOMPRESSED_LIMIT_BYTES).map_err(corrupt)?;
        for record in batch.records(&body) {
            let record = record.map_err(corrupt)?;
            if record.timestamp >= timestamp && record.offset >= start {
                let (timestamp, offset) = (record.timestamp, record.offset);
                return Ok(Some(TimestampOffset { timestamp, offset, leader_epoch: header.leader_epoch }));
            }
        }
        Ok(None)
    }
}
