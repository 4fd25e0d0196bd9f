//! Deciding brokers, features and producer ids.

use std::sync::Arc;

use bytestring::ByteString;
use millstream_protocol::ErrorCode;
use millstream_protocol::messages::metadata_records::{BrokerEndpoint, BrokerFeature};
use millstream_protocol::messages::{
    AllocateProducerIdsRequest, AllocateProducerIdsResponse, BrokerRegistrationRequest,
    BrokerRegistrationResponse, FeatureLevelRecord, PartitionChangeRecord, ProducerIdsRecord,
    RegisterBrokerRecord,
};
use millstream_record::{NodeId, Offset};

use super::Record;
use super::controller::{Controller, Decision};
use super::image::{Image, Partition, Topic};
use crate::transaction::PRODUCER_ID_BLOCK;

/// The features of a new cluster. `metadata.version` 30 is Kafka's 4.3-IV0, whose records we write; `transaction.version` 1
/// tells clients to run transactions v1. What is at level 0 is not written down.
const FEATURES: [(&str, i16); 2] = [("metadata.version", 30), ("transaction.version", 1)];

impl Controller {
    /// The first records of a new cluster's log; none where the log has some already.
    #[must_use]
    pub fn bootstrap(&self, image: &Image) -> Vec<Record> {
        if image.end() != Offset(0) {
            return Vec::new();
        }
        let record = |(name, feature_level): (&'static str, i16)| {
            Record::FeatureLevel(FeatureLevelRecord { name: ByteString::from_static(name), feature_level })
        };
        FEATURES.into_iter().map(record).collect()
    }

    /// The levels of each feature that this build supports: name, lowest, highest.
    #[must_use]
    pub fn supported_features() -> [(&'static str, i16, i16); 2] {
        [("metadata.version", 7, 30), ("transaction.version", 0, 1)]
    }

    /// Decides a broker's registration. Its epoch is the offset of its record; every incarnation gets a new one, and takes the
    /// partitions that only it can lead in a new leader epoch, since what the last incarnation had in flight is lost.
    ///
    /// On a log with one voter the broker is unfenced at once: it reads its own log, so it is caught up by then.
    #[must_use]
    pub fn register_broker(
        &self,
        image: &Image,
        request: &BrokerRegistrationRequest,
    ) -> Decision<BrokerRegistrationResponse> {
        let Offset(epoch) = image.end();
        let id = NodeId(request.broker_id);
        if let Some(known) = image.broker(id)
            && known.incarnation == request.incarnation_id
        {
            let response = BrokerRegistrationResponse {
                broker_epoch: known.epoch,
                ..BrokerRegistrationResponse::default()
            };
            return Decision { records: Vec::new(), response };
        }
        let mut records = vec![Record::RegisterBroker(RegisterBrokerRecord {
            broker_id: request.broker_id,
            incarnation_id: request.incarnation_id,
            broker_epoch: epoch,
            end_points: request
                .listeners
                .iter()
                .map(|listener| BrokerEndpoint {
                    name: listener.name.clone(),
                    host: listener.host.clone(),
                    port: listener.port,
                    security_protocol: listener.security_protocol,
                })
                .collect(),
            features: request
                .features
                .iter()
                .map(|feature| BrokerFeature {
                    name: feature.name.clone(),
                    min_supported_version: feature.min_supported_version,
                    max_supported_version: feature.max_supported_version,
                })
                .collect(),
            rack: request.rack.clone(),
            fenced: false,
            log_dirs: request.log_dirs.clone(),
            ..RegisterBrokerRecord::default()
        })];
        records.extend(retaken(image, id));
        let response =
            BrokerRegistrationResponse { broker_epoch: epoch, ..BrokerRegistrationResponse::default() };
        Decision { records, response }
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

/// New leader epochs for the partitions that the broker led, or that nobody leads though it is in sync.
fn retaken(image: &Image, id: NodeId) -> Vec<Record> {
    let of_topic = |topic: &Arc<Topic>| {
        let change = |(index, partition): (usize, &Arc<Partition>)| {
            let may_lead = partition.isr.contains(&id) && partition.leader.is_none_or(|leader| leader == id);
            may_lead.then(|| {
                Record::PartitionChange(PartitionChangeRecord {
                    partition_id: i32::try_from(index).unwrap_or(i32::MAX),
                    topic_id: topic.id,
                    leader: id.0,
                    ..PartitionChangeRecord::default()
                })
            })
        };
        topic.partitions.iter().enumerate().filter_map(change).collect::<Vec<_>>()
    };
    image.topics().flat_map(of_topic).collect()
}
