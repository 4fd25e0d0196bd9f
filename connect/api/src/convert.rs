//! Converters: rows to the values of records and back, at the log's edge only.

mod bytes;
mod datetime;
pub mod exact;
mod json;
mod text;

use ::bytes::Bytes;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

pub use bytes::BytesConverter;
pub use datetime::DateTime;
pub use json::JsonConverter;
pub use text::StringConverter;

use crate::Result;

/// Rows to values of records and back. One row is one value.
pub trait Converter: Send + Sync {
    /// The value of each row.
    ///
    /// # Errors
    /// Fatal when a type of `rows` has no form in this format.
    fn encode(&self, rows: &RecordBatch) -> Result<Vec<Bytes>>;

    /// Rows of `schema` from values. A value that does not decode is left out of the rows and named in [`Decoded::bad`]; it never
    /// fails the others.
    ///
    /// # Errors
    /// Fatal when `schema` has no form in this format.
    fn decode(&self, schema: &SchemaRef, values: &[Bytes]) -> Result<Decoded>;
}

/// What [`Converter::decode`] made of values.
#[derive(Clone, Debug)]
pub struct Decoded {
    /// The rows that decoded, in order.
    pub rows: RecordBatch,
    /// Index and reason of each value that did not, ascending by index.
    pub bad: Vec<(usize, String)>,
}

/// The converter of this name: `json`, `string` or `bytes`.
pub fn converter(name: &str) -> Option<Box<dyn Converter>> {
    match name {
        "json" => Some(Box::new(JsonConverter)),
        "string" => Some(Box::new(StringConverter)),
        "bytes" => Some(Box::new(BytesConverter)),
        _ => None,
    }
}

/// Names that [`converter`] knows.
pub const CONVERTERS: &[&str] = &["json", "string", "bytes"];

#[cfg(test)]
mod tests;
