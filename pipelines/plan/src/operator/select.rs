//! Stateless rows: scan, filter, projection.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, SchemaRef, TimeUnit};
use millstream_record::Millis;
use millstream_streams_core::chunk::Rows;
use millstream_streams_core::{
    BEGINNING_OF_TIME, Chunk, Counter, Operator, OperatorContext, Result, StreamsError,
};

use super::{evaluate, evaluate_all};
use crate::sql::{Scan, ScanColumn, Select};

/// Takes columns of a relation, sets the rows' time, filters and computes: a scan, and the select right behind it.
pub struct SelectRows {
    scan: Option<Scan>,
    select: Option<Select>,
    new_time: NewTime,
    /// The highest time that was given.
    newest: Millis,
}

/// What the time that a scan gives to rows has to do with the time they had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewTime {
    /// It is the same.
    Same,
    /// It is a bound of the window that the row is the result of. Once event time behind the windows has come to an instant,
    /// bounds are no older than that instant and so many milliseconds.
    Bound(i64),
    /// Nothing that is known here. Where rows come over several ways their order is lost, and the highest time is that of all.
    Other,
}

impl SelectRows {
    /// Does what `scan` and then `select` say. `new_time` tells about the time that `scan` gives, if it gives one.
    pub fn new(scan: Option<Scan>, select: Option<Select>, new_time: NewTime) -> Self {
        Self { scan, select, new_time, newest: BEGINNING_OF_TIME }
    }

    fn given_time(&self) -> NewTime {
        match &self.scan {
            Some(Scan { time: Some(_), .. }) => self.new_time,
            _ => NewTime::Same,
        }
    }
}

impl Operator for SelectRows {
    fn on_chunk(&mut self, ctx: &mut OperatorContext<'_>, mut chunk: Chunk) -> Result<()> {
        if let Some(scan) = &self.scan {
            let dropped = take_time(scan, &mut chunk)?;
            ctx.count(Counter::Dropped, dropped);
            match self.given_time() {
                _ if !ctx.several_ways() => {}
                NewTime::Same => {}
                NewTime::Bound(_) => chunk.stream_times = None,
                NewTime::Other => {
                    let highest = |newest: &mut Millis, time: &Millis| {
                        *newest = (*newest).max(*time);
                        Some(*newest)
                    };
                    let times =
                        chunk.timestamps.iter().scan(&mut self.newest, |newest, time| highest(newest, time));
                    chunk.stream_times = Some(times.collect());
                }
            }
            let rows = take_columns(scan, chunk.batch()?)?;
            chunk.rows = Rows::Arrow(rows);
        }
        if let Some(select) = &self.select {
            keep(select, &mut chunk)?;
            if let Some(columns) = select.columns.as_ref().filter(|_| !chunk.is_empty()) {
                let values = evaluate_all(columns, chunk.batch()?)?;
                chunk.rows = Rows::Arrow(batch(&select.schema, values, chunk.len())?);
            }
        }
        ctx.forward(chunk);
        Ok(())
    }

    fn watermark(&mut self, watermark: Millis) -> Millis {
        match self.given_time() {
            NewTime::Same => watermark,
            NewTime::Bound(ms) => watermark.plus_ms(ms),
            NewTime::Other => self.newest,
        }
    }

    fn own_time(&self) -> Option<Millis> {
        (self.given_time() == NewTime::Other).then_some(self.newest)
    }

    fn restore_own_time(&mut self, time: Millis) {
        self.newest = time;
    }
}

/// Gives rows the instant in the time column; a row without one is in no window and is dropped.
fn take_time(scan: &Scan, chunk: &mut Chunk) -> Result<u64> {
    let Some(column) = scan.time else { return Ok(0) };
    let times = millis(chunk.batch()?.column(column))?;
    let before = chunk.len();
    if times.iter().any(Option::is_none) {
        let keep: Vec<bool> = times.iter().map(Option::is_some).collect();
        chunk.retain(&keep)?;
    }
    chunk.timestamps = times.into_iter().flatten().collect();
    Ok((before - chunk.len()) as u64)
}

fn take_columns(scan: &Scan, rows: &RecordBatch) -> Result<RecordBatch> {
    let columns = scan.columns.iter().zip(scan.schema.fields()).map(|(column, field)| match column {
        ScanColumn::Relation(at) => Arc::clone(rows.column(*at)),
        ScanColumn::WindowBound => placeholder(field.data_type(), rows.num_rows()),
    });
    batch(&scan.schema, columns.collect(), rows.num_rows())
}

/// Stands where a window's bound will be; nothing reads it.
fn placeholder(data_type: &DataType, rows: usize) -> ArrayRef {
    let zeros: ArrayRef = Arc::new(arrow::array::Int64Array::from_value(0, rows));
    cast(&zeros, data_type).unwrap_or_else(|_| new_null_array(data_type, rows))
}

/// Keeps the rows for which the filter is true: neither false nor null.
fn keep(select: &Select, chunk: &mut Chunk) -> Result<()> {
    let Some(filter) = &select.filter else { return Ok(()) };
    if chunk.is_empty() {
        return Ok(());
    }
    let verdict = evaluate(filter, chunk.batch()?)?;
    let verdict: &BooleanArray = verdict.as_boolean_opt().ok_or_else(|| {
        StreamsError::user(format!("a filter gave {} instead of a boolean", verdict.data_type()))
    })?;
    let keep: Vec<bool> = verdict.iter().map(|verdict| verdict == Some(true)).collect();
    chunk.retain(&keep)
}

/// Keeps some columns, by position.
pub struct TakeColumns {
    columns: Vec<usize>,
}

impl TakeColumns {
    /// Keeps `columns`.
    pub fn new(columns: Vec<usize>) -> Self {
        Self { columns }
    }
}

impl Operator for TakeColumns {
    fn on_chunk(&mut self, ctx: &mut OperatorContext<'_>, mut chunk: Chunk) -> Result<()> {
        let rows = chunk.batch()?.project(&self.columns).map_err(StreamsError::user)?;
        chunk.rows = Rows::Arrow(rows);
        ctx.forward(chunk);
        Ok(())
    }
}

/// A batch; the number of rows holds even when there is no column (`SELECT count(*)` uses none).
pub(super) fn batch(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options).map_err(StreamsError::user)
}

/// Timestamps of any unit in milliseconds, rounded towards the past.
pub(super) fn millis(column: &ArrayRef) -> Result<Vec<Option<Millis>>> {
    let DataType::Timestamp(unit, _) = column.data_type() else {
        return Err(StreamsError::user(format!("time is a timestamp, not {}", column.data_type())));
    };
    let to_millis: fn(i64) -> i64 = match unit {
        TimeUnit::Second => |value| value.saturating_mul(1_000),
        TimeUnit::Millisecond => |value| value,
        TimeUnit::Microsecond => |value| value.div_euclid(1_000),
        TimeUnit::Nanosecond => |value| value.div_euclid(1_000_000),
    };
    let values = cast(column, &DataType::Int64).map_err(StreamsError::user)?;
    let values = values.as_primitive::<Int64Type>();
    Ok(values.iter().map(|value| value.map(|value| Millis(to_millis(value)))).collect())
}
