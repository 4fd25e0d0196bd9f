//! Kafka's checkpoint files: a version, a count and that many lines of text.

use std::collections::BTreeMap;
use std::path::Path;

use millstream_record::{Offset, TopicPartition};

use crate::disk::{self, Disk};
use crate::error::{Result, StorageError};

const VERSION: i64 = 0;
/// What helps when an offset checkpoint cannot be read. A backup has an older one, which does as well.
const MEND: &str = "restore the file from a backup, or delete it: the next start then looks through the logs, and where their files are \
                    whole no record is lost, though records that were deleted on request may be seen again";

/// The text of a checkpoint file with `lines`.
pub(crate) fn to_text(lines: impl ExactSizeIterator<Item = String>) -> String {
    let mut text = format!("{VERSION}\n{}\n", lines.len());
    for line in lines {
        text.push_str(&line);
        text.push('\n');
    }
    text
}

/// Refuses the text of a checkpoint file that a newer build wrote.
///
/// # Errors
/// [`StorageError::NewerFormat`]
pub(crate) fn refuse_newer(path: &Path, text: &str) -> Result<()> {
    let version = text.lines().next().and_then(|line| line.parse::<i64>().ok());
    version.map_or(Ok(()), |version| StorageError::refuse_newer(path, version, VERSION))
}

/// The lines of a checkpoint file behind its version and count.
pub(crate) fn lines(text: &str) -> Result<Vec<&str>, String> {
    let mut lines = text.lines();
    let version = lines.next().unwrap_or_default();
    if version.parse() != Ok(VERSION) {
        return Err(format!("version `{version}` where `{VERSION}` was expected"));
    }
    let count: usize =
        lines.next().and_then(|line| line.parse().ok()).ok_or("no count in the second line")?;
    let lines: Vec<&str> = lines.collect();
    if lines.len() != count {
        return Err(format!("{} lines where the second line says {count}", lines.len()));
    }
    Ok(lines)
}

/// Offsets by partition, as in `recovery-point-offset-checkpoint`.
pub type Offsets = BTreeMap<TopicPartition, Offset>;

/// Reads an offset checkpoint; a missing file has no entries.
pub(crate) fn read_offsets(disk: &dyn Disk, path: &Path) -> Result<Offsets> {
    let bytes = match disk::read_file(disk, path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Offsets::new()),
        Err(error) => return Err(StorageError::io(path)(error)),
    };
    let text = String::from_utf8_lossy(&bytes);
    refuse_newer(path, &text)?;
    let bad =
        |what: String| StorageError::corrupt(path, 0, format!("not an offset checkpoint: {what}; {MEND}"));
    let mut offsets = Offsets::new();
    for line in lines(&text).map_err(bad)? {
        let mut words = line.split(' ');
        let entry = (|| {
            let partition = TopicPartition::new(words.next()?, words.next()?.parse().ok()?);
            Some((partition, Offset(words.next()?.parse().ok()?)))
        })();
        let (partition, offset) =
            entry.ok_or_else(|| bad(format!("`{line}` is not `topic partition offset`")))?;
        offsets.insert(partition, offset);
    }
    Ok(offsets)
}

/// Replaces an offset checkpoint, durably and in one step.
pub(crate) fn write_offsets(disk: &dyn Disk, path: &Path, offsets: &Offsets) -> Result<()> {
    let line = |(at, offset): (&TopicPartition, &Offset)| format!("{} {} {offset}", at.topic, at.partition);
    let text = to_text(offsets.iter().map(line));
    disk::replace_file(disk, path, text.as_bytes()).map_err(StorageError::io(path))
}
