//! Numbers and times as text: read exactly, or not at all. A value that a column cannot hold is a bad record; it is never cut or rounded
//! until it fits. Shared by all text formats, so that JSON and CSV agree about what a column takes.
//!
//! A float is the one type that rounds by its nature: of `0.1` it keeps the nearest double. What it does not do is lose digits of a whole
//! number, which is how an id ends as another id.

use arrow::array::timezone::Tz;
use arrow::compute::kernels::cast_utils::string_to_datetime;
use arrow::datatypes::{DataType, TimeUnit};

use crate::types::type_name;

/// From here on a double does not hold every whole number.
const WHOLE_FLOATS: f64 = 9_007_199_254_740_992.0;
/// Characters of a value that an error shows.
const SHOWN_CHARS: usize = 80;
/// Bytes of `2013-01-01`.
pub(super) const DATE_BYTES: usize = 10;
const DAY_SECONDS: i64 = 86_400;

/// The number times 10^`scale`, if that is a whole number: `1.50` with scale 2 is 150, and `1.505` is none. Takes an exponent.
pub fn scaled(text: &str, scale: i8) -> Option<i128> {
    let (is_negative, text) = match text.as_bytes() {
        [b'-', ..] => (true, text.get(1..)?),
        [b'+', ..] => (false, text.get(1..)?),
        _ => (false, text),
    };
    let (digits, exponent) = match text.split_once(['e', 'E']) {
        Some((digits, exponent)) => (digits, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let (mut number, mut zeros) = (0i128, 0i32);
    for digit in whole.bytes().chain(fraction.bytes()) {
        match digit {
            b'0' => zeros += 1, // counted only if another digit follows, so that a long tail of them costs nothing
            b'1'..=b'9' => {
                number = shift(number, if number == 0 { 1 } else { zeros + 1 })?;
                number = number.checked_add(i128::from(digit - b'0'))?;
                zeros = 0;
            }
            _ => return None,
        }
    }
    if number == 0 {
        return Some(0);
    }
    let fraction = i32::try_from(fraction.len()).ok()?;
    let places = exponent.checked_add(zeros)?.checked_sub(fraction)?.checked_add(scale.into())?;
    let number = shift(number, places)?;
    Some(if is_negative { -number } else { number })
}

fn shift(number: i128, places: i32) -> Option<i128> {
    if number == 0 {
        return Some(0);
    }
    number.checked_mul(10i128.checked_pow(places.try_into().ok()?)?)
}

/// A value of `decimal(precision,scale)`, as its count of units.
pub fn decimal(text: &str, precision: u8, scale: i8) -> Option<i128> {
    scaled(text, scale).filter(|number| number.unsigned_abs() < 10u128.pow(precision.min(38).into()))
}

/// A double. Infinity and NaN are what their names say (`inf`, `infinity`, `nan`, in any case), never a literal that is too large; a whole
/// number is one that the double writes back.
pub fn float64(text: &str) -> Option<f64> {
    let value: f64 = text.parse().ok()?;
    if !value.is_finite() {
        return names_no_number(text).then_some(value);
    }
    // With an exponent it is written by something that counts in floats, and shows no digits that it does not have.
    if value.abs() >= WHOLE_FLOATS && !text.contains(['e', 'E']) && value.to_string() != plain(text) {
        return None;
    }
    Some(value)
}

/// A float of half the width. Who asks for one wants about seven digits of any number, so only the range is watched.
pub fn float32(text: &str) -> Option<f32> {
    let value: f32 = text.parse().ok()?;
    (value.is_finite() || names_no_number(text)).then_some(value)
}

/// `inf` and `nan` have this letter, and numbers have not.
fn names_no_number(text: &str) -> bool {
    text.contains(['n', 'N'])
}

/// A number without the signs and zeros that say nothing.
fn plain(text: &str) -> String {
    let text = text.strip_prefix('+').unwrap_or(text);
    let (sign, text) = text.strip_prefix('-').map_or(("", text), |rest| ("-", rest));
    let text = text.trim_start_matches('0');
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text };
    format!("{sign}{text}")
}

/// Whether a date with a time, or a time, has no part that is finer than this unit. It does not say that it is one.
pub fn fits_unit(text: &str, unit: TimeUnit) -> bool {
    let Some((_, behind)) = text.split_once('.') else { return true };
    let end = behind.find(|c: char| !c.is_ascii_digit()).unwrap_or(behind.len());
    let digits = behind.get(..end).unwrap_or_default().trim_end_matches('0').len();
    let held = match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 3,
        TimeUnit::Microsecond => 6,
        TimeUnit::Nanosecond => 9,
    };
    digits <= held
}

/// Whether a date with a time, or a date, is the beginning of a day.
pub fn fits_day(text: &str) -> bool {
    // No time, or a year of more than four digits, behind which no time is taken.
    if text.len() <= DATE_BYTES || text.starts_with(['+', '-']) {
        return true;
    }
    let Ok(utc) = crate::types::UTC.parse::<Tz>() else { return false };
    string_to_datetime(&utc, text)
        .is_ok_and(|at| at.timestamp() % DAY_SECONDS == 0 && at.timestamp_subsec_nanos() == 0)
}

/// Why `text` is no value of this type, and how to mend it where that is not plain.
pub fn why_not(text: &str, data_type: &DataType) -> String {
    let kind = type_name(data_type);
    let mut shown: String = text.chars().take(SHOWN_CHARS).collect();
    if shown.len() < text.len() {
        shown.push_str("..");
    }
    let number = text.parse::<f64>().is_ok() && !names_no_number(text);
    let plain = format!("'{shown}' is not a {kind}");
    match data_type {
        DataType::Float64 | DataType::Float32 if number => match text.parse::<f64>() {
            Ok(value) if value.is_finite() && *data_type == DataType::Float64 => {
                format!(
                    "'{shown}' has more digits than a {kind} holds; declare the column as string or decimal(38,0)"
                )
            }
            _ => format!("'{shown}' is too large for a {kind}"),
        },
        DataType::Decimal128(precision, scale) if number => {
            format!(
                "'{shown}' is not exactly a {kind}, which has {precision} digits, {scale} of them behind the point; declare more, or round \
                 it in a step"
            )
        }
        data_type if number && data_type.is_integer() => match scaled(text, 0) {
            Some(_) => format!("'{shown}' does not fit into a {kind}"),
            None => {
                format!("'{shown}' is not exactly a {kind}; declare the column as float64 or decimal(p,s)")
            }
        },
        DataType::Timestamp(..) if number => {
            format!(
                "{shown} is a number, which does not say what it counts, and not a {kind}; declare the column as int64, and use \
                 to_timestamp_seconds() or to_timestamp_millis() in a step"
            )
        }
        DataType::Timestamp(unit, _) | DataType::Time32(unit) | DataType::Time64(unit)
            if !number && !fits_unit(text, *unit) =>
        {
            format!(
                "{plain}, which has no parts that small; declare a finer one, such as {}",
                finer(data_type)
            )
        }
        DataType::Date32 if !number && !fits_day(text) => {
            format!("{plain}: it has a time; declare the column as timestamp or datetime")
        }
        data_type if number && data_type.is_temporal() => {
            format!("{shown} is a number, and not a {kind}; declare the column as int64")
        }
        _ => plain,
    }
}

/// The same with nanoseconds.
fn finer(data_type: &DataType) -> String {
    type_name(&match data_type {
        DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Nanosecond, zone.clone()),
        _ => DataType::Time64(TimeUnit::Nanosecond),
    })
}

#[cfg(test)]
mod tests {
    use arrow::compute::kernels::cast_utils::parse_decimal;
    use arrow::datatypes::Decimal128Type;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_with_a_scale() {
        for (text, scale, expected) in [
            ("0", 0, Some(0)),
            ("-12", 0, Some(-12)),
            ("+12.", 1, Some(120)),
            (".5", 1, Some(5)),
            ("1.50", 1, Some(15)),
            ("1.239", 2, None),
            ("1.2300000000000000000000000000000000000000000000", 2, Some(123)),
            ("1e3", 0, Some(1000)),
            ("1.5E+1", 0, Some(15)),
            ("15e-1", 0, None),
            ("150e-1", 0, Some(15)),
            ("9007199254740993.0", 0, Some(9_007_199_254_740_993)),
            ("12300", -2, Some(123)),
            ("12345", -2, None),
            ("0e999999999", 0, Some(0)),
            ("1e999999999", 0, None),
            ("1e99999999999", 0, None),
            ("99999999999999999999999999999999999999", 0, Some(10i128.pow(38) - 1)),
            ("0000000000000000000000000000000000000000000001", 0, Some(1)),
            ("170141183460469231731687303715884105728", 0, None),
            ("", 0, None),
            (".", 0, None),
            ("-", 0, None),
            ("1e", 0, None),
            ("--1", 0, None),
            ("1 ", 0, None),
            ("0x1", 0, None),
        ] {
            assert_eq!(scaled(text, scale), expected, "{text} {scale}");
        }
        assert_eq!(decimal("999.99", 5, 2), Some(99_999));
        assert_eq!(decimal("1000", 5, 2), None);
    }

    #[test]
    fn floats() {
        for (text, expected) in [
            ("0.1", Some(0.1)),
            ("-9007199254740992", Some(-9_007_199_254_740_992.0)),
            ("9007199254740993", None),
            ("9007199254740993.0", None),
            ("+09007199254740994.00", Some(9_007_199_254_740_994.0)),
            ("12345678901234567000", Some(12_345_678_901_234_567_000.0)), // what JavaScript writes
            ("12345678901234567890", None),
            ("1.2345678901234567890e19", Some(1.234_567_890_123_456_7e19)),
            ("1e300", Some(1e300)),
            ("1e400", None),
            ("-1e400", None),
            ("inf", Some(f64::INFINITY)),
            ("-Infinity", Some(f64::NEG_INFINITY)),
            ("x", None),
        ] {
            assert_eq!(float64(text), expected, "{text}");
        }
        assert!(float64("NaN").is_some_and(f64::is_nan));
        assert_eq!((float32("1e39"), float32("16777217")), (None, Some(16_777_216.0)));
    }

    #[test]
    fn parts_of_a_second() {
        for (text, unit, expected) in [
            ("2013-01-01", TimeUnit::Second, true),
            ("2013-01-01T00:00:00.000Z", TimeUnit::Second, true),
            ("2013-01-01T00:00:00.001Z", TimeUnit::Second, false),
            ("2013-01-01T00:00:00.123456+01:00", TimeUnit::Microsecond, true),
            ("2013-01-01T00:00:00.1234567Z", TimeUnit::Microsecond, false),
            ("2013-01-01T00:00:00.1234567Z", TimeUnit::Nanosecond, true),
            ("00:00:00.1230", TimeUnit::Millisecond, true),
        ] {
            assert_eq!(fits_unit(text, unit), expected, "{text}");
        }
    }

    #[test]
    fn days() {
        for (text, expected) in [
            ("2013-01-01", true),
            ("2013-01-01T00:00:00", true),
            ("1600-01-01T00:00:00Z", true),
            ("2013-01-01T01:00:00+01:00", true),
            ("2013-01-01T00:00:00.1", false),
            ("2013-01-01 10:00:00", false),
            ("+12013-01-01", true),
        ] {
            assert_eq!(fits_day(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_floats_write_is_a_float(value in any::<f64>()) {
            let expected = value.is_finite().then_some(value);
            prop_assert_eq!(float64(&value.to_string()).filter(|value| value.is_finite()), expected);
            prop_assert_eq!(float64(&format!("{value:e}")).filter(|value| value.is_finite()), expected);
        }

        /// Where nothing is cut, the library's reader agrees.
        #[test]
        fn decimals_are_the_librarys(text in "-?[0-9]{1,12}([.][0-9]{1,3})?", scale in 0i8..4) {
            if let Some(value) = decimal(&text, 30, scale) {
                prop_assert_eq!(parse_decimal::<Decimal128Type>(&text, 30, scale).unwrap(), value);
            } else {
                prop_assert!(text.contains('.'));
            }
        }
    }
}
