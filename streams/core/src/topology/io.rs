//! Between records of a log and chunks.

use std::sync::Arc;

use bytes::Bytes;
use millstream_record::{Millis, Offset};

use crate::chunk::{Chunk, Header};
use crate::error::Result;

/// A record as it comes from a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputRecord {
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp.
    pub timestamp: Millis,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its value.
    pub value: Option<Bytes>,
    /// Its headers.
    pub headers: Vec<Header>,
}

/// A record as it goes to a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputRecord {
    /// Its key; it chooses the partition (murmur2, as Kafka's default) unless `partition_key` does.
    pub key: Option<Bytes>,
    /// Bytes that choose the partition instead of the key (of a windowed key only the key's own bytes do).
    pub partition_key: Option<Bytes>,
    /// Its value; none deletes in a compacted topic.
    pub value: Option<Bytes>,
    /// Its timestamp.
    pub timestamp: Millis,
    /// Its headers.
    pub headers: Vec<Header>,
}

/// Bookkeeping of one record that waits to be sent, in bytes.
const RECORD_OVERHEAD_BYTES: usize = 160;

impl OutputRecord {
    /// Memory that it takes, roughly.
    pub(crate) fn bytes(&self) -> usize {
        let header = |header: &Header| header.key.len() + header.value.as_ref().map_or(0, Bytes::len);
        let parts = [&self.key, &self.partition_key, &self.value];
        let parts = parts.into_iter().flatten().map(Bytes::len).sum::<usize>();
        RECORD_OVERHEAD_BYTES + parts + self.headers.iter().map(header).sum::<usize>()
    }
}

/// A record that could not become a row and was left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRecord {
    /// Offset of the record.
    pub offset: Offset,
    /// Its timestamp.
    pub timestamp: Millis,
    /// Its value.
    pub value: Option<Bytes>,
    /// What is wrong with it.
    pub reason: String,
}

/// What a deserializer made of a run of records.
#[derive(Debug, Default)]
pub struct Decoded {
    /// Rows in offset order; none when no record became a row.
    pub chunk: Option<Chunk>,
    /// Records left out because they are broken, in offset order: counted as bad, and treated as the source says.
    pub bad: Vec<BadRecord>,
    /// Number of records left out because the row type allows no null there: counted as dropped.
    pub dropped: u64,
}

/// Turns records of one partition into rows, with their event times: it is also the timestamp extractor. One instance serves
/// one partition, so it may keep what depends on order.
pub trait Deserializer: Send {
    /// Decodes `records` (at least one, in offset order). Rows keep the records' offsets.
    ///
    /// # Errors
    /// An error stops the task; a record that may be skipped goes to [`Decoded::bad`] instead.
    fn deserialize(&mut self, records: Vec<InputRecord>) -> Result<Decoded>;
}

/// Turns rows into records.
pub trait Serializer: Send {
    /// Appends one record for each row, in order. `topic` is the full name of the topic.
    ///
    /// # Errors
    /// A row that cannot be written; it stops the task.
    fn serialize(&mut self, topic: &Arc<str>, chunk: Chunk, records: &mut Vec<OutputRecord>) -> Result<()>;
}
