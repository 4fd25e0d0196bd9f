//! [`Store`]: the log, the vote and the snapshot of one member, as all parts of its quorum share them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use millstream_env::{Env, Pool};
use millstream_machine::metadata::Committed;
use millstream_protocol::Endpoint;
use millstream_record::{Batch, BatchHeader, Batches, Offset, patch};
use millstream_storage::{AppendOrigin, Log, OpenFiles, ReadPlan, ReadRequest, StorageError};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::batches;
use super::config::Bounds;
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
    /// Held while a sync of the log is under way.
    pub(super) flushing: tokio::sync::Mutex<()>,
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
    /// Where the last snapshot ended that came from elsewhere. Below it the log may have another history for a moment.
    pub(super) installed: Offset,
    pub(super) membership: StoredMembership,
    pub(super) snapshot: Option<Arc<SnapshotFile>>,
    /// What was applied since the last snapshot was asked for or begun.
    pub(super) pending: Option<Pending>,
    /// Why the quorum stopped, once it has.
    pub(super) stopped: Option<String>,
}

/// What no snapshot has yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    bytes: u64,
    /// When the first of it was applied.
    since: Duration,
}

impl Progress {
    /// Counts an entry of so many bytes that is applied now.
    pub(super) fn count(&mut self, bytes: u64, now: Duration) {
        let pending = self.pending.get_or_insert(Pending { bytes: 0, since: now });
        pending.bytes = pending.bytes.saturating_add(bytes);
    }

    /// Takes over what a snapshot from elsewhere says.
    pub(super) fn install(&mut self, covers: &Covers) {
        self.applied = Some(covers.last);
        self.end = covers.end;
        self.installed = covers.end;
        self.membership = covers.membership.clone();
        self.pending = None;
    }
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
        let snapshot = snapshot::newest(log.files(), log.dir())?.map(Arc::new);
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
        if !continues(&log, covers.as_ref())? {
            // A snapshot was installed, and the crash came before the log could follow it. What the log has instead was never
            // committed, or is in the snapshot.
            (options.lower_recovery_point)(Offset(0))?;
            log.truncate_fully_and_start_at(places.start(), env.now())?;
            log.flush_blocking()?;
        }
        let progress = Progress {
            applied: covers.as_ref().map(|covers| covers.last),
            end: places.start(),
            installed: places.start(),
            membership: covers.map(|covers| covers.membership).unwrap_or_default(),
            snapshot,
            pending: None,
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
            flushing: tokio::sync::Mutex::new(()),
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
            let plan = self.plan(at, end, READ_BYTES)?;
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
        *self.vote.lock()
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

    /// Whether enough was applied, or long enough ago, since this was true last, or a snapshot was begun.
    pub(super) fn take_due(&self, bounds: &Bounds) -> bool {
        let now = self.env.elapsed();
        let mut progress = self.progress.lock();
        let is_due = progress.pending.take_if(|pending| {
            pending.bytes >= bounds.between_snapshots.max(1)
                || now.saturating_sub(pending.since) >= bounds.snapshot_interval
        });
        is_due.is_some()
    }

    /// How long it takes until what is pending now is due by time.
    pub(super) fn due_in(&self, bounds: &Bounds) -> Duration {
        let pending = self.progress.lock().pending;
        let waited = |pending: Pending| self.env.elapsed().saturating_sub(pending.since);
        pending.map_or(Duration::MAX, |pending| bounds.snapshot_interval.saturating_sub(waited(pending)))
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
                // What the log has is another history, or ends before the snapshot does. A crash may leave any part of it, and what
                // was durable of it may have gone further than the snapshot does.
                (self.lower_recovery_point)(Offset(0))?;
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

    fn plan(&self, offset: Offset, upper_bound: Offset, max_bytes: usize) -> Result<ReadPlan, StorageError> {
        let request = ReadRequest { offset, max_bytes, upper_bound, at_least_one: true, with_aborted: false };
        self.inner.lock().log.read_plan(request)
    }

    /// The batches from `offset` up to `upper_bound`, the first of them at least.
    pub(super) async fn read(
        &self,
        offset: Offset,
        upper_bound: Offset,
        max_bytes: usize,
    ) -> Result<Bytes, QuorumError> {
        let plan = self.plan(offset, upper_bound, max_bytes)?;
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
            let read = match self.read(at, upper, READ_BYTES).await {
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

    /// The snapshot, where the log has no more what stands at `from`.
    pub(super) fn snapshot_instead_of(&self, from: Offset) -> Option<Arc<SnapshotFile>> {
        let progress = self.progress();
        let missing = from < progress.installed || self.places(|places| from < places.start());
        progress.snapshot.filter(|_| missing)
    }

    /// Up to `max_batches` committed batches from `from` on, which is before `end`; a snapshot where the log has them no more.
    pub(super) async fn committed(
        &self,
        from: Offset,
        end: Offset,
        max_batches: usize,
    ) -> Result<Vec<Committed>, QuorumError> {
        if let Some(file) = self.snapshot_instead_of(from) {
            let read = self.env.blocking(Pool::Read, move || file.read()).await;
            return Ok(vec![read.map_err(QuorumError::stopped)??]);
        }
        decode_all(self.read(from, end, READ_BYTES).await?, max_batches)
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
            for batch in decode_all(self.plan(at, covers.end, READ_BYTES)?.run_blocking()?.bytes, usize::MAX)?
            {
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

/// Whether `log` goes on where the snapshot ends, in the same history: then the batch before that place is the snapshot's last entry,
/// and a term and an end name one entry only. The batch itself is asked: what is known of epochs may begin later than the log.
fn continues(log: &Log, covers: Option<&Covers>) -> Result<bool, QuorumError> {
    let Some(Covers { last, end, .. }) = covers else { return Ok(true) };
    if *end > log.end_offset() || *end == log.start_offset() {
        return Ok(*end <= log.end_offset());
    }
    let request = ReadRequest {
        offset: Offset(end.0 - 1),
        max_bytes: 1,
        upper_bound: log.end_offset(),
        at_least_one: true,
        with_aborted: false,
    };
    let before = Batches::new(log.read(request)?.bytes).next().transpose().map_err(QuorumError::format)?;
    let is_last = |batch: Batch| {
        batch.header().next_offset() == *end && batch.header().leader_epoch == epoch_of(last.leader_id.term)
    };
    Ok(before.is_none_or(is_last))
}

fn decode_all(bytes: Bytes, max_batches: usize) -> Result<Vec<Committed>, QuorumError> {
    let decode = |batch: Result<Batch, _>| Ok(codec::decode(&batch.map_err(QuorumError::format)?)?);
    Batches::new(bytes).take(max_batches).map(decode).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use millstream_env::HostRuntime;
    use millstream_machine::metadata::Record;
    use millstream_protocol::messages::NoOpRecord;
    use millstream_record::{Millis, TopicId, TopicPartition};
    use millstream_storage::{LogConfig, LogDir, MemoryDisk};

    use super::*;
    use crate::metadata::quorum::snapshot::Compactor;
    use crate::metadata::quorum::types::log_id;

    struct Nothing;

    impl Compactor for Nothing {
        fn apply(&mut self, _: &Committed) -> Result<(), String> {
            Ok(())
        }

        fn records(&self) -> Vec<Record> {
            vec![no_op()]
        }
    }

    fn no_op() -> Record {
        Record::NoOp(NoOpRecord::default())
    }

    fn member() -> MemberId {
        MemberId { node: millstream_record::NodeId(1), ..MemberId::default() }
    }

    fn open(env: &Env, dir: &LogDir) -> Result<Store, QuorumError> {
        open_log(env, opened(dir), Arc::new(|_| Ok(())))
    }

    fn opened(dir: &LogDir) -> Log {
        let at = TopicPartition::new("quorum", 0);
        let config = LogConfig { file_delete_delay_ms: 0, ..LogConfig::default() };
        dir.open_log(&at, TopicId::ZERO, config, Millis(0)).unwrap().0
    }

    fn open_log(env: &Env, log: Log, lower_recovery_point: LowerRecoveryPoint) -> Result<Store, QuorumError> {
        let founders = BTreeMap::from([(member(), Endpoint::new("here", 1))]);
        let compactor: NewCompactor = Arc::new(|| Box::new(Nothing));
        let options = StoreOptions { me: member(), founders, compactor, lower_recovery_point };
        Store::open(env.clone(), log, options)
    }

    /// Appends entries of `records` records each, in `term`.
    fn append(store: &Store, term: u64, records: &[usize]) {
        let batch = |&records: &usize| codec::encode(&vec![no_op(); records], Millis(1)).unwrap();
        store.append_batches(records.iter().map(|records| (term, batch(records)))).unwrap();
    }

    fn covers(store: &Store, last: LogId, end: i64) -> Covers {
        let founders = BTreeMap::from([(member(), Endpoint::new("here", 1))]);
        let membership = batches::first_membership(&founders).unwrap();
        let membership = StoredMembership::new(store.places(|places| places.id(0)), membership);
        Covers { last, end: Offset(end), membership }
    }

    fn receive(store: &Store, covers: &Covers) -> Arc<SnapshotFile> {
        let file = snapshot::write(&store.files(), &store.dir(), covers, &[no_op()], Millis(1)).unwrap();
        store.publish_blocking(Arc::new(file)).unwrap()
    }

    fn place(store: &Store) -> (u64, Offset, Option<LogId>) {
        store.places(|places| (places.first(), places.start(), places.last()))
    }

    #[test]
    fn a_log_that_its_snapshot_does_not_lead_to_begins_anew_behind_it() {
        let (_runtime, env) = HostRuntime::start("store", 1).unwrap();
        // Longer in offsets than the snapshot, shorter in entries: of a term that lost. Once on a batch's border, once within.
        for end in [9, 8, 40] {
            let dir = LogDir::open(Arc::new(MemoryDisk::default()), Path::new("/data"), 8).unwrap();
            let store = open(&env, &dir).unwrap();
            append(&store, 1, &[1, 1, 6, 3]);
            assert_eq!(store.places(|places| places.log_end()), Offset(12));
            receive(&store, &covers(&store, log_id(2, 7), end));
            drop(store);
            let store = open(&env, &dir).unwrap();
            assert_eq!(place(&store), (8, Offset(end), Some(log_id(2, 7))), "a snapshot that ends at {end}");
            append(&store, 3, &[2]);
            store.with_log(Log::flush_blocking).unwrap();
            drop(store);
            let store = open(&env, &dir).unwrap();
            assert_eq!(place(&store), (8, Offset(end), Some(log_id(3, 8))), "a snapshot that ends at {end}");
        }
    }

    #[test]
    fn a_log_that_goes_on_behind_its_snapshot_is_kept() {
        let (_runtime, env) = HostRuntime::start("store", 1).unwrap();
        let mut dir = LogDir::open(Arc::new(MemoryDisk::default()), Path::new("/data"), 8).unwrap();
        let store = open(&env, &dir).unwrap();
        append(&store, 1, &[1, 1]);
        append(&store, 2, &[6, 3]);
        store.with_log(Log::flush_blocking).unwrap();
        receive(&store, &covers(&store, log_id(2, 3), 9));
        drop(store);
        let store = open(&env, &dir).unwrap();
        assert_eq!(place(&store), (4, Offset(9), Some(log_id(2, 4))));
        store.purge_blocking(log_id(2, 3)).unwrap();
        let end = store.with_log(Log::flush_blocking).unwrap();
        drop(store);
        // Recovery scans nothing, and the directory notes no log start: the log begins before the snapshot's end again.
        let at = TopicPartition::new("quorum", 0);
        dir.checkpoint(BTreeMap::from([(at, end)]), BTreeMap::new(), BTreeMap::new(), &[]).unwrap();
        let store = open(&env, &dir).unwrap();
        assert_eq!(store.with_log(|log| log.start_offset()), Offset(0));
        assert_eq!(place(&store), (4, Offset(9), Some(log_id(2, 4))));
    }

    #[test]
    fn what_an_installed_snapshot_covers_is_never_read_from_another_history() {
        let (_runtime, env) = HostRuntime::start("store", 1).unwrap();
        let dir = LogDir::open(Arc::new(MemoryDisk::default()), Path::new("/data"), 8).unwrap();
        let store = open(&env, &dir).unwrap();
        append(&store, 1, &[1, 1, 6, 3]);
        let file = receive(&store, &covers(&store, log_id(2, 7), 9));
        store.advance(|progress| progress.install(file.covers()));
        let read = futures::executor::block_on(store.committed(Offset(2), Offset(9), 100)).unwrap();
        assert_eq!(read.len(), 1);
        assert!(read[0].snapshot && read[0].end == Offset(9), "{read:?}");
    }

    #[test]
    fn a_snapshot_that_ends_below_what_was_durable_leaves_a_log_that_opens() {
        let (_runtime, env) = HostRuntime::start("store", 1).unwrap();
        let at = TopicPartition::new("quorum", 0);
        for is_purged in [true, false] {
            let disk = Arc::new(MemoryDisk::default());
            // The crash comes before the next checkpoint, each time.
            let mut dir = LogDir::open(disk, Path::new("/data"), 8).unwrap();
            let store = open(&env, &dir).unwrap();
            append(&store, 1, &[1, 1, 6, 3]);
            let durable = store.with_log(Log::flush_blocking).unwrap();
            drop(store);
            dir.checkpoint(BTreeMap::from([(at.clone(), durable)]), BTreeMap::new(), BTreeMap::new(), &[])
                .unwrap();
            let dir = Arc::new(Mutex::new(dir));
            let (lowering, lowered) = (Arc::clone(&dir), at.clone());
            let lower: LowerRecoveryPoint =
                Arc::new(move |to| lowering.try_lock().unwrap().lower_recovery_point(&lowered, to));
            for _ in 0..3 {
                let (log_dir, lower) = (Arc::clone(&dir), Arc::clone(&lower));
                let log = opened(&log_dir.lock());
                let store = open_log(&env, log, lower).unwrap();
                if store.progress().snapshot.is_none() {
                    let file = receive(&store, &covers(&store, log_id(2, 7), 9));
                    if is_purged {
                        store.advance(|progress| progress.install(file.covers()));
                        store.purge_blocking(log_id(2, 7)).unwrap();
                    }
                } else {
                    assert_eq!(place(&store), (8, Offset(9), Some(log_id(2, 7))), "purged: {is_purged}");
                }
            }
        }
    }

    #[test]
    fn a_log_without_its_begin_and_without_a_snapshot_is_refused() {
        let (_runtime, env) = HostRuntime::start("store", 1).unwrap();
        let dir = LogDir::open(Arc::new(MemoryDisk::default()), Path::new("/data"), 8).unwrap();
        let store = open(&env, &dir).unwrap();
        store.with_log(|log| log.truncate_fully_and_start_at(Offset(50), Millis(1))).unwrap();
        drop(store);
        let error = open(&env, &dir).map(drop).unwrap_err();
        assert!(error.to_string().contains("no snapshot"), "{error}");
    }
}
