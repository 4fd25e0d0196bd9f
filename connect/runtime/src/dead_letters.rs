//! Dead letters: input that is no row, kept as rows of their own.

use std::sync::Arc;

use millstream_connect_api::convert::{Converter, JsonConverter};
use millstream_connect_api::{BadRecord, Result, bad_record_columns};
use millstream_record::Millis;

use crate::log::{NewRecord, Placement};

/// Dead letters as records of `topic`. Those of one origin keep their order.
pub(crate) fn records(topic: &str, connector: &str, bad: &[BadRecord], at: Millis) -> Result<Vec<NewRecord>> {
    let topic: Arc<str> = topic.into();
    let values = JsonConverter.encode(&bad_record_columns(connector, bad, |_| at))?;
    let record = |(record, value): (&BadRecord, _)| NewRecord {
        topic: Arc::clone(&topic),
        placement: Placement::Like(bytes::Bytes::copy_from_slice(record.origin.as_bytes())),
        key: None,
        value: Some(value),
        timestamp: Some(at),
        headers: Vec::new(),
    };
    Ok(bad.iter().zip(values).map(record).collect())
}
