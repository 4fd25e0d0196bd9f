//! Answers that say no.

use bytestring::ByteString;
use millstream_protocol::ErrorCode;
use millstream_protocol::messages::delete_groups::DeletableGroupResult;
use millstream_protocol::messages::offset_commit::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use millstream_protocol::messages::offset_fetch::OffsetFetchResponseGroup;
use millstream_protocol::messages::txn_offset_commit::{
    TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};
use millstream_protocol::messages::{
    HeartbeatResponse, JoinGroupResponse, LeaveGroupResponse, OffsetCommitRequest, OffsetCommitResponse,
    OffsetDeleteResponse, SyncGroupResponse, TxnOffsetCommitRequest, TxnOffsetCommitResponse,
};

use super::api::{Answer, Input};
use crate::Waiter;

pub(super) fn join(member_id: &ByteString, error: ErrorCode) -> JoinGroupResponse {
    JoinGroupResponse {
        error_code: error.code(),
        member_id: member_id.clone(),
        generation_id: -1,
        protocol_name: Some(ByteString::new()),
        ..JoinGroupResponse::default()
    }
}

pub(super) fn sync(error: ErrorCode) -> SyncGroupResponse {
    SyncGroupResponse { error_code: error.code(), ..SyncGroupResponse::default() }
}

pub(super) fn heartbeat(error: ErrorCode) -> HeartbeatResponse {
    HeartbeatResponse { error_code: error.code(), ..HeartbeatResponse::default() }
}

pub(super) fn leave(error: ErrorCode) -> LeaveGroupResponse {
    LeaveGroupResponse { error_code: error.code(), ..LeaveGroupResponse::default() }
}

/// The same code for every partition of a commit.
pub(super) fn commit(request: &OffsetCommitRequest, error: ErrorCode) -> OffsetCommitResponse {
    let topics = request.topics.iter().map(|topic| OffsetCommitResponseTopic {
        name: topic.name.clone(),
        topic_id: topic.topic_id,
        partitions: topic
            .partitions
            .iter()
            .map(|partition| OffsetCommitResponsePartition {
                partition_index: partition.partition_index,
                error_code: error.code(),
            })
            .collect(),
    });
    OffsetCommitResponse { topics: topics.collect(), ..OffsetCommitResponse::default() }
}

/// The same code for every partition of a transactional commit.
pub(super) fn txn_commit(request: &TxnOffsetCommitRequest, error: ErrorCode) -> TxnOffsetCommitResponse {
    let topics = request.topics.iter().map(|topic| TxnOffsetCommitResponseTopic {
        name: topic.name.clone(),
        partitions: topic
            .partitions
            .iter()
            .map(|partition| TxnOffsetCommitResponsePartition {
                partition_index: partition.partition_index,
                error_code: error.code(),
            })
            .collect(),
    });
    TxnOffsetCommitResponse { topics: topics.collect(), ..TxnOffsetCommitResponse::default() }
}

pub(super) fn fetch(group_id: &ByteString, error: ErrorCode) -> OffsetFetchResponseGroup {
    OffsetFetchResponseGroup {
        group_id: group_id.clone(),
        error_code: error.code(),
        ..OffsetFetchResponseGroup::default()
    }
}

pub(super) fn offset_delete(error: ErrorCode) -> OffsetDeleteResponse {
    OffsetDeleteResponse { error_code: error.code(), ..OffsetDeleteResponse::default() }
}

pub(super) fn delete(group_id: &ByteString, error: ErrorCode) -> DeletableGroupResult {
    DeletableGroupResult { group_id: group_id.clone(), error_code: error.code() }
}

/// What an answer that waited for its records becomes when they could not be appended.
pub(super) fn of_answer(answer: Answer, error: ErrorCode) -> Answer {
    match answer {
        Answer::Join(answer) => Answer::Join(join(&answer.member_id, error)),
        Answer::Sync(_) => Answer::Sync(sync(error)),
        Answer::Heartbeat(_) => Answer::Heartbeat(heartbeat(error)),
        Answer::Leave(_) => Answer::Leave(leave(error)),
        Answer::OffsetCommit(mut answer) => {
            for partition in answer.topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
                partition.error_code = error.code();
            }
            Answer::OffsetCommit(answer)
        }
        Answer::TxnOffsetCommit(mut answer) => {
            for partition in answer.topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
                partition.error_code = error.code();
            }
            Answer::TxnOffsetCommit(answer)
        }
        Answer::OffsetFetch(answer) => Answer::OffsetFetch(fetch(&answer.group_id, error)),
        Answer::OffsetDelete(_) => Answer::OffsetDelete(offset_delete(error)),
        Answer::Delete(answer) => Answer::Delete(delete(&answer.group_id, error)),
        Answer::EndTransaction(_) => Answer::EndTransaction(error),
    }
}

/// The answer to what comes when the coordinator has failed.
pub(super) fn of_input(input: Input, error: ErrorCode) -> Option<(Waiter, Answer)> {
    Some(match input {
        Input::Join { waiter, request, .. } => (waiter, Answer::Join(join(&request.member_id, error))),
        Input::Sync { waiter, .. } => (waiter, Answer::Sync(sync(error))),
        Input::Heartbeat { waiter, .. } => (waiter, Answer::Heartbeat(heartbeat(error))),
        Input::Leave { waiter, .. } => (waiter, Answer::Leave(leave(error))),
        Input::OffsetCommit { waiter, request } => (waiter, Answer::OffsetCommit(commit(&request, error))),
        Input::TxnOffsetCommit { waiter, request } => {
            (waiter, Answer::TxnOffsetCommit(txn_commit(&request, error)))
        }
        Input::OffsetFetch { waiter, request, .. } => {
            (waiter, Answer::OffsetFetch(fetch(&request.group_id, error)))
        }
        Input::OffsetDelete { waiter, .. } => (waiter, Answer::OffsetDelete(offset_delete(error))),
        Input::Delete { waiter, group_id } => (waiter, Answer::Delete(delete(&group_id, error))),
        Input::EndTransaction { waiter, .. } => (waiter, Answer::EndTransaction(error)),
        Input::TopicsDeleted { .. }
        | Input::Durable { .. }
        | Input::Late { .. }
        | Input::Failed { .. }
        | Input::Tick => return None,
    })
}
