//! What the controller decides, and that every decision fits the image it was made against.

mod alter_partition;
mod batches;
mod brokers;
mod elections;
mod features;
mod heartbeat;
mod history;
mod placement;
mod reassignment;
mod replica_dirs;
mod topics;

use bytestring::ByteString;
use millstream_protocol::ErrorCode;
use millstream_protocol::messages::broker_registration::Feature;
use millstream_protocol::messages::create_topics::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use millstream_protocol::messages::{
    BrokerHeartbeatRequest, BrokerHeartbeatResponse, BrokerRegistrationRequest, CreateTopicsRequest,
    FeatureLevelRecord, PartitionRecord, TopicRecord,
};
use millstream_record::{LeaderEpoch, Millis, NodeId, Uuid};

use super::partition_change::ELR_FEATURE;
use super::{Committed, Controller, Image, Liveness, Partition, Record, SupportedFeatures, invariant};

const SESSION_MS: i64 = 9_000;

fn controller() -> Controller {
    Controller::default()
}

fn directory(broker: i32) -> Uuid {
    Uuid::from_random(u64::try_from(broker).unwrap(), 2)
}

fn registration(broker: i32, incarnation: u64) -> BrokerRegistrationRequest {
    let feature = |(name, min_supported_version, max_supported_version): (&'static str, i16, i16)| Feature {
        name: name.into(),
        min_supported_version,
        max_supported_version,
    };
    BrokerRegistrationRequest {
        broker_id: broker,
        incarnation_id: Uuid::from_random(incarnation, 1),
        log_dirs: vec![directory(broker)],
        features: SupportedFeatures::default().iter().map(feature).collect(),
        rack: None,
        ..BrokerRegistrationRequest::default()
    }
}

/// Applies records as they come out of a log, and holds the image against its rules.
fn commit(image: &mut Image, records: Vec<Record>) {
    let stored = records.iter().map(|record| Record::decode(record.encode().unwrap()).unwrap());
    let (base, end) = (image.end(), image.end().plus(i64::try_from(records.len()).unwrap()));
    let batch = Committed { base, end, epoch: LeaderEpoch(1), snapshot: false, records: stored.collect() };
    image.apply_batch(&batch).unwrap();
    assert_eq!(invariant::check(image), Ok(()));
}

/// An active controller, what is committed and what it heard, at a time that passes when told.
#[derive(Clone)]
struct Stage {
    image: Image,
    liveness: Liveness,
    now: Millis,
}

impl Stage {
    /// A new cluster without brokers.
    fn empty() -> Self {
        let mut image = Image::default();
        commit(&mut image, controller().bootstrap(&Image::default()));
        let mut stage = Self { image, liveness: Liveness::new(SESSION_MS), now: Millis(1_000_000) };
        stage.liveness.lead(stage.now, &stage.image);
        stage
    }

    /// Brokers 1 to `brokers`, all active.
    fn of(brokers: i32) -> Self {
        let mut stage = Self::empty();
        (1..=brokers).for_each(|broker| stage.start(registration(broker, 1)));
        stage
    }

    /// The same in a cluster that keeps no eligible leader replicas.
    fn without_elr(brokers: i32) -> Self {
        let mut stage = Self::of(brokers);
        let off = FeatureLevelRecord { name: ELR_FEATURE.into(), feature_level: 0 };
        stage.commit(vec![Record::FeatureLevel(off)]);
        stage
    }

    fn commit(&mut self, records: Vec<Record>) {
        commit(&mut self.image, records);
        self.liveness.observe(self.now, &self.image);
    }

    fn register(&mut self, request: &BrokerRegistrationRequest) -> ErrorCode {
        let decision = controller().register_broker(&self.image, &self.liveness, self.now, request);
        self.commit(decision.records);
        ErrorCode::from_code(decision.response.error_code)
    }

    /// Registers and serves.
    fn start(&mut self, request: BrokerRegistrationRequest) {
        let id = request.broker_id;
        assert_eq!(self.register(&request), ErrorCode::None, "{request:?}");
        assert!(!self.beat(id, |_| {}).is_fenced);
    }

    /// A broker that ended in order comes back.
    fn restart(&mut self, broker: i32, incarnation: u64) {
        let previous_broker_epoch = self.epoch(broker);
        self.start(BrokerRegistrationRequest { previous_broker_epoch, ..registration(broker, incarnation) });
    }

    fn epoch(&self, broker: i32) -> i64 {
        self.image.broker(NodeId(broker)).unwrap().epoch
    }

    /// A heartbeat of a broker that has applied everything, unless `change` says other.
    fn beat(
        &mut self,
        broker: i32,
        change: impl FnOnce(&mut BrokerHeartbeatRequest),
    ) -> BrokerHeartbeatResponse {
        let mut request = BrokerHeartbeatRequest {
            broker_id: broker,
            broker_epoch: self.epoch(broker),
            current_metadata_offset: self.image.end().0 - 1,
            ..BrokerHeartbeatRequest::default()
        };
        change(&mut request);
        self.liveness.heard(self.now, &request);
        let decision = controller().heartbeat(&self.image, &self.liveness, &request);
        self.commit(decision.records);
        decision.response
    }

    fn fence(&mut self, brokers: &[i32]) {
        let brokers: Vec<NodeId> = brokers.iter().copied().map(NodeId).collect();
        self.commit(controller().fence(&self.image, &brokers).records);
    }

    /// Creates topic `t` with these replicas for each partition, all of them in sync.
    fn create(&mut self, replicas: &[&[i32]]) {
        let topic_id = Uuid::from_random(500, 500);
        let partition = |(partition_id, replicas): (i32, &&[i32])| {
            Record::Partition(PartitionRecord {
                partition_id,
                topic_id,
                replicas: replicas.to_vec(),
                isr: replicas.to_vec(),
                leader: replicas[0],
                leader_epoch: 0,
                partition_epoch: 0,
                directories: replicas.iter().map(|id| directory(*id)).collect(),
                ..PartitionRecord::default()
            })
        };
        let mut records = vec![Record::Topic(TopicRecord { name: "t".into(), topic_id })];
        records.extend((0..).zip(replicas).map(partition));
        self.commit(records);
    }

    /// A session passes in which only these brokers are heard; gives those that are to be fenced.
    fn pass_session(&mut self, heard: &[i32]) -> Vec<NodeId> {
        let end = self.now.plus_ms(SESSION_MS);
        loop {
            let silent = self.liveness.expired(self.now, &self.image);
            if self.now >= end {
                return silent;
            }
            assert!(silent.is_empty());
            self.now = self.liveness.next_look(self.now).min(end);
            heard.iter().for_each(|broker| assert!(!self.beat(*broker, |_| {}).is_fenced));
        }
    }

    /// Partition `index` of topic `t`.
    fn partition(&self, index: i32) -> &Partition {
        self.image.partition("t", index).unwrap()
    }

    /// Leader, leader epoch, in-sync and eligible replicas of partition `index` of topic `t`.
    fn state(&self, index: i32) -> (i32, i32, Vec<i32>, Vec<i32>) {
        let partition = self.partition(index);
        let ids = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect();
        let leader = partition.leader.map_or(-1, |leader| leader.0);
        (leader, partition.leader_epoch.0, ids(&partition.isr), ids(&partition.elr))
    }

    /// Sets a configuration of topic `t`.
    fn configure(&mut self, name: &str, value: &str) {
        use millstream_protocol::messages::IncrementalAlterConfigsRequest;
        use millstream_protocol::messages::incremental_alter_configs::{
            AlterConfigsResource, AlterableConfig,
        };
        let config = AlterableConfig { name: name.into(), config_operation: 0, value: Some(value.into()) };
        let resource =
            AlterConfigsResource { resource_type: 2, resource_name: "t".into(), configs: vec![config] };
        let request = IncrementalAlterConfigsRequest {
            resources: vec![resource],
            ..IncrementalAlterConfigsRequest::default()
        };
        let decision = controller().alter_configs(&self.image, &request);
        assert_eq!(decision.response.responses[0].error_code, 0);
        self.commit(decision.records);
    }
}

/// A cluster of `brokers` brokers.
fn cluster(brokers: i32) -> Image {
    Stage::of(brokers).image
}

fn topic(name: &str, partitions: i32, replicas: i16) -> CreatableTopic {
    CreatableTopic {
        name: name.into(),
        num_partitions: partitions,
        replication_factor: replicas,
        ..CreatableTopic::default()
    }
}

fn assigned(name: &str, assignments: &[(i32, &[i32])]) -> CreatableTopic {
    let assignment = |(index, brokers): &(i32, &[i32])| CreatableReplicaAssignment {
        partition_index: *index,
        broker_ids: brokers.to_vec(),
    };
    CreatableTopic { assignments: assignments.iter().map(assignment).collect(), ..topic(name, -1, -1) }
}

fn configured(name: &str, config: &str, value: Option<&str>) -> CreatableTopic {
    let config = CreatableTopicConfig { name: config.into(), value: value.map(ByteString::from) };
    CreatableTopic { configs: vec![config], ..topic(name, 1, 1) }
}

/// Creates topics and commits what was decided; the codes of the answer, in order.
fn create(image: &mut Image, topics: Vec<CreatableTopic>) -> Vec<ErrorCode> {
    let mut next = 1_000 + u64::try_from(image.end().0).unwrap();
    let mut ids = || {
        next += 1;
        Uuid::from_random(next, next)
    };
    let request = CreateTopicsRequest { topics, ..CreateTopicsRequest::default() };
    let decision = controller().create_topics(image, &request, &mut ids);
    commit(image, decision.records);
    decision.response.topics.iter().map(|topic| ErrorCode::from_code(topic.error_code)).collect()
}
