//! The compacted topic of positions: written in the transaction of the rows that they are behind.
//!
//! A key is `[namespace, source, partition]` as JSON, a value the position as the connector gave it. The key
//! `[namespace, source]` holds where the output of a drained source ends, keys of five parts what a sink has buried.

use bytes::Bytes;
use millstream_connect_api::Positions;
use serde_json::{Value, json};

use crate::log::{Kept, Log, NewRecord, Placement, TopicSpec};
use crate::{Ends, Result, RuntimeError};

/// The topic.
pub const OFFSETS_TOPIC: &str = "__connect_offsets";

/// Partitions of the topic: one, so that it is read quickly at each start; positions are few and small.
const PARTITIONS: i32 = 1;

pub(crate) fn topic_spec() -> TopicSpec {
    TopicSpec { name: OFFSETS_TOPIC.into(), partitions: Some(PARTITIONS), kept: Kept::LastOfKey }
}

/// The stored positions of a source.
pub(crate) async fn load(log: &dyn Log, namespace: &str, source: &str) -> Result<Positions> {
    let mut positions = Positions::new();
    let own = [namespace.to_owned(), source.to_owned()];
    let is_own = move |key: &[u8]| partition_of(key, &own).is_some();
    let own = [namespace.to_owned(), source.to_owned()];
    for (key, value) in log.table(OFFSETS_TOPIC.into(), Box::new(is_own)).await? {
        let Some(partition) = partition_of(&key, &own) else { continue };
        let value = serde_json::from_slice(&value).map_err(|error| {
            RuntimeError::log(
                format!("reading {OFFSETS_TOPIC}"),
                format!("position of {source}: {error}"),
                false,
            )
        })?;
        positions.insert(partition, value);
    }
    Ok(positions)
}

/// The source partition that a key is of, if it is one of the source `own` (its namespace and name).
fn partition_of(key: &[u8], own: &[String; 2]) -> Option<String> {
    match serde_json::from_slice::<Vec<String>>(key).ok()?.as_slice() {
        [space, name, partition] if [space, name] == [&own[0], &own[1]] => Some(partition.clone()),
        _ => None,
    }
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
    bytes_record(Bytes::from(key.to_string()), (!value.is_null()).then(|| Bytes::from(value.to_string())))
}

/// A record of the topic; without a value it removes its key.
pub(crate) fn bytes_record(key: Bytes, value: Option<Bytes>) -> NewRecord {
    NewRecord {
        topic: OFFSETS_TOPIC.into(),
        placement: Placement::ByKey,
        key: Some(key),
        value,
        timestamp: None,
        headers: Vec::new(),
    }
}
