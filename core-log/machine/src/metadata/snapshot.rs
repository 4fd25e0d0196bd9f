//! An image as records: what a node applies that is too far behind to read the log, and what the log is cut down to.

use bytestring::ByteString;
use millstream_protocol::messages::metadata_records::{
    BrokerEndpoint, BrokerFeature, ControllerEndpoint, ControllerFeature,
};
use millstream_protocol::messages::{
    ConfigRecord, FeatureLevelRecord, PartitionRecord, ProducerIdsRecord, RegisterBrokerRecord,
    RegisterControllerRecord, TopicRecord,
};
use millstream_record::{LeaderEpoch, Offset, TopicId};

use super::Record;
use super::apply::NO_LEADER;
use super::image::{Broker, ControllerNode, Image, Partition};
use super::partition_change::ids;
use crate::Error;

impl Image {
    /// The fewest records that give this image. [`Image::end`] and [`Image::epoch`] are not in them and go along beside.
    pub fn to_records(&self) -> impl Iterator<Item = Record> {
        let feature = |(name, feature_level): (&std::sync::Arc<str>, i16)| {
            Record::FeatureLevel(FeatureLevelRecord { name: ByteString::from(&**name), feature_level })
        };
        let topics = self.topics().flat_map(|topic| {
            let record = TopicRecord { name: ByteString::from(&*topic.name), topic_id: topic.id };
            let partitions = topic.partitions.iter().zip(0..);
            let partitions =
                partitions.map(|(partition, index)| partition_record(topic.id, index, partition));
            std::iter::once(Record::Topic(record)).chain(partitions)
        });
        let configs = self.config_scopes().flat_map(|scope| {
            let (resource_type, resource_name) = scope.resource();
            self.configs(scope).map(move |(name, value)| {
                Record::Config(ConfigRecord {
                    resource_type,
                    resource_name: ByteString::from(resource_name.as_str()),
                    name: ByteString::from(&**name),
                    value: Some(ByteString::from(&**value)),
                })
            })
        });
        let producer_ids = (self.next_producer_id() > 0).then(|| {
            let next_producer_id = self.next_producer_id();
            Record::ProducerIds(ProducerIdsRecord { next_producer_id, ..ProducerIdsRecord::default() })
        });
        let features = self.features().map(feature);
        let controllers = self.controllers().map(|node| controller_record(node));
        let brokers = self.brokers().map(|broker| broker_record(broker));
        features.chain(controllers).chain(brokers).chain(topics).chain(configs).chain(producer_ids)
    }

    /// The image that [`Image::to_records`] was made of, whose last batch had epoch `epoch` and ended before `end`.
    ///
    /// # Errors
    /// As [`Image::apply`].
    pub fn from_records<'a>(
        end: Offset,
        epoch: LeaderEpoch,
        records: impl IntoIterator<Item = &'a Record>,
    ) -> Result<Self, Error> {
        let mut image = Self::default();
        for record in records {
            image.apply(record)?;
        }
        Ok(Self { end, epoch, ..image })
    }
}

fn partition_record(topic_id: TopicId, partition_id: i32, partition: &Partition) -> Record {
    let unless_empty = |nodes: &[_]| (!nodes.is_empty()).then(|| ids(nodes));
    Record::Partition(PartitionRecord {
        partition_id,
        topic_id,
        replicas: ids(&partition.replicas),
        isr: ids(&partition.isr),
        removing_replicas: ids(&partition.removing),
        adding_replicas: ids(&partition.adding),
        leader: partition.leader.map_or(NO_LEADER, |leader| leader.0),
        leader_recovery_state: partition.recovering.into(),
        leader_epoch: partition.leader_epoch.0,
        partition_epoch: partition.partition_epoch,
        directories: partition.directories.clone(),
        eligible_leader_replicas: unless_empty(&partition.elr),
        last_known_elr: unless_empty(&partition.last_known_elr),
    })
}

fn broker_record(broker: &Broker) -> Record {
    let end_points = broker.listeners.iter().map(|listener| BrokerEndpoint {
        name: ByteString::from(&*listener.name),
        host: ByteString::from(&*listener.host),
        port: listener.port,
        security_protocol: listener.security_protocol,
    });
    let features = broker.features.iter().map(|(name, (lowest, highest))| BrokerFeature {
        name: ByteString::from(&**name),
        min_supported_version: *lowest,
        max_supported_version: *highest,
    });
    Record::RegisterBroker(RegisterBrokerRecord {
        broker_id: broker.id.0,
        incarnation_id: broker.incarnation,
        broker_epoch: broker.epoch,
        end_points: end_points.collect(),
        features: features.collect(),
        rack: broker.rack.as_ref().map(|rack| ByteString::from(&**rack)),
        fenced: broker.fenced,
        in_controlled_shutdown: broker.in_controlled_shutdown,
        log_dirs: broker.directories.clone(),
        ..RegisterBrokerRecord::default()
    })
}

fn controller_record(node: &ControllerNode) -> Record {
    let end_points = node.listeners.iter().map(|listener| ControllerEndpoint {
        name: ByteString::from(&*listener.name),
        host: ByteString::from(&*listener.host),
        port: listener.port,
        security_protocol: listener.security_protocol,
    });
    let features = node.features.iter().map(|(name, (lowest, highest))| ControllerFeature {
        name: ByteString::from(&**name),
        min_supported_version: *lowest,
        max_supported_version: *highest,
    });
    Record::RegisterController(RegisterControllerRecord {
        controller_id: node.id.0,
        incarnation_id: node.incarnation,
        end_points: end_points.collect(),
        features: features.collect(),
        ..RegisterControllerRecord::default()
    })
}
