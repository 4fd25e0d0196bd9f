//! The binary form of `numeric`: groups of four decimal digits.

/// Appends `value` / 10^`scale` in Postgres's binary form, without its length.
pub(crate) fn write(value: i128, scale: u8, out: &mut Vec<u8>) {
    // Groups are counted from the decimal point, so the fraction is filled up to whole groups first.
    let padding = (4 - scale % 4) % 4;
    let mut digits = value.unsigned_abs().to_string();
    digits.extend(std::iter::repeat_n('0', usize::from(padding)));
    let fraction_groups = usize::from((scale + padding) / 4);
    while !digits.len().is_multiple_of(4) || digits.len() / 4 < fraction_groups {
        digits.insert(0, '0');
    }
    let groups: Vec<i16> = digits
        .as_bytes()
        .chunks(4)
        .map(|group| group.iter().fold(0, |number, digit| number * 10 + i16::from(digit - b'0')))
        .collect();
    let leading = groups.iter().take_while(|group| **group == 0).count();
    let trailing = groups[leading..].iter().rev().take_while(|group| **group == 0).count();
    let kept = &groups[leading..groups.len() - trailing];
    let weight = groups.len() as i64 - fraction_groups as i64 - leading as i64 - 1;
    let weight = if kept.is_empty() { 0 } else { weight };
    out.extend_from_slice(&(kept.len() as i16).to_be_bytes());
    out.extend_from_slice(&(weight as i16).to_be_bytes());
    out.extend_from_slice(&if value < 0 && !kept.is_empty() { 0x4000_u16 } else { 0 }.to_be_bytes());
    out.extend_from_slice(&u16::from(scale).to_be_bytes());
    for group in kept {
        out.extend_from_slice(&group.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (digits, weight, sign, dscale) as `numeric_send` of Postgres 15 writes them.
    #[test]
    fn groups() {
        for (value, scale, digits, weight, negative) in [
            (0, 2, &[][..], 0, false),
            (1, 0, &[1][..], 0, false),
            (-12_345, 2, &[123, 4500], 0, true),
            (10_000, 0, &[1], 1, false),
            (5, 5, &[5000], -2, false),
            (100_000_001, 4, &[1, 0, 1], 1, false),
        ] {
            let mut out = Vec::new();
            write(value, scale, &mut out);
            let words: Vec<i16> = out.chunks(2).map(|pair| i16::from_be_bytes([pair[0], pair[1]])).collect();
            assert_eq!(words[0] as usize, digits.len(), "{value}/{scale}");
            assert_eq!(
                (words[1], words[2] == 0x4000, words[3] as u8),
                (weight, negative, scale),
                "{value}/{scale}"
            );
            assert_eq!(&words[4..], digits, "{value}/{scale}");
        }
    }
}
