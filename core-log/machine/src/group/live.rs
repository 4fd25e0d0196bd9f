//! A live group: its members, and where its rebalance stands.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use bytestring::ByteString;
use millstream_protocol::ErrorCode;
use millstream_protocol::messages::join_group::JoinGroupResponseMember;
use millstream_protocol::messages::{GroupMetadataValue, JoinGroupResponse};
use millstream_record::Millis;

use super::invariant;
use super::member::Member;
use super::state::State;
use crate::wire::own;

/// A group and its members.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) id: ByteString,
    state: State,
    previous: State,
    /// When the state was entered; offsets of an empty group expire from then on.
    pub(super) since: Option<Millis>,
    pub(super) generation: i32,
    pub(super) protocol_type: Option<ByteString>,
    pub(super) protocol: Option<ByteString>,
    pub(super) leader: Option<ByteString>,
    pub(super) members: BTreeMap<ByteString, Member>,
    /// Member id of each static member, by instance id.
    pub(super) statics: BTreeMap<ByteString, ByteString>,
    /// Ids given away to members that are to come back with them (KIP-394).
    pub(super) expected: BTreeSet<ByteString>,
    /// Members of this generation that have not synchronised yet.
    pub(super) unsynced: BTreeSet<ByteString>,
    /// The assignment of this generation is on its way to the log: what is stored is handed out, and no other.
    pub(super) is_assigning: bool,
    /// Somebody joined while the first rebalance was being delayed.
    pub(super) joined_during_delay: bool,
    /// How much longer the first rebalance may be delayed.
    pub(super) delay_left_ms: i64,
}

impl Group {
    pub(super) fn new(id: &ByteString) -> Self {
        Self {
            id: own(id),
            state: State::Empty,
            previous: State::Dead,
            since: None,
            generation: 0,
            protocol_type: None,
            protocol: None,
            leader: None,
            members: BTreeMap::new(),
            statics: BTreeMap::new(),
            expected: BTreeSet::new(),
            unsynced: BTreeSet::new(),
            is_assigning: false,
            joined_during_delay: false,
            delay_left_ms: 0,
        }
    }

    /// As it was stored: stable where it has members, since only finished rebalances are stored.
    pub(super) fn from_record(id: &ByteString, record: &GroupMetadataValue) -> Self {
        let mut group = Self::new(id);
        let protocol = record.protocol.as_ref().map(own);
        group.generation = record.generation;
        group.protocol_type = (!record.protocol_type.is_empty()).then(|| own(&record.protocol_type));
        group.since = (record.current_state_timestamp >= 0).then_some(Millis(record.current_state_timestamp));
        for stored in &record.members {
            let member = Member::from_record(stored, &protocol.clone().unwrap_or_default());
            if let Some(instance) = &member.instance {
                group.statics.insert(instance.clone(), member.id.clone());
            }
            group.members.insert(member.id.clone(), member);
        }
        if !group.members.is_empty() {
            group.state = State::Stable;
            group.protocol = protocol;
            group.leader = record.leader.as_ref().map(own);
        }
        group
    }

    /// As it is stored, with these assignments; a member without one gets none.
    pub(super) fn to_record(&self, assignments: &BTreeMap<ByteString, Bytes>) -> GroupMetadataValue {
        let protocol = self.protocol.clone().unwrap_or_default();
        let member = |member: &Member| {
            member.to_record(&protocol, assignments.get(&member.id).cloned().unwrap_or_default())
        };
        GroupMetadataValue {
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            generation: self.generation,
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            current_state_timestamp: self.since.map_or(-1, |since| since.0),
            members: self.members.values().map(member).collect(),
        }
    }

    pub(super) fn state(&self) -> State {
        self.state
    }

    /// Whether this is the first rebalance after the group had no members.
    pub(super) fn is_first_rebalance(&self) -> bool {
        self.state == State::PreparingRebalance && self.previous == State::Empty
    }

    pub(super) fn become_state(&mut self, now: Millis, next: State) {
        debug_assert!(self.state.can_become(next), "{:?} -> {next:?}", self.state);
        self.previous = self.state;
        self.state = next;
        self.since = Some(now);
        debug_assert_eq!(invariant::check(self), Ok(()));
    }

    pub(super) fn is_leader(&self, id: &str) -> bool {
        self.leader.as_deref() == Some(id)
    }

    pub(super) fn has_all_joined(&self) -> bool {
        self.expected.is_empty() && self.members.values().all(|member| member.awaiting_join.is_some())
    }

    /// How long a rebalance waits: as long as its slowest member asks for.
    pub(super) fn rebalance_timeout_ms(&self) -> i64 {
        self.members.values().map(|member| i64::from(member.rebalance_timeout_ms)).max().unwrap_or(0)
    }

    /// Whether a joiner's protocols have one in common with all members'.
    pub(super) fn accepts(
        &self,
        protocol_type: &str,
        mut protocols: impl Iterator<Item = ByteString>,
    ) -> bool {
        if self.members.is_empty() || self.state == State::Empty {
            return !protocol_type.is_empty() && protocols.next().is_some();
        }
        self.protocol_type.as_deref() == Some(protocol_type)
            && protocols.any(|name| self.members.values().all(|member| member.supports(&name)))
    }

    /// The protocol that most members prefer among those that all support; the leader's preference breaks a tie.
    pub(super) fn select_protocol(&self) -> Option<ByteString> {
        let everyone_supports =
            |name: &&ByteString| self.members.values().all(|member| member.supports(name));
        let leader =
            self.leader.as_ref().and_then(|id| self.members.get(id)).or(self.members.values().next())?;
        let candidates: Vec<&ByteString> =
            leader.protocols.iter().map(|(name, _)| name).filter(everyone_supports).collect();
        let vote = |member: &Member| {
            member.protocols.iter().map(|(name, _)| name).find(|n| candidates.contains(n)).cloned()
        };
        let votes: Vec<ByteString> = self.members.values().filter_map(vote).collect();
        let count = |name: &ByteString| votes.iter().filter(|vote| *vote == name).count();
        candidates.iter().rev().max_by_key(|name| count(name)).map(|name| (*name).clone())
    }

    /// Checks who a request says it comes from (KIP-345).
    pub(super) fn judge_member(&self, id: &str, instance: Option<&ByteString>) -> Result<(), ErrorCode> {
        if let Some(instance) = instance {
            match self.statics.get(instance) {
                None => return Err(ErrorCode::UnknownMemberId),
                Some(current) if &**current != id => return Err(ErrorCode::FencedInstanceId),
                Some(_) => {}
            }
        }
        if self.members.contains_key(id) { Ok(()) } else { Err(ErrorCode::UnknownMemberId) }
    }

    pub(super) fn add(&mut self, member: Member, protocol_type: &ByteString) {
        if self.members.is_empty() {
            self.protocol_type = Some(own(protocol_type));
        }
        if self.leader.is_none() {
            self.leader = Some(member.id.clone());
        }
        self.expected.remove(&member.id);
        if let Some(instance) = &member.instance {
            self.statics.insert(instance.clone(), member.id.clone());
        }
        self.members.insert(member.id.clone(), member);
    }

    /// Takes a member out; whoever it kept waiting is the caller's to answer.
    pub(super) fn remove(&mut self, id: &str) -> Option<Member> {
        self.expected.remove(id);
        self.unsynced.remove(id);
        let member = self.members.remove(id)?;
        if let Some(instance) = &member.instance
            && self.statics.get(instance) == Some(&member.id)
        {
            self.statics.remove(instance);
        }
        if self.is_leader(id) {
            self.leader = self.members.keys().next().cloned();
        }
        Some(member)
    }

    /// Gives a static member's place to its new process.
    pub(super) fn replace(&mut self, old: &str, new: ByteString) -> Option<&mut Member> {
        let mut member = self.members.remove(old)?;
        self.expected.remove(old);
        if self.unsynced.remove(old) {
            self.unsynced.insert(new.clone());
        }
        if self.is_leader(old) {
            self.leader = Some(new.clone());
        }
        if let Some(instance) = &member.instance {
            self.statics.insert(instance.clone(), new.clone());
        }
        member.id = new.clone();
        Some(self.members.entry(new).or_insert(member))
    }

    /// Makes sure that the leader has joined, choosing another if need be. False when nobody has.
    pub(super) fn elect_joined_leader(&mut self) -> bool {
        let joined = |member: &&Member| member.awaiting_join.is_some();
        let current = self.leader.as_ref().and_then(|id| self.members.get(id));
        if current.as_ref().is_some_and(joined) {
            return true;
        }
        match self.members.values().find(joined).map(|member| member.id.clone()) {
            Some(id) => {
                self.leader = Some(id);
                true
            }
            None => false,
        }
    }

    pub(super) fn begin_generation(&mut self, now: Millis) {
        self.generation = self.generation.wrapping_add(1).max(1);
        self.joined_during_delay = false;
        self.is_assigning = false;
        self.unsynced.clear();
        if self.members.is_empty() {
            self.protocol = None;
            self.leader = None;
            self.become_state(now, State::Empty);
        } else {
            self.protocol = self.select_protocol();
            self.become_state(now, State::CompletingRebalance);
        }
    }

    /// What a member is told that has joined this generation; the leader also learns who else has.
    pub(super) fn joined(&self, id: &ByteString) -> JoinGroupResponse {
        let protocol = self.protocol.clone().unwrap_or_default();
        let describe = |member: &Member| JoinGroupResponseMember {
            member_id: member.id.clone(),
            group_instance_id: member.instance.clone(),
            metadata: member.metadata(&protocol),
        };
        JoinGroupResponse {
            generation_id: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol_name: self.protocol.clone(),
            leader: self.leader.clone().unwrap_or_default(),
            member_id: id.clone(),
            members: if self.is_leader(id) {
                self.members.values().map(describe).collect()
            } else {
                Vec::new()
            },
            ..JoinGroupResponse::default()
        }
    }
}
