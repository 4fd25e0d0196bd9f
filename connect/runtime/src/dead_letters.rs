//! Dead letters: input that is no row, kept as rows of their own.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray, TimestampMillisecondArray, UInt64Array};
use millstream_connect_api::convert::{Converter, JsonConverter};
use millstream_connect_api::types::UTC;
use millstream_connect_api::{BadRecord, Result, bad_record_schema};
use millstream_record::Millis;

use crate::log::{NewRecord, Placement};

/// Dead letters as rows of [`bad_record_schema`].
pub fn bad_record_columns(connector: &str, bad: &[BadRecord], at: Millis) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(bad.iter().map(|_| connector))),
        Arc::new(StringArray::from_iter_values(bad.iter().map(|record| record.origin.as_str()))),
        Arc::new(bad.iter().map(|record| record.line).collect::<UInt64Array>()),
        Arc::new(StringArray::from_iter_values(bad.iter().map(|record| record.reason.as_str()))),
        Arc::new(StringArray::from_iter_values(
            bad.iter().map(|record| String::from_utf8_lossy(&record.raw)),
        )),
        Arc::new(TimestampMillisecondArray::from_iter_values(bad.iter().map(|_| at.0)).with_timezone(UTC)),
    ];
    RecordBatch::try_new(bad_record_schema(), columns).expect("the columns are those of the schema")
}

/// Dead letters as records of `topic`. Those of one origin keep their order.
pub(crate) fn records(topic: &str, connector: &str, bad: &[BadRecord], at: Millis) -> Result<Vec<NewRecord>> {
    let topic: Arc<str> = topic.into();
    let values = JsonConverter.encode(&bad_record_columns(connector, bad, at))?;
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
