//! Rows to records and back: the edge of the log.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int8Array, RecordBatch, new_null_array};
use arrow::compute::interleave_record_batch;
use arrow::datatypes::{Field, Fields, Schema, SchemaRef};
use bytes::Bytes;
use millstream_connect_api::convert::Converter;
use millstream_connect_api::{
    BadRecord, ConnectError, Operation, Result, SinkBatch, SourceBatch, TableSchema, key,
};
use millstream_record::{Millis, Offset};

use crate::log::{Fetched, NewRecord, Placement};

/// Header with the operation's letter.
const OPERATION_HEADER: &str = "op";
/// Header with the row's position in the source.
const POSITION_HEADER: &str = "pos";

/// The records of a source's batch. Rows without a key stay in order: all of one source partition go to one partition.
pub(crate) fn to_records(
    batch: &SourceBatch,
    table: &TableSchema,
    topic: &Arc<str>,
    converter: &dyn Converter,
) -> Result<Vec<NewRecord>> {
    let values = converter.encode(&batch.rows)?;
    let keys = if table.key.is_empty() { Vec::new() } else { key::encode_columns(&batch.rows, &table.key)? };
    let alike = Bytes::copy_from_slice(batch.partition.as_bytes());
    let system = &batch.system;
    let record = |(row, value): (usize, Bytes)| {
        let operation = system.operation.as_ref().and_then(|codes| Operation::from_code(codes.value(row)));
        let mut headers = Vec::new();
        if let Some(operation) = operation {
            headers.push((OPERATION_HEADER, Bytes::from_static(operation.letter().as_bytes())));
        }
        if let Some(positions) = &system.position {
            headers.push((POSITION_HEADER, Bytes::copy_from_slice(positions.value(row).as_bytes())));
        }
        NewRecord {
            topic: Arc::clone(topic),
            placement: if keys.is_empty() { Placement::Like(alike.clone()) } else { Placement::ByKey },
            key: keys.get(row).cloned(),
            value: (operation != Some(Operation::Delete)).then_some(value),
            timestamp: system
                .event_time
                .as_ref()
                .filter(|at| at.is_valid(row))
                .map(|at| Millis(at.value(row))),
            headers,
        }
    };
    Ok(values.into_iter().enumerate().map(record).collect())
}

/// The rows of fetched records, and those that are none.
pub(crate) fn from_records(
    fetched: Fetched,
    table: &TableSchema,
    converter: &dyn Converter,
) -> Result<(SinkBatch, Vec<BadRecord>)> {
    let Fetched { partition, offsets, keys, values } = fetched;
    let present: Vec<Bytes> = values.iter().flatten().cloned().collect();
    let decoded = converter.decode(&table.schema, &present)?;
    if decoded.bad.is_empty() && present.len() == values.len() {
        let operation =
            table.changelog.then(|| Int8Array::from(vec![Operation::Update as i8; offsets.len()]));
        return Ok((SinkBatch { partition, offsets, rows: decoded.rows, operation }, Vec::new()));
    }
    let bad_record = |offset: Offset, value: Option<&Bytes>, reason: &str| BadRecord {
        origin: partition.to_string(),
        line: u64::try_from(offset.0).ok(),
        reason: reason.to_owned(),
        raw: value.map(|value| value.to_vec()).unwrap_or_default(),
    };
    let mut mix = Mix::default();
    let mut bad = Vec::new();
    let mut reasons = decoded.bad.iter().peekable();
    let (mut at_present, mut good) = (0, 0);
    for ((offset, record_key), value) in offsets.iter().zip(&keys).zip(&values) {
        match (value, record_key) {
            (Some(value), _) => {
                match reasons.next_if(|(index, _)| *index == at_present) {
                    Some((_, reason)) => bad.push(bad_record(*offset, Some(value), reason)),
                    None => {
                        mix.push((0, good), *offset, Operation::Update);
                        good += 1;
                    }
                }
                at_present += 1;
            }
            (None, Some(record_key)) if table.changelog => {
                mix.push((1, mix.deleted.len()), *offset, Operation::Delete);
                mix.deleted.push(record_key.clone());
            }
            (None, _) => {
                bad.push(bad_record(*offset, None, "a null value in a table whose rows are only added"))
            }
        }
    }
    let rows = mix.rows(&decoded.rows, table)?;
    let operation = table.changelog.then(|| Int8Array::from(mix.operations));
    Ok((SinkBatch { partition, offsets: mix.offsets, rows, operation }, bad))
}

/// Good rows and deletes in the order of their records.
#[derive(Default)]
struct Mix {
    indices: Vec<(usize, usize)>,
    offsets: Vec<Offset>,
    operations: Vec<i8>,
    deleted: Vec<Bytes>,
}

impl Mix {
    fn push(&mut self, index: (usize, usize), offset: Offset, operation: Operation) {
        self.indices.push(index);
        self.offsets.push(offset);
        self.operations.push(operation as i8);
    }

    fn rows(&self, good: &RecordBatch, table: &TableSchema) -> Result<RecordBatch> {
        if self.deleted.is_empty() {
            return Ok(good.clone());
        }
        let failed = |error| ConnectError::fatal("joining rows and deletes", error);
        let schema = nullable(&table.schema);
        let good = RecordBatch::try_new(Arc::clone(&schema), good.columns().to_vec()).map_err(failed)?;
        let deleted = key_only_rows(&schema, table, &self.deleted)?;
        interleave_record_batch(&[&good, &deleted], &self.indices).map_err(failed)
    }
}

/// Rows of which only the key columns are set.
fn key_only_rows(schema: &SchemaRef, table: &TableSchema, keys: &[Bytes]) -> Result<RecordBatch> {
    let failed = |reason: String| ConnectError::fatal("reading deletes", reason);
    let fields = table
        .key
        .iter()
        .map(|name| schema.field_with_name(name).cloned().map_err(|error| failed(error.to_string())));
    let fields: Fields = fields.collect::<Result<Vec<Field>>>()?.into();
    let decoded = key::decode(&fields, keys)?;
    let column = |field: &Arc<Field>| -> ArrayRef {
        match table.key.iter().position(|name| name == field.name()) {
            Some(at) => Arc::clone(&decoded[at]),
            None => new_null_array(field.data_type(), keys.len()),
        }
    };
    let columns = schema.fields().iter().map(column).collect();
    RecordBatch::try_new(Arc::clone(schema), columns).map_err(|error| failed(error.to_string()))
}

fn nullable(schema: &SchemaRef) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}
