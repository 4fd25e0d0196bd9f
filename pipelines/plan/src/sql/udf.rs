//! Functions that DataFusion has not, or has with other limits.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, PrimitiveArray};
use arrow::datatypes::{
    DataType, FieldRef, Float32Type, Float64Type, TimeUnit, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampSecondType,
};
use datafusion_common::{Result, ScalarValue, exec_err};
use datafusion_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

const SECONDS_A_DAY: i64 = 86_400;

/// What `date_trunc` may cut to.
pub(super) const UNITS: [&str; 10] =
    ["microsecond", "millisecond", "second", "minute", "hour", "day", "week", "month", "quarter", "year"];

/// Rounds a float to the nearest whole number, and to the even one of two that are as near: `CAST(x AS int)`.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct RoundToEven {
    signature: Signature,
}

impl Default for RoundToEven {
    fn default() -> Self {
        let types = vec![DataType::Float64, DataType::Float32];
        Self { signature: Signature::uniform(1, types, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for RoundToEven {
    fn name(&self) -> &'static str {
        "rint"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        Ok(arg_types.first().cloned().unwrap_or(DataType::Float64))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let Some(values) = arrays.first() else { return exec_err!("rint takes a number") };
        let rounded: ArrayRef = match values.data_type() {
            DataType::Float32 => {
                Arc::new(values.as_primitive::<Float32Type>().unary::<_, Float32Type>(f32::round_ties_even))
            }
            _ => Arc::new(values.as_primitive::<Float64Type>().unary::<_, Float64Type>(f64::round_ties_even)),
        };
        like(&args.args, rounded)
    }
}

/// Gives its argument back.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Keep {
    signature: Signature,
}

impl Default for Keep {
    fn default() -> Self {
        Self { signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Keep {
    fn name(&self) -> &'static str {
        "keep"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        Ok(arg_types.first().cloned().unwrap_or(DataType::Null))
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Ok(args.args.remove(0))
    }
}

/// A result of one row where the arguments are constants.
pub(super) fn like(args: &[ColumnarValue], result: ArrayRef) -> Result<ColumnarValue> {
    let constant = args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
    Ok(match constant {
        true => ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?),
        false => ColumnarValue::Array(result),
    })
}

/// `date_trunc` over all the years that a timestamp can hold: DataFusion's own goes by nanoseconds, which end in 2262.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct DateTrunc {
    inner: Arc<ScalarUDF>,
}

impl DateTrunc {
    /// Over DataFusion's own, which does what has nanoseconds or no date.
    pub(super) fn new(inner: Arc<ScalarUDF>) -> Self {
        Self { inner }
    }
}

impl ScalarUDFImpl for DateTrunc {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arg_types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let unit = match args.args.first() {
            Some(ColumnarValue::Scalar(unit)) => unit.try_as_str().flatten().map(str::to_ascii_lowercase),
            _ => None,
        };
        let unit = unit.filter(|unit| UNITS.contains(&unit.as_str()));
        let (Some(unit), Some(times)) = (unit, args.args.get(1)) else {
            return self.inner.invoke_with_args(args);
        };
        let DataType::Timestamp(precision, _) = times.data_type() else {
            return self.inner.invoke_with_args(args);
        };
        let array = times.to_array(1)?;
        let cut = match precision {
            TimeUnit::Second => truncate::<TimestampSecondType>(&array, &unit, 1)?,
            TimeUnit::Millisecond => truncate::<TimestampMillisecondType>(&array, &unit, 1_000)?,
            TimeUnit::Microsecond => truncate::<TimestampMicrosecondType>(&array, &unit, 1_000_000)?,
            TimeUnit::Nanosecond => return self.inner.invoke_with_args(args),
        };
        like(&args.args[1..], cut)
    }
}

/// Cuts timestamps that count `second` ticks a second. All zones here are UTC.
fn truncate<T: ArrowPrimitiveType<Native = i64>>(
    array: &ArrayRef,
    unit: &str,
    second: i64,
) -> Result<ArrayRef> {
    let times = array.as_primitive::<T>();
    let cut: PrimitiveArray<T> = times.try_unary(|time| match cut_one(time, unit, second) {
        Some(cut) => Ok(cut),
        None => exec_err!("there is no timestamp at the begin of this {unit}"),
    })?;
    Ok(Arc::new(cut.with_data_type(array.data_type().clone())))
}

/// None where the begin of the unit is before all timestamps.
fn cut_one(time: i64, unit: &str, second: i64) -> Option<i64> {
    let even = |ticks: i64| time.div_euclid(ticks.max(1)).checked_mul(ticks.max(1));
    let day = second * SECONDS_A_DAY;
    let days = time.div_euclid(day);
    let begin = match unit {
        "microsecond" => return even(second / 1_000_000),
        "millisecond" => return even(second / 1_000),
        "second" => return even(second),
        "minute" => return even(second * 60),
        "hour" => return even(second * 3_600),
        "day" => days,
        // Day 0 was a Thursday, and weeks begin on Monday.
        "week" => days - (days + 3).rem_euclid(7),
        _ => {
            let (year, month) = year_and_month(days);
            match unit {
                "month" => first_day(year, month),
                "quarter" => first_day(year, (month - 1) / 3 * 3 + 1),
                _ => first_day(year, 1),
            }
        }
    };
    begin.checked_mul(day)
}

/// The year and the month (1 to 12) that a day since 1970-01-01 is in. Years are counted from March, so that a leap day is the last.
fn year_and_month(days: i64) -> (i64, i64) {
    const ERA: i64 = 146_097; // days of 400 years
    let days = days + 719_468; // since 0000-03-01
    let (era, of_era) = (days.div_euclid(ERA), days.rem_euclid(ERA));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month)
}

/// The year, the month and the day of the month that a day since 1970-01-01 is.
pub(super) fn year_month_day(days: i64) -> (i64, i64, i64) {
    let (year, month) = year_and_month(days);
    (year, month, days - first_day(year, month) + 1)
}

/// The first day of a month, in days since 1970-01-01.
fn first_day(year: i64, month: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let from_march = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * from_march + 2) / 5;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where DataFusion's own works, both give the same; on whole seconds, around month ends of all kinds and before 1970.
    #[test]
    fn it_cuts_as_datafusion_does_where_that_can() {
        let inner = super::super::functions::functions().scalar.get("date_trunc").unwrap();
        let zone: Arc<str> = "+00:00".into();
        let times = (-2_500..2_500_i64).map(|at| at * 1_234_567_890_123 + 987_654);
        let times: Vec<i64> = times.chain([0, -1, 951_782_400_000_000, 951_868_799_999_999]).collect();
        let micros = PrimitiveArray::<TimestampMicrosecondType>::from(times.clone()).with_timezone(zone);
        let micros: ArrayRef = Arc::new(micros);
        let nanos = DataType::Timestamp(TimeUnit::Nanosecond, Some("+00:00".into()));
        for unit in UNITS {
            let ours = truncate::<TimestampMicrosecondType>(&micros, unit, 1_000_000).unwrap();
            let wide = arrow::compute::cast(&micros, &nanos).unwrap();
            let field: FieldRef = Arc::new(arrow::datatypes::Field::new("t", nanos.clone(), true));
            let args = ScalarFunctionArgs {
                args: vec![
                    ColumnarValue::Scalar(ScalarValue::Utf8(Some(unit.to_owned()))),
                    ColumnarValue::Array(wide),
                ],
                arg_fields: vec![Arc::clone(&field), Arc::clone(&field)],
                number_rows: times.len(),
                return_field: field,
                config_options: Arc::default(),
            };
            let theirs = inner.invoke_with_args(args).unwrap().into_array(times.len()).unwrap();
            assert_eq!(&arrow::compute::cast(&theirs, micros.data_type()).unwrap(), &ours, "{unit}");
        }
    }
}
