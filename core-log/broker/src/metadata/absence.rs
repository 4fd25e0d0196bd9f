//! Finding out that there is no controller, where no heartbeat is answered: while there is none, nobody replaces a broker.
//!
//! Brokers rely on what a controller says here: one that has lost the majority and says so may have it again a moment later, and then gives
//! every broker a session from then on ([`Metadata::named_controller`]).
//!
//! A controller that does not answer may be active, and cut off from this broker alone. So all of them have to show that they are not:
//! by an address that refuses connections, or by an answer that names another. Whoever of them becomes active after that grants every
//! broker a session first.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use millstream_machine::metadata::MetadataLog;
use millstream_protocol::Endpoint;
use millstream_protocol::messages::DescribeClusterRequest;

use super::Metadata;
use super::lifecycle::CONTROLLERS;
use super::presence::refuses;
use super::quorum::MemberId;
use crate::partition::monotonic;

/// Looks in a session.
const LOOKS_PER_SESSION: u32 = 8;
/// How long a controller may take to say that it is not the active one.
const PATIENCE: Duration = Duration::from_secs(1);

impl Metadata {
    /// Keeps this broker's lease where heartbeats are not answered because there is no controller, until the node ends.
    pub(crate) async fn keep_lease(self: Arc<Self>) {
        loop {
            let session = Duration::from_millis(u64::try_from(self.lease.session_ms()).unwrap_or(0));
            self.env.sleep((session / LOOKS_PER_SESSION).max(Duration::from_millis(1))).await;
            let asked = monotonic(&self.env);
            if !self.lease.is_fresh(asked) && self.lease.holds(asked) && self.nobody_controls().await {
                self.lease.prolong(monotonic(&self.env), asked);
            }
        }
    }

    /// Whom others are told to take for the active controller, as [`OwnLog::leader`] says. Where this node's controller denies that it is the
    /// active one, it gives them the time that they take from that.
    ///
    /// [`OwnLog::leader`]: super::OwnLog::leader
    pub(crate) fn named_controller(&self) -> Option<(MemberId, Endpoint)> {
        let named = self.log.leader();
        if self.log.leadership().1 && !self.is_named(&named) {
            self.liveness.lock().denied(monotonic(&self.env));
        }
        named
    }

    fn is_named(&self, named: &Option<(MemberId, Endpoint)>) -> bool {
        let own = self.log.quorum().map(|quorum| quorum.member());
        own.is_some() && named.as_ref().map(|(member, _)| *member) == own
    }

    /// Whether no controller is active, as far as each of them can be asked.
    async fn nobody_controls(&self) -> bool {
        if self.is_named(&self.named_controller()) {
            return false;
        }
        let all = self.controllers_elsewhere();
        join_all(all.iter().map(|one| self.is_idle(one, &all))).await.into_iter().all(|idle| idle)
    }

    /// Where every other controller is that this node has heard of; one that was told at start may be nobody's address.
    fn controllers_elsewhere(&self) -> BTreeSet<Endpoint> {
        let own = self.config.quorum.as_ref().and_then(|quorum| quorum.endpoint.clone());
        let mut all = self.log.controllers();
        for controller in self.image.load().controllers() {
            let at = controller.listeners.iter().map(|one| Endpoint::new(&*one.host, one.port));
            all.extend(at);
        }
        all.retain(|endpoint| Some(endpoint) != own.as_ref());
        all
    }

    /// Whether the controller at `endpoint` is not the active one; whom it takes for that is asked as well.
    async fn is_idle(&self, endpoint: &Endpoint, asked: &BTreeSet<Endpoint>) -> bool {
        let describe = DescribeClusterRequest { endpoint_type: CONTROLLERS, ..Default::default() };
        match self.links.call_within(endpoint, PATIENCE, describe).await {
            Ok(told) if told.cluster_id == self.cluster_id => {
                let mut active = told.brokers.iter().filter(|one| one.broker_id == told.controller_id);
                active.all(|one| {
                    let named = u16::try_from(one.port).map(|port| Endpoint::new(&*one.host, port));
                    named.is_ok_and(|named| named != *endpoint && asked.contains(&named))
                })
            }
            Ok(_) => false,
            Err(_) => self.env.timeout(PATIENCE, refuses(&self.env, endpoint)).await.unwrap_or(false),
        }
    }
}
