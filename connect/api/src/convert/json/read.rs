//! JSON objects to rows, the fast way: values go from the text into columns, and what no column wants is passed over.
//!
//! It reads what [`super::write`] writes, and what other programs commonly do; whatever else there is (a type without
//! [`cells`], a number in quotes or one that a column does not hold exactly, a name twice, a syntax error) ends it for the whole batch, and the library has to look at
//! that. So this reads rows as the library does or does not read them at all, and needs no error messages.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, ArrowPrimitiveType, BooleanBuilder, PrimitiveBuilder, RecordBatch, StringBuilder,
};
use arrow::compute::kernels::cast_utils::Parser;
use arrow::datatypes::*;
use bytes::Bytes;

use super::cursor::Cursor;
use super::not_finite;
use crate::convert::{DateTime, exact};

/// Names in the objects of one batch that are remembered.
const MAX_NAMES: usize = 1024;
/// Bytes that a text is guessed to have.
const TEXT_BYTES: usize = 16;

/// The rows, or `None`: the library has to look.
pub(super) fn read(schema: &SchemaRef, values: &[Bytes]) -> Option<RecordBatch> {
    let column = |field: &FieldRef| Column::new(field, values.len());
    let mut columns = schema.fields().iter().map(column).collect::<Option<Vec<_>>>()?;
    let mut names = Names::default();
    for (row, value) in values.iter().enumerate() {
        let mut cursor = Cursor::new(std::str::from_utf8(value).ok()?);
        read_row(&mut cursor, schema, &mut names, &mut columns, row)?;
        columns.iter_mut().try_for_each(|column| column.leave_out(row))?;
    }
    let columns = columns.iter_mut().map(|column| column.cells.finish()).collect();
    RecordBatch::try_new(Arc::clone(schema), columns).ok()
}

fn read_row(
    cursor: &mut Cursor<'_>,
    schema: &SchemaRef,
    names: &mut Names,
    columns: &mut [Column],
    row: usize,
) -> Option<()> {
    cursor.take(b'{')?;
    names.next = 0;
    if cursor.peek()? == b'}' {
        cursor.take(b'}')?;
        return cursor.at_end();
    }
    loop {
        match names.column(cursor, schema)?.and_then(|at| columns.get_mut(at)) {
            Some(column) => column.read(cursor, row)?,
            None => cursor.skip()?,
        }
        match cursor.peek()? {
            b',' => cursor.take(b',')?,
            _ => {
                cursor.take(b'}')?;
                return cursor.at_end();
            }
        }
    }
}

/// Names in the order in which objects have them, as far as it is known. Most objects of a topic have one order.
#[derive(Default)]
struct Names {
    known: Vec<Name>,
    /// The one that is likely next.
    next: usize,
}

struct Name {
    /// With quotes and colon.
    written: String,
    name: String,
    /// Where the values go, if somebody wants them.
    column: Option<usize>,
}

impl Names {
    /// Passes a name and its colon. `None`: the text is odd, or there are too many names.
    fn column(&mut self, cursor: &mut Cursor<'_>, schema: &SchemaRef) -> Option<Option<usize>> {
        if let Some(likely) = self.known.get(self.next)
            && cursor.text(&likely.written)
        {
            self.next += 1;
            return Some(likely.column);
        }
        let (name, written) = cursor.name()?;
        // Behind the likely one first: names of nulls are left out.
        let next = self.next.min(self.known.len());
        let mut places = (next..self.known.len()).chain(0..next);
        let is_it = |at: &usize| self.known.get(*at).is_some_and(|known| known.name == name);
        let at = match places.find(is_it) {
            Some(at) => at,
            None if self.known.len() == MAX_NAMES => return None,
            None => {
                let column = schema.fields().iter().position(|field| *field.name() == name);
                let known = Name { written: written.to_owned(), name: name.into_owned(), column };
                self.known.insert(next, known);
                next
            }
        };
        self.next = at + 1;
        self.known.get(at).map(|known| known.column)
    }
}

struct Column {
    cells: Box<dyn Cells>,
    /// Rows that have their value.
    filled: usize,
    nullable: bool,
}

impl Column {
    fn new(field: &Field, rows: usize) -> Option<Self> {
        Some(Self { cells: cells(field.data_type(), rows)?, filled: 0, nullable: field.is_nullable() })
    }

    fn read(&mut self, cursor: &mut Cursor<'_>, row: usize) -> Option<()> {
        if self.filled != row {
            return None; // the name is there twice
        }
        if cursor.peek()? == b'n' {
            cursor.word("null")?;
            return self.leave_out(row);
        }
        self.filled += 1;
        self.cells.read(cursor)
    }

    /// Null, if the row has no value yet.
    fn leave_out(&mut self, row: usize) -> Option<()> {
        if self.filled == row {
            if !self.nullable {
                return None;
            }
            self.filled += 1;
            self.cells.append_null();
        }
        Some(())
    }
}

/// Values of one column.
trait Cells {
    fn read(&mut self, cursor: &mut Cursor<'_>) -> Option<()>;
    fn append_null(&mut self);
    fn finish(&mut self) -> ArrayRef;
}

fn cells(data_type: &DataType, rows: usize) -> Option<Box<dyn Cells>> {
    macro_rules! primitive {
        ($kind:ident, $type:ty) => {
            Box::new($kind(PrimitiveBuilder::<$type>::with_capacity(rows).with_data_type(data_type.clone())))
        };
    }
    macro_rules! date_time {
        ($type:ty, $zone:expr) => {
            Box::new(DateTimes {
                builder: PrimitiveBuilder::<$type>::with_capacity(rows).with_data_type(data_type.clone()),
                is_utc: $zone.is_some(),
            })
        };
    }
    Some(match data_type {
        DataType::Boolean => Box::new(Booleans(BooleanBuilder::with_capacity(rows))),
        DataType::Int8 => primitive!(Integers, Int8Type),
        DataType::Int16 => primitive!(Integers, Int16Type),
        DataType::Int32 => primitive!(Integers, Int32Type),
        DataType::Int64 => primitive!(Integers, Int64Type),
        DataType::UInt8 => primitive!(Integers, UInt8Type),
        DataType::UInt16 => primitive!(Integers, UInt16Type),
        DataType::UInt32 => primitive!(Integers, UInt32Type),
        DataType::UInt64 => primitive!(Integers, UInt64Type),
        DataType::Float32 => Box::new(Floats {
            builder: PrimitiveBuilder::<Float32Type>::with_capacity(rows),
            parse: exact::float32,
        }),
        DataType::Float64 => Box::new(Floats {
            builder: PrimitiveBuilder::<Float64Type>::with_capacity(rows),
            parse: exact::float64,
        }),
        DataType::Decimal128(precision, scale) => Box::new(Decimals {
            builder: PrimitiveBuilder::with_capacity(rows).with_data_type(data_type.clone()),
            precision: *precision,
            scale: *scale,
        }),
        DataType::Date32 => Box::new(Dates(PrimitiveBuilder::with_capacity(rows))),
        DataType::Utf8 => Box::new(Texts(StringBuilder::with_capacity(rows, rows * TEXT_BYTES))),
        DataType::Timestamp(unit, zone) if zone.as_deref().is_none_or(|zone| zone == crate::types::UTC) => {
            match unit {
                TimeUnit::Second => date_time!(TimestampSecondType, zone),
                TimeUnit::Millisecond => date_time!(TimestampMillisecondType, zone),
                TimeUnit::Microsecond => date_time!(TimestampMicrosecondType, zone),
                TimeUnit::Nanosecond => date_time!(TimestampNanosecondType, zone),
            }
        }
        _ => return None,
    })
}

struct Booleans(BooleanBuilder);

fn boolean(cursor: &mut Cursor<'_>) -> Option<bool> {
    let is_true = cursor.peek()? == b't';
    cursor.word(if is_true { "true" } else { "false" })?;
    Some(is_true)
}

impl Cells for Booleans {
    fn read(&mut self, cursor: &mut Cursor<'_>) -> Option<()> {
        self.0.append_value(boolean(cursor)?);
        Some(())
    }

    fn append_null(&mut self) {
        self.0.append_null();
    }

    fn finish(&mut self) -> ArrayRef {
        Arc::new(self.0.finish())
    }
}

struct Integers<T: ArrowPrimitiveType>(PrimitiveBuilder<T>);

impl<T: ArrowPrimitiveType<Native: TryFrom<i64> + TryFrom<u64>>> Cells for Integers<T> {
    fn read(&mut self, cursor: &mut Cursor<'_>) -> Option<()> {
        let number = cursor.number()?;
        let value = match number.strip_prefix('-') {
            Some(digits) => T::Native::try_from(0i64.checked_sub_unsigned(magnitude(digits)?)?).ok()?,
            None => T::Native::try_from(magnitude(number)?).ok()?,
        };
        self.0.append_value(value);
        Some(())
    }

    fn append_null(&mut self) {
        self.0.append_null();
    }

    fn finish(&mut self) -> ArrayRef {
        Arc::new(self.0.finish())
    }
}

/// The number that digits say; `None` when there is something else, or too many.
fn magnitude(digits: &str) -> Option<u64> {
    digits.bytes().try_fold(0u64, |number, digit| {
        let digit = digit.wrapping_sub(b'0');
        (digit < 10).then_some(())?;
        number.checked_mul(10)?.checked_add(digit.into())
    })
}

struct Floats<T: ArrowPrimitiveType> {
    builder: PrimitiveBuilder<T>,
    parse: fn(&str) -> Option<T::Native>,
}

impl<T: ArrowPrimitiveType> Cells for Floats<T> {
    fn read(&mut self, cursor: &mut Cursor<'_>) -> Option<()> {
        let value = match cursor.peek()? {
            b'"' => not_finite(&cursor.string()?, self.parse)?,
            _ => (self.parse)(cursor.number()?)?,
        };
        self.builder.append_value(value);
        Some(())
    }

    fn append_null(&mut self) {
        self.builder.append_null();
    }

    fn finish(&mut self) -> ArrayRef {
        Arc::new(self.builder.finish())
    }
}

struct Decimals {
    builder: PrimitiveBuilder<Decimal128Type>,
    precision: u8,
    scale: i8,
}

impl Cells for Decimals {
    fn read(&mut self, cursor: &mut Cursor<'_>) -> Option<()> {
        self.builder.append_value(exact::decimal(cursor.number()?, self.precision, self.scale)?);
        Some(())
    }

    fn append_null(&mut self) {
        self.builder.append_null();
    }

    fn finish(&mut self) -> ArrayRef {
        Arc::new(self.builder.finish())
    }
}

struct Texts(StringBuilder);

impl Cells for Texts {
    fn read(&mut self, cursor: &mut Cursor<'_>) -> Option<()> {
        match cursor.peek()? {
            b'"' => self.0.append_value(cursor.string()?),
            b't' | b'f' => self.0.append_value(boolean(cursor)?.to_string()),
            _ => self.0.append_value(cursor.number()?),
        }
        Some(())
    }

    fn append_null(&mut self) {
        self.0.append_null();
    }

    fn finish(&mut self) -> ArrayRef {
        Arc::new(self.0.finish())
    }
}

struct Dates(PrimitiveBuilder<Date32Type>);

impl Cells for Dates {
    fn read(&mut self, cursor: &mut Cursor<'_>) -> Option<()> {
        let text = cursor.string()?;
        let is_common = text.len() == exact::DATE_BYTES && text.starts_with(|c: char| c.is_ascii_digit());
        self.0.append_value(is_common.then(|| Date32Type::parse(&text)).flatten()?);
        Some(())
    }

    fn append_null(&mut self) {
        self.0.append_null();
    }

    fn finish(&mut self) -> ArrayRef {
        Arc::new(self.0.finish())
    }
}

struct DateTimes<T: ArrowPrimitiveType> {
    builder: PrimitiveBuilder<T>,
    is_utc: bool,
}

impl<T: ArrowTimestampType> Cells for DateTimes<T> {
    fn read(&mut self, cursor: &mut Cursor<'_>) -> Option<()> {
        let at = DateTime::read(&cursor.string()?, self.is_utc)?;
        self.builder.append_value(at.exact_count(T::UNIT)?);
        Some(())
    }

    fn append_null(&mut self) {
        self.builder.append_null();
    }

    fn finish(&mut self) -> ArrayRef {
        Arc::new(self.builder.finish())
    }
}
