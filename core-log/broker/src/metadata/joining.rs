//! This controller's place in the quorum: it has itself taken in, and noted where it is.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::{Either, select};
use millstream_machine::metadata::MetadataLog;
use millstream_protocol::messages::describe_quorum::{
    DescribeQuorumRequestPartitionData, DescribeQuorumRequestTopicData, ReplicaState,
};
use millstream_protocol::messages::{
    AddRaftVoterRequest, DescribeClusterRequest, DescribeQuorumRequest, add_raft_voter,
};
use millstream_protocol::{Endpoint, ErrorCode};

use super::lifecycle::{CONTROLLERS, EAGER_HEARTBEAT, RETRY, too_old};
use super::quorum::MemberId;
use super::{CONTROLLER_TIMEOUT, Metadata};
use crate::QuorumConfig;
use crate::partitions::CLUSTER_METADATA;

/// How long joining the quorum may take on the other side: the log has to be sent.
const JOIN_PATIENCE: Duration = Duration::from_secs(90);
/// How often a node that waits to be taken in looks whether it waits at the right place.
const ACTIVE_LOOK: Duration = Duration::from_secs(2);
/// How often it is said that something is still wrong.
const SAY_AGAIN: Duration = Duration::from_secs(10);

impl Metadata {
    /// Has the quorum take this node in, if that is asked for and it is no voter yet. It is taken in when its own log says so: who
    /// was asked may be gone by then, with the answer.
    pub(super) async fn join(&self, me: MemberId) {
        let Some(settings) = self.config.quorum.clone() else { return };
        let Some(endpoint) = settings.endpoint.as_ref().filter(|_| settings.auto_join) else { return };
        let asking = std::pin::pin!(self.ask_to_join(&settings, endpoint, me));
        let taken_in = std::pin::pin!(async {
            while !self.votes(me) {
                self.env.sleep(EAGER_HEARTBEAT).await;
            }
        });
        select(taken_in, asking).await;
    }

    /// Has the quorum note where this voter is, where that is not what it says: after a start on other addresses nobody finds it
    /// else. One that was taken out while it was away joins again, if it is to join by itself.
    pub(super) async fn confirm(&self, me: MemberId) {
        let Some(settings) = self.config.quorum.clone() else { return };
        let Some(own) = &settings.endpoint else { return };
        loop {
            if self.log.leadership().1 {
                if self.place_of(me).is_some_and(|place| place == *own) {
                    return;
                }
                let asked = self.voter_request(&settings, own, me);
                match self.env.timeout(CONTROLLER_TIMEOUT, self.add_voter(&asked)).await {
                    Ok(Ok(answer)) if answer.error_code == 0 => return,
                    other => tracing::debug!(?other, "the quorum does not note yet where its leader is"),
                }
            }
            for server in self.servers(&settings, own) {
                let Some(active) = self.active_controller(&server).await else { continue };
                match self.standing(&active, me).await {
                    None => continue,
                    Some(Some(place)) if place == *own => return,
                    Some(Some(place)) => tracing::info!(from = %place, to = %own, "this voter has moved"),
                    Some(None) if settings.auto_join => {
                        tracing::warn!(
                            "this node was taken out of the quorum while it was away; it joins again"
                        );
                    }
                    Some(None) => {
                        tracing::error!(
                            "node {} was taken out of the quorum, and does not vote; `millstream cluster add --node {} \
                             --directory {} --at {own}` takes it in again",
                            me.node,
                            me.node,
                            me.directory
                        );
                        return;
                    }
                }
                if self.ask_to_join(&settings, own, me).await {
                    return;
                }
                break;
            }
            self.env.sleep(RETRY).await;
        }
    }

    /// Where the quorum's members are said to be, this node's copy of them aside.
    fn servers(&self, settings: &QuorumConfig, own: &Endpoint) -> Vec<Endpoint> {
        let members = self.log.quorum().map(|quorum| quorum.status().members).unwrap_or_default();
        let mut servers = settings.bootstrap.clone();
        servers.extend(members.into_iter().map(|member| member.endpoint));
        let mut seen = BTreeSet::from([own.clone()]);
        servers.retain(|server| seen.insert(server.clone()));
        servers
    }

    fn place_of(&self, me: MemberId) -> Option<Endpoint> {
        let members = self.log.quorum()?.status().members;
        members.into_iter().find(|member| member.member == me).map(|member| member.endpoint)
    }

    /// Where the active controller has this voter, and whether it is one at all; none where it does not say.
    async fn standing(&self, active: &Endpoint, me: MemberId) -> Option<Option<Endpoint>> {
        let partition = DescribeQuorumRequestPartitionData { partition_index: 0 };
        let topic = DescribeQuorumRequestTopicData {
            topic_name: CLUSTER_METADATA.into(),
            partitions: vec![partition],
        };
        let told = self.links.call(active, DescribeQuorumRequest { topics: vec![topic] }).await.ok()?;
        let quorum = told.topics.first()?.partitions.first()?;
        if told.error_code != 0 || quorum.error_code != 0 || quorum.current_voters.is_empty() {
            return None;
        }
        let is_me = |voter: &ReplicaState| {
            voter.replica_id == me.node.0 && voter.replica_directory_id == me.directory
        };
        if !quorum.current_voters.iter().any(is_me) {
            return Some(None);
        }
        let listener = told.nodes.iter().find(|node| node.node_id == me.node.0)?.listeners.first()?;
        Some(Some(Endpoint::new(&*listener.host, listener.port)))
    }

    fn voter_request(&self, settings: &QuorumConfig, own: &Endpoint, me: MemberId) -> AddRaftVoterRequest {
        AddRaftVoterRequest {
            cluster_id: Some(self.cluster_id.clone()),
            timeout_ms: i32::try_from(JOIN_PATIENCE.as_millis()).unwrap_or(i32::MAX),
            voter_id: me.node.0,
            voter_directory_id: me.directory,
            listeners: vec![add_raft_voter::Listener {
                name: settings.listener.as_str().into(),
                host: own.host.clone(),
                port: own.port,
            }],
            ..AddRaftVoterRequest::default()
        }
    }

    /// Asks until it is answered; false where this node itself leads by now.
    async fn ask_to_join(&self, settings: &QuorumConfig, own: &Endpoint, me: MemberId) -> bool {
        let (mut taken, mut refused) = (Complaint::default(), Complaint::default());
        while !self.log.leadership().1 {
            let servers = self.servers(settings, own);
            for server in &servers {
                let asked = self.voter_request(settings, own, me);
                let Some(active) = self.active_controller(server).await else { continue };
                if let Err(why) = self.register_before_joining(&active).await {
                    self.give_up(why);
                    return true;
                }
                let asking = std::pin::pin!(self.links.call_within(&active, JOIN_PATIENCE, asked));
                let deposed = std::pin::pin!(self.another_is_active(&servers, &active));
                let Either::Left((answer, _)) = select(asking, deposed).await else { continue };
                match answer {
                    Ok(answer) if answer.error_code == 0 => return true,
                    Ok(answer) if answer.error_code == ErrorCode::DuplicateVoter.code() => {
                        let why = answer.error_message.unwrap_or_default();
                        let (since, is_due) = taken.again(self.env.elapsed());
                        if since > self.until_replaced() {
                            self.give_up(why.to_string());
                            return true;
                        }
                        if is_due {
                            tracing::error!("not taken into the quorum: {why}");
                        }
                        break;
                    }
                    Ok(answer) => {
                        taken = Complaint::default();
                        let code = ErrorCode::from_code(answer.error_code);
                        if refused.again(self.env.elapsed()).1 {
                            tracing::info!(%active, %code, why = ?answer.error_message, "not taken into the quorum yet");
                        }
                    }
                    Err(error) => tracing::debug!(%active, %error, "a controller does not take this node in"),
                }
            }
            self.env.sleep(RETRY).await;
        }
        false
    }

    /// Waits until one of `servers` knows another active controller than `active`: an answer of a deposed one may never come.
    async fn another_is_active(&self, servers: &[Endpoint], active: &Endpoint) {
        loop {
            self.env.sleep(ACTIVE_LOOK).await;
            for server in servers {
                if self.active_controller(server).await.is_some_and(|now| now != *active) {
                    return;
                }
            }
        }
    }

    /// Where the active controller is, as the controller at `server` knows it.
    async fn active_controller(&self, server: &Endpoint) -> Option<Endpoint> {
        let asked = DescribeClusterRequest { endpoint_type: CONTROLLERS, ..Default::default() };
        let told = self.links.call(server, asked).await;
        let told = told.inspect_err(|error| tracing::debug!(%server, %error, "a controller does not answer"));
        let told = told.ok()?;
        let active = told.brokers.iter().find(|controller| controller.broker_id == told.controller_id)?;
        Some(Endpoint::new(&*active.host, u16::try_from(active.port).ok()?))
    }

    /// Tells the active controller what this one supports before it gets a vote: one that supports too little would take its part in
    /// majorities along when it stops.
    ///
    /// # Errors
    /// Why it cannot be taken in.
    async fn register_before_joining(&self, active: &Endpoint) -> Result<(), String> {
        let Some(request) = self.controller_registration() else { return Ok(()) };
        match self.links.call(active, request).await {
            Ok(answer) if answer.error_code == ErrorCode::UnsupportedVersion.code() => {
                let why = answer.error_message.unwrap_or_default();
                Err(too_old(&format!("the controller at {active}"), &why))
            }
            _ => Ok(()), // an older build does not know the request; who is asked to take this node in says the rest
        }
    }
}

/// Something that is wrong again and again.
#[derive(Default)]
pub(super) struct Complaint {
    since: Option<Duration>,
    said: Option<Duration>,
}

impl Complaint {
    /// For how long it has been so, and whether to say it now.
    pub(super) fn again(&mut self, now: Duration) -> (Duration, bool) {
        let since = now.saturating_sub(*self.since.get_or_insert(now));
        let is_due = self.said.is_none_or(|said| now.saturating_sub(said) >= SAY_AGAIN);
        if is_due {
            self.said = Some(now);
        }
        (since, is_due)
    }
}
