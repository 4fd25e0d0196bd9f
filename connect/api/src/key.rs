//! The frozen encoding of keys: what a row's key columns become as the key bytes of its record.
//!
//! It decides which partition a row is in, which rows a compacted topic takes for the same, and what a join compares, on every
//! version of Millstream that ever reads the topic. So it may never change; `tests` hold its golden bytes.
//!
//! A key is the concatenation of its columns, each a tag and a payload. Comparing two keys as bytes compares the columns in
//! order, nulls first, text by its UTF-8 bytes (so never by a locale). Numbers of different widths that are equal have equal
//! bytes, so that an `int32` column joins an `int64` one.
//!
//! | tag | types | payload |
//! | --- | --- | --- |
//! | `00` | null of any type | none |
//! | `01`, `02` | boolean: false, true | none |
//! | `10` | all integers that fit in 64 signed bits | 8 bytes big endian, sign bit flipped |
//! | `11` | uint64 from 2^63 on | 8 bytes big endian |
//! | `20` | float16, float32, float64 | 8 bytes big endian of the double; sign bit flipped, all bits if negative; -0 as 0, one NaN |
//! | `30` | decimal with up to 38 digits | 1 byte scale, 16 bytes big endian of the unscaled number, sign bit flipped |
//! | `40` | all strings | the bytes with `00` as `00 FF`, then `00 00` |
//! | `41` | all binaries | as strings |
//! | `50` | dates | as `10`, days since 1970 |
//! | `51` | timestamps with a zone | seconds since 1970 as `10` without its tag, then 4 bytes big endian of nanoseconds |
//! | `52` | timestamps without a zone | as `51` |
//! | `53` | times of day | 8 bytes big endian of nanoseconds |
//! | `54` | durations | as `51` |
//!
//! Two decimals are the same key only when their scales are equal. Lists, structs, maps and intervals are no keys.

mod decode;
mod encode;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Fields};
use bytes::Bytes;

use crate::{ConnectError, Result};

pub(crate) mod tag {
    pub(crate) const NULL: u8 = 0x00;
    pub(crate) const FALSE: u8 = 0x01;
    pub(crate) const TRUE: u8 = 0x02;
    pub(crate) const INTEGER: u8 = 0x10;
    pub(crate) const BIG_UNSIGNED: u8 = 0x11;
    pub(crate) const FLOAT: u8 = 0x20;
    pub(crate) const DECIMAL: u8 = 0x30;
    pub(crate) const STRING: u8 = 0x40;
    pub(crate) const BINARY: u8 = 0x41;
    pub(crate) const DATE: u8 = 0x50;
    pub(crate) const INSTANT: u8 = 0x51;
    pub(crate) const DATETIME: u8 = 0x52;
    pub(crate) const TIME: u8 = 0x53;
    pub(crate) const DURATION: u8 = 0x54;
}

/// Whether values of this type can be keys.
pub fn is_key_type(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, value) => is_key_type(value),
        other => {
            !other.is_nested()
                && !matches!(
                    other,
                    DataType::Interval(_)
                        | DataType::Decimal32(..)
                        | DataType::Decimal64(..)
                        | DataType::Decimal256(..)
                )
        }
    }
}

/// The key of each row, made of `columns` in this order (all of equal length).
///
/// # Errors
/// Fatal when a column is of a type that is no key.
pub fn encode(columns: &[ArrayRef]) -> Result<Vec<Bytes>> {
    encode::encode(columns)
}

/// The key of each row of `rows`, made of the columns with these names.
///
/// # Errors
/// Fatal when a column is missing, or of a type that is no key.
pub fn encode_columns(rows: &RecordBatch, names: &[String]) -> Result<Vec<Bytes>> {
    let columns = names.iter().map(|name| {
        let found = rows.column_by_name(name).cloned();
        found.ok_or_else(|| ConnectError::fatal("encoding keys", format!("there is no column '{name}'")))
    });
    encode(&columns.collect::<Result<Vec<_>>>()?)
}

/// Columns of `fields` from keys; the reverse of [`encode`].
///
/// # Errors
/// Fatal when a key is not an encoding of such columns.
pub fn decode(fields: &Fields, keys: &[Bytes]) -> Result<Vec<ArrayRef>> {
    decode::decode(fields, keys)
}

#[cfg(test)]
mod tests;
