//! Snapshots: all that is true at one offset, in a file beside the log.
//!
//! ```text
//! <dir>/<end offset, 20 digits>-<epoch, 10 digits>.checkpoint
//!   SnapshotHeader (control)    Kafka's
//!   RaftSnapshot (control)      the last entry that it covers, its end offset, the entry with the members
//!   RaftMembership (control)    the members
//!   data batches                the records that make an empty image the one at that offset
//!   SnapshotFooter (control)    Kafka's; without it the file is not whole
//! ```
//! A snapshot is made from the one before it and the log since, by a [`Compactor`], so that nobody keeps a second image in memory
//! for it. While it is written or received it has another name, which recovery removes.

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use millstream_machine::Error;
use millstream_machine::metadata::{Committed, Record};
use millstream_protocol::messages::{
    RaftMembershipRecord, RaftSnapshotRecord, SnapshotFooterRecord, SnapshotHeaderRecord,
};
use millstream_protocol::wire::Message;
use millstream_record::{Batch, BatchHeader, Batches, HEADER_BYTES, LeaderEpoch, Millis, Offset, patch};
use millstream_storage::{DiskFile, OpenFiles, OpenMode, StorageError};
use parking_lot::Mutex;

use super::batches;
use super::error::QuorumError;
use super::types::{LogId, SnapshotMeta, StoredMembership, epoch_of, log_id};
use crate::metadata::codec;

/// The end of a snapshot's name.
const SUFFIX: &str = ".checkpoint";
/// Behind that, for as long as the file is not whole.
const UNFINISHED: &str = ".tmp";
/// Records in one batch of a snapshot.
const RECORDS_PER_BATCH: usize = 1024;
/// Largest batch that is read from a snapshot.
const BATCH_BYTES_MAX: usize = 64 << 20;
/// The version that the header names: of how the file is made up, not of the records in it.
const VERSION: i16 = 0;
/// Kafka's numbers for the first and the last control record.
const HEADER: i16 = 3;
const FOOTER: i16 = 4;
/// Our number for what the snapshot covers.
const COVERS: i16 = 20_001;
const MEMBERSHIP: i16 = 20_000;

/// Folds committed batches into the records that say the same in fewer words.
pub trait Compactor: Send {
    /// Takes up the next batch; the first may be a snapshot.
    ///
    /// # Errors
    /// When it does not fit what came before.
    fn apply(&mut self, batch: &Committed) -> Result<(), String>;

    /// Records that make an empty image the one that all batches so far made.
    fn records(&self) -> Vec<Record>;
}

/// Makes a [`Compactor`] that has seen nothing yet.
pub type NewCompactor = Arc<dyn Fn() -> Box<dyn Compactor> + Send + Sync>;

/// What a snapshot covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Covers {
    /// The last entry.
    pub(super) last: LogId,
    /// The offset after it.
    pub(super) end: Offset,
    /// The members as of then.
    pub(super) membership: StoredMembership,
}

impl Covers {
    pub(super) fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: Some(self.last), last_membership: self.membership.clone() }
    }

    fn name(&self) -> String {
        let epoch = epoch_of(self.last.leader_id.term);
        format!("{:020}-{:010}{SUFFIX}", self.end.0, epoch.0)
    }
}

/// A whole snapshot, open for reading.
pub(crate) struct SnapshotFile {
    files: Arc<OpenFiles>,
    /// Another one before it is published.
    path: Mutex<PathBuf>,
    handle: Arc<dyn DiskFile>,
    size: u64,
    made: Millis,
    covers: Covers,
}

impl std::fmt::Debug for SnapshotFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotFile")
            .field("covers", &self.covers)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl SnapshotFile {
    pub(super) fn covers(&self) -> &Covers {
        &self.covers
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// When it was made, by the clock of whoever made it.
    pub(super) fn made(&self) -> Millis {
        self.made
    }

    /// Up to `max_bytes` from `position` on. Blocks.
    pub(super) fn chunk(&self, position: u64, max_bytes: usize) -> Result<Bytes, QuorumError> {
        let left = usize::try_from(self.size.saturating_sub(position)).unwrap_or(usize::MAX);
        let mut chunk = vec![0; left.min(max_bytes)];
        let read = self.handle.read_at(&mut chunk, position).map_err(QuorumError::format)?;
        chunk.truncate(read);
        Ok(chunk.into())
    }

    /// The records, as one batch that replaces what was there. Blocks.
    pub(super) fn read(&self) -> Result<Committed, QuorumError> {
        let mut whole = Committed {
            base: Offset(0),
            end: self.covers.end,
            epoch: epoch_of(self.covers.last.leader_id.term),
            snapshot: true,
            records: Vec::new(),
        };
        self.each_batch(|batch| {
            whole.records.extend(codec::decode(&batch)?.records);
            Ok(())
        })?;
        Ok(whole)
    }

    /// Calls `take` with every data batch, and checks that the file ends as it should.
    fn each_batch(&self, mut take: impl FnMut(Batch) -> Result<(), QuorumError>) -> Result<(), QuorumError> {
        let mut position = 0;
        let mut last_kind = None;
        while position < self.size {
            let batch = read_batch(&*self.handle, self.size, &mut position)?;
            if batch.header().attributes.is_control() {
                last_kind = Some(batches::read_control(&batch)?.0);
            } else {
                take(batch)?;
            }
        }
        if last_kind == Some(FOOTER) { Ok(()) } else { Err(self.torn("it ends without its footer")) }
    }

    fn torn(&self, what: &str) -> QuorumError {
        QuorumError::format(format!("{}: {what}", self.path.lock().display()))
    }

    /// Opens the file at `path` and reads what it covers. Blocks.
    pub(super) fn open(files: &Arc<OpenFiles>, path: &Path) -> Result<Self, QuorumError> {
        let handle = files.disk().open(path, OpenMode::Read).map_err(QuorumError::format)?;
        let size = handle.len().map_err(QuorumError::format)?;
        let mut position = 0;
        let first = read_batch(&*handle, size, &mut position)?;
        let made = first.header().max_timestamp;
        let header = control(&first, HEADER)?;
        StorageError::refuse_newer(path, header_version(header)?, VERSION)?;
        let covers = read_control(&*handle, size, &mut position, COVERS)?;
        let covers = RaftSnapshotRecord::decode(covers, 0).map_err(QuorumError::format)?;
        let members = read_control(&*handle, size, &mut position, MEMBERSHIP)?;
        let members = RaftMembershipRecord::decode(members, 0).map_err(QuorumError::format)?;
        let id = |term: i64, index: i64| Some(log_id(term.try_into().ok()?, index.try_into().ok()?));
        let last = id(covers.term, covers.index)
            .ok_or_else(|| QuorumError::format(format!("{}: it covers nothing", path.display())))?;
        let membership = StoredMembership::new(
            id(covers.membership_term, covers.membership_index),
            batches::read_membership(members)?,
        );
        let covers = Covers { last, end: Offset(covers.end_offset), membership };
        Ok(Self { files: Arc::clone(files), path: Mutex::new(path.to_owned()), handle, size, made, covers })
    }

    /// Reads all of it once, so that no torn or flipped byte is found later. Blocks.
    pub(super) fn verify(&self) -> Result<(), QuorumError> {
        self.each_batch(|_| Ok(()))
    }

    /// Gives the file its name, durably. Its bytes are durable already. Blocks.
    pub(super) fn publish(&self) -> Result<(), QuorumError> {
        let mut path = self.path.lock();
        let dir = parent(&path);
        let named = dir.join(self.covers.name());
        if *path == named {
            return Ok(());
        }
        let disk = self.files.disk();
        disk.rename(&path, &named)
            .and_then(|()| disk.sync_dir(&dir))
            .map_err(|error| self.files.fail(&named, &error))?;
        *path = named;
        Ok(())
    }

    /// Removes the file; whoever has it open goes on reading. Blocks.
    pub(super) fn remove(&self) -> Result<(), QuorumError> {
        self.files.disk().remove(&self.path.lock()).map_err(QuorumError::format)
    }

    /// Whether both are the same file.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.covers == other.covers
    }
}

/// Which form the snapshot is of that begins with this.
fn header_version(mut header: Bytes) -> Result<i16, QuorumError> {
    header.try_get_i16().map_err(QuorumError::format)
}

/// The records of a snapshot that another node sent as a whole, as one batch that replaces what was there.
///
/// # Errors
/// [`QuorumError::Format`] for bytes that are no snapshot, [`QuorumError::Record`] for a record in it that is not known.
pub(crate) fn read_whole(bytes: Bytes, end: Offset, epoch: LeaderEpoch) -> Result<Committed, QuorumError> {
    let mut whole = Committed { base: Offset(0), end, epoch, snapshot: true, records: Vec::new() };
    let mut last_kind = None;
    for batch in Batches::new(bytes) {
        let batch = batch.map_err(QuorumError::format)?;
        batch.check_crc().map_err(QuorumError::format)?;
        if batch.header().attributes.is_control() {
            let (kind, value) = batches::read_control(&batch)?;
            let version = if kind == HEADER { header_version(value)? } else { VERSION };
            if version > VERSION {
                return Err(Error::UnknownSnapshot { version }.into());
            }
            last_kind = Some(kind);
        } else {
            whole.records.extend(codec::decode(&batch)?.records);
        }
    }
    if last_kind == Some(FOOTER) {
        Ok(whole)
    } else {
        Err(QuorumError::format("a snapshot without its footer"))
    }
}

/// The newest snapshot in `dir`; older ones, which a crash left behind, are removed. Blocks.
pub(super) fn newest(files: &Arc<OpenFiles>, dir: &Path) -> Result<Option<SnapshotFile>, QuorumError> {
    let names = files.disk().list(dir).map_err(QuorumError::format)?.into_iter().map(|entry| entry.name);
    let mut names: Vec<String> = names.filter(|name| name.ends_with(SUFFIX)).collect();
    names.sort_unstable();
    let Some(newest) = names.pop() else { return Ok(None) };
    let file = SnapshotFile::open(files, &dir.join(newest))?;
    file.verify()?;
    for old in names {
        files.disk().remove(&dir.join(old)).map_err(QuorumError::format)?;
    }
    Ok(Some(file))
}

/// Writes a snapshot under its unfinished name and makes its bytes durable. Blocks.
pub(super) fn write(
    files: &Arc<OpenFiles>,
    dir: &Path,
    covers: &Covers,
    records: &[Record],
    now: Millis,
) -> Result<SnapshotFile, QuorumError> {
    let mut writer = SnapshotWriter::begin(files, dir, &covers.name())?;
    let mut offset = Offset(0);
    let mut put = |writer: &mut SnapshotWriter, batch: Bytes| {
        let mut placed = BytesMut::from(&batch[..]);
        let epoch = epoch_of(covers.last.leader_id.term);
        patch::set_offset_and_epoch(&mut placed, offset, epoch).map_err(QuorumError::format)?;
        offset = BatchHeader::peek(&placed).map_err(QuorumError::format)?.next_offset();
        writer.write(writer.written, &placed)
    };
    let header = SnapshotHeaderRecord { version: VERSION, ..SnapshotHeaderRecord::default() };
    put(&mut writer, batches::control(HEADER, &header, now)?)?;
    put(&mut writer, batches::control(COVERS, &covers_record(covers), now)?)?;
    let members = batches::membership_record(covers.membership.membership());
    put(&mut writer, batches::control(MEMBERSHIP, &members, now)?)?;
    for some in records.chunks(RECORDS_PER_BATCH) {
        put(&mut writer, codec::encode(some, now).map_err(QuorumError::format)?)?;
    }
    put(&mut writer, batches::control(FOOTER, &SnapshotFooterRecord::default(), now)?)?;
    writer.finish()
}

fn covers_record(covers: &Covers) -> RaftSnapshotRecord {
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let membership = covers.membership.log_id();
    RaftSnapshotRecord {
        index: number(covers.last.index),
        term: number(covers.last.leader_id.term),
        end_offset: covers.end.0,
        membership_index: membership.map_or(-1, |id| number(id.index)),
        membership_term: membership.map_or(-1, |id| number(id.leader_id.term)),
    }
}

/// A snapshot that is being written, or received in chunks.
pub(super) struct SnapshotWriter {
    files: Arc<OpenFiles>,
    path: PathBuf,
    handle: Arc<dyn DiskFile>,
    written: u64,
}

impl SnapshotWriter {
    /// Begins anew under the unfinished form of `name`. Blocks.
    pub(super) fn begin(files: &Arc<OpenFiles>, dir: &Path, name: &str) -> Result<Self, QuorumError> {
        let path = dir.join(format!("{name}{UNFINISHED}"));
        let handle = files.disk().open(&path, OpenMode::Replace).map_err(QuorumError::format)?;
        Ok(Self { files: Arc::clone(files), path, handle, written: 0 })
    }

    /// The name under which a snapshot is received.
    pub(super) fn received_name(end: Offset) -> String {
        format!("received-{:020}", end.0)
    }

    /// Bytes so far.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Writes the bytes that follow at `position`, which is where the last ones ended. Blocks.
    pub(super) fn write(&mut self, position: u64, bytes: &[u8]) -> Result<(), QuorumError> {
        if position != self.written {
            return Err(QuorumError::format("a chunk of a snapshot that does not follow the one before"));
        }
        self.handle.write_at(&[IoSlice::new(bytes)], position).map_err(QuorumError::format)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Makes the bytes durable and checks them. Blocks.
    pub(super) fn finish(self) -> Result<SnapshotFile, QuorumError> {
        self.handle.sync().map_err(|error| self.files.fail(&self.path, &error))?;
        let file = SnapshotFile::open(&self.files, &self.path)?;
        file.verify()?;
        Ok(file)
    }
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("")).to_owned()
}

fn read_control(file: &dyn DiskFile, size: u64, position: &mut u64, kind: i16) -> Result<Bytes, QuorumError> {
    control(&read_batch(file, size, position)?, kind)
}

fn control(batch: &Batch, kind: i16) -> Result<Bytes, QuorumError> {
    let (found, value) = batches::read_control(batch)?;
    if found == kind {
        Ok(value)
    } else {
        Err(QuorumError::format("a snapshot whose first batches are not its header"))
    }
}

/// The batch at `position`, its checksum checked.
fn read_batch(file: &dyn DiskFile, size: u64, position: &mut u64) -> Result<Batch, QuorumError> {
    let mut head = [0; HEADER_BYTES];
    let read = file.read_at(&mut head, *position).map_err(QuorumError::format)?;
    let header = BatchHeader::peek(head.get(..read).unwrap_or_default()).map_err(QuorumError::format)?;
    let bytes = header.size_bytes();
    if bytes > BATCH_BYTES_MAX || position.saturating_add(bytes as u64) > size {
        return Err(QuorumError::format("a snapshot that ends within a batch"));
    }
    let mut whole = vec![0; bytes];
    file.read_at(&mut whole, *position).map_err(QuorumError::format)?;
    let batch = Batch::parse(whole.into()).map_err(QuorumError::format)?;
    batch.check_crc().map_err(QuorumError::format)?;
    *position += bytes as u64;
    Ok(batch)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use millstream_machine::metadata::Record;
    use millstream_protocol::Endpoint;
    use millstream_protocol::messages::NoOpRecord;
    use millstream_storage::disk::{Fault, Op};
    use millstream_storage::{Disk, FaultyDisk, MemoryDisk};

    use super::*;
    use crate::metadata::quorum::types::MemberId;

    fn covers(end: i64) -> Covers {
        let members = BTreeMap::from([(MemberId::default(), Endpoint::new("a", 1))]);
        let membership = batches::first_membership(&members).unwrap();
        let membership = StoredMembership::new(Some(log_id(0, 0)), membership);
        Covers { last: log_id(2, 9), end: Offset(end), membership }
    }

    fn files() -> (FaultyDisk, Arc<OpenFiles>) {
        let disk = FaultyDisk::new(Arc::new(MemoryDisk::default()));
        disk.create_dir(Path::new("/q")).unwrap();
        (disk.clone(), OpenFiles::new(Arc::new(disk), 8))
    }

    #[test]
    fn a_snapshot_is_read_back_by_its_name_and_replaces_older_ones() {
        let (_disk, files) = files();
        let dir = Path::new("/q");
        let records = vec![Record::NoOp(NoOpRecord::default()); 3_000];
        for end in [40, 41] {
            write(&files, dir, &covers(end), &records, Millis(1)).unwrap().publish().unwrap();
        }
        let found = newest(&files, dir).unwrap().unwrap();
        assert_eq!(found.covers(), &covers(41));
        let whole = found.read().unwrap();
        assert_eq!(
            (whole.end, whole.epoch.0, whole.snapshot, whole.records.len()),
            (Offset(41), 2, true, 3_000)
        );
        let names: Vec<_> = files.disk().list(dir).unwrap().into_iter().map(|entry| entry.name).collect();
        assert_eq!(names, ["00000000000000000041-0000000002.checkpoint"]);
    }

    /// What a node without a place in the quorum does with it: it fetches parts, and reads them as a whole.
    #[test]
    fn a_snapshot_that_was_fetched_in_parts_says_the_same() {
        let (_disk, files) = files();
        let records = vec![Record::NoOp(NoOpRecord::default()); 3_000];
        let file = write(&files, Path::new("/q"), &covers(41), &records, Millis(1)).unwrap();
        let mut fetched = Vec::new();
        while (fetched.len() as u64) < file.size() {
            fetched.extend_from_slice(&file.chunk(fetched.len() as u64, 1_000).unwrap());
        }
        let (here, end) = (file.read().unwrap(), file.covers().end);
        let there = read_whole(fetched.clone().into(), end, here.epoch).unwrap();
        assert_eq!((there.end, there.epoch, there.snapshot), (here.end, here.epoch, true));
        assert_eq!(there.records, here.records);
        assert!(read_whole(fetched[..fetched.len() - 80].to_vec().into(), end, here.epoch).is_err(), "torn");
        let middle = fetched.len() / 2; // among records: a batch's checksum does not cover its own place
        fetched[middle] ^= 1;
        assert!(read_whole(fetched.into(), end, here.epoch).is_err(), "a flipped bit");
    }

    #[test]
    fn one_that_is_torn_or_has_a_flipped_bit_is_an_error() {
        let (disk, files) = files();
        let dir = Path::new("/q");
        disk.arm(Op::Write, UNFINISHED, 3, Fault::BitFlip);
        let records = [Record::NoOp(NoOpRecord::default())];
        assert!(write(&files, dir, &covers(4), &records, Millis(1)).is_err());
        let whole = write(&files, dir, &covers(4), &records, Millis(1)).unwrap();
        let mut cut = SnapshotWriter::begin(&files, dir, "short").unwrap();
        cut.write(0, &whole.chunk(0, usize::try_from(whole.size() - 80).unwrap()).unwrap()).unwrap();
        assert!(cut.finish().is_err());
    }
}
