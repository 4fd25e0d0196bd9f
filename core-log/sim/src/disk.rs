//! A disk that keeps only what was synced.
//!
//! Bytes live twice: as the process sees them (page cache) and as the platter has them. [`DiskFile::sync`] copies the dirty
//! sectors of one file across, [`Disk::sync_dir`] the names of one directory. Power loss keeps a seeded subset of the unsynced
//! sectors, tears one of them, and undoes a seeded part of the unsynced creates, renames, removes and truncates. A failed
//! sync drops the dirty pages, and the next one succeeds, as Linux does (the reason why storage never retries one).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Weak};

use millstream_storage::disk::{DirEntry, DirLock, Disk, DiskFile, OpenMode};
use parking_lot::Mutex;

use crate::executor::Sim;
use crate::random::Random;

/// What a device writes in one piece.
const SECTOR: usize = 512;

/// Which faults the disk injects from now on; a number is "once in n calls", 0 is never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// A read fails.
    pub read_error_in: u64,
    /// A write fails, having written part of its bytes.
    pub write_error_in: u64,
    /// The next sync fails and drops what it should have written; those after it succeed.
    pub sync_error: bool,
    /// Bytes that fit on the disk; beyond them a write fails as on a full disk. 0 is no bound.
    pub capacity: u64,
    /// After this many more calls every call fails, as if the process had died inside one. 0 is never.
    pub die_after: u64,
    /// Those calls are counted from the next rename of a file to `*.deleted` on: retention has begun.
    pub die_in_retention: bool,
}

/// How often each fault was injected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Injected {
    /// Failed reads.
    pub read_errors: u64,
    /// Failed writes.
    pub write_errors: u64,
    /// Failed syncs.
    pub sync_errors: u64,
    /// Writes refused for want of space.
    pub full: u64,
    /// Power losses.
    pub power_losses: u64,
    /// Sectors torn by a power loss.
    pub torn: u64,
    /// Name changes undone by a power loss.
    pub names_undone: u64,
    /// Flipped bits.
    pub flips: u64,
}

/// The disk of one node; it outlives the node's processes.
#[derive(Clone)]
pub struct SimDisk {
    sim: Sim,
    inner: Arc<Mutex<Inner>>,
}

type NodeId = u64;

struct Inner {
    random: Random,
    nodes: BTreeMap<NodeId, Node>,
    next: NodeId,
    faults: Faults,
    injected: Injected,
    locks: BTreeMap<PathBuf, Weak<()>>,
    died: bool,
}

enum Node {
    File(Arc<Mutex<Content>>),
    Dir(Dir),
}

#[derive(Default)]
struct Dir {
    names: BTreeMap<String, NodeId>,
    durable: BTreeMap<String, NodeId>,
    pending: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Put(String, NodeId),
    Remove(String),
    /// A rename inside one directory is one step: both names change, or neither.
    Move(String, String, NodeId),
}

fn apply(names: &mut BTreeMap<String, NodeId>, change: &Change) {
    match change {
        Change::Put(name, node) => drop(names.insert(name.clone(), *node)),
        Change::Remove(name) => drop(names.remove(name)),
        Change::Move(from, to, node) => {
            names.remove(from);
            names.insert(to.clone(), *node);
        }
    }
}

#[derive(Default)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
    dirty: BTreeSet<usize>,
}

const ROOT: NodeId = 0;

impl SimDisk {
    /// An empty disk in `sim`.
    pub fn new(sim: &Sim) -> Self {
        let inner = Inner {
            random: Random::new(sim.random()),
            nodes: BTreeMap::from([(ROOT, Node::Dir(Dir::default()))]),
            next: ROOT + 1,
            faults: Faults::default(),
            injected: Injected::default(),
            locks: BTreeMap::new(),
            died: false,
        };
        Self { sim: sim.clone(), inner: Arc::new(Mutex::new(inner)) }
    }

    /// Sets the faults to inject from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.inner.lock().faults = faults;
    }

    /// Bytes of all files together.
    pub fn used(&self) -> u64 {
        self.inner.lock().used()
    }

    /// What was injected so far.
    pub fn injected(&self) -> Injected {
        self.inner.lock().injected
    }

    /// Whether [`Faults::die_after`] has struck: the owner of the process has to kill it now.
    pub fn has_died(&self) -> bool {
        self.inner.lock().died
    }

    /// A new process uses the disk: no faults, no locks held.
    pub fn reopen(&self) {
        let mut inner = self.inner.lock();
        inner.died = false;
        inner.faults = Faults::default();
        inner.locks.clear();
    }

    /// The power goes: only what is durable stays, and a seeded part of the rest.
    pub fn power_loss(&self) {
        self.sim.note("disk.power", 0);
        let mut inner = self.inner.lock();
        inner.injected.power_losses += 1;
        let mut random = inner.random.fork(1);
        let (mut torn, mut undone) = (0, 0);
        for node in inner.nodes.values_mut() {
            match node {
                Node::File(content) => torn += content.lock().lose_power(&mut random),
                Node::Dir(dir) => undone += dir.lose_power(&mut random),
            }
        }
        inner.injected.torn += torn;
        inner.injected.names_undone += undone;
    }

    /// The disk is exchanged for an empty one.
    pub fn wipe(&self) {
        self.sim.note("disk.wipe", 0);
        self.inner.lock().nodes = BTreeMap::from([(ROOT, Node::Dir(Dir::default()))]);
    }

    /// The files in a directory as the process sees them, or, with `durable`, as they would be after a power loss that keeps
    /// nothing unsynced; by name.
    pub fn files(&self, dir: &Path, durable: bool) -> BTreeMap<String, Vec<u8>> {
        let inner = self.inner.lock();
        let mut at = ROOT;
        let names = |at: NodeId| match inner.nodes.get(&at) {
            Some(Node::Dir(dir)) if durable => Some(&dir.durable),
            Some(Node::Dir(dir)) => Some(&dir.names),
            _ => None,
        };
        for part in parts(dir) {
            match names(at).and_then(|names| names.get(&part)) {
                Some(next) => at = *next,
                None => return BTreeMap::new(),
            }
        }
        let file = |(name, node): (&String, &NodeId)| match inner.nodes.get(node) {
            Some(Node::File(content)) => {
                let content = content.lock();
                let bytes = if durable { &content.durable } else { &content.now };
                Some((name.clone(), bytes.clone()))
            }
            _ => None,
        };
        names(at).into_iter().flatten().filter_map(file).collect()
    }

    /// Flips one bit of a durable file that `wanted` accepts, chosen by the seed; gives its path and position.
    pub fn flip_bit(&self, wanted: impl Fn(&Path) -> bool) -> Option<(PathBuf, u64)> {
        let mut inner = self.inner.lock();
        let mut files = Vec::new();
        inner.walk(ROOT, &PathBuf::from("/"), &mut files);
        files.retain(|(path, content)| wanted(path) && !content.lock().durable.is_empty());
        if files.is_empty() {
            return None;
        }
        let (path, content) = files.swap_remove(inner.random.below(files.len() as u64) as usize);
        let mut content = content.lock();
        let Content { now, durable, .. } = &mut *content;
        let at = inner.random.below(durable.len() as u64) as usize;
        let bit = 1u8 << inner.random.below(8);
        for bytes in [durable, now] {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= bit;
            }
        }
        inner.injected.flips += 1;
        drop(content);
        drop(inner);
        self.sim.note("disk.flip", at as u64);
        Some((path, at as u64))
    }

    fn step(&self, what: &'static str) -> io::Result<()> {
        self.sim.note(what, 0);
        let mut inner = self.inner.lock();
        if inner.died {
            return Err(io::Error::other("the simulated process died in an earlier call"));
        }
        if inner.faults.die_after > 0 && !inner.faults.die_in_retention {
            inner.faults.die_after -= 1;
            inner.died = inner.faults.die_after == 0;
        }
        Ok(())
    }
}

impl Inner {
    fn walk(&self, node: NodeId, path: &Path, files: &mut Vec<(PathBuf, Arc<Mutex<Content>>)>) {
        match self.nodes.get(&node) {
            Some(Node::File(content)) => files.push((path.to_owned(), Arc::clone(content))),
            Some(Node::Dir(dir)) => {
                for (name, child) in &dir.names {
                    self.walk(*child, &path.join(name), files);
                }
            }
            None => {}
        }
    }

    fn find(&self, path: &Path) -> io::Result<NodeId> {
        let mut at = ROOT;
        for name in parts(path) {
            let Some(Node::Dir(dir)) = self.nodes.get(&at) else { return Err(missing(path)) };
            at = *dir.names.get(&name).ok_or_else(|| missing(path))?;
        }
        Ok(at)
    }

    fn parent(&mut self, path: &Path) -> io::Result<(&mut Dir, String)> {
        let mut names: Vec<String> = parts(path).collect();
        let last = names.pop().ok_or_else(|| missing(path))?;
        let at = self.find(&names.iter().collect::<PathBuf>())?;
        match self.nodes.get_mut(&at) {
            Some(Node::Dir(dir)) => Ok((dir, last)),
            _ => Err(missing(path)),
        }
    }

    fn insert(&mut self, node: Node) -> NodeId {
        let id = self.next;
        self.next += 1;
        self.nodes.insert(id, node);
        id
    }

    fn used(&self) -> u64 {
        let size = |node: &Node| match node {
            Node::File(content) => content.lock().now.len() as u64,
            Node::Dir(_) => 0,
        };
        self.nodes.values().map(size).sum()
    }
}

impl Dir {
    fn change(&mut self, change: Change) {
        apply(&mut self.names, &change);
        self.pending.push(change);
    }

    fn sync(&mut self) {
        for change in self.pending.drain(..) {
            apply(&mut self.durable, &change);
        }
    }

    fn lose_power(&mut self, random: &mut Random) -> u64 {
        // A journaling file system keeps a prefix of its journal; without one, any subset may have reached the disk.
        let keep = random.below(self.pending.len() as u64 + 1) as usize;
        let ordered = random.one_in(2);
        let mut undone = 0;
        for (at, change) in std::mem::take(&mut self.pending).into_iter().enumerate() {
            if if ordered { at < keep } else { random.one_in(2) } {
                apply(&mut self.durable, &change);
            } else {
                undone += 1;
            }
        }
        self.names = self.durable.clone();
        undone
    }
}

impl Content {
    fn write(&mut self, at: usize, bytes: &[u8]) {
        let end = at + bytes.len();
        if self.now.len() < end {
            let old = self.now.len();
            self.now.resize(end, 0);
            self.touch(old, end);
        }
        self.now[at..end].copy_from_slice(bytes);
        self.touch(at, end);
    }

    fn touch(&mut self, from: usize, to: usize) {
        if from < to {
            self.dirty.extend(from / SECTOR..=(to - 1) / SECTOR);
        }
    }

    fn truncate(&mut self, len: usize) {
        let old = self.now.len();
        self.now.resize(len, 0);
        self.touch(old.min(len), len.max(old));
    }

    fn sync(&mut self) {
        self.durable.resize(self.now.len(), 0);
        for sector in std::mem::take(&mut self.dirty) {
            self.persist(sector, SECTOR);
        }
    }

    /// Copies the first `len` bytes of `sector` to the platter, as far as both sides reach.
    fn persist(&mut self, sector: usize, len: usize) {
        let from = sector * SECTOR;
        let to = (from + len).min(self.now.len()).min(self.durable.len());
        if from < to {
            self.durable[from..to].copy_from_slice(&self.now[from..to]);
        }
    }

    /// A failed sync: the pages count as clean, yet never reached the platter.
    fn drop_dirty(&mut self) {
        self.dirty.clear();
    }

    /// Clean sectors are read from the platter again.
    fn forget_clean(&mut self) {
        let (now, durable, dirty) = (&mut self.now, &self.durable, &self.dirty);
        for (sector, bytes) in
            now.chunks_mut(SECTOR).enumerate().filter(|(sector, _)| !dirty.contains(sector))
        {
            let known = durable.get(sector * SECTOR..).unwrap_or_default();
            let kept = known.len().min(bytes.len());
            bytes[..kept].copy_from_slice(&known[..kept]);
            bytes[kept..].fill(0);
        }
    }

    fn lose_power(&mut self, random: &mut Random) -> u64 {
        let (old, new) = (self.durable.len(), self.now.len());
        let len = match random.below(3) {
            0 => old,
            1 => new,
            _ => old.min(new) + random.below(old.abs_diff(new) as u64 + 1) as usize,
        };
        self.durable.resize(len, 0);
        let dirty: Vec<usize> = std::mem::take(&mut self.dirty).into_iter().collect();
        // All, none, or any half: the extremes are what code is most often wrong about.
        let mood = random.below(4);
        let torn_at = if mood == 0 { dirty.len() } else { random.below(dirty.len() as u64 + 1) as usize };
        let mut torn = 0;
        for (at, sector) in dirty.into_iter().enumerate() {
            if at == torn_at {
                self.persist(sector, random.below(SECTOR as u64) as usize);
                torn += 1;
            } else if mood == 0 || (mood > 1 && random.one_in(2)) {
                self.persist(sector, SECTOR);
            }
        }
        self.now = self.durable.clone();
        torn
    }
}

fn parts(path: &Path) -> impl Iterator<Item = String> + '_ {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
        _ => None,
    })
}

fn missing(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{}: no such file or directory", path.display()))
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        self.step("disk.open")?;
        let mut inner = self.inner.lock();
        let content = match inner.find(path) {
            Ok(id) => match inner.nodes.get(&id) {
                Some(Node::File(content)) => Arc::clone(content),
                _ => return Err(io::Error::new(io::ErrorKind::IsADirectory, path.display().to_string())),
            },
            Err(error) if matches!(mode, OpenMode::Read | OpenMode::Write) => return Err(error),
            Err(_) => {
                inner.parent(path)?;
                let content = Arc::new(Mutex::new(Content::default()));
                let id = inner.insert(Node::File(Arc::clone(&content)));
                let (dir, name) = inner.parent(path)?;
                dir.change(Change::Put(name, id));
                content
            }
        };
        if mode == OpenMode::Replace {
            content.lock().truncate(0);
        }
        let writable = mode != OpenMode::Read;
        Ok(Arc::new(SimFile { disk: self.clone(), path: path.to_owned(), content, writable }))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.step("disk.mkdir")?;
        let mut inner = self.inner.lock();
        let mut so_far = PathBuf::from("/");
        for name in parts(path) {
            so_far.push(&name);
            if inner.find(&so_far).is_err() {
                let id = inner.insert(Node::Dir(Dir::default()));
                inner.parent(&so_far)?.0.change(Change::Put(name, id));
            }
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step("disk.rename")?;
        let mut inner = self.inner.lock();
        let node = inner.find(from)?;
        if let Ok(id) = inner.find(to)
            && let Some(Node::Dir(dir)) = inner.nodes.get(&id)
            && !dir.names.is_empty()
        {
            return Err(io::Error::new(io::ErrorKind::DirectoryNotEmpty, to.display().to_string()));
        }
        if to.extension().is_some_and(|extension| extension == "deleted") {
            inner.faults.die_in_retention = false;
        }
        inner.parent(to)?;
        let (dir, old) = inner.parent(from)?;
        if from.parent() == to.parent() {
            let new = parts(to).last().ok_or_else(|| missing(to))?;
            dir.change(Change::Move(old, new, node));
        } else {
            dir.change(Change::Remove(old));
            let (dir, new) = inner.parent(to)?;
            dir.change(Change::Put(new, node));
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step("disk.remove")?;
        let mut inner = self.inner.lock();
        let id = inner.find(path)?;
        if let Some(Node::Dir(dir)) = inner.nodes.get(&id)
            && !dir.names.is_empty()
        {
            return Err(io::Error::new(io::ErrorKind::DirectoryNotEmpty, path.display().to_string()));
        }
        let (dir, name) = inner.parent(path)?;
        dir.change(Change::Remove(name));
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.step("disk.list")?;
        let inner = self.inner.lock();
        let Some(Node::Dir(dir)) = inner.nodes.get(&inner.find(path)?) else { return Err(missing(path)) };
        let entry = |(name, id): (&String, &NodeId)| DirEntry {
            name: name.clone(),
            is_dir: matches!(inner.nodes.get(id), Some(Node::Dir(_))),
        };
        Ok(dir.names.iter().map(entry).collect())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.step("disk.syncdir")?;
        let mut inner = self.inner.lock();
        let id = inner.find(path)?;
        match inner.nodes.get_mut(&id) {
            Some(Node::Dir(dir)) => dir.sync(),
            _ => return Err(missing(path)),
        }
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<DirLock> {
        self.step("disk.lock")?;
        let mut inner = self.inner.lock();
        if inner.locks.get(path).is_some_and(|held| held.strong_count() > 0) {
            return Err(io::Error::new(io::ErrorKind::WouldBlock, path.display().to_string()));
        }
        let held = Arc::new(());
        inner.locks.insert(path.to_owned(), Arc::downgrade(&held));
        Ok(Box::new(held))
    }
}

struct SimFile {
    disk: SimDisk,
    path: PathBuf,
    content: Arc<Mutex<Content>>,
    writable: bool,
}

impl SimFile {
    fn fail(&self, once_in: impl Fn(&Faults) -> u64, count: impl Fn(&mut Injected) -> &mut u64) -> bool {
        let mut inner = self.disk.inner.lock();
        let n = once_in(&inner.faults);
        let hit = n > 0 && inner.random.one_in(n);
        if hit {
            *count(&mut inner.injected) += 1;
        }
        hit
    }

    fn error(&self, what: &str) -> io::Error {
        io::Error::other(format!("{}: injected {what} error", self.path.display()))
    }

    fn read(&self, buf: &mut [u8], at: u64) -> usize {
        let content = self.content.lock();
        let from = (at as usize).min(content.now.len());
        let n = buf.len().min(content.now.len() - from);
        buf[..n].copy_from_slice(&content.now[from..from + n]);
        n
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        self.disk.step("disk.read")?;
        if self.fail(|f| f.read_error_in, |i| &mut i.read_errors) {
            return Err(self.error("read"));
        }
        Ok(self.read(buf, at))
    }

    fn read_at_nowait(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        self.disk.step("disk.readnow")?;
        if self.fail(|f| f.read_error_in, |i| &mut i.read_errors) {
            return Err(self.error("read"));
        }
        if self.disk.inner.lock().random.one_in(4) {
            return Err(io::ErrorKind::WouldBlock.into()); // not in the page cache
        }
        Ok(self.read(buf, at))
    }

    fn write_at(&self, parts: &[IoSlice<'_>], at: u64) -> io::Result<()> {
        self.disk.step("disk.write")?;
        if !self.writable {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, self.path.display().to_string()));
        }
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        let end = at + bytes.len() as u64;
        let full = {
            let mut inner = self.disk.inner.lock();
            let grows = end.saturating_sub(self.content.lock().now.len() as u64);
            let full = inner.faults.capacity > 0 && grows > 0 && inner.used() + grows > inner.faults.capacity;
            inner.injected.full += u64::from(full);
            full
        };
        let failed = full || self.fail(|f| f.write_error_in, |i| &mut i.write_errors);
        let written = if failed {
            self.disk.inner.lock().random.below(bytes.len() as u64 + 1)
        } else {
            bytes.len() as u64
        };
        let written = if full { written.min(bytes.len() as u64 / 2) } else { written };
        self.content.lock().write(at as usize, &bytes[..written as usize]);
        match (full, failed) {
            (true, _) => Err(io::Error::new(io::ErrorKind::StorageFull, self.path.display().to_string())),
            (_, true) => Err(self.error("write")),
            _ => Ok(()),
        }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.content.lock().now.len() as u64)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.disk.step("disk.truncate")?;
        self.content.lock().truncate(len as usize);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.step("disk.sync")?;
        let fails = std::mem::take(&mut self.disk.inner.lock().faults.sync_error);
        if fails {
            self.disk.inner.lock().injected.sync_errors += 1;
            self.content.lock().drop_dirty();
            return Err(self.error("sync"));
        }
        self.content.lock().sync();
        Ok(())
    }

    fn forget_clean(&self) -> io::Result<()> {
        self.disk.step("disk.forget")?;
        self.content.lock().forget_clean();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(disk: &SimDisk, path: &str, bytes: &[u8]) -> Arc<dyn DiskFile> {
        let file = disk.open(Path::new(path), OpenMode::Create).unwrap();
        file.write_at(&[IoSlice::new(bytes)], file.len().unwrap()).unwrap();
        file
    }

    fn read(disk: &SimDisk, path: &str) -> Option<Vec<u8>> {
        let file = disk.open(Path::new(path), OpenMode::Read).ok()?;
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_at(&mut bytes, 0).unwrap();
        Some(bytes)
    }

    #[test]
    fn what_was_synced_stays_and_the_rest_is_a_matter_of_the_seed() {
        let (mut lost_name, mut lost_bytes, mut kept_all) = (0, 0, 0);
        for seed in 0..200 {
            let sim = Sim::new(seed, false);
            let disk = SimDisk::new(&sim);
            disk.create_dir(Path::new("/data/t-0")).unwrap();
            for dir in ["/", "/data", "/data/t-0"] {
                disk.sync_dir(Path::new(dir)).unwrap();
            }
            let file = write(&disk, "/data/t-0/a.log", &[1; 3000]);
            file.sync().unwrap();
            disk.sync_dir(Path::new("/data/t-0")).unwrap();
            write(&disk, "/data/t-0/a.log", &[2; 3000]);
            write(&disk, "/data/t-0/b.log", &[3; 10]).sync().unwrap();
            disk.power_loss();
            let a = read(&disk, "/data/t-0/a.log").expect("its name was synced");
            assert_eq!(a[..3000], [1; 3000]);
            assert!(a.len() <= 6000 && a[3000..].iter().all(|b| [0, 2].contains(b)));
            match read(&disk, "/data/t-0/b.log") {
                None => lost_name += 1,
                Some(b) => assert_eq!(b, [3; 10]),
            }
            if a.len() == 6000 && a[3000..] == [2; 3000] { kept_all += 1 } else { lost_bytes += 1 }
        }
        assert!(lost_name > 30 && lost_bytes > 100 && kept_all > 0, "{lost_name} {lost_bytes} {kept_all}");
    }

    #[test]
    fn a_failed_sync_loses_its_pages_though_the_next_succeeds() {
        let sim = Sim::new(5, false);
        let disk = SimDisk::new(&sim);
        let file = write(&disk, "/a", &[7; 600]);
        disk.sync_dir(Path::new("/")).unwrap();
        disk.set_faults(Faults { sync_error: true, ..Faults::default() });
        assert!(file.sync().is_err());
        disk.set_faults(Faults::default());
        file.sync().unwrap();
        assert_eq!(read(&disk, "/a").unwrap(), [7; 600]);
        file.forget_clean().unwrap();
        assert_eq!(read(&disk, "/a").unwrap(), [0; 600]);
        disk.power_loss();
        assert_eq!(read(&disk, "/a").unwrap(), [0; 600]);
    }

    #[test]
    fn faults_strike_as_asked() {
        let sim = Sim::new(6, false);
        let disk = SimDisk::new(&sim);
        disk.set_faults(Faults { capacity: 1000, ..Faults::default() });
        let file = write(&disk, "/a", &[7; 900]);
        assert_eq!(
            file.write_at(&[IoSlice::new(&[1; 200])], 900).unwrap_err().kind(),
            io::ErrorKind::StorageFull
        );
        disk.set_faults(Faults { die_after: 2, ..Faults::default() });
        assert!(file.sync().is_ok() && file.sync().is_ok() && file.sync().is_err());
        assert!(disk.has_died());
        disk.reopen();
        disk.set_faults(Faults { die_after: 1, die_in_retention: true, ..Faults::default() });
        write(&disk, "/b", &[7; 9]);
        disk.rename(Path::new("/b"), Path::new("/b.deleted")).unwrap();
        assert!(!disk.has_died());
        assert!(file.sync().is_ok() && file.sync().is_err());
        disk.reopen();
        let before = read(&disk, "/a").unwrap();
        let (path, at) = disk.flip_bit(|p| p.ends_with("a")).unwrap();
        let after = read(&disk, "/a").unwrap();
        assert_eq!(path, Path::new("/a"));
        assert_eq!((before[at as usize] ^ after[at as usize]).count_ones(), 1);
    }
}
