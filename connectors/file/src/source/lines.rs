//! Bytes of a file, cut into whole lines.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use bytes::Bytes;

/// Most lines in one chunk.
const MAX_LINES: usize = 65_536;

/// Whole lines from one place of a file.
pub(super) struct Chunk {
    /// The bytes.
    pub(super) bytes: Bytes,
    /// Each line without its `\n` or `\r\n`.
    pub(super) lines: Vec<Range<usize>>,
    /// Where each line ends in `bytes`, with its terminator.
    pub(super) ends: Vec<usize>,
    /// The file ended here when it was read.
    pub(super) at_end: bool,
    /// What follows the last whole line, and how long it is.
    pub(super) rest: usize,
}

impl Chunk {
    /// Reads up to `bytes` bytes of `file` from `offset`. A last line without a terminator counts when `last_line_counts`.
    pub(super) fn read(file: &File, offset: u64, bytes: usize, last_line_counts: bool) -> io::Result<Self> {
        let mut buffer = vec![0; bytes];
        let mut filled = 0;
        let mut at_end = false;
        while filled < bytes {
            match file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => {
                    at_end = true;
                    break;
                }
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        buffer.truncate(filled);
        Ok(Self::cut(Bytes::from(buffer), at_end, last_line_counts))
    }

    fn cut(bytes: Bytes, at_end: bool, last_line_counts: bool) -> Self {
        let (mut lines, mut ends) = (Vec::new(), Vec::new());
        let mut from = 0;
        for (at, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n') {
            let returned = at > from && bytes.get(at - 1) == Some(&b'\r');
            lines.push(from..at - usize::from(returned));
            ends.push(at + 1);
            from = at + 1;
            if lines.len() == MAX_LINES {
                break;
            }
        }
        let mut rest = bytes.len() - from;
        let full = lines.len() == MAX_LINES;
        if at_end && !full && last_line_counts && rest > 0 {
            lines.push(from..bytes.len());
            ends.push(bytes.len());
            rest = 0;
        }
        Self { at_end: at_end && !full, bytes, lines, ends, rest }
    }

    /// The bytes of a line.
    pub(super) fn line(&self, index: usize) -> &[u8] {
        self.lines.get(index).and_then(|range| self.bytes.get(range.clone())).unwrap_or_default()
    }

    /// The lines as slices that share the chunk's memory.
    pub(super) fn shared(&self) -> Vec<Bytes> {
        self.lines.iter().map(|range| self.bytes.slice(range.clone())).collect()
    }
}

/// Looks for the end of a line that is over the bound, in steps of `step` bytes: how many bytes there are up to and with its
/// terminator, or up to the end of the file, and whether the terminator was found.
pub(super) fn find_line_end(file: &File, offset: u64, step: usize) -> io::Result<(u64, bool)> {
    let mut buffer = vec![0; step];
    let mut passed = 0;
    loop {
        let count = file.read_at(&mut buffer, offset + passed)?;
        if count == 0 {
            return Ok((passed, false));
        }
        let read = buffer.get(..count).unwrap_or_default();
        if let Some(newline) = read.iter().position(|byte| *byte == b'\n') {
            return Ok((passed + newline as u64 + 1, true));
        }
        passed += count as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts() {
        let check = |text: &'static str, at_end, counts, expected: &[&str], rest| {
            let chunk = Chunk::cut(Bytes::from_static(text.as_bytes()), at_end, counts);
            let lines: Vec<_> =
                (0..chunk.lines.len()).map(|at| std::str::from_utf8(chunk.line(at)).unwrap()).collect();
            assert_eq!((&lines[..], chunk.rest), (expected, rest), "{text:?}");
        };
        check("a\nb\r\n\nc", true, false, &["a", "b", ""], 1);
        check("a\nb\r\n\nc", true, true, &["a", "b", "", "c"], 0);
        check("a\nb", false, true, &["a"], 1);
        check("", true, true, &[], 0);
        check("\r\n\n", true, true, &["", ""], 0);
    }
}
