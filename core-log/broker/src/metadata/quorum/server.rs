//! What the other members ask of this one.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use millstream_env::{Env, Pool};
use millstream_protocol::ErrorCode;
use millstream_protocol::messages::{
    RaftAppendRequest, RaftAppendResponse, RaftSnapshotRequest, RaftSnapshotResponse, RaftTransferRequest,
    RaftTransferResponse, RaftVoteRequest, RaftVoteResponse, Request, Response,
};
use millstream_record::Offset;
use tokio::sync::Mutex;

use super::error::QuorumError;
use super::quorum_log::QuorumLog;
use super::runtime::Inside;
use super::snapshot::SnapshotWriter;
use super::state_machine::opened;
use super::store::Store;
use super::types::{MemberId, Raft, Vote};
use super::wire::{self, WireVote};

/// Largest snapshot that is taken in.
const SNAPSHOT_BYTES_MAX: u64 = 8 << 30;

/// A snapshot of which the first chunks are there.
pub(super) struct Receiving {
    vote: Vote,
    end: Offset,
    writer: SnapshotWriter,
}

/// What answering takes; a clone for each request.
#[derive(Clone)]
struct Answering {
    env: Env,
    store: Arc<Store>,
    raft: Raft,
    receiving: Arc<Mutex<Option<Receiving>>>,
}

impl QuorumLog {
    /// Answers a request of another member; gives back what is no such request. Only controllers' listeners may lead here.
    ///
    /// # Errors
    /// The request itself, when it is of another kind.
    pub fn serve(&self, request: Request) -> Result<BoxFuture<'static, Response>, Box<Request>> {
        let answering = Answering {
            env: self.env.clone(),
            store: Arc::clone(&self.store),
            raft: self.raft.clone(),
            receiving: Arc::clone(&self.receiving),
        };
        let answer = match request {
            Request::RaftAppend(request) => answering.append(request).boxed(),
            Request::RaftVote(request) => answering.vote(request).boxed(),
            Request::RaftSnapshot(request) => answering.snapshot(request).boxed(),
            Request::RaftTransfer(request) => answering.transfer(request).boxed(),
            other => return Err(Box::new(other)),
        };
        Ok(Inside::new(&self.env, answer).boxed())
    }
}

impl Answering {
    /// Refuses what is meant for another member: after a directory was lost, its address leads to a node that knows nothing of
    /// what the lost one promised.
    fn meant_for_us(&self, target: MemberId) -> Result<(), ErrorCode> {
        if target == self.store.me { Ok(()) } else { Err(ErrorCode::InvalidVoterKey) }
    }

    async fn append(self, request: RaftAppendRequest) -> Response {
        let target = wire::member(request.target_id, request.target_directory_id);
        let answer = async {
            self.meant_for_us(target)?;
            let request = wire::read_append_request(request).map_err(unreadable)?;
            self.raft.append_entries(request).await.map_err(stopped)
        };
        match answer.await {
            Ok(response) => wire::append_response(&response).into(),
            Err(code) => {
                RaftAppendResponse { error_code: code.code(), ..RaftAppendResponse::default() }.into()
            }
        }
    }

    async fn vote(self, request: RaftVoteRequest) -> Response {
        let target = wire::member(request.target_id, request.target_directory_id);
        let answer = async {
            self.meant_for_us(target)?;
            let vote = wire::read_vote_request(&request);
            let voted =
                if request.pre_vote { self.raft.pre_vote(vote).await } else { self.raft.vote(vote).await };
            voted.map_err(stopped)
        };
        match answer.await {
            Ok(response) => wire::vote_response(&response).into(),
            Err(code) => RaftVoteResponse { error_code: code.code(), ..RaftVoteResponse::default() }.into(),
        }
    }

    async fn transfer(self, request: RaftTransferRequest) -> Response {
        let target = wire::member(request.target_id, request.target_directory_id);
        let answer = async {
            self.meant_for_us(target)?;
            let request = wire::read_transfer_request(&request);
            let taken = self.raft.handle_transfer_leader(request).await.map_err(stopped)?;
            taken.map_err(|error| {
                tracing::debug!(%error, "leadership is not taken over");
                ErrorCode::NotLeaderOrFollower
            })
        };
        let code = answer.await.err().unwrap_or(ErrorCode::None);
        RaftTransferResponse { error_code: code.code() }.into()
    }

    async fn snapshot(self, request: RaftSnapshotRequest) -> Response {
        let target = wire::member(request.target_id, request.target_directory_id);
        let vote = request.vote.vote();
        let answer = async {
            self.meant_for_us(target)?;
            let written = self.take_chunk(&vote, request).await.map_err(unreadable)?;
            let Taken::Whole(file) = written else { return Ok(vote) };
            let installed = self.raft.install_full_snapshot(vote, opened(file)).await;
            installed.map(|response| response.vote).map_err(stopped)
        };
        match answer.await {
            Ok(vote) => {
                RaftSnapshotResponse { vote: WireVote::of(&vote), ..RaftSnapshotResponse::default() }.into()
            }
            Err(code) => {
                *self.receiving.lock().await = None;
                RaftSnapshotResponse { error_code: code.code(), ..RaftSnapshotResponse::default() }.into()
            }
        }
    }

    /// Writes a chunk behind those before it. The first one begins anew, whatever was there.
    async fn take_chunk(&self, vote: &Vote, request: RaftSnapshotRequest) -> Result<Taken, QuorumError> {
        let end = Offset(request.end_offset);
        let size = u64::try_from(request.size).unwrap_or(u64::MAX);
        let position = u64::try_from(request.position).unwrap_or(u64::MAX);
        if size > SNAPSHOT_BYTES_MAX || position.saturating_add(request.chunk.len() as u64) > size {
            return Err(QuorumError::format(format!(
                "a snapshot of {size} bytes, or a chunk behind its end"
            )));
        }
        let mut slot = self.receiving.lock().await;
        let before = slot.take();
        let (store, vote, chunk) = (Arc::clone(&self.store), *vote, request.chunk);
        let work = move || {
            let mut receiving = match before {
                Some(known) if position > 0 && known.end == end && known.vote == vote => known,
                _ if position > 0 => {
                    return Err(QuorumError::format("a snapshot's chunk without those before it"));
                }
                _ => {
                    let name = SnapshotWriter::received_name(end);
                    let writer = SnapshotWriter::begin(&store.files(), &store.dir(), &name)?;
                    Receiving { vote, end, writer }
                }
            };
            receiving.writer.write(position, &chunk)?;
            if receiving.writer.written() < size {
                return Ok((Some(receiving), Taken::Part));
            }
            Ok((None, Taken::Whole(Arc::new(receiving.writer.finish()?))))
        };
        let (rest, taken) = self.env.blocking(Pool::Flush, work).await.map_err(QuorumError::stopped)??;
        *slot = rest;
        Ok(taken)
    }
}

/// What a chunk completed.
enum Taken {
    Part,
    Whole(super::state_machine::SnapshotData),
}

fn unreadable(error: QuorumError) -> ErrorCode {
    tracing::warn!(%error, "a message of the quorum cannot be used");
    ErrorCode::InvalidRequest
}

fn stopped(error: impl std::fmt::Display) -> ErrorCode {
    tracing::debug!(%error, "the quorum has stopped and does not answer");
    ErrorCode::KafkaStorageError
}
