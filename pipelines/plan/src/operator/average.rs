//! Averages of decimals of any width. DataFusion sums wide ones in 76 digits, a type that no state can be kept in.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowNativeTypeOp, AsArray};
use arrow::compute::sum_checked;
use arrow::datatypes::{DataType, Decimal128Type, Field, FieldRef, UInt64Type, i256};
use datafusion_common::{Result, ScalarValue, exec_err};
use datafusion_expr::Accumulator;
use datafusion_physical_expr::aggregate::AggregateFunctionExpr;

/// Digits of the widest decimal that can be kept.
const MAX_DIGITS: u8 = 38;

/// An average whose sum DataFusion would keep in more digits than there is room for.
#[derive(Debug)]
pub(super) struct WideAverage {
    count: u64,
    sum: Option<i128>,
    scale: i8,
    /// Precision and scale of the result.
    result: (u8, i8),
}

impl WideAverage {
    /// For an `aggregate` that is one.
    pub(super) fn of(aggregate: &AggregateFunctionExpr) -> Option<Self> {
        if aggregate.fun().name() != "avg" || aggregate.is_distinct() {
            return None;
        }
        let fields = aggregate.state_fields().ok()?;
        let [_, sum] = fields.as_slice() else { return None };
        match (sum.data_type(), aggregate.field().data_type()) {
            (DataType::Decimal256(_, scale), DataType::Decimal128(precision, result_scale)) => {
                Some(Self { count: 0, sum: None, scale: *scale, result: (*precision, *result_scale) })
            }
            _ => None,
        }
    }

    /// What is kept of it: that of a narrow one.
    pub(super) fn state_fields(&self) -> Vec<FieldRef> {
        let sum = DataType::Decimal128(MAX_DIGITS, self.scale);
        vec![Arc::new(Field::new("count", DataType::UInt64, true)), Arc::new(Field::new("sum", sum, true))]
    }

    fn add(&mut self, values: &ArrayRef) -> Result<()> {
        if let Some(more) = sum_checked(values.as_primitive::<Decimal128Type>())? {
            self.sum = Some(match self.sum {
                Some(sum) => sum.add_checked(more)?,
                None => more,
            });
        }
        Ok(())
    }

    /// The sum divided by the count, rounded away from zero.
    fn average(&self, sum: i128) -> Option<i128> {
        let factor = 10_i128.checked_pow(u32::try_from(self.result.1.checked_sub(self.scale)?).ok()?)?;
        let count = i256::from_i128(i128::from(self.count));
        let scaled = i256::from_i128(sum).checked_mul(i256::from_i128(factor))?;
        let half = count.checked_div(i256::from_i128(2))?;
        let half = if sum < 0 { half.checked_neg()? } else { half };
        let rounded = scaled.checked_add(half)?.checked_div(count)?.to_i128()?;
        let limit = 10_u128.checked_pow(u32::from(self.result.0))?;
        (rounded.unsigned_abs() < limit).then_some(rounded)
    }
}

impl Accumulator for WideAverage {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let Some(values) = values.first() else { return Ok(()) };
        self.count += (values.len() - values.null_count()) as u64;
        self.add(values)
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let [counts, sums] = states else { return exec_err!("an average is kept as a count and a sum") };
        self.count += counts.as_primitive::<UInt64Type>().iter().flatten().sum::<u64>();
        self.add(sums)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let sum = ScalarValue::Decimal128(self.sum, MAX_DIGITS, self.scale);
        Ok(vec![ScalarValue::UInt64(Some(self.count)), sum])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let (precision, scale) = self.result;
        let average = match self.sum {
            Some(sum) => match self.average(sum) {
                Some(average) => Some(average),
                None => {
                    return exec_err!(
                        "Overflow: the average has more digits than decimal({precision},{scale})"
                    );
                }
            },
            None => None,
        };
        Ok(ScalarValue::Decimal128(average, precision, scale))
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }
}
