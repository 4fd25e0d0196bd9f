//! State on disk.
//!
//! One fjall database for each process, with one keyspace. A store of a task is a slot in it: a number that begins all its
//! keys. Two properties of fjall decide this: journals are kept until every keyspace has flushed, so idle keyspaces pin them
//! without bound (fjall#288); and a batch is atomic across keys, so a store's rows and the changelog offset that they
//! reach are written together.
//!
//! ```text
//! 0x00 <task>/<store>  ->  slot, changelog topic id, changelog offset
//! 0x01                 ->  the next free slot
//! 0x02 <slot> <key>    ->  value
//! 0x03                 ->  id of the process that owns the directory
//! ```
//! Nothing is fsynced: the changelog is the truth, and a power cut costs a longer restore.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use fjall::{Database, Keyspace, KeyspaceCreateOptions};
use millstream_record::{Offset, TopicId, Uuid};
use millstream_streams_core::store::{Entries, Store, after_prefix};
use millstream_streams_core::{StreamsError, TaskId};
use parking_lot::Mutex;

use crate::error::{AppError, Result};

const META: u8 = 0;
const NEXT_SLOT: &[u8] = &[1];
const ROWS: u8 = 2;
const PROCESS_ID: &[u8] = &[3];
const SLOT_PREFIX_BYTES: usize = 5;
/// Keys removed in one batch when a slot is discarded.
const DISCARD_BATCH: usize = 4096;
/// Bytes of journal after which fjall flushes what pins the oldest one.
const MAX_JOURNAL_BYTES: u64 = 128 << 20;
/// Threads for flushes and compaction.
const ENGINE_THREADS: usize = 1;

/// The state directory of a process, locked while it is open.
#[derive(Clone)]
pub(crate) struct StateDir {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for StateDir {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("StateDir").field(&self.inner.path).finish()
    }
}

struct Inner {
    path: PathBuf,
    database: Database,
    keyspace: Keyspace,
    /// Serialises the allocation of slots.
    slots: Mutex<()>,
}

/// How far a store has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reached {
    /// Id of the changelog topic that the store follows; zero for a store without one.
    pub(crate) topic_id: TopicId,
    /// The next changelog offset to replay.
    pub(crate) offset: Offset,
}

/// Changes to one store, and how far they take it.
pub(crate) struct Fold {
    pub(crate) slot: Slot,
    pub(crate) changes: Vec<(Bytes, Option<Bytes>)>,
    pub(crate) reached: Reached,
}

/// Where a store of a task lives in the keyspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    number: u32,
    meta_key: Vec<u8>,
}

impl StateDir {
    /// Opens, or creates, the state under `path`.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let fail = |error: fjall::Error| {
            let reason = match error {
                fjall::Error::Locked => {
                    "another process uses it; give each process its own state_dir".to_owned()
                }
                other => other.to_string(),
            };
            AppError::State { path: path.to_owned(), reason }
        };
        if is_empty(path) {
            Self::create_at(path).map_err(fail)?;
        }
        let (database, keyspace) = Self::open_at(path).map_err(fail)?;
        let inner = Inner { path: path.to_owned(), database, keyspace, slots: Mutex::new(()) };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// A process that is killed while fjall makes a database leaves files that fjall can neither open nor make anew, so it is made
    /// beside its place, and what a killed one left there goes first.
    fn create_at(path: &Path) -> fjall::Result<()> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        let made = match Self::open_at(&beside) {
            Err(error) if !matches!(error, fjall::Error::Locked) => {
                std::fs::remove_dir_all(&beside)?;
                Self::open_at(&beside)?
            }
            made => made?,
        };
        drop(made);
        Ok(std::fs::rename(&beside, path)?)
    }

    fn open_at(path: &Path) -> fjall::Result<(Database, Keyspace)> {
        let database = Database::builder(path)
            .max_journaling_size(MAX_JOURNAL_BYTES)
            .worker_threads(ENGINE_THREADS)
            .manual_journal_persist(true)
            .open()?;
        let keyspace = database.keyspace("state", KeyspaceCreateOptions::default)?;
        Ok((database, keyspace))
    }

    /// The id of this process: the same for as long as the directory lives, `fresh` at first.
    pub(crate) fn process_id(&self, fresh: Uuid) -> Result<Uuid> {
        let stored = self.inner.keyspace.get(PROCESS_ID).map_err(|error| self.fail(&error))?;
        if let Some(id) = stored.and_then(|bytes| <[u8; 16]>::try_from(&*bytes).ok()) {
            return Ok(Uuid(id));
        }
        self.inner.keyspace.insert(PROCESS_ID, fresh.0).map_err(|error| self.fail(&error))?;
        Ok(fresh)
    }

    /// The tasks that have state here.
    pub(crate) fn tasks(&self) -> Result<BTreeSet<TaskId>> {
        let mut tasks = BTreeSet::new();
        for entry in self.inner.keyspace.prefix([META]) {
            let key = entry.key().map_err(|error| self.fail(&error))?;
            let name = std::str::from_utf8(key.get(1..).unwrap_or_default()).unwrap_or_default();
            tasks.extend(name.split_once('/').and_then(|(task, _)| TaskId::parse(task)));
        }
        Ok(tasks)
    }

    /// The slot of a store and how far it has come; none when there is no such store yet.
    pub(crate) fn find(&self, task: TaskId, store: &str) -> Result<Option<(Slot, Reached)>> {
        let meta_key = meta_key(task, store);
        let Some(bytes) = self.inner.keyspace.get(&meta_key).map_err(|error| self.fail(&error))? else {
            return Ok(None);
        };
        let (number, reached) = decode_meta(Bytes::from(bytes)).ok_or_else(|| AppError::State {
            path: self.inner.path.clone(),
            reason: format!("the entry of store {store:?} of task {task} is broken; remove the directory"),
        })?;
        Ok(Some((Slot { number, meta_key }, reached)))
    }

    /// An empty slot for a store; what the store had before is removed.
    pub(crate) fn create(&self, task: TaskId, store: &str, topic_id: TopicId) -> Result<Slot> {
        let old = self.find(task, store)?;
        let slot = self.take_slot(task, store, topic_id)?;
        // Only now: a crash between would leave rows that nobody owns, and never a store that lacks some.
        if let Some((old, _)) = old {
            self.remove_rows(&old)?;
        }
        Ok(slot)
    }

    fn take_slot(&self, task: TaskId, store: &str, topic_id: TopicId) -> Result<Slot> {
        let _one_at_a_time = self.inner.slots.lock();
        let stored = self.inner.keyspace.get(NEXT_SLOT).map_err(|error| self.fail(&error))?;
        let number = stored.and_then(|bytes| bytes.first_chunk().map(|bytes| u32::from_be_bytes(*bytes)));
        let number = number.unwrap_or(0);
        let slot = Slot { number, meta_key: meta_key(task, store) };
        let mut batch = self.inner.database.batch();
        batch.insert(&self.inner.keyspace, NEXT_SLOT, (number + 1).to_be_bytes());
        let reached = Reached { topic_id, offset: Offset(0) };
        batch.insert(&self.inner.keyspace, slot.meta_key.clone(), encode_meta(number, reached));
        batch.commit().map_err(|error| self.fail(&error))?;
        Ok(slot)
    }

    /// Applies changes of several stores, with how far they come, in one atomic batch.
    pub(crate) fn fold(&self, folds: Vec<Fold>) -> Result<()> {
        let rows = folds.iter().map(|fold| fold.changes.len() + 1).sum();
        let mut batch = fjall::OwnedWriteBatch::with_capacity(self.inner.database.clone(), rows);
        for fold in folds {
            for (key, value) in fold.changes {
                let key = row_key(fold.slot.number, &key);
                match value {
                    Some(value) => batch.insert(&self.inner.keyspace, key, value),
                    None => batch.remove(&self.inner.keyspace, key),
                }
            }
            let meta = encode_meta(fold.slot.number, fold.reached);
            batch.insert(&self.inner.keyspace, fold.slot.meta_key, meta);
        }
        batch.commit().map_err(|error| self.fail(&error))
    }

    /// The rows of a slot as a store.
    pub(crate) fn store(&self, name: Arc<str>, slot: &Slot) -> DiskStore {
        DiskStore { name, slot: slot.number, keyspace: self.inner.keyspace.clone() }
    }

    /// Forgets the stores of a task. Their rows are still there, and nobody's, until [`StateDir::remove_rows`].
    pub(crate) fn disown(&self, task: TaskId) -> Result<Vec<Slot>> {
        let mut slots = Vec::new();
        let mut batch = self.inner.database.batch();
        for entry in self.inner.keyspace.prefix(meta_key(task, "")) {
            let (key, value) = entry.into_inner().map_err(|error| self.fail(&error))?;
            let meta_key = key.to_vec();
            batch.remove(&self.inner.keyspace, meta_key.clone());
            let number = decode_meta(Bytes::from(value)).map(|(number, _)| number);
            slots.extend(number.map(|number| Slot { number, meta_key }));
        }
        batch.commit().map_err(|error| self.fail(&error))?;
        Ok(slots)
    }

    pub(crate) fn remove_rows(&self, slot: &Slot) -> Result<()> {
        loop {
            let prefix = row_key(slot.number, &[]);
            let keys = self.inner.keyspace.prefix(prefix).take(DISCARD_BATCH).map(fjall::Guard::key);
            let keys = keys.collect::<fjall::Result<Vec<_>>>().map_err(|error| self.fail(&error))?;
            let done = keys.len() < DISCARD_BATCH;
            let mut batch = self.inner.database.batch();
            keys.into_iter().for_each(|key| batch.remove(&self.inner.keyspace, key));
            batch.commit().map_err(|error| self.fail(&error))?;
            if done {
                return Ok(());
            }
        }
    }

    fn fail(&self, error: &fjall::Error) -> AppError {
        AppError::State { path: self.inner.path.clone(), reason: error.to_string() }
    }

    /// Number of journal files; they must not pile up.
    #[cfg(test)]
    fn journals(&self) -> usize {
        self.inner.database.journal_count()
    }
}

/// Whether there is nothing in the folder, or no folder.
fn is_empty(path: &Path) -> bool {
    std::fs::read_dir(path).map_or(true, |mut entries| entries.next().is_none())
}

/// One store on disk. Writes go through [`StateDir::fold`] in normal running; [`Store::put`] is for restoring row by row.
pub(crate) struct DiskStore {
    name: Arc<str>,
    slot: u32,
    keyspace: Keyspace,
}

impl DiskStore {
    fn fail(&self, error: &fjall::Error) -> StreamsError {
        StreamsError::Store { store: Arc::clone(&self.name), reason: error.to_string() }
    }
}

impl Store for DiskStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StreamsError> {
        let found = self.keyspace.get(row_key(self.slot, key)).map_err(|error| self.fail(&error))?;
        Ok(found.map(Bytes::from))
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StreamsError> {
        self.keyspace.insert(row_key(self.slot, key), value).map_err(|error| self.fail(&error))
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), StreamsError> {
        self.keyspace.remove(row_key(self.slot, key)).map_err(|error| self.fail(&error))
    }

    fn range(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Entries<'_> {
        let own = |key: &[u8]| row_key(self.slot, key);
        let from = match from {
            Bound::Included(key) => Bound::Included(own(key)),
            Bound::Excluded(key) => Bound::Excluded(own(key)),
            Bound::Unbounded => Bound::Included(own(&[])),
        };
        let to = match to {
            Bound::Included(key) => Bound::Included(own(key)),
            Bound::Excluded(key) => Bound::Excluded(own(key)),
            Bound::Unbounded => after_prefix(&own(&[])).map_or(Bound::Unbounded, Bound::Excluded),
        };
        Box::new(self.keyspace.range::<Vec<u8>, _>((from, to)).map(|entry| {
            let (key, value) = entry.into_inner().map_err(|error| self.fail(&error))?;
            Ok((Bytes::from(key).slice(SLOT_PREFIX_BYTES..), Bytes::from(value)))
        }))
    }
}

fn meta_key(task: TaskId, store: &str) -> Vec<u8> {
    let mut key = vec![META];
    key.extend_from_slice(format!("{task}/{store}").as_bytes());
    key
}

fn row_key(slot: u32, key: &[u8]) -> Vec<u8> {
    let mut full = Vec::with_capacity(SLOT_PREFIX_BYTES + key.len());
    full.push(ROWS);
    full.put_u32(slot);
    full.extend_from_slice(key);
    full
}

const META_BYTES: usize = 4 + 16 + 8;

fn encode_meta(slot: u32, reached: Reached) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(META_BYTES);
    bytes.put_u32(slot);
    bytes.extend_from_slice(&reached.topic_id.0);
    bytes.put_i64(reached.offset.0);
    bytes
}

fn decode_meta(mut bytes: Bytes) -> Option<(u32, Reached)> {
    if bytes.len() != META_BYTES {
        return None;
    }
    let slot = bytes.get_u32();
    let mut id = [0; 16];
    bytes.copy_to_slice(&mut id);
    Some((slot, Reached { topic_id: Uuid(id), offset: Offset(bytes.get_i64()) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TASK: TaskId = TaskId { subtopology: 0, partition: 1 };

    fn change(key: &str, value: Option<&str>) -> (Bytes, Option<Bytes>) {
        (Bytes::copy_from_slice(key.as_bytes()), value.map(|value| Bytes::copy_from_slice(value.as_bytes())))
    }

    fn rows(store: &DiskStore) -> Vec<(String, String)> {
        let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        let all = store.range(Bound::Unbounded, Bound::Unbounded);
        all.map(|entry| entry.map(|(key, value)| (text(key), text(value))).unwrap()).collect()
    }

    #[test]
    fn stores_share_a_keyspace_and_do_not_mix() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let topic = TopicId::from_random(1, 2);
        let a = state.create(TASK, "a", topic).unwrap();
        let b = state.create(TASK, "b", topic).unwrap();
        let reached = Reached { topic_id: topic, offset: Offset(7) };
        let fold = |slot: &Slot, changes| Fold { slot: slot.clone(), changes, reached };
        state.fold(vec![fold(&a, vec![change("x", Some("1")), change("y", Some("2"))])]).unwrap();
        state.fold(vec![fold(&b, vec![change("x", Some("3"))]), fold(&a, vec![change("y", None)])]).unwrap();
        assert_eq!(rows(&state.store("a".into(), &a)), [("x".to_owned(), "1".to_owned())]);
        assert_eq!(rows(&state.store("b".into(), &b)), [("x".to_owned(), "3".to_owned())]);
        assert_eq!(state.store("a".into(), &a).prefix(b"x").count(), 1);
        let discarded = state.create(TASK, "a", topic).unwrap();
        assert_ne!(discarded, a);
        assert!(rows(&state.store("a".into(), &discarded)).is_empty());
        assert!(rows(&state.store("a".into(), &a)).is_empty(), "the old rows are gone from the disk too");
        assert!(StateDir::open(dir.path()).is_err(), "the directory is locked");
    }

    /// fjall makes the journal before the file that says that there is a database.
    #[test]
    fn a_process_that_was_killed_while_it_made_the_state_does_not_keep_the_next_from_making_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app/state");
        let beside = dir.path().join("app/state.new");
        StateDir::create_at(&beside).unwrap();
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&beside).unwrap() {
            names.push(entry.unwrap().file_name().into_string().unwrap());
        }
        assert!(names.contains(&"version".to_owned()), "{names:?}");
        std::fs::remove_file(beside.join("version")).unwrap();
        let torn = StateDir::open_at(&beside).map(drop).unwrap_err();
        assert!(
            matches!(&torn, fjall::Error::Io(error) if error.kind() == std::io::ErrorKind::AlreadyExists),
            "{torn}"
        );
        let state = StateDir::open(&path).unwrap();
        state.create(TASK, "counts", TopicId::from_random(1, 2)).unwrap();
        drop(state);
        assert!(StateDir::open(&path).unwrap().find(TASK, "counts").unwrap().is_some());
        assert!(!beside.exists());
    }

    /// fjall#257: writes stalled after kill and reopen. A drop without any persist is the nearest thing within a process.
    #[test]
    fn a_reopened_state_has_rows_and_offset_of_the_same_moment_and_takes_writes() {
        let dir = tempfile::tempdir().unwrap();
        let topic = TopicId::from_random(3, 4);
        for round in 0..20i64 {
            let state = StateDir::open(dir.path()).unwrap();
            let slot = match state.find(TASK, "counts").unwrap() {
                Some((slot, reached)) => {
                    assert_eq!(reached, Reached { topic_id: topic, offset: Offset(round * 100) });
                    assert_eq!(rows(&state.store("counts".into(), &slot)).len() as i64, round * 100);
                    slot
                }
                None => state.create(TASK, "counts", topic).unwrap(),
            };
            let changes = (0..100).map(|n| change(&format!("{round:04}-{n:04}"), Some("value"))).collect();
            let reached = Reached { topic_id: topic, offset: Offset((round + 1) * 100) };
            state.fold(vec![Fold { slot, changes, reached }]).unwrap();
        }
    }

    /// fjall#288: an idle keyspace pins journals. With one keyspace an idle store pins nothing.
    #[test]
    fn an_idle_store_pins_no_journals() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let idle = state.create(TASK, "idle", TopicId::ZERO).unwrap();
        let busy = state.create(TASK, "busy", TopicId::ZERO).unwrap();
        let reached = Reached { topic_id: TopicId::ZERO, offset: Offset(0) };
        state.fold(vec![Fold { slot: idle, changes: vec![change("once", Some("1"))], reached }]).unwrap();
        let value = "v".repeat(64 << 10);
        for round in 0..64 {
            let changes = (0..64).map(|n| change(&format!("{round}-{n}"), Some(&value))).collect();
            state.fold(vec![Fold { slot: busy.clone(), changes, reached }]).unwrap();
        }
        let written_journals = (64 * 64 * (64 << 10)) / (64 << 20); // fjall begins a new one every 64 MiB
        assert!(state.journals() <= written_journals / 2 + 1, "{} journals", state.journals());
    }
}
