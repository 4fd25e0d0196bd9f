//! Zigzag variable-length integers, as Protocol Buffers and Kafka's records write them.

/// Most bytes that a 32-bit number takes.
pub const MAX_VARINT_BYTES: usize = 5;
/// Most bytes that a 64-bit number takes.
pub const MAX_VARLONG_BYTES: usize = 10;

/// Reads a 32-bit number from the front of `rest` and moves `rest` past it. `None` when the bytes end first or the number
/// is longer than its type; `rest` is then unspecified.
#[inline]
pub fn read_i32(rest: &mut &[u8]) -> Option<i32> {
    if let Some((&byte, tail)) = rest.split_first()
        && byte < 0x80
    {
        *rest = tail;
        return Some(unzigzag_32(u32::from(byte)));
    }
    let raw = read_raw(rest, MAX_VARINT_BYTES)?;
    u32::try_from(raw).ok().map(unzigzag_32)
}

/// Reads a 64-bit number, as [`read_i32`] does.
#[inline]
pub fn read_i64(rest: &mut &[u8]) -> Option<i64> {
    let raw = read_raw(rest, MAX_VARLONG_BYTES)?;
    Some(((raw >> 1) as i64) ^ -((raw & 1) as i64))
}

fn unzigzag_32(raw: u32) -> i32 {
    ((raw >> 1) as i32) ^ -((raw & 1) as i32)
}

#[inline]
fn read_raw(rest: &mut &[u8], most: usize) -> Option<u64> {
    let mut value = 0u64;
    for at in 0..most {
        let (&byte, tail) = rest.split_first()?;
        *rest = tail;
        let bits = u64::from(byte & 0x7f);
        let shift = 7 * at as u32;
        if shift == 63 && bits > 1 {
            return None; // bits beyond the 64th
        }
        value |= bits << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// Writes a 32-bit number.
#[inline]
pub fn write_i32(out: &mut impl bytes::BufMut, value: i32) {
    write_raw(out, u64::from(zigzag_32(value)));
}

/// Writes a 64-bit number.
#[inline]
pub fn write_i64(out: &mut impl bytes::BufMut, value: i64) {
    write_raw(out, zigzag_64(value));
}

#[inline]
fn write_raw(out: &mut impl bytes::BufMut, mut raw: u64) {
    while raw >= 0x80 {
        out.put_u8((raw as u8) | 0x80);
        raw >>= 7;
    }
    out.put_u8(raw as u8);
}

fn zigzag_32(value: i32) -> u32 {
    ((value << 1) ^ (value >> 31)) as u32
}

fn zigzag_64(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// Bytes that [`write_i32`] takes for `value`.
#[inline]
#[must_use]
pub fn size_i32(value: i32) -> usize {
    size_raw(u64::from(zigzag_32(value)))
}

/// Bytes that [`write_i64`] takes for `value`.
#[inline]
#[must_use]
pub fn size_i64(value: i64) -> usize {
    size_raw(zigzag_64(value))
}

fn size_raw(raw: u64) -> usize {
    let bits = 64 - (raw | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_take_the_bytes_that_protocol_buffers_give_them() {
        let table: &[(i64, &[u8])] = &[
            (0, &[0]),
            (-1, &[1]),
            (1, &[2]),
            (63, &[126]),
            (-64, &[127]),
            (64, &[128, 1]),
            (i64::from(i32::MAX), &[254, 255, 255, 255, 15]),
            (i64::from(i32::MIN), &[255, 255, 255, 255, 15]),
        ];
        for &(value, bytes) in table {
            let mut out = Vec::new();
            write_i64(&mut out, value);
            assert_eq!(out, bytes);
            out.clear();
            write_i32(&mut out, value as i32);
            assert_eq!(out, bytes);
            assert_eq!(read_i32(&mut &bytes[..]), Some(value as i32));
            assert_eq!(read_i64(&mut &bytes[..]), Some(value));
            assert_eq!((size_i32(value as i32), size_i64(value)), (bytes.len(), bytes.len()));
        }
    }

    #[test]
    fn numbers_that_do_not_fit_their_type_are_refused() {
        let refused: &[&[u8]] =
            &[&[], &[0x80], &[0xff, 0xff, 0xff, 0xff, 0x1f], &[0x80, 0x80, 0x80, 0x80, 0x80, 0]];
        for bytes in refused {
            assert_eq!(read_i32(&mut &bytes[..]), None, "{bytes:?}");
        }
        let nine = [0xff; 9];
        assert_eq!(read_i64(&mut &[&nine[..], &[1]].concat()[..]), Some(i64::MIN));
        assert_eq!(read_i64(&mut &[&nine[..], &[2]].concat()[..]), None);
        assert_eq!(read_i64(&mut &[0xff; 11][..]), None);
    }

    proptest::proptest! {
        #[test]
        fn numbers_round_trip(value: i64, short: i32) {
            let mut out = Vec::new();
            write_i64(&mut out, value);
            assert_eq!(out.len(), size_i64(value));
            write_i32(&mut out, short);
            let mut rest = &out[..];
            assert_eq!(read_i64(&mut rest), Some(value));
            assert_eq!(rest.len(), size_i32(short));
            assert_eq!(read_i32(&mut rest), Some(short));
            assert!(rest.is_empty());
        }
    }
}
