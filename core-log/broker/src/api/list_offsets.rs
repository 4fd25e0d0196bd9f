//! ListOffsets: earliest, latest, by time, of the largest timestamp.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use millstream_env::Pool;
use millstream_protocol::messages::list_offsets::{
    ListOffsetsPartition, ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use millstream_protocol::messages::{ListOffsetsRequest, ListOffsetsResponse};
use millstream_protocol::{Ctx, ErrorCode, Receipt};
use millstream_record::{LeaderEpoch, Millis, Offset};
use millstream_storage::LookupPlan;

use crate::Broker;
use crate::partition::{Isolation, Marks, Partition};
use crate::refusal::Refusal;
use crate::shared::Shared;

const EARLIEST: i64 = -2;
const LATEST: i64 = -1;
/// The record with the largest timestamp (KIP-734).
const OF_MAX_TIMESTAMP: i64 = -3;
/// The first offset that is on this broker (KIP-405); all are.
const EARLIEST_LOCAL: i64 = -4;
/// What tiered storage would have: the last offset moved there, the first one that waits to be.
const LATEST_TIERED: i64 = -5;
const EARLIEST_PENDING_UPLOAD: i64 = -6;

/// A place in the log, as the answer has it.
#[derive(Clone, Copy)]
struct Place {
    timestamp: i64,
    offset: i64,
    epoch: LeaderEpoch,
}

const NOWHERE: Place = Place { timestamp: -1, offset: -1, epoch: LeaderEpoch::NONE };

pub(super) fn handle(broker: &Broker, ctx: Ctx, request: ListOffsetsRequest) -> Receipt {
    let shared = Arc::clone(&broker.shared);
    let by_time = |partition: &ListOffsetsPartition| {
        partition.timestamp >= 0 || partition.timestamp == OF_MAX_TIMESTAMP
    };
    let must_look = request.topics.iter().flat_map(|topic| &topic.partitions).any(by_time);
    if !must_look {
        return super::now(respond(&shared, &ctx, &request));
    }
    let env = shared.env.clone();
    broker.answer("list offsets", async move {
        let looked = env.blocking(Pool::Read, move || respond(&shared, &ctx, &request)).await;
        looked.unwrap_or_default() // only when the broker ends
    })
}

fn respond(shared: &Shared, ctx: &Ctx, request: &ListOffsetsRequest) -> ListOffsetsResponse {
    let isolation = Isolation::from_code(request.isolation_level);
    let mut twice = named_twice(request);
    let topics = request.topics.iter().map(|topic| ListOffsetsTopicResponse {
        name: topic.name.clone(),
        partitions: topic
            .partitions
            .iter()
            .filter_map(|asked| {
                if let Some(is_told) = twice.get_mut(&(&*topic.name, asked.partition_index)) {
                    let is_first = !std::mem::replace(is_told, true);
                    let refused =
                        || answer(asked.partition_index, Err(ErrorCode::InvalidRequest.into()), ctx);
                    return is_first.then(refused);
                }
                let place = shared
                    .partition(&topic.name, Default::default(), asked.partition_index)
                    .and_then(|partition| find(&partition, ctx, asked, isolation));
                Some(answer(asked.partition_index, place, ctx))
            })
            .collect(),
    });
    ListOffsetsResponse { topics: topics.collect(), ..ListOffsetsResponse::default() }
}

/// Partitions that a request asks for more than once: which of the questions were meant is not known. Each is refused, once; the flag is
/// for whether it was.
fn named_twice(request: &ListOffsetsRequest) -> BTreeMap<(&str, i32), bool> {
    let named = request
        .topics
        .iter()
        .flat_map(|topic| topic.partitions.iter().map(|partition| (&*topic.name, partition.partition_index)));
    let mut once = BTreeSet::new();
    named.filter(|partition| !once.insert(*partition)).map(|partition| (partition, false)).collect()
}

fn answer(index: i32, place: Result<Place, Refusal>, ctx: &Ctx) -> ListOffsetsPartitionResponse {
    let (code, place) = match place {
        Ok(place) => (ErrorCode::None, place),
        Err(refusal)
            if refusal.code == ErrorCode::OffsetNotAvailable && !ctx.facts.offset_not_available_known =>
        {
            (ErrorCode::LeaderNotAvailable, NOWHERE)
        }
        Err(refusal) => (refusal.code, NOWHERE),
    };
    ListOffsetsPartitionResponse {
        partition_index: index,
        error_code: code.code(),
        timestamp: place.timestamp,
        offset: place.offset,
        leader_epoch: place.epoch.0,
    }
}

fn find(
    partition: &Partition,
    ctx: &Ctx,
    asked: &ListOffsetsPartition,
    isolation: Isolation,
) -> Result<Place, Refusal> {
    let marks = partition.marks(LeaderEpoch(asked.current_leader_epoch))?;
    let settled = || partition.settled_marks(LeaderEpoch(asked.current_leader_epoch));
    let at = |offset: Offset, epoch: LeaderEpoch| Place { timestamp: -1, offset: offset.0, epoch };
    let end = marks.readable_end(isolation);
    match asked.timestamp {
        special if special < ctx.facts.least_special_timestamp => Err(ErrorCode::UnsupportedVersion.into()),
        LATEST => settled().map(|marks| at(marks.readable_end(isolation), marks.epoch)),
        EARLIEST | EARLIEST_LOCAL => Ok(at(marks.start, partition.epoch_at(marks.start))),
        // There is no tier above this one: nothing is in it, and nothing waits to go there.
        LATEST_TIERED | EARLIEST_PENDING_UPLOAD => Ok(NOWHERE),
        OF_MAX_TIMESTAMP => found(look(partition.plan_max_timestamp(), end)?, settled),
        time if time >= 0 => found(look(partition.plan_by_time(Millis(time)), end)?, settled),
        _ => Err(ErrorCode::UnsupportedVersion.into()),
    }
}

/// What a consumer cannot read yet is not found.
fn look(plan: Option<LookupPlan>, end: Offset) -> Result<Option<Place>, Refusal> {
    let Some(plan) = plan else { return Ok(None) };
    let found = plan.run_blocking()?.filter(|found| found.offset < end);
    Ok(found.map(|found| Place {
        timestamp: found.timestamp.0,
        offset: found.offset.0,
        epoch: found.leader_epoch,
    }))
}

/// A leader whose mark has not reached the start of its epoch cannot say that there is nothing (KIP-207): a client would go to the end.
fn found(place: Option<Place>, settled: impl Fn() -> Result<Marks, Refusal>) -> Result<Place, Refusal> {
    match place {
        Some(place) => Ok(place),
        None => settled().map(|_| NOWHERE),
    }
}
