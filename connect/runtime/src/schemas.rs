//! The compacted topic of schemas: the key is a topic's name, the value its table's schema.

use arrow::datatypes::{DataType, FieldRef, TimeUnit};
use bytes::Bytes;
use millstream_connect_api::TableSchema;
use millstream_connect_api::types::type_name;

use crate::log::{Kept, KeyFilter, Log, NewRecord, Placement, TopicSpec};
use crate::{Result, RuntimeError, TableTopic};

/// The topic.
pub const SCHEMAS_TOPIC: &str = "__schemas";

pub(crate) fn topic_spec() -> TopicSpec {
    TopicSpec { name: SCHEMAS_TOPIC.into(), partitions: Some(1), kept: Kept::LastOfKey }
}

/// The stored schema of each topic, as (topic, table). A source that infers is handed those of its own topics, so that what it
/// inferred once stays.
///
/// # Errors
/// When the log cannot be read, or holds a schema that this version does not know.
pub async fn known_schemas(log: &dyn Log) -> Result<Vec<(String, TableSchema)>> {
    // What an earlier process left open is decided when its source starts, and is looked at again then.
    read(log, Box::new(|_| false)).await
}

async fn read(log: &dyn Log, matters: KeyFilter) -> Result<Vec<(String, TableSchema)>> {
    let stored = log.table(SCHEMAS_TOPIC.into(), matters).await?;
    let read = |(key, value): (Bytes, Bytes)| {
        let topic = String::from_utf8_lossy(&key).into_owned();
        let failed = |reason: String| {
            RuntimeError::log(
                format!("reading {SCHEMAS_TOPIC}"),
                format!("schema of {topic}: {reason}"),
                false,
            )
        };
        let json = serde_json::from_slice(&value).map_err(|error| failed(error.to_string()))?;
        let table = TableSchema::from_json(&json).map_err(|error| failed(error.to_string()))?;
        Ok((topic, table))
    };
    stored.into_iter().map(read).collect()
}

/// What differs between what a topic holds and what is wanted.
fn difference(stored: &TableSchema, wanted: &TableSchema) -> String {
    let mut found = Vec::new();
    for field in stored.schema.fields() {
        let (name, was) = (field.name(), type_name(field.data_type()));
        match wanted.schema.field_with_name(name) {
            Ok(now) if now.data_type() == field.data_type() => {}
            Ok(now) => found.push(format!("'{name}' was {was} and is {} now", type_name(now.data_type()))),
            Err(_) => found.push(format!("'{name}' ({was}) is gone")),
        }
    }
    for field in wanted.schema.fields() {
        if stored.schema.field_with_name(field.name()).is_err() {
            found.push(format!("'{}' ({}) is new", field.name(), type_name(field.data_type())));
        }
    }
    if stored.key != wanted.key {
        found.push(format!("its key was [{}] and is [{}] now", stored.key.join(", "), wanted.key.join(", ")));
    }
    match found.is_empty() {
        true => "its columns stand in another order".to_owned(), // or may be null where they could not
        false => found.join(", "),
    }
}

/// Compares the tables with what is stored. Answers the records to write for those that are new, and for those whose columns have
/// wider types now: rows are JSON, so those that are there can be read as such.
///
/// # Errors
/// When a topic holds rows of another schema.
pub(crate) async fn reconcile(log: &dyn Log, tables: &[TableTopic]) -> Result<Vec<NewRecord>> {
    let topics: Vec<_> = tables.iter().map(|to| to.topic.clone()).collect();
    let known = read(log, Box::new(move |key| topics.iter().any(|topic| topic.as_bytes() == key))).await?;
    let mut records = Vec::new();
    for TableTopic { table, topic, converter, .. } in tables {
        match known.iter().find(|(name, _)| name == topic) {
            Some((_, stored)) if stored.schema == table.schema && stored.key == table.key => {}
            Some((_, stored)) if converter == "json" && is_widened(stored, table) => {
                tracing::info!(%topic, changes = difference(stored, table), "its columns are wider from now on");
                records.push(stored_as(topic, table));
            }
            Some((_, stored)) => {
                return Err(RuntimeError::log(
                    format!("topic {topic}"),
                    format!(
                        "it holds rows of another schema: {}; put that back, declare types that all old values have too (of a whole number \
                         also float64, a wide decimal or string; of a date timestamp; of all these string), read it under another name, or \
                         begin anew without the topic (of a pipeline: millstream reset)",
                        difference(stored, table)
                    ),
                    false,
                ));
            }
            None => records.push(stored_as(topic, table)),
        }
    }
    Ok(records)
}

fn stored_as(topic: &str, table: &TableSchema) -> NewRecord {
    NewRecord {
        topic: SCHEMAS_TOPIC.into(),
        placement: Placement::ByKey,
        key: Some(Bytes::copy_from_slice(topic.as_bytes())),
        value: Some(Bytes::from(table.to_json().to_string())),
        timestamp: None,
        headers: Vec::new(),
    }
}

/// Whether the columns are the same but for types, and every value of the stored ones is one of those that are wanted. Columns of the key
/// decide where a row is and stay as they are.
fn is_widened(stored: &TableSchema, wanted: &TableSchema) -> bool {
    let same = |(was, now): (&FieldRef, &FieldRef)| {
        was.name() == now.name()
            && (now.is_nullable() || !was.is_nullable())
            && (was.data_type() == now.data_type()
                || (!stored.key.contains(was.name()) && is_wider(was.data_type(), now.data_type())))
    };
    let (was, now) = (stored.schema.fields(), wanted.schema.fields());
    let (keys, kinds) = (stored.key == wanted.key, stored.changelog == wanted.changelog);
    keys && kinds && was.len() == now.len() && was.iter().zip(now).all(same)
}

/// Whether values of a type, as they are written in JSON, are values of another. Whole numbers that a float does not hold exactly are not
/// rounded but refused, so a column of large ids is better declared as a decimal or a string.
fn is_wider(was: &DataType, now: &DataType) -> bool {
    match (was, now) {
        (DataType::Boolean | DataType::Date32 | DataType::Timestamp(..), DataType::Utf8) => true,
        (was, DataType::Utf8) => {
            was.is_integer() || was.is_floating() || matches!(was, DataType::Decimal128(..))
        }
        (DataType::Float32, DataType::Float64) => true,
        (was, DataType::Float64) => was.is_integer(),
        (DataType::Decimal128(precision, scale), DataType::Decimal128(wider, finer)) => {
            finer >= scale && whole_digits(*wider, *finer) >= whole_digits(*precision, *scale)
        }
        (was, DataType::Decimal128(precision, scale)) => {
            digits(was).is_some_and(|digits| whole_digits(*precision, *scale) >= digits)
        }
        (DataType::Date32, DataType::Timestamp(unit, _)) => *unit != TimeUnit::Nanosecond,
        (DataType::Timestamp(unit, zone), DataType::Timestamp(finer, same)) => {
            // Nanoseconds do not reach as far back and ahead.
            zone == same && *finer != TimeUnit::Nanosecond && finer > unit
        }
        (was, now) if was.is_integer() && now.is_integer() => {
            let signed = (was.is_signed_integer(), now.is_signed_integer());
            digits(now) > digits(was) && matches!(signed, (false, _) | (true, true))
        }
        _ => false,
    }
}

fn whole_digits(precision: u8, scale: i8) -> i16 {
    i16::from(precision) - i16::from(scale)
}

/// Most digits of a whole number of this type.
fn digits(data_type: &DataType) -> Option<i16> {
    Some(match data_type {
        DataType::Int8 | DataType::UInt8 => 3,
        DataType::Int16 | DataType::UInt16 => 5,
        DataType::Int32 | DataType::UInt32 => 10,
        DataType::Int64 => 19,
        DataType::UInt64 => 20,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, RecordBatch, new_null_array};
    use arrow::compute::cast;
    use arrow::datatypes::{Field, Schema};
    use millstream_connect_api::convert::{Converter, JsonConverter};
    use millstream_connect_api::types::parse_type;

    use super::*;

    fn table(data_type: &DataType) -> TableSchema {
        let schema = Schema::new(vec![Field::new("c", data_type.clone(), true)]);
        TableSchema::append_only("t", Arc::new(schema))
    }

    /// Values of a type, with the ends of its range where a cast from whole numbers gives them.
    fn values(data_type: &DataType) -> ArrayRef {
        let numbers =
            [0, 1, -1, 127, 32_767, -32_768, 2_147_483_647, 9_007_199_254_740_992, i64::MAX, i64::MIN];
        // Times that far off have no date.
        let farthest = match data_type {
            DataType::Date32 => 32_768,
            DataType::Timestamp(..) => 9_007_199_254_740_992,
            _ => u64::MAX,
        };
        let written = |n: &i64| n.unsigned_abs() <= farthest;
        let numbers = arrow::array::Int64Array::from_iter_values(numbers.into_iter().filter(written));
        cast(&numbers, data_type).unwrap_or_else(|_| new_null_array(data_type, 1))
    }

    #[test]
    fn rows_of_a_type_that_was_widened_can_be_read() {
        let names = [
            "boolean",
            "int8",
            "int16",
            "int32",
            "int64",
            "uint8",
            "uint16",
            "uint32",
            "uint64",
            "float32",
            "float64",
            "decimal(10,2)",
            "decimal(22,2)",
            "decimal(38,6)",
            "string",
            "date",
            "timestamp",
        ];
        let types: Vec<_> = names.iter().map(|name| parse_type(name).expect(name)).collect();
        let mut widened = Vec::new();
        for (was, name) in types.iter().zip(names) {
            for (now, other) in types.iter().zip(names).filter(|(now, _)| *now != was) {
                if !is_widened(&table(was), &table(now)) {
                    continue;
                }
                widened.push(format!("{name} {other}"));
                let rows = RecordBatch::try_new(table(was).schema, vec![values(was)]).unwrap();
                let written = JsonConverter.encode(&rows).unwrap();
                let decoded = JsonConverter.decode(&table(now).schema, &written).unwrap();
                let large = other == "float64" && name.ends_with("int64");
                assert!(decoded.bad.is_empty() || large, "{name} to {other}: {:?}", decoded.bad);
            }
        }
        for expected in [
            "int64 float64",
            "int64 decimal(22,2)",
            "int32 int64",
            "uint32 int64",
            "date timestamp",
            "date string",
        ] {
            assert!(widened.iter().any(|found| found == expected), "{expected}: {widened:?}");
        }
        for refused in [
            "float64 int64",
            "int64 decimal(10,2)",
            "int64 int32",
            "int64 uint64",
            "string int64",
            "timestamp date",
        ] {
            assert!(!widened.iter().any(|found| found == refused), "{refused}");
        }
        let (mut was, mut now) = (table(&DataType::Int64), table(&DataType::Float64));
        (was.key, now.key) = (vec!["c".into()], vec!["c".into()]);
        assert!(!is_widened(&was, &now), "a key stays");
    }
}
