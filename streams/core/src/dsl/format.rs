//! Records to typed rows and back.

use std::sync::Arc;

use millstream_record::Millis;

use super::Serde;
use crate::chunk::{Chunk, Columns, Header, Headers, Pairs};
use crate::error::Result;
use crate::topology::{BadRecord, Decoded, Deserializer, InputRecord, OutputRecord, Serializer};

type EventTime<K, V> = Arc<dyn Fn(&K, &V, Millis) -> Millis + Send + Sync>;

/// Decodes keys and values. A null where the type has none drops the record; a record without a timestamp is bad.
pub(crate) struct RowReader<K, V> {
    event_time: Option<EventTime<K, V>>,
}

impl<K: Serde, V: Serde> RowReader<K, V> {
    pub(crate) fn new() -> Self {
        Self { event_time: None }
    }

    /// For a topic of the topology itself. Its records were rows, and each has the time of its row: any time, also before 1970. So -1
    /// is one millisecond before 1970 there, and not Kafka's "no timestamp". (Brokers keep negative timestamps as they are.)
    pub(crate) fn internal() -> Self {
        Self::timed(Arc::new(|_, _, written| written))
    }

    pub(crate) fn timed(event_time: EventTime<K, V>) -> Self {
        Self { event_time: Some(event_time) }
    }

    fn time(&self, key: &K, value: &V, record: Millis) -> Result<Millis, String> {
        let at = self.event_time.as_ref().map_or(record, |event_time| event_time(key, value, record));
        if at.0 < 0 && self.event_time.is_none() {
            return Err(format!(
                "the record has no timestamp ({at}); use stream_at to take the time from the row"
            ));
        }
        Ok(at)
    }
}

impl<K: Serde, V: Serde> Deserializer for RowReader<K, V> {
    fn deserialize(&mut self, records: Vec<InputRecord>) -> Result<Decoded> {
        let mut rows = Pairs::with_capacity(records.len());
        let mut columns = Columns::with_capacity(records.len());
        let mut decoded = Decoded::default();
        let mut headers = HeaderColumn::default();
        for record in records {
            let row = K::decode_nullable(record.key.as_ref())
                .and_then(|key| Ok((key, V::decode_nullable(record.value.as_ref())?)));
            let (key, value) = match row {
                Ok((Some(key), Some(value))) => (key, value),
                Ok(_) => {
                    decoded.dropped += 1;
                    continue;
                }
                Err(error) => {
                    decoded.bad.push(BadRecord {
                        offset: record.offset,
                        timestamp: record.timestamp,
                        reason: error.to_string(),
                        value: record.value,
                    });
                    continue;
                }
            };
            match self.time(&key, &value, record.timestamp) {
                Ok(at) => columns.timestamps.push(at),
                Err(reason) => {
                    let (offset, timestamp, value) = (record.offset, record.timestamp, record.value);
                    decoded.bad.push(BadRecord { offset, timestamp, value, reason });
                    continue;
                }
            }
            columns.offsets.push(record.offset);
            headers.push(record.headers, rows.keys.len());
            rows.push(key, value);
        }
        columns.headers = headers.column;
        decoded.chunk = Some(columns.with_pairs(rows));
        Ok(decoded)
    }
}

/// Builds the header column only when a row has headers.
#[derive(Default)]
struct HeaderColumn {
    column: Option<Vec<Headers>>,
}

impl HeaderColumn {
    fn push(&mut self, headers: Vec<Header>, rows_before: usize) {
        if headers.is_empty() && self.column.is_none() {
            return;
        }
        let column = self.column.get_or_insert_with(|| vec![Headers::from([]); rows_before]);
        column.push(headers.into());
    }
}

/// Encodes keys and values.
pub(crate) struct RowWriter<K, V> {
    rows: std::marker::PhantomData<fn(K, V)>,
}

impl<K: Serde, V: Serde> RowWriter<K, V> {
    pub(crate) fn new() -> Self {
        Self { rows: std::marker::PhantomData }
    }
}

impl<K: Serde, V: Serde> Serializer for RowWriter<K, V> {
    fn serialize(&mut self, _topic: &Arc<str>, chunk: Chunk, records: &mut Vec<OutputRecord>) -> Result<()> {
        let (rows, columns) = chunk.into_pairs::<K, V>()?;
        records.reserve(rows.keys.len());
        for (row, (key, value)) in rows.keys.iter().zip(&rows.values).enumerate() {
            records.push(OutputRecord {
                key: key.to_bytes()?,
                partition_key: key.partition_key()?,
                value: value.to_bytes()?,
                timestamp: columns.timestamps[row],
                headers: columns.headers.as_ref().map_or_else(Vec::new, |column| column[row].to_vec()),
            });
        }
        Ok(())
    }
}
