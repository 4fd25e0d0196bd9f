//! The operating system's files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Advice, FlockOperation};
use rustix::io::ReadWriteFlags;

use super::{DirEntry, DirLock, Disk, DiskFile, OpenMode, Room};

/// The most parts that one `pwritev` takes (`IOV_MAX` of Linux).
const PARTS_PER_WRITE: usize = 1024;

/// The operating system's files.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(mode != OpenMode::Read);
        options.create(matches!(mode, OpenMode::Create | OpenMode::Replace));
        options.truncate(mode == OpenMode::Replace);
        Ok(Arc::new(RealFile(options.open(path)?)))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        if fs::symlink_metadata(path)?.is_dir() { fs::remove_dir(path) } else { fs::remove_file(path) }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().into_string() {
                entries.push(DirEntry { name, is_dir: entry.file_type()?.is_dir() });
            }
        }
        entries.sort();
        Ok(entries)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<DirLock> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        // flock keeps out a second owner in this process, the POSIX lock keeps out Apache Kafka (Java's FileLock).
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        match rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Box::new(file)),
            Err(rustix::io::Errno::ACCESS) => Err(io::ErrorKind::WouldBlock.into()),
            Err(error) => Err(error.into()),
        }
    }

    fn room(&self, dir: &Path) -> io::Result<Option<Room>> {
        let found = rustix::fs::statvfs(dir)?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        Ok(Some(Room { total: bytes(found.f_blocks), usable: bytes(found.f_bavail) }))
    }
}

struct RealFile(File);

impl DiskFile for RealFile {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buf.len() {
            match self.0.read_at(&mut buf[filled..], at + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn read_at_nowait(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        match rustix::io::preadv2(&self.0, &mut [IoSliceMut::new(buf)], at, ReadWriteFlags::NOWAIT) {
            Ok(read) => Ok(read),
            // A file system without RWF_NOWAIT: whoever asked takes the blocking way.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::INTR) => {
                Err(io::ErrorKind::WouldBlock.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn write_at(&self, parts: &[IoSlice<'_>], mut at: u64) -> io::Result<()> {
        for chunk in parts.chunks(PARTS_PER_WRITE) {
            let total: usize = chunk.iter().map(|part| part.len()).sum();
            let mut written = match rustix::io::pwritev(&self.0, chunk, at) {
                Ok(written) => written,
                Err(rustix::io::Errno::INTR) => 0,
                Err(error) => return Err(error.into()),
            };
            if written < total {
                // Rare (a signal, or the disk is nearly full): finish part by part.
                for part in chunk {
                    let skip = written.min(part.len());
                    written -= skip;
                    let before: usize =
                        chunk.iter().take_while(|p| !std::ptr::eq(*p, part)).map(|p| p.len()).sum();
                    self.0.write_all_at(&part[skip..], at + (before + skip) as u64)?;
                }
            }
            at += total as u64;
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(&self.0)?)
    }

    fn forget_clean(&self) -> io::Result<()> {
        match rustix::fs::fadvise(&self.0, 0, None, Advice::DontNeed) {
            // A file system that keeps no such promise (or no cache): what it gives is all there is.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => Ok(()),
            other => Ok(other?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_parts_than_one_call_takes_are_all_written() {
        let dir = tempfile::tempdir().unwrap();
        let file = RealDisk.open(&dir.path().join("f"), OpenMode::Create).unwrap();
        let words: Vec<[u8; 4]> = (0..3000u32).map(u32::to_be_bytes).collect();
        let parts: Vec<IoSlice<'_>> = words.iter().map(|word| IoSlice::new(word)).collect();
        file.write_at(&parts, 8).unwrap();
        assert_eq!(file.len().unwrap(), 8 + 12_000);
        let mut back = vec![0; 12_000];
        assert_eq!(file.read_at(&mut back, 8).unwrap(), 12_000);
        assert_eq!(back, words.concat());
        let mut now = [0; 4];
        assert_eq!(file.read_at_nowait(&mut now, 12).unwrap(), 4, "just written, so it is in the page cache");
        assert_eq!(now, [0, 0, 0, 1]);
    }

    #[test]
    fn a_lock_is_exclusive_within_a_process_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".lock");
        let held = RealDisk.lock(&path).unwrap();
        assert_eq!(RealDisk.lock(&path).err().map(|e| e.kind()), Some(io::ErrorKind::WouldBlock));
        drop(held);
        assert!(RealDisk.lock(&path).is_ok());
    }
}
