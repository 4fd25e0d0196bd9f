//! Dates with times as text: the one form that JSON and CSV are full of, read and written without the machinery for all others.
//!
//! The form is RFC 3339's without an offset but `Z`, or ISO 8601's without any zone: `2013-01-01T10:00:00`, a fraction of up to nine digits,
//! `Z`. A text of another form is not wrong: a general parser has to look at it.

use arrow::datatypes::TimeUnit;

const DAY_SECONDS: i64 = 86_400;
/// Days from 1 March of the year 0, where the calendar's cycle of 400 years begins here, to 1 January 1970.
const EPOCH_DAYS: i64 = 719_468;
const CYCLE_DAYS: i64 = 146_097;
const BILLION: i64 = 1_000_000_000;

/// A date with a time, in the proleptic Gregorian calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DateTime {
    /// Seconds since 1970.
    pub seconds: i64,
    /// Nanoseconds of that second.
    pub nanos: u32,
}

impl DateTime {
    /// Reads the form described above. The text ends with `Z` if `is_utc`, and else without a zone.
    #[must_use]
    pub fn read(text: &str, is_utc: bool) -> Option<Self> {
        let (head, rest) = text.as_bytes().split_first_chunk::<19>()?;
        let [y0, y1, y2, y3, b'-', m0, m1, b'-', d0, d1, b'T', h0, h1, b':', n0, n1, b':', s0, s1] = *head
        else {
            return None;
        };
        let year = 100 * two(y0, y1)? + two(y2, y3)?;
        let (month, day) = (two(m0, m1)?, two(d0, d1)?);
        let (hour, minute, second) = (two(h0, h1)?, two(n0, n1)?, two(s0, s1)?);
        let real = (1..=12).contains(&month) && day >= 1 && day <= days_of_month(year, month);
        if !real || hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let rest = if is_utc { rest.strip_suffix(b"Z")? } else { rest };
        let nanos = match rest {
            [] => 0,
            [b'.', digits @ ..] => fraction(digits)?,
            _ => return None,
        };
        let seconds = days_of_date(year, month, day) * DAY_SECONDS + hour * 3600 + minute * 60 + second;
        Some(Self { seconds, nanos })
    }

    /// Appends the text: no fraction, or one of 3, 6 or 9 digits. False outside of the years 0 to 9999.
    pub fn write(self, is_utc: bool, text: &mut Vec<u8>) -> bool {
        let (days, second) = (self.seconds.div_euclid(DAY_SECONDS), self.seconds.rem_euclid(DAY_SECONDS));
        let Some((year, month, day)) = date_of_days(days).filter(|(year, ..)| (0..=9999).contains(year))
        else {
            return false;
        };
        let [y0, y1] = pair(year / 100);
        let [y2, y3] = pair(year % 100);
        let ([m0, m1], [d0, d1]) = (pair(month), pair(day));
        let ([h0, h1], [n0, n1], [s0, s1]) = (pair(second / 3600), pair(second / 60 % 60), pair(second % 60));
        text.extend_from_slice(&[
            y0, y1, y2, y3, b'-', m0, m1, b'-', d0, d1, b'T', h0, h1, b':', n0, n1, b':', s0, s1,
        ]);
        if self.nanos != 0 {
            let (mut rest, mut digits) = (self.nanos, [b'0'; 9]);
            for digit in digits.iter_mut().rev() {
                *digit += (rest % 10) as u8;
                rest /= 10;
            }
            let width = if self.nanos.is_multiple_of(1_000_000) {
                3
            } else if self.nanos.is_multiple_of(1_000) {
                6
            } else {
                9
            };
            text.push(b'.');
            text.extend(digits.iter().take(width));
        }
        if is_utc {
            text.push(b'Z');
        }
        true
    }

    /// So many units since 1970, rounded towards the past; `None` when the number does not fit.
    #[must_use]
    pub fn count(self, unit: TimeUnit) -> Option<i64> {
        let each = units_of_second(unit);
        let part = i64::from(self.nanos) / (BILLION / each);
        self.seconds.checked_mul(each)?.checked_add(part)
    }

    /// So many units since 1970; `None` when there is a part that is finer than the unit, or the number does not fit.
    #[must_use]
    pub fn exact_count(self, unit: TimeUnit) -> Option<i64> {
        self.count(unit).filter(|count| Self::of_count(*count, unit) == self)
    }

    /// The instant so many units after 1970.
    #[must_use]
    pub fn of_count(count: i64, unit: TimeUnit) -> Self {
        let each = units_of_second(unit);
        let nanos = count.rem_euclid(each) * (BILLION / each);
        Self { seconds: count.div_euclid(each), nanos: nanos as u32 }
    }
}

fn units_of_second(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => BILLION,
    }
}

fn two(tens: u8, ones: u8) -> Option<i64> {
    (tens.is_ascii_digit() && ones.is_ascii_digit())
        .then(|| 10 * i64::from(tens - b'0') + i64::from(ones - b'0'))
}

fn pair(number: i64) -> [u8; 2] {
    [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8]
}

/// Nanoseconds that 1 to 9 digits behind the point say.
fn fraction(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() || digits.len() > 9 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let padded = digits.iter().chain(std::iter::repeat(&b'0')).take(9);
    Some(padded.fold(0, |number, digit| 10 * number + u32::from(digit - b'0')))
}

fn days_of_month(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days since 1970. Years are counted from March, so that the day that not every year has comes last.
fn days_of_date(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (cycle, year) = (year.div_euclid(400), year.rem_euclid(400));
    // Months from March have 31, 30, 31, 30, 31 days, again and again: 153 in five.
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    cycle * CYCLE_DAYS + year * 365 + year / 4 - year / 100 + day_of_year - EPOCH_DAYS
}

fn date_of_days(days: i64) -> Option<(i64, i64, i64)> {
    let days = days.checked_add(EPOCH_DAYS)?;
    let (cycle, day) = (days.div_euclid(CYCLE_DAYS), days.rem_euclid(CYCLE_DAYS));
    // Leap days before this one are taken out, so that all years are equally long.
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (year * 365 + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (year, month) = if month < 10 { (year, month + 3) } else { (year + 1, month - 9) };
    Some((cycle * 400 + year, month, day))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_and_instants() {
        for (text, seconds, nanos) in [
            ("1970-01-01T00:00:00", 0, 0),
            ("1969-12-31T23:59:59.999999999", -1, 999_999_999),
            ("2000-02-29T12:30:01.5", 951_827_401, 500_000_000),
            ("2013-01-01T10:00:00", 1_357_034_400, 0),
            ("0000-01-01T00:00:00", -62_167_219_200, 0),
            ("9999-12-31T23:59:59", 253_402_300_799, 0),
        ] {
            let expected = Some(DateTime { seconds, nanos });
            assert_eq!(DateTime::read(text, false), expected, "{text}");
            assert_eq!(DateTime::read(&format!("{text}Z"), true), expected, "{text}");
            assert_eq!(DateTime::read(text, true), None, "{text} has no Z");
        }
        for text in [
            "",
            "2013-01-01",
            "2013-01-01 10:00:00",
            "2013-02-29T10:00:00",
            "1900-02-29T10:00:00",
            "2013-13-01T10:00:00",
            "2013-00-01T10:00:00",
            "2013-01-00T10:00:00",
            "2013-04-31T10:00:00",
            "2013-01-01T24:00:00",
            "2013-01-01T10:60:00",
            "2013-01-01T10:00:60",
            "2013-01-01T10:00:00.",
            "2013-01-01T10:00:00.1234567890",
            "2013-01-01T10:00:00+01:00",
            "+013-01-01T10:00:00",
            "2013-01-01T10:00:00Z",
        ] {
            assert_eq!(DateTime::read(text, false), None, "{text}");
        }
        assert!(!DateTime { seconds: i64::MAX, nanos: 0 }.write(true, &mut Vec::new()));
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(seconds in -62_167_219_200i64..253_402_300_800, nanos in prop_oneof![Just(0), 0u32..1_000_000_000], is_utc: bool) {
            let at = DateTime { seconds, nanos };
            let mut text = Vec::new();
            prop_assert!(at.write(is_utc, &mut text));
            prop_assert_eq!(DateTime::read(std::str::from_utf8(&text).unwrap(), is_utc), Some(at));
        }

        #[test]
        fn counts_of_units_are_the_same_instant(count: i64) {
            for unit in [TimeUnit::Second, TimeUnit::Millisecond, TimeUnit::Microsecond, TimeUnit::Nanosecond] {
                prop_assert_eq!(DateTime::of_count(count, unit).count(unit), Some(count));
            }
        }
    }
}
