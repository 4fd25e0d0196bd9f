//! This broker's place in a cluster: it registers, and says again and again that it is there.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::{join, select};
use millstream_machine::metadata::{Image, LOST_DIRECTORY, WHATEVER_EPOCH};
use millstream_protocol::Endpoint;
use millstream_protocol::ErrorCode;
use millstream_protocol::messages::{
    BrokerHeartbeatRequest, BrokerHeartbeatResponse, BrokerRegistrationRequest,
    ControllerRegistrationRequest, DescribeClusterRequest, controller_registration,
};
use millstream_record::{Millis, Offset, TopicId, Uuid};

use super::Metadata;
use super::joining::Complaint;
use super::quorum::{MemberId, QuorumError, QuorumLog};
use crate::partition::monotonic;
use crate::refusal::Refusal;
use crate::{BrokerError, Result};

/// After the cluster did not answer, or said no.
pub(super) const RETRY: Duration = Duration::from_millis(200);
/// Until a broker is unfenced it says often how far it is: nobody is served before.
pub(super) const EAGER_HEARTBEAT: Duration = Duration::from_millis(50);
/// How long an empty node looks for the cluster that it is to join.
const DISCOVERY_PATIENCE: Duration = Duration::from_secs(60);
/// How long a broker that goes stays once it leads nothing: whoever still asks it is told who leads now, and finds it among the
/// brokers. A client for which a broker vanishes that it was about to write to may wait for its next look at the cluster, which in
/// librdkafka is a second away.
const FAREWELL: Duration = Duration::from_millis(300);
/// Beyond its session, before a node whose place is taken gives up.
const REPLACEMENT_MARGIN: Duration = Duration::from_secs(5);
/// How long a node that goes waits for another to lead the quorum.
const ELECTION_PATIENCE: Duration = Duration::from_secs(2);
/// In DescribeCluster: controllers are asked for.
pub(super) const CONTROLLERS: i8 = 2;

impl Metadata {
    /// Takes part in the cluster until the node ends: as a controller, as a broker, or as both.
    pub(crate) async fn attend(
        self: Arc<Self>,
        registration: Option<BrokerRegistrationRequest>,
        me: MemberId,
    ) {
        if self.votes(me) {
            // So says its log, which may be old; it serves meanwhile.
            join(self.confirm(me), self.take_part(registration)).await;
        } else {
            self.join(me).await;
            self.take_part(registration).await;
        }
    }

    async fn take_part(&self, registration: Option<BrokerRegistrationRequest>) {
        let Some(registration) = registration else { return };
        let mut is_first = true;
        while let Some(broker_epoch) = self.register_with_retries(&registration, is_first).await {
            self.heartbeats(broker_epoch, &registration.log_dirs).await; // it ends where the controller does not know this incarnation
            is_first = false;
        }
    }

    pub(super) fn votes(&self, me: MemberId) -> bool {
        self.log.quorum().is_some_and(|quorum| {
            quorum.status().members.iter().any(|member| member.member == me && member.votes)
        })
    }

    /// Says what this controller supports, and where it is, whenever the metadata does not have it: no level of a feature is raised
    /// beyond it then.
    pub(crate) async fn register_controller(self: Arc<Self>) {
        let Some(request) = self.controller_registration() else { return };
        loop {
            let image = self.image.load_full();
            if image.controllers().any(|controller| controller.incarnation == self.incarnation) {
                if !self.changed(image.end()).await {
                    return;
                }
                continue;
            }
            match self.ask(request.clone()).await {
                Ok(answer) if answer.error_code == 0 => {}
                Ok(answer) => {
                    let code = ErrorCode::from_code(answer.error_code);
                    let why = answer.error_message.unwrap_or_default();
                    if code == ErrorCode::UnsupportedVersion {
                        return self.give_up(too_old("the active controller", &why));
                    }
                    tracing::warn!(%code, %why, "the cluster does not register this controller");
                }
                Err(refusal) => tracing::debug!(?refusal, "nobody registers this controller yet"),
            }
            self.env.sleep(RETRY).await;
        }
    }

    pub(super) fn controller_registration(&self) -> Option<ControllerRegistrationRequest> {
        let settings = self.config.quorum.as_ref()?;
        let endpoint = settings.endpoint.as_ref()?;
        let feature = |(name, min_supported_version, max_supported_version): (&'static str, i16, i16)| {
            controller_registration::Feature {
                name: name.into(),
                min_supported_version,
                max_supported_version,
            }
        };
        Some(ControllerRegistrationRequest {
            controller_id: self.config.node_id.0,
            incarnation_id: self.incarnation,
            listeners: vec![controller_registration::Listener {
                name: settings.listener.as_str().into(),
                host: endpoint.host.clone(),
                port: endpoint.port,
                security_protocol: 0,
            }],
            features: self.config.supported_features.iter().map(feature).collect(),
            ..ControllerRegistrationRequest::default()
        })
    }

    /// Gives the broker's epoch; none where another process has this id for good, and this one was never registered.
    async fn register_with_retries(
        &self,
        registration: &BrokerRegistrationRequest,
        is_first: bool,
    ) -> Option<i64> {
        let millis = |name| Duration::from_millis(u64::try_from(self.config.number(name)).unwrap_or(0));
        let patience = millis("initial.broker.registration.timeout.ms").max(self.until_replaced());
        let mut taken = Complaint::default();
        loop {
            // What this node acknowledged is on its disk, so it ended in order however it ended. Its own image may not have come to its
            // last registration yet. Of which logs it misses it tells before it serves; where it cannot say, it may miss any.
            let previous_broker_epoch = if self.partitions.may_lack_any() { -1 } else { WHATEVER_EPOCH };
            let request = BrokerRegistrationRequest { previous_broker_epoch, ..registration.clone() };
            match self.ask(request).await {
                Ok(answer) if answer.error_code == 0 => return Some(answer.broker_epoch),
                Ok(answer) if answer.error_code == ErrorCode::DuplicateBrokerRegistration.code() => {
                    let why = self.whose_id();
                    let (since, is_due) = taken.again(self.env.elapsed());
                    if is_first && since > patience {
                        self.give_up(why);
                        return None;
                    }
                    if is_due {
                        tracing::warn!("the cluster does not register this broker yet: {why}");
                    }
                }
                Ok(answer) => {
                    let code = ErrorCode::from_code(answer.error_code);
                    tracing::warn!(%code, "the cluster does not register this broker; it is asked again");
                }
                Err(refusal) => tracing::info!(?refusal, "no controller registers this broker yet"),
            }
            self.env.sleep(RETRY).await;
        }
    }

    fn whose_id(&self) -> String {
        let node = self.config.node_id;
        let image = self.image.load();
        let listener = image.broker(node).and_then(|other| other.listeners.first());
        let at = listener.map(|one| format!(" at {}:{}", one.host, one.port)).unwrap_or_default();
        format!(
            "node {node} is running{at} with another directory; give this process another --node-id, or stop that one first"
        )
    }

    /// After so long a node that is gone counts as that, and another process may take its place.
    pub(super) fn until_replaced(&self) -> Duration {
        let session = u64::try_from(self.config.number("broker.session.timeout.ms")).unwrap_or(0);
        Duration::from_millis(session).saturating_add(REPLACEMENT_MARGIN)
    }

    /// Heartbeats of one incarnation, whose logs lie in `directories`. Once its disk has failed they say so: others lead then, and it
    /// is not trusted again before it was started anew.
    async fn heartbeats(&self, broker_epoch: i64, directories: &[Uuid]) {
        let interval_ms = u64::try_from(self.config.number("broker.heartbeat.interval.ms")).unwrap_or(2_000);
        let interval = Duration::from_millis(interval_ms);
        let mut bids_farewell = true;
        loop {
            if bids_farewell && self.leads_no_more(broker_epoch) {
                bids_farewell = false;
                self.env.sleep(FAREWELL.min(interval)).await; // it is let go once it says that it knows
            }
            let image = self.image.load_full();
            let reached = image.end();
            let request = BrokerHeartbeatRequest {
                broker_id: self.config.node_id.0,
                broker_epoch,
                current_metadata_offset: reached.0 - 1,
                want_fence: self.hides_a_loss(&image),
                want_shut_down: self.stopping.load(Ordering::SeqCst),
                offline_log_dirs: if self.partitions.is_offline() {
                    directories.to_vec()
                } else {
                    Vec::new()
                },
                ..BrokerHeartbeatRequest::default()
            };
            let sent = monotonic(&self.env);
            let says_offline = !request.offline_log_dirs.is_empty();
            let wait = match self.ask(request).await {
                Ok(answer) if answer.error_code == ErrorCode::StaleBrokerEpoch.code() => return,
                Ok(answer) => {
                    self.renew_lease(sent, &answer);
                    if says_offline && !self.offline_is_known.swap(true, Ordering::SeqCst) {
                        self.moved.notify_waiters();
                    }
                    self.heard(&answer, interval)
                }
                Err(refusal) => {
                    tracing::debug!(?refusal, "no controller took this broker's heartbeat");
                    RETRY
                }
            };
            let stopping = std::pin::pin!(self.hurry.notified());
            let awaited = std::pin::pin!(self.is_awaited(reached));
            select(select(stopping, awaited), self.env.sleep(wait)).await;
        }
    }

    /// Whether this broker is to stay fenced, since others may count on it for a log that it misses: the controller knows of all before it
    /// serves.
    fn hides_a_loss(&self, image: &Image) -> bool {
        let me =
            image.broker(self.config.node_id).filter(|me| me.incarnation == self.incarnation && me.fenced);
        let lost = |(_, _, directory): &(TopicId, i32, Uuid)| *directory == LOST_DIRECTORY;
        me.is_some_and(|me| self.partitions.misplaced(image, me).iter().any(lost))
    }

    fn renew_lease(&self, sent: Millis, answer: &BrokerHeartbeatResponse) {
        let session_ms = Some(i64::from(answer.session_timeout_ms)).filter(|session_ms| *session_ms >= 0);
        self.lease.renew(monotonic(&self.env), sent, session_ms, Offset(answer.metadata_end));
        self.lease.reached(self.image.load().end());
    }

    /// Whether this incarnation is on its way out, and knows that others lead in its place.
    fn leads_no_more(&self, broker_epoch: i64) -> bool {
        let image = self.image.load();
        let me = image.broker(self.config.node_id).filter(|me| me.epoch == broker_epoch);
        me.is_some_and(|me| me.in_controlled_shutdown && !image.leads_any(me.id))
    }

    /// Completes when a broker that stops waits to hear that this one knows more than `reached`, which it said last.
    async fn is_awaited(&self, reached: Offset) {
        loop {
            let image = self.image.load_full();
            let stops = image.brokers().any(|broker| broker.in_controlled_shutdown && !broker.fenced);
            if stops && image.end() > reached {
                return;
            }
            if !self.changed(image.end()).await {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Takes up a heartbeat's answer; gives the time to the next.
    fn heard(&self, answer: &BrokerHeartbeatResponse, interval: Duration) -> Duration {
        if answer.should_shut_down {
            self.released.store(true, Ordering::SeqCst);
            self.moved.notify_waiters();
        }
        let is_settled = !answer.is_fenced && !self.stopping.load(Ordering::SeqCst);
        if is_settled { interval } else { EAGER_HEARTBEAT.min(interval) }
    }

    /// Hands over what this broker leads, and waits until the controller lets it go.
    pub(crate) async fn hand_over(&self, patience: Duration) {
        if self.log.is_alone() {
            return;
        }
        if self.config.quorum.as_ref().is_some_and(|quorum| quorum.is_broker) {
            self.hand_over_partitions(patience).await;
        }
        if let Some(quorum) = self.log.quorum() {
            self.hand_over_quorum(quorum).await;
        }
    }

    async fn hand_over_partitions(&self, patience: Duration) {
        self.stopping.store(true, Ordering::SeqCst);
        self.hurry.notify_one();
        let released = async {
            loop {
                let moved = self.moved.notified();
                if self.released.load(Ordering::SeqCst) {
                    return;
                }
                moved.await;
            }
        };
        let is_last = self.image.load().brokers().filter(|broker| !broker.fenced).count() <= 1;
        if !is_last && self.env.timeout(patience, released).await.is_err() {
            tracing::warn!("the controller does not let this broker go; its partitions move once it is gone");
        }
    }

    /// Lets another voter lead the quorum before this one goes.
    async fn hand_over_quorum(&self, quorum: &QuorumLog) {
        let status = quorum.status();
        let seen = quorum.leader();
        let is_other = |leader: &Option<(MemberId, Endpoint)>| {
            leader.as_ref().is_some_and(|(leader, _)| *leader != quorum.member())
        };
        if seen.1.is_none() || is_other(&seen.1) {
            return;
        }
        let others = status.members.iter().filter(|member| member.votes && member.member != quorum.member());
        let Some(next) = others.max_by_key(|member| member.log_end) else { return };
        let handed_over = async {
            quorum.hand_over_to(next.member).await?;
            let mut seen = seen;
            while !is_other(&seen.1) {
                quorum.leader_changed(&seen).await;
                seen = quorum.leader();
            }
            Ok::<_, QuorumError>(())
        };
        match self.env.timeout(ELECTION_PATIENCE, handed_over).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "the quorum elects another leader once this one is gone")
            }
            Err(_) => {
                tracing::warn!("nobody takes the quorum over; it elects another leader once this one is gone")
            }
        }
    }
}

pub(super) fn too_old(who: &str, why: &str) -> String {
    format!("{who} does not take this node in: {why} Start a build on it that does.")
}

/// Why the members are as they were.
pub(super) fn unchanged(error: QuorumError) -> Refusal {
    let code = match error {
        QuorumError::NotLeader { .. } => ErrorCode::NotLeaderOrFollower,
        QuorumError::Members { .. } => ErrorCode::RequestTimedOut,
        _ => ErrorCode::UnknownServerError,
    };
    Refusal::new(code, error.to_string())
}

/// The id of the cluster that an empty node is to join.
///
/// # Errors
/// When no controller answers in time.
pub(crate) async fn discover(
    env: &millstream_env::Env,
    links: &millstream_client::Links,
    servers: &[Endpoint],
) -> Result<String> {
    let end = env.elapsed().saturating_add(DISCOVERY_PATIENCE);
    loop {
        for server in servers {
            let request = DescribeClusterRequest { endpoint_type: CONTROLLERS, ..Default::default() };
            match links.call(server, request).await {
                Ok(answer) if answer.error_code == 0 => return Ok(answer.cluster_id.to_string()),
                Ok(answer) => {
                    let code = ErrorCode::from_code(answer.error_code);
                    tracing::info!(%server, %code, "a controller does not say which cluster it belongs to");
                }
                Err(error) => tracing::debug!(%server, %error, "a controller does not answer"),
            }
        }
        if env.elapsed() >= end {
            let servers: Vec<String> = servers.iter().map(ToString::to_string).collect();
            return Err(BrokerError::Refused {
                what: format!("no controller answers at {}", servers.join(", ")),
                mend: "start the cluster's first node, or correct controller.quorum.bootstrap.servers",
            });
        }
        env.sleep(RETRY).await;
    }
}
