//! Sizes (`256MiB`) and durations (`5m`, `1h30m`).

use std::time::Duration;

const SIZES: &[(&str, u64)] = &[
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

const DURATIONS_MS: &[(&str, u64)] =
    &[("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000), ("w", 604_800_000)];

/// Reads a size: a whole number and a unit, such as `64KiB` or `10 MB`.
///
/// # Errors
/// What is wrong, with the units there are.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || {
        format!(
            "'{text}' is not a size; write a number and B, KiB, MiB, GiB, TiB, kB, MB, GB or TB, such as \"256MiB\""
        )
    };
    let (number, unit, rest) = number_and_unit(text.trim()).ok_or_else(wrong)?;
    if !rest.is_empty() {
        return Err(wrong());
    }
    let (_, factor) = SIZES.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    number.checked_mul(*factor).ok_or_else(|| format!("'{text}' is more bytes than there can be"))
}

/// Reads a duration: whole numbers with units, largest first, such as `500ms`, `5m` or `1h30m`.
///
/// # Errors
/// What is wrong, with the units there are.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || {
        format!(
            "'{text}' is not a duration; write a number and ms, s, m, h, d or w, such as \"30s\" or \"1h30m\""
        )
    };
    let (mut total_ms, mut above, mut rest) = (0u64, u64::MAX, text.trim());
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let (number, unit, after) = number_and_unit(rest).ok_or_else(wrong)?;
        let (_, factor) = DURATIONS_MS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        if *factor >= above {
            return Err(wrong());
        }
        let part = number.checked_mul(*factor).ok_or_else(wrong)?;
        total_ms = total_ms.checked_add(part).ok_or_else(wrong)?;
        above = *factor;
        rest = after;
    }
    Ok(Duration::from_millis(total_ms))
}

/// Splits `12 MiB rest` into 12, `MiB` and `rest`.
fn number_and_unit(text: &str) -> Option<(u64, &str, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number = text.get(..digits)?.parse().ok()?;
    let after = text.get(digits..)?.trim_start();
    let letters = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
    Some((number, after.get(..letters)?, after.get(letters..)?.trim_start()))
}

/// Writes a size in the largest binary unit that divides it.
pub fn format_size(bytes: u64) -> String {
    let unit = ["TiB", "GiB", "MiB", "KiB"].iter().find_map(|name| {
        let (_, factor) = SIZES.iter().find(|(unit, _)| unit == name)?;
        (bytes > 0 && bytes.is_multiple_of(*factor)).then(|| format!("{}{name}", bytes / factor))
    });
    unit.unwrap_or_else(|| format!("{bytes}B"))
}

/// Writes a duration as [`parse_duration`] reads it; fractions of a millisecond are dropped.
pub fn format_duration(duration: Duration) -> String {
    let mut left_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if left_ms == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (unit, factor) in DURATIONS_MS.iter().rev() {
        if left_ms >= *factor {
            text.push_str(&format!("{}{unit}", left_ms / factor));
            left_ms %= factor;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, expected) in
            [("256MiB", 256 << 20), ("1 kB", 1000), ("0B", 0), ("64KiB", 65536), (" 3GB ", 3_000_000_000)]
        {
            assert_eq!(parse_size(text), Ok(expected), "{text}");
        }
        for text in ["", "5", "MiB", "5 mib", "1.5GiB", "-1B", "99999999TiB", "1KiB2B", "5m"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        for size in [0, 1, 1000, 1 << 10, 3 << 20, (1 << 30) + 1] {
            assert_eq!(parse_size(&format_size(size)), Ok(size));
        }
    }

    #[test]
    fn durations() {
        for (text, expected_ms) in [
            ("500ms", 500),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("24h", 86_400_000),
            ("2d 3s", 172_803_000),
            ("0s", 0),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(expected_ms)), "{text}");
        }
        for text in ["", "5", "m", "1m1h", "1s1s", "1 month", "1.5s", "-1s", "99999999999999999999s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        for ms in [0, 1, 999, 1000, 61_001, 90_000_000] {
            let duration = Duration::from_millis(ms);
            assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }
    }
}
