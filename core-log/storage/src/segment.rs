//! One segment of a log: a file of batches and its indexes.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use millstream_record::{Millis, Offset};

use crate::batch::{self, HEADER_BYTES, Header};
use crate::config::LogConfig;
use crate::disk::{DiskFile, OpenMode};
use crate::error::{Result, StorageError};
use crate::handle::{Dirty, Home, Kind, LazyFile, OpenFiles};
use crate::index::{Index, OffsetEntry, TimeEntry};
use crate::producer::AbortedTransaction;
use crate::scan::{Found, Scanner};

/// One segment of a log.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) base: Offset,
    /// Bytes of whole batches in the log file.
    pub(crate) bytes: u64,
    pub(crate) log: Arc<LazyFile>,
    pub(crate) offsets: Index<OffsetEntry>,
    pub(crate) times: Index<TimeEntry>,
    pub(crate) aborted: Index<AbortedTransaction>,
    /// The largest timestamp so far and the last offset of its batch.
    pub(crate) largest: Option<TimeEntry>,
    /// Largest timestamp of the first batch.
    first_timestamp: Option<Millis>,
    created: Millis,
    bytes_since_index: u64,
    /// Counts truncations, so that a reader can tell a cut from corruption.
    pub(crate) cuts: Arc<AtomicU64>,
}

impl Segment {
    /// A segment without batches that begins at `base`. Files that exist are not looked at.
    pub(crate) fn empty(files: &Arc<OpenFiles>, dir: &Arc<Home>, base: Offset, now: Millis) -> Self {
        let file = |kind| LazyFile::new(files, dir, base, kind);
        Self {
            base,
            bytes: 0,
            log: file(Kind::Log),
            offsets: Index::empty(file(Kind::OffsetIndex), base),
            times: Index::empty(file(Kind::TimeIndex), base),
            aborted: Index::empty(file(Kind::TxnIndex), base),
            largest: None,
            first_timestamp: None,
            created: now,
            bytes_since_index: 0,
            cuts: Arc::default(),
        }
    }

    /// The segment that lies on disk, its indexes taken as they are. `None` when an index is missing or cannot be right: then
    /// it must be scanned.
    pub(crate) fn load(
        files: &Arc<OpenFiles>,
        dir: &Arc<Home>,
        base: Offset,
        now: Millis,
    ) -> Result<Option<Self>> {
        let mut segment = Self::empty(files, dir, base, now);
        let log = segment.open()?;
        segment.bytes = log.len().map_err(segment.io())?;
        let file = |kind| LazyFile::new(files, dir, base, kind);
        let Some(offsets) =
            Index::<OffsetEntry>::load(file(Kind::OffsetIndex), base).map_err(segment.io())?
        else {
            return Ok(None);
        };
        let Some(times) = Index::<TimeEntry>::load(file(Kind::TimeIndex), base).map_err(segment.io())? else {
            return Ok(None);
        };
        if offsets
            .last()
            .is_some_and(|entry| entry.offset < base || u64::from(entry.position) >= segment.bytes)
        {
            return Ok(None);
        }
        // A segment without aborted transactions has no such file.
        let aborted = file(Kind::TxnIndex);
        if !matches!(aborted.handle(OpenMode::Read), Err(error) if error.kind() == ErrorKind::NotFound) {
            let Some(aborted) = Index::load(aborted, base).map_err(segment.io())? else { return Ok(None) };
            segment.aborted = aborted;
        }
        segment.largest = times.last().copied();
        (segment.offsets, segment.times) = (offsets, times);
        segment.read_first_timestamp(&*log)?;
        Ok(Some(segment))
    }

    fn read_first_timestamp(&mut self, log: &dyn DiskFile) -> Result<()> {
        let mut head = [0; HEADER_BYTES];
        if self.bytes > 0 && log.read_at(&mut head, 0).map_err(self.io())? == HEADER_BYTES {
            self.first_timestamp = batch::header(&head).ok().map(|header| header.max_timestamp);
        }
        Ok(())
    }

    /// Opens the log file, which is there.
    pub(crate) fn open(&self) -> Result<Arc<dyn DiskFile>> {
        self.log.handle(OpenMode::Write).map_err(self.io())
    }

    pub(crate) fn io(&self) -> impl FnOnce(std::io::Error) -> StorageError + use<> {
        let path = self.log.path();
        move |source| StorageError::Io { path, source }
    }

    /// Takes up a batch that lies, or is about to lie, at the end of the file.
    pub(crate) fn note(&mut self, header: &Header, index_interval_bytes: u64) {
        let last_offset = header.last_offset();
        if self.bytes == 0 {
            self.first_timestamp = Some(header.max_timestamp);
        }
        if self.largest.is_none_or(|largest| header.max_timestamp > largest.timestamp) {
            self.largest = Some(TimeEntry { timestamp: header.max_timestamp, offset: last_offset });
        }
        if self.bytes_since_index > index_interval_bytes {
            if let Ok(position) = u32::try_from(self.bytes) {
                self.offsets.push(OffsetEntry { offset: last_offset, position });
            }
            self.note_time();
            self.bytes_since_index = 0;
        }
        self.bytes += header.size_bytes() as u64;
        self.bytes_since_index += header.size_bytes() as u64;
    }

    /// Puts the largest timestamp into the time index, when it is larger than the last one there.
    fn note_time(&mut self) {
        let Some(largest) = self.largest else { return };
        if self
            .times
            .last()
            .is_none_or(|last| largest.timestamp > last.timestamp && largest.offset > last.offset)
        {
            self.times.push(largest);
        }
    }

    /// Room for the index entries of what comes next, so that an append cannot fail half way.
    pub(crate) fn make_room(&mut self) -> Result<()> {
        self.offsets.spill_if_full()?;
        self.times.spill_if_full()?;
        self.aborted.spill_if_full()
    }

    /// Writes what the indexes still hold in memory, as the segment is not written to any more (or not soon). Gives the files
    /// to sync.
    pub(crate) fn seal(&mut self) -> Result<Vec<Dirty>> {
        self.note_time();
        let mut written = Vec::with_capacity(3);
        written.push(self.offsets.spill()?);
        written.push(self.times.spill()?);
        if self.aborted.len() > 0 || self.aborted.existing().map_err(self.io())?.is_some() {
            written.push(self.aborted.spill()?);
        }
        Ok(written)
    }

    /// Whether `size` more bytes that end with `last_offset` belong into a new segment.
    pub(crate) fn must_roll(
        &self,
        size: u64,
        last_offset: Offset,
        newest: Millis,
        now: Millis,
        config: &LogConfig,
    ) -> bool {
        let index_full = |bytes: u64, entry: u64| bytes + entry > config.segment_index_bytes;
        if self.bytes == 0 {
            return last_offset.0 - self.base.0 > i64::from(i32::MAX);
        }
        let since = self.first_timestamp.filter(|first| first.0 >= 0 && newest.0 >= 0);
        let waited_ms = since.map_or(now.since_ms(self.created), |first| newest.since_ms(first));
        self.bytes + size > config.segment_limit()
            || waited_ms > config.segment_ms
            || index_full(self.offsets.bytes(), 8)
            || index_full(self.times.bytes(), 12)
            || last_offset.0 - self.base.0 > i64::from(i32::MAX)
    }

    /// The newest timestamp, or when the segment was made if it has none.
    pub(crate) fn newest_timestamp(&self) -> Millis {
        self.largest
            .map(|largest| largest.timestamp)
            .filter(|timestamp| timestamp.0 >= 0)
            .unwrap_or(self.created)
    }

    /// Walks the batches from the one that `from` lies in, going by the index if it is right.
    pub(crate) fn scan_from(&self, from: Offset) -> Result<Scanner> {
        let file = self.open()?;
        let hint = self
            .offsets
            .probe(from.0 - 1)
            .floor(from.0 - 1, crate::index::Access::Blocking)
            .map_err(self.io())?
            .map_or(0, |entry| u64::from(entry.position));
        let mut head = [0; HEADER_BYTES];
        let read = file.read_at(&mut head, hint).map_err(self.io())?;
        let start = match batch::header(head.get(..read).unwrap_or_default()) {
            Ok(header) if header.base_offset >= self.base && header.base_offset <= from => hint,
            _ => 0,
        };
        Ok(Scanner::new(file, start, self.bytes, self.base))
    }

    /// Where to cut so that all batches end at or below `target`: the position, and the end of the batch before it.
    pub(crate) fn find_cut(&self, target: Offset) -> Result<(u64, Offset)> {
        let mut scanner = self.scan_from(target)?;
        let mut end = self.base;
        loop {
            match scanner.next().map_err(self.io())? {
                Found::Batch { position, header, .. } if header.last_offset() >= target => {
                    return Ok((position, end));
                }
                Found::Batch { header, .. } => end = header.next_offset(),
                Found::End => return Ok((self.bytes, end)),
                Found::Bad { position, what } => {
                    return Err(StorageError::corrupt(&self.log.path(), position, what));
                }
            }
        }
    }

    /// Cuts the segment at `position`, as [`Segment::find_cut`] found it for `target`, durably.
    pub(crate) fn cut(&mut self, position: u64, target: Offset) -> Result<()> {
        self.cuts.fetch_add(1, Ordering::AcqRel);
        self.offsets.truncate(|entry| u64::from(entry.position) < position && entry.offset < target)?;
        self.times.truncate(|entry| entry.offset < target)?;
        self.aborted.truncate(|entry| entry.last_offset < target)?;
        let log = self.open()?;
        log.truncate(position).map_err(self.io())?;
        log.sync().map_err(self.io())?;
        // Entries that came back would tell of transactions that are gone.
        let indexes = [self.offsets.existing(), self.times.existing(), self.aborted.existing()];
        for index in indexes {
            index.and_then(|index| index.map_or(Ok(()), |index| index.sync())).map_err(self.io())?;
        }
        self.cuts.fetch_add(1, Ordering::AcqRel);
        self.bytes = position;
        self.bytes_since_index = 0;
        self.find_largest()
    }

    /// Finds the largest timestamp anew: that of the time index, or of the batches behind the last index entry.
    pub(crate) fn find_largest(&mut self) -> Result<()> {
        self.largest = self.times.last().copied();
        // A time index entry is made with each offset index entry, if there is a newer time to note.
        let mut scanner = self.scan_from(self.offsets.last().map_or(self.base, |entry| entry.offset))?;
        while let Found::Batch { header, .. } = scanner.next().map_err(self.io())? {
            if self.largest.is_none_or(|largest| header.max_timestamp > largest.timestamp) {
                self.largest =
                    Some(TimeEntry { timestamp: header.max_timestamp, offset: header.last_offset() });
            }
        }
        if self.bytes == 0 {
            self.first_timestamp = None;
        }
        Ok(())
    }

    /// Closes all files; they are opened again when needed.
    pub(crate) fn close(&self) {
        self.log.close();
        self.offsets.file().close();
        self.times.file().close();
        self.aborted.file().close();
    }
}
