//! Committing and reading offsets, and forgetting them.

use bytestring::ByteString;
use millstream_protocol::ErrorCode;
use millstream_protocol::messages::offset_delete::{
    OffsetDeleteRequestPartition, OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use millstream_protocol::messages::offset_fetch::{
    OffsetFetchRequestGroup, OffsetFetchResponseGroup, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopics,
};
use millstream_protocol::messages::{
    ConsumerProtocolSubscription, OffsetCommitRequest, OffsetCommitValue, OffsetDeleteRequest,
    OffsetDeleteResponse, TxnOffsetCommitRequest,
};
use millstream_protocol::wire::Message;
use millstream_record::{Millis, ProducerEpoch, ProducerId};

use super::api::{Answer, Batch};
use super::coordinator::{Coordinator, Timer};
use super::live::Group;
use super::refusal;
use super::state::State;
use super::stored::{Place, commit_record, group_record};
use crate::wire::own;
use crate::{KeyValue, Waiter};

/// What an offset that was never committed reads as.
const NO_OFFSET: i64 = -1;
/// In a commit: keep as long as the broker's setting says.
const DEFAULT_RETENTION: i64 = -1;
/// The protocol type whose members' subscriptions can be read.
const CONSUMER: &str = "consumer";

/// Who commits.
struct Committer<'a> {
    group_id: &'a ByteString,
    member_id: &'a ByteString,
    instance: Option<&'a ByteString>,
    generation: i32,
    is_transactional: bool,
}

/// An offset that somebody commits.
struct Offered<'a> {
    topic: &'a ByteString,
    partition: i32,
    offset: i64,
    leader_epoch: i32,
    metadata: Option<&'a ByteString>,
}

impl Coordinator {
    pub(super) fn commit(&mut self, waiter: Waiter, request: &OffsetCommitRequest) {
        let committer = Committer {
            group_id: &request.group_id,
            member_id: &request.member_id,
            instance: request.group_instance_id.as_ref(),
            generation: request.generation_id_or_member_epoch,
            is_transactional: false,
        };
        if let Err(error) = self.admit_commit(&committer).and_then(|()| self.core.check_log()) {
            self.core.answer(waiter, Answer::OffsetCommit(refusal::commit(request, error)));
            return;
        }
        let mut answer = refusal::commit(request, ErrorCode::None);
        let expire_timestamp = match request.retention_time_ms {
            DEFAULT_RETENTION => -1,
            ms => self.core.now.plus_ms(ms).0,
        };
        let partitions = request.topics.iter().flat_map(|t| t.partitions.iter().map(move |p| (&t.name, p)));
        let offered = partitions.map(|(topic, partition)| Offered {
            topic,
            partition: partition.partition_index,
            offset: partition.committed_offset,
            leader_epoch: partition.committed_leader_epoch,
            metadata: partition.committed_metadata.as_ref(),
        });
        let told = answer.topics.iter_mut().flat_map(|topic| &mut topic.partitions);
        let offered = offered.zip(told.map(|told| &mut told.error_code));
        let records = self.commit_records(&request.group_id, expire_timestamp, offered);
        self.write_commit(&request.group_id, records, Batch::Records);
        self.core.answer_when_durable(waiter, Answer::OffsetCommit(answer));
    }

    pub(super) fn commit_in_transaction(&mut self, waiter: Waiter, request: &TxnOffsetCommitRequest) {
        let committer = Committer {
            group_id: &request.group_id,
            member_id: &request.member_id,
            instance: request.group_instance_id.as_ref(),
            generation: request.generation_id,
            is_transactional: true,
        };
        if let Err(error) = self.admit_commit(&committer).and_then(|()| self.core.check_log()) {
            self.core.answer(waiter, Answer::TxnOffsetCommit(refusal::txn_commit(request, error)));
            return;
        }
        let mut answer = refusal::txn_commit(request, ErrorCode::None);
        let partitions = request.topics.iter().flat_map(|t| t.partitions.iter().map(move |p| (&t.name, p)));
        let offered = partitions.map(|(topic, partition)| Offered {
            topic,
            partition: partition.partition_index,
            offset: partition.committed_offset,
            leader_epoch: partition.committed_leader_epoch,
            metadata: partition.committed_metadata.as_ref(),
        });
        let told = answer.topics.iter_mut().flat_map(|topic| &mut topic.partitions);
        let offered = offered.zip(told.map(|told| &mut told.error_code));
        let records = self.commit_records(&request.group_id, -1, offered);
        self.write_commit(&request.group_id, records, |records| Batch::Transactional {
            producer_id: ProducerId(request.producer_id),
            producer_epoch: ProducerEpoch(request.producer_epoch),
            records,
        });
        self.core.answer_when_durable(waiter, Answer::TxnOffsetCommit(answer));
    }

    /// Judges who commits. A group that nobody knows yet comes to be with its first offset.
    fn admit_commit(&mut self, committer: &Committer<'_>) -> Result<(), ErrorCode> {
        if committer.is_transactional && committer.group_id.is_empty() {
            return Err(ErrorCode::InvalidGroupId); // plain commits may use the empty name, as they always could
        }
        let Some(group) = self.groups.get(committer.group_id) else {
            return if committer.generation >= 0 { Err(ErrorCode::IllegalGeneration) } else { Ok(()) };
        };
        judge_commit(group, committer)?;
        if matches!(group.state(), State::Stable | State::PreparingRebalance) {
            self.rebalance(committer.group_id, |work| work.prolong(committer.member_id));
        }
        Ok(())
    }

    /// What is to be written of the offsets; those that are refused are told so.
    fn commit_records<'a>(
        &self,
        group_id: &ByteString,
        expire_timestamp: i64,
        offered: impl Iterator<Item = (Offered<'a>, &'a mut i16)>,
    ) -> Vec<KeyValue> {
        let mut records = Vec::new();
        for (offered, error_code) in offered {
            let metadata = offered.metadata.cloned().unwrap_or_default();
            if metadata.len() > self.core.config.offset_metadata_max_bytes {
                *error_code = ErrorCode::OffsetMetadataTooLarge.code();
                continue;
            }
            let value = OffsetCommitValue {
                offset: offered.offset,
                leader_epoch: offered.leader_epoch,
                metadata: own(&metadata),
                commit_timestamp: self.core.now.0,
                expire_timestamp,
                ..OffsetCommitValue::default()
            };
            let place = (own(offered.topic), offered.partition);
            records.push(commit_record(group_id, &place, Some(&value)));
        }
        records
    }

    /// Writes them, if there are any, and makes sure that there is a group to hold them.
    fn write_commit(
        &mut self,
        group_id: &ByteString,
        records: Vec<KeyValue>,
        batch: impl FnOnce(Vec<KeyValue>) -> Batch,
    ) {
        if records.is_empty() {
            return;
        }
        if !self.groups.contains_key(group_id) {
            let id = own(group_id);
            self.groups.insert(id.clone(), Group::new(&id));
        }
        self.core.append(batch(records));
    }

    pub(super) fn fetch(&mut self, waiter: Waiter, request: &OffsetFetchRequestGroup, require_stable: bool) {
        let group = &request.group_id;
        let topics = match &request.topics {
            Some(topics) => topics
                .iter()
                .map(|topic| {
                    let places = topic.partition_indexes.iter().map(|index| (topic.name.clone(), *index));
                    self.read_topic(group, &topic.name, topic.topic_id, places, require_stable)
                })
                .collect(),
            None => {
                let mut by_topic: std::collections::BTreeMap<ByteString, Vec<Place>> = Default::default();
                for (place, _) in self.core.stored.commits(group) {
                    by_topic.entry(place.0.clone()).or_default().push(place.clone());
                }
                by_topic
                    .into_iter()
                    .map(|(topic, places)| {
                        let id = millstream_record::Uuid::ZERO;
                        self.read_topic(group, &topic, id, places.into_iter(), require_stable)
                    })
                    .collect()
            }
        };
        let answer = OffsetFetchResponseGroup {
            group_id: group.clone(),
            topics,
            ..OffsetFetchResponseGroup::default()
        };
        self.core.answer_when_durable(waiter, Answer::OffsetFetch(answer));
    }

    fn read_topic(
        &self,
        group: &ByteString,
        name: &ByteString,
        topic_id: millstream_record::Uuid,
        places: impl Iterator<Item = Place>,
        require_stable: bool,
    ) -> OffsetFetchResponseTopics {
        let read = |place: Place| {
            let mut partition = OffsetFetchResponsePartitions {
                partition_index: place.1,
                committed_offset: NO_OFFSET,
                committed_leader_epoch: -1,
                metadata: Some(ByteString::new()),
                ..OffsetFetchResponsePartitions::default()
            };
            if require_stable && self.core.stored.is_pending(group, &place) {
                partition.error_code = ErrorCode::UnstableOffsetCommit.code();
            } else if let Some(commit) = self.core.stored.commit(group, &place) {
                partition.committed_offset = commit.offset;
                partition.committed_leader_epoch = commit.leader_epoch;
                partition.metadata = Some(commit.metadata.clone());
            }
            partition
        };
        OffsetFetchResponseTopics { name: name.clone(), topic_id, partitions: places.map(read).collect() }
    }

    /// Deletes offsets of topics that nobody in the group reads. A transaction's offset that is pending there goes with them: it
    /// would come back when the transaction commits.
    pub(super) fn delete_offsets(&mut self, waiter: Waiter, request: &OffsetDeleteRequest) {
        let group_id = &request.group_id;
        let group = match self.judge_offset_delete(group_id) {
            Ok(group) => group,
            Err(error) => {
                let answer = Answer::OffsetDelete(refusal::offset_delete(error));
                self.core.answer_when_durable(waiter, answer);
                return;
            }
        };
        let is_consumer = group.protocol_type.as_deref() == Some(CONSUMER);
        let stored = self.core.stored.places(group_id);
        let mut records = Vec::new();
        let topics = request.topics.iter().map(|topic| {
            let is_read = is_consumer && subscribes(group, &topic.name);
            let error = if is_read { ErrorCode::GroupSubscribedToTopic } else { ErrorCode::None };
            let delete = |partition: &OffsetDeleteRequestPartition| {
                let place = (topic.name.clone(), partition.partition_index);
                if !is_read && stored.contains(&place) {
                    records.push(commit_record(group_id, &place, None));
                }
                let partition_index = partition.partition_index;
                OffsetDeleteResponsePartition { partition_index, error_code: error.code() }
            };
            let partitions = topic.partitions.iter().map(delete).collect();
            OffsetDeleteResponseTopic { name: topic.name.clone(), partitions }
        });
        let answer = OffsetDeleteResponse { topics: topics.collect(), ..OffsetDeleteResponse::default() };
        if let (false, Err(error)) = (records.is_empty(), self.core.check_log()) {
            self.core.answer(waiter, Answer::OffsetDelete(refusal::offset_delete(error)));
            return;
        }
        if !records.is_empty() {
            self.core.append(Batch::Records(records));
        }
        self.core.answer_when_durable(waiter, Answer::OffsetDelete(answer));
    }

    /// The group, where offsets of it may be deleted: what members of another protocol read cannot be told.
    fn judge_offset_delete(&self, group_id: &ByteString) -> Result<&Group, ErrorCode> {
        if group_id.is_empty() {
            return Err(ErrorCode::InvalidGroupId);
        }
        let group = self.groups.get(group_id).filter(|group| group.state() != State::Dead);
        let group = group.ok_or(ErrorCode::GroupIdNotFound)?;
        let is_consumer = group.protocol_type.as_deref() == Some(CONSUMER);
        if group.state() == State::Empty || is_consumer { Ok(group) } else { Err(ErrorCode::NonEmptyGroup) }
    }

    pub(super) fn delete(&mut self, waiter: Waiter, group_id: &ByteString) {
        let error = match self.groups.get(group_id).map(Group::state) {
            None | Some(State::Dead) => ErrorCode::GroupIdNotFound,
            Some(State::Empty) => self.core.check_log().err().unwrap_or(ErrorCode::None),
            Some(_) => ErrorCode::NonEmptyGroup,
        };
        if error == ErrorCode::None {
            let places = self.core.stored.places(group_id);
            let mut records: Vec<KeyValue> =
                places.iter().map(|place| commit_record(group_id, place, None)).collect();
            records.extend(self.bury(group_id));
            self.core.append(Batch::Records(records));
        }
        self.core.answer_when_durable(waiter, Answer::Delete(refusal::delete(group_id, error)));
    }

    /// Removes an empty group; the tombstone of what was stored of it.
    fn bury(&mut self, group_id: &ByteString) -> Option<KeyValue> {
        if let Some(mut group) = self.groups.remove(group_id) {
            group.become_state(self.core.now, State::Dead);
            for member in &group.expected {
                self.core.clear_session(group_id, member);
            }
        }
        self.core.stored.has_group(group_id).then(|| group_record(group_id, None))
    }

    pub(super) fn forget_topics(&mut self, topics: &[ByteString]) {
        let mut records = Vec::new();
        for group in self.groups.keys() {
            let places = self.core.stored.places(group);
            let gone = places.iter().filter(|(topic, _)| topics.contains(topic));
            records.extend(gone.map(|place| commit_record(group, place, None)));
        }
        if !records.is_empty() {
            self.core.append(Batch::Records(records));
        }
    }

    pub(super) fn schedule_expiry(&mut self) {
        let at = self.core.now.plus_ms(self.core.config.offsets_retention_check_interval_ms);
        self.core.timers.set(Timer::Expiry, at);
    }

    /// Forgets offsets that nobody needs any more, and groups that have nothing left.
    pub(super) fn expire_offsets(&mut self) {
        if !self.core.log_accepts {
            self.core.timers.set(Timer::Expiry, self.core.now.plus_ms(super::owed::RETRY_MS));
            return;
        }
        let ids: Vec<ByteString> = self.groups.keys().cloned().collect();
        for id in ids {
            let Some(group) = self.groups.get(&id) else { continue };
            let expired: Vec<Place> = self
                .core
                .stored
                .commits(&id)
                .filter(|(place, commit)| {
                    !self.core.stored.is_pending(&id, place) && self.is_expired(group, place, commit)
                })
                .map(|(place, _)| place.clone())
                .collect();
            let idle = group.state() == State::Empty && group.expected.is_empty();
            let mut records: Vec<KeyValue> =
                expired.iter().map(|place| commit_record(&id, place, None)).collect();
            if idle && self.core.stored.places(&id).len() == expired.len() {
                records.extend(self.bury(&id));
            }
            if !records.is_empty() {
                self.core.append(Batch::Records(records));
            }
        }
        self.schedule_expiry();
    }

    fn is_expired(&self, group: &Group, (topic, _): &Place, commit: &OffsetCommitValue) -> bool {
        let retention_ms = self.core.config.offsets_retention_ms;
        let committed = Millis(commit.commit_timestamp);
        // What counts as the last use: of an empty group its last member's leaving, of a topic its last commit.
        let last_use = match (group.state(), group.protocol_type.as_deref()) {
            (State::Empty, Some(_)) => group.since.unwrap_or(committed),
            (_, None) => committed,
            (State::Stable, Some(CONSUMER)) if !subscribes(group, topic) => committed,
            _ => return false,
        };
        if commit.expire_timestamp >= 0 {
            self.core.now.0 >= commit.expire_timestamp
        } else {
            self.core.now.since_ms(last_use) >= retention_ms
        }
    }
}

fn judge_commit(group: &Group, committer: &Committer<'_>) -> Result<(), ErrorCode> {
    let state = group.state();
    if state == State::Dead {
        return Err(ErrorCode::CoordinatorNotAvailable);
    }
    if committer.generation < 0 && state == State::Empty {
        return Ok(()); // an application that assigns partitions to itself keeps its offsets here
    }
    if committer.generation >= 0 || !committer.member_id.is_empty() || committer.instance.is_some() {
        group.judge_member(committer.member_id, committer.instance)?;
        if committer.generation != group.generation {
            return Err(ErrorCode::IllegalGeneration);
        }
    } else if !committer.is_transactional && state != State::Empty {
        return Err(ErrorCode::UnknownMemberId);
    }
    if !committer.is_transactional && state == State::CompletingRebalance {
        return Err(ErrorCode::RebalanceInProgress);
    }
    Ok(())
}

/// Whether a consumer of the group reads `topic`. A subscription that cannot be read might, so its offsets are kept.
fn subscribes(group: &Group, topic: &ByteString) -> bool {
    let protocol = group.protocol.clone().unwrap_or_default();
    group.members.values().any(|member| {
        match ConsumerProtocolSubscription::decode_versioned(member.metadata(&protocol)) {
            Ok(subscription) => subscription.topics.contains(topic),
            Err(_) => true,
        }
    })
}
