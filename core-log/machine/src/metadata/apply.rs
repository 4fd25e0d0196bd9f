//! How records change the image.

use std::collections::BTreeMap;
use std::sync::Arc;

use millstream_protocol::messages::{
    BrokerRegistrationChangeRecord, ClearElrRecord, ConfigRecord, FeatureLevelRecord, PartitionChangeRecord,
    PartitionRecord, RegisterBrokerRecord, RegisterControllerRecord, TopicRecord, UnregisterBrokerRecord,
};
use millstream_record::{LeaderEpoch, NodeId, Offset, TopicId};

use super::image::{Broker, ConfigScope, ControllerNode, Image, Listener, Partition, Topic};
use super::{Committed, Record, invariant};
use crate::Error;

/// Kafka's `ConfigResource.Type` numbers, as ConfigRecord has them.
const TOPIC_RESOURCE: i8 = 2;
const BROKER_RESOURCE: i8 = 4;

/// In a PartitionChangeRecord: the leader stays as it is.
pub(super) const LEADER_UNCHANGED: i32 = -2;
/// In records: no leader.
pub(super) const NO_LEADER: i32 = -1;

impl ConfigScope {
    /// As ConfigRecord and the config APIs name it: resource type and name. The cluster-wide broker default has the empty name.
    #[must_use]
    pub fn resource(&self) -> (i8, String) {
        match self {
            Self::Topic(name) => (TOPIC_RESOURCE, name.to_string()),
            Self::Broker(id) => (BROKER_RESOURCE, id.to_string()),
            Self::BrokerDefault => (BROKER_RESOURCE, String::new()),
        }
    }

    /// The scope that a resource type and name mean, if they mean one.
    #[must_use]
    pub fn of_resource(kind: i8, name: &str) -> Option<Self> {
        match kind {
            TOPIC_RESOURCE => Some(Self::Topic(name.into())),
            BROKER_RESOURCE if name.is_empty() => Some(Self::BrokerDefault),
            BROKER_RESOURCE => name.parse().ok().map(|id| Self::Broker(NodeId(id))),
            _ => None,
        }
    }
}

impl Image {
    /// Applies a committed batch; a snapshot replaces what was there.
    ///
    /// # Errors
    /// As [`Image::apply`]; the image is then half changed and must be dropped with the node's claim to know the cluster.
    pub fn apply_batch(&mut self, batch: &Committed) -> Result<(), Error> {
        if batch.snapshot {
            *self = Self::default();
        }
        for record in &batch.records {
            self.apply(record)?;
        }
        self.epoch = batch.epoch;
        self.end = batch.end;
        Ok(())
    }

    /// Applies one record, which stands at [`Image::end`].
    ///
    /// # Errors
    /// [`Error::Contradiction`] when it does not fit what is there, [`Error::UnknownRecord`] when it is of a kind that this
    /// build does not act on. Both mean that this node can no longer follow the cluster.
    pub fn apply(&mut self, record: &Record) -> Result<(), Error> {
        match record {
            Record::Topic(record) => self.apply_topic(record)?,
            Record::Partition(record) => self.apply_partition(record)?,
            Record::PartitionChange(record) => self.apply_partition_change(record)?,
            Record::RemoveTopic(record) => self.remove_topic(record.topic_id)?,
            Record::Config(record) => self.apply_config(record)?,
            Record::RegisterBroker(record) => self.apply_register(record)?,
            Record::BrokerRegistrationChange(record) => self.apply_registration_change(record)?,
            Record::FenceBroker(record) => {
                self.change_broker(record.id, "FenceBrokerRecord", |b| b.fenced = true)?
            }
            Record::UnfenceBroker(record) => {
                self.change_broker(record.id, "UnfenceBrokerRecord", |b| b.fenced = false)?;
            }
            Record::UnregisterBroker(record) => self.apply_unregister(record)?,
            Record::RegisterController(record) => self.apply_register_controller(record),
            Record::ClearElr(record) => self.apply_clear_elr(record)?,
            Record::FeatureLevel(record) => self.apply_feature(record),
            Record::ProducerIds(record) => self.next_producer_id = record.next_producer_id,
            Record::NoOp(_) => {}
            other => return Err(Error::UnknownRecord { kind: other.record_type(), version: 0 }),
        }
        self.end = self.end.plus(1);
        Ok(())
    }

    fn contradiction(&self, record: &'static str, reason: String) -> Error {
        let Offset(offset) = self.end;
        Error::Contradiction { record, offset, reason }
    }

    fn apply_topic(&mut self, record: &TopicRecord) -> Result<(), Error> {
        let name: Arc<str> = Arc::from(&*record.name);
        if self.topics.contains_key(&name) || self.names.contains_key(&record.topic_id) {
            return Err(self.contradiction("TopicRecord", format!("topic {name} or its id exists already")));
        }
        let topic = Topic { name: name.clone(), id: record.topic_id, partitions: Vec::new() };
        Arc::make_mut(&mut self.topics).insert(name.clone(), Arc::new(topic));
        Arc::make_mut(&mut self.names).insert(record.topic_id, name);
        Ok(())
    }

    fn topic_mut(&mut self, id: TopicId, record: &'static str) -> Result<&mut Topic, Error> {
        let Some(name) = self.names.get(&id).cloned() else {
            return Err(self.contradiction(record, format!("there is no topic with id {id}")));
        };
        let topic = Arc::make_mut(&mut self.topics).get_mut(&name);
        Ok(Arc::make_mut(topic.expect("every id's name has its topic, see the invariants")))
    }

    fn apply_partition(&mut self, record: &PartitionRecord) -> Result<(), Error> {
        let partition = Partition {
            replicas: nodes(&record.replicas),
            directories: record.directories.clone(),
            isr: nodes(&record.isr),
            elr: nodes(record.eligible_leader_replicas.as_deref().unwrap_or_default()),
            last_known_elr: nodes(record.last_known_elr.as_deref().unwrap_or_default()),
            adding: nodes(&record.adding_replicas),
            removing: nodes(&record.removing_replicas),
            leader: leader(record.leader),
            leader_epoch: LeaderEpoch(record.leader_epoch),
            partition_epoch: record.partition_epoch,
            recovering: record.leader_recovery_state != 0,
        };
        let topic = self.topic_mut(record.topic_id, "PartitionRecord")?;
        if usize::try_from(record.partition_id).ok() != Some(topic.partitions.len()) {
            let reason = format!("partition {} of {} is not the next one", record.partition_id, topic.name);
            return Err(self.contradiction("PartitionRecord", reason));
        }
        debug_assert_eq!(invariant::is_sound(&partition), Ok(()));
        let replicas = partition.replicas.clone();
        topic.partitions.push(Arc::new(partition));
        let held = Arc::make_mut(&mut self.held);
        replicas.into_iter().for_each(|node| held.add(node, record.topic_id, record.partition_id));
        Ok(())
    }

    fn apply_partition_change(&mut self, record: &PartitionChangeRecord) -> Result<(), Error> {
        let topic = self.topic_mut(record.topic_id, "PartitionChangeRecord")?;
        let at = usize::try_from(record.partition_id).ok();
        let Some(partition) = at.and_then(|at| topic.partitions.get_mut(at)) else {
            let reason = format!("topic {} has no partition {}", topic.name, record.partition_id);
            return Err(self.contradiction("PartitionChangeRecord", reason));
        };
        let before = Arc::clone(partition);
        let after = Arc::new(before.changed(record));
        debug_assert_eq!(invariant::is_sound(&after), Ok(()));
        debug_assert_eq!(invariant::follows(&before, &after), Ok(()));
        *partition = Arc::clone(&after);
        if before.replicas != after.replicas {
            let held = Arc::make_mut(&mut self.held);
            let (old, new) = (before.replicas.iter(), after.replicas.iter());
            old.for_each(|node| held.remove(*node, record.topic_id, record.partition_id));
            new.for_each(|node| held.add(*node, record.topic_id, record.partition_id));
        }
        Ok(())
    }

    fn remove_topic(&mut self, id: TopicId) -> Result<(), Error> {
        let Some(name) = Arc::make_mut(&mut self.names).remove(&id) else {
            return Err(self.contradiction("RemoveTopicRecord", format!("there is no topic with id {id}")));
        };
        let removed = Arc::make_mut(&mut self.topics).remove(&name);
        let held = Arc::make_mut(&mut self.held);
        for (partition, index) in removed.iter().flat_map(|topic| topic.partitions.iter().zip(0..)) {
            partition.replicas.iter().for_each(|node| held.remove(*node, id, index));
        }
        let scope = ConfigScope::Topic(name);
        if self.configs.contains_key(&scope) {
            Arc::make_mut(&mut self.configs).remove(&scope);
        }
        Ok(())
    }

    /// Who left an in-sync set may have missed what is acknowledged from here on. Where nobody leads nothing is acknowledged,
    /// and the eligible replicas stay what they are.
    fn apply_clear_elr(&mut self, record: &ClearElrRecord) -> Result<(), Error> {
        let stale = |topic: &Topic| topic.partitions.iter().any(|partition| loses_elr(partition));
        let ids: Vec<TopicId> = if record.topic_name.is_empty() {
            self.topics.values().filter(|topic| stale(topic)).map(|topic| topic.id).collect()
        } else {
            let topic = self.topic(&record.topic_name);
            let unknown = || self.contradiction("ClearElrRecord", format!("no topic {}", record.topic_name));
            vec![topic.ok_or_else(unknown)?.id]
        };
        for id in ids {
            let topic = self.topic_mut(id, "ClearElrRecord")?;
            for partition in topic.partitions.iter_mut().filter(|partition| loses_elr(partition)) {
                let partition = Arc::make_mut(partition);
                partition.elr.clear();
                partition.last_known_elr.clear();
                partition.partition_epoch += 1;
            }
        }
        Ok(())
    }

    fn apply_config(&mut self, record: &ConfigRecord) -> Result<(), Error> {
        let Some(scope) = ConfigScope::of_resource(record.resource_type, &record.resource_name) else {
            let reason = format!("no resource of type {} is configured here", record.resource_type);
            return Err(self.contradiction("ConfigRecord", reason));
        };
        let configs = Arc::make_mut(&mut self.configs);
        let values = Arc::make_mut(configs.entry(scope.clone()).or_default());
        match &record.value {
            Some(value) => {
                values.insert(Arc::from(&*record.name), Arc::from(&**value));
            }
            None => {
                values.remove(&*record.name);
            }
        }
        if values.is_empty() {
            configs.remove(&scope);
        }
        Ok(())
    }

    fn apply_register(&mut self, record: &RegisterBrokerRecord) -> Result<(), Error> {
        let listeners = record
            .end_points
            .iter()
            .map(|point| listener(&point.name, &point.host, point.port, point.security_protocol));
        let features = record.features.iter().map(|feature| {
            (Arc::from(&*feature.name), (feature.min_supported_version, feature.max_supported_version))
        });
        let broker = Broker {
            id: NodeId(record.broker_id),
            epoch: record.broker_epoch,
            incarnation: record.incarnation_id,
            listeners: listeners.collect(),
            rack: record.rack.as_ref().map(|rack| Arc::from(&**rack)),
            fenced: record.fenced,
            in_controlled_shutdown: record.in_controlled_shutdown,
            directories: record.log_dirs.clone(),
            features: features.collect::<BTreeMap<_, _>>(),
        };
        if let Some(known) = self.broker(broker.id)
            && known.epoch >= broker.epoch
        {
            let reason = format!("broker {} had epoch {} before {}", broker.id, known.epoch, broker.epoch);
            return Err(self.contradiction("RegisterBrokerRecord", reason));
        }
        Arc::make_mut(&mut self.brokers).insert(broker.id, Arc::new(broker));
        Ok(())
    }

    fn apply_unregister(&mut self, record: &UnregisterBrokerRecord) -> Result<(), Error> {
        match Arc::make_mut(&mut self.brokers).remove(&NodeId(record.broker_id)) {
            Some(_) => Ok(()),
            None => {
                let reason = format!("broker {} is not registered", record.broker_id);
                Err(self.contradiction("UnregisterBrokerRecord", reason))
            }
        }
    }

    fn apply_register_controller(&mut self, record: &RegisterControllerRecord) {
        let listeners = record
            .end_points
            .iter()
            .map(|point| listener(&point.name, &point.host, point.port, point.security_protocol));
        let features = record.features.iter().map(|feature| {
            (Arc::from(&*feature.name), (feature.min_supported_version, feature.max_supported_version))
        });
        let controller = ControllerNode {
            id: NodeId(record.controller_id),
            incarnation: record.incarnation_id,
            listeners: listeners.collect(),
            features: features.collect(),
        };
        Arc::make_mut(&mut self.controllers).insert(controller.id, Arc::new(controller));
    }

    fn apply_registration_change(&mut self, record: &BrokerRegistrationChangeRecord) -> Result<(), Error> {
        self.change_broker(record.broker_id, "BrokerRegistrationChangeRecord", |broker| {
            match record.fenced {
                1 => broker.fenced = true,
                -1 => broker.fenced = false,
                _ => {}
            }
            if record.in_controlled_shutdown == 1 {
                broker.in_controlled_shutdown = true;
            }
            if !record.log_dirs.is_empty() {
                broker.directories = record.log_dirs.clone();
            }
        })
    }

    fn change_broker(
        &mut self,
        id: i32,
        record: &'static str,
        change: impl FnOnce(&mut Broker),
    ) -> Result<(), Error> {
        match Arc::make_mut(&mut self.brokers).get_mut(&NodeId(id)) {
            Some(broker) => {
                change(Arc::make_mut(broker));
                Ok(())
            }
            None => Err(self.contradiction(record, format!("broker {id} is not registered"))),
        }
    }

    fn apply_feature(&mut self, record: &FeatureLevelRecord) {
        let features = Arc::make_mut(&mut self.features);
        if record.feature_level == 0 {
            features.remove(&*record.name);
        } else {
            features.insert(Arc::from(&*record.name), record.feature_level);
        }
    }
}

impl Partition {
    /// As it is after `record`.
    #[must_use]
    pub fn changed(&self, record: &PartitionChangeRecord) -> Self {
        let mut partition = self.clone();
        let replace = |field: &mut Vec<NodeId>, value: &Option<Vec<i32>>| {
            if let Some(value) = value {
                *field = nodes(value);
            }
        };
        replace(&mut partition.isr, &record.isr);
        replace(&mut partition.elr, &record.eligible_leader_replicas);
        replace(&mut partition.last_known_elr, &record.last_known_elr);
        replace(&mut partition.replicas, &record.replicas);
        replace(&mut partition.removing, &record.removing_replicas);
        replace(&mut partition.adding, &record.adding_replicas);
        if let Some(directories) = &record.directories {
            partition.directories = directories.clone();
        }
        if record.leader != LEADER_UNCHANGED {
            partition.leader = leader(record.leader);
            partition.leader_epoch = LeaderEpoch(partition.leader_epoch.0 + 1);
        }
        if record.leader_recovery_state >= 0 {
            partition.recovering = record.leader_recovery_state != 0;
        }
        partition.partition_epoch += 1;
        partition
    }
}

fn loses_elr(partition: &Partition) -> bool {
    let has_any = !partition.elr.is_empty() || !partition.last_known_elr.is_empty();
    partition.leader.is_some() && has_any
}

fn listener(name: &str, host: &str, port: u16, security_protocol: i16) -> Listener {
    Listener { name: name.into(), host: host.into(), port, security_protocol }
}

fn nodes(ids: &[i32]) -> Vec<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

fn leader(id: i32) -> Option<NodeId> {
    (id != NO_LEADER).then_some(NodeId(id))
}
