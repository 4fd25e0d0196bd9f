//! Fetch: reads batches, or waits for them.
//!
//! A fetch reads what is there; when that is less than `min_bytes` it parks: the partitions wake it when their marks move, or
//! its deadline does. There is no polling. Sessions are not kept (KIP-227 allows that): every answer has session id 0, so
//! clients send full requests.

use std::sync::Arc;
use std::time::Duration;

use millstream_env::Pool;
use millstream_machine::replica::{Candidate, nearest};
use millstream_protocol::messages::fetch::{
    AbortedTransaction, EpochEndOffset, FetchPartition, FetchableTopicResponse, LeaderIdAndEpoch,
    PartitionData,
};
use millstream_protocol::messages::{FetchRequest, FetchResponse};
use millstream_protocol::{Ctx, ErrorCode, Receipt};
use millstream_record::{BatchHeader, Compression, LeaderEpoch, NodeId, Offset};
use millstream_storage::{ReadPlan, ReadSlices, StorageError};
use tokio::sync::Notify;

use crate::Broker;
use crate::partition::{FollowerState, Isolation, Marks, Partition, Reader, Sought};
use crate::refusal::Refusal;
use crate::replication::Side;
use crate::shared::Shared;

/// What a client sends that has no session: it fetches in full, and opens none.
const FINAL_EPOCH: i32 = -1;
/// The mark of a follower that does not wait for it to move.
const MARK_NOT_AWAITED: i64 = i64::MAX;
/// How often a read is planned anew when segments vanish under it.
const MAX_REPLANS: usize = 3;

pub(super) fn handle(broker: &Broker, ctx: Ctx, request: FetchRequest) -> Receipt {
    if let Some(code) = foreign_session(&request) {
        return super::now(FetchResponse { error_code: code.code(), ..FetchResponse::default() });
    }
    let mut fetch = Fetch::new(Arc::clone(&broker.shared), ctx, request);
    let first = fetch.round(Access::Warm);
    if !first.is_cold && fetch.is_enough(&first) {
        return super::now(fetch.finish(first));
    }
    broker.answer("fetch", async move {
        let last = fetch.run(first).await;
        fetch.finish(last)
    })
}

/// Sessions of another broker's making, or of an earlier life's, are not known here.
fn foreign_session(request: &FetchRequest) -> Option<ErrorCode> {
    match (request.session_id, request.session_epoch) {
        (_, 0 | FINAL_EPOCH) => None, // opens a session, or closes one and fetches in full
        _ => Some(ErrorCode::FetchSessionIdNotFound),
    }
}

/// The replica that fetches, and its broker epoch: none for consumers. Until version 14 a replica did not tell its epoch.
fn replica(request: &FetchRequest) -> Option<(NodeId, i64)> {
    let state = &request.replica_state;
    match (state.replica_id, request.replica_id) {
        (id, _) if id >= 0 => Some((NodeId(id), state.replica_epoch)),
        (_, id) if id >= 0 => Some((NodeId(id), -1)),
        _ => None,
    }
}

/// Whether reads may wait for the disk.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Warm,
    Cold,
}

/// A fetch, until it is answered.
struct Fetch {
    shared: Arc<Shared>,
    ctx: Ctx,
    request: FetchRequest,
    reader: Reader,
    /// Which replica fetches, and in which broker epoch, where it is one.
    replica: Option<(NodeId, i64)>,
    deadline: Duration,
}

/// One look at all partitions.
struct Round {
    response: FetchResponse,
    bytes: usize,
    /// Something went wrong with a partition, it is better read elsewhere, or consumers of a follower wait for its mark: that is told
    /// at once.
    is_urgent: bool,
    /// Some bytes were not in memory.
    is_cold: bool,
    /// Bytes for followers that get no more than the rate.
    limited_bytes: usize,
}

impl Fetch {
    fn new(shared: Arc<Shared>, ctx: Ctx, request: FetchRequest) -> Self {
        let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
        let deadline = shared.env.elapsed().saturating_add(wait);
        let replica = replica(&request);
        let isolation = Isolation::from_code(request.isolation_level);
        let reader = match replica {
            Some(_) => Reader::Follower,
            None if ctx.facts.reads_any_replica => Reader::Roaming(isolation),
            None => Reader::Consumer(isolation),
        };
        Self { shared, ctx, request, reader, replica, deadline }
    }

    fn is_enough(&self, round: &Round) -> bool {
        let wanted = usize::try_from(self.request.min_bytes).unwrap_or(0);
        round.is_urgent
            || round.bytes >= wanted
            || round.response.responses.is_empty()
            || self.shared.env.elapsed() >= self.deadline
    }

    /// What is sent; it is counted where it is limited.
    fn finish(&self, round: Round) -> FetchResponse {
        if round.limited_bytes > 0 {
            self.shared.throttle.took(Side::Leader, round.limited_bytes);
        }
        round.response
    }

    async fn run(&mut self, first: Round) -> Round {
        let mut round = first;
        let Ok(_place) = Arc::clone(&self.shared.parking).try_acquire_owned() else {
            return self.complete(round).await;
        };
        let parked = Parked::new(self);
        loop {
            round = self.complete(round).await;
            if self.is_enough(&round) {
                return round;
            }
            let left = self.deadline.saturating_sub(self.shared.env.elapsed());
            let woken = self.shared.env.timeout(left, parked.notify.notified()).await;
            round = self.round(Access::Warm);
            if woken.is_err() {
                return self.complete(round).await;
            }
        }
    }

    /// `round`, or one that waits for the disk where that one would have had to.
    async fn complete(&mut self, round: Round) -> Round {
        if !round.is_cold {
            return round;
        }
        let mut again = Self {
            shared: Arc::clone(&self.shared),
            ctx: self.ctx.clone(),
            request: self.request.clone(),
            ..*self
        };
        let env = self.shared.env.clone();
        let read = env.blocking(Pool::Read, move || again.round(Access::Cold)).await;
        read.unwrap_or(round)
    }

    /// Reads every partition, in the order in which the client names them, until the answer is full.
    fn round(&mut self, access: Access) -> Round {
        let mut round = Round {
            response: FetchResponse::default(),
            bytes: 0,
            is_urgent: false,
            is_cold: false,
            limited_bytes: 0,
        };
        for topic in &self.request.topics {
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for asked in &topic.partitions {
                let found = self.shared.partition(&topic.topic, topic.topic_id, asked.partition);
                let mut data = match found {
                    Ok(partition) => self.read(&partition, asked, access, &mut round),
                    Err(refusal) => self.refused(refusal, None),
                };
                data.partition_index = asked.partition;
                round.is_urgent |= data.error_code != 0 || data.preferred_read_replica >= 0;
                round.bytes += data.records.as_ref().map_or(0, |records| records.len());
                partitions.push(data);
            }
            round.response.responses.push(FetchableTopicResponse {
                topic: topic.topic.clone(),
                topic_id: topic.topic_id,
                partitions,
            });
        }
        round
    }

    fn read(
        &self,
        partition: &Arc<Partition>,
        asked: &FetchPartition,
        access: Access,
        round: &mut Round,
    ) -> PartitionData {
        let size = |bytes: i32| usize::try_from(bytes).unwrap_or(0);
        let limit = size(self.request.max_bytes.min(self.shared.config.fetch_max_bytes));
        let sought = Sought {
            offset: Offset(asked.fetch_offset),
            max_bytes: size(asked.partition_max_bytes).min(limit.saturating_sub(round.bytes)),
            at_least_one: round.bytes == 0, // a batch larger than the limits must not stick
            reader: self.reader,
        };
        if let Some(answered) = self.hear(partition, asked).or_else(|| self.elsewhere(partition, asked)) {
            return answered;
        }
        let limited = self.is_limited(partition);
        if limited && let Some(held) = self.hold_back(partition, asked) {
            return held;
        }
        for _ in 0..MAX_REPLANS {
            let (plan, marks) = match partition.read_plan(sought, LeaderEpoch(asked.current_leader_epoch)) {
                Ok(planned) => planned,
                Err((refusal, marks)) => return self.refused(refusal, marks),
            };
            match slices(&plan, access) {
                Ok(Some(slices)) => {
                    round.is_urgent |= self.is_behind(asked, &marks);
                    round.limited_bytes += if limited { slices.bytes.len() } else { 0 };
                    return self.given(&slices, &marks);
                }
                Ok(None) => {
                    round.is_cold = true;
                    return self.given(&ReadSlices::default(), &marks);
                }
                Err(StorageError::Changed) => {}
                Err(error) => {
                    tracing::error!(partition = %partition.at(), %error, "a read failed");
                    return self.refused(error.into(), Some(marks));
                }
            }
        }
        self.refused(StorageError::Changed.into(), None)
    }

    /// Takes note of a follower, and answers at once where its log has left this one.
    fn hear(&self, partition: &Arc<Partition>, asked: &FetchPartition) -> Option<PartitionData> {
        let (node, broker_epoch) = self.replica?;
        let image = self.shared.image.load();
        let follower = FollowerState {
            node,
            broker_epoch,
            log_start: Offset(asked.log_start_offset),
            eligible: image.broker(node).is_some_and(|broker| {
                broker.epoch == broker_epoch && !broker.fenced && !broker.in_controlled_shutdown
            }),
            last_epoch: LeaderEpoch(asked.last_fetched_epoch),
            durable_end: Offset(asked.durable_end),
        };
        let known_epoch = LeaderEpoch(asked.current_leader_epoch);
        match partition.hear_follower(&follower, Offset(asked.fetch_offset), known_epoch) {
            Ok(None) => None,
            Ok(Some(diverged)) => {
                let diverging_epoch = EpochEndOffset { epoch: diverged.epoch.0, end_offset: diverged.end.0 };
                let marks = partition.marks(known_epoch).ok()?;
                Some(PartitionData {
                    diverging_epoch,
                    records: Some(bytes::Bytes::new()),
                    ..self.marked(marks)
                })
            }
            Err((refusal, marks)) => Some(self.refused(refusal, marks)),
        }
    }

    fn is_limited(&self, partition: &Partition) -> bool {
        let Some((follower, _)) = self.replica else { return false };
        partition.is_limited(Side::Leader, follower, &self.shared.image.load())
    }

    /// Nothing, where a follower that is not in sync has had all that the rate allows.
    fn hold_back(&self, partition: &Partition, asked: &FetchPartition) -> Option<PartitionData> {
        let image = self.shared.image.load();
        self.shared.throttle.wait(Side::Leader, self.shared.env.elapsed(), &image)?;
        let marks = partition.marks(LeaderEpoch(asked.current_leader_epoch)).ok()?;
        Some(PartitionData { records: Some(bytes::Bytes::new()), ..self.marked(marks) })
    }

    /// Whether a follower, whose consumers wait, would move its mark if it knew ours (KIP-1166). Who has not fsynced what it has cannot,
    /// and would only ask again and again.
    fn is_behind(&self, asked: &FetchPartition, marks: &Marks) -> bool {
        let could_know = marks.high_watermark.min(Offset(asked.durable_end));
        self.replica.is_some() && Offset(asked.high_watermark) < could_know
    }

    /// Sends a consumer to a replica in its own rack, where this one leads and is in another (KIP-392).
    fn elsewhere(&self, partition: &Arc<Partition>, asked: &FetchPartition) -> Option<PartitionData> {
        let rack = &*self.request.rack_id;
        let config = &self.shared.config;
        if !config.reads_from_nearest_rack || rack.is_empty() || !matches!(self.reader, Reader::Roaming(_)) {
            return None;
        }
        let image = self.shared.image.load();
        let with = partition.followers_with(Offset(asked.fetch_offset));
        let reached = |node: NodeId| {
            let broker = image.broker(node).filter(|broker| broker.is_active())?;
            broker.listeners.iter().any(|one| *one.name == *self.ctx.listener).then_some(broker)
        };
        let candidates: Vec<_> = with
            .iter()
            .filter_map(|&(node, end)| Some(Candidate { node, rack: reached(node)?.rack.as_deref(), end }))
            .collect();
        let leader =
            Candidate { node: config.node_id, rack: config.rack.as_deref(), end: Offset(asked.fetch_offset) };
        let near = nearest(rack, &leader, &candidates)?;
        let marks = partition.marks(LeaderEpoch(asked.current_leader_epoch)).ok()?;
        Some(PartitionData {
            preferred_read_replica: near.0,
            records: Some(bytes::Bytes::new()),
            ..self.marked(marks)
        })
    }

    fn given(&self, slices: &ReadSlices, marks: &Marks) -> PartitionData {
        if !self.ctx.facts.zstd_allowed && begins_with_zstd(slices) {
            return self.refused(ErrorCode::UnsupportedCompressionType.into(), Some(*marks));
        }
        let aborted = slices.aborted.iter().map(|aborted| AbortedTransaction {
            producer_id: aborted.producer_id.0,
            first_offset: aborted.first_offset.0,
        });
        PartitionData {
            aborted_transactions: self.reader.is_committed_only().then(|| aborted.collect()),
            records: Some(slices.bytes.clone()),
            ..self.marked(*marks)
        }
    }

    fn marked(&self, marks: Marks) -> PartitionData {
        PartitionData {
            high_watermark: marks.high_watermark.0,
            last_stable_offset: marks.last_stable.0,
            log_start_offset: marks.start.0,
            aborted_transactions: None,
            ..PartitionData::default()
        }
    }

    fn refused(&self, refusal: Refusal, marks: Option<Marks>) -> PartitionData {
        let code = match refusal.code {
            ErrorCode::KafkaStorageError if !self.ctx.facts.storage_error_known => {
                ErrorCode::NotLeaderOrFollower
            }
            code => code,
        };
        let current_leader = match (code, marks) {
            (ErrorCode::FencedLeaderEpoch | ErrorCode::NotLeaderOrFollower, Some(marks)) => {
                LeaderIdAndEpoch { leader_id: self.shared.config.node_id.0, leader_epoch: marks.epoch.0 }
            }
            _ => LeaderIdAndEpoch::default(),
        };
        let base = match marks {
            // A follower has to know where the log begins.
            Some(marks) if code != ErrorCode::OffsetOutOfRange || self.replica.is_some() => {
                self.marked(marks)
            }
            _ => PartitionData {
                high_watermark: -1,
                last_stable_offset: -1,
                log_start_offset: -1,
                aborted_transactions: None,
                ..PartitionData::default()
            },
        };
        PartitionData { error_code: code.code(), current_leader, records: Some(bytes::Bytes::new()), ..base }
    }
}

fn slices(plan: &ReadPlan, access: Access) -> Result<Option<ReadSlices>, StorageError> {
    match access {
        Access::Warm => plan.try_now(),
        Access::Cold => plan.run_blocking().map(Some),
    }
}

/// A client that cannot read zstd is told so by the first batch that needs it (KIP-110).
fn begins_with_zstd(slices: &ReadSlices) -> bool {
    BatchHeader::peek(&slices.bytes)
        .is_ok_and(|header| matches!(header.attributes.compression(), Ok(Compression::Zstd)))
}

/// A fetch's place in the partitions it waits for; given up when dropped.
struct Parked {
    notify: Arc<Notify>,
    key: u64,
    partitions: Vec<Arc<Partition>>,
}

impl Parked {
    fn new(fetch: &Fetch) -> Self {
        let notify = Arc::new(Notify::new());
        let key = fetch.shared.partitions.next_watcher();
        let topics = fetch.request.topics.iter();
        let named = topics.flat_map(|topic| topic.partitions.iter().map(move |asked| (topic, asked)));
        let watched = named.filter_map(|(topic, asked)| {
            let partition = fetch.shared.partition(&topic.topic, topic.topic_id, asked.partition).ok()?;
            partition.watch(fetch.reader, key, &notify);
            if fetch.reader == Reader::Follower && asked.high_watermark != MARK_NOT_AWAITED {
                partition.watch(Reader::Consumer(Isolation::Uncommitted), key, &notify);
            }
            Some(partition)
        });
        let partitions: Vec<Arc<Partition>> = watched.collect();
        notify.notify_one(); // what came between the first look and now
        Self { notify, key, partitions }
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        for partition in &self.partitions {
            partition.unwatch(self.key);
        }
    }
}
