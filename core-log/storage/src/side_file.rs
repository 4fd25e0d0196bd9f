//! [`SideFile`]: a few bytes beside a log that are replaced as a whole.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};

use crate::disk;
use crate::error::{Result, StorageError};
use crate::handle::OpenFiles;
use crate::log::Log;

/// A CRC32C of the bytes stands before them.
const CRC_BYTES: usize = 4;

/// A small file in a log's directory, such as a vote. After a crash it has either all of its old bytes or all of the new, and it is
/// never believed when its checksum is wrong. It is used without the log's lock.
#[derive(Clone, Debug)]
pub struct SideFile {
    files: Arc<OpenFiles>,
    path: PathBuf,
}

impl Log {
    /// The file called `name` beside this log, whether it exists or not. The name must not be one that segments have.
    #[must_use]
    pub fn side_file(&self, name: &str) -> SideFile {
        SideFile { files: Arc::clone(&self.files), path: self.dir.join(name) }
    }

    /// The disk and the open files that this log uses.
    #[must_use]
    pub fn files(&self) -> &Arc<OpenFiles> {
        &self.files
    }
}

impl SideFile {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its bytes; `None` when it was never written. Blocks.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] when the checksum is wrong, [`StorageError::Io`].
    pub fn read(&self) -> Result<Option<Bytes>> {
        let mut bytes = match disk::read_file(&**self.files.disk(), &self.path) {
            Ok(bytes) => Bytes::from(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StorageError::io(&self.path)(error)),
        };
        if bytes.len() < CRC_BYTES {
            return Err(StorageError::corrupt(&self.path, 0, "too short for its checksum"));
        }
        let crc = bytes.get_u32();
        if crc32c::crc32c(&bytes) != crc {
            return Err(StorageError::corrupt(&self.path, 0, "the checksum is wrong"));
        }
        Ok(Some(bytes))
    }

    /// Replaces its bytes; they are durable on return. Blocks.
    ///
    /// # Errors
    /// [`StorageError::Offline`]: after a failed write nobody knows which bytes the next start will find, so the log directory goes
    /// offline and the write is not tried again.
    pub fn write(&self, bytes: &[u8]) -> Result<()> {
        self.files.check_online()?;
        let mut framed = Vec::with_capacity(CRC_BYTES + bytes.len());
        framed.put_u32(crc32c::crc32c(bytes));
        framed.put_slice(bytes);
        disk::replace_file(&**self.files.disk(), &self.path, &framed)
            .map_err(|error| self.files.fail(&self.path, &error))
    }
}

#[cfg(test)]
mod tests {
    use millstream_record::{Millis, TopicId, TopicPartition};

    use super::*;
    use crate::disk::{Fault, Op};
    use crate::{FaultyDisk, LogConfig, LogDir, MemoryDisk};

    fn open() -> (FaultyDisk, LogDir, Log) {
        let disk = FaultyDisk::new(Arc::new(MemoryDisk::default()));
        let dir = LogDir::open(Arc::new(disk.clone()), Path::new("/data"), 8).unwrap();
        let at = TopicPartition::new("votes", 0);
        let (log, _) = dir.open_log(&at, TopicId::ZERO, LogConfig::default(), Millis(0)).unwrap();
        (disk, dir, log)
    }

    #[test]
    fn bytes_are_read_back_and_survive_a_reopened_log() {
        let (_disk, dir, log) = open();
        let file = log.side_file("quorum-vote");
        assert_eq!(file.read().unwrap(), None);
        file.write(b"").unwrap();
        assert_eq!(file.read().unwrap().unwrap(), "");
        file.write(b"term 7").unwrap();
        drop(log);
        let at = TopicPartition::new("votes", 0);
        let (log, _) = dir.open_log(&at, TopicId::ZERO, LogConfig::default(), Millis(0)).unwrap();
        assert_eq!(log.side_file("quorum-vote").read().unwrap().unwrap(), "term 7");
    }

    #[test]
    fn a_flipped_bit_is_an_error_and_never_an_answer() {
        let (disk, _dir, log) = open();
        let file = log.side_file("quorum-vote");
        disk.arm(Op::Write, "quorum-vote.tmp", 0, Fault::BitFlip);
        file.write(b"term 7").unwrap();
        assert!(matches!(file.read(), Err(StorageError::Corrupt { .. })));
    }

    #[test]
    fn a_failed_write_keeps_the_old_bytes_and_takes_the_directory_offline() {
        for op in [Op::Write, Op::Sync] {
            let (disk, _dir, log) = open();
            let file = log.side_file("quorum-vote");
            file.write(b"old").unwrap();
            disk.arm(op, "quorum-vote.tmp", 0, Fault::Error);
            assert!(file.write(b"new").unwrap_err().is_fatal(), "{op:?}");
            assert_eq!(file.read().unwrap().unwrap(), "old", "{op:?}");
            assert!(file.write(b"again").unwrap_err().is_fatal(), "a failed write is not tried again");
        }
    }
}
