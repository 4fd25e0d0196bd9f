//! Reading: planned under the log's lock, done outside of it.
//!
//! A plan holds what cannot change under it: which segments, how many bytes of each are whole batches, open files where there
//! are some. Looking into an index, reading and checking CRCs happens when the plan runs. Every batch that is handed out has
//! had its CRC checked, since a bit that flipped on disk must become an error and never data.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use millstream_record::{LeaderEpoch, Offset};

use crate::batch::{self, HEADER_BYTES, Header};
use crate::error::{Result, StorageError};
use crate::handle::LazyFile;
use crate::index::{Access, IndexView, OffsetEntry};
use crate::log::Log;
use crate::producer::AbortedTransaction;
use crate::segment::Segment;

/// Read beyond what was asked for: an index entry points up to about this far before the batch that is wanted.
const SLACK_BYTES: u64 = 8 << 10;
/// Segments that one plan looks at: more than one only where compaction or a jump in offsets left one without what is wanted.
const SEGMENTS_PER_PLAN: usize = 4;

/// What to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadRequest {
    /// The first offset wanted. The batch that holds it is given whole.
    pub offset: Offset,
    /// How many bytes at most.
    pub max_bytes: usize,
    /// Nothing at or behind this offset: the high watermark for consumers, the last stable offset for read-committed ones, the log end
    /// for followers.
    pub upper_bound: Offset,
    /// Give the first batch even when it is larger than `max_bytes`, so that a reader is never stuck.
    pub at_least_one: bool,
    /// List the aborted transactions that overlap what is given (read-committed).
    pub with_aborted: bool,
}

/// Whole batches, one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadSlices {
    /// The batches, as they lie on disk.
    pub bytes: Bytes,
    /// Where to read on.
    pub next_offset: Offset,
    /// Aborted transactions that overlap the batches, ordered by first offset; empty unless asked for.
    pub aborted: Vec<AbortedTransaction>,
}

impl Log {
    /// Plans a read. Short, and touches no file.
    ///
    /// # Errors
    /// [`StorageError::OffsetOutOfRange`] for an offset below the log start or above the log end.
    pub fn read_plan(&self, request: ReadRequest) -> Result<ReadPlan> {
        let offset = request.offset;
        if offset < self.start || offset > self.end {
            return Err(StorageError::OffsetOutOfRange { offset, start: self.start, end: self.end });
        }
        self.files.check_online()?;
        let latest_epoch = self.epochs.latest().unwrap_or(LeaderEpoch::NONE);
        let first = self.segments.partition_point(|segment| segment.base <= offset).saturating_sub(1);
        let mut plan = ReadPlan { request, segments: Vec::new(), aborted: Vec::new() };
        if offset >= request.upper_bound {
            return Ok(plan);
        }
        let ends = self.segments.iter().skip(first + 1).map(|next| next.base).chain([self.end]);
        let views = self.segments.iter().skip(first).zip(ends).filter(|(segment, _)| segment.bytes > 0);
        plan.segments = views
            .take(SEGMENTS_PER_PLAN)
            .map(|(segment, end)| SegmentView::new(segment, offset, end, latest_epoch))
            .collect();
        if request.with_aborted {
            let with_entries = self.segments.iter().skip(first).filter(|segment| segment.aborted.len() > 0);
            plan.aborted = with_entries.map(|segment| segment.aborted.view()).collect();
        }
        Ok(plan)
    }

    /// Reads here and now; for tests and for callers that may block under the lock.
    ///
    /// # Errors
    /// As for [`Log::read_plan`] and [`ReadPlan::run_blocking`].
    pub fn read(&self, request: ReadRequest) -> Result<ReadSlices> {
        self.read_plan(request)?.run_blocking()
    }
}

/// A read that is decided and needs the log no more.
#[derive(Debug)]
pub struct ReadPlan {
    request: ReadRequest,
    segments: Vec<SegmentView>,
    aborted: Vec<IndexView<AbortedTransaction>>,
}

impl ReadPlan {
    /// Reads if that needs no device: `None` when it does; then run the plan where blocking is allowed. It may give fewer
    /// batches than [`ReadPlan::run_blocking`] would.
    ///
    /// # Errors
    /// As for [`ReadPlan::run_blocking`].
    pub fn try_now(&self) -> Result<Option<ReadSlices>> {
        match self.run(Access::Nowait) {
            Err(StorageError::Io { source, .. }) if source.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(other) => Err(other),
            Ok(slices) => Ok(Some(slices)),
        }
    }

    /// Reads. Blocks.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] with file and position when a batch is not what was written; [`StorageError::Changed`] when the
    /// segment was deleted or cut since the plan was made (plan again); [`StorageError::Io`].
    pub fn run_blocking(&self) -> Result<ReadSlices> {
        self.run(Access::Blocking)
    }

    fn run(&self, access: Access) -> Result<ReadSlices> {
        let mut slices = ReadSlices { next_offset: self.request.offset, ..ReadSlices::default() };
        for view in &self.segments {
            let read = view.read(&self.request, access).map_err(|error| view.explain(error))?;
            slices.next_offset = read.next_offset;
            if !read.bytes.is_empty() {
                slices.bytes = read.bytes;
                break;
            }
            if read.done {
                break;
            }
        }
        if !slices.bytes.is_empty() {
            slices.aborted = self.aborted_below(slices.next_offset, access)?;
        }
        Ok(slices)
    }

    /// Aborted transactions that overlap the range from the offset asked for to `upper`.
    fn aborted_below(&self, upper: Offset, access: Access) -> Result<Vec<AbortedTransaction>> {
        let mut found = Vec::new();
        'segments: for view in &self.aborted {
            for at in 0..view.len() {
                let entry = view
                    .entry(Some(at), access)
                    .map_err(|source| StorageError::Io { path: view.path(), source })?;
                let sane =
                    entry.filter(|entry| entry.first_offset <= entry.last_offset && entry.producer_id.0 >= 0);
                let Some(entry) = sane else {
                    return Err(StorageError::corrupt(&view.path(), at, "an entry that cannot be"));
                };
                if entry.last_offset >= self.request.offset && entry.first_offset < upper {
                    found.push(entry);
                }
                if entry.last_stable_offset >= upper {
                    break 'segments; // whatever follows began behind the range
                }
            }
        }
        found.sort_unstable_by_key(|aborted| aborted.first_offset);
        Ok(found)
    }
}

/// What one segment gave.
struct Part {
    bytes: Bytes,
    next_offset: Offset,
    /// Do not look into the next segment.
    done: bool,
}

/// A segment as it was when the plan was made.
#[derive(Debug)]
struct SegmentView {
    base: Offset,
    log: Arc<LazyFile>,
    bytes: u64,
    /// No batch of the segment ends behind this.
    end: Offset,
    /// No batch of the log has a newer one.
    latest_epoch: LeaderEpoch,
    hint: IndexView<OffsetEntry>,
    cuts: Arc<AtomicU64>,
    cuts_seen: u64,
}

impl SegmentView {
    fn new(segment: &Segment, offset: Offset, end: Offset, latest_epoch: LeaderEpoch) -> Self {
        Self {
            base: segment.base,
            latest_epoch,
            log: Arc::clone(&segment.log),
            bytes: segment.bytes,
            end,
            hint: segment.offsets.probe(offset.0),
            cuts: Arc::clone(&segment.cuts),
            cuts_seen: segment.cuts.load(Ordering::Acquire),
        }
    }

    /// A segment that was deleted or cut while it was read is no corruption.
    fn explain(&self, error: StorageError) -> StorageError {
        let cut = self.cuts.load(Ordering::Acquire) != self.cuts_seen;
        match error {
            StorageError::Corrupt { .. } if cut => StorageError::Changed,
            StorageError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                StorageError::Changed
            }
            StorageError::Io { source, .. } if source.kind() == io::ErrorKind::UnexpectedEof && cut => {
                StorageError::Changed
            }
            StorageError::Io { path, source } if source.kind() == io::ErrorKind::UnexpectedEof => {
                StorageError::corrupt(&path, self.bytes, "the file is shorter than what was written to it")
            }
            other => other,
        }
    }

    fn io(&self, source: io::Error) -> StorageError {
        StorageError::Io { path: self.log.path(), source }
    }

    /// Reads from where the index points to. The index is only a hint: where it leads astray, an earlier entry is followed, and at
    /// last the segment is read from its begin.
    fn read(&self, request: &ReadRequest, access: Access) -> Result<Part> {
        let mut key = request.offset;
        for _ in 0..2 {
            let entry = self.hint.floor(key.0, access).map_err(|source| self.io(source))?;
            let Some(entry) = entry.filter(|entry| u64::from(entry.position) < self.bytes) else { break };
            match self.read_from(entry.position.into(), Some(entry), request, access) {
                Ok(Some(part)) => return Ok(part),
                Ok(None) | Err(StorageError::Corrupt { .. }) => key = entry.offset.plus(-1),
                Err(other) => return Err(other),
            }
        }
        let part = self.read_from(0, None, request, access)?;
        Ok(part.unwrap_or(Part { bytes: Bytes::new(), next_offset: request.offset, done: true }))
    }

    /// Reads from byte `at`, where a batch begins at or before the offset asked for. `None` when `hint`, which told so, cannot be
    /// trusted.
    ///
    /// Base offsets are the one part of a batch that its CRC does not cover. What keeps a flipped bit there from being served is
    /// their order: each batch begins at or behind the end of the one before, and the first one ends where the index says.
    fn read_from(
        &self,
        at: u64,
        hint: Option<OffsetEntry>,
        request: &ReadRequest,
        access: Access,
    ) -> Result<Option<Part>> {
        let file = access.open(&self.log).map_err(|source| self.io(source))?;
        let mut window = Window { file, access, at, bytes: Vec::new() };
        let (mut position, mut lower, mut trusted) = (at, self.base, hint.is_none());
        let wanted = request.max_bytes as u64 + SLACK_BYTES;
        while position < self.bytes {
            let rest = self.bytes - position;
            let head =
                window.have(position, HEADER_BYTES, wanted.min(rest)).map_err(|source| self.io(source))?;
            let header = batch::header(head).map_err(|what| self.corrupt(position, what))?;
            if header.size_bytes() as u64 > rest {
                return Err(self.corrupt(position, "a batch that is longer than the segment"));
            }
            if header.base_offset < lower || header.next_offset() > self.end {
                return Err(self.corrupt(position, "a batch whose offsets are out of order"));
            }
            if let Some(hint) = hint.filter(|_| position == at) {
                if header.base_offset > hint.offset {
                    return Ok(None);
                }
                trusted = header.last_offset() == hint.offset;
            }
            if header.last_offset() >= request.offset {
                // Kafka before 4 made an index entry for several batches at once; such a one is no proof that a gap is real.
                let contained = header.base_offset <= request.offset;
                return if trusted || contained {
                    self.collect(window, position, &header, request).map(Some)
                } else {
                    Ok(None)
                };
            }
            lower = header.next_offset();
            position += header.size_bytes() as u64;
        }
        Ok(Some(Part { bytes: Bytes::new(), next_offset: self.end.max(request.offset), done: false }))
    }

    fn corrupt(&self, position: u64, what: &str) -> StorageError {
        StorageError::corrupt(&self.log.path(), position, what)
    }

    /// Takes whole batches from `position` on, the first of which is `first`. A damaged batch behind good ones ends the read; the
    /// next one reports it.
    fn collect(&self, mut window: Window, start: u64, first: &Header, request: &ReadRequest) -> Result<Part> {
        if first.next_offset() > request.upper_bound
            || (first.size_bytes() > request.max_bytes && !request.at_least_one)
        {
            return Ok(Part { bytes: Bytes::new(), next_offset: request.offset, done: true });
        }
        let limit = request.max_bytes.max(first.size_bytes());
        let wanted = (limit as u64).min(self.bytes - start);
        window.have(start, first.size_bytes(), wanted).map_err(|source| self.io(source))?;
        let from = window.place_of(start);
        let (mut end, mut next_offset) = (from, first.base_offset);
        while let Ok(header) = batch::header(window.bytes.get(end..).unwrap_or_default()) {
            let Some(batch) = window.bytes.get(end..end + header.size_bytes()) else { break };
            let position = start + (end - from) as u64;
            if position + header.size_bytes() as u64 > self.bytes
                || end + header.size_bytes() - from > limit
                || header.next_offset() > request.upper_bound
            {
                break;
            }
            if header.base_offset < next_offset
                || header.leader_epoch > self.latest_epoch
                || !batch::crc_holds(&header, batch)
            {
                if end > from {
                    break;
                }
                return Err(self.corrupt(position, "a batch whose CRC or offset is wrong"));
            }
            end += header.size_bytes();
            next_offset = header.next_offset();
        }
        let behind = start + (end - from) as u64;
        if end == from || next_offset > self.offset_at(&window, behind)? {
            return Err(self.corrupt(start, "a batch whose length or offset is wrong"));
        }
        Ok(Part { bytes: Bytes::from(window.bytes).slice(from..end), next_offset, done: true })
    }

    /// The base offset of the batch at `position`, or the segment's end offset at the end.
    fn offset_at(&self, window: &Window, position: u64) -> Result<Offset> {
        if position >= self.bytes {
            return Ok(self.end);
        }
        let mut head = [0; HEADER_BYTES];
        let header =
            match window.bytes.get(window.place_of(position)..).and_then(|rest| rest.get(..HEADER_BYTES)) {
                Some(head) => batch::header(head),
                None => {
                    window.read(&mut head, position).map_err(|source| self.io(source))?;
                    batch::header(&head)
                }
            };
        // One that cannot be read is for the next read to report.
        Ok(header.map_or(self.end, |header| header.base_offset))
    }
}

/// A stretch of a file in memory.
struct Window {
    file: Arc<dyn crate::disk::DiskFile>,
    access: Access,
    at: u64,
    bytes: Vec<u8>,
}

impl Window {
    /// At least `needed` bytes from `position` on; reads up to `wanted` when there are not enough yet.
    fn have(&mut self, position: u64, needed: usize, wanted: u64) -> io::Result<&[u8]> {
        let from = self.place_of(position);
        if self.bytes.get(from..).is_none_or(|rest| rest.len() < needed) {
            let mut bytes = vec![0; usize::try_from(wanted).unwrap_or(usize::MAX).max(needed)];
            let read = self.access.read(&*self.file, &mut bytes, position)?;
            bytes.truncate(read);
            if read < needed {
                return Err(self.too_short());
            }
            (self.at, self.bytes) = (position, bytes);
            return Ok(&self.bytes);
        }
        Ok(self.bytes.get(from..).unwrap_or_default())
    }

    /// Fills `buf` with what lies at `position`.
    fn read(&self, buf: &mut [u8], position: u64) -> io::Result<()> {
        let read = self.access.read(&*self.file, buf, position)?;
        if read == buf.len() { Ok(()) } else { Err(self.too_short()) }
    }

    fn too_short(&self) -> io::Error {
        match self.access {
            Access::Nowait => io::ErrorKind::WouldBlock.into(),
            Access::Blocking => io::ErrorKind::UnexpectedEof.into(),
        }
    }

    /// Where the byte at `position` of the file is among the bytes, if it is.
    fn place_of(&self, position: u64) -> usize {
        usize::try_from(position - self.at).unwrap_or(usize::MAX)
    }
}
