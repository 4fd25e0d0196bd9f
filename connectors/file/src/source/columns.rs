//! Text to typed columns: exactly, or not at all.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, ArrowPrimitiveType, BinaryBuilder, BooleanBuilder, Decimal128Builder, PrimitiveBuilder,
    StringBuilder,
};
use arrow::compute::kernels::cast_utils::Parser;
use arrow::datatypes::*;
use millstream_connect_api::convert::{DateTime, exact};
use millstream_connect_api::types::type_name;
use millstream_connect_api::{ConnectError, Result};

/// Bytes that a text is guessed to have.
const TEXT_BYTES: usize = 16;

/// Builds one column from texts.
pub(super) trait FieldBuilder: Send {
    /// Adds a value; false when the text is none of the column's type (nothing is added then).
    fn append(&mut self, text: &str) -> bool;
    fn append_null(&mut self);
    fn finish(&mut self) -> ArrayRef;
}

/// A builder for columns of this type.
///
/// # Errors
/// Fatal when texts cannot become such values.
pub(super) fn field_builder(data_type: &DataType, rows: usize) -> Result<Box<dyn FieldBuilder>> {
    macro_rules! primitive {
        ($type:ty, $parse:expr) => {
            Box::new(Primitive {
                builder: PrimitiveBuilder::<$type>::with_capacity(rows).with_data_type(data_type.clone()),
                parse: $parse,
            })
        };
    }
    macro_rules! integer {
        ($type:ty) => {
            primitive!($type, |text| text.parse().ok().or_else(|| <$type as Parser>::parse(text)))
        };
    }
    macro_rules! timestamp {
        ($type:ty) => {
            primitive!($type, |text| date_time(text, <$type>::UNIT).or_else(|| {
                exact::fits_unit(text, <$type>::UNIT).then(|| <$type as Parser>::parse(text)).flatten()
            }))
        };
    }
    macro_rules! time {
        ($type:ty, $unit:expr) => {
            primitive!($type, |text| {
                let is_kept = exact::scaled(text, 0).is_none() && exact::fits_unit(text, $unit);
                is_kept.then(|| <$type as Parser>::parse(text)).flatten()
            })
        };
    }
    Ok(match data_type {
        DataType::Boolean => Box::new(Boolean(BooleanBuilder::with_capacity(rows))),
        DataType::Int8 => integer!(Int8Type),
        DataType::Int16 => integer!(Int16Type),
        DataType::Int32 => integer!(Int32Type),
        DataType::Int64 => integer!(Int64Type),
        DataType::UInt8 => integer!(UInt8Type),
        DataType::UInt16 => integer!(UInt16Type),
        DataType::UInt32 => integer!(UInt32Type),
        DataType::UInt64 => integer!(UInt64Type),
        DataType::Float32 => primitive!(Float32Type, exact::float32),
        DataType::Float64 => primitive!(Float64Type, exact::float64),
        DataType::Date32 => primitive!(Date32Type, |text| <Date32Type as Parser>::parse(text)
            .filter(|_| exact::fits_day(text))),
        DataType::Time32(TimeUnit::Second) => time!(Time32SecondType, TimeUnit::Second),
        DataType::Time32(TimeUnit::Millisecond) => time!(Time32MillisecondType, TimeUnit::Millisecond),
        DataType::Time64(TimeUnit::Microsecond) => time!(Time64MicrosecondType, TimeUnit::Microsecond),
        DataType::Time64(TimeUnit::Nanosecond) => time!(Time64NanosecondType, TimeUnit::Nanosecond),
        DataType::Timestamp(TimeUnit::Second, _) => timestamp!(TimestampSecondType),
        DataType::Timestamp(TimeUnit::Millisecond, _) => timestamp!(TimestampMillisecondType),
        DataType::Timestamp(TimeUnit::Microsecond, _) => timestamp!(TimestampMicrosecondType),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => timestamp!(TimestampNanosecondType),
        DataType::Decimal128(precision, scale) => Box::new(Decimal {
            precision: *precision,
            scale: *scale,
            builder: Decimal128Builder::with_capacity(rows).with_data_type(data_type.clone()),
        }),
        DataType::Utf8 => Box::new(Text(StringBuilder::with_capacity(rows, rows * TEXT_BYTES))),
        DataType::Binary => Box::new(Raw(BinaryBuilder::with_capacity(rows, rows * TEXT_BYTES))),
        other => {
            let reason =
                format!("CSV has no values of type {}; read the column as a string", type_name(other));
            return Err(ConnectError::fatal("reading CSV", reason));
        }
    })
}

/// The common form of a timestamp, with or without a `Z`, if the unit holds it exactly.
fn date_time(text: &str, unit: TimeUnit) -> Option<i64> {
    let at = DateTime::read(text, true).or_else(|| DateTime::read(text, false))?;
    at.exact_count(unit)
}

struct Primitive<T: ArrowPrimitiveType> {
    builder: PrimitiveBuilder<T>,
    parse: fn(&str) -> Option<T::Native>,
}

impl<T: ArrowPrimitiveType> FieldBuilder for Primitive<T> {
    fn append(&mut self, text: &str) -> bool {
        match (self.parse)(text.trim_ascii()) {
            Some(value) => {
                self.builder.append_value(value);
                true
            }
            None => false,
        }
    }

    fn append_null(&mut self) {
        self.builder.append_null();
    }

    fn finish(&mut self) -> ArrayRef {
        Arc::new(self.builder.finish())
    }
}

struct Boolean(BooleanBuilder);

/// `true` or `false`, in any case.
pub(super) fn parse_boolean(text: &str) -> Option<bool> {
    let text = text.trim_ascii();
    if text.eq_ignore_ascii_case("true") {
        Some(true)
    } else if text.eq_ignore_ascii_case("false") {
        Some(false)
    } else {
        None
    }
}

impl FieldBuilder for Boolean {
    fn append(&mut self, text: &str) -> bool {
        let value = parse_boolean(text);
        if let Some(value) = value {
            self.0.append_value(value);
        }
        value.is_some()
    }

    fn append_null(&mut self) {
        self.0.append_null();
    }

    fn finish(&mut self) -> ArrayRef {
        Arc::new(self.0.finish())
    }
}

struct Decimal {
    precision: u8,
    scale: i8,
    builder: Decimal128Builder,
}

impl FieldBuilder for Decimal {
    fn append(&mut self, text: &str) -> bool {
        let value = exact::decimal(text.trim_ascii(), self.precision, self.scale);
        if let Some(value) = value {
            self.builder.append_value(value);
        }
        value.is_some()
    }

    fn append_null(&mut self) {
        self.builder.append_null();
    }

    fn finish(&mut self) -> ArrayRef {
        Arc::new(self.builder.finish())
    }
}

struct Text(StringBuilder);

impl FieldBuilder for Text {
    fn append(&mut self, text: &str) -> bool {
        self.0.append_value(text);
        true
    }

    fn append_null(&mut self) {
        self.0.append_null();
    }

    fn finish(&mut self) -> ArrayRef {
        Arc::new(self.0.finish())
    }
}

struct Raw(BinaryBuilder);

impl FieldBuilder for Raw {
    fn append(&mut self, text: &str) -> bool {
        self.0.append_value(text.as_bytes());
        true
    }

    fn append_null(&mut self) {
        self.0.append_null();
    }

    fn finish(&mut self) -> ArrayRef {
        Arc::new(self.0.finish())
    }
}
