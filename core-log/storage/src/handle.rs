//! Open files, few of them: a file is opened when it is used and closed when others need its place.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use millstream_record::Offset;
use parking_lot::Mutex;

use crate::disk::{Disk, DiskFile, OpenMode};
use crate::error::{Result, StorageError};

/// A disk, and the files of it that are open: at most a fixed number, whatever the number of partitions. A file with unsynced
/// bytes is held open by the log that wrote it, since an fsync error is only told to handles that were open.
pub struct OpenFiles {
    disk: Arc<dyn Disk>,
    capacity: usize,
    open: Mutex<VecDeque<Weak<LazyFile>>>,
    /// What failed first, in a way that leaves unknown what is on the disk.
    failed: OnceLock<(PathBuf, String)>,
    /// Who is told of that.
    on_failure: OnceLock<OnFailure>,
}

/// Told once, by whoever met the failure and maybe under a log's lock: it must neither block nor use the directory.
type OnFailure = Box<dyn Fn(&StorageError) + Send + Sync>;

impl OpenFiles {
    /// Keeps at most `capacity` files of `disk` open.
    pub fn new(disk: Arc<dyn Disk>, capacity: usize) -> Arc<Self> {
        Arc::new(Self {
            disk,
            capacity: capacity.max(1),
            open: Mutex::new(VecDeque::new()),
            failed: OnceLock::new(),
            on_failure: OnceLock::new(),
        })
    }

    /// The disk.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// How many files are open now.
    pub fn open_count(&self) -> usize {
        self.open
            .lock()
            .iter()
            .filter(|file| file.upgrade().is_some_and(|file| file.slot.lock().is_some()))
            .count()
    }

    /// Takes the directory offline: after `error` at `path` nobody knows what the disk holds. Gives the error to report.
    pub fn fail(&self, path: &Path, error: &io::Error) -> StorageError {
        let is_first = self.failed.set((path.to_owned(), error.to_string())).is_ok();
        let offline = self.check_online().err();
        let offline =
            offline.unwrap_or(StorageError::Offline { path: path.to_owned(), message: error.to_string() });
        if let Some(tell) = self.on_failure.get().filter(|_| is_first) {
            tell(&offline);
        }
        offline
    }

    /// Takes the directory offline after a call to the disk failed; other errors stay as they are.
    pub(crate) fn fail_with(&self, error: StorageError) -> StorageError {
        match error {
            StorageError::Io { path, source } => self.fail(&path, &source),
            other => other,
        }
    }

    /// Has `tell` called when the directory goes offline, once: at once if it is. It must neither block nor use the directory.
    pub fn on_failure(&self, tell: impl Fn(&StorageError) + Send + Sync + 'static) {
        if self.on_failure.set(Box::new(tell)).is_ok()
            && let (Err(offline), Some(tell)) = (self.check_online(), self.on_failure.get())
        {
            tell(&offline);
        }
    }

    /// Whether the directory can be used.
    ///
    /// # Errors
    /// [`StorageError::Offline`] once something has failed for good.
    pub fn check_online(&self) -> Result<()> {
        match self.failed.get() {
            None => Ok(()),
            Some((path, message)) => {
                Err(StorageError::Offline { path: path.clone(), message: message.clone() })
            }
        }
    }

    /// Notes that `file` was opened and closes the one that was idle longest (second chance) when there are too many.
    fn opened(&self, file: &Arc<LazyFile>) {
        let mut open = self.open.lock();
        open.push_back(Arc::downgrade(file));
        let mut chances = open.len();
        while open.len() > self.capacity {
            let Some(oldest) = open.pop_front() else { break };
            let Some(candidate) = oldest.upgrade() else { continue };
            if chances > 0 && (candidate.used.swap(false, Ordering::Relaxed) || Arc::ptr_eq(&candidate, file))
            {
                chances -= 1;
                open.push_back(oldest);
            } else if !Arc::ptr_eq(&candidate, file) {
                candidate.close();
            }
        }
    }
}

impl fmt::Debug for OpenFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenFiles").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

/// Which of a segment's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Log,
    OffsetIndex,
    TimeIndex,
    TxnIndex,
    Snapshot,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] =
        [Self::Log, Self::OffsetIndex, Self::TimeIndex, Self::TxnIndex, Self::Snapshot];

    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::OffsetIndex => "index",
            Self::TimeIndex => "timeindex",
            Self::TxnIndex => "txnindex",
            Self::Snapshot => "snapshot",
        }
    }

    /// The file of this kind for the segment that begins at `base`: twenty digits and the suffix, as in Kafka.
    pub(crate) fn path(self, dir: &Path, base: Offset) -> PathBuf {
        dir.join(format!("{:020}.{}", base.0, self.suffix()))
    }

    /// The kind and base offset that a file name tells.
    pub(crate) fn parse(name: &str) -> Option<(Self, Offset)> {
        let (digits, suffix) = name.split_once('.')?;
        let kind = Self::ALL.into_iter().find(|kind| kind.suffix() == suffix)?;
        let base = (digits.len() == 20).then(|| digits.parse().ok())??;
        Some((kind, Offset(base)))
    }
}

/// The directory of a log, for as long as it is that log's: the name may be another's later.
#[derive(Debug)]
pub(crate) struct Home {
    path: PathBuf,
    left: AtomicBool,
}

impl Home {
    pub(crate) fn new(path: &Path) -> Arc<Self> {
        Arc::new(Self { path: path.to_owned(), left: AtomicBool::new(false) })
    }

    /// From here on nothing is found here by its name.
    pub(crate) fn leave(&self) {
        self.left.store(true, Ordering::SeqCst);
    }

    pub(crate) fn has_left(&self) -> bool {
        self.left.load(Ordering::SeqCst)
    }
}

impl Deref for Home {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.path
    }
}

/// A file of a segment, open or not.
pub(crate) struct LazyFile {
    files: Arc<OpenFiles>,
    dir: Arc<Home>,
    base: Offset,
    kind: Kind,
    slot: Mutex<Option<Arc<dyn DiskFile>>>,
    used: AtomicBool,
}

impl LazyFile {
    pub(crate) fn new(files: &Arc<OpenFiles>, dir: &Arc<Home>, base: Offset, kind: Kind) -> Arc<Self> {
        let (files, dir) = (Arc::clone(files), Arc::clone(dir));
        Arc::new(Self { files, dir, base, kind, slot: Mutex::new(None), used: AtomicBool::new(false) })
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.kind.path(&self.dir, self.base)
    }

    /// The handle if the file is open already.
    pub(crate) fn opened(&self) -> Option<Arc<dyn DiskFile>> {
        self.used.store(true, Ordering::Relaxed);
        self.slot.lock().clone()
    }

    /// The handle; opens the file when it is not open. A log that has left its directory has no files there any more.
    pub(crate) fn handle(self: &Arc<Self>, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        if let Some(file) = self.opened() {
            return Ok(file);
        }
        let file = {
            let mut slot = self.slot.lock();
            if let Some(file) = slot.as_ref() {
                return Ok(Arc::clone(file));
            }
            // Opened for writing even by readers, so that one handle serves both.
            let mode = if mode == OpenMode::Read { OpenMode::Write } else { mode };
            let file = self.files.disk.open(&self.path(), mode)?;
            if self.dir.has_left() {
                return Err(io::ErrorKind::NotFound.into()); // it may be another log's
            }
            Arc::clone(slot.insert(file))
        };
        self.files.opened(self);
        Ok(file)
    }

    pub(crate) fn close(&self) {
        self.slot.lock().take();
    }
}

/// A file with unsynced bytes and the handle that wrote them. The handle is kept until it is synced, since only handles that
/// were open are told of a failed write-back.
#[derive(Clone)]
pub(crate) struct Dirty {
    pub(crate) file: Arc<LazyFile>,
    pub(crate) handle: Arc<dyn DiskFile>,
}

impl fmt::Debug for LazyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path().fmt(f)
    }
}
