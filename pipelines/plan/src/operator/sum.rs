//! Sums that fail where they do not fit their type. DataFusion's wrap around.

use arrow::array::{ArrayRef, ArrowNativeTypeOp, ArrowNumericType, AsArray};
use arrow::compute::sum_checked;
use arrow::datatypes::{DataType, Decimal128Type, Int64Type, UInt64Type};
use datafusion_common::{Result, ScalarValue};
use datafusion_expr::Accumulator;
use datafusion_physical_expr::aggregate::AggregateFunctionExpr;

/// A sum that `aggregate` is; none where it is something else, or its type cannot overflow silently. Its state is that of
/// DataFusion's.
pub(super) fn checked_sum(aggregate: &AggregateFunctionExpr) -> Option<Box<dyn Accumulator>> {
    if aggregate.fun().name() != "sum" || aggregate.is_distinct() {
        return None;
    }
    let data_type = aggregate.field().data_type().clone();
    match data_type {
        DataType::Int64 => Some(Box::new(CheckedSum::<Int64Type>::new(data_type))),
        DataType::UInt64 => Some(Box::new(CheckedSum::<UInt64Type>::new(data_type))),
        DataType::Decimal128(..) => Some(Box::new(CheckedSum::<Decimal128Type>::new(data_type))),
        _ => None,
    }
}

#[derive(Debug)]
struct CheckedSum<T: ArrowNumericType> {
    sum: Option<T::Native>,
    data_type: DataType,
}

impl<T: ArrowNumericType> CheckedSum<T> {
    fn new(data_type: DataType) -> Self {
        Self { sum: None, data_type }
    }
}

impl<T: ArrowNumericType + std::fmt::Debug> Accumulator for CheckedSum<T> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        if let Some(more) = sum_checked(values[0].as_primitive::<T>())? {
            let sum = match self.sum {
                Some(sum) => sum.add_checked(more)?,
                None => more,
            };
            self.sum = Some(sum);
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.update_batch(states)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.evaluate()?])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        ScalarValue::new_primitive::<T>(self.sum, &self.data_type)
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }
}
