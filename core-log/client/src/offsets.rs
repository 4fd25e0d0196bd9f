//! Offsets: by time from leaders, by group from coordinators.

use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytestring::ByteString;
use millstream_protocol::messages::list_offsets::{
    ListOffsetsPartition, ListOffsetsPartitionResponse, ListOffsetsRequest, ListOffsetsTopic,
};
use millstream_protocol::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use millstream_protocol::messages::offset_fetch::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopics, OffsetFetchResponse,
};
use millstream_protocol::{Endpoint, ErrorCode};
use millstream_record::{LeaderEpoch, Millis, Offset, TopicPartition, Uuid};
use parking_lot::Mutex;

use crate::cluster::{Cluster, CoordinatorKind, coordinator_moved};
use crate::links::Links;
use crate::metadata::Metadata;
use crate::retry::{Deadline, retry};
use crate::{
    ClientError, GroupMetadata, IsolationLevel, OffsetAndMetadata, OffsetAndTimestamp, OffsetSpec, Offsets,
    Result,
};

/// What a search found for each partition.
pub(crate) type Found = BTreeMap<TopicPartition, Result<Option<OffsetAndTimestamp>>>;

/// Asks the leaders; partitions whose leader moved are asked again, until `default.api.timeout.ms`. Those that nobody told of by then
/// have that as their outcome, whatever became of the others.
pub(crate) fn list<'a>(
    cluster: &'a Cluster,
    links: &'a Links,
    wanted: &'a BTreeMap<TopicPartition, OffsetSpec>,
    isolation: IsolationLevel,
) -> BoxFuture<'a, Result<Found>> {
    async move {
        let deadline = Deadline::after(&cluster.env, cluster.config.api_timeout_ms);
        for topic in wanted.keys().map(|partition| &partition.topic) {
            if !cluster.want(topic) {
                cluster.topic(topic, deadline).await?;
            }
        }
        let found = Mutex::new(Found::new());
        let what = "listing offsets";
        let asked = retry(&cluster.env, &cluster.config, what, cluster.config.api_timeout_ms, || async {
            let missing = |partition: &TopicPartition| !found.lock().contains_key(partition);
            let missing = wanted.iter().filter(|(partition, _)| missing(partition));
            let missing = missing.map(|(partition, spec)| (partition.clone(), *spec)).collect();
            let (answers, last) = list_once(cluster, links, missing, isolation).await;
            found.lock().extend(answers);
            last.map_or(Ok(()), Err)
        })
        .await;
        let mut found = found.into_inner();
        match asked {
            Err(late @ ClientError::TimedOut { .. }) => {
                for partition in wanted.keys() {
                    found.entry(partition.clone()).or_insert_with(|| Err(late.clone()));
                }
            }
            asked => asked?,
        }
        Ok(found)
    }
    .boxed()
}

/// One round; gives what is final, and one of the errors that may go away.
async fn list_once(
    cluster: &Cluster,
    links: &Links,
    wanted: Vec<(TopicPartition, OffsetSpec)>,
    isolation: IsolationLevel,
) -> (Found, Option<ClientError>) {
    let metadata = cluster.metadata();
    let (mut found, mut last) = (Found::new(), None);
    let mut by_leader: BTreeMap<Endpoint, Vec<(TopicPartition, LeaderEpoch, OffsetSpec)>> = BTreeMap::new();
    for (partition, spec) in wanted {
        match metadata.leader(&partition.topic, partition.partition) {
            Some(leader) => {
                by_leader.entry(leader.endpoint).or_default().push((partition, leader.epoch, spec));
            }
            None => {
                last = Some(ClientError::broker("ListOffsets", &partition, ErrorCode::LeaderNotAvailable))
            }
        }
    }
    let asked = by_leader.into_iter().map(|(endpoint, partitions)| async move {
        ask_leader(cluster, links, &endpoint, partitions, isolation).await
    });
    for answer in join_all(asked).await {
        match answer {
            Err(error) => last = Some(error),
            Ok(answer) => {
                for (partition, outcome) in answer {
                    match outcome {
                        Err(error) if error.is_retriable() => last = Some(error),
                        outcome => _ = found.insert(partition, outcome),
                    }
                }
            }
        }
    }
    if last.is_some() {
        // The retry asks the new leaders. Should the refresh fail, the old ones are asked again.
        let _ = cluster.refresh(metadata.version).await;
    }
    (found, last)
}

/// Asks one leader, once.
pub(crate) async fn ask_leader(
    cluster: &Cluster,
    links: &Links,
    leader: &Endpoint,
    partitions: Vec<(TopicPartition, LeaderEpoch, OffsetSpec)>,
    isolation: IsolationLevel,
) -> Result<Found> {
    let answer = links.call(leader, list_request(cluster, partitions, isolation)).await?;
    let told = answer.topics.into_iter().flat_map(|topic| {
        let name: Arc<str> = Arc::from(&*topic.name);
        topic.partitions.into_iter().map(move |told| {
            let partition = TopicPartition::new(Arc::clone(&name), told.partition_index);
            let outcome = read_listed(&partition, &told);
            (partition, outcome)
        })
    });
    Ok(told.collect())
}

fn list_request(
    cluster: &Cluster,
    partitions: Vec<(TopicPartition, LeaderEpoch, OffsetSpec)>,
    isolation: IsolationLevel,
) -> ListOffsetsRequest {
    let mut topics: BTreeMap<Arc<str>, Vec<ListOffsetsPartition>> = BTreeMap::new();
    for (partition, epoch, spec) in partitions {
        topics.entry(partition.topic).or_default().push(ListOffsetsPartition {
            partition_index: partition.partition,
            current_leader_epoch: epoch.0,
            timestamp: spec.code(),
        });
    }
    let topic = |(name, partitions): (Arc<str>, _)| ListOffsetsTopic { name: (&*name).into(), partitions };
    ListOffsetsRequest {
        replica_id: -1,
        isolation_level: isolation.code(),
        topics: topics.into_iter().map(topic).collect(),
        timeout_ms: i32::try_from(cluster.config.request_timeout_ms).unwrap_or(i32::MAX),
    }
}

fn read_listed(
    partition: &TopicPartition,
    told: &ListOffsetsPartitionResponse,
) -> Result<Option<OffsetAndTimestamp>> {
    match ErrorCode::from_code(told.error_code) {
        ErrorCode::None if told.offset < 0 => Ok(None),
        ErrorCode::None => Ok(Some(OffsetAndTimestamp {
            offset: Offset(told.offset),
            timestamp: Millis(told.timestamp),
            leader_epoch: LeaderEpoch(told.leader_epoch),
        })),
        code => Err(ClientError::broker("ListOffsets", partition, code)),
    }
}

/// Makes sure that the ids of these topics are known: the newest versions name topics by id only.
async fn know(
    cluster: &Cluster,
    partitions: impl Iterator<Item = &TopicPartition>,
) -> Result<BTreeMap<Uuid, Arc<str>>> {
    let deadline = Deadline::after(&cluster.env, cluster.config.api_timeout_ms);
    let topics: BTreeSet<&Arc<str>> = partitions.map(|partition| &partition.topic).collect();
    let mut names = BTreeMap::new();
    for topic in topics {
        let metadata =
            if cluster.want(topic) { cluster.metadata() } else { cluster.topic(topic, deadline).await? };
        names.insert(metadata.topic_id(topic), Arc::clone(topic));
    }
    Ok(names)
}

/// What a group has committed: for these partitions, or all. Waits for transactions that are about to end (KIP-447).
pub(crate) fn fetch_committed<'a>(
    cluster: &'a Cluster,
    links: &'a Links,
    group: &'a ByteString,
    partitions: Option<&'a [TopicPartition]>,
) -> BoxFuture<'a, Result<Offsets>> {
    async move {
        let names = match partitions {
            Some(partitions) => know(cluster, partitions.iter()).await?,
            None => {
                cluster.describe(None).await?.1.into_iter().map(|(name, topic)| (topic.id, name)).collect()
            }
        };
        let what = format!("fetching the offsets of group {group}");
        retry(&cluster.env, &cluster.config, &what, cluster.config.api_timeout_ms, || async {
            let endpoint = cluster.coordinator(CoordinatorKind::Group, group).await?;
            let request = fetch_request(cluster, group, partitions);
            let answer = links.call(&endpoint, request).await;
            answer.and_then(|answer| read_committed(&names, group, answer)).inspect_err(|error| {
                if coordinator_moved(error) {
                    cluster.forget_coordinator(CoordinatorKind::Group, group);
                }
            })
        })
        .await
    }
    .boxed()
}

fn fetch_request(
    cluster: &Cluster,
    group: &ByteString,
    partitions: Option<&[TopicPartition]>,
) -> OffsetFetchRequest {
    let metadata = cluster.metadata();
    let topics = partitions.map(by_topic);
    let topic = |(name, partition_indexes): (Arc<str>, _)| OffsetFetchRequestTopics {
        name: (&*name).into(),
        topic_id: metadata.topic_id(&name),
        partition_indexes,
    };
    let wanted = OffsetFetchRequestGroup {
        group_id: group.clone(),
        topics: topics.map(|topics| topics.into_iter().map(topic).collect()),
        ..OffsetFetchRequestGroup::default()
    };
    OffsetFetchRequest { groups: vec![wanted], require_stable: true, ..OffsetFetchRequest::default() }
}

fn by_topic(partitions: &[TopicPartition]) -> BTreeMap<Arc<str>, Vec<i32>> {
    let mut topics: BTreeMap<Arc<str>, Vec<i32>> = BTreeMap::new();
    for partition in partitions {
        topics.entry(Arc::clone(&partition.topic)).or_default().push(partition.partition);
    }
    topics
}

fn read_committed(
    names: &BTreeMap<Uuid, Arc<str>>,
    group: &ByteString,
    answer: OffsetFetchResponse,
) -> Result<Offsets> {
    let fail = |code: i16| match ErrorCode::from_code(code) {
        ErrorCode::None => Ok(()),
        code => Err(ClientError::broker("OffsetFetch", format!("group {group}"), code)),
    };
    let mut offsets = Offsets::new();
    let mut add = |topic: &Arc<str>, partition, offset, epoch, metadata: Option<ByteString>| {
        if offset >= 0 {
            let committed = OffsetAndMetadata {
                offset: Offset(offset),
                leader_epoch: LeaderEpoch(epoch),
                metadata: metadata.unwrap_or_default(),
            };
            offsets.insert(TopicPartition::new(Arc::clone(topic), partition), committed);
        }
    };
    for told in answer.groups {
        fail(told.error_code)?;
        for topic in told.topics {
            let by_id = names.get(&topic.topic_id).filter(|_| topic.name.is_empty());
            let name = by_id.cloned().unwrap_or_else(|| Arc::from(&*topic.name));
            for p in topic.partitions {
                fail(p.error_code)?;
                add(&name, p.partition_index, p.committed_offset, p.committed_leader_epoch, p.metadata);
            }
        }
    }
    Ok(offsets)
}

/// What to do about topics that are not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// Wait for them: they may have been created a moment ago.
    Await,
    /// Say so once the others are done: they were read from, so they are gone.
    Tell,
}

/// Commits offsets of a group: those of topics that are there, whatever is missing.
pub(crate) fn commit<'a>(
    cluster: &'a Cluster,
    links: &'a Links,
    group: &'a GroupMetadata,
    offsets: &'a Offsets,
    missing: Missing,
) -> BoxFuture<'a, Result<()>> {
    async move {
        let left = Mutex::new(offsets.clone());
        let what = format!("committing the offsets of group {}", group.group_id);
        retry(&cluster.env, &cluster.config, &what, cluster.config.api_timeout_ms, || async {
            commit_known(cluster, links, group, &left).await?;
            if left.lock().is_empty() {
                return Ok(Ok(()));
            }
            cluster.refresh(cluster.metadata().version).await?;
            commit_known(cluster, links, group, &left).await?;
            let Some(partition) = left.lock().keys().next().cloned() else { return Ok(Ok(())) };
            let known = cluster.metadata().topics.get(&partition.topic).map(|topic| topic.error);
            let code = known.filter(|code| !code.is_none()).unwrap_or(ErrorCode::UnknownTopicOrPartition);
            let gone =
                ClientError::broker("OffsetCommit", format!("{partition} by group {}", group.group_id), code);
            if missing == Missing::Tell { Ok(Err(gone)) } else { Err(gone) }
        })
        .await?
    }
    .boxed()
}

/// Commits what is left of topics that are known, in one request, and takes out what is committed. What is left without an error is
/// missing.
async fn commit_known(
    cluster: &Cluster,
    links: &Links,
    group: &GroupMetadata,
    left: &Mutex<Offsets>,
) -> Result<()> {
    let mut known = left.lock().clone();
    known.retain(|partition, _| cluster.want(&partition.topic));
    if known.is_empty() {
        return Ok(());
    }
    let metadata = cluster.metadata();
    let done = async {
        let endpoint = cluster.coordinator(CoordinatorKind::Group, &group.group_id).await?;
        let answer = links.call(&endpoint, commit_request(&metadata, group, &known)).await?;
        let mut errors = Vec::new();
        for topic in answer.topics {
            let by_id = metadata.topic_named(topic.topic_id).filter(|_| topic.name.is_empty());
            let name = by_id.cloned().unwrap_or_else(|| Arc::from(&*topic.name));
            for told in topic.partitions {
                match ErrorCode::from_code(told.error_code) {
                    ErrorCode::UnknownTopicOrPartition | ErrorCode::UnknownTopicId => cluster.mark_stale(),
                    ErrorCode::None => {
                        let partition = TopicPartition::new(Arc::clone(&name), told.partition_index);
                        left.lock().remove(&partition);
                    }
                    code => errors.extend(committed(group, code).err()),
                }
            }
        }
        errors.into_iter().min_by_key(ClientError::is_retriable).map_or(Ok(()), Err)
    };
    done.await.inspect_err(|error| {
        if coordinator_moved(error) {
            cluster.forget_coordinator(CoordinatorKind::Group, &group.group_id);
        }
    })
}

fn committed(group: &GroupMetadata, code: ErrorCode) -> Result<()> {
    match code {
        ErrorCode::None => Ok(()),
        ErrorCode::UnknownMemberId
        | ErrorCode::IllegalGeneration
        | ErrorCode::FencedInstanceId
        | ErrorCode::RebalanceInProgress => {
            Err(ClientError::CommitRefused { group: group.group_id.to_string(), code })
        }
        code => Err(ClientError::broker("OffsetCommit", format!("group {}", group.group_id), code)),
    }
}

fn commit_request(metadata: &Metadata, group: &GroupMetadata, offsets: &Offsets) -> OffsetCommitRequest {
    let mut topics: BTreeMap<Arc<str>, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
    for (partition, offset) in offsets {
        topics.entry(Arc::clone(&partition.topic)).or_default().push(OffsetCommitRequestPartition {
            partition_index: partition.partition,
            committed_offset: offset.offset.0,
            committed_leader_epoch: offset.leader_epoch.0,
            committed_metadata: Some(offset.metadata.clone()),
        });
    }
    let topic = |(name, partitions): (Arc<str>, _)| OffsetCommitRequestTopic {
        name: (&*name).into(),
        topic_id: metadata.topic_id(&name),
        partitions,
    };
    OffsetCommitRequest {
        group_id: group.group_id.clone(),
        generation_id_or_member_epoch: group.generation_id,
        member_id: group.member_id.clone(),
        group_instance_id: group.group_instance_id.clone(),
        topics: topics.into_iter().map(topic).collect(),
        ..OffsetCommitRequest::default()
    }
}
