//! Deciding who belongs to the cluster: brokers, controllers, and the producer ids that brokers hand out.

use std::sync::Arc;

use millstream_protocol::ErrorCode;
use millstream_protocol::messages::metadata_records::{
    BrokerEndpoint, BrokerFeature, ControllerEndpoint, ControllerFeature,
};
use millstream_protocol::messages::{
    AllocateProducerIdsRequest, AllocateProducerIdsResponse, BrokerRegistrationRequest,
    BrokerRegistrationResponse, ControllerRegistrationRequest, ControllerRegistrationResponse,
    ProducerIdsRecord, RegisterBrokerRecord, RegisterControllerRecord, UnregisterBrokerRecord,
    UnregisterBrokerRequest, UnregisterBrokerResponse,
};
use millstream_record::{Millis, NodeId, Offset, Uuid};

use super::controller::{Controller, Decision, Refusal, assume};
use super::image::{Broker, Image};
use super::liveness::Liveness;
use super::partition_change::Change;
use super::replica_dirs::LOST_DIRECTORY;
use super::{Record, features};
use crate::transaction::PRODUCER_ID_BLOCK;

/// In place of the previous broker epoch: whatever it was, nothing that was acknowledged then is missing from the directories named.
pub const WHATEVER_EPOCH: i64 = i64::MAX;

impl Controller {
    /// Decides BrokerRegistration. A broker begins fenced, and serves once a heartbeat says that it has applied its registration.
    ///
    /// Its epoch is [`Image::end`], the offset at which its record will stand, since that is the first of the batch: the shell
    /// appends a decision exactly where the image that it was made against ends, or not at all. So epochs rise strictly.
    ///
    /// Every incarnation is a new broker: whatever the last one had in flight is unknown, so it leaves all in-sync sets
    /// (KIP-903). It stays eligible for what it held alone if it ended in order, which it shows by naming the epoch it had then in
    /// `previous_broker_epoch`. A broker that acknowledges only what it has on disk names [`WHATEVER_EPOCH`] instead, also after a
    /// crash: what it knew of its last epoch may not have been on its disk yet. Unless it misses a log that it should have.
    #[must_use]
    pub fn register_broker(
        &self,
        image: &Image,
        liveness: &Liveness,
        now: Millis,
        request: &BrokerRegistrationRequest,
    ) -> Decision<BrokerRegistrationResponse> {
        let known = image.broker(NodeId(request.broker_id));
        let is_taken = known.is_some_and(|known| {
            !known.fenced
                && liveness.has_session(now, known.id, known.epoch)
                && !is_the_successor(known, request)
        });
        if is_taken && known.is_some_and(|known| known.incarnation != request.incarnation_id) {
            return refused(ErrorCode::DuplicateBrokerRegistration);
        }
        self.admit(image, request)
    }

    /// Registers the only broker of a cluster whose only voter is this very process, and lets it serve, in one batch. It reads
    /// the log that the batch goes to, so it has applied its registration by the time that anybody sees it; and nobody else
    /// could say that it is not heard. In a cluster of more nodes use [`Controller::register_broker`].
    #[must_use]
    pub fn register_sole_broker(
        &self,
        image: &Image,
        request: &BrokerRegistrationRequest,
    ) -> Decision<BrokerRegistrationResponse> {
        let mut decision = self.admit(image, request);
        let mut then = image.clone();
        assume(&mut then, &decision.records);
        if let Some(broker) = then.broker(NodeId(request.broker_id))
            && decision.response.error_code == 0
            && broker.fenced
        {
            decision.records.extend(self.unfence(&then, broker));
        }
        decision
    }

    fn admit(
        &self,
        image: &Image,
        request: &BrokerRegistrationRequest,
    ) -> Decision<BrokerRegistrationResponse> {
        let id = NodeId(request.broker_id);
        if let Err(code) = self.judge_registration(image, request) {
            return refused(code);
        }
        let known = image.broker(id);
        if let Some(known) = known
            && known.incarnation == request.incarnation_id
        {
            return Decision { records: Vec::new(), response: registered(known.epoch) };
        }
        let Offset(epoch) = image.end();
        let mut records = vec![Record::RegisterBroker(registration(request, epoch))];
        let mut then = image.clone();
        assume(&mut then, &records);
        let is_clean = request.previous_broker_epoch == WHATEVER_EPOCH
            || known.is_some_and(|known| known.epoch == request.previous_broker_epoch);
        let changes = self.change_partitions(&then, then.partitions_of(id), |change: &mut Change<'_>| {
            let directory = change.before().directory_of(id);
            let has_it = directory.is_zero() || request.log_dirs.contains(&directory);
            change.leave_isr(|node| node == id);
            change.unclean_shutdown = (!is_clean || !has_it).then_some(id);
            change.moved_in.push(id);
        });
        records.extend(changes);
        Decision { records, response: registered(epoch) }
    }

    fn judge_registration(
        &self,
        image: &Image,
        request: &BrokerRegistrationRequest,
    ) -> Result<(), ErrorCode> {
        if self.cluster_id.as_deref().is_some_and(|id| id != &*request.cluster_id) {
            return Err(ErrorCode::InconsistentClusterId);
        }
        let dirs = &request.log_dirs;
        let is_taken = |dir: &Uuid| {
            image.brokers().any(|broker| broker.id.0 != request.broker_id && broker.directories.contains(dir))
        };
        let is_repeated = dirs.iter().enumerate().any(|(at, dir)| dirs[..at].contains(dir));
        if request.broker_id < 0
            || dirs.is_empty()
            || is_repeated
            || dirs.iter().any(|dir| dir.is_zero() || *dir == LOST_DIRECTORY || is_taken(dir))
        {
            return Err(ErrorCode::InvalidRegistration);
        }
        let range = |name: &str| {
            let feature = request.features.iter().find(|feature| &*feature.name == name);
            feature.map(|feature| (feature.min_supported_version, feature.max_supported_version))
        };
        if image.features().all(|(name, level)| features::is_within(level, range(name))) {
            Ok(())
        } else {
            Err(ErrorCode::UnsupportedVersion)
        }
    }

    /// Decides UnregisterBroker: its replicas stay in the assignments, but it leads and counts nowhere.
    #[must_use]
    pub fn unregister_broker(
        &self,
        image: &Image,
        request: &UnregisterBrokerRequest,
    ) -> Decision<UnregisterBrokerResponse> {
        let id = NodeId(request.broker_id);
        let Some(broker) = image.broker(id) else {
            let refusal = Refusal::new(
                ErrorCode::BrokerIdNotRegistered,
                format!("Broker ID {id} is not currently registered"),
            );
            let response = UnregisterBrokerResponse {
                error_code: refusal.code.code(),
                error_message: Some(refusal.message.into()),
                ..UnregisterBrokerResponse::default()
            };
            return Decision { records: Vec::new(), response };
        };
        let mut records = vec![Record::UnregisterBroker(UnregisterBrokerRecord {
            broker_id: id.0,
            broker_epoch: broker.epoch,
        })];
        let mut then = image.clone();
        assume(&mut then, &records);
        let changes = self.change_partitions(&then, then.partitions_of(id), |change: &mut Change<'_>| {
            change.leave_isr(|node| node == id);
        });
        records.extend(changes);
        Decision { records, response: UnregisterBrokerResponse::default() }
    }

    /// Decides ControllerRegistration: which features a controller supports, and where it is.
    #[must_use]
    pub fn register_controller(
        &self,
        image: &Image,
        request: &ControllerRegistrationRequest,
    ) -> Decision<ControllerRegistrationResponse> {
        let supported = request.features.iter();
        let supported = supported.map(|feature| {
            let range = (feature.min_supported_version, feature.max_supported_version);
            (Arc::<str>::from(&*feature.name), range)
        });
        if let Err(why) = Self::check_levels(image, &supported.collect()) {
            let response = ControllerRegistrationResponse {
                error_code: ErrorCode::UnsupportedVersion.code(),
                error_message: Some(why.into()),
                ..ControllerRegistrationResponse::default()
            };
            return Decision { records: Vec::new(), response };
        }
        let record = controller_registration(request);
        let mut then = image.clone();
        assume(&mut then, std::slice::from_ref(&record));
        let is_known = then.controllers == image.controllers;
        let records = if is_known { Vec::new() } else { vec![record] };
        Decision { records, response: ControllerRegistrationResponse::default() }
    }

    /// Decides AllocateProducerIds: the next block, to the broker's current incarnation only.
    #[must_use]
    pub fn allocate_producer_ids(
        &self,
        image: &Image,
        request: &AllocateProducerIdsRequest,
    ) -> Decision<AllocateProducerIdsResponse> {
        let refuse = |error: ErrorCode| Decision {
            records: Vec::new(),
            response: AllocateProducerIdsResponse {
                error_code: error.code(),
                ..AllocateProducerIdsResponse::default()
            },
        };
        match image.broker(NodeId(request.broker_id)) {
            None => return refuse(ErrorCode::BrokerIdNotRegistered),
            Some(broker) if broker.epoch != request.broker_epoch => {
                return refuse(ErrorCode::StaleBrokerEpoch);
            }
            Some(_) => {}
        }
        let first = image.next_producer_id();
        let Some(next) = first.checked_add(i64::from(PRODUCER_ID_BLOCK)) else {
            return refuse(ErrorCode::UnknownServerError);
        };
        let record = Record::ProducerIds(ProducerIdsRecord {
            broker_id: request.broker_id,
            broker_epoch: request.broker_epoch,
            next_producer_id: next,
        });
        let response = AllocateProducerIdsResponse {
            producer_id_start: first,
            producer_id_len: PRODUCER_ID_BLOCK,
            ..AllocateProducerIdsResponse::default()
        };
        Decision { records: vec![record], response }
    }
}

/// Whether the process that registers holds a directory of the broker it takes over from. A running broker has its directories
/// locked, so the earlier one is gone, and nobody needs to wait for its session to run out.
fn is_the_successor(known: &Broker, request: &BrokerRegistrationRequest) -> bool {
    request.log_dirs.iter().any(|directory| known.directories.contains(directory))
}

fn registered(broker_epoch: i64) -> BrokerRegistrationResponse {
    BrokerRegistrationResponse { broker_epoch, ..BrokerRegistrationResponse::default() }
}

fn refused(code: ErrorCode) -> Decision<BrokerRegistrationResponse> {
    let response = BrokerRegistrationResponse {
        error_code: code.code(),
        broker_epoch: -1,
        ..BrokerRegistrationResponse::default()
    };
    Decision { records: Vec::new(), response }
}

fn registration(request: &BrokerRegistrationRequest, broker_epoch: i64) -> RegisterBrokerRecord {
    let end_points = request.listeners.iter().map(|listener| BrokerEndpoint {
        name: listener.name.clone(),
        host: listener.host.clone(),
        port: listener.port,
        security_protocol: listener.security_protocol,
    });
    let features = request.features.iter().map(|feature| BrokerFeature {
        name: feature.name.clone(),
        min_supported_version: feature.min_supported_version,
        max_supported_version: feature.max_supported_version,
    });
    RegisterBrokerRecord {
        broker_id: request.broker_id,
        incarnation_id: request.incarnation_id,
        broker_epoch,
        end_points: end_points.collect(),
        features: features.collect(),
        rack: request.rack.clone(),
        fenced: true,
        log_dirs: request.log_dirs.clone(),
        ..RegisterBrokerRecord::default()
    }
}

fn controller_registration(request: &ControllerRegistrationRequest) -> Record {
    let end_points = request.listeners.iter().map(|listener| ControllerEndpoint {
        name: listener.name.clone(),
        host: listener.host.clone(),
        port: listener.port,
        security_protocol: listener.security_protocol,
    });
    let features = request.features.iter().map(|feature| ControllerFeature {
        name: feature.name.clone(),
        min_supported_version: feature.min_supported_version,
        max_supported_version: feature.max_supported_version,
    });
    Record::RegisterController(RegisterControllerRecord {
        controller_id: request.controller_id,
        incarnation_id: request.incarnation_id,
        end_points: end_points.collect(),
        features: features.collect(),
        ..RegisterControllerRecord::default()
    })
}
