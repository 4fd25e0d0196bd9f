//! Schemas of tables, and their frozen text form in the compacted topic `__schemas`.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use serde_json::{Value, json};

use crate::types::{parse_type, type_name};
use crate::{ConnectError, Result};

/// Version of the text form.
const VERSION: u64 = 1;

/// A table that a source yields or a sink takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSchema {
    /// Name of the table.
    pub name: Arc<str>,
    /// Columns and their types.
    pub schema: SchemaRef,
    /// Columns of the key, in order; empty when rows have none.
    pub key: Vec<String>,
    /// Whether rows may replace and delete earlier ones (a changelog), or are only ever added.
    pub changelog: bool,
}

impl TableSchema {
    /// An append-only table without a key.
    pub fn append_only(name: impl Into<Arc<str>>, schema: SchemaRef) -> Self {
        Self { name: name.into(), schema, key: Vec::new(), changelog: false }
    }

    /// The value of this table's record in `__schemas`; the record's key is the topic's name.
    pub fn to_json(&self) -> Value {
        json!({
            "version": VERSION,
            "name": &*self.name,
            "columns": self.schema.fields().iter().map(|field| json!({
                "name": field.name(),
                "type": type_name(field.data_type()),
                "nullable": field.is_nullable(),
            })).collect::<Vec<_>>(),
            "key": self.key,
            "changelog": self.changelog,
        })
    }

    /// Reads what [`TableSchema::to_json`] wrote.
    ///
    /// # Errors
    /// Fatal when the text is of a newer version, or is not such a text.
    pub fn from_json(value: &Value) -> Result<Self> {
        let wrong = |what: &str| ConnectError::fatal("reading a stored schema", format!("{what} in {value}"));
        if value["version"].as_u64() != Some(VERSION) {
            return Err(wrong("unknown version"));
        }
        let columns = value["columns"].as_array().ok_or_else(|| wrong("no columns"))?;
        let fields = columns.iter().map(|column| {
            let name = column["name"].as_str().ok_or_else(|| wrong("a column without a name"))?;
            let text = column["type"].as_str().ok_or_else(|| wrong("a column without a type"))?;
            let data_type = parse_type(text).map_err(|reason| wrong(&reason))?;
            Ok(Field::new(name, data_type, column["nullable"].as_bool().unwrap_or(true)))
        });
        let key = value["key"].as_array().map(Vec::as_slice).unwrap_or_default();
        let key = key.iter().map(|name| name.as_str().map(str::to_owned).ok_or_else(|| wrong("a bad key")));
        Ok(Self {
            name: value["name"].as_str().ok_or_else(|| wrong("no name"))?.into(),
            schema: Arc::new(Schema::new(fields.collect::<Result<Vec<_>>>()?)),
            key: key.collect::<Result<_>>()?,
            changelog: value["changelog"].as_bool().unwrap_or(false),
        })
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, TimeUnit};

    use super::*;

    #[test]
    fn the_stored_form_is_frozen_and_reads_back() {
        let table = TableSchema {
            name: "shop.orders".into(),
            schema: Arc::new(Schema::new(vec![
                Field::new("id", DataType::Int64, false),
                Field::new("amount", DataType::Decimal128(10, 2), true),
                Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into())), true),
                Field::new(
                    "tags",
                    DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true))),
                    true,
                ),
            ])),
            key: vec!["id".into()],
            changelog: true,
        };
        let text = table.to_json().to_string();
        assert_eq!(
            text,
            r#"{"changelog":true,"columns":[{"name":"id","nullable":false,"type":"int64"},{"name":"amount","nullable":true,"type":"decimal(10,2)"},{"name":"at","nullable":true,"type":"timestamp"},{"name":"tags","nullable":true,"type":"list<string>"}],"key":["id"],"name":"shop.orders","version":1}"#
        );
        assert_eq!(TableSchema::from_json(&serde_json::from_str(&text).unwrap()).unwrap(), table);
    }

    #[test]
    fn a_newer_or_broken_form_is_refused() {
        for text in
            [r#"{"version":2}"#, "{}", r#"{"version":1,"name":"x","columns":[{"name":"a","type":"wat"}]}"#]
        {
            assert!(TableSchema::from_json(&serde_json::from_str(text).unwrap()).is_err(), "{text}");
        }
    }
}
