//! The compacted topic of schemas: the key is a topic's name, the value its table's schema.

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

/// Compares the tables with what is stored. Answers the records to write for those that are new.
///
/// # Errors
/// When a topic holds rows of another schema.
pub(crate) async fn reconcile(log: &dyn Log, tables: &[TableTopic]) -> Result<Vec<NewRecord>> {
    let topics: Vec<_> = tables.iter().map(|to| to.topic.clone()).collect();
    let known = read(log, Box::new(move |key| topics.iter().any(|topic| topic.as_bytes() == key))).await?;
    let mut records = Vec::new();
    for TableTopic { table, topic, .. } in tables {
        match known.iter().find(|(name, _)| name == topic) {
            Some((_, stored)) if stored.schema == table.schema && stored.key == table.key => {}
            Some((_, stored)) => {
                return Err(RuntimeError::log(
                    format!("topic {topic}"),
                    format!(
                        "it holds rows of another schema: {}; put that back, read it under another name, or begin anew without the topic \
                         (of a pipeline: millstream reset)",
                        difference(stored, table)
                    ),
                    false,
                ));
            }
            None => records.push(NewRecord {
                topic: SCHEMAS_TOPIC.into(),
                placement: Placement::ByKey,
                key: Some(Bytes::copy_from_slice(topic.as_bytes())),
                value: Some(Bytes::from(table.to_json().to_string())),
                timestamp: None,
                headers: Vec::new(),
            }),
        }
    }
    Ok(records)
}
