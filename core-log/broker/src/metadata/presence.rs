//! Noticing at once that a process is gone.
//!
//! A heartbeat that does not come says little: the process may be slow, or the network. A connection that ends says more, and an
//! address that then *refuses* connections says all: the machine is there, and nobody listens on it any more. So who wants to
//! know holds a connection to the process, and dials again when it ends. Only refusals count; an address that does not
//! answer at all leaves the question to heartbeats.
//!
//! Two want to know. The active controller fences a broker whose process is gone; a voter stands for election when that of the
//! quorum's leader is. Both are safe when the answer is wrong, as it is where something between the two refuses in the other's
//! place: a broker that lives says so by its next heartbeat, and is then left to its session.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, select};
use millstream_env::{Env, Stream, TaskGroup};
use millstream_machine::metadata::{Broker, Controller, Image, MetadataLog, NewIds};
use millstream_protocol::Endpoint;
use millstream_record::NodeId;
use tokio::io::AsyncReadExt;

use super::Metadata;
use super::quorum::{MemberId, QuorumLog};

/// Refusals in a row after which a process is gone.
const REFUSALS: u32 = 3;
/// Between two of them: together they outlast a moment in which a listener is being replaced.
const BETWEEN_REFUSALS: Duration = Duration::from_millis(25);
/// How long an address may take to answer at all.
const DIAL_PATIENCE: Duration = Duration::from_secs(2);
/// Longest pause before an address that does not answer, or that ends connections at once, is dialled again.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// By so much longer is each pause than the one before.
const PAUSE_STEP: Duration = Duration::from_millis(50);
/// Voters that see their leader gone stand one after the other, by so much apart: at once, they would split the votes. An election
/// takes two round trips and two fsyncs.
const TURN: Duration = Duration::from_millis(150);
/// How long an election may take before the next try.
const ELECTION_PATIENCE: Duration = Duration::from_secs(1);

/// Completes once the process that listens on `endpoint` is gone.
async fn gone(env: &Env, endpoint: &Endpoint) {
    let address = endpoint.to_string();
    let (mut refused, mut pause) = (0, Duration::ZERO);
    loop {
        let began = env.elapsed();
        match env.timeout(DIAL_PATIENCE, env.connect(&address)).await {
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                refused += 1;
                if refused == REFUSALS {
                    return;
                }
                env.sleep(BETWEEN_REFUSALS).await;
                continue;
            }
            Ok(Ok(stream)) => ended(stream).await,
            Ok(Err(_)) | Err(_) => {}
        }
        refused = 0;
        let lasted = env.elapsed().saturating_sub(began);
        pause = if lasted > PAUSE_MAX { Duration::ZERO } else { (pause + PAUSE_STEP).min(PAUSE_MAX) };
        env.sleep(pause).await;
    }
}

/// Whether nobody listens on `endpoint` any more, on a machine that is there.
pub(super) async fn refuses(env: &Env, endpoint: &Endpoint) -> bool {
    for refused in 0..REFUSALS {
        if refused > 0 {
            env.sleep(BETWEEN_REFUSALS).await;
        }
        match env.connect(&endpoint.to_string()).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            _ => return false,
        }
    }
    true
}

/// Completes when the other side ends the connection, on which it has nothing to say.
async fn ended(mut stream: Box<dyn Stream>) {
    let mut nothing = [0; 64];
    while matches!(stream.read(&mut nothing).await, Ok(read) if read > 0) {}
}

/// A broker that is watched, or was until it was seen gone. An incarnation is seen gone once only: one that is heard of again
/// lives behind an address that refuses us, and would be fenced for ever.
struct Watched {
    epoch: i64,
    endpoint: Endpoint,
    _watch: TaskGroup,
}

impl Metadata {
    /// Watches over the other brokers while this node is the active controller, until the node ends.
    pub(crate) async fn watch_brokers(self: Arc<Self>) {
        let mut watched: BTreeMap<NodeId, Watched> = BTreeMap::new();
        loop {
            let seen = self.log.leadership();
            if !seen.1 {
                watched.clear();
                self.log.leadership_changed(seen).await;
                continue;
            }
            let image = self.image.load_full();
            watched.retain(|id, known| image.broker(*id).is_some_and(|broker| broker.epoch == known.epoch));
            for broker in image.brokers().filter(|broker| !broker.fenced && broker.id != self.config.node_id)
            {
                self.watch(&mut watched, broker);
            }
            let elected = std::pin::pin!(self.log.leadership_changed(seen));
            let changed = std::pin::pin!(self.changed(image.end()));
            if let Either::Right((false, _)) = select(elected, changed).await {
                return;
            }
        }
    }

    fn watch(self: &Arc<Self>, watched: &mut BTreeMap<NodeId, Watched>, broker: &Broker) {
        let listener = self.config.inter_broker_listener();
        let same = broker.listeners.iter().find(|one| *one.name == *listener);
        let Some(listener) = same.or(broker.listeners.first()) else { return };
        let endpoint = Endpoint::new(&*listener.host, listener.port);
        let (id, epoch) = (broker.id, broker.epoch);
        if watched.get(&id).is_some_and(|known| known.endpoint == endpoint) {
            return;
        }
        let watch = self.env.group();
        let (metadata, address) = (Arc::clone(self), endpoint.clone());
        watch.spawn("broker watch", async move {
            loop {
                gone(&metadata.env, &address).await;
                match metadata.fence_gone(id, epoch, &address).await {
                    Ok(()) => return,
                    Err(refusal) => {
                        tracing::debug!(broker = %id, ?refusal, "a broker that is gone is not fenced yet")
                    }
                }
            }
        });
        watched.insert(id, Watched { epoch, endpoint, _watch: watch });
    }

    /// Fences one incarnation of a broker whose process is gone. One that has registered anew meanwhile is another.
    async fn fence_gone(
        &self,
        id: NodeId,
        epoch: i64,
        address: &Endpoint,
    ) -> Result<(), crate::refusal::Refusal> {
        let fence = |controller: &Controller, image: &Image, _: NewIds<'_>| {
            let stands = image.broker(id).is_some_and(|broker| broker.epoch == epoch && !broker.fenced);
            if stands {
                tracing::warn!(broker = %id, %address, "a broker's process is gone; others lead in its place");
            }
            controller.fence(image, if stands { std::slice::from_ref(&id) } else { &[] })
        };
        self.decide(fence).await
    }

    /// Watches over the quorum's leader, until the node ends, and stands for election when it is gone.
    pub(crate) async fn watch_leader(self: Arc<Self>) {
        let Some(quorum) = self.log.quorum() else { return };
        loop {
            let seen = quorum.leader();
            let other = seen.1.as_ref().filter(|(leader, _)| *leader != quorum.member());
            let Some((leader, endpoint)) = other else {
                quorum.leader_changed(&seen).await;
                continue;
            };
            let changed = std::pin::pin!(quorum.leader_changed(&seen));
            let gone = std::pin::pin!(gone(&self.env, endpoint));
            if let Either::Right(((), changed)) = select(changed, gone).await {
                let turn = TURN * self.voters_before_this(quorum, *leader);
                if let Either::Right(((), changed)) = select(changed, self.env.sleep(turn)).await {
                    self.stand_for(quorum, *leader, endpoint).await;
                    select(changed, self.env.sleep(ELECTION_PATIENCE)).await;
                }
            }
        }
    }

    /// How many of the voters that are left stand for election before this one does.
    fn voters_before_this(&self, quorum: &QuorumLog, leader: MemberId) -> u32 {
        let members = quorum.status().members.into_iter();
        let voters = members.filter(|member| member.votes && member.member != leader);
        u32::try_from(voters.filter(|voter| voter.member < quorum.member()).count()).unwrap_or(u32::MAX)
    }

    async fn stand_for(&self, quorum: &QuorumLog, leader: MemberId, address: &Endpoint) {
        if !self.votes(quorum.member()) {
            return;
        }
        tracing::warn!(%leader, %address, "the process of the quorum's leader is gone; this voter stands for election");
        if let Err(error) = quorum.take_over().await {
            tracing::debug!(%error, "the quorum has stopped here");
        }
    }
}

#[cfg(test)]
mod tests {
    use millstream_env::HostRuntime;

    use super::*;

    #[test]
    fn only_an_address_that_refuses_is_gone() {
        let (runtime, env) = HostRuntime::start("presence", 1).unwrap();
        runtime.block_on(async {
            let mut listener = env.listen("127.0.0.1:0").await.unwrap();
            let endpoint = Endpoint::parse(&listener.local_addr()).unwrap();
            let mut watch = std::pin::pin!(gone(&env, &endpoint));
            // It is held, and dialled again when it ends.
            for _ in 0..2 {
                let accept = std::pin::pin!(listener.accept());
                let Either::Right((accepted, _)) = select(&mut watch, accept).await else {
                    panic!("somebody listens")
                };
                drop(accepted.unwrap());
            }
            drop(listener);
            env.timeout(Duration::from_secs(30), watch).await.expect("nobody listens");
        });
    }
}
