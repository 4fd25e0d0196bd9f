//! Who the members are: changing that while the quorum runs, and looking at them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use millstream_protocol::Endpoint;
use millstream_record::{LeaderEpoch, Offset};
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::raft::{ClientWriteResponse, TransferLeaderRequest};
use openraft::{ChangeMembers, ServerState};

use super::error::QuorumError;
use super::network::{Found, look_for};
use super::quorum_log::QuorumLog;
use super::types::{MemberId, Types, epoch_of, voters};

/// A member that is to vote may lack this many entries: it gets them while it already counts.
const NEARLY_CAUGHT_UP: u64 = 100;
/// How long a member may take to get that far.
const CATCH_UP_MAX: Duration = Duration::from_secs(60);

/// What is known of one member; of others than itself only a leader knows more than the address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// Who it is.
    pub member: MemberId,
    /// Where it is reached.
    pub endpoint: Endpoint,
    /// Whether it votes.
    pub votes: bool,
    /// The end of its log, as far as that is the leader's.
    pub log_end: Option<Offset>,
    /// How long ago it was heard of.
    pub silent_for: Option<Duration>,
}

/// What is known of the quorum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuorumStatus {
    /// Who leads.
    pub leader: Option<MemberId>,
    /// In which epoch.
    pub epoch: LeaderEpoch,
    /// The end of what is committed.
    pub high_watermark: Offset,
    /// All members, ordered by id.
    pub members: Vec<MemberStatus>,
}

impl QuorumLog {
    /// Lets `member` follow the log without a vote.
    ///
    /// # Errors
    /// [`QuorumError::NotLeader`] on any node but the leader, [`QuorumError::Members`] while another change is on its way.
    pub async fn add_learner(&self, member: MemberId, endpoint: Endpoint) -> Result<(), QuorumError> {
        let added = self.inside(self.raft.add_learner(member, endpoint, false)).await;
        changed(added)
    }

    /// Gives a learner a vote, once it has nearly all of the log.
    ///
    /// # Errors
    /// As [`QuorumLog::add_learner`]; also when the learner does not catch up, and is one no more.
    pub async fn promote(&self, member: MemberId) -> Result<(), QuorumError> {
        self.inside(self.env.timeout(CATCH_UP_MAX, self.nearly_caught_up(member))).await.map_err(
            |_| {
                let reason = format!(
                    "{member} is not caught up after {CATCH_UP_MAX:?}; look whether it runs and is reached"
                );
                QuorumError::Members { reason }
            },
        )??;
        let change = ChangeMembers::AddVoterIds(BTreeSet::from([member]));
        changed(self.inside(self.raft.change_membership(change, false)).await)
    }

    /// Takes `member` out, whether it votes or not. A leader that takes itself out leads until that is committed.
    ///
    /// # Errors
    /// As [`QuorumLog::add_learner`]; the last voter cannot go.
    pub async fn remove(&self, member: MemberId) -> Result<(), QuorumError> {
        let votes = voters(self.metrics.borrow_watched().membership_config.membership()).contains(&member);
        let gone = BTreeSet::from([member]);
        let change = if votes { ChangeMembers::RemoveVoters(gone) } else { ChangeMembers::RemoveNodes(gone) };
        changed(self.inside(self.raft.change_membership(change, false)).await)
    }

    /// Takes the vote of `member`, which goes on following the log.
    ///
    /// # Errors
    /// As [`QuorumLog::remove`].
    pub async fn demote(&self, member: MemberId) -> Result<(), QuorumError> {
        let change = ChangeMembers::RemoveVoters(BTreeSet::from([member]));
        changed(self.inside(self.raft.change_membership(change, true)).await)
    }

    /// Takes note of where `member` is now. It is spoken to there at once: its vote may be needed for the change.
    ///
    /// # Errors
    /// As [`QuorumLog::add_learner`].
    pub async fn relocate(&self, member: MemberId, endpoint: Endpoint) -> Result<(), QuorumError> {
        self.network.addresses.lock().insert(member, endpoint.clone());
        let change = ChangeMembers::SetNodes(BTreeMap::from([(member, endpoint)]));
        changed(self.inside(self.raft.change_membership(change, true)).await)
    }

    /// Asks whether `member` is at `endpoint`.
    pub(in crate::metadata) async fn look_for(&self, member: MemberId, endpoint: &Endpoint) -> Found {
        let vote = self.server.borrow_watched().vote;
        look_for(&self.network, member, endpoint.clone(), vote).await
    }

    /// Asks `member`, a voter, to lead from here on.
    ///
    /// # Errors
    /// [`QuorumError::Stopped`]. Whether the other takes over shows in [`QuorumLog::status`].
    pub async fn hand_over_to(&self, member: MemberId) -> Result<(), QuorumError> {
        let transfer = async { self.raft.trigger().transfer_leader(member).await };
        Ok(self.inside(transfer).await?)
    }

    /// Stands for election at once, because the leader is known to be gone: the others need not have given up on it yet. It is for
    /// one who knows: a leader that lives loses its office by it. Safe in any case, as every election is.
    ///
    /// # Errors
    /// [`QuorumError::Stopped`]. Whether this member leads shows in [`QuorumLog::status`].
    pub async fn take_over(&self) -> Result<(), QuorumError> {
        // As if the leader had handed over to us: voters then do not hold its last heartbeat against us.
        let vote = self.server.borrow_watched().vote;
        let request = TransferLeaderRequest::new(vote, self.store.me, None);
        let taking = async { self.raft.handle_transfer_leader(request).await };
        if let Err(error) = self.inside(taking).await? {
            tracing::debug!(%error, "there is nothing to take over");
        }
        Ok(())
    }

    async fn nearly_caught_up(&self, member: MemberId) -> Result<(), QuorumError> {
        let mut metrics = self.metrics.clone();
        loop {
            {
                let now = metrics.borrow_and_update();
                let Some(replication) = &now.replication else {
                    return Err(QuorumError::NotLeader { leader: now.current_leader });
                };
                let Some(matched) = replication.get(&member) else {
                    let reason = format!("{member} does not follow the log; add it as a learner first");
                    return Err(QuorumError::Members { reason });
                };
                let behind =
                    now.last_log_index.map_or(0, |last| last - matched.map_or(0, |id| id.index.min(last)));
                if matched.is_some() && behind <= NEARLY_CAUGHT_UP {
                    return Ok(());
                }
            }
            metrics.changed().await.map_err(QuorumError::stopped)?;
        }
    }

    /// What this node knows of the quorum; the leader knows most.
    #[must_use]
    pub fn status(&self) -> QuorumStatus {
        let now = self.metrics.borrow_watched().clone();
        let elapsed = self.env.elapsed();
        let membership = now.membership_config.membership().clone();
        let voting = voters(&membership);
        let leads = now.state == ServerState::Leader;
        let heard = now.heartbeat.unwrap_or_default();
        let matched: BTreeMap<_, _> = now.replication.unwrap_or_default();
        let end_of = |member: &MemberId| {
            if *member == self.store.me {
                return Some(self.store.places(|places| places.log_end()));
            }
            let index = (*matched.get(member)?)?.index;
            self.store.places(|places| places.end(index))
        };
        let silent_for = |member: &MemberId| {
            if leads && *member == self.store.me {
                return Some(Duration::ZERO);
            }
            let at = (*heard.get(member)?)?.into_inner().elapsed_at();
            Some(elapsed.saturating_sub(at))
        };
        let members = membership.nodes().map(|(member, endpoint)| MemberStatus {
            member: *member,
            endpoint: endpoint.clone(),
            votes: voting.contains(member),
            log_end: end_of(member),
            silent_for: silent_for(member),
        });
        QuorumStatus {
            leader: now.current_leader,
            epoch: epoch_of(now.current_term),
            high_watermark: self.store.progress().end,
            members: members.collect(),
        }
    }
}

fn changed(
    result: Result<ClientWriteResponse<Types>, RaftError<Types, ClientWriteError<Types>>>,
) -> Result<(), QuorumError> {
    match result {
        Ok(_) => Ok(()),
        Err(RaftError::Fatal(fatal)) => Err(fatal.into()),
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
            Err(QuorumError::NotLeader { leader: forward.leader_id })
        }
        Err(RaftError::APIError(other)) => Err(QuorumError::Members { reason: other.to_string() }),
    }
}
