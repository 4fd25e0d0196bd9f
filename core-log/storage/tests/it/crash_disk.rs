//! A disk that loses what was not synced when the power is cut.
//!
//! It keeps each file's bytes twice, as written and as durable, and each directory's names twice. A power cut keeps a seeded choice
//! of the sectors that were written but not synced, some length between the two, and of each unsynced name either the old or
//! the new meaning. What is in a directory whose own name is lost is lost with it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millstream_storage::disk::DirLock;
use millstream_storage::{DirEntry, Disk, DiskFile, OpenMode};
use parking_lot::Mutex;

const SECTOR_BYTES: usize = 512;

#[derive(Clone, Default)]
pub(crate) struct CrashDisk(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    dirs: BTreeSet<PathBuf>,
    durable_dirs: BTreeSet<PathBuf>,
    files: Vec<Bytes>,
    /// Changes that may still happen before the power is cut.
    left: Option<usize>,
    changes: usize,
}

#[derive(Clone, Default)]
struct Bytes {
    written: Vec<u8>,
    durable: Vec<u8>,
}

/// A small generator, so that a seed gives the same cut on every machine.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % sides
    }
}

impl CrashDisk {
    /// Cuts the power after `changes` more changes; every call fails from then on.
    pub(crate) fn cut_after(&self, changes: usize) {
        self.0.lock().left = Some(changes);
    }

    /// The process that the cut has killed is started again, on the same page cache.
    pub(crate) fn revive(&self) {
        self.0.lock().left = None;
    }

    /// How many changes there were.
    pub(crate) fn changes(&self) -> usize {
        self.0.lock().changes
    }

    /// The disk as it is found when the power is back.
    pub(crate) fn after_power_loss(&self, seed: u64) -> Self {
        let state = self.0.lock();
        let mut dice = Dice(seed);
        let paths: BTreeSet<&PathBuf> = state.names.keys().chain(state.durable_names.keys()).collect();
        let is_root = |dir: &Path| dir.parent().is_none();
        let kept = |dir: &&PathBuf| is_root(dir) || state.durable_dirs.contains(*dir) || dice.roll(2) == 0;
        let dirs: BTreeSet<PathBuf> = state.dirs.iter().filter(kept).cloned().collect();
        let lost = |path: &Path| path.ancestors().skip(1).any(|dir| !dirs.contains(dir));
        let mut names = BTreeMap::new();
        for path in paths.into_iter().filter(|path| !lost(path)) {
            let (new, old) = (state.names.get(path), state.durable_names.get(path));
            if let Some(&file) = if dice.roll(2) == 0 { new } else { old } {
                names.insert(path.clone(), file);
            }
        }
        let files: Vec<Bytes> = state.files.iter().map(|bytes| bytes.survive(&mut dice)).collect();
        let survived = State {
            durable_names: names.clone(),
            names,
            durable_dirs: dirs.clone(),
            dirs,
            files,
            ..State::default()
        };
        Self(Arc::new(Mutex::new(survived)))
    }
}

impl Bytes {
    fn survive(&self, dice: &mut Dice) -> Self {
        let (short, long) =
            (self.written.len().min(self.durable.len()), self.written.len().max(self.durable.len()));
        let len = match dice.roll(3) {
            0 => self.durable.len(),
            1 => self.written.len(),
            _ => short + dice.roll((long - short + 1) as u64) as usize,
        };
        let mut bytes = vec![0; len];
        for from in (0..len).step_by(SECTOR_BYTES) {
            let source = if dice.roll(2) == 0 { &self.written } else { &self.durable };
            let to = len.min(from + SECTOR_BYTES).min(source.len());
            if from < to {
                bytes[from..to].copy_from_slice(&source[from..to]);
            }
        }
        Self { durable: bytes.clone(), written: bytes }
    }
}

impl State {
    fn change(&mut self) -> io::Result<()> {
        self.changes += 1;
        match &mut self.left {
            Some(0) => Err(io::Error::other("the power is cut")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Disk for CrashDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.0.lock();
        let known = state.names.get(path).copied();
        let id = match known {
            Some(id) => id,
            None if matches!(mode, OpenMode::Read | OpenMode::Write) => {
                return Err(io::ErrorKind::NotFound.into());
            }
            None => {
                state.change()?;
                let id = state.files.len();
                state.files.push(Bytes::default());
                state.names.insert(path.to_owned(), id);
                id
            }
        };
        if mode == OpenMode::Replace && known.is_some() {
            state.change()?;
            state.files[id].written.clear();
        }
        Ok(Arc::new(CrashFile(self.clone(), id)))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        for dir in path.ancestors() {
            if !state.dirs.contains(dir) {
                state.change()?;
                state.dirs.insert(dir.to_owned());
            }
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        let id = *state.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        state.change()?;
        state.names.remove(from);
        state.names.insert(to.to_owned(), id);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        if !state.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change()?;
        state.names.remove(path);
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let state = self.0.lock();
        let inside = |path: &Path| {
            (path.parent() == Some(dir)).then(|| path.file_name()?.to_str().map(str::to_owned))?
        };
        let files =
            state.names.keys().filter_map(|path| inside(path)).map(|name| DirEntry { name, is_dir: false });
        let dirs =
            state.dirs.iter().filter_map(|path| inside(path)).map(|name| DirEntry { name, is_dir: true });
        Ok(files.chain(dirs).collect())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.change()?;
        let inside = |path: &PathBuf| path.parent() == Some(dir);
        state.durable_names.retain(|path, _| !inside(path));
        let now: Vec<_> =
            state.names.iter().filter(|(path, _)| inside(path)).map(|(p, &id)| (p.clone(), id)).collect();
        state.durable_names.extend(now);
        let dirs: Vec<_> = state.dirs.iter().filter(|path| inside(path)).cloned().collect();
        state.durable_dirs.extend(dirs);
        Ok(())
    }

    fn lock(&self, _: &Path) -> io::Result<DirLock> {
        Ok(Box::new(()))
    }
}

struct CrashFile(CrashDisk, usize);

impl DiskFile for CrashFile {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let state = self.0.0.lock();
        let rest = state.files[self.1].written.get(at as usize..).unwrap_or(&[]);
        let read = rest.len().min(buf.len());
        buf[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn read_at_nowait(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        self.read_at(buf, at)
    }

    fn write_at(&self, parts: &[IoSlice<'_>], at: u64) -> io::Result<()> {
        let mut state = self.0.0.lock();
        let verdict = state.change();
        let mut bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        if verdict.is_err() {
            bytes.truncate(bytes.len() / 2); // the power goes while the write is under way
        }
        let file = &mut state.files[self.1].written;
        let (at, end) = (at as usize, at as usize + bytes.len());
        file.resize(file.len().max(end), 0);
        file[at..end].copy_from_slice(&bytes);
        verdict
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.0.lock().files[self.1].written.len() as u64)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let mut state = self.0.0.lock();
        state.change()?;
        state.files[self.1].written.resize(len as usize, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.0.0.lock();
        state.change()?;
        let file = &mut state.files[self.1];
        file.durable = file.written.clone();
        Ok(())
    }
}
