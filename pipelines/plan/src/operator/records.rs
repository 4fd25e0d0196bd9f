//! Rows from records and back: one row is one record.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, UInt64Array, new_null_array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use bytes::Bytes;
use datafusion_physical_expr::PhysicalExpr;
use millstream_connect_api::convert::{Converter, JsonConverter};
use millstream_connect_api::{bad_record_columns, key};
use millstream_record::{Header, Millis, Offset};
use millstream_streams_core::chunk::Rows;
use millstream_streams_core::topology::BadRecord;
use millstream_streams_core::{
    BEGINNING_OF_TIME, Chunk, Decoded, Deserializer, InputRecord, OutputRecord, Result, Serializer,
    SourceSpec, StreamsError,
};

use super::evaluate_all;
use super::select::millis;
use crate::plan::{BadInput, Source};

/// What a record without a time has as its timestamp (Kafka's `NO_TIMESTAMP`).
const NO_TIMESTAMP: Millis = Millis(-1);
/// The header of a record, in a topic of the topology itself, whose timestamp is a time all the same: one millisecond before 1970.
const TIMED_HEADER: &str = "millstream.timed";
/// The column that tells which rows of a table delete their key.
const DELETED: &str = "__deleted";

/// Reads rows of one schema.
#[derive(Clone)]
pub struct RowReader {
    /// What is decoded: the columns that somebody uses.
    schema: SchemaRef,
    time: TimeOf,
    /// For a table: its key, by which a record without a value deletes.
    key: Option<Vec<usize>>,
}

/// Where the time of a row comes from.
#[derive(Clone, Copy)]
enum TimeOf {
    /// A column.
    Column(usize),
    /// The record: it was written by a step that knew.
    Record,
    /// Nowhere: the row was always there.
    Nothing,
}

impl RowReader {
    /// Rows of a stream, whose time is in the column `time`; without one they carry the beginning of time.
    #[must_use]
    pub fn stream(schema: SchemaRef, time: Option<usize>) -> Self {
        Self { schema, time: time.map_or(TimeOf::Nothing, TimeOf::Column), key: None }
    }

    /// Rows of a table with this key; a last column is added that says whether the row deletes its key.
    #[must_use]
    pub fn table(schema: SchemaRef, time: Option<usize>, key: Vec<usize>) -> Self {
        Self { key: Some(key), ..Self::stream(schema, time) }
    }

    /// Rows that a step wrote, with their time.
    #[must_use]
    pub fn written(schema: SchemaRef) -> Self {
        Self { schema, time: TimeOf::Record, key: None }
    }

    fn times(&self, rows: &RecordBatch, records: &[Millis]) -> Result<Vec<Millis>> {
        match self.time {
            TimeOf::Nothing => Ok(vec![BEGINNING_OF_TIME; rows.num_rows()]),
            TimeOf::Record => Ok(records.to_vec()),
            TimeOf::Column(column) => {
                let times = millis(rows.column(column))?;
                Ok(times.into_iter().map(|time| time.unwrap_or(BEGINNING_OF_TIME)).collect())
            }
        }
    }

    /// The timestamp of a record; of one that a step wrote without a time, the beginning of time.
    fn timestamp(&self, record: &InputRecord) -> Millis {
        let is_timed = || record.headers.iter().any(|header| &*header.key == TIMED_HEADER);
        match self.time {
            TimeOf::Record if record.timestamp == NO_TIMESTAMP && !is_timed() => BEGINNING_OF_TIME,
            TimeOf::Record | TimeOf::Column(_) | TimeOf::Nothing => record.timestamp,
        }
    }

    /// Puts the rows that delete between the others, in the order of offsets, and marks them.
    fn with_deleted(
        &self,
        rows: RecordBatch,
        kept: &mut Vec<Kept>,
        deleted: Vec<(Bytes, Kept)>,
    ) -> Result<RecordBatch> {
        let mut fields: Vec<_> =
            self.schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
        fields.push(Field::new(DELETED, DataType::Boolean, false));
        let schema = Arc::new(Schema::new(fields));
        let marked = |columns: Vec<ArrayRef>, rows: usize, mark: bool| {
            let mark: ArrayRef = Arc::new(BooleanArray::from(vec![mark; rows]));
            RecordBatch::try_new(Arc::clone(&schema), columns.into_iter().chain([mark]).collect())
                .map_err(StreamsError::user)
        };
        let live = marked(rows.columns().to_vec(), rows.num_rows(), false)?;
        if deleted.is_empty() {
            return Ok(live);
        }
        let (keys, places): (Vec<_>, Vec<_>) = deleted.into_iter().unzip();
        let gone = marked(self.deleted_columns(&keys)?, keys.len(), true)?;
        kept.extend(places);
        let mut order: Vec<usize> = (0..kept.len()).collect();
        order.sort_by_key(|&at| kept[at].offset);
        *kept = order.iter().map(|&at| kept[at]).collect();
        let all = concat_batches(&schema, [&live, &gone]).map_err(StreamsError::user)?;
        let order = UInt64Array::from_iter_values(order.into_iter().map(|at| at as u64));
        take_record_batch(&all, &order).map_err(StreamsError::user)
    }

    /// The columns of the key; none for a stream.
    fn key_fields(&self) -> Fields {
        let key = self.key.as_deref().unwrap_or_default();
        key.iter().map(|&at| Arc::clone(&self.schema.fields()[at])).collect()
    }

    fn deleted_columns(&self, keys: &[Bytes]) -> Result<Vec<ArrayRef>> {
        let key = self.key.as_deref().unwrap_or_default();
        let values = key::decode(&self.key_fields(), keys).map_err(StreamsError::user)?;
        let columns = self.schema.fields().iter().enumerate().map(|(at, field)| {
            match key.iter().position(|own| *own == at) {
                Some(position) => Arc::clone(&values[position]),
                None => new_null_array(field.data_type(), keys.len()),
            }
        });
        Ok(columns.collect())
    }
}

/// Where a row came from.
#[derive(Clone, Copy)]
struct Kept {
    offset: Offset,
    timestamp: Millis,
}

impl Kept {
    fn bad(self, value: Option<Bytes>, reason: String) -> BadRecord {
        BadRecord { offset: self.offset, timestamp: self.timestamp, value, reason }
    }
}

/// A record's key in our own encoding: ours, or what others write, which is text, a JSON value or a JSON object with the columns.
fn foreign_key(fields: &Fields, bytes: &Bytes) -> Result<Bytes, String> {
    if key::decode(fields, std::slice::from_ref(bytes)).is_ok() {
        return Ok(bytes.clone());
    }
    let names: Vec<_> = fields.iter().map(|field| field.name().as_str()).collect();
    let unknown = || {
        let columns = names.join(", ");
        format!("a record without a value deletes by its key, and this is no text or JSON with {columns}")
    };
    let text = std::str::from_utf8(bytes).map_err(|_| unknown())?;
    let object = match &**fields {
        _ if text.starts_with('{') => text.to_owned(),
        [field] if field.data_type() == &DataType::Utf8 && !text.starts_with('"') => {
            serde_json::json!({ field.name(): text }).to_string()
        }
        [field] => format!("{{{}:{text}}}", serde_json::Value::from(field.name().as_str())),
        _ => return Err(unknown()),
    };
    let decoded = JsonConverter.decode(&Arc::new(Schema::new(fields.clone())), &[object.into()]);
    let decoded = decoded.map_err(|error| error.to_string())?;
    if let Some((_, reason)) = decoded.bad.first() {
        return Err(format!("{}: {reason}", unknown()));
    }
    if decoded.rows.columns().iter().any(|column| column.is_null(0)) {
        return Err(unknown());
    }
    let keys = key::encode(decoded.rows.columns()).map_err(|error| error.to_string())?;
    keys.into_iter().next().ok_or_else(unknown)
}

impl Deserializer for RowReader {
    fn deserialize(&mut self, records: Vec<InputRecord>) -> Result<Decoded> {
        let mut decoded = Decoded::default();
        let (mut values, mut kept, mut deleted) =
            (Vec::<Bytes>::with_capacity(records.len()), Vec::new(), Vec::new());
        for record in records {
            let place = Kept { offset: record.offset, timestamp: self.timestamp(&record) };
            match (record.value, record.key) {
                (Some(value), _) => {
                    values.push(value);
                    kept.push(place);
                }
                (None, Some(key)) if self.key.is_some() => match foreign_key(&self.key_fields(), &key) {
                    Ok(key) => deleted.push((key, place)),
                    Err(reason) => decoded.bad.push(place.bad(Some(key), reason)),
                },
                (None, key) => {
                    let what = if self.key.is_some() { "neither key nor value" } else { "no value" };
                    decoded.bad.push(place.bad(key, format!("the record has {what}, so it is no row")));
                }
            }
        }
        let found = JsonConverter.decode(&self.schema, &values).map_err(StreamsError::user)?;
        let broken =
            |(at, reason): &(usize, String)| kept[*at].bad(Some(values[*at].clone()), reason.clone());
        decoded.bad.extend(found.bad.iter().map(broken));
        decoded.bad.sort_by_key(|bad| bad.offset);
        for (at, _) in found.bad.iter().rev() {
            kept.remove(*at);
        }
        let mut rows = found.rows;
        if self.key.is_some() {
            rows = self.with_deleted(rows, &mut kept, deleted)?;
        }
        if rows.num_rows() > 0 {
            let stamps: Vec<_> = kept.iter().map(|place| place.timestamp).collect();
            let times = self.times(&rows, &stamps)?;
            let offsets = kept.iter().map(|place| place.offset).collect();
            decoded.chunk = Some(Chunk::arrow(rows, times, offsets));
        }
        Ok(decoded)
    }
}

/// Writes rows as JSON.
#[derive(Clone)]
pub struct RowWriter {
    /// The columns by the names they are written under.
    schema: SchemaRef,
    /// What the record's key is made of; nothing gives it none.
    key: Vec<Arc<dyn PhysicalExpr>>,
    /// Whether [`RowReader::written`] reads it, so that each row must come back with its time.
    internal: bool,
}

impl RowWriter {
    /// Writes rows of `schema`, whose names must differ.
    #[must_use]
    pub fn new(schema: SchemaRef, key: Vec<Arc<dyn PhysicalExpr>>) -> Self {
        Self { schema, key, internal: false }
    }

    /// The same for a topic of the topology itself, which [`RowReader::written`] reads.
    #[must_use]
    pub fn internal(self) -> Self {
        Self { internal: true, ..self }
    }

    fn headers(&self, time: Millis) -> Vec<Header> {
        let is_taken_for_none = self.internal && time == NO_TIMESTAMP;
        is_taken_for_none.then(|| Header::new(TIMED_HEADER, Vec::new())).into_iter().collect()
    }
}

impl Serializer for RowWriter {
    fn serialize(&mut self, _topic: &Arc<str>, chunk: Chunk, records: &mut Vec<OutputRecord>) -> Result<()> {
        let rows = chunk.batch()?;
        let mut keys = match self.key.is_empty() {
            true => Vec::new(),
            false => key::encode(&evaluate_all(&self.key, rows)?).map_err(StreamsError::user)?,
        }
        .into_iter();
        let named = super::select::batch(&self.schema, rows.columns().to_vec(), rows.num_rows())?;
        let values = JsonConverter.encode(&named).map_err(StreamsError::user)?;
        records.extend(values.into_iter().zip(&chunk.timestamps).map(|(value, at)| OutputRecord {
            key: keys.next(),
            partition_key: None,
            value: Some(value),
            timestamp: if *at == BEGINNING_OF_TIME { NO_TIMESTAMP } else { *at },
            headers: self.headers(*at),
        }));
        Ok(())
    }
}

/// Reads `source` such that what cannot be decoded is treated as its `on_error` says: one that is kept leaves by
/// [`SourceSpec::BAD_PORT`], as a row of [`bad_record_schema`](millstream_connect_api::bad_record_schema).
pub fn with_bad_input(spec: SourceSpec, source: &Source) -> SourceSpec {
    let name = source.section.clone();
    match source.on_error {
        BadInput::Skip => spec.skip_bad(),
        BadInput::Fail => spec.forward_bad(move |topic, partition, bad| {
            let Some(first) = bad.first() else { return Err(StreamsError::user("no record is bad")) };
            let (offset, reason) = (first.offset, &first.reason);
            Err(StreamsError::user(format!(
                "{topic}-{partition} offset {offset}: {reason}; add on_error = \"skip\" or \"dlq:<sink>\" to [source.{name}] to go on without it"
            )))
        }),
        BadInput::Topic(_) => spec.forward_bad(move |topic, partition, bad| {
            let letters: Vec<_> = bad.iter().map(|record| dead_letter(topic, partition, record)).collect();
            Ok(Rows::Arrow(bad_record_columns(&name, &letters, |row| bad[row].timestamp)))
        }),
    }
}

fn dead_letter(topic: &str, partition: i32, record: &BadRecord) -> millstream_connect_api::BadRecord {
    millstream_connect_api::BadRecord {
        origin: format!("{topic}-{partition}"),
        line: u64::try_from(record.offset.0).ok(),
        reason: record.reason.clone(),
        raw: record.value.as_ref().map(|value| value.to_vec()).unwrap_or_default(),
    }
}

/// The same columns under names that differ: behind a join both sides may have a `name`.
#[must_use]
pub fn unique_names(schema: &Schema) -> SchemaRef {
    let mut taken: Vec<String> = Vec::new();
    let fields = schema.fields().iter().map(|field| {
        let mut name = field.name().clone();
        let mut number = 2;
        while taken.contains(&name) {
            name = format!("{}_{number}", field.name());
            number += 1;
        }
        taken.push(name.clone());
        field.as_ref().clone().with_name(name)
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;

    use super::*;

    #[test]
    fn rows_come_back_from_a_repartition_with_their_times() {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        let times = [i64::MIN, -86_400_000, -2, -1, 0, 1].map(Millis);
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..6));
        let rows = RecordBatch::try_new(Arc::clone(&schema), vec![column]).unwrap();
        let chunk = Chunk::arrow(rows, times.to_vec(), (0..6).map(Offset).collect());
        let mut written = Vec::new();
        let mut writer = RowWriter::new(Arc::clone(&schema), Vec::new()).internal();
        writer.serialize(&"topic".into(), chunk, &mut written).unwrap();
        let record = |(offset, record): (i64, OutputRecord)| {
            let OutputRecord { key, value, timestamp, headers, .. } = record;
            InputRecord { offset: Offset(offset), timestamp, key, value, headers }
        };
        let records: Vec<_> = (0..).zip(written).map(record).collect();
        assert_eq!(records.iter().map(|record| record.timestamp.0).min(), Some(-86_400_000), "no time is -1");
        let read = RowReader::written(schema).deserialize(records).unwrap().chunk.unwrap();
        assert_eq!(read.timestamps, times);
    }
}
