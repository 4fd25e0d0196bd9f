//! A disk that fails where a test says.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::{DirEntry, DirLock, Disk, DiskFile, OpenMode, Room};

/// The calls that a [`FaultyDisk`] counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// [`Disk::open`].
    Open,
    /// [`DiskFile::read_at`] and [`DiskFile::read_at_nowait`].
    Read,
    /// [`DiskFile::write_at`].
    Write,
    /// [`DiskFile::truncate`].
    Truncate,
    /// [`DiskFile::sync`].
    Sync,
    /// [`Disk::sync_dir`].
    SyncDir,
    /// [`Disk::rename`].
    Rename,
    /// [`Disk::remove`].
    Remove,
}

/// What happens to the call that a fault hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The call does nothing and gives an I/O error.
    Error,
    /// The call does nothing and says that the disk is full.
    Full,
    /// A write stores its first half only and gives an I/O error; other calls fail as with [`Fault::Error`].
    Torn,
    /// A write or a read has one bit of its middle byte flipped and says that all is well.
    BitFlip,
}

struct Armed {
    op: Op,
    suffix: String,
    after: u32,
    fault: Fault,
}

/// Wraps a disk; a fault that is armed hits one call, once.
#[derive(Clone)]
pub struct FaultyDisk(Arc<Inner>);

struct Inner {
    disk: Arc<dyn Disk>,
    armed: Mutex<Vec<Armed>>,
}

impl FaultyDisk {
    /// Wraps `disk`; nothing fails before [`FaultyDisk::arm`].
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>) -> Self {
        Self(Arc::new(Inner { disk, armed: Mutex::new(Vec::new()) }))
    }

    /// Lets the call `op` on a path that ends in `suffix` fail, once, after `after` more such calls went well.
    pub fn arm(&self, op: Op, suffix: &str, after: u32, fault: Fault) {
        self.0.armed.lock().push(Armed { op, suffix: suffix.to_owned(), after, fault });
    }

    /// How many armed faults have not hit yet.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.0.armed.lock().len()
    }
}

impl Inner {
    fn hit(&self, op: Op, path: &Path) -> Option<Fault> {
        let mut armed = self.armed.lock();
        let matching = |fault: &Armed| fault.op == op && path.to_string_lossy().ends_with(&fault.suffix);
        let at = armed.iter().position(matching)?;
        if armed[at].after == 0 {
            return Some(armed.remove(at).fault);
        }
        armed[at].after -= 1;
        None
    }

    fn check(&self, op: Op, path: &Path) -> io::Result<()> {
        match self.hit(op, path) {
            Some(Fault::Full) => Err(io::ErrorKind::StorageFull.into()),
            Some(_) => Err(io::Error::other("injected fault")),
            None => Ok(()),
        }
    }
}

impl Disk for FaultyDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        self.0.check(Op::Open, path)?;
        let file = self.0.disk.open(path, mode)?;
        Ok(Arc::new(FaultyFile { disk: Arc::clone(&self.0), path: path.to_owned(), file }))
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.0.disk.create_dir(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.check(Op::Rename, from)?;
        self.0.disk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.check(Op::Remove, path)?;
        self.0.disk.remove(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.0.disk.list(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.check(Op::SyncDir, dir)?;
        self.0.disk.sync_dir(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<DirLock> {
        self.0.disk.lock(path)
    }
    fn room(&self, dir: &Path) -> io::Result<Option<Room>> {
        self.0.disk.room(dir)
    }
}

struct FaultyFile {
    disk: Arc<Inner>,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
}

impl FaultyFile {
    fn read(&self, buf: &mut [u8], read: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> io::Result<usize> {
        match self.disk.hit(Op::Read, &self.path) {
            Some(Fault::BitFlip) => {
                let count = read(buf)?;
                flip(&mut buf[..count]);
                Ok(count)
            }
            Some(_) => Err(io::Error::other("injected fault")),
            None => read(buf),
        }
    }
}

impl DiskFile for FaultyFile {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        self.read(buf, |buf| self.file.read_at(buf, at))
    }
    fn read_at_nowait(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        self.read(buf, |buf| self.file.read_at_nowait(buf, at))
    }
    fn write_at(&self, parts: &[IoSlice<'_>], at: u64) -> io::Result<()> {
        let Some(fault) = self.disk.hit(Op::Write, &self.path) else { return self.file.write_at(parts, at) };
        let mut bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        match fault {
            Fault::Error => Err(io::Error::other("injected fault")),
            Fault::Full => Err(io::ErrorKind::StorageFull.into()),
            Fault::Torn => {
                bytes.truncate(bytes.len() / 2);
                self.file.write_at(&[IoSlice::new(&bytes)], at)?;
                Err(io::Error::other("injected torn write"))
            }
            Fault::BitFlip => {
                flip(&mut bytes);
                self.file.write_at(&[IoSlice::new(&bytes)], at)
            }
        }
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn truncate(&self, len: u64) -> io::Result<()> {
        self.disk.check(Op::Truncate, &self.path)?;
        self.file.truncate(len)
    }
    fn sync(&self) -> io::Result<()> {
        self.disk.check(Op::Sync, &self.path)?;
        self.file.sync()
    }
    fn forget_clean(&self) -> io::Result<()> {
        self.file.forget_clean()
    }
}

fn flip(bytes: &mut [u8]) {
    let middle = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(middle) {
        *byte ^= 0x10;
    }
}
