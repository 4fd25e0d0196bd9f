//! DescribeLogDirs: where a broker keeps its replicas, and how large they are (KIP-113). Tools that move replicas ask for it first.
//!
//! There is one log directory, so no replica ever moves from one to another here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytestring::ByteString;
use millstream_env::Pool;
use millstream_protocol::messages::describe_log_dirs::{
    DescribableLogDirTopic, DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use millstream_protocol::messages::{DescribeLogDirsRequest, DescribeLogDirsResponse};
use millstream_protocol::{ErrorCode, Receipt};

use crate::Broker;
use crate::partition::Partition;
use crate::shared::Shared;

const UNKNOWN: i64 = -1;

pub(super) fn handle(broker: &Broker, request: DescribeLogDirsRequest) -> Receipt {
    let shared = Arc::clone(&broker.shared);
    let env = shared.env.clone();
    broker.answer("describe log directories", async move {
        let asked = env.blocking(Pool::Read, move || describe(&shared, request.topics.as_deref())).await;
        let results = asked.into_iter().collect(); // none only when the broker ends
        DescribeLogDirsResponse { results, ..DescribeLogDirsResponse::default() }
    })
}

fn describe(shared: &Shared, asked: Option<&[DescribableLogDirTopic]>) -> DescribeLogDirsResult {
    let (path, room) = shared.partitions.log_dir();
    let path = std::path::absolute(&path).unwrap_or(path);
    let base = DescribeLogDirsResult {
        log_dir: path.to_string_lossy().into_owned().into(),
        ..DescribeLogDirsResult::default()
    };
    if shared.partitions.is_offline() {
        return DescribeLogDirsResult { error_code: ErrorCode::KafkaStorageError.code(), ..base };
    }
    let bytes = |of: u64| i64::try_from(of).unwrap_or(i64::MAX);
    DescribeLogDirsResult {
        topics: topics(shared, asked),
        total_bytes: room.map_or(UNKNOWN, |room| bytes(room.total)),
        usable_bytes: room.map_or(UNKNOWN, |room| bytes(room.usable)),
        ..base
    }
}

/// The replicas that are here, of those asked for (of all, where that is `None`).
fn topics(shared: &Shared, asked: Option<&[DescribableLogDirTopic]>) -> Vec<DescribeLogDirsTopic> {
    fn each(topic: &DescribableLogDirTopic) -> impl Iterator<Item = (&str, i32)> {
        topic.partitions.iter().map(|index| (&*topic.topic, *index))
    }
    let asked = asked.map(|topics| topics.iter().flat_map(each).collect::<BTreeSet<(&str, i32)>>());
    let is_asked = |partition: &Arc<Partition>| {
        let at = partition.at();
        asked.as_ref().is_none_or(|asked| asked.contains(&(&*at.topic, at.partition)))
    };
    let mut found: BTreeMap<Arc<str>, Vec<DescribeLogDirsPartition>> = BTreeMap::new();
    for partition in shared.partitions.all().iter().filter(|partition| is_asked(partition)) {
        let (size, lag) = partition.size_and_lag();
        found.entry(Arc::clone(&partition.at().topic)).or_default().push(DescribeLogDirsPartition {
            partition_index: partition.at().partition,
            partition_size: i64::try_from(size).unwrap_or(i64::MAX),
            offset_lag: lag,
            is_future_key: false,
        });
    }
    let described = found.into_iter().map(|(name, mut partitions)| {
        partitions.sort_by_key(|partition| partition.partition_index);
        DescribeLogDirsTopic { name: ByteString::from(&*name), partitions }
    });
    described.collect()
}
