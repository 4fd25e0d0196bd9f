//! Values as PostgreSQL writes them in text, and text that it reads as a timestamp.

use std::fmt::Write;
use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, AsArray, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float32Type, Float64Type, TimeUnit, TimestampMicrosecondType};
use datafusion_common::{DFSchema, Result, exec_err};
use datafusion_expr::expr::ScalarFunction;
use datafusion_expr::{
    ColumnarValue, Expr, ExprSchemable, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::udf::{like, year_month_day};

const MICROS_A_SECOND: i64 = 1_000_000;
const SECONDS_A_DAY: i64 = 86_400;
/// Powers of ten below which floats are written without an exponent.
const DOUBLE_PLAIN: i32 = 15;
const REAL_PLAIN: i32 = 6;

/// A value as text, where DataFusion writes it otherwise than PostgreSQL.
pub(super) fn text(expr: Expr, of: &DataType) -> Expr {
    match of {
        DataType::Float32 | DataType::Float64 | DataType::Timestamp(..) => call(TextFunction::Write, expr),
        _ => expr,
    }
}

/// Arguments of `concat`, where a boolean is `t` or `f`.
pub(super) fn concatenated(args: Vec<Expr>, schema: &DFSchema) -> Result<Vec<Expr>> {
    let written = |arg: Expr| {
        let of = arg.get_type(schema)?;
        Ok(if of == DataType::Boolean { call(TextFunction::Write, arg) } else { text(arg, &of) })
    };
    args.into_iter().map(written).collect()
}

/// Text that is cast to a timestamp without a zone: one that it names counts for nothing.
pub(super) fn without_zone(expr: Expr) -> Expr {
    call(TextFunction::WithoutZone, expr)
}

fn call(function: TextFunction, expr: Expr) -> Expr {
    static WRITE: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| TextFunction::Write.udf());
    static WITHOUT_ZONE: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| TextFunction::WithoutZone.udf());
    let function = match function {
        TextFunction::Write => &WRITE,
        TextFunction::WithoutZone => &WITHOUT_ZONE,
    };
    Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(function), vec![expr]))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum TextFunction {
    Write,
    WithoutZone,
}

impl TextFunction {
    fn udf(self) -> Arc<ScalarUDF> {
        let signature = Signature::any(1, Volatility::Immutable);
        Arc::new(ScalarUDF::new_from_impl(MakeText { function: self, signature }))
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct MakeText {
    function: TextFunction,
    signature: Signature,
}

impl ScalarUDFImpl for MakeText {
    fn name(&self) -> &'static str {
        match self.function {
            TextFunction::Write => "text",
            TextFunction::WithoutZone => "without_zone",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let Some(values) = arrays.first() else { return exec_err!("{} takes a value", self.name()) };
        let texts = match self.function {
            TextFunction::Write => written(values)?,
            TextFunction::WithoutZone => {
                let texts = cast(values, &DataType::Utf8)?;
                texts.as_string::<i32>().iter().map(|text| text.map(zoneless)).collect()
            }
        };
        like(&args.args, Arc::new(texts))
    }
}

fn written(values: &ArrayRef) -> Result<StringArray> {
    Ok(match values.data_type() {
        DataType::Boolean => {
            let letter = |value: bool| if value { "t" } else { "f" };
            values.as_boolean().iter().map(|value| value.map(letter)).collect()
        }
        DataType::Float32 => {
            let text = |value: f32| float(&format!("{value:e}"), REAL_PLAIN);
            values.as_primitive::<Float32Type>().iter().map(|value| value.map(text)).collect()
        }
        DataType::Float64 => {
            let text = |value: f64| float(&format!("{value:e}"), DOUBLE_PLAIN);
            values.as_primitive::<Float64Type>().iter().map(|value| value.map(text)).collect()
        }
        DataType::Timestamp(_, zone) => {
            let micros = cast(values, &DataType::Timestamp(TimeUnit::Microsecond, zone.clone()))?;
            let text = |micros: i64| timestamp(micros, zone.is_some());
            let micros = micros.as_primitive::<TimestampMicrosecondType>();
            micros.iter().map(|value| value.map(text)).collect()
        }
        other => return exec_err!("there is no text of {other}"),
    })
}

/// A float of which Rust wrote `d.ddde-dd`: with an exponent where it is below 10^-4 or from 10^`plain` on.
fn float(shortest: &str, plain: i32) -> String {
    let Some((mantissa, exponent)) = shortest.split_once('e') else {
        return shortest.replace("inf", "Infinity");
    };
    let (Ok(exponent), (sign, mantissa)) = (
        exponent.parse::<i32>(),
        mantissa.strip_prefix('-').map_or(("", mantissa), |mantissa| ("-", mantissa)),
    ) else {
        return shortest.to_owned();
    };
    if !(-4..plain).contains(&exponent) {
        let side = if exponent < 0 { '-' } else { '+' };
        return format!("{sign}{mantissa}e{side}{:02}", exponent.abs());
    }
    let digits = mantissa.replace('.', "");
    let places = usize::try_from(exponent.unsigned_abs()).unwrap_or_default();
    match exponent < 0 {
        true => format!("{sign}0.{}{digits}", "0".repeat(places - 1)),
        false if digits.len() <= places + 1 => {
            format!("{sign}{digits}{}", "0".repeat(places + 1 - digits.len()))
        }
        false => format!("{sign}{}.{}", &digits[..=places], &digits[places + 1..]),
    }
}

/// Microseconds since 1970 as a date and a time of day. All zones here are UTC.
fn timestamp(micros: i64, zoned: bool) -> String {
    let (seconds, fraction) = (micros.div_euclid(MICROS_A_SECOND), micros.rem_euclid(MICROS_A_SECOND));
    let (days, second) = (seconds.div_euclid(SECONDS_A_DAY), seconds.rem_euclid(SECONDS_A_DAY));
    let (year, month, day) = year_month_day(days);
    let (shown, era) = if year > 0 { (year, "") } else { (1 - year, " BC") };
    let (hour, minute) = (second / 3_600, second / 60 % 60);
    let mut text = format!("{shown:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{:02}", second % 60);
    if fraction != 0 {
        let digits = format!("{fraction:06}");
        let _ = write!(text, ".{}", digits.trim_end_matches('0'));
    }
    if zoned {
        text.push_str("+00");
    }
    text + era
}

/// A timestamp's text without the zone at its end, and with seconds.
fn zoneless(text: &str) -> String {
    let text = text.trim();
    let Some((date, time)) = text.split_once(['T', 't', ' ']).filter(|_| !text.ends_with("BC")) else {
        return text.to_owned();
    };
    let clock = time.split(['+', '-', 'Z', 'z', ' ']).next().unwrap_or(time);
    let seconds = if clock.len() == 5 { ":00" } else { "" };
    format!("{date} {clock}{seconds}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What PostgreSQL 15 writes for each.
    #[test]
    fn floats_are_written_as_postgres_writes_them() {
        for (value, expected) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (2.5, "2.5"),
            (-1234.5, "-1234.5"),
            (100.0, "100"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1e14, "100000000000000"),
            (1e15, "1e+15"),
            (123456789012345.6, "123456789012345.6"),
            (1.5e100, "1.5e+100"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(float(&format!("{value:e}"), DOUBLE_PLAIN), expected);
        }
        assert_eq!(float(&format!("{:e}", 1_234_567_f32), REAL_PLAIN), "1.234567e+06");
        assert_eq!(float(&format!("{:e}", 123_456_f32), REAL_PLAIN), "123456");
    }

    #[test]
    fn timestamps_are_written_as_postgres_writes_them() {
        for (micros, expected) in [
            (0, "1970-01-01 00:00:00"),
            (-1, "1969-12-31 23:59:59.999999"),
            (951_782_400_500_000, "2000-02-29 00:00:00.5"),
            (-62_135_596_800_000_000, "0001-01-01 00:00:00"),
            (-62_135_596_800_000_001, "0001-12-31 23:59:59.999999 BC"),
        ] {
            assert_eq!(timestamp(micros, false), expected);
        }
        assert_eq!(timestamp(0, true), "1970-01-01 00:00:00+00");
    }

    #[test]
    fn zones_are_cut_off() {
        for (text, expected) in [
            ("2024-01-02T03:04:05+02:00", "2024-01-02 03:04:05"),
            ("2024-01-02 03:04:05.5-0330", "2024-01-02 03:04:05.5"),
            ("2024-01-02 03:04:05Z", "2024-01-02 03:04:05"),
            ("2024-01-02 03:04", "2024-01-02 03:04:00"),
            ("2024-01-02", "2024-01-02"),
            ("0044-03-15 10:00:00 BC", "0044-03-15 10:00:00 BC"),
            ("no time", "no time"),
        ] {
            assert_eq!(zoneless(text), expected);
        }
    }
}
