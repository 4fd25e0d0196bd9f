//! Reads a log file from one batch to the next and checks each: for recovery, replay and lookups.

use std::io;
use std::sync::Arc;

use millstream_record::Offset;

use crate::batch::{self, HEADER_BYTES, Header};
use crate::disk::DiskFile;

/// How much is read at once.
const CHUNK_BYTES: usize = 1 << 20;

/// What lies at a position of a log file.
pub(crate) enum Found<'a> {
    /// A whole batch whose CRC holds.
    Batch { position: u64, header: Header, bytes: &'a [u8] },
    /// Nothing: the file ends here, behind a batch.
    End,
    /// Something that is not the next batch.
    Bad { position: u64, what: &'static str },
}

/// Walks over the batches of a log file.
pub(crate) struct Scanner {
    file: Arc<dyn DiskFile>,
    position: u64,
    end: u64,
    /// No batch may begin below this offset: offsets only ascend.
    next_offset: Offset,
    /// From this offset on no offset may be missing.
    dense_from: Offset,
    buf: Vec<u8>,
    buf_at: u64,
}

impl Scanner {
    /// Walks from `position`, where a batch begins at or above offset `from`, to byte `end`.
    pub(crate) fn new(file: Arc<dyn DiskFile>, position: u64, end: u64, from: Offset) -> Self {
        Self {
            file,
            position,
            end,
            next_offset: from,
            dense_from: Offset(i64::MAX),
            buf: Vec::new(),
            buf_at: position,
        }
    }

    /// Takes an offset that is missing at or behind `offset` for damage. The walk must begin at the begin of a segment.
    pub(crate) fn dense_from(self, offset: Offset) -> Self {
        Self { dense_from: offset, ..self }
    }

    /// The offset behind the last batch that was found, at first the one given to [`Scanner::new`].
    pub(crate) fn next_offset(&self) -> Offset {
        self.next_offset
    }

    /// The position behind the last batch that was found.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// The next batch. After [`Found::Bad`] it stays there.
    pub(crate) fn next(&mut self) -> io::Result<Found<'_>> {
        let position = self.position;
        if position >= self.end {
            return Ok(Found::End);
        }
        if !self.fill(HEADER_BYTES)? {
            return Ok(Found::Bad { position, what: "cut off within a batch header" });
        }
        let header = match batch::header(self.at_position()) {
            Ok(header) => header,
            Err(what) => return Ok(Found::Bad { position, what }),
        };
        if header.base_offset < self.next_offset {
            return Ok(Found::Bad {
                position,
                what: "a batch whose base offset is below the end of the one before",
            });
        }
        if header.base_offset > self.next_offset && header.base_offset >= self.dense_from {
            return Ok(Found::Bad {
                position,
                what: "a batch that does not begin where the one before ends",
            });
        }
        if !self.fill(header.size_bytes())? {
            return Ok(Found::Bad { position, what: "a batch that is longer than the file" });
        }
        let from = (position - self.buf_at) as usize;
        let Some(bytes) = self.buf.get(from..from + header.size_bytes()) else {
            return Ok(Found::Bad { position, what: "a batch that is longer than the file" });
        };
        if !batch::crc_holds(&header, bytes) {
            return Ok(Found::Bad { position, what: "a batch whose CRC is wrong" });
        }
        self.position += header.size_bytes() as u64;
        self.next_offset = header.next_offset();
        Ok(Found::Batch { position, header, bytes })
    }

    /// Whether a good batch follows the bad one at the current position, going by the length that the bad one claims.
    pub(crate) fn good_batch_behind(&mut self) -> io::Result<bool> {
        if !self.fill(HEADER_BYTES)? {
            return Ok(false);
        }
        let Ok(bad) = batch::header(self.at_position()) else { return Ok(false) };
        let mut behind = Self::new(
            Arc::clone(&self.file),
            self.position + bad.size_bytes() as u64,
            self.end,
            self.next_offset,
        );
        Ok(matches!(behind.next()?, Found::Batch { .. }))
    }

    fn at_position(&self) -> &[u8] {
        self.buf.get((self.position - self.buf_at) as usize..).unwrap_or(&[])
    }

    /// Has `wanted` bytes from the position on in the buffer; false when the file ends before.
    fn fill(&mut self, wanted: usize) -> io::Result<bool> {
        if self.at_position().len() >= wanted {
            return Ok(true);
        }
        let rest = self.end - self.position;
        if rest < wanted as u64 {
            return Ok(false);
        }
        let have = (self.position - self.buf_at).min(self.buf.len() as u64) as usize;
        self.buf.drain(..have);
        self.buf_at = self.position;
        let kept = self.buf.len();
        let target = rest.min(wanted.max(CHUNK_BYTES) as u64) as usize;
        self.buf.resize(target, 0);
        let behind = self.buf.get_mut(kept..).unwrap_or_default();
        let read = self.file.read_at(behind, self.buf_at + kept as u64)?;
        self.buf.truncate(kept + read);
        Ok(self.buf.len() >= wanted)
    }
}
