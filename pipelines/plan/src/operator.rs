//! What the stages of a [`crate::sql::Query`] become: operators of streams/core over Arrow chunks, with DataFusion's
//! expressions and accumulators inside.
//!
//! Time, windows, lateness, tables and stores are the kernels' (`millstream_streams_core::kernel`); what is here turns rows
//! into keys and results. Bytes are made in two frozen forms only: keys and accumulator states in connect's key encoding, rows as
//! JSON, so that changelogs outlive versions of Arrow and DataFusion and can be read by people.

mod aggregate;
mod join;
mod records;
mod select;
mod table;

use arrow::array::{ArrayRef, RecordBatch};
use datafusion_expr::ColumnarValue;
use datafusion_physical_expr::PhysicalExpr;
use millstream_streams_core::{Result, StreamsError};

pub use aggregate::AggregateFold;
pub use join::TableLookup;
pub use records::{RowReader, RowWriter, unique_names};
pub use select::{SelectRows, TakeColumns};
pub use table::KeyedRows;

/// The value of `expr` for each row.
fn evaluate(expr: &dyn PhysicalExpr, rows: &RecordBatch) -> Result<ArrayRef> {
    let value: ColumnarValue = expr.evaluate(rows).map_err(StreamsError::user)?;
    value.into_array(rows.num_rows()).map_err(StreamsError::user)
}

/// The values of several expressions for each row.
fn evaluate_all<'a>(
    exprs: impl IntoIterator<Item = &'a std::sync::Arc<dyn PhysicalExpr>>,
    rows: &RecordBatch,
) -> Result<Vec<ArrayRef>> {
    exprs.into_iter().map(|expr| evaluate(expr.as_ref(), rows)).collect()
}
