//! The compacted topic of positions: written in the transaction of the rows that they are behind.
//!
//! A key is `[namespace, source, partition]` as JSON, a value the position as the connector gave it. The key
//! `[namespace, source]` holds where the output of a drained source ends.

use bytes::Bytes;
use millstream_connect_api::Positions;
use serde_json::{Value, json};

use crate::log::{Log, NewRecord, Placement, TopicSpec};
use crate::{Ends, Result, RuntimeError};

/// The topic.
pub const OFFSETS_TOPIC: &str = "__connect_offsets";

/// Partitions of the topic: one, so that it is read quickly at each start; positions are few and small.
const PARTITIONS: i32 = 1;

pub(crate) fn topic_spec() -> TopicSpec {
    TopicSpec { name: OFFSETS_TOPIC.into(), partitions: Some(PARTITIONS), compacted: true }
}

/// The stored positions of a source.
pub(crate) async fn load(log: &dyn Log, namespace: &str, source: &str) -> Result<Positions> {
    let mut positions = Positions::new();
    for (key, value) in log.table(OFFSETS_TOPIC.into()).await? {
        let Ok(Value::Array(key)) = serde_json::from_slice(&key) else { continue };
        if let [Value::String(space), Value::String(name), Value::String(partition)] = &key[..]
            && (space == namespace && name == source)
        {
            let value = serde_json::from_slice(&value).map_err(|error| {
                RuntimeError::log(
                    format!("reading {OFFSETS_TOPIC}"),
                    format!("position of {source}: {error}"),
                    false,
                )
            })?;
            positions.insert(partition.clone(), value);
        }
    }
    Ok(positions)
}

/// The records that store `positions`; a null removes one.
pub(crate) fn records(namespace: &str, source: &str, positions: &Positions) -> Vec<NewRecord> {
    positions
        .iter()
        .map(|(partition, position)| record(json!([namespace, source, partition]), position))
        .collect()
}

/// The record that stores where a drained source's output ends.
pub(crate) fn ends_record(namespace: &str, source: &str, ends: &Ends) -> NewRecord {
    let ends: serde_json::Map<_, _> = ends.iter().map(|(at, end)| (at.to_string(), json!(end.0))).collect();
    record(json!([namespace, source]), &json!({ "ends": ends }))
}

fn record(key: Value, value: &Value) -> NewRecord {
    NewRecord {
        topic: OFFSETS_TOPIC.into(),
        placement: Placement::ByKey,
        key: Some(Bytes::from(key.to_string())),
        value: (!value.is_null()).then(|| Bytes::from(value.to_string())),
        timestamp: None,
        headers: Vec::new(),
    }
}
