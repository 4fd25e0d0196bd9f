//! The sparse indexes of a segment: files of fixed-size entries in ascending order, as Kafka writes them.
//!
//! An index is a hint. It is never synced with the bytes that it points into, so whoever follows an entry checks what is there
//! and falls back to reading the segment from its begin. The newest entries wait in memory and are written in blocks;
//! after a crash they are made anew from the log.

use std::io::{self, IoSlice};
use std::sync::Arc;

use millstream_record::{Millis, Offset, ProducerId};

use crate::disk::{DiskFile, OpenMode};
use crate::error::{Result, StorageError};
use crate::handle::{Dirty, LazyFile};
use crate::producer::AbortedTransaction;

/// Entries that wait in memory before they are written as one block.
const TAIL_ENTRIES: usize = 256;
/// The largest entry of any index.
const ENTRY_BYTES_MAX: usize = 34;
/// The version of the entries of aborted transactions; offsets and times have none.
const ABORTED_VERSION: [u8; 2] = 0i16.to_be_bytes();

/// An entry of an index file. Offsets in files are relative to the segment's base.
pub(crate) trait Entry: Copy {
    const BYTES: usize;
    fn encode(&self, base: Offset, out: &mut Vec<u8>);
    fn decode(bytes: &[u8], base: Offset) -> Option<Self>;
    /// What entries ascend by.
    fn key(&self) -> i64;
}

/// The batch that ends with `offset` lies at `position` of the log file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OffsetEntry {
    pub(crate) offset: Offset,
    pub(crate) position: u32,
}

impl Entry for OffsetEntry {
    const BYTES: usize = 8;
    fn encode(&self, base: Offset, out: &mut Vec<u8>) {
        out.extend_from_slice(&relative(self.offset, base).to_be_bytes());
        out.extend_from_slice(&self.position.to_be_bytes());
    }
    fn decode(bytes: &[u8], base: Offset) -> Option<Self> {
        let (offset, rest) = bytes.split_first_chunk()?;
        let position = u32::from_be_bytes(*rest.first_chunk()?);
        Some(Self { offset: base.plus(i32::from_be_bytes(*offset).into()), position })
    }
    fn key(&self) -> i64 {
        self.offset.0
    }
}

/// No batch up to the one that ends with `offset` has a timestamp above `timestamp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimeEntry {
    pub(crate) timestamp: Millis,
    pub(crate) offset: Offset,
}

impl Entry for TimeEntry {
    const BYTES: usize = 12;
    fn encode(&self, base: Offset, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.timestamp.0.to_be_bytes());
        out.extend_from_slice(&relative(self.offset, base).to_be_bytes());
    }
    fn decode(bytes: &[u8], base: Offset) -> Option<Self> {
        let (timestamp, rest) = bytes.split_first_chunk()?;
        let offset = i32::from_be_bytes(*rest.first_chunk()?);
        Some(Self { timestamp: Millis(i64::from_be_bytes(*timestamp)), offset: base.plus(offset.into()) })
    }
    fn key(&self) -> i64 {
        self.timestamp.0
    }
}

impl Entry for AbortedTransaction {
    const BYTES: usize = ENTRY_BYTES_MAX;
    fn encode(&self, _: Offset, out: &mut Vec<u8>) {
        out.extend_from_slice(&ABORTED_VERSION);
        for number in [self.producer_id.0, self.first_offset.0, self.last_offset.0, self.last_stable_offset.0]
        {
            out.extend_from_slice(&number.to_be_bytes());
        }
    }
    fn decode(bytes: &[u8], _: Offset) -> Option<Self> {
        bytes.strip_prefix(&ABORTED_VERSION)?;
        let number =
            |at: usize| bytes.get(2 + 8 * at..)?.first_chunk().map(|bytes| i64::from_be_bytes(*bytes));
        Some(Self {
            producer_id: ProducerId(number(0)?),
            first_offset: Offset(number(1)?),
            last_offset: Offset(number(2)?),
            last_stable_offset: Offset(number(3)?),
        })
    }
    fn key(&self) -> i64 {
        self.last_offset.0
    }
}

/// A roll comes before an offset that does not fit.
fn relative(offset: Offset, base: Offset) -> i32 {
    i32::try_from(offset.0 - base.0).unwrap_or(i32::MAX)
}

/// One index of one segment.
#[derive(Debug)]
pub(crate) struct Index<E> {
    file: Arc<LazyFile>,
    base: Offset,
    /// Entries in the file.
    written: u32,
    /// Entries behind those.
    tail: Vec<E>,
    last: Option<E>,
}

impl<E: Entry> Index<E> {
    /// An index without entries. An older file of its name is overwritten.
    pub(crate) fn empty(file: Arc<LazyFile>, base: Offset) -> Self {
        Self { file, base, written: 0, tail: Vec::new(), last: None }
    }

    /// The index that a clean close left; `None` when there is none that could be right.
    pub(crate) fn load(file: Arc<LazyFile>, base: Offset) -> io::Result<Option<Self>> {
        let handle = match file.handle(OpenMode::Read) {
            Ok(handle) => handle,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let len = handle.len()?;
        let Ok(written) = u32::try_from(len / E::BYTES as u64) else { return Ok(None) };
        if len % E::BYTES as u64 != 0 {
            return Ok(None);
        }
        let mut raw = [0; ENTRY_BYTES_MAX];
        let (raw, _) = raw.split_at_mut(E::BYTES);
        let last = match written.checked_sub(1) {
            Some(at) if handle.read_at(raw, u64::from(at) * E::BYTES as u64)? == E::BYTES => {
                match E::decode(raw, base) {
                    Some(last) => Some(last),
                    None => return Ok(None), // another version's
                }
            }
            _ => None,
        };
        // Zeros at the end are what Kafka leaves preallocated when it is killed.
        if written > 1 && raw.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        Ok(Some(Self { file, base, written, tail: Vec::new(), last }))
    }

    pub(crate) fn len(&self) -> u64 {
        u64::from(self.written) + self.tail.len() as u64
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.len() * E::BYTES as u64
    }

    /// Cuts off what the file has behind the entries that were written by this index.
    pub(crate) fn drop_unknown(&self) -> Result<()> {
        let keep = u64::from(self.written) * E::BYTES as u64;
        let cut = |file: Arc<dyn DiskFile>| if file.len()? == keep { Ok(()) } else { file.truncate(keep) };
        let dropped = self.existing().and_then(|file| file.map_or(Ok(()), cut));
        dropped.map_err(StorageError::io(&self.file.path()))
    }

    pub(crate) fn last(&self) -> Option<&E> {
        self.last.as_ref()
    }

    pub(crate) fn file(&self) -> &Arc<LazyFile> {
        &self.file
    }

    /// The file, if there is one.
    pub(crate) fn existing(&self) -> io::Result<Option<Arc<dyn DiskFile>>> {
        match self.file.handle(OpenMode::Write) {
            Ok(handle) => Ok(Some(handle)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Appends without writing; call [`Index::spill_if_full`] beforehand.
    pub(crate) fn push(&mut self, entry: E) {
        self.last = Some(entry);
        self.tail.push(entry);
    }

    /// Writes the waiting entries when there are many.
    pub(crate) fn spill_if_full(&mut self) -> Result<()> {
        if self.tail.len() < TAIL_ENTRIES {
            return Ok(());
        }
        self.spill().map(drop)
    }

    /// Writes all waiting entries; gives the file, which is there from now on.
    pub(crate) fn spill(&mut self) -> Result<Dirty> {
        let write = || {
            let handle = self.file.handle(OpenMode::Create)?;
            let at = u64::from(self.written) * E::BYTES as u64;
            if self.tail.is_empty() && handle.len()? == at {
                return Ok(handle);
            }
            let mut block = Vec::with_capacity(self.tail.len() * E::BYTES);
            self.tail.iter().for_each(|entry| entry.encode(self.base, &mut block));
            handle.truncate(at)?;
            handle.write_at(&[IoSlice::new(&block)], at)?;
            Ok(handle)
        };
        let handle = write().map_err(StorageError::io(&self.file.path()))?;
        self.written += u32::try_from(self.tail.len()).unwrap_or(u32::MAX);
        self.tail = Vec::new();
        Ok(Dirty { file: Arc::clone(&self.file), handle })
    }

    /// A view that can be searched without the log's lock.
    pub(crate) fn view(&self) -> IndexView<E> {
        IndexView {
            file: Arc::clone(&self.file),
            base: self.base,
            written: self.written,
            tail: self.tail.clone(),
        }
    }

    /// A view that is enough to find the last entry at or below `key`, and the one before it.
    pub(crate) fn probe(&self, key: i64) -> IndexView<E> {
        let at = self.tail.partition_point(|entry| entry.key() <= key);
        let tail = self.tail.get(at.saturating_sub(2)..at).unwrap_or_default().to_vec();
        let written = if tail.len() == 2 { 0 } else { self.written };
        IndexView { file: Arc::clone(&self.file), base: self.base, written, tail }
    }

    /// Drops entries for which `keep` no longer holds, from the end.
    pub(crate) fn truncate(&mut self, keep: impl Fn(&E) -> bool) -> Result<()> {
        let path = self.file.path();
        while self.tail.last().is_some_and(|entry| !keep(entry)) {
            self.tail.pop();
        }
        if self.tail.is_empty() && self.written > 0 {
            let mut cut = || {
                let handle = self.file.handle(OpenMode::Write)?;
                while let Some(at) = self.written.checked_sub(1) {
                    match read_entry::<E>(&*handle, at, self.base, Access::Blocking) {
                        Ok(Some(entry)) if keep(&entry) => break,
                        Ok(_) => {}
                        Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
                        Err(error) => return Err(error),
                    }
                    self.written = at;
                }
                handle.truncate(u64::from(self.written) * E::BYTES as u64)
            };
            cut().map_err(StorageError::io(&path))?;
        }
        self.last = match self.tail.last() {
            Some(entry) => Some(*entry),
            None => self
                .view()
                .entry(self.len().checked_sub(1), Access::Blocking)
                .map_err(StorageError::io(&path))?,
        };
        Ok(())
    }
}

/// Whether a read may wait for a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Nowait,
    Blocking,
}

impl Access {
    pub(crate) fn read(self, file: &dyn DiskFile, buf: &mut [u8], at: u64) -> io::Result<usize> {
        match self {
            Self::Nowait => file.read_at_nowait(buf, at),
            Self::Blocking => file.read_at(buf, at),
        }
    }

    pub(crate) fn open(self, file: &Arc<LazyFile>) -> io::Result<Arc<dyn DiskFile>> {
        match self {
            Self::Nowait => file.opened().ok_or_else(|| io::ErrorKind::WouldBlock.into()),
            Self::Blocking => file.handle(OpenMode::Read),
        }
    }
}

fn read_entry<E: Entry>(file: &dyn DiskFile, at: u32, base: Offset, access: Access) -> io::Result<Option<E>> {
    let mut bytes = [0; ENTRY_BYTES_MAX];
    let (bytes, _) = bytes.split_at_mut(E::BYTES);
    let read = access.read(file, bytes, u64::from(at) * E::BYTES as u64)?;
    if read < E::BYTES {
        return Ok(None);
    }
    let entry = E::decode(bytes, base);
    entry.map(Some).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("entry {at} is of another version"))
    })
}

/// What an index held when the view was taken.
#[derive(Debug)]
pub(crate) struct IndexView<E> {
    file: Arc<LazyFile>,
    base: Offset,
    written: u32,
    tail: Vec<E>,
}

impl<E: Entry> IndexView<E> {
    pub(crate) fn path(&self) -> std::path::PathBuf {
        self.file.path()
    }

    pub(crate) fn len(&self) -> u64 {
        u64::from(self.written) + self.tail.len() as u64
    }

    /// The entry number `at`.
    pub(crate) fn entry(&self, at: Option<u64>, access: Access) -> io::Result<Option<E>> {
        let Some(at) = at else { return Ok(None) };
        if let Some(in_tail) = at.checked_sub(self.written.into()) {
            return Ok(usize::try_from(in_tail).ok().and_then(|at| self.tail.get(at)).copied());
        }
        let file = access.open(&self.file)?;
        read_entry(&*file, u32::try_from(at).unwrap_or(u32::MAX), self.base, access)
    }

    /// The last entry whose key is at most `key`.
    pub(crate) fn floor(&self, key: i64, access: Access) -> io::Result<Option<E>> {
        self.last_where(|entry| entry.key() <= key, access)
    }

    /// The last entry of those, at the begin, for which `holds`.
    pub(crate) fn last_where(&self, holds: impl Fn(&E) -> bool, access: Access) -> io::Result<Option<E>> {
        let (mut low, mut high) = (0, self.len());
        let mut found = None;
        while low < high {
            let middle = low + (high - low) / 2;
            match self.entry(Some(middle), access)? {
                Some(entry) if holds(&entry) => {
                    found = Some(entry);
                    low = middle + 1;
                }
                _ => high = middle,
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::disk::{Disk, MemoryDisk};
    use crate::handle::{Home, Kind, OpenFiles};

    #[test]
    fn floors_are_found_in_the_file_and_in_memory_and_truncation_reaches_both() {
        let disk = Arc::new(MemoryDisk::new());
        let dir = Home::new(Path::new("/d"));
        disk.create_dir(&dir).unwrap();
        let files = OpenFiles::new(disk, 8);
        let lazy = || LazyFile::new(&files, &dir, Offset(1000), Kind::OffsetIndex);
        let mut index = Index::empty(lazy(), Offset(1000));
        for n in 0..300i64 {
            index.spill_if_full().unwrap();
            index.push(OffsetEntry { offset: Offset(1000 + 10 * n), position: n as u32 });
        }
        assert_eq!((index.written, index.tail.len()), (256, 44));
        for (key, expected) in [
            (999, None),
            (1000, Some(0)),
            (1009, Some(0)),
            (3559, Some(255)),
            (3565, Some(256)),
            (9999, Some(299)),
        ] {
            let found = index.probe(key).floor(key, Access::Blocking).unwrap().map(|entry| entry.position);
            assert_eq!(found, expected, "{key}");
            assert_eq!(
                index.view().floor(key, Access::Nowait).unwrap().map(|entry| entry.position),
                expected
            );
        }
        index.truncate(|entry| entry.offset < Offset(1105)).unwrap();
        assert_eq!(index.last().unwrap().position, 10);
        index.push(OffsetEntry { offset: Offset(1200), position: 11 });
        index.spill().unwrap();
        let loaded = Index::<OffsetEntry>::load(lazy(), Offset(1000)).unwrap().unwrap();
        assert_eq!((loaded.len(), loaded.last().unwrap().offset), (12, Offset(1200)));
    }
}
