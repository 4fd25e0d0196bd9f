//! [`Store`]: the log, the vote and the snapshot of one member, as all parts of its quorum share them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use millstream_env::{Env, Pool};
use millstream_machine::metadata::Committed;
use millstream_protocol::Endpoint;
use millstream_record::{Batch, BatchHeader, Batches, Offset, patch};
use millstream_storage::{AppendOrigin, Log, OpenFiles, ReadPlan, ReadRequest, StorageError};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::batches;
use super::error::QuorumError;
use super::places::Places;
use super::snapshot::{self, Covers, NewCompactor, SnapshotFile};
use super::types::{Content, Entry, LogId, MemberId, StoredMembership, Vote, epoch_of, term_of};
use super::vote::VoteFile;
use crate::metadata::codec;

/// Largest stretch of the log that is read at once.
const READ_BYTES: usize = 1 << 20;

/// Lowers the recovery point that the directory notes for the metadata log; it comes before the log is cut. May block.
pub type LowerRecoveryPoint = Arc<dyn Fn(Offset) -> Result<(), StorageError> + Send + Sync>;

/// The state of one member, on disk and in memory.
pub(super) struct Store {
    pub(super) env: Env,
    pub(super) me: MemberId,
    inner: Mutex<Inner>,
    vote_file: VoteFile,
    vote: Mutex<Option<Vote>>,
    progress: Mutex<Progress>,
    /// Told when what is committed grows, and when the quorum stops.
    pub(super) moved: Notify,
    compactor: NewCompactor,
    lower_recovery_point: LowerRecoveryPoint,
    /// Held, on threads that may block, while files of snapshots change their names.
    naming: Mutex<()>,
}

/// Behind a short lock. A cut is the exception: it is rare, and nobody may see the log while it happens.
struct Inner {
    log: Log,
    places: Places,
}

/// What is committed and applied, as far as this member knows.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    pub(super) applied: Option<LogId>,
    pub(super) end: Offset,
    pub(super) membership: StoredMembership,
    pub(super) snapshot: Option<Arc<SnapshotFile>>,
    /// Why the quorum stopped, once it has.
    pub(super) stopped: Option<String>,
}

/// What a store is opened with.
pub(super) struct StoreOptions {
    pub(super) me: MemberId,
    pub(super) founders: BTreeMap<MemberId, Endpoint>,
    pub(super) compactor: NewCompactor,
    pub(super) lower_recovery_point: LowerRecoveryPoint,
}

impl Store {
    /// Finds out what `log` and the files beside it hold, and founds the cluster there if it is told to. Blocks.
    pub(super) fn open(env: Env, mut log: Log, options: StoreOptions) -> Result<Self, QuorumError> {
        let vote_file = VoteFile::beside(&log);
        let vote = vote_file.read()?;
        let snapshot = snapshot::newest(log.files(), &log.dir().to_owned())?.map(Arc::new);
        let covers = snapshot.as_ref().map(|file| file.covers().clone());
        let places = match &covers {
            Some(covers) => Places::behind(Some(covers.last), covers.end),
            None => Places::behind(None, Offset(0)),
        };
        if places.start() < log.start_offset() {
            return Err(QuorumError::format(format!(
                "it begins at offset {}, but no snapshot says what came before",
                log.start_offset()
            )));
        }
        if places.start() > log.end_offset() {
            // A snapshot was installed, and the crash came before the log could follow it.
            log.truncate_fully_and_start_at(places.start(), env.now())?;
            log.flush_blocking()?;
        }
        let progress = Progress {
            applied: covers.as_ref().map(|covers| covers.last),
            end: places.start(),
            membership: covers.map(|covers| covers.membership).unwrap_or_default(),
            snapshot,
            stopped: None,
        };
        let StoreOptions { me, founders, compactor, lower_recovery_point } = options;
        let store = Self {
            env,
            me,
            inner: Mutex::new(Inner { log, places }),
            vote_file,
            vote: Mutex::new(vote),
            progress: Mutex::new(progress),
            moved: Notify::new(),
            compactor,
            lower_recovery_point,
            naming: Mutex::new(()),
        };
        let has_members = store.scan()?;
        if !has_members && !founders.is_empty() {
            store.found(&founders)?;
        }
        Ok(store)
    }

    /// Finds the place of every entry; tells whether any of them, or the snapshot, says who the members are.
    fn scan(&self) -> Result<bool, QuorumError> {
        let mut has_members = self.progress.lock().snapshot.is_some();
        let (mut at, end) = {
            let inner = self.inner.lock();
            (inner.places.start(), inner.log.end_offset())
        };
        while at < end {
            let plan = self.plan(at, end)?;
            for batch in Batches::new(plan.run_blocking()?.bytes) {
                let batch = batch.map_err(QuorumError::format)?;
                let header = *batch.header();
                if header.base_offset != at {
                    let what = format!("a batch at offset {} where {at} was expected", header.base_offset);
                    return Err(QuorumError::format(what));
                }
                at = header.next_offset();
                let mut inner = self.inner.lock();
                if header.attributes.is_control() {
                    let entry = batches::decode(batch, inner.places.next())?;
                    has_members |= matches!(entry.payload.content, Content::Membership(_));
                }
                inner.places.push(term_of(header.leader_epoch), at);
            }
        }
        Ok(has_members)
    }

    /// Writes down who the first members are. A log that a single voter wrote without a quorum goes on as that voter's; the epochs that
    /// it led in are terms in which it voted for itself.
    fn found(&self, founders: &BTreeMap<MemberId, Endpoint>) -> Result<(), QuorumError> {
        let (end, epoch) = {
            let inner = self.inner.lock();
            (inner.log.end_offset(), inner.log.leader_epochs().latest())
        };
        let term = epoch.map_or(0, term_of);
        if end > Offset(0) {
            if !founders.keys().eq([&self.me]) {
                return Err(QuorumError::NotEmpty { end: end.0, voters: founders.len() });
            }
            if self.vote().is_none() {
                self.save_vote_blocking(Vote::new(term, self.me))?;
            }
        }
        let membership = Content::Membership(batches::first_membership(founders)?);
        // All founders write the same, down to the bytes.
        let bytes = batches::encode(&membership, self.me, millstream_record::Millis(0))?;
        self.append_batches([(term, bytes)].into_iter())?;
        self.inner.lock().log.flush_blocking()?;
        Ok(())
    }

    pub(super) fn vote(&self) -> Option<Vote> {
        self.vote.lock().clone()
    }

    /// The vote is durable on return. Blocks.
    pub(super) fn save_vote_blocking(&self, vote: Vote) -> Result<(), QuorumError> {
        self.vote_file.write(&vote)?;
        *self.vote.lock() = Some(vote);
        Ok(())
    }

    pub(super) fn progress(&self) -> Progress {
        self.progress.lock().clone()
    }

    /// Changes what is known to be committed, and tells those who wait for it.
    pub(super) fn advance(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.progress.lock());
        self.moved.notify_waiters();
    }

    /// Looks at the places of entries.
    pub(super) fn places<T>(&self, look: impl FnOnce(&Places) -> T) -> T {
        look(&self.inner.lock().places)
    }

    /// Uses the log for a moment.
    pub(super) fn with_log<T>(&self, work: impl FnOnce(&mut Log) -> T) -> T {
        work(&mut self.inner.lock().log)
    }

    pub(super) fn files(&self) -> Arc<OpenFiles> {
        Arc::clone(self.inner.lock().log.files())
    }

    pub(super) fn dir(&self) -> std::path::PathBuf {
        self.inner.lock().log.dir().to_owned()
    }

    /// Appends entries to the page cache; gives the log's new end.
    pub(super) fn append(&self, entries: impl Iterator<Item = Entry>) -> Result<Offset, QuorumError> {
        let now = self.env.now();
        let encoded = entries.map(|entry| {
            let bytes = match entry.payload.stored {
                Some(bytes) => Ok(bytes),
                None => batches::encode(&entry.payload.content, self.me, now),
            };
            bytes.map(|bytes| (entry.log_id.leader_id.term, bytes))
        });
        let encoded: Vec<(u64, Bytes)> = encoded.collect::<Result<_, _>>()?;
        self.append_batches(encoded.into_iter())
    }

    fn append_batches(&self, batches: impl Iterator<Item = (u64, Bytes)>) -> Result<Offset, QuorumError> {
        let now = self.env.now();
        let mut guard = self.inner.lock();
        let Inner { log, places } = &mut *guard;
        let mut together = BytesMut::new();
        let mut at = log.end_offset();
        let mut ends = Vec::new();
        for (term, bytes) in batches {
            let from = together.len();
            together.extend_from_slice(&bytes);
            let placed = together.get_mut(from..).unwrap_or_default();
            patch::set_offset_and_epoch(placed, at, epoch_of(term)).map_err(QuorumError::format)?;
            at = BatchHeader::peek(placed).map_err(QuorumError::format)?.next_offset();
            ends.push((term, at));
            if together.len() >= READ_BYTES {
                log.append(&together.split(), AppendOrigin::Follower, now)?;
                ends.drain(..).for_each(|(term, end)| places.push(term, end));
            }
        }
        if !together.is_empty() {
            log.append(&together, AppendOrigin::Follower, now)?;
            ends.drain(..).for_each(|(term, end)| places.push(term, end));
        }
        Ok(log.end_offset())
    }

    /// Cuts the entry at `index` and all behind it, durably. Blocks.
    pub(super) fn cut_blocking(&self, index: u64) -> Result<(), QuorumError> {
        let mut guard = self.inner.lock();
        let Inner { log, places } = &mut *guard;
        let Some(target) = places.base(index) else { return Ok(()) };
        (self.lower_recovery_point)(log.cut_point(target)?)?;
        let end = log.truncate_to(target, self.env.now())?;
        if end != target {
            return Err(QuorumError::format(format!("it was cut at offset {end} instead of {target}")));
        }
        places.cut(index);
        Ok(())
    }

    /// Forgets the entries up to and with `last`, which a snapshot covers. Blocks.
    pub(super) fn purge_blocking(&self, last: LogId) -> Result<(), QuorumError> {
        let covers = self.progress.lock().snapshot.as_ref().map(|file| file.covers().clone());
        let now = self.env.now();
        let mut guard = self.inner.lock();
        let Inner { log, places } = &mut *guard;
        let known = places.end(last.index).filter(|_| places.id(last.index) == Some(last));
        let end = match (known, covers) {
            (Some(end), _) => end,
            (None, Some(covers)) if covers.last == last => {
                // What the log has is another history, or ends before the snapshot does.
                log.truncate_fully_and_start_at(covers.end, now)?;
                *places = Places::behind(Some(last), covers.end);
                return Ok(());
            }
            (None, _) => {
                return Err(QuorumError::format(format!("entry {last} is to go, but no snapshot covers it")));
            }
        };
        places.purge(last, end);
        log.roll_now(now)?;
        log.advance_log_start(end)?;
        log.retention(now, end)?;
        Ok(())
    }

    fn plan(&self, offset: Offset, upper_bound: Offset) -> Result<ReadPlan, StorageError> {
        let request = ReadRequest {
            offset,
            max_bytes: READ_BYTES,
            upper_bound,
            at_least_one: true,
            with_aborted: false,
        };
        self.inner.lock().log.read_plan(request)
    }

    /// The batches from `offset` up to `upper_bound`, the first of them at least.
    async fn read(&self, offset: Offset, upper_bound: Offset) -> Result<Bytes, QuorumError> {
        let plan = self.plan(offset, upper_bound)?;
        if let Some(slices) = plan.try_now()? {
            return Ok(slices.bytes);
        }
        let slices = self.env.blocking(Pool::Read, move || plan.run_blocking()).await;
        Ok(slices.map_err(QuorumError::stopped)??.bytes)
    }

    /// The entries of `range` that the log has, until they are more than `max_bytes`; the first of them in any case.
    pub(super) async fn entries(
        &self,
        range: Range<u64>,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, QuorumError> {
        let span = self.places(|places| {
            let (first, next) = (range.start.max(places.first()), range.end.min(places.next()));
            let last = next.checked_sub(1).filter(|&last| last >= first)?;
            Some((first, places.base(first)?, places.end(last)?))
        });
        let Some((mut index, mut at, upper)) = span else { return Ok(Vec::new()) };
        let (mut entries, mut bytes) = (Vec::new(), 0);
        while at < upper && bytes < max_bytes {
            let read = match self.read(at, upper).await {
                // Cut or purged meanwhile: whoever reads finds the vote changed, or needs a snapshot.
                Err(QuorumError::Storage(StorageError::Changed | StorageError::OffsetOutOfRange { .. })) => {
                    break;
                }
                read => read?,
            };
            if read.is_empty() {
                break;
            }
            for batch in Batches::new(read) {
                let batch = batch.map_err(QuorumError::format)?;
                at = batch.header().next_offset();
                bytes += batch.bytes().len();
                entries.push(batches::decode(batch, index)?);
                index += 1;
            }
        }
        Ok(entries)
    }

    /// Up to `max_batches` committed batches from `from` on, which is before `end`; a snapshot where the log has them no more.
    pub(super) async fn committed(
        &self,
        from: Offset,
        end: Offset,
        max_batches: usize,
    ) -> Result<Vec<Committed>, QuorumError> {
        // Purged, or behind a snapshot that was installed and that the log does not reach yet.
        let missing = self.places(|places| from < places.start() || places.log_end() < end);
        if missing && let Some(file) = self.progress().snapshot.filter(|file| file.covers().end > from) {
            let read = self.env.blocking(Pool::Read, move || file.read()).await;
            return Ok(vec![read.map_err(QuorumError::stopped)??]);
        }
        decode_all(self.read(from, end).await?, max_batches)
    }

    /// Makes a snapshot of what was applied up to `covers`. Blocks, for as long as reading all of that takes.
    pub(super) fn compact_blocking(&self, covers: &Covers) -> Result<Arc<SnapshotFile>, QuorumError> {
        let before = self.progress().snapshot;
        let mut compactor = (self.compactor)();
        let mut at = Offset(0);
        if let Some(file) = &before {
            if file.covers().end >= covers.end {
                return Ok(Arc::clone(file));
            }
            compactor.apply(&file.read()?).map_err(QuorumError::format)?;
            at = file.covers().end;
        }
        while at < covers.end {
            for batch in decode_all(self.plan(at, covers.end)?.run_blocking()?.bytes, usize::MAX)? {
                at = batch.end;
                compactor.apply(&batch).map_err(QuorumError::format)?;
            }
        }
        let records = compactor.records();
        let file = snapshot::write(&self.files(), &self.dir(), covers, &records, self.env.now())?;
        self.publish_blocking(Arc::new(file))
    }

    /// Makes `file` the snapshot, unless there is a newer one, and removes the other. Blocks.
    pub(super) fn publish_blocking(&self, file: Arc<SnapshotFile>) -> Result<Arc<SnapshotFile>, QuorumError> {
        let _naming = self.naming.lock();
        let before = self.progress().snapshot;
        if let Some(newer) = before.as_ref().filter(|known| known.covers().end > file.covers().end) {
            file.remove()?;
            return Ok(Arc::clone(newer));
        }
        file.publish()?;
        self.progress.lock().snapshot = Some(Arc::clone(&file));
        if let Some(old) = before.filter(|old| !old.is(&file)) {
            old.remove()?;
        }
        Ok(file)
    }
}

fn decode_all(bytes: Bytes, max_batches: usize) -> Result<Vec<Committed>, QuorumError> {
    let decode = |batch: Result<Batch, _>| {
        codec::decode(&batch.map_err(QuorumError::format)?).map_err(QuorumError::format)
    };
    Batches::new(bytes).take(max_batches).map(decode).collect()
}
