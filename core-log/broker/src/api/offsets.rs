//! OffsetCommit, OffsetFetch, TxnOffsetCommit. What concerns topics that do not exist is answered here; the group's coordinator
//! sees the rest.

use std::sync::Arc;

use bytestring::ByteString;
use millstream_machine::group::{Answer, Input};
use millstream_machine::metadata::Image;
use millstream_protocol::messages::offset_commit::{
    OffsetCommitRequestTopic, OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use millstream_protocol::messages::offset_fetch::{
    OffsetFetchRequestGroup, OffsetFetchResponseGroup, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopics,
};
use millstream_protocol::messages::txn_offset_commit::{
    TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};
use millstream_protocol::messages::{
    OffsetCommitRequest, OffsetCommitResponse, OffsetFetchRequest, OffsetFetchResponse,
    TxnOffsetCommitRequest, TxnOffsetCommitResponse,
};
use millstream_protocol::{Ctx, ErrorCode, Receipt};
use millstream_record::{ProducerEpoch, ProducerId, TopicId};

use super::transactions;
use crate::gather::Gather;
use crate::shared::Shared;
use crate::verification::Claim;

pub(super) fn commit(shared: &Shared, mut request: OffsetCommitRequest) -> Receipt {
    let image = shared.image.load();
    let mut response = OffsetCommitResponse::default();
    let topics = std::mem::take(&mut request.topics);
    for mut topic in topics {
        let name = resolve(&image, &topic.name, topic.topic_id);
        let (known, unknown): (Vec<_>, Vec<_>) = topic.partitions.into_iter().partition(|partition| {
            name.as_ref().is_ok_and(|name| image.partition(name, partition.partition_index).is_some())
        });
        let code = name.as_ref().err().copied().unwrap_or(ErrorCode::UnknownTopicOrPartition);
        let refused = unknown.iter().map(|partition| OffsetCommitResponsePartition {
            partition_index: partition.partition_index,
            error_code: code.code(),
        });
        topic.name = name.unwrap_or(topic.name);
        response.topics.push(OffsetCommitResponseTopic {
            name: topic.name.clone(),
            topic_id: topic.topic_id,
            partitions: refused.collect(),
        });
        topic.partitions = known;
        if !topic.partitions.is_empty() {
            request.topics.push(topic);
        }
    }
    let host = match shared.groups.host_of(&request.group_id) {
        Ok(host) => host,
        Err(code) => {
            fill_commit(&mut response, refused_commit(&request.topics, code));
            return super::now(response);
        }
    };
    if request.topics.is_empty() {
        return super::now(response); // nothing is left for the group
    }
    let (completer, receipt) = Receipt::pending();
    let reply = move |answer| {
        if let Answer::OffsetCommit(answer) = answer {
            fill_commit(&mut response, answer.topics);
            completer.complete(Ok(response.into()));
        }
    };
    host.ask(reply, |waiter| Input::OffsetCommit { waiter, request });
    receipt
}

/// Puts the partitions of `topics` to those of the same topic in `response`.
fn fill_commit(response: &mut OffsetCommitResponse, topics: Vec<OffsetCommitResponseTopic>) {
    for topic in topics {
        if let Some(known) = response.topics.iter_mut().find(|known| known.name == topic.name) {
            known.partitions.extend(topic.partitions);
        }
    }
}

fn refused_commit(topics: &[OffsetCommitRequestTopic], code: ErrorCode) -> Vec<OffsetCommitResponseTopic> {
    let partition =
        |partition_index| OffsetCommitResponsePartition { partition_index, error_code: code.code() };
    let topic = |topic: &OffsetCommitRequestTopic| OffsetCommitResponseTopic {
        name: topic.name.clone(),
        topic_id: topic.topic_id,
        partitions: topic.partitions.iter().map(|asked| partition(asked.partition_index)).collect(),
    };
    topics.iter().map(topic).collect()
}

fn resolve(image: &Image, name: &ByteString, id: TopicId) -> Result<ByteString, ErrorCode> {
    if id.is_zero() {
        return Ok(name.clone());
    }
    let topic = image.topic_by_id(id).ok_or(ErrorCode::UnknownTopicId)?;
    Ok(ByteString::from(&*topic.name))
}

pub(super) fn fetch(shared: &Shared, request: OffsetFetchRequest) -> Receipt {
    let places = request.groups.len();
    let empty = OffsetFetchResponse {
        groups: vec![OffsetFetchResponseGroup::default(); places],
        ..OffsetFetchResponse::default()
    };
    let (gather, receipt) = Gather::new(empty, places);
    for (at, mut group) in request.groups.into_iter().enumerate() {
        let (ids, unknown) = resolve_group(&shared.image.load(), &mut group);
        let host = match shared.groups.host_of(&group.group_id) {
            Ok(host) => host,
            Err(code) => {
                let (group_id, error_code) = (group.group_id, code.code());
                let refused = OffsetFetchResponseGroup { group_id, error_code, ..Default::default() };
                gather.settle(|response| response.groups[at] = refused);
                continue;
            }
        };
        let (gather, image) = (Arc::clone(&gather), shared.image.load_full());
        let reply = move |answer| {
            if let Answer::OffsetFetch(mut answer) = answer {
                restore_ids(&image, &mut answer, ids, unknown);
                gather.settle(|response| response.groups[at] = answer);
            }
        };
        let require_stable = request.require_stable;
        host.ask(reply, |waiter| Input::OffsetFetch { waiter, request: group, require_stable });
    }
    gather.all_admitted();
    receipt
}

/// Names the topics that the client names by id. Gives whether it does, and answers for ids that nobody has.
fn resolve_group(
    image: &Image,
    group: &mut OffsetFetchRequestGroup,
) -> (bool, Vec<OffsetFetchResponseTopics>) {
    let Some(topics) = group.topics.as_mut() else { return (true, Vec::new()) };
    let by_id = topics.iter().any(|topic| !topic.topic_id.is_zero());
    let mut unknown = Vec::new();
    topics.retain_mut(|topic| match resolve(image, &topic.name, topic.topic_id) {
        Ok(name) => {
            topic.name = name;
            true
        }
        Err(code) => {
            let none = |&partition_index: &i32| OffsetFetchResponsePartitions {
                partition_index,
                committed_offset: -1,
                committed_leader_epoch: -1,
                metadata: Some(ByteString::new()),
                error_code: code.code(),
            };
            unknown.push(OffsetFetchResponseTopics {
                topic_id: topic.topic_id,
                partitions: topic.partition_indexes.iter().map(none).collect(),
                ..OffsetFetchResponseTopics::default()
            });
            false
        }
    });
    (by_id, unknown)
}

fn restore_ids(
    image: &Image,
    answer: &mut OffsetFetchResponseGroup,
    by_id: bool,
    unknown: Vec<OffsetFetchResponseTopics>,
) {
    if by_id {
        for topic in &mut answer.topics {
            topic.topic_id = image.topic(&topic.name).map_or(TopicId::ZERO, |found| found.id);
        }
    }
    answer.topics.extend(unknown);
}

pub(super) fn commit_in_transaction(
    shared: &Shared,
    ctx: &Ctx,
    mut request: TxnOffsetCommitRequest,
) -> Receipt {
    let image = shared.image.load();
    let mut response = TxnOffsetCommitResponse::default();
    for topic in &mut request.topics {
        let is_known = |index: i32| image.partition(&topic.name, index).is_some();
        let unknown = topic.partitions.iter().filter(|partition| !is_known(partition.partition_index));
        let refused = unknown.map(|partition| TxnOffsetCommitResponsePartition {
            partition_index: partition.partition_index,
            error_code: ErrorCode::UnknownTopicOrPartition.code(),
        });
        response
            .topics
            .push(TxnOffsetCommitResponseTopic { name: topic.name.clone(), partitions: refused.collect() });
        topic
            .partitions
            .retain(|partition| image.partition(&topic.name, partition.partition_index).is_some());
    }
    request.topics.retain(|topic| !topic.partitions.is_empty());
    if request.topics.is_empty() {
        return super::now(response);
    }
    let named = request.topics.clone();
    let refused = move |mut response: TxnOffsetCommitResponse, code: ErrorCode| {
        for (topic, partition) in named.iter().flat_map(|t| t.partitions.iter().map(move |p| (t, p))) {
            let refused = TxnOffsetCommitResponsePartition {
                partition_index: partition.partition_index,
                error_code: code.code(),
            };
            let place = response.topics.iter_mut().find(|known| known.name == topic.name);
            place.into_iter().for_each(|known| known.partitions.push(refused.clone()));
        }
        response
    };
    if request.group_id.is_empty() {
        return super::now(refused(response, ErrorCode::InvalidGroupId));
    }
    if request.transactional_id.is_empty() {
        return super::now(refused(response, ErrorCode::InvalidRequest));
    }
    let host = match shared.groups.host_of(&request.group_id) {
        Ok(host) => host,
        Err(code) => return super::now(refused(response, code)),
    };
    let claim = Claim {
        transactional_id: request.transactional_id.clone(),
        producer_id: ProducerId(request.producer_id),
        producer_epoch: ProducerEpoch(request.producer_epoch),
    };
    let (completer, receipt) = Receipt::pending();
    let (facts, partition) = (ctx.facts, Arc::clone(host.partition()));
    shared.verification.admit(claim.clone(), &partition, move |word| {
        let reply = move |outcome| {
            let answer = match outcome {
                Ok(Answer::TxnOffsetCommit(answer)) => merged(response, answer),
                Ok(_) => refused(response, ErrorCode::UnknownServerError),
                Err(code) => refused(response, code),
            };
            completer.complete(Ok(answer.into()));
        };
        match word {
            Ok(word) => host.ask_if(
                |partition| partition.check_word(claim.producer_id, claim.producer_epoch, word),
                reply,
                |waiter| Input::TxnOffsetCommit { waiter, request },
            ),
            Err(code) => reply(Err(match transactions::unverified(code, &facts) {
                ErrorCode::NotEnoughReplicas => ErrorCode::CoordinatorLoadInProgress, // what is retried in this place
                ErrorCode::NotLeaderOrFollower | ErrorCode::KafkaStorageError => ErrorCode::NotCoordinator,
                other => other,
            })),
        }
    });
    receipt
}

fn merged(mut response: TxnOffsetCommitResponse, answer: TxnOffsetCommitResponse) -> TxnOffsetCommitResponse {
    for topic in answer.topics {
        if let Some(known) = response.topics.iter_mut().find(|known| known.name == topic.name) {
            known.partitions.extend(topic.partitions);
        }
    }
    response
}
