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
    OffsetFetchResponsePartitions, OffsetFetchResponseTopics,
};
use millstream_protocol::{Endpoint, ErrorCode};
use millstream_record::{LeaderEpoch, Millis, Offset, TopicId, TopicPartition};
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
            list_once(cluster, links, missing, isolation, &found).await
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

/// One round. Notes what is final as each leader tells it, since another one may be silent until the time is over; fails with one of
/// the errors that may go away.
async fn list_once(
    cluster: &Cluster,
    links: &Links,
    wanted: Vec<(TopicPartition, OffsetSpec)>,
    isolation: IsolationLevel,
    found: &Mutex<Found>,
) -> Result<()> {
    let metadata = cluster.metadata();
    let mut leaderless = None;
    let mut by_leader: BTreeMap<Endpoint, Vec<(TopicPartition, LeaderEpoch, OffsetSpec)>> = BTreeMap::new();
    for (partition, spec) in wanted {
        match metadata.leader(&partition.topic, partition.partition) {
            Some(leader) => {
                by_leader.entry(leader.endpoint).or_default().push((partition, leader.epoch, spec));
            }
            None => {
                let error = ClientError::broker("ListOffsets", &partition, ErrorCode::LeaderNotAvailable);
                leaderless = Some(error);
            }
        }
    }
    let asked = by_leader.into_iter().map(|(endpoint, partitions)| async move {
        let mut last = None;
        for (partition, outcome) in ask_leader(cluster, links, &endpoint, partitions, isolation).await? {
            match outcome {
                Err(error) if error.is_retriable() => last = Some(error),
                outcome => _ = found.lock().insert(partition, outcome),
            }
        }
        last.map_or(Ok(()), Err)
    });
    let failed = join_all(asked).await.into_iter().filter_map(Result::err).last();
    let Some(error) = failed.or(leaderless) else { return Ok(()) };
    // The retry asks the new leaders. Should the refresh fail, the old ones are asked again.
    let _ = cluster.refresh(metadata.version).await;
    Err(error)
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

/// What a group has committed: for these partitions, or all. Waits for transactions that are about to end (KIP-447).
pub(crate) fn fetch_committed<'a>(
    cluster: &'a Cluster,
    links: &'a Links,
    group: &'a ByteString,
    partitions: Option<&'a [TopicPartition]>,
) -> BoxFuture<'a, Result<Offsets>> {
    async move {
        let inquiry = Mutex::new(Inquiry::new(partitions, &cluster.metadata()));
        let what = format!("fetching the offsets of group {group}");
        retry(&cluster.env, &cluster.config, &what, cluster.config.api_timeout_ms, || async {
            fetch_left(cluster, links, group, &inquiry).await.inspect_err(|error| {
                if coordinator_moved(error) {
                    cluster.forget_coordinator(CoordinatorKind::Group, group);
                }
            })
        })
        .await?;
        Ok(inquiry.into_inner().offsets)
    }
    .boxed()
}

/// Asks for what was not told yet.
async fn fetch_left(
    cluster: &Cluster,
    links: &Links,
    group: &ByteString,
    inquiry: &Mutex<Inquiry>,
) -> Result<()> {
    let strange = inquiry.lock().strange();
    if !strange.is_empty() {
        let names: Vec<&str> = strange.iter().map(|topic| &**topic).collect();
        let (described, _) = cluster.describe(Some(&names)).await?;
        inquiry.lock().learn(&strange, &described);
    }
    let endpoint = cluster.coordinator(CoordinatorKind::Group, group).await?;
    let request = inquiry.lock().request(group);
    let answer = links.call(&endpoint, request).await?;
    let taken = inquiry.lock().take(group, answer);
    taken.inspect_err(|error| {
        if error.code() == Some(ErrorCode::UnknownTopicId) {
            cluster.mark_stale();
        }
    })
}

/// A question for committed offsets: what was told so far, and what is left of it.
struct Inquiry {
    offsets: Offsets,
    /// Partitions that nobody told of yet; none stands for all that there are.
    left: Option<BTreeSet<TopicPartition>>,
    /// The ids of topics: the newest versions name topics by id only, in the question and in the answer. One that does not exist
    /// has the id zero, and is asked for by its name, which brokers answer: the group has nothing there.
    ids: BTreeMap<Arc<str>, TopicId>,
}

impl Inquiry {
    fn new(partitions: Option<&[TopicPartition]>, known: &Metadata) -> Self {
        let left: Option<BTreeSet<_>> = partitions.map(|partitions| partitions.iter().cloned().collect());
        let mut inquiry = Self { offsets: Offsets::new(), left, ids: BTreeMap::new() };
        let topics = inquiry.strange();
        inquiry.learn(topics.iter().filter(|topic| known.partition_count(topic).is_some()), known);
        inquiry
    }

    /// Topics whose ids have to be asked for.
    fn strange(&self) -> BTreeSet<Arc<str>> {
        let topics = self.left.iter().flatten().map(|partition| &partition.topic);
        topics.filter(|topic| !self.ids.contains_key(*topic)).cloned().collect()
    }

    fn learn<'a>(&mut self, topics: impl IntoIterator<Item = &'a Arc<str>>, from: &Metadata) {
        self.ids.extend(topics.into_iter().map(|topic| (Arc::clone(topic), from.topic_id(topic))));
    }

    fn request(&self, group: &ByteString) -> OffsetFetchRequest {
        let topic = |(name, partition_indexes): (Arc<str>, _)| OffsetFetchRequestTopics {
            name: (&*name).into(),
            topic_id: self.ids.get(&name).copied().unwrap_or_default(),
            partition_indexes,
        };
        let wanted = OffsetFetchRequestGroup {
            group_id: group.clone(),
            topics: self.left.as_ref().map(|left| by_topic(left).into_iter().map(topic).collect()),
            ..OffsetFetchRequestGroup::default()
        };
        OffsetFetchRequest { groups: vec![wanted], require_stable: true, ..OffsetFetchRequest::default() }
    }

    /// Takes up an answer; fails while something is left.
    fn take(&mut self, group: &ByteString, answer: OffsetFetchResponse) -> Result<()> {
        let error = |code| ClientError::broker("OffsetFetch", format!("group {group}"), code);
        let mut errors = Vec::new();
        for told in answer.groups {
            match ErrorCode::from_code(told.error_code) {
                ErrorCode::None => {}
                code => errors.push(error(code)),
            }
            for mut topic in told.topics {
                let partitions = std::mem::take(&mut topic.partitions);
                let Some(name) = self.name(&topic) else { continue };
                for told in partitions {
                    let partition = TopicPartition::new(Arc::clone(&name), told.partition_index);
                    match ErrorCode::from_code(told.error_code) {
                        ErrorCode::None => self.told(partition, told),
                        ErrorCode::UnknownTopicId => _ = self.ids.remove(&name),
                        code => errors.push(error(code)),
                    }
                }
            }
        }
        if let Some(error) = errors.into_iter().min_by_key(ClientError::is_retriable) {
            return Err(error);
        }
        // What is left is of topics that have other ids by now, or none.
        let left: BTreeSet<_> = self.left.iter().flatten().map(|left| Arc::clone(&left.topic)).collect();
        left.iter().for_each(|topic| _ = self.ids.remove(topic));
        if left.is_empty() { Ok(()) } else { Err(error(ErrorCode::UnknownTopicId)) }
    }

    fn name(&self, topic: &OffsetFetchResponseTopics) -> Option<Arc<str>> {
        if !topic.name.is_empty() {
            return Some(Arc::from(&*topic.name));
        }
        let mut ids = self.ids.iter().filter(|(_, id)| !id.is_zero());
        ids.find(|(_, id)| **id == topic.topic_id).map(|(name, _)| Arc::clone(name))
    }

    fn told(&mut self, partition: TopicPartition, told: OffsetFetchResponsePartitions) {
        if let Some(left) = &mut self.left {
            left.remove(&partition);
        }
        if told.committed_offset >= 0 {
            let committed = OffsetAndMetadata {
                offset: Offset(told.committed_offset),
                leader_epoch: LeaderEpoch(told.committed_leader_epoch),
                metadata: told.metadata.unwrap_or_default(),
            };
            self.offsets.insert(partition, committed);
        }
    }
}

fn by_topic(partitions: &BTreeSet<TopicPartition>) -> BTreeMap<Arc<str>, Vec<i32>> {
    let mut topics: BTreeMap<Arc<str>, Vec<i32>> = BTreeMap::new();
    for partition in partitions {
        topics.entry(Arc::clone(&partition.topic)).or_default().push(partition.partition);
    }
    topics
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use millstream_env::HostRuntime;
    use millstream_protocol::messages::list_offsets::{ListOffsetsResponse, ListOffsetsTopicResponse};
    use millstream_protocol::messages::offset_fetch::OffsetFetchResponseGroup;
    use millstream_protocol::messages::{FindCoordinatorResponse, find_coordinator};
    use millstream_protocol::{Receipt, Request, Response};

    use super::*;
    use crate::fake;

    fn answer(response: impl Into<Response>) -> Receipt {
        Receipt::from(response.into())
    }

    #[test]
    fn offsets_of_other_leaders_are_told_where_one_is_silent() {
        let (runtime, env) = HostRuntime::start("test", 1).unwrap();
        let silent = Mutex::new(Vec::new());
        let client = fake::client(&env, 300, move |broker, request| match request {
            Request::Metadata(_) => fake::metadata(&[("t", 1, &[1, 2])]),
            Request::ListOffsets(_) if *broker == fake::broker(2) => {
                let (completer, receipt) = Receipt::pending();
                silent.lock().push(completer);
                receipt
            }
            Request::ListOffsets(_) => {
                let partition = ListOffsetsPartitionResponse { offset: 7, ..Default::default() };
                let topic = ListOffsetsTopicResponse { name: "t".into(), partitions: vec![partition] };
                answer(ListOffsetsResponse { topics: vec![topic], ..Default::default() })
            }
            other => panic!("{other:?}"),
        });
        let partitions = [0, 1].map(|p| TopicPartition::new("t", p));
        let wanted = partitions.iter().map(|p| (p.clone(), OffsetSpec::Latest)).collect();
        let cluster = &client.cluster;
        let listed = list(cluster, &cluster.links, &wanted, IsolationLevel::ReadUncommitted);
        let found = runtime.block_on(listed).unwrap();
        assert_eq!(found[&partitions[0]].as_ref().unwrap().as_ref().unwrap().offset, Offset(7));
        assert!(matches!(found[&partitions[1]], Err(ClientError::TimedOut { .. })));
    }

    /// Committed are 3 in `kept` and 5 in `anew`, which was made anew, with the id 3; `missing` does not exist.
    fn committed_by_id(request: OffsetFetchRequest) -> OffsetFetchResponse {
        let topic = |asked: OffsetFetchRequestTopics| {
            let id = asked.topic_id;
            let (offset, code) = match (id.0[0], &*asked.name) {
                (1, "kept") => (3, ErrorCode::None),
                (3, "anew") => (5, ErrorCode::None),
                (0, "missing") => (-1, ErrorCode::None),
                _ => (-1, ErrorCode::UnknownTopicId),
            };
            let told = OffsetFetchResponsePartitions {
                committed_offset: offset,
                error_code: code.code(),
                ..Default::default()
            };
            let name = if id.is_zero() { asked.name } else { ByteString::new() };
            OffsetFetchResponseTopics { name, topic_id: id, partitions: vec![told] }
        };
        let topics = request.groups[0].topics.clone().unwrap().into_iter().map(topic).collect();
        let group = OffsetFetchResponseGroup { topics, ..Default::default() };
        OffsetFetchResponse { groups: vec![group], ..Default::default() }
    }

    #[test]
    fn a_topic_with_another_id_is_asked_for_again_and_one_that_is_gone_has_nothing() {
        let (runtime, env) = HostRuntime::start("test", 1).unwrap();
        let (is_anew, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (anew, questions) = (Arc::clone(&is_anew), Arc::clone(&asked));
        let client = fake::client(&env, 20_000, move |_, request| match request {
            Request::Metadata(_) => {
                let id = if anew.load(Ordering::SeqCst) { 3 } else { 2 };
                fake::metadata(&[("kept", 1, &[1]), ("anew", id, &[1]), ("missing", 0, &[])])
            }
            Request::FindCoordinator(_) => {
                let found = find_coordinator::Coordinator { host: "c".into(), port: 1, ..Default::default() };
                answer(FindCoordinatorResponse { coordinators: vec![found], ..Default::default() })
            }
            Request::OffsetFetch(request) => {
                let topics = request.groups[0].topics.iter().flatten();
                questions.lock().push(topics.map(|topic| topic.name.to_string()).collect::<Vec<_>>());
                answer(committed_by_id(request))
            }
            other => panic!("{other:?}"),
        });
        let partitions = ["kept", "anew", "missing"].map(|topic| TopicPartition::new(topic, 0));
        let cluster = &client.cluster;
        let group = ByteString::from("g");
        let found = runtime.block_on(async {
            cluster.refresh(0).await.unwrap(); // it knows the id that the topic had
            is_anew.store(true, Ordering::SeqCst);
            fetch_committed(cluster, &cluster.links, &group, Some(&partitions)).await.unwrap()
        });
        let found: Vec<_> = found.into_iter().map(|(at, committed)| (at, committed.offset.0)).collect();
        assert_eq!(found, [(partitions[1].clone(), 5), (partitions[0].clone(), 3)]);
        assert_eq!(*asked.lock(), [vec!["anew", "kept", "missing"], vec!["anew"]]);
    }
}
