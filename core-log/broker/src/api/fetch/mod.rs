//! Fetch: reads batches, or waits for them.
//!
//! A fetch reads what is there; when that is less than `min_bytes` it parks (see [`wait`]): the partitions wake it when their marks
//! move, or its deadline does. There is no polling. Within a session (see [`session`]) only those partitions are looked at that may have
//! something new, and only those are answered that do.

mod session;
mod wait;

use std::sync::Arc;
use std::time::Duration;

use millstream_machine::replica::{Candidate, nearest};
use millstream_protocol::messages::fetch::{
    AbortedTransaction, EpochEndOffset, FetchPartition, FetchableTopicResponse, LeaderIdAndEpoch,
    PartitionData,
};
use millstream_protocol::messages::{FetchRequest, FetchResponse};
use millstream_protocol::{Ctx, ErrorCode, Receipt};
use millstream_record::{BatchHeader, Compression, LeaderEpoch, NodeId, Offset};
use millstream_storage::{ReadPlan, ReadSlices, StorageError};

pub(crate) use self::session::Sessions;
use self::session::{Keep, Place, Seen, Session, Who};
use crate::Broker;
use crate::partition::{FollowerState, Isolation, Marks, Partition, Planned, Reader, Sought, Waits};
use crate::refusal::Refusal;
use crate::replication::Side;
use crate::shared::Shared;

/// The mark of a follower that does not wait for it to move.
const MARK_NOT_AWAITED: i64 = i64::MAX;
/// How often a read is planned anew when segments vanish under it.
const MAX_REPLANS: usize = 3;
pub(super) fn handle(broker: &Broker, ctx: Ctx, request: FetchRequest) -> Receipt {
    let shared = &broker.shared;
    let (session, keep) = match shared.sessions.open(&request, || shared.partitions.next_watcher()) {
        Ok(opened) => opened,
        Err(code) => {
            return super::now(FetchResponse { error_code: code.code(), ..FetchResponse::default() });
        }
    };
    let mut fetch = Fetch::new(Arc::clone(shared), ctx, request, session, keep);
    let first = fetch.round(Access::Warm);
    if !first.is_cold && fetch.is_enough(&first) {
        return super::now(fetch.finish(first));
    }
    let (mut completer, receipt) = Receipt::pending();
    broker.spawn("fetch", async move {
        let response = match fetch.run(first, &mut completer).await {
            Some((fetch, last)) => fetch.finish(last),
            // The broker ends: whoever fetches asks its metadata where else to.
            None => FetchResponse {
                error_code: ErrorCode::NotLeaderOrFollower.code(),
                ..FetchResponse::default()
            },
        };
        completer.complete(Ok(response.into()));
    });
    receipt
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
    session: Box<Session>,
    keep: Keep,
    who: Who,
    /// Partitions that have nothing are to wake it.
    waits: bool,
    /// What a follower says of itself was not noted yet. Once: while it waits, it has fsynced more than it said.
    hears: bool,
    deadline: Duration,
}

/// One look at all partitions, or at those of a session that may have something new.
#[derive(Default)]
struct Round {
    response: FetchResponse,
    bytes: usize,
    /// As `bytes`, but with as much of partitions that have more than was read as the client would take: the next batch may not have
    /// fitted in, and waiting would not change that.
    available: usize,
    /// Something went wrong with a partition, a follower's log has left ours, it is better read elsewhere, or consumers of a follower
    /// wait for its mark: that is told at once.
    is_urgent: bool,
    /// Some bytes were not in memory.
    is_cold: bool,
    /// Bytes for followers that get no more than the rate.
    limited_bytes: usize,
    /// Places that are to be looked at again with the next round.
    again: Vec<u32>,
    /// What the client knows of partitions once it has the answer.
    told: Vec<(u32, Option<(Offset, Offset)>)>,
}

/// What a look at one partition gave.
struct Look {
    data: PartitionData,
    /// There is nothing more until it wakes the fetch.
    is_at_end: bool,
    /// How far it went.
    seen: Seen,
}

impl From<PartitionData> for Look {
    fn from(data: PartitionData) -> Self {
        Self { data, is_at_end: false, seen: Seen::default() }
    }
}

impl Fetch {
    fn new(shared: Arc<Shared>, ctx: Ctx, request: FetchRequest, session: Box<Session>, keep: Keep) -> Self {
        let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
        let deadline = shared.env.elapsed().saturating_add(wait);
        let isolation = Isolation::from_code(request.isolation_level);
        let reader = match replica(&request) {
            Some(_) => Reader::Follower,
            None if ctx.facts.reads_any_replica => Reader::Roaming(isolation),
            None => Reader::Consumer(isolation),
        };
        let waits = matches!(keep, Keep::Known(_));
        let who = Who { reader, replica: standing(&shared, &request) };
        let mut fetch = Self { shared, ctx, request, session, keep, who, waits, hears: true, deadline };
        fetch.session.fetched_by(who);
        fetch
    }

    /// Whether all partitions are answered, those that have nothing as well.
    fn is_full(&self) -> bool {
        !matches!(self.keep, Keep::Known(_))
    }

    /// Bytes that are waited for.
    fn wanted(&self) -> usize {
        usize::try_from(self.request.min_bytes).unwrap_or(0).min(self.limit())
    }

    fn is_enough(&self, round: &Round) -> bool {
        round.is_urgent
            || round.available >= self.wanted()
            || self.session.len() == 0
            || self.shared.env.elapsed() >= self.deadline
    }

    /// What is sent; it is counted where it is limited.
    fn finish(self, round: Round) -> FetchResponse {
        self.look_again(round.again);
        if round.limited_bytes > 0 {
            self.shared.throttle.took(Side::Leader, round.limited_bytes);
        }
        let Self { shared, mut session, keep, who, .. } = self;
        for (at, told) in round.told {
            session.told(at, told);
        }
        let session_id = shared.sessions.close(session, keep, who.replica.is_some());
        FetchResponse { session_id, ..round.response }
    }

    /// Has the next round look at these.
    fn look_again(&self, places: Vec<u32>) {
        places.into_iter().for_each(|at| self.session.changed.mark(at));
    }

    /// Reads partitions in their order, until the answer is full. Those that have more than was read, or could not be read, are looked
    /// at again with the next round.
    fn round(&mut self, access: Access) -> Round {
        let mut round = Round::default();
        self.who.replica = standing(&self.shared, &self.request);
        let mut places = Vec::new();
        self.session.changed.take(&mut places);
        if self.is_full() {
            places.clear();
            places.extend(self.session.all());
        }
        for (&at, looked_at) in places.iter().zip(0..) {
            if !self.is_full() && round.bytes > 0 && round.bytes >= self.limit() {
                round.again.splice(..0, places[looked_at..].iter().copied());
                break;
            }
            let Some(mut place) = self.session.take(at) else { continue }; // forgotten since it was marked
            let look = self.look(at, &mut place, access, &mut round);
            place.seen = look.seen;
            let is_told = self.tell(at, &place, look.data, &mut round);
            // A follower that is to be heard again is, with its next request.
            let is_unheard = !self.hears && self.who.replica.is_some();
            if !look.is_at_end || is_told || is_unheard {
                round.again.push(at);
            }
            self.session.put_back(at, place);
        }
        self.hears = false;
        round
    }

    /// Puts what is known of a partition into the answer; in a session only where that is new to the client.
    fn tell(&self, at: u32, place: &Place, data: PartitionData, round: &mut Round) -> bool {
        let bytes = data.records.as_ref().map_or(0, |records| records.len());
        let marks = (Offset(data.high_watermark), Offset(data.log_start_offset));
        let diverges = data.diverging_epoch.epoch >= 0 || data.diverging_epoch.end_offset >= 0;
        // Somebody may wait for a follower to let go of records that were deleted.
        let is_above = |told: &(Offset, Offset)| self.who.replica.is_some() && told.1 < marks.1;
        let is_urgent = data.error_code != 0
            || data.preferred_read_replica >= 0
            || diverges
            || place.told.as_ref().is_some_and(is_above);
        if !self.is_full() && !is_urgent && bytes == 0 && place.told == Some(marks) {
            return false;
        }
        round.is_urgent |= is_urgent;
        round.bytes += bytes;
        if self.keep != Keep::No {
            round.told.push((at, (data.error_code == 0).then_some(marks)));
        }
        let data = PartitionData { partition_index: place.asked.partition, ..data };
        let responses = &mut round.response.responses;
        match responses.last_mut().filter(|it| it.topic_id == place.topic_id && it.topic == place.topic) {
            Some(topic) => topic.partitions.push(data),
            None => responses.push(FetchableTopicResponse {
                topic: place.topic.clone(),
                topic_id: place.topic_id,
                partitions: vec![data],
            }),
        }
        true
    }

    /// Bytes of records that an answer holds, but for one batch.
    fn limit(&self) -> usize {
        let limit = self.request.max_bytes.min(self.shared.config.fetch_max_bytes);
        usize::try_from(limit).unwrap_or(0)
    }

    fn look(&self, at: u32, place: &mut Place, access: Access, round: &mut Round) -> Look {
        match self.shared.partition(&place.topic, place.topic_id, place.asked.partition) {
            Ok(partition) => {
                if self.waits {
                    place.watches(&partition, self.session.watch_key);
                }
                self.read(at, &partition, &place.asked, access, round)
            }
            Err(refusal) => self.refused(refusal, None).into(),
        }
    }

    fn read(
        &self,
        at: u32,
        partition: &Arc<Partition>,
        asked: &FetchPartition,
        access: Access,
        round: &mut Round,
    ) -> Look {
        let sought = Sought {
            offset: Offset(asked.fetch_offset),
            max_bytes: usize::try_from(asked.partition_max_bytes)
                .unwrap_or(0)
                .min(self.limit().saturating_sub(round.bytes)),
            at_least_one: round.bytes == 0, // a batch larger than the limits must not stick
            reader: self.who.reader,
        };
        if let Some(answered) = self.hear(partition, asked).or_else(|| self.elsewhere(partition, asked)) {
            return answered.into();
        }
        let limited = self.is_limited(partition);
        if limited && let Some(held) = self.hold_back(partition, asked) {
            return held.into();
        }
        for _ in 0..MAX_REPLANS {
            let waits = self.waits.then(|| self.waits_for(at, asked));
            let planned = partition.read_plan(sought, LeaderEpoch(asked.current_leader_epoch), waits);
            let Planned { plan, marks, is_at_end, end } = match planned {
                Ok(planned) => planned,
                Err((refusal, marks)) => return self.refused(refusal, marks).into(),
            };
            match slices(&plan, access) {
                Ok(Some(slices)) => {
                    round.is_urgent |= self.is_behind(asked, &marks);
                    round.limited_bytes += if limited { slices.bytes.len() } else { 0 };
                    let has_more = slices.next_offset < end;
                    let bytes = slices.bytes.len();
                    let available = bytes.max(if has_more { sought.max_bytes } else { 0 });
                    round.available += available;
                    let seen = Seen { next: slices.next_offset, bytes, available, is_listed: false };
                    return Look { data: self.given(&slices, &marks), is_at_end, seen };
                }
                Ok(None) => {
                    round.is_cold = true;
                    return self.given(&ReadSlices::default(), &marks).into();
                }
                Err(StorageError::Changed) => {}
                Err(error) => {
                    tracing::error!(partition = %partition.at(), %error, "a read failed");
                    return self.refused(error.into(), Some(marks)).into();
                }
            }
        }
        self.refused(StorageError::Changed.into(), None).into()
    }

    /// How a partition wakes this fetch.
    fn waits_for(&self, at: u32, asked: &FetchPartition) -> Waits {
        Waits {
            key: self.session.watch_key,
            watcher: self.session.watcher(at),
            for_mark: self.who.replica.is_some() && asked.high_watermark != MARK_NOT_AWAITED,
            for_more: self.request.min_bytes > 1,
        }
    }

    /// Takes note of a follower, once, and answers where its log has left this one: whoever reads on there would never be cut.
    fn hear(&self, partition: &Arc<Partition>, asked: &FetchPartition) -> Option<PartitionData> {
        let (node, broker_epoch, eligible) = self.who.replica?;
        let follower = FollowerState {
            node,
            broker_epoch,
            log_start: Offset(asked.log_start_offset),
            eligible,
            last_epoch: LeaderEpoch(asked.last_fetched_epoch),
            durable_end: Offset(asked.durable_end),
        };
        let known_epoch = LeaderEpoch(asked.current_leader_epoch);
        match partition.hear_follower(&follower, Offset(asked.fetch_offset), known_epoch, self.hears) {
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
        let Some((follower, ..)) = self.who.replica else { return false };
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
        self.who.replica.is_some() && Offset(asked.high_watermark) < could_know
    }

    /// Sends a consumer to a replica in its own rack, where this one leads and is in another (KIP-392).
    fn elsewhere(&self, partition: &Arc<Partition>, asked: &FetchPartition) -> Option<PartitionData> {
        let rack = &*self.request.rack_id;
        let config = &self.shared.config;
        if !config.reads_from_nearest_rack
            || rack.is_empty()
            || !matches!(self.who.reader, Reader::Roaming(_))
        {
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
            aborted_transactions: self.who.reader.is_committed_only().then(|| aborted.collect()),
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
            Some(marks) if code != ErrorCode::OffsetOutOfRange || self.who.replica.is_some() => {
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

/// The replica that fetches, and how the metadata has it.
fn standing(shared: &Shared, request: &FetchRequest) -> Option<(NodeId, i64, bool)> {
    let (node, broker_epoch) = replica(request)?;
    let image = shared.image.load();
    let eligible = image.broker(node).is_some_and(|broker| {
        broker.epoch == broker_epoch && !broker.fenced && !broker.in_controlled_shutdown
    });
    Some((node, broker_epoch, eligible))
}
