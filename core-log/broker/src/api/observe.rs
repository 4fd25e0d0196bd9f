//! Fetch and FetchSnapshot on a controller's listener: nodes that are brokers only read the metadata log so (KIP-595, KIP-630).

use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use millstream_machine::metadata::MetadataLog;
use millstream_protocol::messages::fetch::{
    FetchPartition, FetchableTopicResponse, LeaderIdAndEpoch, PartitionData, SnapshotId,
};
use millstream_protocol::messages::fetch_snapshot::{
    FetchSnapshotResponsePartitionSnapshot, FetchSnapshotResponseTopicSnapshot,
};
use millstream_protocol::messages::{
    FetchRequest, FetchResponse, FetchSnapshotRequest, FetchSnapshotResponse, fetch_snapshot,
};
use millstream_protocol::{ErrorCode, Receipt};
use millstream_record::{LeaderEpoch, Offset};

use crate::Broker;
use crate::metadata::quorum::{Kept, QuorumLog};
use crate::partitions::{CLUSTER_METADATA, METADATA_TOPIC_ID};
use crate::refusal::Refusal;
use crate::shared::Shared;

/// Longest that a fetch is held: who asks has to look again whether this is the active controller.
const WAIT_MAX: Duration = Duration::from_secs(30);

pub(super) fn fetch(broker: &Broker, request: FetchRequest) -> Receipt {
    let shared = Arc::clone(&broker.shared);
    broker.answer("observer", async move {
        if let Err(code) = same_cluster(&shared, request.cluster_id.as_ref()) {
            return FetchResponse { error_code: code.code(), ..FetchResponse::default() };
        }
        let mut topics = Vec::with_capacity(request.topics.len());
        let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0)).min(WAIT_MAX);
        for topic in &request.topics {
            let is_log = topic.topic_id == METADATA_TOPIC_ID || &*topic.topic == CLUSTER_METADATA;
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for asked in &topic.partitions {
                let data = match is_log && asked.partition == 0 {
                    true => one(&shared, asked, request.max_bytes, wait).await,
                    false => Err(ErrorCode::UnknownTopicOrPartition.into()),
                };
                let refused = |refusal: Refusal| refused(&shared, refusal.code);
                partitions
                    .push(PartitionData { partition_index: asked.partition, ..data.unwrap_or_else(refused) });
            }
            topics.push(FetchableTopicResponse {
                topic: topic.topic.clone(),
                topic_id: topic.topic_id,
                partitions,
            });
        }
        FetchResponse { responses: topics, ..FetchResponse::default() }
    })
}

/// Refuses who belongs to another cluster: a node that is told wrong addresses would take up what is none of its own.
fn same_cluster(shared: &Shared, named: Option<&ByteString>) -> Result<(), ErrorCode> {
    if named.is_none_or(|named| *named == shared.cluster_id) {
        Ok(())
    } else {
        Err(ErrorCode::InconsistentClusterId)
    }
}

/// The quorum's log, where this node leads it and knows that nobody else does: whoever asks a leader that was deposed without hearing of it
/// would learn nothing any more, and has to look for another.
fn led(shared: &Shared) -> Result<&Arc<QuorumLog>, Refusal> {
    let quorum = shared.metadata.log().quorum().ok_or(ErrorCode::NotLeaderOrFollower)?;
    let leads = quorum.leadership().1 && quorum.has_majority();
    if leads { Ok(quorum) } else { Err(ErrorCode::NotLeaderOrFollower.into()) }
}

async fn one(
    shared: &Shared,
    asked: &FetchPartition,
    max_bytes: i32,
    wait: Duration,
) -> Result<PartitionData, Refusal> {
    let quorum = led(shared)?;
    let from = Offset(asked.fetch_offset);
    if from.0 < 0 {
        return Err(ErrorCode::OffsetOutOfRange.into());
    }
    // Nothing new, or another leads meanwhile: who asks looks again.
    let waited = shared.env.timeout(wait, quorum.grown(from)).await;
    led(shared)?;
    let end = quorum.committed_end();
    let at_mark = PartitionData {
        high_watermark: end.0,
        log_start_offset: 0,
        records: Some(bytes::Bytes::new()),
        aborted_transactions: None,
        ..PartitionData::default()
    };
    if waited.is_err() || end <= from {
        return Ok(at_mark);
    }
    let max_bytes = usize::try_from(max_bytes.min(asked.partition_max_bytes)).unwrap_or(0);
    match quorum.kept(from, max_bytes).await {
        Ok(Kept::Batches(batches)) => Ok(PartitionData { records: Some(batches), ..at_mark }),
        Ok(Kept::Snapshot { end, epoch }) => {
            let snapshot_id = SnapshotId { end_offset: end.0, epoch: epoch.0 };
            Ok(PartitionData { snapshot_id, ..at_mark })
        }
        Err(error) => Err(Refusal::new(ErrorCode::KafkaStorageError, error.to_string())),
    }
}

/// Who leads the log, or -1, and in which epoch.
fn seen_leader(shared: &Shared) -> (i32, i32) {
    let (epoch, leader) = shared.metadata.log().seen();
    (leader.map_or(-1, |(member, _)| member.node.0), epoch.0)
}

fn refused(shared: &Shared, code: ErrorCode) -> PartitionData {
    let (leader_id, leader_epoch) = seen_leader(shared);
    PartitionData {
        error_code: code.code(),
        current_leader: LeaderIdAndEpoch { leader_id, leader_epoch },
        high_watermark: -1,
        records: Some(bytes::Bytes::new()),
        aborted_transactions: None,
        ..PartitionData::default()
    }
}

pub(super) fn snapshot(broker: &Broker, request: FetchSnapshotRequest) -> Receipt {
    let shared = Arc::clone(&broker.shared);
    broker.answer("snapshot", async move {
        if let Err(code) = same_cluster(&shared, request.cluster_id.as_ref()) {
            return FetchSnapshotResponse { error_code: code.code(), ..FetchSnapshotResponse::default() };
        }
        let mut topics = Vec::with_capacity(request.topics.len());
        for topic in &request.topics {
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for asked in &topic.partitions {
                let is_log = &*topic.name == CLUSTER_METADATA && asked.partition == 0;
                let chunk = match is_log {
                    true => chunk(&shared, asked, request.max_bytes).await,
                    false => Err(ErrorCode::UnknownTopicOrPartition.into()),
                };
                let refused = |refusal: Refusal| {
                    let (leader_id, leader_epoch) = seen_leader(&shared);
                    FetchSnapshotResponsePartitionSnapshot {
                        error_code: refusal.code.code(),
                        current_leader: fetch_snapshot::LeaderIdAndEpoch { leader_id, leader_epoch },
                        ..Default::default()
                    }
                };
                partitions.push(FetchSnapshotResponsePartitionSnapshot {
                    index: asked.partition,
                    ..chunk.unwrap_or_else(refused)
                });
            }
            topics.push(FetchSnapshotResponseTopicSnapshot { name: topic.name.clone(), partitions });
        }
        FetchSnapshotResponse { topics, ..FetchSnapshotResponse::default() }
    })
}

async fn chunk(
    shared: &Shared,
    asked: &fetch_snapshot::FetchSnapshotRequestPartitionSnapshot,
    max_bytes: i32,
) -> Result<FetchSnapshotResponsePartitionSnapshot, Refusal> {
    let quorum = led(shared)?;
    let position = u64::try_from(asked.position).map_err(|_| ErrorCode::PositionOutOfRange)?;
    let max_bytes = usize::try_from(max_bytes).unwrap_or(0);
    let id = asked.snapshot_id.clone();
    let (epoch, _) = shared.metadata.log().leadership();
    match LeaderEpoch(asked.current_leader_epoch) {
        LeaderEpoch(..=0) => {} // not said
        older if older < epoch => return Err(ErrorCode::FencedLeaderEpoch.into()),
        newer if newer > epoch => return Err(ErrorCode::UnknownLeaderEpoch.into()),
        _ => {}
    }
    let covers = (Offset(id.end_offset), LeaderEpoch(id.epoch));
    let snapshot = quorum.snapshot(covers).ok_or(ErrorCode::SnapshotNotFound)?;
    let size = snapshot.size();
    if position >= size {
        return Err(ErrorCode::PositionOutOfRange.into());
    }
    let bytes = quorum.chunk(snapshot, position, max_bytes).await;
    let bytes = bytes.map_err(|error| Refusal::new(ErrorCode::KafkaStorageError, error.to_string()))?;
    Ok(FetchSnapshotResponsePartitionSnapshot {
        snapshot_id: fetch_snapshot::FetchSnapshotResponseSnapshotId {
            end_offset: id.end_offset,
            epoch: id.epoch,
        },
        size: i64::try_from(size).unwrap_or(i64::MAX),
        position: asked.position,
        unaligned_records: bytes,
        ..Default::default()
    })
}
