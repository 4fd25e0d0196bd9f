//! Fetches from leaders: one request for each at a time, answers kept until poll returns them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use millstream_protocol::messages::fetch::{
    FetchPartition, FetchRequest, FetchResponse, FetchTopic, PartitionData,
};
use millstream_protocol::{CallError, Endpoint, ErrorCode, Link};
use millstream_record::{Batches, LeaderEpoch, Offset, TopicPartition};

use super::decode::{Fetched, Reading};
use super::shared::Shared;
use super::subscription::{Nearer, Position, Standing};
use crate::links::read_answer;
use crate::metadata::{Leader, Metadata};
use crate::{ClientError, IsolationLevel, OffsetReset, PartitionRecords, Result};

/// `session_epoch` of a fetch outside of any session (KIP-227).
const SESSIONLESS: i32 = -1;

/// What was asked of a partition.
#[derive(Clone, Copy, Debug)]
struct Asked {
    version: u64,
    position: Position,
    leader_epoch: LeaderEpoch,
    /// Not the leader was asked, but a replica that it named.
    elsewhere: bool,
}

type Questions = BTreeMap<TopicPartition, Asked>;

/// An answer to a fetch, with what was asked.
pub(super) struct Answered {
    node: i32,
    link: Option<Arc<dyn Link>>,
    questions: Questions,
    answer: Result<FetchResponse>,
}

#[derive(Default)]
pub(super) struct Fetcher {
    pub in_flight: FuturesUnordered<BoxFuture<'static, Answered>>,
    links: BTreeMap<i32, Arc<dyn Link>>,
    /// Leaders that owe an answer, and the partitions asked for.
    busy: BTreeMap<i32, BTreeSet<TopicPartition>>,
    buffered: VecDeque<Fetched>,
    /// Errors that poll has to report, one at a time.
    errors: VecDeque<ClientError>,
}

impl Fetcher {
    /// Records that are there, at most `max.poll.records`.
    pub(super) fn take(&mut self, shared: &Shared) -> Result<Vec<PartitionRecords>> {
        if let Some(error) = self.errors.pop_front() {
            return Err(error);
        }
        let mut left = shared.config.max_poll_records;
        let mut taken = Vec::new();
        let mut kept = VecDeque::new();
        while left > 0
            && let Some(mut fetched) = self.buffered.pop_front()
        {
            let mut subscription = shared.subscription.lock();
            let assigned = subscription.partitions.get_mut(&fetched.partition);
            let Some(assigned) = assigned.filter(|assigned| assigned.version == fetched.version) else {
                continue;
            };
            if assigned.paused {
                kept.push_back(fetched);
                continue;
            }
            match fetched.take(left) {
                Ok(Some(records)) => {
                    assigned.standing = Standing::At(fetched.position);
                    left -= records.records.len().min(left);
                    taken.push(records);
                    if !fetched.is_done() {
                        kept.push_back(fetched); // else what follows can be asked for while the caller works
                    }
                }
                Ok(None) => {}
                Err(source) => {
                    let error = ClientError::Record { partition: fetched.partition.clone(), source };
                    if taken.is_empty() {
                        // Kept out of the buffer: the next poll fetches the bytes again.
                        self.buffered.append(&mut kept);
                        return Err(error);
                    }
                    self.errors.push_back(error);
                }
            }
        }
        self.buffered.append(&mut kept);
        Ok(taken)
    }

    /// Asks every idle leader for its partitions, once nothing of it is buffered that poll could return (as Kafka's consumer does
    /// since KAFKA-17182). Tells when to look again, for partitions that have to
    /// wait, and whether a leader is not known.
    pub(super) fn ask(&mut self, shared: &Arc<Shared>) -> (Duration, bool) {
        let now = shared.cluster.env.elapsed();
        let metadata = shared.cluster.metadata();
        let (mut later, mut leaderless) = (Duration::MAX, false);
        let mut wanted: BTreeMap<i32, (Leader, Questions)> = BTreeMap::new();
        let mut subscription = shared.subscription.lock();
        self.buffered.retain(|fetched| {
            subscription.partitions.get(&fetched.partition).is_some_and(|a| a.version == fetched.version)
        });
        let mut excluded: BTreeSet<&TopicPartition> = self.busy.values().flatten().collect();
        excluded.extend(self.buffered.iter().map(|fetched| &fetched.partition));
        let unread = self.buffered.iter().filter_map(|Fetched { partition, .. }| {
            let assigned = subscription.partitions.get(partition).filter(|assigned| !assigned.paused)?;
            let leader = metadata.leader(&partition.topic, partition.partition)?;
            Some(source(&metadata, leader, assigned.nearer, now).node)
        });
        // An answer for the other partitions alone may be long in coming, and would hold these up once they are read.
        let unread: BTreeSet<i32> = unread.collect();
        for (partition, assigned) in &mut subscription.partitions {
            let Standing::At(position) = assigned.standing else { continue };
            if assigned.paused || excluded.contains(partition) {
                continue;
            }
            if assigned.retry_at > now {
                later = later.min(assigned.retry_at);
                continue;
            }
            let Some(leader) = metadata.leader(&partition.topic, partition.partition) else {
                leaderless = true;
                continue;
            };
            if leader.epoch > assigned.leader_epoch {
                let changed = assigned.leader_epoch != LeaderEpoch::NONE;
                assigned.leader_epoch = leader.epoch;
                if changed && position.offset_epoch != LeaderEpoch::NONE {
                    assigned.standing = Standing::Unvalidated(position); // a new leader may have a shorter log
                    continue;
                }
            }
            let (leads, leader_epoch) = (leader.node, leader.epoch);
            let from = source(&metadata, leader, assigned.nearer, now);
            if self.busy.contains_key(&from.node) || unread.contains(&from.node) {
                continue;
            }
            let elsewhere = from.node != leads;
            let asked = Asked { version: assigned.version, position, leader_epoch, elsewhere };
            let (_, questions) = wanted.entry(from.node).or_insert_with(|| (from, Questions::new()));
            questions.insert(partition.clone(), asked);
        }
        drop(subscription);
        for (leader, questions) in wanted.into_values() {
            self.send(shared, leader, questions, &metadata);
        }
        (later, leaderless)
    }

    fn send(&mut self, shared: &Arc<Shared>, leader: Leader, questions: Questions, metadata: &Metadata) {
        let Leader { node, endpoint, .. } = leader;
        let request = request(shared, &questions, metadata);
        self.busy.insert(node, questions.keys().cloned().collect());
        let shared = Arc::clone(shared);
        let timeout = Duration::from_millis(
            shared.cluster.config.request_timeout_ms
                + u64::try_from(shared.config.fetch_max_wait_ms).unwrap_or(0),
        );
        // Where the link is open the request leaves at once, not when poll is called again: that is what fetches ahead.
        let begun = self.links.get(&node).filter(|link| !link.is_closed()).map(|link| {
            let receipt = shared.fetch_links.begin(link, request.clone(), timeout);
            (Arc::clone(link), receipt)
        });
        let answered = async move {
            let (link, receipt) = match begun {
                Some(begun) => begun,
                None => match shared.fetch_links.get(&endpoint).await {
                    Ok(link) => {
                        let receipt = shared.fetch_links.begin(&link, request, timeout);
                        (link, receipt)
                    }
                    Err(error) => return Answered { node, link: None, questions, answer: Err(error) },
                },
            };
            let answer =
                shared.cluster.env.timeout(timeout, receipt).await.unwrap_or(Err(CallError::TimedOut));
            let link = keep_link(&shared, &endpoint, link, &answer);
            Answered { node, link, questions, answer: read_answer::<FetchRequest>(&endpoint, answer) }
        };
        self.in_flight.push(answered.boxed());
    }

    /// Takes an answer: keeps its records, and learns from its errors.
    pub(super) fn accept(&mut self, shared: &Shared, answered: Answered) {
        let Answered { node, link, questions, answer } = answered;
        self.busy.remove(&node);
        match link {
            Some(link) => self.links.insert(node, link),
            None => self.links.remove(&node),
        };
        let answer = answer.and_then(|answer| match ErrorCode::from_code(answer.error_code) {
            ErrorCode::None => Ok(answer),
            code => Err(ClientError::broker("Fetch", format!("node {node}"), code)),
        });
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                tracing::debug!(%error, node, "a fetch failed; it is tried again");
                for (partition, asked) in &questions {
                    shared.subscription.lock().read_from(partition, None);
                    shared.try_later(partition, asked.version);
                }
                shared.cluster.mark_stale();
                if !error.is_retriable() {
                    self.errors.push_back(error);
                }
                return;
            }
        };
        let metadata = shared.cluster.metadata();
        for topic in answer.responses {
            let by_id = metadata.topic_named(topic.topic_id).filter(|_| topic.topic.is_empty());
            let name = by_id.cloned().unwrap_or_else(|| Arc::from(&*topic.topic));
            for data in topic.partitions {
                let partition = TopicPartition::new(Arc::clone(&name), data.partition_index);
                if let Some(asked) = questions.get(&partition) {
                    self.accept_partition(shared, partition, *asked, data);
                }
            }
        }
    }

    fn accept_partition(
        &mut self,
        shared: &Shared,
        partition: TopicPartition,
        asked: Asked,
        data: PartitionData,
    ) {
        let current = shared.subscription.lock().partitions.get(&partition).cloned();
        let Some(current) = current.filter(|current| current.version == asked.version) else { return };
        if current.position() != Some(asked.position) {
            return;
        }
        let code = ErrorCode::from_code(data.error_code);
        if asked.elsewhere && code != ErrorCode::None {
            // A replica may be behind; whether the position is gone only the leader can say.
            shared.subscription.lock().read_from(&partition, None);
            if code == ErrorCode::OffsetOutOfRange {
                return;
            }
        }
        if code == ErrorCode::None && data.preferred_read_replica >= 0 {
            let age = Duration::from_millis(shared.cluster.config.metadata_max_age_ms);
            let until = shared.cluster.env.elapsed().saturating_add(age);
            let nearer = Nearer { node: data.preferred_read_replica, until };
            shared.subscription.lock().read_from(&partition, Some(nearer));
            return;
        }
        match code {
            ErrorCode::None => self.keep(shared, partition, asked, data),
            ErrorCode::OffsetOutOfRange => self.out_of_range(shared, partition, asked),
            code if code.is_retriable() => {
                shared.try_later(&partition, asked.version);
                shared.cluster.mark_stale();
            }
            code => {
                shared.try_later(&partition, asked.version);
                self.errors.push_back(ClientError::broker("Fetch", &partition, code));
            }
        }
    }

    fn keep(&mut self, shared: &Shared, partition: TopicPartition, asked: Asked, data: PartitionData) {
        let records = data.records.unwrap_or_default();
        if records.is_empty() {
            return;
        }
        let reading = Reading {
            check_crcs: shared.config.check_crcs,
            limit_bytes: shared.config.max_decompressed_batch_bytes,
            committed_only: shared.config.isolation_level == IsolationLevel::ReadCommitted,
        };
        let aborted = data.aborted_transactions.unwrap_or_default();
        let batches = Batches::ignoring_partial(records);
        let mut fetched = Fetched::new(partition, asked.version, asked.position, reading, batches, aborted);
        fetched.high_watermark = Offset(data.high_watermark);
        fetched.last_stable_offset = Offset(data.last_stable_offset);
        self.buffered.push_back(fetched);
    }

    fn out_of_range(&mut self, shared: &Shared, partition: TopicPartition, asked: Asked) {
        match shared.config.auto_offset_reset {
            OffsetReset::None => {
                shared.try_later(&partition, asked.version);
                self.errors
                    .push_back(ClientError::OffsetOutOfRange { partition, position: asked.position.offset });
            }
            policy => {
                tracing::info!(%partition, position = asked.position.offset.0, ?policy, "the position is gone; resetting it");
                let was = Standing::At(asked.position);
                shared.subscription.lock().found(&partition, asked.version, was, Standing::Reset(policy));
            }
        }
    }
}

/// Where a partition is read: at the replica that its leader named, if it is known and not long ago; else at the leader.
fn source(metadata: &Metadata, leader: Leader, nearer: Option<Nearer>, now: Duration) -> Leader {
    let broker =
        nearer.filter(|nearer| now < nearer.until).and_then(|nearer| metadata.brokers.get(&nearer.node));
    match broker {
        Some(broker) => Leader { node: broker.node.0, endpoint: broker.endpoint.clone(), ..leader },
        None => leader,
    }
}

fn request(shared: &Shared, questions: &Questions, metadata: &Metadata) -> FetchRequest {
    let mut topics: BTreeMap<&Arc<str>, Vec<FetchPartition>> = BTreeMap::new();
    for (partition, asked) in questions {
        topics.entry(&partition.topic).or_default().push(FetchPartition {
            partition: partition.partition,
            current_leader_epoch: asked.leader_epoch.0,
            fetch_offset: asked.position.offset.0,
            partition_max_bytes: shared.config.max_partition_fetch_bytes,
            ..FetchPartition::default()
        });
    }
    let topic = |(name, partitions): (&Arc<str>, _)| FetchTopic {
        topic: (&**name).into(),
        topic_id: metadata.topic_id(name),
        partitions,
    };
    FetchRequest {
        max_wait_ms: shared.config.fetch_max_wait_ms,
        min_bytes: shared.config.fetch_min_bytes,
        max_bytes: shared.config.fetch_max_bytes,
        isolation_level: shared.config.isolation_level.code(),
        session_id: 0,
        session_epoch: SESSIONLESS,
        topics: topics.into_iter().map(topic).collect(),
        rack_id: shared.config.client_rack.clone().unwrap_or_default(),
        ..FetchRequest::default()
    }
}

fn keep_link(
    shared: &Shared,
    endpoint: &Endpoint,
    link: Arc<dyn Link>,
    answer: &Result<millstream_protocol::Response, CallError>,
) -> Option<Arc<dyn Link>> {
    if matches!(answer, Err(error) if error.is_retriable()) {
        shared.fetch_links.forget(endpoint, &link);
        return None;
    }
    Some(link)
}
