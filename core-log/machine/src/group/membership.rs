//! Synchronising, living and leaving.

use std::collections::BTreeMap;

use bytes::Bytes;
use bytestring::ByteString;
use millstream_protocol::ErrorCode;
use millstream_protocol::messages::leave_group::{MemberIdentity, MemberResponse};
use millstream_protocol::messages::{
    HeartbeatRequest, HeartbeatResponse, LeaveGroupRequest, LeaveGroupResponse, SyncGroupRequest,
};

use super::api::{Answer, Batch};
use super::coordinator::{After, Coordinator};
use super::rebalance::Rebalance;
use super::refusal;
use super::state::State;
use super::stored::group_record;
use crate::Waiter;
use crate::wire::{own, own_bytes};

impl Coordinator {
    pub(super) fn sync(&mut self, waiter: Waiter, request: &SyncGroupRequest) {
        let judged = self.judge_sync(request);
        let done = judged.map(|()| self.rebalance(&request.group_id, |work| work.sync(waiter, request)));
        if let Err(error) = done {
            self.core.answer(waiter, Answer::Sync(refusal::sync(error)));
        }
    }

    fn judge_sync(&self, request: &SyncGroupRequest) -> Result<(), ErrorCode> {
        let group = self.group_of_member(&request.group_id)?;
        group.judge_member(&request.member_id, request.group_instance_id.as_ref())?;
        let differs = |asked: &Option<ByteString>, is: &Option<ByteString>| asked.is_some() && asked != is;
        if request.generation_id != group.generation {
            Err(ErrorCode::IllegalGeneration)
        } else if differs(&request.protocol_type, &group.protocol_type)
            || differs(&request.protocol_name, &group.protocol)
        {
            Err(ErrorCode::InconsistentGroupProtocol)
        } else {
            match group.state() {
                State::Empty | State::Dead => Err(ErrorCode::UnknownMemberId),
                State::PreparingRebalance => Err(ErrorCode::RebalanceInProgress),
                State::CompletingRebalance | State::Stable => Ok(()),
            }
        }
    }

    /// The leader's assignment is durable.
    pub(super) fn assigned(
        &mut self,
        group: &ByteString,
        generation: i32,
        assignments: &BTreeMap<ByteString, Bytes>,
    ) {
        self.rebalance(group, |work| {
            if work.group.state() == State::CompletingRebalance && work.group.generation == generation {
                work.hand_out(assignments);
            }
        });
    }

    pub(super) fn heartbeat(&mut self, waiter: Waiter, request: &HeartbeatRequest) {
        let judged = self.judge_heartbeat(request);
        let alive = matches!(judged, Ok(()) | Err(ErrorCode::RebalanceInProgress));
        if alive {
            self.rebalance(&request.group_id, |work| work.prolong(&request.member_id));
        }
        let error = judged.err().unwrap_or(ErrorCode::None);
        let answer = HeartbeatResponse { error_code: error.code(), ..HeartbeatResponse::default() };
        self.core.answer(waiter, Answer::Heartbeat(answer));
    }

    fn judge_heartbeat(&self, request: &HeartbeatRequest) -> Result<(), ErrorCode> {
        let group = self.group_of_member(&request.group_id)?;
        group.judge_member(&request.member_id, request.group_instance_id.as_ref())?;
        if request.generation_id != group.generation {
            return Err(ErrorCode::IllegalGeneration);
        }
        match group.state() {
            State::Empty | State::Dead => Err(ErrorCode::UnknownMemberId),
            State::PreparingRebalance => Err(ErrorCode::RebalanceInProgress),
            State::CompletingRebalance | State::Stable => Ok(()),
        }
    }

    pub(super) fn leave(&mut self, waiter: Waiter, request: &LeaveGroupRequest) {
        if let Err(error) = self.group_of_member(&request.group_id) {
            let is_unknown = error == ErrorCode::UnknownMemberId && !request.members.is_empty();
            let answer = if is_unknown { none_left(request) } else { refusal::leave(error) };
            self.core.answer(waiter, Answer::Leave(answer));
            return;
        }
        let alone = MemberIdentity { member_id: request.member_id.clone(), ..MemberIdentity::default() };
        let is_older_form = request.members.is_empty();
        let leaving = if is_older_form { std::slice::from_ref(&alone) } else { &request.members[..] };
        let members = self.rebalance(&request.group_id, |work| {
            let members: Vec<MemberResponse> = leaving.iter().map(|member| work.leave(member)).collect();
            if members.iter().any(|member| member.error_code == ErrorCode::None.code()) {
                work.react_to_absence();
            }
            members
        });
        let members = members.unwrap_or_default();
        let answer = if is_older_form {
            let error_code = members.first().map_or(0, |member| member.error_code);
            LeaveGroupResponse { error_code, ..LeaveGroupResponse::default() }
        } else {
            LeaveGroupResponse { members, ..LeaveGroupResponse::default() }
        };
        // A group that has become empty has written so.
        self.core.answer_when_durable(waiter, Answer::Leave(answer));
    }

    /// A member was silent for too long, or did not come back with the id it was given.
    pub(super) fn session_over(&mut self, group: &ByteString, member: &ByteString) {
        self.rebalance(group, |work| {
            let alive = work.group.members.get(member).is_some_and(|m| !m.is_new && m.is_waiting());
            let is_known = work.group.members.contains_key(member) || work.group.expected.contains(member);
            if is_known && !alive {
                work.take_out(member);
                work.react_to_absence();
            }
        });
    }

    pub(super) fn join_time_over(&mut self, group: &ByteString) {
        self.rebalance(group, |work| work.join_time_over());
    }

    pub(super) fn sync_time_over(&mut self, group: &ByteString) {
        self.rebalance(group, |work| work.sync_time_over());
    }
}

impl Rebalance<'_> {
    fn sync(&mut self, waiter: Waiter, request: &SyncGroupRequest) {
        let id = own(&request.member_id);
        // Once for each generation: the leader may ask again while that is on its way, and then waits for it as the others do. Of two
        // assignments the members would be given one, and a coordinator that reads the log the other.
        let is_to_be_stored = self.group.state() == State::CompletingRebalance
            && self.group.is_leader(&id)
            && !self.group.is_assigning;
        if let (true, Err(error)) = (is_to_be_stored, self.core.check_log()) {
            // It comes again. That the log takes nothing is not the members' fault, so nobody is late meanwhile.
            self.prolong(&id);
            self.wait_for_syncs();
            self.core.answer(waiter, Answer::Sync(refusal::sync(error)));
            return;
        }
        self.synced(&id);
        if self.group.state() == State::Stable {
            let answer = self.assignment_of(&id);
            self.prolong(&id);
            self.core.answer(waiter, Answer::Sync(answer));
            return;
        }
        let Some(member) = self.group.members.get_mut(&id) else { return };
        if let Some(older) = member.awaiting_sync.replace(waiter) {
            self.core.answer(older, Answer::Sync(refusal::sync(ErrorCode::RebalanceInProgress)));
        }
        if is_to_be_stored {
            self.store_assignment(request);
        }
    }

    fn store_assignment(&mut self, request: &SyncGroupRequest) {
        let assignments: BTreeMap<ByteString, Bytes> = request
            .assignments
            .iter()
            .filter(|one| self.group.members.contains_key(&one.member_id))
            .map(|one| (own(&one.member_id), own_bytes(&one.assignment)))
            .collect();
        let record = self.group.to_record(&assignments);
        self.core.append(Batch::Records(vec![group_record(&self.group.id, Some(&record))]));
        self.group.is_assigning = true;
        let generation = self.group.generation;
        let held = self.core.hold(After::Assigned { group: self.group.id.clone(), generation, assignments });
        debug_assert!(held.is_none(), "an append is not durable before it is reported");
    }

    /// The member has shown that it lives.
    pub(super) fn prolong(&mut self, id: &ByteString) {
        if let Some(member) = self.group.members.get(id) {
            self.core.set_session(&self.group.id, &member.id, member.session_timeout_ms.into());
        }
    }

    fn leave(&mut self, member: &MemberIdentity) -> MemberResponse {
        let instance = member.group_instance_id.as_ref();
        let found = if member.member_id.is_empty() {
            // Administration removes static members by their instance id alone.
            instance
                .and_then(|instance| self.group.statics.get(instance))
                .cloned()
                .ok_or(ErrorCode::UnknownMemberId)
        } else if self.group.expected.contains(&member.member_id) {
            Ok(own(&member.member_id))
        } else {
            self.group.judge_member(&member.member_id, instance).map(|()| own(&member.member_id))
        };
        let error = match found {
            Ok(id) => {
                self.take_out(&id);
                ErrorCode::None
            }
            Err(error) => error,
        };
        MemberResponse {
            member_id: member.member_id.clone(),
            group_instance_id: member.group_instance_id.clone(),
            error_code: error.code(),
        }
    }
}

/// The answer where there is no such group: as with a group that knows none of them, each member is told for itself.
fn none_left(request: &LeaveGroupRequest) -> LeaveGroupResponse {
    let unknown = |member: &MemberIdentity| MemberResponse {
        member_id: member.member_id.clone(),
        group_instance_id: member.group_instance_id.clone(),
        error_code: ErrorCode::UnknownMemberId.code(),
    };
    LeaveGroupResponse {
        members: request.members.iter().map(unknown).collect(),
        ..LeaveGroupResponse::default()
    }
}
