//! OffsetForLeaderEpoch: where an epoch ends, for consumers that look whether their position was truncated (KIP-320).

use millstream_protocol::messages::offset_for_leader_epoch::{
    EpochEndOffset, OffsetForLeaderPartition, OffsetForLeaderTopicResult,
};
use millstream_protocol::messages::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};
use millstream_record::LeaderEpoch;

use crate::refusal::Refusal;
use crate::shared::Shared;

pub(super) fn handle(shared: &Shared, request: &OffsetForLeaderEpochRequest) -> OffsetForLeaderEpochResponse {
    let topics = request.topics.iter().map(|topic| OffsetForLeaderTopicResult {
        topic: topic.topic.clone(),
        partitions: topic
            .partitions
            .iter()
            .map(|asked| {
                end_of(shared, &topic.topic, asked).unwrap_or_else(|refusal| EpochEndOffset {
                    error_code: refusal.code.code(),
                    partition: asked.partition,
                    ..EpochEndOffset::default()
                })
            })
            .collect(),
    });
    OffsetForLeaderEpochResponse { topics: topics.collect(), ..OffsetForLeaderEpochResponse::default() }
}

fn end_of(shared: &Shared, topic: &str, asked: &OffsetForLeaderPartition) -> Result<EpochEndOffset, Refusal> {
    let partition = shared.partition(topic, Default::default(), asked.partition)?;
    let known = LeaderEpoch(asked.current_leader_epoch);
    let end = partition.end_of_epoch(LeaderEpoch(asked.leader_epoch), known)?;
    Ok(EpochEndOffset {
        partition: asked.partition,
        leader_epoch: end.map_or(-1, |(epoch, _)| epoch.0),
        end_offset: end.map_or(-1, |(_, offset)| offset.0),
        ..EpochEndOffset::default()
    })
}
