//! Key bytes to columns.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array, NullArray,
    StringArray, Time64NanosecondArray, UInt64Array,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Fields};
use bytes::Bytes;

use super::encode::per_second;
use super::tag;
use crate::{ConnectError, Result};

/// One decoded column of one key.
enum Part {
    Null,
    Boolean(bool),
    Integer(i64),
    BigUnsigned(u64),
    Float(f64),
    Decimal(i8, i128),
    String(Vec<u8>),
    Binary(Vec<u8>),
    Date(i64),
    Ticks(i64, u32),
    Time(i64),
}

pub(super) fn decode(fields: &Fields, keys: &[Bytes]) -> Result<Vec<ArrayRef>> {
    let mut columns: Vec<Vec<Part>> = fields.iter().map(|_| Vec::with_capacity(keys.len())).collect();
    for key in keys {
        let mut input = Input(key);
        for column in &mut columns {
            column.push(input.part().ok_or_else(|| broken(key))?);
        }
        if !input.0.is_empty() {
            return Err(broken(key));
        }
    }
    fields.iter().zip(columns).map(|(field, parts)| assemble(field, &parts)).collect()
}

fn broken(key: &[u8]) -> ConnectError {
    let shown: String = key.iter().take(64).map(|byte| format!("{byte:02x}")).collect();
    ConnectError::fatal("decoding a key", format!("these bytes are no key of the expected columns: {shown}"))
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn part(&mut self) -> Option<Part> {
        Some(match self.take::<1>()?[0] {
            tag::NULL => Part::Null,
            tag::FALSE => Part::Boolean(false),
            tag::TRUE => Part::Boolean(true),
            tag::INTEGER => Part::Integer(self.signed()?),
            tag::BIG_UNSIGNED => Part::BigUnsigned(u64::from_be_bytes(self.take()?)),
            tag::FLOAT => {
                let flipped = u64::from_be_bytes(self.take()?);
                let bits = if flipped >> 63 == 1 { flipped & !(1 << 63) } else { !flipped };
                Part::Float(f64::from_bits(bits))
            }
            tag::DECIMAL => {
                let scale = i8::from_be_bytes(self.take()?);
                Part::Decimal(scale, i128::from_be_bytes(self.take()?) ^ i128::MIN)
            }
            tag::STRING => Part::String(self.escaped()?),
            tag::BINARY => Part::Binary(self.escaped()?),
            tag::DATE => Part::Date(self.signed()?),
            tag::INSTANT | tag::DATETIME | tag::DURATION => {
                Part::Ticks(self.signed()?, u32::from_be_bytes(self.take()?))
            }
            tag::TIME => Part::Time(i64::from_be_bytes(self.take()?)),
            _ => return None,
        })
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn signed(&mut self) -> Option<i64> {
        Some(i64::from_be_bytes(self.take()?) ^ i64::MIN)
    }

    fn escaped(&mut self) -> Option<Vec<u8>> {
        let mut value = Vec::new();
        loop {
            match self.take::<1>()? {
                [0] => match self.take::<1>()? {
                    [0] => return Some(value),
                    [0xff] => value.push(0),
                    _ => return None,
                },
                [byte] => value.push(byte),
            }
        }
    }
}

/// Builds the column in the one type of its family, then casts it to what the field says.
fn assemble(field: &Field, parts: &[Part]) -> Result<ArrayRef> {
    let data_type = field.data_type();
    let wrong = || {
        ConnectError::fatal("decoding a key", format!("column '{}' is not of type {data_type}", field.name()))
    };
    // Each value is `Some(value)`, or `None` for null; a part of another family is an error.
    macro_rules! gather {
        ($array:ty, $($pattern:pat => $value:expr),+) => {{
            let values = parts.iter().map(|part| match part {
                Part::Null => Ok(None),
                $($pattern => Ok(Some($value)),)+
                _ => Err(wrong()),
            });
            Arc::new(values.collect::<Result<$array>>()?) as ArrayRef
        }};
    }
    let column = match family(data_type) {
        DataType::Null => Arc::new(NullArray::new(parts.len())) as ArrayRef,
        DataType::Boolean => gather!(BooleanArray, Part::Boolean(value) => *value),
        DataType::UInt64 => gather!(UInt64Array,
            Part::Integer(value) => u64::try_from(*value).map_err(|_| wrong())?,
            Part::BigUnsigned(value) => *value),
        integer if integer.is_integer() => gather!(Int64Array, Part::Integer(value) => *value),
        float if float.is_floating() => gather!(Float64Array, Part::Float(value) => *value),
        DataType::Decimal128(precision, scale) => {
            let values = parts.iter().map(|part| match part {
                Part::Null => Ok(None),
                Part::Decimal(found, value) if found == scale => Ok(Some(*value)),
                _ => Err(wrong()),
            });
            let values = values.collect::<Result<Decimal128Array>>()?;
            Arc::new(values.with_precision_and_scale(*precision, *scale).map_err(|_| wrong())?)
        }
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => gather!(StringArray,
            Part::String(value) => String::from_utf8(value.clone()).map_err(|_| wrong())?),
        DataType::Date32 | DataType::Date64 => gather!(Date32Array,
            Part::Date(value) => i32::try_from(*value).map_err(|_| wrong())?),
        DataType::Timestamp(unit, _) | DataType::Duration(unit) => {
            let per_second = per_second(*unit);
            gather!(Int64Array, Part::Ticks(seconds, nanos) => seconds
                .checked_mul(per_second)
                .and_then(|ticks| ticks.checked_add(i64::from(*nanos) / (1_000_000_000 / per_second)))
                .ok_or_else(wrong)?)
        }
        DataType::Time32(_) | DataType::Time64(_) => {
            gather!(Time64NanosecondArray, Part::Time(value) => *value)
        }
        _ => gather!(BinaryArray, Part::Binary(value) => value.clone()),
    };
    cast(&column, data_type).map_err(|error| ConnectError::fatal("decoding a key", error))
}

fn family(data_type: &DataType) -> &DataType {
    match data_type {
        DataType::Dictionary(_, value) => value,
        other => other,
    }
}
