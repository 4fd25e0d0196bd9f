//! Columns to key bytes.

use std::ops::Range;

use arrow::array::types::{
    Date32Type, Decimal128Type, Float64Type, Int64Type, Time64NanosecondType, UInt64Type,
};
use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, BooleanArray, PrimitiveArray, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, TimeUnit};
use bytes::Bytes;

use super::{is_key_type, tag};
use crate::{ConnectError, Result};

/// A column brought to the one type of its family.
enum Column {
    Null,
    Boolean(BooleanArray),
    Integer(PrimitiveArray<Int64Type>),
    Unsigned(PrimitiveArray<UInt64Type>),
    Float(PrimitiveArray<Float64Type>),
    Decimal(i8, PrimitiveArray<Decimal128Type>),
    String(StringArray),
    Binary(BinaryArray),
    Date(PrimitiveArray<Date32Type>),
    /// Tag, units in a second, counts.
    Ticks(u8, i64, PrimitiveArray<Int64Type>),
    Time(PrimitiveArray<Time64NanosecondType>),
}

pub(super) fn encode(columns: &[ArrayRef]) -> Result<Vec<Bytes>> {
    let rows = columns.first().map_or(0, |column| column.len());
    let columns = columns.iter().map(Column::new).collect::<Result<Vec<_>>>()?;
    let mut out = Vec::with_capacity(rows * columns.len() * 12);
    let mut ends = Vec::with_capacity(rows);
    for row in 0..rows {
        columns.iter().for_each(|column| column.write(row, &mut out));
        ends.push(out.len());
    }
    let all = Bytes::from(out);
    let mut from = 0;
    let slice = |end| all.slice(Range { start: std::mem::replace(&mut from, end), end });
    Ok(ends.into_iter().map(slice).collect())
}

impl Column {
    fn new(column: &ArrayRef) -> Result<Self> {
        let data_type = column.data_type();
        if !is_key_type(data_type) {
            return Err(ConnectError::fatal(
                "encoding keys",
                format!("a column of type {data_type} cannot be a key; cast it to a string or a number"),
            ));
        }
        let to = |target: &DataType| {
            cast(column, target).map_err(|error| ConnectError::fatal("encoding keys", error))
        };
        Ok(match data_type {
            DataType::Null => Self::Null,
            DataType::Dictionary(_, value) => return Self::new(&to(value)?),
            DataType::Boolean => Self::Boolean(column.as_boolean().clone()),
            DataType::UInt64 => Self::Unsigned(column.as_primitive().clone()),
            integer if integer.is_integer() => Self::Integer(to(&DataType::Int64)?.as_primitive().clone()),
            float if float.is_floating() => Self::Float(to(&DataType::Float64)?.as_primitive().clone()),
            DataType::Decimal128(_, scale) => Self::Decimal(*scale, column.as_primitive().clone()),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
                Self::String(to(&DataType::Utf8)?.as_string().clone())
            }
            DataType::Date32 | DataType::Date64 => Self::Date(to(&DataType::Date32)?.as_primitive().clone()),
            DataType::Timestamp(unit, zone) => {
                let tag = if zone.is_some() { tag::INSTANT } else { tag::DATETIME };
                Self::Ticks(tag, per_second(*unit), to(&DataType::Int64)?.as_primitive().clone())
            }
            DataType::Duration(unit) => {
                Self::Ticks(tag::DURATION, per_second(*unit), to(&DataType::Int64)?.as_primitive().clone())
            }
            DataType::Time32(_) | DataType::Time64(_) => {
                Self::Time(to(&DataType::Time64(TimeUnit::Nanosecond))?.as_primitive().clone())
            }
            _ => Self::Binary(to(&DataType::Binary)?.as_binary().clone()),
        })
    }

    fn is_null(&self, row: usize) -> bool {
        match self {
            Self::Null => true,
            Self::Boolean(values) => values.is_null(row),
            Self::Integer(values) | Self::Ticks(_, _, values) => values.is_null(row),
            Self::Unsigned(values) => values.is_null(row),
            Self::Float(values) => values.is_null(row),
            Self::Decimal(_, values) => values.is_null(row),
            Self::String(values) => values.is_null(row),
            Self::Binary(values) => values.is_null(row),
            Self::Date(values) => values.is_null(row),
            Self::Time(values) => values.is_null(row),
        }
    }

    fn write(&self, row: usize, out: &mut Vec<u8>) {
        if self.is_null(row) {
            return out.push(tag::NULL);
        }
        match self {
            Self::Null => {}
            Self::Boolean(values) => out.push(if values.value(row) { tag::TRUE } else { tag::FALSE }),
            Self::Integer(values) => {
                out.push(tag::INTEGER);
                signed(values.value(row), out);
            }
            Self::Unsigned(values) => match i64::try_from(values.value(row)) {
                Ok(small) => {
                    out.push(tag::INTEGER);
                    signed(small, out);
                }
                Err(_) => {
                    out.push(tag::BIG_UNSIGNED);
                    out.extend_from_slice(&values.value(row).to_be_bytes());
                }
            },
            Self::Float(values) => {
                out.push(tag::FLOAT);
                float(values.value(row), out);
            }
            Self::Decimal(scale, values) => {
                out.push(tag::DECIMAL);
                out.extend_from_slice(&scale.to_be_bytes());
                out.extend_from_slice(&(values.value(row) ^ i128::MIN).to_be_bytes());
            }
            Self::String(values) => {
                out.push(tag::STRING);
                escaped(values.value(row).as_bytes(), out);
            }
            Self::Binary(values) => {
                out.push(tag::BINARY);
                escaped(values.value(row), out);
            }
            Self::Date(values) => {
                out.push(tag::DATE);
                signed(i64::from(values.value(row)), out);
            }
            Self::Ticks(tag, per_second, values) => {
                out.push(*tag);
                let ticks = values.value(row);
                signed(ticks.div_euclid(*per_second), out);
                let nanos = ticks.rem_euclid(*per_second) * (1_000_000_000 / per_second);
                out.extend_from_slice(&u32::try_from(nanos).expect("less than a second").to_be_bytes());
            }
            Self::Time(values) => {
                out.push(tag::TIME);
                out.extend_from_slice(&values.value(row).to_be_bytes());
            }
        }
    }
}

pub(super) fn per_second(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}

fn signed(value: i64, out: &mut Vec<u8>) {
    out.extend_from_slice(&(value ^ i64::MIN).to_be_bytes());
}

fn float(value: f64, out: &mut Vec<u8>) {
    let canonical = if value.is_nan() { f64::NAN.abs() } else { value + 0.0 };
    let bits = canonical.to_bits();
    let flipped = if bits >> 63 == 1 { !bits } else { bits | 1 << 63 };
    out.extend_from_slice(&flipped.to_be_bytes());
}

fn escaped(value: &[u8], out: &mut Vec<u8>) {
    for byte in value {
        out.push(*byte);
        if *byte == 0 {
            out.push(0xff);
        }
    }
    out.extend_from_slice(&[0, 0]);
}
