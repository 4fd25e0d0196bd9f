//! Arrow to the binary form of COPY.

use arrow::array::types::{
    Date32Type, Decimal128Type, DurationMicrosecondType, Float32Type, Float64Type, Int16Type, Int32Type,
    Int64Type, Time64MicrosecondType, TimestampMicrosecondType,
};
use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, PrimitiveArray, RecordBatch, StringArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use bytes::Bytes;
use millstream_connect_api::convert::{Converter, JsonConverter};
use millstream_connect_api::{ConnectError, Result};

use crate::numeric;
use crate::types::PgType;

const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const TRAILER: [u8; 2] = (-1i16).to_be_bytes();
/// Days and microseconds from 1970 to 2000, where Postgres counts from.
const EPOCH_DAYS: i32 = 10_957;
const EPOCH_US: i64 = 946_684_800_000_000;
/// Version of the binary form of `jsonb`.
const JSONB_VERSION: u8 = 1;

/// A column brought to the one Arrow type that is written as its Postgres type.
enum Column {
    Boolean(BooleanArray),
    SmallInt(PrimitiveArray<Int16Type>),
    Integer(PrimitiveArray<Int32Type>),
    BigInt(PrimitiveArray<Int64Type>),
    Real(PrimitiveArray<Float32Type>),
    Double(PrimitiveArray<Float64Type>),
    Numeric(u8, PrimitiveArray<Decimal128Type>),
    Text(StringArray),
    Bytea(BinaryArray),
    Date(PrimitiveArray<Date32Type>),
    Time(PrimitiveArray<Time64MicrosecondType>),
    Timestamp(PrimitiveArray<TimestampMicrosecondType>),
    Interval(PrimitiveArray<DurationMicrosecondType>),
    Jsonb(Vec<Option<Bytes>>),
}

/// The rows of `columns` as one COPY stream.
///
/// # Errors
/// Fatal when a column has no Postgres type.
pub(crate) fn encode(columns: &[ArrayRef], rows: usize) -> Result<Bytes> {
    let columns = columns.iter().map(Column::new).collect::<Result<Vec<_>>>()?;
    let width = i16::try_from(columns.len())
        .map_err(|_| ConnectError::fatal("COPY", "a table has at most 1600 columns"))?;
    let mut out = Vec::with_capacity(HEADER.len() + rows * (2 + columns.len() * 12) + TRAILER.len());
    out.extend_from_slice(HEADER);
    for row in 0..rows {
        out.extend_from_slice(&width.to_be_bytes());
        for column in &columns {
            column.write(row, &mut out);
        }
    }
    out.extend_from_slice(&TRAILER);
    Ok(Bytes::from(out))
}

impl Column {
    fn new(column: &ArrayRef) -> Result<Self> {
        let data_type = column.data_type();
        let to = |target: &DataType| cast(column, target).map_err(|error| ConnectError::fatal("COPY", error));
        let pg_type = PgType::of(data_type).ok_or_else(|| {
            ConnectError::fatal("COPY", format!("there is no Postgres type for a column of type {data_type}"))
        })?;
        Ok(match pg_type {
            PgType::Boolean => Self::Boolean(to(&DataType::Boolean)?.as_boolean().clone()),
            PgType::SmallInt => Self::SmallInt(to(&DataType::Int16)?.as_primitive().clone()),
            PgType::Integer => Self::Integer(to(&DataType::Int32)?.as_primitive().clone()),
            PgType::BigInt => Self::BigInt(to(&DataType::Int64)?.as_primitive().clone()),
            PgType::Real => Self::Real(to(&DataType::Float32)?.as_primitive().clone()),
            PgType::Double => Self::Double(to(&DataType::Float64)?.as_primitive().clone()),
            PgType::Numeric(precision, scale) => {
                let scaled = DataType::Decimal128(precision, i8::try_from(scale).unwrap_or(i8::MAX));
                Self::Numeric(scale, to(&scaled)?.as_primitive().clone())
            }
            PgType::Text => Self::Text(to(&DataType::Utf8)?.as_string().clone()),
            PgType::Bytea => Self::Bytea(to(&DataType::Binary)?.as_binary().clone()),
            PgType::Date => Self::Date(to(&DataType::Date32)?.as_primitive().clone()),
            PgType::Time => Self::Time(to(&DataType::Time64(TimeUnit::Microsecond))?.as_primitive().clone()),
            PgType::Timestamp | PgType::TimestampTz => {
                // The zone is dropped without a shift: both count from the same instant in UTC.
                let zone = match data_type {
                    DataType::Timestamp(_, zone) => zone.clone(),
                    _ => None,
                };
                Self::Timestamp(to(&DataType::Timestamp(TimeUnit::Microsecond, zone))?.as_primitive().clone())
            }
            PgType::Interval => {
                Self::Interval(to(&DataType::Duration(TimeUnit::Microsecond))?.as_primitive().clone())
            }
            PgType::Jsonb => Self::Jsonb(json(column)?),
        })
    }

    fn write(&self, row: usize, out: &mut Vec<u8>) {
        match self {
            Self::Boolean(values) if values.is_valid(row) => field(out, &[u8::from(values.value(row))]),
            Self::SmallInt(values) if values.is_valid(row) => field(out, &values.value(row).to_be_bytes()),
            Self::Integer(values) if values.is_valid(row) => field(out, &values.value(row).to_be_bytes()),
            Self::BigInt(values) if values.is_valid(row) => field(out, &values.value(row).to_be_bytes()),
            Self::Real(values) if values.is_valid(row) => field(out, &values.value(row).to_be_bytes()),
            Self::Double(values) if values.is_valid(row) => field(out, &values.value(row).to_be_bytes()),
            Self::Numeric(scale, values) if values.is_valid(row) => {
                let at = out.len();
                out.extend_from_slice(&[0; 4]);
                numeric::write(values.value(row), *scale, out);
                let length = i32::try_from(out.len() - at - 4).expect("a numeric is a few bytes");
                out[at..at + 4].copy_from_slice(&length.to_be_bytes());
            }
            Self::Text(values) if values.is_valid(row) => field(out, values.value(row).as_bytes()),
            Self::Bytea(values) if values.is_valid(row) => field(out, values.value(row)),
            Self::Date(values) if values.is_valid(row) => {
                field(out, &values.value(row).saturating_sub(EPOCH_DAYS).to_be_bytes());
            }
            Self::Time(values) if values.is_valid(row) => field(out, &values.value(row).to_be_bytes()),
            Self::Timestamp(values) if values.is_valid(row) => {
                field(out, &values.value(row).saturating_sub(EPOCH_US).to_be_bytes());
            }
            Self::Interval(values) if values.is_valid(row) => {
                let mut interval = [0; 16]; // microseconds, days, months
                interval[..8].copy_from_slice(&values.value(row).to_be_bytes());
                field(out, &interval);
            }
            Self::Jsonb(values) => match values.get(row) {
                Some(Some(json)) => {
                    let length = i32::try_from(json.len() + 1).unwrap_or(i32::MAX);
                    out.extend_from_slice(&length.to_be_bytes());
                    out.push(JSONB_VERSION);
                    out.extend_from_slice(json);
                }
                _ => out.extend_from_slice(&(-1i32).to_be_bytes()),
            },
            _ => out.extend_from_slice(&(-1i32).to_be_bytes()), // null
        }
    }
}

fn field(out: &mut Vec<u8>, value: &[u8]) {
    let length = i32::try_from(value.len()).expect("a record is far below 2 GiB");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(value);
}

/// Each value as JSON text: what stands behind the name in an object of this one column.
fn json(column: &ArrayRef) -> Result<Vec<Option<Bytes>>> {
    let schema = Schema::new(vec![Field::new("v", column.data_type().clone(), true)]);
    let rows = RecordBatch::try_new(schema.into(), vec![column.clone()])
        .map_err(|error| ConnectError::fatal("COPY", error))?;
    let objects = JsonConverter.encode(&rows)?;
    let value = |object: Bytes| (object.len() > 6).then(|| object.slice(5..object.len() - 1)); // {"v":...}
    Ok(objects.into_iter().map(value).collect())
}
