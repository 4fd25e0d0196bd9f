//! A batch as its bytes, and a buffer as a run of batches.

use bytes::Bytes;

use crate::header::CRC_COVERS_FROM;
use crate::{BatchHeader, Compression, HEADER_BYTES, LENGTH_PREFIX_BYTES, RecordError, Records};

/// One record batch: its header, read, and its bytes, shared. Cloning copies no records.
#[derive(Clone, PartialEq, Eq)]
pub struct Batch {
    header: BatchHeader,
    bytes: Bytes,
}

impl Batch {
    /// The batch at the front of `bytes`; what follows it is left out.
    ///
    /// # Errors
    /// As [`BatchHeader::peek`], and [`RecordError::Truncated`] when the batch is longer than `bytes`.
    pub fn parse(bytes: Bytes) -> Result<Self, RecordError> {
        Self::parse_at(bytes, 0)
    }

    fn parse_at(mut bytes: Bytes, position: usize) -> Result<Self, RecordError> {
        let header = BatchHeader::peek_at(&bytes, position)?;
        let needed = header.size_bytes();
        if bytes.len() < needed {
            return Err(RecordError::Truncated { position, needed, left: bytes.len() });
        }
        bytes.truncate(needed);
        Ok(Self { header, bytes })
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The whole batch, header included.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The whole batch, header included.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// Compares the CRC with the bytes.
    ///
    /// # Errors
    /// [`RecordError::Crc`] when they differ.
    pub fn check_crc(&self) -> Result<(), RecordError> {
        let computed = crc32c::crc32c(self.bytes.get(CRC_COVERS_FROM..).unwrap_or_default());
        if computed == self.header.crc {
            return Ok(());
        }
        Err(RecordError::Crc { base_offset: self.header.base_offset.0, stored: self.header.crc, computed })
    }

    /// The records' bytes, compressed as they came.
    #[must_use]
    pub fn body(&self) -> Bytes {
        self.bytes.slice(HEADER_BYTES..)
    }

    /// The records' bytes, decompressed. An uncompressed batch shares its bytes.
    ///
    /// # Errors
    /// An unknown compression, compressed bytes that are not valid, or more than `limit_bytes` when decompressed.
    pub fn decompress(&self, limit_bytes: usize) -> Result<Bytes, RecordError> {
        match self.header.attributes.compression()? {
            Compression::None => Ok(self.body()),
            compression => {
                compression.decompress(self.bytes.get(HEADER_BYTES..).unwrap_or_default(), limit_bytes)
            }
        }
    }

    /// The records' bytes, decompressed into `buffer` (whatever it held) where they are compressed: for who looks at many
    /// batches, one after the other.
    ///
    /// # Errors
    /// As [`Batch::decompress`].
    pub fn decompress_into<'a>(
        &'a self,
        limit_bytes: usize,
        buffer: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], RecordError> {
        let body = self.bytes.get(HEADER_BYTES..).unwrap_or_default();
        match self.header.attributes.compression()? {
            Compression::None => Ok(body),
            compression => {
                compression.decompress_into(body, limit_bytes, buffer)?;
                Ok(buffer)
            }
        }
    }

    /// Walks the records of `body`, which [`Batch::decompress`] or [`Batch::decompress_into`] gave.
    #[must_use]
    pub fn records<'a>(&self, body: &'a [u8]) -> Records<'a> {
        Records::new(&self.header, body)
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").field("header", &self.header).field("bytes", &self.bytes.len()).finish()
    }
}

/// The batches in a buffer, one after the other. After an error it ends.
#[derive(Clone, Debug)]
pub struct Batches {
    rest: Bytes,
    position: usize,
    partial_allowed: bool,
    failed: bool,
}

impl Batches {
    /// The batches of `bytes`, which must end where a batch ends.
    #[must_use]
    pub fn new(bytes: Bytes) -> Self {
        Self { rest: bytes, position: 0, partial_allowed: false, failed: false }
    }

    /// The whole batches of `bytes`. A last one that is cut short ends the walk without an error, as a consumer needs it:
    /// a broker cuts a fetch at a byte limit. [`Batches::left_bytes`] tells how much of it there is.
    #[must_use]
    pub fn ignoring_partial(bytes: Bytes) -> Self {
        Self { partial_allowed: true, ..Self::new(bytes) }
    }

    /// Where the next batch begins in the buffer; after an error, where the batch at fault begins.
    #[must_use]
    pub fn position(&self) -> usize {
        self.position
    }

    /// Bytes from [`Batches::position`] to the end of the buffer.
    #[must_use]
    pub fn left_bytes(&self) -> usize {
        self.rest.len()
    }

    /// How many bytes the batch at [`Batches::position`] takes in all, when enough of it is there to tell.
    #[must_use]
    pub fn needed_bytes(&self) -> Option<usize> {
        let length = self.rest.get(8..LENGTH_PREFIX_BYTES)?;
        let length = i32::from_be_bytes(length.try_into().ok()?);
        usize::try_from(length).ok().map(|length| length + LENGTH_PREFIX_BYTES)
    }
}

impl Iterator for Batches {
    type Item = Result<Batch, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.rest.is_empty() {
            return None;
        }
        match Batch::parse_at(self.rest.clone(), self.position) {
            Ok(batch) => {
                let taken = batch.bytes.len();
                self.rest = self.rest.slice(taken..);
                self.position += taken;
                Some(Ok(batch))
            }
            Err(RecordError::Truncated { .. }) if self.partial_allowed => {
                self.failed = true;
                None
            }
            Err(error) => {
                self.failed = true;
                Some(Err(error))
            }
        }
    }
}
