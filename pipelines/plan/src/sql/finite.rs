//! Floats as PostgreSQL computes them: what is finite gives something finite, or an error.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, FieldRef, Float32Type, Float64Type, Schema};
use datafusion_common::{Result, exec_err};
use datafusion_expr::{ColumnarValue, Operator};
use datafusion_physical_expr::expressions::{BinaryExpr, CastExpr};
use datafusion_physical_expr::{PhysicalExpr, ScalarFunctionExpr};

/// A computation that fails where its operands are finite and its result is not.
#[derive(Debug, Eq)]
struct Finite {
    inner: Arc<dyn PhysicalExpr>,
}

/// The same computation, checked; none where it has no result that is a float.
pub(super) fn checked(
    part: &Arc<dyn PhysicalExpr>,
    schema: &Schema,
) -> Result<Option<Arc<dyn PhysicalExpr>>> {
    let computes = match part.downcast_ref::<BinaryExpr>() {
        Some(binary) => binary.op().is_numerical_operators(),
        None => part.is::<ScalarFunctionExpr>() || part.is::<CastExpr>(),
    };
    if !computes || !part.data_type(schema)?.is_floating() {
        return Ok(None);
    }
    for operand in part.children() {
        // Text may say that it is infinite.
        if !operand.data_type(schema)?.is_numeric() {
            return Ok(None);
        }
    }
    Ok(Some(Arc::new(Finite { inner: Arc::clone(part) })))
}

impl Finite {
    /// Fails at the first row that has a result which is not finite of operands that are.
    fn judge(&self, results: &ArrayRef, batch: &RecordBatch) -> Result<()> {
        let rows = infinite(results);
        if rows.is_empty() {
            return Ok(());
        }
        let operands: Vec<ArrayRef> = self
            .inner
            .children()
            .into_iter()
            .map(|operand| operand.evaluate(batch)?.into_array(results.len()))
            .collect::<Result<_>>()?;
        let given: Vec<Vec<usize>> = operands.iter().map(infinite).collect();
        let made = |row: &&usize| !given.iter().any(|rows| rows.binary_search(row).is_ok());
        if rows.iter().find(made).is_none() {
            return Ok(());
        }
        match self.inner.downcast_ref::<BinaryExpr>() {
            Some(binary) if *binary.op() == Operator::Divide => {
                exec_err!("division by zero, or the result is beyond the floats")
            }
            _ => exec_err!("the result is no finite number"),
        }
    }
}

/// The rows, in order, whose value is infinite or not a number.
fn infinite(values: &ArrayRef) -> Vec<usize> {
    let rows: Vec<usize> = match values.data_type() {
        DataType::Float64 => {
            let floats = values.as_primitive::<Float64Type>().values().iter().enumerate();
            floats.filter(|(_, value)| !value.is_finite()).map(|(row, _)| row).collect()
        }
        DataType::Float32 => {
            let floats = values.as_primitive::<Float32Type>().values().iter().enumerate();
            floats.filter(|(_, value)| !value.is_finite()).map(|(row, _)| row).collect()
        }
        _ => Vec::new(),
    };
    rows.into_iter().filter(|row| values.is_valid(*row)).collect()
}

impl PartialEq for Finite {
    fn eq(&self, other: &Self) -> bool {
        self.inner.eq(&other.inner)
    }
}

impl Hash for Finite {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.hash(state);
    }
}

impl fmt::Display for Finite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl PhysicalExpr for Finite {
    fn data_type(&self, schema: &Schema) -> Result<DataType> {
        self.inner.data_type(schema)
    }

    fn nullable(&self, schema: &Schema) -> Result<bool> {
        self.inner.nullable(schema)
    }

    fn return_field(&self, schema: &Schema) -> Result<FieldRef> {
        self.inner.return_field(schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let value = self.inner.evaluate(batch)?;
        match &value {
            ColumnarValue::Array(results) => self.judge(results, batch)?,
            ColumnarValue::Scalar(result) => {
                self.judge(&result.to_array_of_size(batch.num_rows())?, batch)?
            }
        }
        Ok(value)
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        self.inner.children()
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn PhysicalExpr>>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        let inner = Arc::clone(&self.inner).with_new_children(children)?;
        Ok(Arc::new(Self { inner }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt_sql(f)
    }
}
