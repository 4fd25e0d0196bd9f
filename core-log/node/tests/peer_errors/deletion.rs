//! Deletions of records. The last ones delete.

use bytestring::ByteString;
use millstream_protocol::Request;
use millstream_protocol::messages::DeleteRecordsRequest;
use millstream_protocol::messages::delete_records::{DeleteRecordsPartition, DeleteRecordsTopic};

/// The offset that means all.
const HIGH_WATERMARK: i64 = -1;

pub(super) fn cases(topic: &ByteString) -> Vec<(&'static str, Request)> {
    let delete = |topics: &[(&str, &[(i32, i64)])], timeout_ms| {
        let topic = |(name, asked): &(&str, &[(i32, i64)])| DeleteRecordsTopic {
            name: (*name).into(),
            partitions: asked
                .iter()
                .map(|&(partition_index, offset)| DeleteRecordsPartition { partition_index, offset })
                .collect(),
        };
        Request::from(DeleteRecordsRequest { topics: topics.iter().map(topic).collect(), timeout_ms })
    };
    let one = |topic: &str, partition, offset| delete(&[(topic, &[(partition, offset)])], 10_000);
    vec![
        ("deletes nothing", delete(&[], 10_000)),
        ("deletes records of an unknown topic", one("errors-unknown", 0, 0)),
        ("deletes records of an unknown partition", one(topic, 99, 0)),
        ("deletes records of a negative partition", one(topic, -1, 0)),
        ("deletes records of an internal topic", one("__consumer_offsets", 0, 0)),
        ("deletes records of an unknown partition of an internal topic", one("__consumer_offsets", 9_999, 0)),
        ("deletes records beyond the end", one(topic, 0, i64::MAX)),
        ("deletes records below -2", one(topic, 0, -2)),
        ("deletes records below the begin", one(topic, 0, 0)),
        (
            "deletes records of one that is there and one that is not",
            delete(&[(topic, &[(0, 0)]), ("errors-unknown", &[(0, 0)])], 10_000),
        ),
        ("deletes records without waiting", delete(&[(topic, &[(0, 0)])], 0)),
        ("deletes all records", one(topic, 0, HIGH_WATERMARK)),
        ("deletes all records that are gone", one(topic, 0, HIGH_WATERMARK)),
    ]
}
