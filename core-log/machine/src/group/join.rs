//! Joining a group.

use std::collections::BTreeMap;

use bytestring::ByteString;
use millstream_protocol::ErrorCode;
use millstream_protocol::messages::{JoinGroupRequest, JoinGroupResponse};

use super::api::{Answer, Batch, Client};
use super::coordinator::Coordinator;
use super::live::Group;
use super::member::Member;
use super::rebalance::Rebalance;
use super::refusal;
use super::state::State;
use super::stored::group_record;
use crate::Waiter;
use crate::wire::own;

/// Most members of a group that may be expected back with the id they were told. Whoever asks for ids and never comes back
/// would else fill memory until the ids expire.
const MAX_EXPECTED: usize = 10_000;

/// A request to join, with the facts about it.
pub(super) struct Join {
    pub(super) client: Client,
    pub(super) request: JoinGroupRequest,
    pub(super) must_know_member_id: bool,
    pub(super) can_skip_assignment: bool,
    pub(super) random: u128,
}

impl Join {
    /// The id of a new member: what its client is called, and a UUID.
    fn new_member_id(&self) -> ByteString {
        let prefix = self.request.group_instance_id.as_ref().unwrap_or(&self.client.id);
        let hex = format!("{:032x}", self.random);
        let (a, rest) = hex.split_at(8);
        let (b, rest) = rest.split_at(4);
        let (c, rest) = rest.split_at(4);
        let (d, e) = rest.split_at(4);
        format!("{prefix}-{a}-{b}-{c}-{d}-{e}").into()
    }
}

impl Coordinator {
    pub(super) fn join(&mut self, waiter: Waiter, join: &Join) {
        if let Err(error) = self.judge_join(join) {
            self.core.answer(waiter, Answer::Join(refusal::join(&join.request.member_id, error)));
            return;
        }
        let id = own(&join.request.group_id);
        self.groups.entry(id.clone()).or_insert_with(|| Group::new(&id));
        let answer = self.rebalance(&id, |work| {
            let answer = if join.request.member_id.is_empty() {
                work.join_new(waiter, join)
            } else {
                work.join_again(waiter, join)
            };
            answer.unwrap_or_else(|error| Some(refusal::join(&join.request.member_id, error)))
        });
        if let Some(Some(answer)) = answer {
            self.core.answer(waiter, Answer::Join(answer));
        }
    }

    fn judge_join(&self, join: &Join) -> Result<(), ErrorCode> {
        let (request, config) = (&join.request, &self.core.config);
        if request.group_id.is_empty() {
            return Err(ErrorCode::InvalidGroupId);
        }
        if !(config.min_session_timeout_ms..=config.max_session_timeout_ms)
            .contains(&request.session_timeout_ms)
        {
            return Err(ErrorCode::InvalidSessionTimeout);
        }
        if !request.member_id.is_empty() && !self.groups.contains_key(&request.group_id) {
            return Err(ErrorCode::UnknownMemberId);
        }
        Ok(())
    }
}

/// An answer to give at once; `None` when the join waits, or was answered.
type Joined = Result<Option<JoinGroupResponse>, ErrorCode>;

impl Rebalance<'_> {
    /// Whether one more member fits. Who has a place keeps it.
    fn has_room_for(&self, member: &str) -> bool {
        let max = self.core.config.max_size;
        let joined = self.group.members.get(member);
        match self.group.state() {
            State::Empty | State::Dead => true,
            State::PreparingRebalance => {
                let awaiting = self.group.members.values().filter(|m| m.awaiting_join.is_some()).count();
                joined.is_some_and(|member| member.awaiting_join.is_some()) || awaiting < max
            }
            State::CompletingRebalance | State::Stable => joined.is_some() || self.group.members.len() < max,
        }
    }

    fn judge_protocols(&self, request: &JoinGroupRequest) -> Result<(), ErrorCode> {
        let names = request.protocols.iter().map(|protocol| protocol.name.clone());
        if self.group.accepts(&request.protocol_type, names) {
            Ok(())
        } else {
            Err(ErrorCode::InconsistentGroupProtocol)
        }
    }

    fn join_new(&mut self, waiter: Waiter, join: &Join) -> Joined {
        if !self.has_room_for("") {
            return Err(ErrorCode::GroupMaxSizeReached);
        }
        self.judge_protocols(&join.request)?;
        let id = join.new_member_id();
        let known = join.request.group_instance_id.as_ref().and_then(|i| self.group.statics.get(i)).cloned();
        match known {
            Some(_) if self.group.state() == State::Stable && self.core.check_log().is_err() => {
                Err(ErrorCode::CoordinatorNotAvailable) // that it has the place now would have to be stored
            }
            Some(old) => self.take_place(waiter, join, &old, id),
            None if join.must_know_member_id && join.request.group_instance_id.is_none() => {
                if self.group.expected.len() >= MAX_EXPECTED {
                    return Err(ErrorCode::GroupMaxSizeReached);
                }
                self.group.expected.insert(id.clone());
                self.core.set_session(&self.group.id, &id, join.request.session_timeout_ms.into());
                Ok(Some(refusal::join(&id, ErrorCode::MemberIdRequired)))
            }
            None => {
                self.add(waiter, join, id);
                Ok(None)
            }
        }
    }

    fn join_again(&mut self, waiter: Waiter, join: &Join) -> Joined {
        let request = &join.request;
        let id = own(&request.member_id);
        if !self.has_room_for(&id) {
            self.take_out(&id);
            self.react_to_absence();
            return Ok(Some(refusal::join(&ByteString::new(), ErrorCode::GroupMaxSizeReached)));
        }
        self.judge_protocols(request)?;
        if self.group.expected.contains(&id) && request.group_instance_id.is_none() {
            self.add(waiter, join, id);
            return Ok(None);
        }
        self.group.judge_member(&id, request.group_instance_id.as_ref())?;
        let is_same = self.group.members.get(&id).is_some_and(|member| member.matches(request));
        match self.group.state() {
            // The answer to its join was lost: it is told again.
            State::CompletingRebalance if is_same => Ok(Some(self.group.joined(&id))),
            // The leader rejoins because what it shares out has changed; of the others only a change of protocols matters.
            State::Stable if is_same && !self.group.is_leader(&id) => Ok(Some(self.group.joined(&id))),
            State::PreparingRebalance | State::CompletingRebalance | State::Stable => {
                self.renew(waiter, join, &id);
                self.prepare_or_complete();
                Ok(None)
            }
            State::Empty | State::Dead => Err(ErrorCode::UnknownMemberId),
        }
    }

    fn add(&mut self, waiter: Waiter, join: &Join, id: ByteString) {
        let mut member = Member::new(id.clone(), &join.client, &join.request);
        member.awaiting_join = Some(waiter);
        self.group.add(member, &join.request.protocol_type);
        if self.group.is_first_rebalance() {
            self.group.joined_during_delay = true;
        }
        self.begin_session(&id);
        self.prepare_or_complete();
    }

    /// Notes a member's new join; one that it still had waiting is told to try again, since only the last is answered.
    fn renew(&mut self, waiter: Waiter, join: &Join, id: &ByteString) {
        let Some(member) = self.group.members.get_mut(id) else { return };
        member.renew(&join.request);
        if let Some(older) = member.awaiting_join.replace(waiter) {
            let answer = refusal::join(id, ErrorCode::RebalanceInProgress);
            self.core.answer(older, Answer::Join(answer));
        }
    }

    /// A static member came back under a new id (KIP-345): it gets its old place, without a rebalance where nothing changes.
    fn take_place(&mut self, waiter: Waiter, join: &Join, old: &ByteString, new: ByteString) -> Joined {
        let leader_before = self.group.leader.clone().unwrap_or_default();
        self.core.clear_session(&self.group.id, old);
        let Some(member) = self.group.replace(old, new.clone()) else {
            return Err(ErrorCode::UnknownMemberId);
        };
        let (fenced_join, fenced_sync) = (member.awaiting_join.take(), member.awaiting_sync.take());
        member.renew(&join.request);
        if let Some(fenced) = fenced_join {
            self.core.answer(fenced, Answer::Join(refusal::join(old, ErrorCode::FencedInstanceId)));
        }
        if let Some(fenced) = fenced_sync {
            self.core.answer(fenced, Answer::Sync(refusal::sync(ErrorCode::FencedInstanceId)));
        }
        self.core.set_session(&self.group.id, &new, join.request.session_timeout_ms.into());
        if self.group.state() == State::Stable && self.group.select_protocol() == self.group.protocol {
            self.keep_assignment(waiter, join, &new, leader_before);
            return Ok(None);
        }
        if let Some(member) = self.group.members.get_mut(&new) {
            member.awaiting_join = Some(waiter);
        }
        self.prepare_or_complete();
        Ok(None)
    }

    /// The new id is stored, so that after a restart the old one stays fenced; then the member is told.
    fn keep_assignment(&mut self, waiter: Waiter, join: &Join, id: &ByteString, leader_before: ByteString) {
        let assignments: BTreeMap<_, _> = self
            .group
            .members
            .values()
            .map(|member| (member.id.clone(), member.assignment.clone()))
            .collect();
        let record = self.group.to_record(&assignments);
        self.core.append(Batch::Records(vec![group_record(&self.group.id, Some(&record))]));
        let mut answer = self.group.joined(id);
        if join.can_skip_assignment {
            answer.skip_assignment = self.group.is_leader(id);
        } else {
            // Told the old leader's id, it takes itself for a follower and does not share the work out anew.
            answer.leader = leader_before;
            answer.members = Vec::new();
        }
        self.core.answer_when_durable(waiter, Answer::Join(answer));
    }
}
