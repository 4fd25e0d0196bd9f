//! A group coordinator for tests, with its clock, its log and what it answered.

use std::collections::BTreeMap;

use bytes::Bytes;
use bytestring::ByteString;
use millstream_protocol::ErrorCode;
use millstream_protocol::messages::join_group::JoinGroupRequestProtocol;
use millstream_protocol::messages::offset_commit::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use millstream_protocol::messages::offset_delete::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use millstream_protocol::messages::offset_fetch::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use millstream_protocol::messages::sync_group::SyncGroupRequestAssignment;
use millstream_protocol::messages::txn_offset_commit::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use millstream_protocol::messages::{
    HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, OffsetCommitRequest, OffsetDeleteRequest,
    SyncGroupRequest, SyncGroupResponse, TxnOffsetCommitRequest,
};
use millstream_record::{Millis, ProducerEpoch, ProducerId};

use super::api::{Answer, Batch, Client, Config, Effect, Input};
use super::coordinator::{Coordinator, entries};
use crate::{Ticket, TransactionOutcome, Waiter};

pub(super) const SESSION_MS: i64 = 10_000;
pub(super) const REBALANCE_MS: i64 = 60_000;
pub(super) const DELAY_MS: i64 = 3_000;

/// A coordinator, its clock, and everything it has said.
pub(super) struct World {
    pub(super) machine: Coordinator,
    pub(super) now: Millis,
    pub(super) waiters: u64,
    pub(super) random: u128,
    pub(super) answers: BTreeMap<Waiter, Answer>,
    pub(super) log: Vec<Batch>,
    pub(super) waiting: Vec<Ticket>,
    /// Whether appends become durable at once.
    pub(super) is_durable: bool,
}

impl World {
    pub(super) fn new(config: Config) -> Self {
        let mut machine = Coordinator::new(config);
        assert_eq!(machine.loaded(Millis(0)), []);
        Self {
            machine,
            now: Millis(0),
            waiters: 0,
            random: 0,
            answers: BTreeMap::new(),
            log: Vec::new(),
            waiting: Vec::new(),
            is_durable: true,
        }
    }

    pub(super) fn give(&mut self, input: Input) {
        let effects = self.machine.step(self.now, input);
        self.perform(effects);
        if self.is_durable {
            self.flush();
        }
    }

    pub(super) fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Append { ticket, batch } => {
                    self.log.push(batch);
                    self.waiting.push(ticket);
                }
                Effect::Answer { waiter, answer } => {
                    assert!(self.answers.insert(waiter, answer).is_none(), "{waiter:?} is answered twice");
                }
            }
        }
    }

    pub(super) fn flush(&mut self) {
        for ticket in std::mem::take(&mut self.waiting) {
            let effects = self.machine.step(self.now, Input::Durable { ticket });
            self.perform(effects);
        }
    }

    pub(super) fn ask(&mut self, input: impl FnOnce(Waiter) -> Input) -> Waiter {
        self.waiters += 1;
        let waiter = Waiter(self.waiters);
        self.give(input(waiter));
        waiter
    }

    pub(super) fn pass(&mut self, ms: i64) {
        self.now = self.now.plus_ms(ms);
        self.give(Input::Tick);
    }

    pub(super) fn join_as(&mut self, request: JoinGroupRequest, must_know_member_id: bool) -> Waiter {
        self.random += 1;
        let random = self.random;
        let client = Client { id: "c".into(), host: "/127.0.0.1".into() };
        self.ask(|waiter| Input::Join {
            waiter,
            client,
            request,
            must_know_member_id,
            can_skip_assignment: true,
            random,
        })
    }

    pub(super) fn join(&mut self, member: &str) -> Waiter {
        self.join_as(request(member, None), false)
    }

    pub(super) fn joined(&self, waiter: Waiter) -> &JoinGroupResponse {
        match self.answers.get(&waiter) {
            Some(Answer::Join(answer)) => answer,
            other => panic!("no join was answered: {other:?}"),
        }
    }

    pub(super) fn sync(&mut self, member: &JoinGroupResponse, assignments: &[(&ByteString, &str)]) -> Waiter {
        let assignments = assignments.iter().map(|(id, assignment)| SyncGroupRequestAssignment {
            member_id: (*id).clone(),
            assignment: Bytes::copy_from_slice(assignment.as_bytes()),
        });
        let request = SyncGroupRequest {
            group_id: "g".into(),
            generation_id: member.generation_id,
            member_id: member.member_id.clone(),
            assignments: assignments.collect(),
            ..SyncGroupRequest::default()
        };
        self.ask(|waiter| Input::Sync { waiter, request })
    }

    pub(super) fn synced(&self, waiter: Waiter) -> &SyncGroupResponse {
        match self.answers.get(&waiter) {
            Some(Answer::Sync(answer)) => answer,
            other => panic!("no sync was answered: {other:?}"),
        }
    }

    pub(super) fn heartbeat(&mut self, member: &JoinGroupResponse) -> ErrorCode {
        self.heartbeat_as(&member.member_id, member.generation_id, None)
    }

    pub(super) fn heartbeat_as(
        &mut self,
        member: &str,
        generation_id: i32,
        instance: Option<&str>,
    ) -> ErrorCode {
        let request = HeartbeatRequest {
            group_id: "g".into(),
            generation_id,
            member_id: member.into(),
            group_instance_id: instance.map(ByteString::from),
        };
        let waiter = self.ask(|waiter| Input::Heartbeat { waiter, request });
        match self.answers.get(&waiter) {
            Some(Answer::Heartbeat(answer)) => ErrorCode::from_code(answer.error_code),
            other => panic!("no heartbeat was answered: {other:?}"),
        }
    }

    /// Two members, the first of them the leader, in a stable generation.
    pub(super) fn stable_pair(&mut self) -> (JoinGroupResponse, JoinGroupResponse) {
        let (one, two) = (self.join(""), self.join(""));
        // Nobody else comes during the second delay.
        self.pass(DELAY_MS);
        self.pass(DELAY_MS);
        let (one, two) = (self.joined(one).clone(), self.joined(two).clone());
        let (leader, follower) = if one.leader == one.member_id { (one, two) } else { (two, one) };
        self.sync(&follower, &[]);
        self.sync(&leader, &[(&leader.member_id, "L"), (&follower.member_id, "F")]);
        (leader, follower)
    }

    pub(super) fn state(&self) -> String {
        self.machine.describe("g", false).group_state.to_string()
    }

    pub(super) fn commit(&mut self, member: &str, generation: i32, offset: i64) -> Waiter {
        let request = commit_request(member, generation, offset, "");
        self.ask(|waiter| Input::OffsetCommit { waiter, request })
    }

    pub(super) fn commit_code(&self, waiter: Waiter) -> Option<ErrorCode> {
        let code = |code: i16| ErrorCode::from_code(code);
        self.answers.get(&waiter).map(|answer| match answer {
            Answer::OffsetCommit(answer) => code(answer.topics[0].partitions[0].error_code),
            Answer::TxnOffsetCommit(answer) => code(answer.topics[0].partitions[0].error_code),
            other => panic!("not a commit: {other:?}"),
        })
    }

    pub(super) fn commit_in_transaction(&mut self, producer: i64, offset: i64) -> Waiter {
        let request = TxnOffsetCommitRequest {
            transactional_id: "t".into(),
            group_id: "g".into(),
            producer_id: producer,
            producer_epoch: 0,
            generation_id: -1,
            topics: vec![TxnOffsetCommitRequestTopic {
                name: "topic".into(),
                partitions: vec![TxnOffsetCommitRequestPartition {
                    partition_index: 0,
                    committed_offset: offset,
                    ..TxnOffsetCommitRequestPartition::default()
                }],
            }],
            ..TxnOffsetCommitRequest::default()
        };
        self.ask(|waiter| Input::TxnOffsetCommit { waiter, request })
    }

    pub(super) fn end_transaction(&mut self, producer: i64, outcome: TransactionOutcome) {
        self.ask(|waiter| Input::EndTransaction {
            waiter,
            producer_id: ProducerId(producer),
            producer_epoch: ProducerEpoch(0),
            coordinator_epoch: 0,
            outcome,
        });
    }

    pub(super) fn fetch(&mut self, all: bool, require_stable: bool) -> Waiter {
        let topics = (!all).then(|| {
            vec![OffsetFetchRequestTopics {
                name: "topic".into(),
                partition_indexes: vec![0],
                ..OffsetFetchRequestTopics::default()
            }]
        });
        let request =
            OffsetFetchRequestGroup { group_id: "g".into(), topics, ..OffsetFetchRequestGroup::default() };
        self.ask(|waiter| Input::OffsetFetch { waiter, request, require_stable })
    }

    /// The offset and the code of topic-0; `None` when it is not in the answer.
    pub(super) fn offset(&mut self, require_stable: bool) -> (i64, ErrorCode) {
        let waiter = self.fetch(false, require_stable);
        match &self.answers[&waiter] {
            Answer::OffsetFetch(answer) => {
                let partition = &answer.topics[0].partitions[0];
                (partition.committed_offset, ErrorCode::from_code(partition.error_code))
            }
            other => panic!("not a fetch: {other:?}"),
        }
    }

    /// Deletes the offset of partition 0 of `topic`, and of partition 9, which has none.
    pub(super) fn delete_offsets(&mut self, group: &str, topic: &str) -> Waiter {
        let partition = |partition_index| OffsetDeleteRequestPartition { partition_index };
        let request = OffsetDeleteRequest {
            group_id: group.into(),
            topics: vec![OffsetDeleteRequestTopic {
                name: topic.into(),
                partitions: vec![partition(0), partition(9)],
            }],
        };
        self.ask(|waiter| Input::OffsetDelete { waiter, request })
    }

    /// The code of the group, and those of partitions.
    pub(super) fn deleted_offsets(&self, waiter: Waiter) -> (ErrorCode, Vec<ErrorCode>) {
        match self.answers.get(&waiter) {
            Some(Answer::OffsetDelete(answer)) => {
                let partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
                let codes = partitions.map(|partition| ErrorCode::from_code(partition.error_code));
                (ErrorCode::from_code(answer.error_code), codes.collect())
            }
            other => panic!("no deletion of offsets was answered: {other:?}"),
        }
    }

    pub(super) fn delete(&mut self) -> ErrorCode {
        let waiter = self.ask(|waiter| Input::Delete { waiter, group_id: "g".into() });
        match &self.answers[&waiter] {
            Answer::Delete(answer) => ErrorCode::from_code(answer.error_code),
            other => panic!("not a delete: {other:?}"),
        }
    }

    /// Another coordinator that has read everything which this one wrote.
    pub(super) fn reload(&self) -> World {
        let mut other = World::new(self.machine.core.config.clone());
        other.machine = Coordinator::new(self.machine.core.config.clone());
        for entry in self.log.iter().flat_map(entries) {
            other.machine.replay(entry).unwrap();
        }
        other.now = self.now;
        let effects = other.machine.loaded(other.now);
        other.perform(effects);
        other
    }
}

pub(super) fn config() -> Config {
    Config { offsets_retention_ms: 100_000, offsets_retention_check_interval_ms: 10_000, ..Config::default() }
}

pub(super) fn request(member: &str, instance: Option<&str>) -> JoinGroupRequest {
    JoinGroupRequest {
        group_id: "g".into(),
        session_timeout_ms: i32::try_from(SESSION_MS).unwrap(),
        rebalance_timeout_ms: i32::try_from(REBALANCE_MS).unwrap(),
        member_id: member.into(),
        group_instance_id: instance.map(ByteString::from),
        protocol_type: "consumer".into(),
        protocols: vec![JoinGroupRequestProtocol {
            name: "range".into(),
            metadata: Bytes::from_static(b"m"),
        }],
        ..JoinGroupRequest::default()
    }
}

pub(super) fn commit_request(
    member: &str,
    generation: i32,
    offset: i64,
    metadata: &str,
) -> OffsetCommitRequest {
    OffsetCommitRequest {
        group_id: "g".into(),
        generation_id_or_member_epoch: generation,
        member_id: member.into(),
        retention_time_ms: -1,
        topics: vec![OffsetCommitRequestTopic {
            name: "topic".into(),
            partitions: vec![OffsetCommitRequestPartition {
                partition_index: 0,
                committed_offset: offset,
                committed_metadata: Some(metadata.into()),
                ..OffsetCommitRequestPartition::default()
            }],
            ..OffsetCommitRequestTopic::default()
        }],
        ..OffsetCommitRequest::default()
    }
}
