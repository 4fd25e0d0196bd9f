//! The quorum as operators and new nodes see it: who votes, how far each is, taking one in and taking one out.

use std::collections::BTreeSet;
use std::time::Duration;

use millstream_machine::metadata::{Controller, Decision, Image, MetadataLog, NewIds};
use millstream_protocol::messages::describe_quorum::{
    DescribeQuorumResponsePartitionData, DescribeQuorumResponseTopicData, Listener, Node, ReplicaState,
};
use millstream_protocol::messages::{
    AddRaftVoterRequest, AddRaftVoterResponse, DescribeQuorumRequest, DescribeQuorumResponse,
    RemoveRaftVoterRequest, RemoveRaftVoterResponse, UnregisterBrokerRequest, UnregisterBrokerResponse,
};
use millstream_protocol::{Endpoint, ErrorCode};
use millstream_record::NodeId;

use super::Metadata;
use super::lifecycle::unchanged;
use super::quorum::{Found, MemberId, MemberStatus, QuorumLog};
use crate::partitions::CLUSTER_METADATA;
use crate::refusal::Refusal;

/// A time or an offset that is not known.
const UNKNOWN: i64 = -1;

impl Metadata {
    /// Answers DescribeQuorum. Only the active controller knows how far the others are.
    ///
    /// # Errors
    /// NOT_CONTROLLER on any other node.
    pub(crate) fn describe_quorum(
        &self,
        request: &DescribeQuorumRequest,
    ) -> Result<DescribeQuorumResponse, Refusal> {
        if !self.log.leadership().1 {
            return Err(ErrorCode::NotController.into());
        }
        let topics = request.topics.iter().map(|topic| DescribeQuorumResponseTopicData {
            topic_name: topic.topic_name.clone(),
            partitions: topic
                .partitions
                .iter()
                .map(|asked| {
                    let is_quorum = &*topic.topic_name == CLUSTER_METADATA && asked.partition_index == 0;
                    if is_quorum { self.quorum_state() } else { unknown_partition(asked.partition_index) }
                })
                .collect(),
        });
        let listener = self.config.quorum.as_ref().map(|quorum| &quorum.listener);
        let node = |(id, endpoint): (NodeId, millstream_protocol::Endpoint)| Node {
            node_id: id.0,
            listeners: vec![Listener {
                name: listener.map(|name| name.as_str().into()).unwrap_or_default(),
                host: endpoint.host,
                port: endpoint.port,
            }],
        };
        let members = self.log.quorum().map(|quorum| quorum.status().members).unwrap_or_default();
        let voters = members.into_iter().filter(|member| member.votes);
        Ok(DescribeQuorumResponse {
            topics: topics.collect(),
            nodes: voters.map(|voter| node((voter.member.node, voter.endpoint))).collect(),
            ..DescribeQuorumResponse::default()
        })
    }

    /// The nodes that keep the metadata log, with a vote or without.
    pub(super) fn controllers(&self) -> BTreeSet<NodeId> {
        let members = self.log.quorum().map(|quorum| quorum.status().members).unwrap_or_default();
        members.into_iter().map(|member| member.member.node).collect()
    }

    fn quorum_state(&self) -> DescribeQuorumResponsePartitionData {
        let (epoch, _) = self.log.leadership();
        let now = self.env.now().0;
        let end = self.log.committed_end().0;
        let members = match self.log.quorum() {
            Some(quorum) => quorum.status().members,
            None => Vec::new(),
        };
        let state = |member: &MemberStatus| {
            let heard = member.silent_for.map(|silent| i64::try_from(silent.as_millis()).unwrap_or(i64::MAX));
            let heard = heard.map_or(UNKNOWN, |silent| now.saturating_sub(silent));
            let log_end = member.log_end.map_or(UNKNOWN, |end| end.0);
            ReplicaState {
                replica_id: member.member.node.0,
                replica_directory_id: member.member.directory,
                log_end_offset: log_end,
                last_fetch_timestamp: heard,
                last_caught_up_timestamp: if log_end >= end { heard } else { UNKNOWN },
            }
        };
        let alone = ReplicaState {
            replica_id: self.config.node_id.0,
            log_end_offset: end,
            last_fetch_timestamp: now,
            last_caught_up_timestamp: now,
            ..ReplicaState::default()
        };
        let of = |votes: bool| members.iter().filter(move |member| member.votes == votes).map(state);
        let image = self.image.load();
        let mut observers: Vec<ReplicaState> = of(false).collect();
        let liveness = self.liveness.lock();
        // Brokers follow the log, too; what they have applied rides on their heartbeats.
        let is_member = |node: NodeId| members.iter().any(|member| member.member.node == node);
        let others = image.brokers().filter(|broker| self.log.quorum().is_some() && !is_member(broker.id));
        observers.extend(others.map(|broker| ReplicaState {
            replica_id: broker.id.0,
            log_end_offset: liveness.metadata_offset(broker.id).saturating_add(1),
            last_fetch_timestamp: UNKNOWN,
            last_caught_up_timestamp: UNKNOWN,
            ..ReplicaState::default()
        }));
        DescribeQuorumResponsePartitionData {
            leader_id: self.config.node_id.0,
            leader_epoch: epoch.0,
            high_watermark: end,
            current_voters: if members.is_empty() { vec![alone] } else { of(true).collect() },
            observers,
            ..DescribeQuorumResponsePartitionData::default()
        }
    }

    /// Forgets a broker that is gone. One that is not would go on serving what it does not lead any more, so it has to be stopped first.
    ///
    /// # Errors
    /// As for [`Metadata::decide`].
    pub(crate) async fn unregister_broker(
        &self,
        request: &UnregisterBrokerRequest,
    ) -> Result<UnregisterBrokerResponse, Refusal> {
        let id = NodeId(request.broker_id);
        let unregister = |controller: &Controller, image: &Image, _: NewIds<'_>| {
            if image.broker(id).is_none_or(|broker| broker.fenced) {
                return controller.unregister_broker(image, request);
            }
            let response = UnregisterBrokerResponse {
                error_code: ErrorCode::InvalidRequest.code(),
                error_message: Some(format!("broker {id} is running; stop it first").into()),
                ..UnregisterBrokerResponse::default()
            };
            Decision { records: Vec::new(), response }
        };
        self.decide(unregister).await
    }

    /// Takes a node into the quorum: as a learner first, then with a vote. An older member of the same node is one whose directory
    /// was lost, and goes first, unless it lives. A voter that is somewhere else now is noted there.
    ///
    /// # Errors
    /// NOT_CONTROLLER on any node but the active controller.
    pub(crate) async fn add_voter(
        &self,
        request: &AddRaftVoterRequest,
    ) -> Result<AddRaftVoterResponse, Refusal> {
        if !self.log.leadership().1 {
            return Err(ErrorCode::NotController.into());
        }
        let added = if request.cluster_id.as_ref().is_some_and(|id| *id != self.cluster_id) {
            let why = format!("this is cluster {}", self.cluster_id);
            Err(Refusal::new(ErrorCode::InconsistentClusterId, why))
        } else {
            self.take_in(request).await
        };
        match added {
            Ok(()) => Ok(AddRaftVoterResponse::default()),
            Err(refusal) if refusal.code == ErrorCode::NotLeaderOrFollower => {
                Err(ErrorCode::NotController.into())
            }
            Err(Refusal { code, why, .. }) => Ok(AddRaftVoterResponse {
                error_code: code.code(),
                error_message: why,
                ..AddRaftVoterResponse::default()
            }),
        }
    }

    /// Changes the quorum's members so that they have this one, at this address.
    async fn take_in(&self, request: &AddRaftVoterRequest) -> Result<(), Refusal> {
        let quorum = self.log.quorum().ok_or(ErrorCode::UnsupportedVersion)?;
        let listener = request.listeners.first().ok_or(ErrorCode::InvalidRequest)?;
        let endpoint = Endpoint::new(&*listener.host, listener.port);
        let node = NodeId(request.voter_id);
        let member = MemberId { node, directory: request.voter_directory_id };
        let _turn = self.membership.lock().await;
        let known = quorum.status().members;
        if let Some(same) = known.iter().find(|known| known.member == member && known.votes) {
            if same.endpoint == endpoint {
                return Ok(());
            }
            must_be_at(quorum, member, &endpoint).await?;
            tracing::info!(%member, from = %same.endpoint, to = %endpoint, "a voter has moved");
            return quorum.relocate(member, endpoint).await.map_err(unchanged);
        }
        if let Some(other) =
            known.iter().find(|other| other.member.directory == member.directory && other.member.node != node)
        {
            let why = format!("directory {} is node {}'s", member.directory, other.member.node);
            return Err(Refusal::new(ErrorCode::DuplicateVoter, why));
        }
        let image = self.image.load_full();
        if let Some(behind) = image.controllers().find(|known| known.id == node) {
            Controller::check_levels(&image, &behind.features)
                .map_err(|why| Refusal::new(ErrorCode::UnsupportedVersion, why))?;
        }
        must_be_at(quorum, member, &endpoint).await?;
        for old in known.iter().filter(|old| old.member.node == node && old.member != member) {
            self.must_be_gone(quorum, old, member).await?;
        }
        tracing::info!(%member, %endpoint, "takes a member into the quorum");
        for old in known.iter().filter(|old| old.member.node == node && old.member != member) {
            quorum.remove(old.member).await.map_err(unchanged)?;
        }
        let learns = known.iter().find(|known| known.member == member);
        match learns {
            None => quorum.add_learner(member, endpoint).await.map_err(unchanged)?,
            Some(same) if same.endpoint != endpoint => {
                quorum.relocate(member, endpoint).await.map_err(unchanged)?;
            }
            Some(_) => {}
        }
        let promoted = quorum.promote(member).await;
        let votes = |known: &MemberStatus| known.member == member && known.votes;
        if promoted.is_err() && learns.is_none() && !quorum.status().members.iter().any(votes) {
            // Nobody else would take it out again. It may ask anew.
            if let Err(error) = quorum.remove(member).await {
                tracing::warn!(%member, %error, "a member that did not catch up goes on being one without a vote");
            }
        }
        promoted.map_err(unchanged)
    }

    /// Refuses what would take the place of a member of the same node that lives.
    async fn must_be_gone(
        &self,
        quorum: &QuorumLog,
        old: &MemberStatus,
        new: MemberId,
    ) -> Result<(), Refusal> {
        let session = u64::try_from(self.config.number("broker.session.timeout.ms")).unwrap_or(0);
        let session = Duration::from_millis(session);
        let MemberId { node, directory } = old.member;
        let at = &old.endpoint;
        let runs = || {
            format!(
                "node {node} is running at {at} with directory {directory}; give this process another --node-id, \
                 or stop that one first"
            )
        };
        let why = if old.member == quorum.member() {
            runs()
        } else {
            match (quorum.look_for(old.member, at).await, old.silent_for) {
                (Found::Member, _) => runs(),
                (Found::Another, _) => return Ok(()),
                (Found::Nobody(_), Some(silent)) if silent >= session => return Ok(()),
                (Found::Nobody(_), Some(silent)) => format!(
                    "node {node} was heard at {at} with directory {directory} {} ms ago; if it is gone, this process takes \
                     its place after {} ms of silence, and else needs another --node-id",
                    silent.as_millis(),
                    session.as_millis()
                ),
                // A leader that is new has not heard of it. Its broker counts until its session ends.
                (Found::Nobody(_), None) => {
                    let image = self.image.load();
                    let lives = image.broker(node).filter(|broker| !broker.fenced);
                    if lives.is_none_or(|broker| broker.directories.contains(&new.directory)) {
                        return Ok(());
                    }
                    runs()
                }
            }
        };
        Err(Refusal::new(ErrorCode::DuplicateVoter, why))
    }

    /// Takes a voter out of the quorum.
    ///
    /// # Errors
    /// NOT_CONTROLLER on any node but the active controller; what the quorum says.
    pub(crate) async fn remove_voter(
        &self,
        request: &RemoveRaftVoterRequest,
    ) -> Result<RemoveRaftVoterResponse, Refusal> {
        let refused = |code: ErrorCode, why: String| RemoveRaftVoterResponse {
            error_code: code.code(),
            error_message: Some(why.into()),
            ..RemoveRaftVoterResponse::default()
        };
        if !self.log.leadership().1 {
            return Err(ErrorCode::NotController.into());
        }
        if request.cluster_id.as_ref().is_some_and(|id| *id != self.cluster_id) {
            return Ok(refused(
                ErrorCode::InconsistentClusterId,
                format!("this is cluster {}", self.cluster_id),
            ));
        }
        let Some(quorum) = self.log.quorum() else {
            let why = "this node is the cluster: there is no quorum to leave";
            return Ok(refused(ErrorCode::UnsupportedVersion, why.to_owned()));
        };
        let member = MemberId { node: NodeId(request.voter_id), directory: request.voter_directory_id };
        let _turn = self.membership.lock().await;
        let known = quorum.status().members;
        let serves = self.image.load().broker(member.node).is_some_and(|broker| !broker.fenced);
        let votes = known.iter().find(|known| known.member == member).map(|known| known.votes);
        // A broker that serves follows the log; any other that has no vote was never to stay so.
        if votes.is_none() || (votes == Some(false) && serves) {
            let why =
                format!("{member} does not vote; DescribeQuorum tells the voters with their directories");
            return Ok(refused(ErrorCode::VoterNotFound, why));
        }
        if votes == Some(true) && known.iter().filter(|known| known.votes).count() == 1 {
            return Ok(refused(ErrorCode::InvalidRequest, format!("{member} is the last voter")));
        }
        // A broker that serves goes on following the log, as an observer.
        let is_here = |other: &MemberStatus| other.member.node == member.node && other.member != member;
        let removed = if serves && !known.iter().any(is_here) {
            quorum.demote(member).await
        } else {
            quorum.remove(member).await
        };
        match removed.map_err(unchanged) {
            Ok(()) => Ok(RemoveRaftVoterResponse::default()),
            Err(refusal) if refusal.code == ErrorCode::NotLeaderOrFollower => {
                Err(ErrorCode::NotController.into())
            }
            Err(Refusal { code, why, .. }) => Ok(RemoveRaftVoterResponse {
                error_code: code.code(),
                error_message: why,
                ..RemoveRaftVoterResponse::default()
            }),
        }
    }
}

/// Refuses a member that is not where it is said to be: it would be one for ever that nobody hears of.
async fn must_be_at(quorum: &QuorumLog, member: MemberId, endpoint: &Endpoint) -> Result<(), Refusal> {
    if member == quorum.member() {
        return Ok(());
    }
    let why = match quorum.look_for(member, endpoint).await {
        Found::Member => return Ok(()),
        Found::Another => {
            format!("the node at {endpoint} is another one than {member}, or has another directory")
        }
        Found::Nobody(error) => {
            format!("no node {} answers at {endpoint}: {error}; start it first", member.node)
        }
    };
    Err(Refusal::new(ErrorCode::InvalidRequest, why))
}

fn unknown_partition(partition_index: i32) -> DescribeQuorumResponsePartitionData {
    DescribeQuorumResponsePartitionData {
        partition_index,
        error_code: ErrorCode::UnknownTopicOrPartition.code(),
        ..DescribeQuorumResponsePartitionData::default()
    }
}
