//! The one door to a disk: [`Disk`] names files and directories, [`DiskFile`] reads and writes one of them.
//!
//! Everything durable in Millstream goes through these fifteen calls, so a simulated disk that forgets unsynced sectors,
//! undoes unsynced names or flips bits needs to implement nothing else. What the rest of storage relies on:
//!
//! - [`DiskFile::sync`] makes a file's bytes and length durable, [`Disk::sync_dir`] its name. Neither implies the other.
//! - An open file goes on working when its name is renamed or removed.
//! - A failed [`DiskFile::sync`] says nothing about which bytes are durable. Storage never tries it again.

mod faulty;
mod memory;
mod real;

use std::any::Any;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

pub use faulty::{Fault, FaultyDisk, Op};
pub use memory::MemoryDisk;
pub use real::RealDisk;

/// How [`Disk::open`] treats a file that is, or is not, there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Read only; a missing file is [`io::ErrorKind::NotFound`].
    Read,
    /// Read and write; a missing file is [`io::ErrorKind::NotFound`].
    Write,
    /// Read and write; a missing file is created empty.
    Create,
    /// Read and write; a file that exists is cut to zero bytes, a missing one is created.
    Replace,
}

/// A name in a directory, as [`Disk::list`] gives it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// The last part of the path. Names that are not UTF-8 are not ours and are left out.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
}

/// Held for as long as a directory is ours; dropping it gives the lock back.
pub type DirLock = Box<dyn Any + Send + Sync>;

/// A tree of files and directories. Calls may block; none of them is made durable before [`Disk::sync_dir`].
pub trait Disk: Send + Sync + 'static {
    /// Opens a file.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>>;
    /// Makes a directory and its parents; one that exists already is fine.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Moves a file or a directory, replacing a file of the new name, in one step.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file or an empty directory.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// The entries of a directory, ordered by name.
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>>;
    /// Makes the names in a directory durable: what was created, renamed and removed in it.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Takes the exclusive lock named by a file, which is created when missing; [`io::ErrorKind::WouldBlock`] when
    /// another process, or another owner in this one, holds it.
    fn lock(&self, path: &Path) -> io::Result<DirLock>;
    /// How much room there is for `dir`; `None` where that is not known.
    fn room(&self, _dir: &Path) -> io::Result<Option<Room>> {
        Ok(None)
    }
}

/// The room on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// All of it, in bytes.
    pub total: u64,
    /// What we may still write, in bytes.
    pub usable: u64,
}

/// An open file. Positions are explicit, so readers and the one writer share a handle.
pub trait DiskFile: Send + Sync {
    /// Reads at `at` until `buf` is full or the file ends; gives the number of bytes read.
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize>;
    /// Like [`DiskFile::read_at`], but never waits for a device: [`io::ErrorKind::WouldBlock`] when not one byte could be
    /// had at once, and a short count when some could.
    fn read_at_nowait(&self, buf: &mut [u8], at: u64) -> io::Result<usize>;
    /// Writes all of `parts`, one behind the other, at `at`. After an error any of the bytes may have been written.
    fn write_at(&self, parts: &[IoSlice<'_>], at: u64) -> io::Result<()>;
    /// The length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Cuts the file to `len` bytes, or extends it with zeros.
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// Makes the file's bytes and length durable (`fdatasync`).
    fn sync(&self) -> io::Result<()>;
    /// Has the next reads come from the device, as far as the file's cached bytes are not waiting to be written: a process that
    /// died after a failed [`DiskFile::sync`] leaves bytes in the cache that will never reach the device, yet count as
    /// written there. A hint where a disk has no cache.
    fn forget_clean(&self) -> io::Result<()> {
        Ok(())
    }
    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// Reads the whole file at `path`.
///
/// # Errors
/// Those of the disk; [`io::ErrorKind::NotFound`] when there is no such file.
pub(crate) fn read_file(disk: &dyn Disk, path: &Path) -> io::Result<Vec<u8>> {
    let file = disk.open(path, OpenMode::Read)?;
    let len =
        usize::try_from(file.len()?).map_err(|_| io::Error::other("the file does not fit in memory"))?;
    let mut bytes = vec![0; len];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Replaces the file at `path` so that after a crash it has either all of the old bytes or all of the new: written beside,
/// synced, renamed, and the directory synced.
///
/// # Errors
/// Those of the disk. The old file is then still there, or the new one is.
pub(crate) fn replace_file(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_added_extension("tmp");
    let file = disk.open(&beside, OpenMode::Replace)?;
    file.write_at(&[IoSlice::new(bytes)], 0)?;
    file.sync()?;
    disk.rename(&beside, path)?;
    match path.parent() {
        Some(dir) => disk.sync_dir(dir),
        None => Ok(()),
    }
}
