//! Which file a file is: names change when logs rotate, so a file is known by its inode and by how it begins.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

/// Bytes at the beginning that are compared.
const PREFIX_BYTES: u64 = 1024;

/// Device, inode and time of birth of a file. An inode is used again once its file is gone; the time of birth, where the file system has one,
/// tells the two apart, and [`Prefix`] does where it has none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
    born_ns: Option<u128>,
}

impl FileId {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        let born = metadata.created().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        Self { device: metadata.dev(), inode: metadata.ino(), born_ns: born.map(|at| at.as_nanos()) }
    }

    /// The name of this file's source partition.
    pub(crate) fn key(&self) -> String {
        match self.born_ns {
            Some(born) => format!("{:x}:{:x}:{born:x}", self.device, self.inode),
            None => format!("{:x}:{:x}", self.device, self.inode),
        }
    }
}

/// How a file begins: a hash of its first bytes, as many as there were.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Prefix {
    /// Count of bytes hashed.
    pub(crate) length: u64,
    /// FNV-1a, 64 bits: stable for ever, and nobody attacks it here.
    pub(crate) hash: u64,
}

impl Default for Prefix {
    /// The prefix of a file of which nothing was read: every file begins so.
    fn default() -> Self {
        Self { length: 0, hash: fnv(&[]) }
    }
}

impl Prefix {
    /// The prefix of `file` as far as it has one, up to [`PREFIX_BYTES`].
    pub(crate) fn read(file: &File, length: u64) -> io::Result<Self> {
        let mut bytes = vec![0; length.min(PREFIX_BYTES) as usize];
        let mut filled = 0;
        while filled < bytes.len() {
            match file.read_at(&mut bytes[filled..], filled as u64)? {
                0 => break,
                count => filled += count,
            }
        }
        bytes.truncate(filled);
        Ok(Self { length: filled as u64, hash: fnv(&bytes) })
    }

    /// Whether `file` begins as this says.
    pub(crate) fn matches(&self, file: &File) -> io::Result<bool> {
        Ok(*self == Self::read(file, self.length)?)
    }

    /// Whether a longer prefix can be had by now.
    pub(crate) fn may_grow(&self) -> bool {
        self.length < PREFIX_BYTES
    }
}

fn fnv(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Where a file was read up to; the value of its source partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FilePosition {
    /// Path when it was last seen; rotation leaves the file near it.
    pub(crate) path: String,
    /// Bytes read, always at the beginning of a line, unless `in_long_line`.
    pub(crate) offset: u64,
    /// Lines read.
    pub(crate) lines: u64,
    /// The offset is inside of a line that was over the bound, whose rest is to be passed over.
    #[serde(default)]
    pub(crate) in_long_line: bool,
    /// How the file begins.
    pub(crate) prefix: Prefix,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_knows_a_file_that_grew_and_not_another_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, "hello").unwrap();
        let file = File::open(&path).unwrap();
        let prefix = Prefix::read(&file, 5).unwrap();
        std::fs::write(&path, "hello, world").unwrap();
        assert!(prefix.matches(&file).unwrap());
        std::fs::write(&path, "help").unwrap();
        assert!(!prefix.matches(&file).unwrap());
        assert_eq!(Prefix::read(&file, 0).unwrap(), Prefix { length: 0, hash: 0xcbf2_9ce4_8422_2325 });
        assert!(Prefix::default().matches(&file).unwrap(), "a file that was never read was not truncated");
    }

    /// Stored in topics: a change forgets where every file was.
    #[test]
    fn the_stored_form_is_frozen() {
        let position = FilePosition {
            path: "/a".into(),
            offset: 7,
            lines: 2,
            in_long_line: false,
            prefix: Prefix { length: 5, hash: fnv(b"hello") },
        };
        let text = r#"{"path":"/a","offset":7,"lines":2,"in_long_line":false,"prefix":{"length":5,"hash":11831194018420276491}}"#;
        assert_eq!(serde_json::to_string(&position).unwrap(), text);
        assert_eq!(serde_json::from_str::<FilePosition>(text).unwrap(), position);
    }
}
