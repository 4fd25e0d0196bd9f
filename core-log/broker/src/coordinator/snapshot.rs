//! A coordinator's snapshot on disk: what bounds loading until the log is cleaned.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

use bytes::{Buf, BufMut, Bytes};
use millstream_record::Offset;
use millstream_storage::{Disk, OpenMode};

/// In the partition's directory, so that it goes when the partition does.
const FILE: &str = "coordinator.snapshot";
/// Format 1: magic, CRC-32C of what follows, offset, the machine's bytes.
const MAGIC: &[u8; 4] = b"MCS\x01";
const HEADER_BYTES: usize = 4 + 4 + 8;

/// The state that replaying the log up to `offset` gives.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(super) offset: Offset,
    pub(super) state: Bytes,
}

impl Snapshot {
    /// Replaces the snapshot of the partition in `dir`, durably and in one step. Everything below the offset must be durable
    /// already, else a power cut leaves a snapshot that is ahead of the log.
    pub(super) fn write(&self, disk: &dyn Disk, dir: &Path) -> io::Result<()> {
        let mut covered = Vec::with_capacity(8 + self.state.len());
        covered.put_i64(self.offset.0);
        covered.put_slice(&self.state);
        let mut head = Vec::with_capacity(8);
        head.put_slice(MAGIC);
        head.put_u32(crc32c::crc32c(&covered));
        let beside = dir.join(format!("{FILE}.tmp"));
        let file = disk.open(&beside, OpenMode::Replace)?;
        file.write_at(&[IoSlice::new(&head), IoSlice::new(&covered)], 0)?;
        file.sync()?;
        disk.rename(&beside, &path(dir))?;
        disk.sync_dir(dir)
    }

    /// The snapshot of the partition in `dir`; `None` without one, and for one that is damaged: the log has it all.
    pub(super) fn read(disk: &dyn Disk, dir: &Path) -> io::Result<Option<Self>> {
        let file = match disk.open(&path(dir), OpenMode::Read) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = vec![0; usize::try_from(file.len()?).map_err(io::Error::other)?];
        let read = file.read_at(&mut bytes, 0)?;
        bytes.truncate(read);
        let snapshot = Self::decode(Bytes::from(bytes));
        if snapshot.is_none() {
            tracing::warn!(path = %path(dir).display(), "a damaged snapshot is ignored; the log is replayed instead");
        }
        Ok(snapshot)
    }

    /// Removes the snapshot of the partition in `dir`, durably, if it holds anything at or behind `end`, where the log is going to be
    /// cut: read back on the next leader's records it would bring up again what they do not have. One that cannot be read goes, too.
    pub(crate) fn cut(disk: &dyn Disk, dir: &Path, end: Offset) -> io::Result<()> {
        if Self::read(disk, dir)?.is_some_and(|snapshot| snapshot.offset <= end) {
            return Ok(());
        }
        match disk.remove(&path(dir)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.and_then(|()| disk.sync_dir(dir)),
        }
    }

    fn decode(mut bytes: Bytes) -> Option<Self> {
        if bytes.len() < HEADER_BYTES || bytes.split_to(4) != MAGIC[..] {
            return None;
        }
        let crc = bytes.get_u32();
        (crc32c::crc32c(&bytes) == crc).then(|| Self { offset: Offset(bytes.get_i64()), state: bytes })
    }
}

fn path(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

#[cfg(test)]
mod tests {
    use millstream_storage::MemoryDisk;

    use super::*;

    #[test]
    fn a_snapshot_goes_when_its_log_is_cut_below_it() {
        let disk = MemoryDisk::new();
        let dir = Path::new("/p");
        disk.create_dir(dir).unwrap();
        Snapshot::cut(&disk, dir, Offset(1)).unwrap();
        let snapshot = Snapshot { offset: Offset(42), state: Bytes::from_static(b"state") };
        snapshot.write(&disk, dir).unwrap();
        Snapshot::cut(&disk, dir, Offset(42)).unwrap();
        assert_eq!(Snapshot::read(&disk, dir).unwrap(), Some(snapshot));
        Snapshot::cut(&disk, dir, Offset(41)).unwrap();
        assert_eq!(Snapshot::read(&disk, dir).unwrap(), None);
    }

    #[test]
    fn a_snapshot_is_read_back_whole_or_not_at_all() {
        let disk = MemoryDisk::new();
        let dir = Path::new("/p");
        disk.create_dir(dir).unwrap();
        assert_eq!(Snapshot::read(&disk, dir).unwrap(), None);
        for state in ["", "state"] {
            let snapshot = Snapshot { offset: Offset(42), state: Bytes::from_static(state.as_bytes()) };
            snapshot.write(&disk, dir).unwrap();
            assert_eq!(Snapshot::read(&disk, dir).unwrap(), Some(snapshot));
        }
        for (end, stays) in [(43, true), (42, true), (41, false), (0, false)] {
            Snapshot { offset: Offset(42), state: Bytes::new() }.write(&disk, dir).unwrap();
            Snapshot::cut(&disk, dir, Offset(end)).unwrap();
            assert_eq!(Snapshot::read(&disk, dir).unwrap().is_some(), stays, "cut at {end}");
            Snapshot::cut(&disk, dir, Offset(end)).unwrap();
        }
        Snapshot { offset: Offset(42), state: Bytes::from_static(b"state") }.write(&disk, dir).unwrap();
        let file = disk.open(&path(dir), OpenMode::Write).unwrap();
        for cut in [20, 15, 3, 0] {
            file.truncate(cut).unwrap();
            assert_eq!(Snapshot::read(&disk, dir).unwrap(), None, "cut at {cut}");
        }
    }
}
