//! Deciding heartbeats: who is trusted, who is not any more, and who may stop.
//!
//! | it is | it wants | then it is |
//! | --- | --- | --- |
//! | fenced | to stop | told to stop |
//! | fenced | to serve, and has applied its registration and that it is fenced | active, and leads what waits for it |
//! | active | to be fenced | fenced |
//! | active | to stop, leads something | shutting down: its partitions are handed over |
//! | active | to stop, leads nothing | fenced, told to stop |
//! | shutting down | leads nothing, and it and all active brokers know | fenced, told to stop |

use std::collections::BTreeSet;

use millstream_protocol::ErrorCode;
use millstream_protocol::messages::{
    BrokerHeartbeatRequest, BrokerHeartbeatResponse, BrokerRegistrationChangeRecord,
};
use millstream_record::{NodeId, Uuid};

use super::Record;
use super::controller::{Controller, Decision, assume};
use super::image::{Broker, Image};
use super::liveness::Liveness;
use super::partition_change::Change;

/// What becomes of a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Fenced,
    Active,
    ShuttingDown,
    /// Fenced, and told to stop.
    Stopped,
}

impl Standing {
    fn of(broker: &Broker) -> Self {
        match broker {
            Broker { fenced: true, .. } => Self::Fenced,
            Broker { in_controlled_shutdown: true, .. } => Self::ShuttingDown,
            _ => Self::Active,
        }
    }
}

impl Controller {
    /// Decides BrokerHeartbeat, after [`Liveness::heard`] took note of it.
    ///
    /// `current_metadata_offset` is the offset of the last metadata record that the broker has applied, its image's end less one.
    #[must_use]
    pub fn heartbeat(
        &self,
        image: &Image,
        liveness: &Liveness,
        request: &BrokerHeartbeatRequest,
    ) -> Decision<BrokerHeartbeatResponse> {
        let id = NodeId(request.broker_id);
        let Some(broker) = image.broker(id).filter(|broker| broker.epoch == request.broker_epoch) else {
            let response = BrokerHeartbeatResponse {
                error_code: ErrorCode::StaleBrokerEpoch.code(),
                ..BrokerHeartbeatResponse::default()
            };
            return Decision { records: Vec::new(), response };
        };
        let next = next_standing(image, liveness, broker, request);
        let mut records = match (Standing::of(broker), next) {
            (Standing::Fenced, Standing::Active) => self.unfence(image, broker),
            (_, Standing::ShuttingDown) => self.hand_over(image, broker),
            (Standing::Fenced, _) | (Standing::Active, Standing::Active) => Vec::new(),
            (_, _) => self.fence_all(image, &[id]),
        };
        if next != Standing::Fenced && next != Standing::Stopped {
            let mut scratch = image.clone();
            assume(&mut scratch, &records);
            records.extend(self.lose_directories(&scratch, id, &request.offline_log_dirs));
        }
        let response = BrokerHeartbeatResponse {
            is_caught_up: request.current_metadata_offset >= broker.epoch,
            is_fenced: matches!(next, Standing::Fenced | Standing::Stopped),
            should_shut_down: next == Standing::Stopped,
            ..BrokerHeartbeatResponse::default()
        };
        Decision { records, response }
    }

    /// Fences `brokers`, those that [`Liveness::expired`] names: they leave every in-sync set, and others lead in their place. One
    /// batch, whatever they hold. Who is fenced already or not registered is passed over.
    #[must_use]
    pub fn fence(&self, image: &Image, brokers: &[NodeId]) -> Decision<()> {
        Decision { records: self.fence_all(image, brokers), response: () }
    }

    fn fence_all(&self, image: &Image, brokers: &[NodeId]) -> Vec<Record> {
        let unfenced = brokers.iter().filter_map(|id| image.broker(*id)).filter(|broker| !broker.fenced);
        let unfenced: BTreeSet<(NodeId, i64)> = unfenced.map(|broker| (broker.id, broker.epoch)).collect();
        let change = |&(NodeId(broker_id), broker_epoch): &(NodeId, i64)| {
            Record::BrokerRegistrationChange(BrokerRegistrationChangeRecord {
                broker_id,
                broker_epoch,
                fenced: 1,
                ..BrokerRegistrationChangeRecord::default()
            })
        };
        let mut records: Vec<Record> = unfenced.iter().map(change).collect();
        let leaving = unfenced.into_iter().map(|(id, _)| id).collect();
        records.extend(self.leave(image, &records, &leaving));
        records
    }

    /// The broker serves from here on, and leads what nobody else can.
    pub(super) fn unfence(&self, image: &Image, broker: &Broker) -> Vec<Record> {
        let mut records = vec![Record::BrokerRegistrationChange(BrokerRegistrationChangeRecord {
            broker_id: broker.id.0,
            broker_epoch: broker.epoch,
            fenced: -1,
            ..BrokerRegistrationChangeRecord::default()
        })];
        let mut then = image.clone();
        assume(&mut then, &records);
        let leaderless = then.partitions_of(broker.id).filter(|(_, _, partition)| partition.leader.is_none());
        records.extend(self.change_partitions(&then, leaderless, |_| {}));
        records
    }

    /// The broker takes no more leadership; others lead what it leads, where they can. Asked again, it tries again.
    fn hand_over(&self, image: &Image, broker: &Broker) -> Vec<Record> {
        let mut records = Vec::new();
        if !broker.in_controlled_shutdown {
            records.push(Record::BrokerRegistrationChange(BrokerRegistrationChangeRecord {
                broker_id: broker.id.0,
                broker_epoch: broker.epoch,
                in_controlled_shutdown: 1,
                ..BrokerRegistrationChangeRecord::default()
            }));
        }
        records.extend(self.leave(image, &records, &BTreeSet::from([broker.id])));
        records
    }

    /// What becomes of the partitions of brokers that leave all in-sync sets, once `records` are applied.
    fn leave(&self, image: &Image, records: &[Record], leaving: &BTreeSet<NodeId>) -> Vec<Record> {
        let mut then = image.clone();
        assume(&mut then, records);
        let mut seen = BTreeSet::new();
        let mut changes = Vec::new();
        for node in leaving {
            let held = then.partitions_of(*node).filter(|(topic, index, partition)| {
                let concerns = partition.isr.contains(node) || partition.leader == Some(*node);
                concerns && (leaving.len() == 1 || seen.insert((topic.id, *index)))
            });
            let leave = |change: &mut Change<'_>| change.leave_isr(|node| leaving.contains(&node));
            changes.extend(self.change_partitions(&then, held, leave));
        }
        changes
    }

    /// Takes the partitions of failed log directories out of service at this broker. A broker without a directory left is fenced.
    fn lose_directories(&self, image: &Image, id: NodeId, offline: &[Uuid]) -> Vec<Record> {
        let Some(broker) = image.broker(id) else { return Vec::new() };
        let left: Vec<Uuid> =
            broker.directories.iter().copied().filter(|dir| !offline.contains(dir)).collect();
        if left.len() == broker.directories.len() {
            return Vec::new();
        }
        if left.is_empty() {
            return self.fence_all(image, &[id]);
        }
        let mut records = vec![Record::BrokerRegistrationChange(BrokerRegistrationChangeRecord {
            broker_id: id.0,
            broker_epoch: broker.epoch,
            log_dirs: left,
            ..BrokerRegistrationChangeRecord::default()
        })];
        let mut then = image.clone();
        assume(&mut then, &records);
        let lost =
            then.partitions_of(id).filter(|(_, _, partition)| offline.contains(&partition.directory_of(id)));
        records.extend(self.change_partitions(&then, lost, |change| change.leave_isr(|node| node == id)));
        records
    }
}

fn next_standing(
    image: &Image,
    liveness: &Liveness,
    broker: &Broker,
    request: &BrokerHeartbeatRequest,
) -> Standing {
    // Who was replaced knows that before it serves again.
    let is_caught_up = request.current_metadata_offset >= broker.epoch
        && liveness.is_fencing_known(broker.id, broker.epoch, request.current_metadata_offset);
    let has_lost_all = !broker.directories.is_empty()
        && broker.directories.iter().all(|directory| request.offline_log_dirs.contains(directory));
    match Standing::of(broker) {
        Standing::Fenced | Standing::Stopped if request.want_shut_down => Standing::Stopped,
        Standing::Fenced | Standing::Stopped if request.want_fence || !is_caught_up || has_lost_all => {
            Standing::Fenced
        }
        Standing::Fenced | Standing::Stopped => Standing::Active,
        Standing::Active if request.want_shut_down && request.want_fence => Standing::Stopped,
        Standing::Active | Standing::ShuttingDown if request.want_fence || has_lost_all => Standing::Fenced,
        Standing::Active if !request.want_shut_down => Standing::Active,
        Standing::Active if image.leads_any(broker.id) => Standing::ShuttingDown,
        Standing::Active => Standing::Stopped,
        Standing::ShuttingDown if image.leads_any(broker.id) => Standing::ShuttingDown,
        Standing::ShuttingDown if liveness.is_handed_over(image, broker.id) => Standing::Stopped,
        Standing::ShuttingDown => Standing::ShuttingDown,
    }
}
