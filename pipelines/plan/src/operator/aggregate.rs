//! Groups and accumulators.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, UInt32Array, new_empty_array};
use arrow::compute::{cast, take, take_record_batch};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, SchemaRef, TimeUnit};
use bytes::Bytes;
use datafusion_common::ScalarValue;
use datafusion_expr::Accumulator;
use datafusion_physical_expr::aggregate::LoweredAggregate;
use millstream_connect_api::key;
use millstream_record::Millis;
use millstream_streams_core::chunk::Rows;
use millstream_streams_core::kernel::{Fold, Group, KeyColumn, Pick};
use millstream_streams_core::rule::Window;
use millstream_streams_core::{Chunk, Result, StreamsError};

use super::average::WideAverage;
use super::select::batch;
use super::sum::checked_sum;
use super::{evaluate, evaluate_all, explain, text};
use crate::sql::{Aggregate, GroupColumn};

/// Groups by the values of a row and folds it into one accumulator for each aggregate.
///
/// A key is the encoding of the group's values, in which null is a value, as in SQL. A saved state is the encoding of what the
/// accumulators say of themselves.
pub struct AggregateFold {
    groups: Vec<GroupColumn>,
    aggregates: Vec<LoweredAggregate>,
    schema: SchemaRef,
    /// Types of the values in a key.
    key_fields: Fields,
    /// Types of the values in a saved state, of all accumulators in order.
    state_fields: Fields,
    /// How many of them each accumulator has.
    state_widths: Vec<usize>,
}

impl AggregateFold {
    /// Folds as `aggregate` says.
    ///
    /// # Errors
    /// A sentence, when a group or a state is of a type that has no frozen encoding.
    pub fn new(aggregate: &Aggregate) -> std::result::Result<Self, String> {
        let values = aggregate.groups.iter().zip(aggregate.schema.fields());
        let key_fields: Fields = values
            .filter(|(group, _)| matches!(group, GroupColumn::Value(_)))
            .map(|(_, field)| Arc::clone(field))
            .collect();
        let mut state_fields = Vec::new();
        let mut state_widths = Vec::new();
        for lowered in &aggregate.aggregates {
            let fields = match WideAverage::of(&lowered.aggregate) {
                Some(average) => average.state_fields(),
                None => lowered.aggregate.state_fields().map_err(|error| error.strip_backtrace())?,
            };
            state_widths.push(fields.len());
            state_fields.extend(fields);
        }
        for (fields, what) in
            [(&key_fields, "GROUP BY"), (&Fields::from(state_fields.clone()), "an aggregate")]
        {
            if let Some(field) = fields.iter().find(|field| !key::is_key_type(field.data_type())) {
                let kind = millstream_connect_api::types::type_name(field.data_type());
                return Err(format!("{what} cannot be of type {kind}"));
            }
        }
        Ok(Self {
            groups: aggregate.groups.clone(),
            aggregates: aggregate.aggregates.clone(),
            schema: Arc::clone(&aggregate.schema),
            key_fields,
            state_fields: state_fields.into(),
            state_widths,
        })
    }

    fn group_values(&self, rows: &RecordBatch) -> Result<Vec<ArrayRef>> {
        let values = self.groups.iter().filter_map(|group| match group {
            GroupColumn::Value(expr) => Some(expr),
            GroupColumn::WindowStart | GroupColumn::WindowEnd => None,
        });
        evaluate_all(values, rows)
    }

    /// One aggregate as SQL has it.
    fn call(&self, at: usize) -> String {
        let lowered = &self.aggregates[at];
        let arguments: Vec<_> = lowered.aggregate.expressions().iter().map(text).collect();
        let filter = lowered.filter.as_ref().map(|filter| format!(" FILTER (WHERE {})", text(filter)));
        format!("{}({}){}", lowered.aggregate.fun().name(), arguments.join(", "), filter.unwrap_or_default())
    }

    /// The arguments of one aggregate for the rows in `order`.
    fn arguments(&self, at: usize, rows: &RecordBatch, order: &[Pick]) -> Result<Vec<ArrayRef>> {
        let lowered = &self.aggregates[at];
        let picked = UInt32Array::from_iter_values(order.iter().map(|pick| pick.row));
        if lowered.filter.is_some() && rows.num_columns() > 0 {
            // FILTER keeps rows out for which an argument may have no value.
            let rows = take_record_batch(rows, &picked).map_err(StreamsError::user)?;
            return evaluate_all(&lowered.aggregate.expressions(), &rows);
        }
        let values = evaluate_all(&lowered.aggregate.expressions(), rows)?;
        values.iter().map(|value| take(value, &picked, None).map_err(StreamsError::user)).collect()
    }

    /// The picks that the aggregate's FILTER lets pass, slots together, rows in order.
    fn order(&self, at: usize, rows: &RecordBatch, picks: &[Pick]) -> Result<Vec<Pick>> {
        let mut order = picks.to_vec();
        if let Some(filter) = &self.aggregates[at].filter {
            let verdict = evaluate(filter, rows)?;
            let verdict = verdict.as_boolean();
            order.retain(|pick| {
                let row = pick.row as usize;
                verdict.is_valid(row) && verdict.value(row)
            });
        }
        order.sort_by_key(|pick| pick.slot);
        Ok(order)
    }
}

impl Fold for AggregateFold {
    type State = Vec<Box<dyn Accumulator>>;

    fn layout(&self) -> Option<String> {
        let mut groups = Vec::new();
        let mut key_fields = self.key_fields.iter();
        for group in &self.groups {
            groups.push(match group {
                GroupColumn::Value(expr) => format!("{}{}", text(expr), typed(key_fields.next())),
                GroupColumn::WindowStart => "window_start".to_owned(),
                GroupColumn::WindowEnd => "window_end".to_owned(),
            });
        }
        let mut state_fields = self.state_fields.iter();
        let aggregates = self.state_widths.iter().enumerate().map(|(at, &width)| {
            let state: String = state_fields.by_ref().take(width).map(|field| typed(Some(field))).collect();
            self.call(at) + &state
        });
        let aggregates: Vec<_> = aggregates.collect();
        Some(format!("[{}] grouped by [{}]", aggregates.join(", "), groups.join(", ")))
    }

    fn keys(&mut self, chunk: &Chunk, keys: &mut KeyColumn) -> Result<()> {
        let values = self.group_values(chunk.batch()?)?;
        if values.is_empty() {
            (0..chunk.len()).for_each(|_| keys.push(&[]));
            return Ok(());
        }
        let encoded = key::encode(&values).map_err(StreamsError::user)?;
        encoded.iter().for_each(|key| keys.push(key));
        Ok(())
    }

    fn init(&mut self) -> Result<Self::State> {
        let make = |lowered: &LoweredAggregate| {
            if let Some(average) = WideAverage::of(&lowered.aggregate) {
                return Ok(Box::new(average) as Box<dyn Accumulator>);
            }
            match checked_sum(&lowered.aggregate) {
                Some(sum) => Ok(sum),
                None => lowered.aggregate.create_accumulator().map_err(StreamsError::user),
            }
        };
        self.aggregates.iter().map(make).collect()
    }

    fn load(&mut self, bytes: &Bytes) -> Result<Self::State> {
        let mut accumulators = self.init()?;
        let values =
            key::decode(&self.state_fields, std::slice::from_ref(bytes)).map_err(StreamsError::user)?;
        let mut rest = values.as_slice();
        for (accumulator, width) in accumulators.iter_mut().zip(&self.state_widths) {
            let (own, others) = rest.split_at(*width);
            accumulator.merge_batch(own).map_err(StreamsError::user)?;
            rest = others;
        }
        Ok(accumulators)
    }

    fn save(&mut self, state: &mut Self::State, bytes: &mut Vec<u8>) -> Result<()> {
        let mut values = Vec::with_capacity(self.state_fields.len());
        for accumulator in state {
            for value in accumulator.state().map_err(StreamsError::user)? {
                values.push(value.to_array().map_err(StreamsError::user)?);
            }
        }
        for encoded in key::encode(&values).map_err(StreamsError::user)? {
            bytes.extend_from_slice(&encoded);
        }
        Ok(())
    }

    fn fold(&mut self, states: &mut [Self::State], chunk: &Chunk, picks: &[Pick]) -> Result<()> {
        let rows = chunk.batch()?;
        for (at, _) in self.aggregates.iter().enumerate() {
            let order = self.order(at, rows, picks)?;
            let arguments = self.arguments(at, rows, &order)?;
            let mut start = 0;
            for run in order.chunk_by(|a, b| a.slot == b.slot) {
                let own: Vec<_> = arguments.iter().map(|values| values.slice(start, run.len())).collect();
                let accumulator = &mut states[run[0].slot as usize][at];
                accumulator.update_batch(&own).map_err(|error| explain(&self.call(at), &error, None))?;
                start += run.len();
            }
        }
        Ok(())
    }

    fn emit(&mut self, groups: Vec<Group<'_, Self::State>>) -> Result<Rows> {
        let count = groups.len();
        let keys: Vec<Bytes> = groups.iter().map(|group| Bytes::copy_from_slice(group.key)).collect();
        let windows: Vec<Option<Window>> = groups.iter().map(|group| group.window).collect();
        let mut values = match self.key_fields.is_empty() {
            true => Vec::new(),
            false => key::decode(&self.key_fields, &keys).map_err(StreamsError::user)?,
        }
        .into_iter();
        let mut columns = Vec::with_capacity(self.schema.fields().len());
        for (group, field) in self.groups.iter().zip(self.schema.fields()) {
            columns.push(match group {
                GroupColumn::Value(_) => values.next().expect("a key decodes to one column for each field"),
                GroupColumn::WindowStart => bounds(field, &windows, |window| window.start)?,
                GroupColumn::WindowEnd => bounds(field, &windows, |window| window.end)?,
            });
        }
        columns.extend(self.results(groups)?);
        Ok(Rows::Arrow(batch(&self.schema, columns, count)?))
    }
}

impl AggregateFold {
    /// One column for each aggregate, one row for each group.
    fn results(&self, groups: Vec<Group<'_, Vec<Box<dyn Accumulator>>>>) -> Result<Vec<ArrayRef>> {
        let mut results: Vec<Vec<ScalarValue>> =
            vec![Vec::with_capacity(groups.len()); self.aggregates.len()];
        for group in groups {
            for (accumulator, column) in group.state.iter_mut().zip(&mut results) {
                column.push(accumulator.evaluate().map_err(StreamsError::user)?);
            }
        }
        let fields = self.schema.fields().iter().skip(self.groups.len());
        let columns = results.into_iter().zip(fields).map(|(values, field)| match values.is_empty() {
            true => Ok(new_empty_array(field.data_type())),
            false => ScalarValue::iter_to_array(values).map_err(StreamsError::user),
        });
        columns.collect()
    }
}

fn typed(field: Option<&FieldRef>) -> String {
    field.map_or_else(String::new, |field| format!(": {}", field.data_type()))
}

/// A bound of each window in the type of its column.
fn bounds(field: &Field, windows: &[Option<Window>], bound: impl Fn(Window) -> Millis) -> Result<ArrayRef> {
    let millis: Int64Array = windows.iter().map(|window| window.map(|window| bound(window).0)).collect();
    let zone = match field.data_type() {
        DataType::Timestamp(_, zone) => zone.clone(),
        _ => None,
    };
    let millis =
        cast(&millis, &DataType::Timestamp(TimeUnit::Millisecond, zone)).map_err(StreamsError::user)?;
    cast(&millis, field.data_type()).map_err(StreamsError::user)
}
