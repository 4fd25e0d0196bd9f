//! The compacted topic of schemas: the key is a topic's name, the value its table's schema.

use bytes::Bytes;
use millstream_connect_api::TableSchema;

use crate::log::{KeyFilter, Log, NewRecord, Placement, TopicSpec};
use crate::{Result, RuntimeError, TableTopic};

/// The topic.
pub const SCHEMAS_TOPIC: &str = "__schemas";

pub(crate) fn topic_spec() -> TopicSpec {
    TopicSpec { name: SCHEMAS_TOPIC.into(), partitions: Some(1), compacted: true }
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
                        "it holds rows of another schema: {} where {} is wanted; choose another topic, or remove this one",
                        stored.to_json(),
                        table.to_json()
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
