//! The way of a group from one generation to the next.

use std::collections::BTreeMap;

use bytes::Bytes;
use bytestring::ByteString;
use millstream_protocol::ErrorCode;
use millstream_protocol::messages::SyncGroupResponse;

use super::api::{Answer, Batch};
use super::coordinator::{Core, Timer};
use super::live::Group;
use super::refusal;
use super::state::State;
use super::stored::group_record;

/// How long somebody may take who joined without an id, and so cannot send heartbeats while it waits.
const NEW_MEMBER_TIMEOUT_MS: i64 = 5 * 60 * 1_000;

/// A group and what it needs to move on.
pub(super) struct Rebalance<'a> {
    pub(super) group: &'a mut Group,
    pub(super) core: &'a mut Core,
}

impl Rebalance<'_> {
    /// Begins a rebalance where one can begin; else sees whether the one at work can go on.
    pub(super) fn prepare_or_complete(&mut self) {
        if self.group.state().can_become(State::PreparingRebalance) {
            self.prepare();
        } else {
            self.complete_if_all_joined();
        }
    }

    /// Begins a rebalance. The first one of an empty group waits a little, so that members which start together are not
    /// rebalanced one by one.
    pub(super) fn prepare(&mut self) {
        if self.group.state() == State::CompletingRebalance {
            self.refuse_syncs(ErrorCode::RebalanceInProgress);
        }
        self.core.timers.clear(&Timer::Sync(self.group.id.clone()));
        let is_first = self.group.state() == State::Empty;
        self.group.become_state(self.core.now, State::PreparingRebalance);
        if is_first {
            let delay_ms = i64::from(self.core.config.initial_rebalance_delay_ms);
            self.group.delay_left_ms = (self.group.rebalance_timeout_ms() - delay_ms).max(0);
            self.wait_for_joins(delay_ms);
        } else {
            self.complete_or_wait();
        }
    }

    /// In a first rebalance only time completes the joining; else the last member to join does.
    pub(super) fn complete_if_all_joined(&mut self) {
        if self.group.state() == State::PreparingRebalance && !self.group.is_first_rebalance() {
            self.complete_or_wait();
        }
    }

    fn complete_or_wait(&mut self) {
        if self.group.has_all_joined() {
            self.complete_joining();
        } else if !self.core.timers.is_set(&Timer::Join(self.group.id.clone())) {
            self.wait_for_joins(self.group.rebalance_timeout_ms());
        }
    }

    fn wait_for_joins(&mut self, ms: i64) {
        self.core.timers.set(Timer::Join(self.group.id.clone()), self.core.now.plus_ms(ms));
    }

    /// The time for joining is over; a first rebalance may wait on while members keep coming.
    pub(super) fn join_time_over(&mut self) {
        if self.group.state() != State::PreparingRebalance {
            return;
        }
        let delay_ms = i64::from(self.core.config.initial_rebalance_delay_ms);
        let left_ms = self.group.delay_left_ms;
        if self.group.is_first_rebalance() && self.group.joined_during_delay && left_ms > 0 {
            self.group.joined_during_delay = false;
            self.group.delay_left_ms = (left_ms - delay_ms).max(0);
            self.wait_for_joins(delay_ms.min(left_ms));
        } else {
            self.complete_joining();
        }
    }

    /// Everybody who wanted to has joined: a new generation begins.
    fn complete_joining(&mut self) {
        self.core.timers.clear(&Timer::Join(self.group.id.clone()));
        let absent: Vec<ByteString> = self
            .group
            .members
            .values()
            .filter(|member| member.awaiting_join.is_none() && member.instance.is_none())
            .map(|member| member.id.clone())
            .collect();
        for id in absent {
            self.core.clear_session(&self.group.id, &id);
            self.group.remove(&id);
        }
        if !self.group.elect_joined_leader() && !self.group.members.is_empty() {
            // Only static members are left and none has come back: they keep their places until their sessions end.
            self.wait_for_joins(self.group.rebalance_timeout_ms());
            return;
        }
        self.group.begin_generation(self.core.now);
        if self.group.state() == State::Empty && self.core.check_log().is_err() {
            self.core.owe_group(&self.group.id);
        } else if self.group.state() == State::Empty {
            let record = self.group.to_record(&BTreeMap::new());
            self.core.append(Batch::Records(vec![group_record(&self.group.id, Some(&record))]));
        } else {
            self.announce();
        }
    }

    fn announce(&mut self) {
        let ids: Vec<ByteString> = self.group.members.keys().cloned().collect();
        for id in ids {
            let answer = self.group.joined(&id);
            self.group.unsynced.insert(id.clone());
            let Some(member) = self.group.members.get_mut(&id) else { continue };
            member.is_new = false;
            let session_ms = member.session_timeout_ms.into();
            if let Some(waiter) = member.awaiting_join.take() {
                self.core.answer(waiter, Answer::Join(answer));
            }
            self.core.set_session(&self.group.id, &id, session_ms);
        }
        self.wait_for_syncs();
    }

    /// Members have the time of a rebalance, from now on, to synchronise.
    pub(super) fn wait_for_syncs(&mut self) {
        let deadline = self.core.now.plus_ms(self.group.rebalance_timeout_ms());
        self.core.timers.set(Timer::Sync(self.group.id.clone()), deadline);
    }

    /// A member sent its sync; the timer ends with the last.
    pub(super) fn synced(&mut self, id: &str) {
        self.group.unsynced.remove(id);
        if self.group.unsynced.is_empty() {
            self.core.timers.clear(&Timer::Sync(self.group.id.clone()));
        }
    }

    /// Who has not synchronised in time is out.
    pub(super) fn sync_time_over(&mut self) {
        let at_work = matches!(self.group.state(), State::CompletingRebalance | State::Stable);
        if !at_work || self.group.unsynced.is_empty() {
            return;
        }
        for id in std::mem::take(&mut self.group.unsynced) {
            self.take_out(&id);
        }
        self.prepare();
    }

    /// Hands out the assignment to those who wait for it.
    pub(super) fn hand_out(&mut self, assignments: &BTreeMap<ByteString, Bytes>) {
        for member in self.group.members.values_mut() {
            member.assignment = assignments.get(&member.id).cloned().unwrap_or_default();
        }
        self.group.become_state(self.core.now, State::Stable);
        let ids: Vec<ByteString> = self.group.members.keys().cloned().collect();
        for id in ids {
            let answer = self.assignment_of(&id);
            let Some(member) = self.group.members.get_mut(&id) else { continue };
            let session_ms = member.session_timeout_ms.into();
            if let Some(waiter) = member.awaiting_sync.take() {
                self.core.answer(waiter, Answer::Sync(answer));
                self.core.set_session(&self.group.id, &id, session_ms);
            }
        }
    }

    /// What a member is told when it synchronises.
    pub(super) fn assignment_of(&self, id: &str) -> SyncGroupResponse {
        SyncGroupResponse {
            protocol_type: self.group.protocol_type.clone(),
            protocol_name: self.group.protocol.clone(),
            assignment: self
                .group
                .members
                .get(id)
                .map(|member| member.assignment.clone())
                .unwrap_or_default(),
            ..SyncGroupResponse::default()
        }
    }

    pub(super) fn refuse_syncs(&mut self, error: ErrorCode) {
        for member in self.group.members.values_mut() {
            member.assignment = Bytes::new();
            if let Some(waiter) = member.awaiting_sync.take() {
                self.core.answer(waiter, Answer::Sync(refusal::sync(error)));
                let session_ms = member.session_timeout_ms.into();
                self.core.set_session(&self.group.id, &member.id, session_ms);
            }
        }
    }

    /// Takes a member out and tells whoever waits for it.
    pub(super) fn take_out(&mut self, id: &ByteString) {
        self.core.clear_session(&self.group.id, id);
        let Some(member) = self.group.remove(id) else { return };
        if let Some(waiter) = member.awaiting_join {
            let answer = refusal::join(&ByteString::new(), ErrorCode::UnknownMemberId);
            self.core.answer(waiter, Answer::Join(answer));
        }
        if let Some(waiter) = member.awaiting_sync {
            self.core.answer(waiter, Answer::Sync(refusal::sync(ErrorCode::UnknownMemberId)));
        }
    }

    /// Somebody has gone: the others share its work.
    pub(super) fn react_to_absence(&mut self) {
        match self.group.state() {
            State::Stable | State::CompletingRebalance => self.prepare(),
            State::PreparingRebalance => self.complete_if_all_joined(),
            State::Empty | State::Dead => {}
        }
    }

    /// Gives somebody who has just joined time until it is told so.
    pub(super) fn begin_session(&mut self, id: &ByteString) {
        self.core.set_session(&self.group.id, id, NEW_MEMBER_TIMEOUT_MS);
    }
}
