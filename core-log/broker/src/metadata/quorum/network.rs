//! The way from this member to the others: requests over a [`Dial`].

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use futures::future::{Either, select};
use millstream_env::{Env, Pool};
use millstream_protocol::messages::{RaftSnapshotRequest, Rpc};
use millstream_protocol::{Ctx, Dial, Endpoint, ErrorCode, Link};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{AnyError, OptionalSend, RaftNetworkV2};
use parking_lot::Mutex;

use super::error::QuorumError;
use super::state_machine::{OpenSnapshot, SnapshotData};
use super::types::{MemberId, Types, Vote};
use super::wire::{self, WireVote};

/// Bytes of a snapshot that one request carries.
const CHUNK_BYTES: usize = 1 << 20;
/// How long an address may take to say who is there.
const LOOK_PATIENCE: Duration = Duration::from_secs(2);
/// A chunk is written to a disk on the other side before it is answered.
const CHUNK_PATIENCE: Duration = Duration::from_secs(10);

/// Where the members are, as was heard last. openraft keeps the [`Peer`]s that it has when a member moves.
pub(super) type Addresses = Arc<Mutex<BTreeMap<MemberId, Endpoint>>>;

/// Who is at an address.
#[derive(Debug)]
pub(in crate::metadata) enum Found {
    /// The member that was asked for.
    Member,
    /// Somebody else: the process of that member is gone from there.
    Another,
    /// Nobody that answers.
    Nobody(String),
}

/// Asks whether `target` is at `endpoint`: who is asked for a vote in advance promises nothing by the answer.
pub(super) async fn look_for(network: &Network, target: MemberId, endpoint: Endpoint, vote: Vote) -> Found {
    let addresses = Addresses::default();
    addresses.lock().insert(target, endpoint.clone());
    let mut peer = network.peer(target, endpoint, addresses);
    let question = wire::vote_request(target, &VoteRequest::new(vote, None), true);
    match peer.call(question, LOOK_PATIENCE).await {
        Ok(answer) if answer.error_code == ErrorCode::None.code() => Found::Member,
        Ok(answer) if answer.error_code == ErrorCode::InvalidVoterKey.code() => Found::Another,
        Ok(answer) => Found::Nobody(ErrorCode::from_code(answer.error_code).to_string()),
        Err(Failure::Unreachable(error) | Failure::Lost(error)) => Found::Nobody(error.to_string()),
    }
}

/// Makes a [`Peer`] for each member that openraft speaks to.
#[derive(Clone)]
pub(super) struct Network {
    pub(super) env: Env,
    pub(super) dial: Arc<dyn Dial>,
    /// Least time for the answer to an append. A follower answers after its disk; asking it again earlier makes it slower still.
    pub(super) patience: Duration,
    pub(super) addresses: Addresses,
}

impl Network {
    fn peer(&self, target: MemberId, endpoint: Endpoint, addresses: Addresses) -> Peer {
        let (env, dial, patience) = (self.env.clone(), Arc::clone(&self.dial), self.patience);
        Peer { env, dial, patience, target, endpoint, addresses, link: None }
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: MemberId, node: &Endpoint) -> Peer {
        self.addresses.lock().insert(target, node.clone());
        self.peer(target, node.clone(), Arc::clone(&self.addresses))
    }
}

/// Another member, and the link to it while there is one.
pub(super) struct Peer {
    env: Env,
    dial: Arc<dyn Dial>,
    patience: Duration,
    target: MemberId,
    endpoint: Endpoint,
    addresses: Addresses,
    link: Option<Arc<dyn Link>>,
}

/// Why a member could not be asked.
enum Failure {
    /// It is not to be reached: wait before the next attempt.
    Unreachable(AnyError),
    /// This request failed.
    Lost(AnyError),
}

impl From<Failure> for RPCError<Types> {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unreachable(error) => Unreachable::new(&error).into(),
            Failure::Lost(error) => NetworkError::new(&error).into(),
        }
    }
}

impl From<Failure> for StreamingError<Types> {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unreachable(error) => Unreachable::new(&error).into(),
            Failure::Lost(error) => NetworkError::new(&error).into(),
        }
    }
}

fn lost(error: impl ToString) -> Failure {
    Failure::Lost(AnyError::error(error))
}

impl Peer {
    async fn call<R: Rpc>(&mut self, request: R, patience: Duration) -> Result<R::Response, Failure> {
        let env = self.env.clone();
        let answered = env.timeout(patience, self.exchange(request)).await;
        answered.unwrap_or_else(|_| {
            self.link = None; // what is stuck in it would hold up the next request
            Err(lost(format!("no answer from member {} within {patience:?}", self.target)))
        })
    }

    async fn exchange<R: Rpc>(&mut self, request: R) -> Result<R::Response, Failure> {
        let link = self.link().await?;
        let ctx = Ctx::local(ByteString::from_static("quorum"));
        match link.call(ctx, request.into()).await {
            Ok(response) => {
                R::Response::try_from(response).map_err(|_| lost("the answer is to another request"))
            }
            Err(error) => {
                self.link = None;
                Err(lost(error))
            }
        }
    }

    async fn link(&mut self) -> Result<Arc<dyn Link>, Failure> {
        let now = self.addresses.lock().get(&self.target).cloned();
        if let Some(now) = now.filter(|now| *now != self.endpoint) {
            (self.endpoint, self.link) = (now, None);
        }
        if let Some(link) = self.link.as_ref().filter(|link| !link.is_closed()) {
            return Ok(Arc::clone(link));
        }
        let dialed = self.dial.dial(self.endpoint.clone()).await;
        let link = dialed.map_err(|error| Failure::Unreachable(AnyError::error(error)))?;
        self.link = Some(Arc::clone(&link));
        Ok(link)
    }

    /// A member that refuses is another one than we think, or has stopped: it is not asked again at once.
    fn accepted(&self, code: i16) -> Result<(), Failure> {
        match ErrorCode::from_code(code) {
            ErrorCode::None => Ok(()),
            refused => {
                let text = format!("member {} at {} refuses: {refused:?}", self.target, self.endpoint);
                Err(Failure::Unreachable(AnyError::error(text)))
            }
        }
    }

    async fn ask_for_vote(
        &mut self,
        request: VoteRequest<Types>,
        pre_vote: bool,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let message = wire::vote_request(self.target, &request, pre_vote);
        let answer = self.call(message, option.soft_ttl()).await?;
        self.accepted(answer.error_code)?;
        Ok(wire::read_vote_response(&answer))
    }

    async fn send_snapshot(
        &mut self,
        vote: Vote,
        file: SnapshotData,
    ) -> Result<SnapshotResponse<Types>, Failure> {
        let mut position = 0;
        loop {
            let part = Arc::clone(&file);
            let read = self.env.blocking(Pool::Read, move || part.chunk(position, CHUNK_BYTES)).await;
            let chunk = read.map_err(lost)?.map_err(lost)?;
            let sent = position + chunk.len() as u64;
            let covers = file.covers();
            let request = RaftSnapshotRequest {
                target_id: self.target.node.0,
                target_directory_id: self.target.directory,
                vote: WireVote::of(&vote),
                end_offset: covers.end.0,
                epoch: super::types::epoch_of(covers.last.leader_id.term).0,
                size: i64::try_from(file.size()).unwrap_or(i64::MAX),
                position: i64::try_from(position).unwrap_or(i64::MAX),
                chunk,
            };
            let answer = self.call(request, CHUNK_PATIENCE).await?;
            self.accepted(answer.error_code)?;
            let theirs = answer.vote.vote();
            if sent >= file.size() || theirs > vote {
                return Ok(SnapshotResponse::new(theirs));
            }
            position = sent;
        }
    }
}

impl RaftNetworkV2<Types> for Peer {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let message = wire::append_request(self.target, &request).map_err(lost)?;
        let answer = self.call(message, option.soft_ttl().max(self.patience)).await?;
        self.accepted(answer.error_code)?;
        Ok(wire::read_append_response(&answer).map_err(lost)?)
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_for_vote(request, false, option).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_for_vote(request, true, option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: OpenSnapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let sending = std::pin::pin!(self.send_snapshot(vote, snapshot.snapshot));
        match select(sending, Box::pin(cancel)).await {
            Either::Left((sent, _)) => Ok(sent?),
            Either::Right((closed, _)) => Err(closed.into()),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let message = wire::transfer_request(self.target, &request);
        let answer = self.call(message, option.soft_ttl()).await?;
        self.accepted(answer.error_code)?;
        Ok(Ok(()))
    }
}

impl From<QuorumError> for Failure {
    fn from(error: QuorumError) -> Self {
        lost(error)
    }
}
