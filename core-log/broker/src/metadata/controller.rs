//! The active controller at work: it decides what others ask for, and looks after brokers that have gone silent and partitions
//! that are not led by whom they should be.

use std::sync::Arc;
use std::time::Duration;

use futures::future::select;
use millstream_machine::metadata::{Controller, Decision, Image, MetadataLog, NewIds};
use millstream_protocol::messages::BrokerHeartbeatResponse;
use millstream_protocol::{ErrorCode, Request, Response};
use millstream_record::LeaderEpoch;

use super::Metadata;
use crate::partition::monotonic;
use crate::refusal::Refusal;

/// Until a controller that has lost the majority looks whether it has it again.
const LOST: Duration = Duration::from_millis(100);
/// Until a decision of the controller's own that was not committed is made again.
const AGAIN: Duration = Duration::from_millis(20);

impl Metadata {
    /// Decides what brokers and clients ask of the controller.
    ///
    /// # Errors
    /// NOT_CONTROLLER on any other node; as for [`Metadata::decide`].
    pub(crate) async fn decide_request(&self, request: Request) -> Result<Response, Refusal> {
        let now = monotonic(&self.env);
        Ok(match request {
            Request::CreateTopics(r) => self.decide(|c, i, ids| c.create_topics(i, &r, ids)).await?.into(),
            Request::DeleteTopics(r) => self.decide(|c, i, _| c.delete_topics(i, &r)).await?.into(),
            Request::CreatePartitions(r) => self.decide(|c, i, _| c.create_partitions(i, &r)).await?.into(),
            Request::IncrementalAlterConfigs(r) => {
                self.decide(|c, i, _| c.alter_configs(i, &r)).await?.into()
            }
            Request::AlterConfigs(r) => self.decide(|c, i, _| c.replace_configs(i, &r)).await?.into(),
            Request::AllocateProducerIds(r) => {
                self.decide(|c, i, _| c.allocate_producer_ids(i, &r)).await?.into()
            }
            Request::AlterPartition(r) => self.decide(|c, i, _| c.alter_partition(i, &r)).await?.into(),
            Request::AssignReplicasToDirs(r) => {
                self.decide(|c, i, _| c.assign_directories(i, &r)).await?.into()
            }
            Request::ElectLeaders(r) => self.decide(|c, i, _| c.elect_leaders(i, &r)).await?.into(),
            Request::AlterPartitionReassignments(r) => {
                self.decide(|c, i, _| c.alter_reassignments(i, &r)).await?.into()
            }
            Request::UpdateFeatures(r) => {
                self.decide(|c, i, _| c.update_features(i, &self.controllers(), &r)).await?.into()
            }
            Request::ControllerRegistration(r) => {
                self.decide(|c, i, _| c.register_controller(i, &r)).await?.into()
            }
            Request::UnregisterBroker(r) => self.unregister_broker(&r).await?.into(),
            Request::DescribeQuorum(r) => self.describe_quorum(&r)?.into(),
            Request::AddRaftVoter(r) => self.add_voter(&r).await?.into(),
            Request::RemoveRaftVoter(r) => self.remove_voter(&r).await?.into(),
            Request::BrokerRegistration(r) => {
                self.decide(|c, i, _| c.register_broker(i, &self.liveness.lock(), now, &r)).await?.into()
            }
            // Nothing is written for most of them, so nothing else shows that another may be the active controller by now; and who is
            // answered takes it that nobody replaces it for a session.
            Request::BrokerHeartbeat(_) if !self.log.has_majority() => {
                return Err(Refusal::new(
                    ErrorCode::NotController,
                    "most voters do not answer; another may be elected",
                ));
            }
            Request::BrokerHeartbeat(r) => {
                self.liveness.lock().heard(now, &r);
                let answer = self.decide(|c, i, _| c.heartbeat(i, &self.liveness.lock(), &r)).await?;
                let session_ms = self.liveness.lock().session_timeout_ms();
                // What this broker's place is after all that was decided before it was heard: see the lease.
                BrokerHeartbeatResponse {
                    metadata_end: self.image.load().end().0,
                    session_timeout_ms: i32::try_from(session_ms).unwrap_or(i32::MAX),
                    ..answer
                }
                .into()
            }
            other => {
                let why = format!("{} is not asked of a controller", other.api().name());
                return Err(Refusal::new(ErrorCode::InvalidRequest, why));
            }
        })
    }

    /// Looks after the brokers while this node is the active controller, until the node ends.
    pub(crate) async fn control(self: Arc<Self>) {
        let mut led: Option<LeaderEpoch> = None;
        let mut deaf_since = None;
        let mut leaders_due = Duration::ZERO;
        loop {
            let seen = self.log.leadership();
            let (epoch, leads) = seen;
            if !leads {
                (led, deaf_since) = (None, None);
                self.log.leadership_changed(seen).await;
                continue;
            }
            if !self.log.has_majority() {
                // What it would decide would stay undecided, and it answers no heartbeats.
                deaf_since.get_or_insert_with(|| monotonic(&self.env));
                select(std::pin::pin!(self.log.leadership_changed(seen)), self.env.sleep(LOST)).await;
                continue;
            }
            if let Some(since) = deaf_since.take() {
                let now = monotonic(&self.env);
                self.liveness.lock().extend(now, now.since_ms(since));
            }
            let outcome = if led == Some(epoch) {
                self.look_after(&mut leaders_due).await
            } else {
                leaders_due = self.env.elapsed().saturating_add(self.leaders_interval());
                self.begin().await
            };
            match outcome {
                Ok(()) => led = Some(epoch),
                Err(refusal) => {
                    tracing::debug!(
                        ?refusal,
                        "the controller's own decision was not committed; it is made again"
                    );
                    self.env.sleep(AGAIN).await;
                    continue;
                }
            }
            let now = monotonic(&self.env);
            let next = self.liveness.lock().next_look(now);
            let wait = Duration::from_millis(u64::try_from(next.since_ms(now)).unwrap_or(1));
            let wait = wait.min(leaders_due.saturating_sub(self.env.elapsed()));
            select(std::pin::pin!(self.log.leadership_changed(seen)), self.env.sleep(wait)).await;
        }
    }

    /// Begins to control: everybody counts as heard now, or by the controller before, which may have answered heartbeats a little longer;
    /// and a new cluster gets its first records.
    async fn begin(&self) -> Result<(), Refusal> {
        let bootstrap = |controller: &Controller, image: &Image, _: NewIds<'_>| {
            let before = self.log.quorum().map_or(Duration::ZERO, |quorum| quorum.majority_holds());
            let before_ms = i64::try_from(before.as_millis()).unwrap_or(i64::MAX);
            self.liveness.lock().lead(monotonic(&self.env).plus_ms(before_ms), image);
            Decision { records: controller.bootstrap(image), response: () }
        };
        self.decide(bootstrap).await
    }

    /// Looks after the brokers; and after the leaders, where that is due.
    async fn look_after(&self, leaders_due: &mut Duration) -> Result<(), Refusal> {
        let fence = |controller: &Controller, image: &Image, _: NewIds<'_>| {
            let silent = self.liveness.lock().expired(monotonic(&self.env), image);
            Decision { records: controller.fence(image, &silent).records, response: silent }
        };
        let silent = self.decide(fence).await?;
        if !silent.is_empty() {
            tracing::warn!(?silent, "brokers have not been heard for a session; others lead in their place");
        }
        if self.env.elapsed() >= *leaders_due {
            let wait = if self.look_at_leaders().await? { AGAIN } else { self.leaders_interval() };
            *leaders_due = self.env.elapsed().saturating_add(wait);
        }
        Ok(())
    }

    /// Has preferred leaders lead again, and whoever may lead partitions that nobody leads. Says whether there may be more to do.
    async fn look_at_leaders(&self) -> Result<bool, Refusal> {
        let mut more = false;
        if self.config.flag("auto.leader.rebalance.enable") {
            more |= self.decide(|controller, image, _| controller.balance_leaders(image)).await?;
        }
        more |= self.decide(|controller, image, _| controller.elect_leaderless(image)).await?;
        Ok(more)
    }

    fn leaders_interval(&self) -> Duration {
        let seconds = self.config.number("leader.imbalance.check.interval.seconds");
        Duration::from_secs(u64::try_from(seconds).unwrap_or(1))
    }
}
