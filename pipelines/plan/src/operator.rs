//! What the stages of a [`crate::sql::Query`] become: operators of streams/core over Arrow chunks, with DataFusion's
//! expressions and accumulators inside.
//!
//! Time, windows, lateness, tables and stores are the kernels' (`millstream_streams_core::kernel`); what is here turns rows
//! into keys and results. Bytes are made in two frozen forms only: keys and accumulator states in connect's key encoding, rows as
//! JSON, so that changelogs outlive versions of Arrow and DataFusion and can be read by people.

mod aggregate;
mod average;
mod join;
mod records;
mod select;
mod sum;
mod table;

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use datafusion_common::DataFusionError;
use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_expr::ColumnarValue;
use datafusion_physical_expr::PhysicalExpr;
use datafusion_physical_expr::expressions::Column;
use millstream_connect_api::convert::{Converter, JsonConverter};
use millstream_streams_core::{Result, StreamsError};

pub use aggregate::AggregateFold;
pub use join::TableLookup;
pub use records::{RowReader, RowWriter, unique_names, with_bad_input};
pub use select::{NewTime, SelectRows, TakeColumns};
pub use table::KeyedRows;

/// Characters of a row that errors show at most.
const SHOWN: usize = 400;

/// The value of `expr` for each row.
fn evaluate(expr: &Arc<dyn PhysicalExpr>, rows: &RecordBatch) -> Result<ArrayRef> {
    value(expr, rows).map_err(|error| {
        let fails = |row: &RecordBatch| value(expr, row).is_err();
        let row = (0..rows.num_rows()).map(|at| rows.slice(at, 1)).find(fails);
        explain(&text(expr), &error, row.as_ref())
    })
}

fn value(expr: &Arc<dyn PhysicalExpr>, rows: &RecordBatch) -> datafusion_common::Result<ArrayRef> {
    let value: ColumnarValue = expr.evaluate(rows)?;
    value.into_array(rows.num_rows())
}

/// What could not be computed, for which row, and how to have it computed.
fn explain(what: &str, error: &DataFusionError, row: Option<&RecordBatch>) -> StreamsError {
    let found = error.find_root().strip_backtrace();
    let found = found.rsplit_once(" error: ").map_or(found.as_str(), |(_, reason)| reason);
    let help = match found {
        _ if found.contains("ivide by zero") || found.contains("ivision by zero") => {
            "divide by NULLIF(..., 0), which gives null then"
        }
        _ if found.contains("verflow") => "cast to a wider type before, as CAST(... AS DECIMAL(38, 0)) does",
        _ if found.contains("ast") => "use TRY_CAST, which gives null then",
        _ => "leave such rows out with WHERE in a step before, or guard it with CASE",
    };
    let row = row.and_then(|row| JsonConverter.encode(row).ok()?.pop()).map_or_else(String::new, |json| {
        let shown: String = String::from_utf8_lossy(&json).chars().take(SHOWN).collect();
        format!(" for the row {shown}")
    });
    StreamsError::user(format!("{what}{row}: {found}; {help}"))
}

/// An expression without the places of its columns among those that are read.
fn text(expr: &Arc<dyn PhysicalExpr>) -> String {
    let named = Arc::clone(expr).transform_up(|part| {
        if let Some(written) = crate::sql::as_written(&part) {
            return Ok(Transformed::yes(written));
        }
        let column = part.downcast_ref::<Column>().map(|column| Column::new(column.name(), 0));
        Ok(column.map_or(Transformed::no(part), |column| Transformed::yes(Arc::new(column) as _)))
    });
    named.map_or_else(|_| expr.to_string(), |named| named.data.to_string()).replace("@0", "")
}

/// The values of several expressions for each row.
fn evaluate_all<'a>(
    exprs: impl IntoIterator<Item = &'a Arc<dyn PhysicalExpr>>,
    rows: &RecordBatch,
) -> Result<Vec<ArrayRef>> {
    exprs.into_iter().map(|expr| evaluate(expr, rows)).collect()
}
