//! Finds positions: what the group committed, the reset policy, and whether a new leader still has what was read.

use std::collections::BTreeMap;
use std::sync::Arc;

use millstream_protocol::messages::offset_for_leader_epoch::{
    EpochEndOffset, OffsetForLeaderEpochRequest, OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use millstream_protocol::{CallError, Endpoint, ErrorCode};
use millstream_record::{LeaderEpoch, Offset, TopicPartition};

use super::shared::Shared;
use super::subscription::{Position, Standing};
use crate::offsets;
use crate::{ClientError, OffsetReset, OffsetSpec, Result};

/// Whether a partition has no position to fetch from.
pub(super) fn is_needed(shared: &Shared) -> bool {
    let now = shared.cluster.env.elapsed();
    let subscription = shared.subscription.lock();
    subscription
        .partitions
        .values()
        .any(|assigned| assigned.retry_at <= now && !matches!(assigned.standing, Standing::At(_)))
}

/// Finds a position for every partition that has none.
pub(super) async fn run(shared: Arc<Shared>) -> Result<()> {
    committed(&shared).await?;
    reset(&shared).await?;
    validate(&shared).await
}

fn pick<T>(shared: &Shared, what: impl Fn(&Standing) -> Option<T>) -> BTreeMap<TopicPartition, (u64, T)> {
    let subscription = shared.subscription.lock();
    let picked = subscription.partitions.iter().filter_map(|(partition, assigned)| {
        Some((partition.clone(), (assigned.version, what(&assigned.standing)?)))
    });
    picked.collect()
}

async fn committed(shared: &Shared) -> Result<()> {
    let unknown = pick(shared, |standing| matches!(standing, Standing::Unknown).then_some(()));
    if unknown.is_empty() {
        return Ok(());
    }
    let offsets = match &shared.config.group_id {
        Some(group) => {
            let partitions: Vec<_> = unknown.keys().cloned().collect();
            offsets::fetch_committed(&shared.cluster, &shared.links, group, Some(&partitions)).await?
        }
        None => BTreeMap::new(),
    };
    for (partition, (version, ())) in unknown {
        let standing = match (offsets.get(&partition), shared.config.auto_offset_reset) {
            (Some(at), _) => {
                Standing::Unvalidated(Position { offset: at.offset, offset_epoch: at.leader_epoch })
            }
            (None, OffsetReset::None) => {
                shared.try_later(&partition, version);
                return Err(ClientError::NoOffset { partition });
            }
            (None, policy) => Standing::Reset(policy),
        };
        shared.subscription.lock().found(&partition, version, standing);
    }
    Ok(())
}

async fn reset(shared: &Shared) -> Result<()> {
    let wanted = pick(shared, |standing| match standing {
        Standing::Reset(OffsetReset::Earliest) => Some(OffsetSpec::Earliest),
        Standing::Reset(_) => Some(OffsetSpec::Latest),
        _ => None,
    });
    if wanted.is_empty() {
        return Ok(());
    }
    let specs = wanted.iter().map(|(partition, (_, spec))| (partition.clone(), *spec)).collect();
    let found = offsets::list(&shared.cluster, &shared.links, &specs, shared.config.isolation_level).await?;
    for (partition, outcome) in found {
        let Some((version, _)) = wanted.get(&partition) else { continue };
        let offset = outcome.inspect_err(|_| shared.try_later(&partition, *version))?;
        let offset = offset.map_or(Offset(0), |found| found.offset);
        let position = Position { offset, offset_epoch: LeaderEpoch::NONE };
        shared.subscription.lock().found(&partition, *version, Standing::At(position));
    }
    Ok(())
}

/// Asks the leaders where the epoch of each position ends in their log (KIP-320).
async fn validate(shared: &Shared) -> Result<()> {
    let unvalidated = pick(shared, |standing| match standing {
        Standing::Unvalidated(position) => Some(*position),
        _ => None,
    });
    let metadata = shared.cluster.metadata();
    let mut by_leader: BTreeMap<Endpoint, Vec<(TopicPartition, LeaderEpoch, Position)>> = BTreeMap::new();
    for (partition, (version, position)) in &unvalidated {
        if position.offset_epoch == LeaderEpoch::NONE {
            shared.subscription.lock().found(partition, *version, Standing::At(*position));
            continue;
        }
        match metadata.leader(&partition.topic, partition.partition) {
            Some(leader) => {
                by_leader.entry(leader.endpoint).or_default().push((
                    partition.clone(),
                    leader.epoch,
                    *position,
                ));
            }
            None => {
                shared.cluster.want(&partition.topic);
                shared.cluster.mark_stale();
                shared.try_later(partition, *version);
            }
        }
    }
    for (endpoint, questions) in by_leader {
        match shared.links.call(&endpoint, epoch_request(&questions)).await {
            Ok(answer) => {
                for topic in answer.topics {
                    let name: Arc<str> = Arc::from(&*topic.topic);
                    for told in topic.partitions {
                        let partition = TopicPartition::new(Arc::clone(&name), told.partition);
                        if let Some((version, position)) = unvalidated.get(&partition) {
                            judge(shared, &partition, *version, *position, &told)?;
                        }
                    }
                }
            }
            // A broker that knows no epochs cannot contradict.
            Err(ClientError::Call { source: CallError::Unsupported { .. }, .. }) => {
                for (partition, _, position) in &questions {
                    let version = unvalidated.get(partition).map_or(0, |(version, _)| *version);
                    shared.subscription.lock().found(partition, version, Standing::At(*position));
                }
            }
            Err(error) => {
                tracing::debug!(%error, "positions are not validated yet; trying again");
                shared.cluster.mark_stale();
                for (partition, ..) in &questions {
                    let version = unvalidated.get(partition).map_or(0, |(version, _)| *version);
                    shared.try_later(partition, version);
                }
            }
        }
    }
    Ok(())
}

fn epoch_request(questions: &[(TopicPartition, LeaderEpoch, Position)]) -> OffsetForLeaderEpochRequest {
    let mut topics: BTreeMap<&str, Vec<OffsetForLeaderPartition>> = BTreeMap::new();
    for (partition, leader_epoch, position) in questions {
        topics.entry(&partition.topic).or_default().push(OffsetForLeaderPartition {
            partition: partition.partition,
            current_leader_epoch: leader_epoch.0,
            leader_epoch: position.offset_epoch.0,
        });
    }
    let topic = |(name, partitions): (&str, _)| OffsetForLeaderTopic { topic: name.into(), partitions };
    OffsetForLeaderEpochRequest { replica_id: -1, topics: topics.into_iter().map(topic).collect() }
}

fn judge(
    shared: &Shared,
    partition: &TopicPartition,
    version: u64,
    position: Position,
    told: &EpochEndOffset,
) -> Result<()> {
    let standing = match ErrorCode::from_code(told.error_code) {
        ErrorCode::None if told.end_offset >= position.offset.0 => Standing::At(position),
        ErrorCode::None => match shared.config.auto_offset_reset {
            OffsetReset::None => {
                let end = Offset(told.end_offset.max(0));
                shared.try_later(partition, version);
                return Err(ClientError::LogTruncated {
                    partition: partition.clone(),
                    position: position.offset,
                    end,
                });
            }
            policy if told.end_offset < 0 => Standing::Reset(policy),
            _ => {
                tracing::warn!(%partition, position = position.offset.0, end = told.end_offset, "the log was cut off below the position; going on at its end");
                let offset_epoch = LeaderEpoch(told.leader_epoch);
                Standing::At(Position { offset: Offset(told.end_offset), offset_epoch })
            }
        },
        code if code.is_retriable() => {
            shared.cluster.mark_stale();
            shared.try_later(partition, version);
            return Ok(());
        }
        code => {
            shared.try_later(partition, version);
            return Err(ClientError::broker("OffsetForLeaderEpoch", partition, code));
        }
    };
    shared.subscription.lock().found(partition, version, standing);
    Ok(())
}
