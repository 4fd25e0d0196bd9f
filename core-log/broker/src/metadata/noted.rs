//! What the metadata log on this disk says of this node, read before the node is anybody.

use millstream_machine::metadata::Record;
use millstream_record::{Batches, Millis, NodeId, TopicPartition, Uuid};
use millstream_storage::{LogConfig, LogDir, ReadRequest};

use super::codec::decode;
use crate::partitions::{CLUSTER_METADATA, METADATA_TOPIC_ID};

/// Largest stretch of the log that is read at once.
const READ_BYTES: usize = 1 << 20;

/// The directory that `node` registered with last; none where the log is not here, cannot be read, or has only a snapshot of it.
/// Blocks.
pub(crate) fn noted_directory(dir: &LogDir, node: NodeId, now: Millis) -> Option<Uuid> {
    let at = TopicPartition::new(CLUSTER_METADATA, 0);
    if !dir.partitions().ok()?.iter().any(|found| found.partition == at) {
        return None; // opening it would make it
    }
    let config = LogConfig { cleanup_delete: false, ..LogConfig::default() };
    let (log, _) = dir.open_log(&at, METADATA_TOPIC_ID, config, now).ok()?;
    let (mut from, end) = (log.start_offset(), log.end_offset());
    let mut directory = None;
    while from < end {
        let request = ReadRequest {
            offset: from,
            max_bytes: READ_BYTES,
            upper_bound: end,
            at_least_one: true,
            with_aborted: false,
        };
        let bytes = log.read_plan(request).ok()?.run_blocking().ok()?.bytes;
        let before = from;
        for batch in Batches::new(bytes) {
            let committed = decode(&batch.ok()?).ok()?;
            from = committed.end;
            for record in committed.records {
                match record {
                    Record::RegisterBroker(broker) if broker.broker_id == node.0 => {
                        directory = broker.log_dirs.first().copied();
                    }
                    _ => {}
                }
            }
        }
        if from == before {
            return None;
        }
    }
    directory
}
