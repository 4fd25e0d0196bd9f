//! openraft's messages as the protocol's, and back.

use bytes::{Bytes, BytesMut};
use millstream_protocol::messages::{
    RaftAppendRequest, RaftAppendResponse, RaftTransferRequest, RaftVoteData, RaftVoteRequest,
    RaftVoteResponse, raft_append, raft_snapshot, raft_transfer, raft_vote,
};
use millstream_record::{Batches, NodeId, Uuid};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest, VoteResponse,
};

use super::batches;
use super::error::QuorumError;
use super::types::{Entry, LogId, MemberId, Types, Vote, log_id};
use super::vote::{from_data, to_data};

/// Most entries that one request may carry.
pub(super) const ENTRIES_MAX: usize = 65_536;

/// What became of an append, in [`RaftAppendResponse::outcome`].
const SUCCESS: i8 = 0;
const PARTIAL_SUCCESS: i8 = 1;
const CONFLICT: i8 = 2;
const HIGHER_VOTE: i8 = 3;

/// A message's own form of a vote.
pub(super) trait WireVote: Sized {
    fn of(vote: &Vote) -> Self;
    fn vote(&self) -> Vote;
}

/// The generator gives every message a struct of its own.
macro_rules! wire_votes {
    ($($module:ident::$name:ident),* $(,)?) => {
        $(impl WireVote for $module::$name {
            fn of(vote: &Vote) -> Self {
                let RaftVoteData { term, node_id, directory_id, granted } = to_data(vote);
                Self { term, node_id, directory_id, granted }
            }

            fn vote(&self) -> Vote {
                let Self { term, node_id, directory_id, granted } = *self;
                from_data(&RaftVoteData { term, node_id, directory_id, granted })
            }
        })*
    };
}
wire_votes!(
    raft_append::RaftAppendRequestVote,
    raft_append::RaftAppendResponseVote,
    raft_vote::RaftVoteRequestVote,
    raft_vote::RaftVoteResponseVote,
    raft_snapshot::RaftSnapshotRequestVote,
    raft_snapshot::RaftSnapshotResponseVote,
    raft_transfer::Vote,
);

/// The member that two fields name.
pub(super) fn member(node: i32, directory: Uuid) -> MemberId {
    MemberId { node: NodeId(node), directory }
}

/// An entry's id in two fields; -1 for none.
fn fields(id: Option<&LogId>) -> (i64, i64) {
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    id.map_or((-1, -1), |id| (number(id.leader_id.term), number(id.index)))
}

fn id(term: i64, index: i64) -> Option<LogId> {
    Some(log_id(u64::try_from(term).ok()?, u64::try_from(index).ok()?))
}

pub(super) fn append_request(
    target: MemberId,
    request: &AppendEntriesRequest<Types>,
) -> Result<RaftAppendRequest, QuorumError> {
    let (previous_term, previous_index) = fields(request.prev_log_id.as_ref());
    let (committed_term, committed_index) = fields(request.leader_commit.as_ref());
    Ok(RaftAppendRequest {
        target_id: target.node.0,
        target_directory_id: target.directory,
        vote: WireVote::of(&request.vote),
        previous_term,
        previous_index,
        committed_term,
        committed_index,
        entries: Some(together(&request.entries)?),
    })
}

fn together(entries: &[Entry]) -> Result<Bytes, QuorumError> {
    let mut bytes = BytesMut::new();
    for entry in entries {
        let stored = entry.payload.stored.as_ref();
        let stored = stored.ok_or_else(|| QuorumError::format("an entry is sent that was in no log yet"))?;
        bytes.extend_from_slice(stored);
    }
    Ok(bytes.freeze())
}

/// Reads what a leader sent. The entries stay slices of the frame until they are written.
pub(super) fn read_append_request(
    request: RaftAppendRequest,
) -> Result<AppendEntriesRequest<Types>, QuorumError> {
    let previous = id(request.previous_term, request.previous_index);
    let mut index = previous.map_or(0, |id| id.index.saturating_add(1));
    let mut entries = Vec::new();
    for batch in Batches::new(request.entries.unwrap_or_default()) {
        let batch = batch.map_err(QuorumError::format)?;
        batch.check_crc().map_err(QuorumError::format)?;
        if entries.len() == ENTRIES_MAX {
            return Err(QuorumError::format(format!("more than {ENTRIES_MAX} entries in one request")));
        }
        entries.push(batches::decode(batch, index)?);
        index = index.saturating_add(1);
    }
    Ok(AppendEntriesRequest {
        vote: request.vote.vote(),
        prev_log_id: previous,
        entries,
        leader_commit: id(request.committed_term, request.committed_index),
    })
}

pub(super) fn append_response(response: &AppendEntriesResponse<Types>) -> RaftAppendResponse {
    let mut message = RaftAppendResponse::default();
    match response {
        AppendEntriesResponse::Success => message.outcome = SUCCESS,
        AppendEntriesResponse::PartialSuccess(matched) => {
            message.outcome = PARTIAL_SUCCESS;
            (message.matched_term, message.matched_index) = fields(matched.as_ref());
        }
        AppendEntriesResponse::Conflict => message.outcome = CONFLICT,
        AppendEntriesResponse::HigherVote(vote) => {
            message.outcome = HIGHER_VOTE;
            message.vote = WireVote::of(vote);
        }
    }
    message
}

pub(super) fn read_append_response(
    message: &RaftAppendResponse,
) -> Result<AppendEntriesResponse<Types>, QuorumError> {
    match message.outcome {
        SUCCESS => Ok(AppendEntriesResponse::Success),
        PARTIAL_SUCCESS => {
            Ok(AppendEntriesResponse::PartialSuccess(id(message.matched_term, message.matched_index)))
        }
        CONFLICT => Ok(AppendEntriesResponse::Conflict),
        HIGHER_VOTE => Ok(AppendEntriesResponse::HigherVote(message.vote.vote())),
        other => Err(QuorumError::format(format!("an unknown outcome of an append: {other}"))),
    }
}

pub(super) fn vote_request(
    target: MemberId,
    request: &VoteRequest<Types>,
    pre_vote: bool,
) -> RaftVoteRequest {
    let (last_term, last_index) = fields(request.last_log_id.as_ref());
    RaftVoteRequest {
        target_id: target.node.0,
        target_directory_id: target.directory,
        vote: WireVote::of(&request.vote),
        last_term,
        last_index,
        pre_vote,
        transfer: request.leadership_transfer,
    }
}

pub(super) fn read_vote_request(message: &RaftVoteRequest) -> VoteRequest<Types> {
    let mut request = VoteRequest::new(message.vote.vote(), id(message.last_term, message.last_index));
    request.leadership_transfer = message.transfer;
    request
}

pub(super) fn vote_response(response: &VoteResponse<Types>) -> RaftVoteResponse {
    let (last_term, last_index) = fields(response.last_log_id.as_ref());
    RaftVoteResponse {
        error_code: 0,
        vote: WireVote::of(&response.vote),
        vote_granted: response.vote_granted,
        last_term,
        last_index,
    }
}

pub(super) fn read_vote_response(message: &RaftVoteResponse) -> VoteResponse<Types> {
    let last = id(message.last_term, message.last_index);
    VoteResponse::new(message.vote.vote(), last, message.vote_granted)
}

pub(super) fn transfer_request(
    target: MemberId,
    request: &TransferLeaderRequest<Types>,
) -> RaftTransferRequest {
    let (last_term, last_index) = fields(request.last_log_id());
    RaftTransferRequest {
        target_id: target.node.0,
        target_directory_id: target.directory,
        vote: WireVote::of(request.from_leader()),
        successor_id: request.to_node_id().node.0,
        successor_directory_id: request.to_node_id().directory,
        last_term,
        last_index,
    }
}

pub(super) fn read_transfer_request(message: &RaftTransferRequest) -> TransferLeaderRequest<Types> {
    let successor = member(message.successor_id, message.successor_directory_id);
    TransferLeaderRequest::new(message.vote.vote(), successor, id(message.last_term, message.last_index))
}
