//! Files in memory: for tests, and for logs that need not outlive their process.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use super::{DirEntry, DirLock, Disk, DiskFile, OpenMode};

/// A tree of files in memory. Clones share the tree. It never forgets: syncing does nothing.
#[derive(Clone, Default)]
pub struct MemoryDisk(Arc<Mutex<Tree>>);

#[derive(Default)]
struct Tree {
    files: BTreeMap<PathBuf, Arc<MemoryFile>>,
    dirs: BTreeSet<PathBuf>,
    locks: BTreeSet<PathBuf>,
}

#[derive(Default)]
struct MemoryFile(RwLock<Vec<u8>>);

struct MemoryLock(Arc<Mutex<Tree>>, PathBuf);

impl Drop for MemoryLock {
    fn drop(&mut self) {
        self.0.lock().locks.remove(&self.1);
    }
}

impl MemoryDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Disk for MemoryDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut tree = self.0.lock();
        if let Some(file) = tree.files.get(path) {
            if mode == OpenMode::Replace {
                file.0.write().clear();
            }
            return Ok(Arc::clone(file) as Arc<dyn DiskFile>);
        }
        if matches!(mode, OpenMode::Read | OpenMode::Write)
            || !path.parent().is_some_and(|dir| tree.dirs.contains(dir))
        {
            return Err(io::ErrorKind::NotFound.into());
        }
        let file = Arc::new(MemoryFile::default());
        tree.files.insert(path.to_owned(), Arc::clone(&file));
        Ok(file)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.0.lock().dirs.extend(path.ancestors().map(Path::to_owned));
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut tree = self.0.lock();
        if let Some(file) = tree.files.remove(from) {
            tree.files.insert(to.to_owned(), file);
            return Ok(());
        }
        if !tree.dirs.contains(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let moved = |path: &Path| {
            path.strip_prefix(from)
                .ok()
                .map(|rest| if rest == Path::new("") { to.to_owned() } else { to.join(rest) })
        };
        tree.dirs = tree.dirs.iter().map(|dir| moved(dir).unwrap_or_else(|| dir.clone())).collect();
        let files = std::mem::take(&mut tree.files);
        tree.files = files.into_iter().map(|(path, file)| (moved(&path).unwrap_or(path), file)).collect();
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut tree = self.0.lock();
        if tree.files.remove(path).is_some() {
            return Ok(());
        }
        let inside = |other: &PathBuf| other != path && other.starts_with(path);
        if tree.files.keys().any(inside) || tree.dirs.iter().any(inside) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        if tree.dirs.remove(path) { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let tree = self.0.lock();
        if !tree.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let name = |path: &PathBuf| {
            let name = path.file_name()?.to_str()?;
            (path.parent() == Some(dir)).then(|| name.to_owned())
        };
        let files = tree.files.keys().filter_map(name).map(|name| DirEntry { name, is_dir: false });
        let dirs = tree.dirs.iter().filter_map(name).map(|name| DirEntry { name, is_dir: true });
        let mut entries: Vec<DirEntry> = files.chain(dirs).collect();
        entries.sort();
        Ok(entries)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        if self.0.lock().dirs.contains(dir) { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    fn lock(&self, path: &Path) -> io::Result<DirLock> {
        if !self.0.lock().locks.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(MemoryLock(Arc::clone(&self.0), path.to_owned())))
    }
}

impl DiskFile for MemoryFile {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let bytes = self.0.read();
        let rest = usize::try_from(at).ok().and_then(|at| bytes.get(at..)).unwrap_or(&[]);
        let read = rest.len().min(buf.len());
        buf[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn read_at_nowait(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        self.read_at(buf, at)
    }

    fn write_at(&self, parts: &[IoSlice<'_>], at: u64) -> io::Result<()> {
        let mut bytes = self.0.write();
        let mut at = usize::try_from(at).map_err(|_| io::ErrorKind::StorageFull)?;
        for part in parts {
            let overlap = bytes.len().saturating_sub(at).min(part.len());
            if at > bytes.len() {
                bytes.resize(at, 0);
            }
            bytes[at..at + overlap].copy_from_slice(&part[..overlap]);
            bytes.extend_from_slice(&part[overlap..]);
            at += part.len();
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.read().len() as u64)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.0.write().resize(usize::try_from(len).map_err(|_| io::ErrorKind::StorageFull)?, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renamed_directory_takes_its_files_along_and_open_files_live_on() {
        let disk = MemoryDisk::new();
        disk.create_dir(Path::new("/d/a-0")).unwrap();
        let file = disk.open(Path::new("/d/a-0/f"), OpenMode::Create).unwrap();
        file.write_at(&[IoSlice::new(b"ab"), IoSlice::new(b"cd")], 1).unwrap();
        disk.rename(Path::new("/d/a-0"), Path::new("/d/a-0.x-delete")).unwrap();
        assert_eq!(
            disk.remove(Path::new("/d/a-0.x-delete")).unwrap_err().kind(),
            io::ErrorKind::DirectoryNotEmpty
        );
        disk.remove(Path::new("/d/a-0.x-delete/f")).unwrap();
        disk.remove(Path::new("/d/a-0.x-delete")).unwrap();
        assert_eq!(disk.list(Path::new("/d")).unwrap(), []);
        let mut back = [9; 8];
        assert_eq!(file.read_at(&mut back, 0).unwrap(), 5);
        assert_eq!(&back[..5], b"\0abcd");
    }
}
