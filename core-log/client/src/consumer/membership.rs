//! Membership of a classic group: joining, heartbeats, leaving.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use millstream_protocol::messages::heartbeat::HeartbeatRequest;
use millstream_protocol::messages::join_group::{
    JoinGroupRequest, JoinGroupRequestProtocol, JoinGroupResponse,
};
use millstream_protocol::messages::leave_group::{LeaveGroupRequest, MemberIdentity};
use millstream_protocol::messages::sync_group::{SyncGroupRequest, SyncGroupRequestAssignment};
use millstream_protocol::{ErrorCode, Rpc};
use millstream_record::TopicPartition;

use super::shared::Shared;
use crate::assignor::{
    Assignor, MemberAssignment, MemberSubscription, Members, read_assignment, read_subscription,
    write_assignment, write_subscription,
};
use crate::cluster::{CoordinatorKind, coordinator_moved};
use crate::retry::{Backoff, Deadline};
use crate::{ClientError, Result};

const PROTOCOL_TYPE: ByteString = ByteString::from_static("consumer");
/// What a join may take beyond the rebalance timeout; Java's figure.
const JOIN_GRACE: Duration = Duration::from_secs(5);

/// What a consumer is in its group.
#[derive(Clone, Debug)]
pub(super) struct Membership {
    pub generation: i32,
    pub member_id: ByteString,
    /// Assigned and not rejoining: heartbeats are due.
    pub stable: bool,
    /// The group rebalances, or the subscription changed: join (again).
    pub rejoin: bool,
    /// The group no longer knows us.
    pub lost: Option<ErrorCode>,
    /// Monotonic time of the last poll.
    pub polled_at: Duration,
    /// Monotonic time of the last heartbeat that was answered.
    pub heard_at: Duration,
}

impl Default for Membership {
    fn default() -> Self {
        Self {
            generation: -1,
            member_id: ByteString::new(),
            stable: false,
            rejoin: true,
            lost: None,
            polled_at: Duration::ZERO,
            heard_at: Duration::ZERO,
        }
    }
}

impl Membership {
    /// Out of the group: the next join is as somebody new.
    pub(super) fn reset(&mut self) {
        self.generation = -1;
        self.member_id = ByteString::new();
        self.stable = false;
        self.rejoin = true;
    }
}

/// What a join ends with.
#[derive(Debug)]
pub(super) struct Joined {
    pub generation: i32,
    pub assignor: Arc<dyn Assignor>,
    pub assignment: MemberAssignment,
    /// Partition counts that the assignment was made for, when we made it.
    pub counts: Option<BTreeMap<Arc<str>, i32>>,
    /// The topics that we asked for.
    pub topics: BTreeSet<Arc<str>>,
}

/// How one round of joining ends.
enum Round {
    Joined(Box<Joined>),
    /// At once again: with the id just given, or since the group moved on.
    Again,
    /// Again after a pause.
    Later(ClientError),
    /// The group does not know us any more.
    Lost(ErrorCode),
}

/// Joins the group and waits for the assignment. `Ok(None)` means that the group does not know us any more: what we own is lost.
pub(super) async fn join(
    shared: Arc<Shared>,
    owned: Vec<TopicPartition>,
    topics: BTreeSet<Arc<str>>,
) -> Result<Option<Joined>> {
    let mut backoff = Backoff::new(&shared.cluster.config);
    loop {
        match round(&shared, &owned, &topics).await? {
            Round::Joined(joined) => return Ok(Some(*joined)),
            Round::Again => {}
            Round::Later(error) => {
                tracing::debug!(%error, "joining the group failed; trying again");
                shared.cluster.env.sleep(backoff.after(&shared.cluster.env, &error)).await;
            }
            Round::Lost(code) => {
                shared.membership.lock().lost = Some(code);
                return Ok(None);
            }
        }
    }
}

async fn round(shared: &Shared, owned: &[TopicPartition], topics: &BTreeSet<Arc<str>>) -> Result<Round> {
    let request = join_request(shared, owned, topics)?;
    let rebalance = Duration::from_millis(u64::try_from(shared.config.rebalance_timeout_ms).unwrap_or(0));
    let timeout = shared.cluster.config.request_timeout_ms;
    let timeout = Duration::from_millis(timeout).max(rebalance + JOIN_GRACE);
    let answer = match ask(shared, timeout, request).await {
        Ok(answer) => answer,
        Err(error) if error.is_retriable() => return Ok(Round::Later(error)),
        Err(error) => return Err(error),
    };
    let code = ErrorCode::from_code(answer.error_code);
    match code {
        ErrorCode::None => {}
        ErrorCode::MemberIdRequired => {
            shared.membership.lock().member_id = copied(&answer.member_id);
            return Ok(Round::Again);
        }
        code => return refused(shared, "JoinGroup", code),
    }
    shared.membership.lock().member_id = copied(&answer.member_id);
    sync(shared, answer, topics).await
}

/// What a refusal means. Several of them are the ordinary course of a rebalance.
fn refused(shared: &Shared, api: &'static str, code: ErrorCode) -> Result<Round> {
    let error = || ClientError::broker(api, format!("group {}", shared.group_metadata().group_id), code);
    match code {
        ErrorCode::UnknownMemberId | ErrorCode::IllegalGeneration => Ok(Round::Lost(code)),
        ErrorCode::RebalanceInProgress => Ok(Round::Again),
        code if code.is_retriable() => {
            if coordinator_moved(&error())
                && let Ok(group) = shared.group_id()
            {
                shared.cluster.forget_coordinator(CoordinatorKind::Group, group);
            }
            Ok(Round::Later(error()))
        }
        _ => Err(error()),
    }
}

fn join_request(
    shared: &Shared,
    owned: &[TopicPartition],
    topics: &BTreeSet<Arc<str>>,
) -> Result<JoinGroupRequest> {
    let (generation, member_id) = {
        let membership = shared.membership.lock();
        (membership.generation, membership.member_id.clone())
    };
    let protocol = |assignor: &Arc<dyn Assignor>| {
        let subscription = MemberSubscription {
            group_instance_id: None,
            topics: topics.clone(),
            owned: owned.to_vec(),
            generation,
            rack: shared.config.client_rack.clone(),
            user_data: assignor.user_data(topics, generation),
        };
        let metadata = write_subscription(&subscription)?;
        Ok(JoinGroupRequestProtocol { name: assignor.name().into(), metadata })
    };
    Ok(JoinGroupRequest {
        group_id: shared.group_id()?.clone(),
        session_timeout_ms: shared.config.session_timeout_ms,
        rebalance_timeout_ms: shared.config.rebalance_timeout_ms,
        member_id,
        group_instance_id: shared.config.group_instance_id.clone(),
        protocol_type: PROTOCOL_TYPE,
        protocols: shared.config.assignors.iter().map(protocol).collect::<Result<_>>()?,
        reason: None,
    })
}

async fn sync(shared: &Shared, joined: JoinGroupResponse, topics: &BTreeSet<Arc<str>>) -> Result<Round> {
    let name = joined.protocol_name.clone().unwrap_or_default();
    let assignor = shared.config.assignors.iter().find(|assignor| assignor.name() == &*name);
    let assignor = Arc::clone(assignor.ok_or_else(|| ClientError::Answer {
        api: "JoinGroup",
        broker: "the group's coordinator".to_owned(),
        what: format!("it chose the protocol {name}, which was not offered"),
    })?);
    let leads = joined.leader == joined.member_id && !joined.skip_assignment;
    let (assignments, counts) = if leads {
        let (assignments, counts) = assign(shared, &*assignor, joined.members).await?;
        (assignments, Some(counts))
    } else {
        (Vec::new(), None)
    };
    let request = SyncGroupRequest {
        group_id: shared.group_id()?.clone(),
        generation_id: joined.generation_id,
        member_id: joined.member_id,
        group_instance_id: shared.config.group_instance_id.clone(),
        protocol_type: Some(PROTOCOL_TYPE),
        protocol_name: Some(name),
        assignments,
    };
    let rebalance = Duration::from_millis(u64::try_from(shared.config.rebalance_timeout_ms).unwrap_or(0));
    let answer = match ask(shared, rebalance + JOIN_GRACE, request).await {
        Ok(answer) => answer,
        Err(error) if error.is_retriable() => return Ok(Round::Later(error)),
        Err(error) => return Err(error),
    };
    match ErrorCode::from_code(answer.error_code) {
        ErrorCode::None => {}
        code => return refused(shared, "SyncGroup", code),
    }
    // A copy: the assignment outlives the frame that it came in.
    let assignment = read_assignment(Bytes::copy_from_slice(&answer.assignment))?;
    let generation = joined.generation_id;
    Ok(Round::Joined(Box::new(Joined { generation, assignor, assignment, counts, topics: topics.clone() })))
}

/// The leader's part: who reads what.
async fn assign(
    shared: &Shared,
    assignor: &dyn Assignor,
    members: Vec<millstream_protocol::messages::join_group::JoinGroupResponseMember>,
) -> Result<(Vec<SyncGroupRequestAssignment>, BTreeMap<Arc<str>, i32>)> {
    let mut known = Members::new();
    for member in members {
        known.insert(member.member_id, read_subscription(member.metadata, member.group_instance_id)?);
    }
    let wanted: BTreeSet<Arc<str>> =
        known.values().flat_map(|member| member.topics.iter().cloned()).collect();
    let counts = partition_counts(shared, &wanted).await;
    let assignments = assignor.assign(&counts, &known)?;
    let each = assignments.iter().map(|(id, assignment)| {
        let assignment = write_assignment(assignment)?;
        Ok(SyncGroupRequestAssignment { member_id: id.clone(), assignment })
    });
    Ok((each.collect::<Result<_>>()?, counts))
}

/// How many partitions each topic has now; topics that do not exist are left out.
async fn partition_counts(shared: &Shared, topics: &BTreeSet<Arc<str>>) -> BTreeMap<Arc<str>, i32> {
    let known = topics.iter().filter(|topic| shared.cluster.want(topic)).count();
    if known < topics.len() || shared.cluster.is_stale() {
        let deadline = Deadline::after(&shared.cluster.env, shared.cluster.config.request_timeout_ms);
        let seen = shared.cluster.metadata().version;
        if let Err(error) = shared.cluster.refresh(seen).await {
            tracing::warn!(%error, "assigning partitions by the metadata at hand");
        }
        // A topic being created right now is worth a second look; one that does not exist is not worth more.
        if deadline.left(&shared.cluster.env).is_some() {
            let metadata = shared.cluster.metadata();
            if topics.iter().any(|topic| metadata.partition_count(topic).is_none()) {
                let _ = shared.cluster.refresh(metadata.version).await;
            }
        }
    }
    let metadata = shared.cluster.metadata();
    topics.iter().filter_map(|topic| Some((Arc::clone(topic), metadata.partition_count(topic)?))).collect()
}

/// Asks the group's coordinator once.
async fn ask<R: Rpc>(shared: &Shared, timeout: Duration, request: R) -> Result<R::Response> {
    let group = shared.group_id()?;
    let endpoint = shared.cluster.coordinator(CoordinatorKind::Group, group).await?;
    shared.group_links.call_within(&endpoint, timeout, request).await.inspect_err(|error| {
        if coordinator_moved(error) {
            shared.cluster.forget_coordinator(CoordinatorKind::Group, group);
        }
    })
}

/// Sends heartbeats for as long as the consumer lives, and leaves the group when it is no longer polled.
pub(super) async fn heartbeats(shared: Arc<Shared>) {
    let env = shared.cluster.env.clone();
    let interval = Duration::from_millis(shared.config.heartbeat_interval_ms);
    let patience = Duration::from_millis(shared.config.max_poll_interval_ms);
    loop {
        env.sleep(interval).await;
        let membership = shared.membership.lock().clone();
        if !membership.stable {
            continue;
        }
        if env.elapsed().saturating_sub(membership.polled_at) > patience {
            tracing::warn!(
                timeout_ms = shared.config.max_poll_interval_ms,
                "the consumer was not polled within max.poll.interval.ms; it leaves its group"
            );
            leave(&shared, "max.poll.interval.ms exceeded").await;
            lose(&shared, &membership, ErrorCode::UnknownMemberId);
            continue;
        }
        beat(&shared, &membership).await;
    }
}

async fn beat(shared: &Shared, membership: &Membership) {
    let Some(group_id) = shared.config.group_id.clone() else { return };
    let request = HeartbeatRequest {
        group_id,
        generation_id: membership.generation,
        member_id: membership.member_id.clone(),
        group_instance_id: shared.config.group_instance_id.clone(),
    };
    let session = Duration::from_millis(u64::try_from(shared.config.session_timeout_ms).unwrap_or(0));
    match ask(shared, session, request).await.map(|answer| ErrorCode::from_code(answer.error_code)) {
        Ok(ErrorCode::None) => shared.membership.lock().heard_at = shared.cluster.env.elapsed(),
        Ok(ErrorCode::RebalanceInProgress) => {
            let mut now = shared.membership.lock();
            if now.generation == membership.generation {
                now.rejoin = true;
            }
            drop(now);
            shared.wake.notify_one();
        }
        Ok(
            code @ (ErrorCode::UnknownMemberId | ErrorCode::IllegalGeneration | ErrorCode::FencedInstanceId),
        ) => {
            lose(shared, membership, code);
        }
        Ok(code) => {
            tracing::debug!(%code, "a heartbeat was refused");
            if let Ok(group) = shared.group_id() {
                shared.cluster.forget_coordinator(CoordinatorKind::Group, group);
            }
        }
        Err(error) => tracing::debug!(%error, "a heartbeat failed; the next one may reach the coordinator"),
    }
}

fn lose(shared: &Shared, seen: &Membership, code: ErrorCode) {
    let mut now = shared.membership.lock();
    if now.generation == seen.generation && now.member_id == seen.member_id {
        now.lost = Some(code);
        now.stable = false;
        drop(now);
        shared.wake.notify_one();
    }
}

/// Leaves the group, as far as the coordinator can be told. A static member stays until its session ends (KIP-345), unless its
/// settings say otherwise (KIP-1092).
pub(super) async fn leave(shared: &Shared, reason: &'static str) {
    let membership = shared.membership.lock().clone();
    let Some(group_id) = shared.config.group_id.clone() else { return };
    let instance = shared.config.group_instance_id.clone();
    if membership.member_id.is_empty() || (instance.is_some() && !shared.config.leave_group_on_close) {
        return;
    }
    let Ok(endpoint) = shared.cluster.coordinator(CoordinatorKind::Group, &group_id).await else { return };
    let member = MemberIdentity {
        member_id: membership.member_id,
        group_instance_id: instance,
        reason: Some(ByteString::from_static(reason)),
    };
    let request = LeaveGroupRequest { group_id, members: vec![member], ..LeaveGroupRequest::default() };
    // On the links for short questions: a join may still be waiting on the group's own.
    if let Err(error) = shared.links.call(&endpoint, request).await {
        tracing::debug!(%error, "leaving the group failed; the session will run out");
    }
}

/// A copy, so that a member id kept for long does not keep the frame that it came in.
fn copied(text: &ByteString) -> ByteString {
    ByteString::from(text.to_string())
}
