//! Random histories of a cluster: whatever happens, what was decided can be applied, and the rules hold at every step.

use std::collections::BTreeMap;

use millstream_protocol::messages::alter_partition::{
    AlterPartitionRequestPartitionData, AlterPartitionRequestTopicData, BrokerState,
};
use millstream_protocol::messages::alter_partition_reassignments::{
    ReassignablePartition, ReassignableTopic,
};
use millstream_protocol::messages::create_partitions::CreatePartitionsTopic;
use millstream_protocol::messages::incremental_alter_configs::{AlterConfigsResource, AlterableConfig};
use millstream_protocol::messages::update_features::FeatureUpdateKey;
use millstream_protocol::messages::{
    AllocateProducerIdsRequest, AlterPartitionReassignmentsRequest, AlterPartitionRequest,
    BrokerHeartbeatRequest, BrokerRegistrationRequest, CreatePartitionsRequest, CreateTopicsRequest,
    DeleteTopicsRequest, ElectLeadersRequest, IncrementalAlterConfigsRequest, UnregisterBrokerRequest,
    UpdateFeaturesRequest,
};
use millstream_record::{NodeId, TopicId, Uuid};
use proptest::prelude::*;

use super::{SESSION_MS, Stage, commit, controller, directory, registration, topic};
use crate::config::{Effective, Static};
use crate::metadata::partition_change::ELR_FEATURE;
use crate::metadata::{Image, Partition, Record, placement};

const BROKERS: i32 = 4;

#[derive(Clone, Debug)]
enum Act {
    Create { topic: u8, partitions: u8, replicas: u8 },
    Delete(u8),
    Grow { topic: u8, count: u8 },
    Set { topic: u8, key: u8, value: u8 },
    Start { broker: i32, is_clean: bool, is_emptied: bool },
    Beat { broker: i32, is_late: bool, want_fence: bool, want_shut_down: bool },
    Silence { heard: u8 },
    Alter { at: u8, isr: u8, is_settled: bool },
    Reassign { at: u8, replicas: Option<Vec<i32>> },
    Elect { is_unclean: bool },
    Balance,
    ElectLeaderless,
    Unregister(i32),
    Eligible { is_on: bool },
    ProducerIds(i32),
}

fn act() -> impl Strategy<Value = Act> {
    let broker = || 1..=BROKERS;
    let some_brokers = || prop::sample::subsequence((1..=BROKERS).collect::<Vec<_>>(), 1..=3).prop_shuffle();
    prop_oneof![
        3 => (0..4u8, 1..4u8, 1..4u8)
            .prop_map(|(topic, partitions, replicas)| Act::Create { topic, partitions, replicas }),
        1 => (0..4u8).prop_map(Act::Delete),
        1 => (0..4u8, 1..6u8).prop_map(|(topic, count)| Act::Grow { topic, count }),
        2 => (0..4u8, 0..3u8, 0..3u8).prop_map(|(topic, key, value)| Act::Set { topic, key, value }),
        6 => (broker(), any::<bool>(), prop::bool::weighted(0.1))
            .prop_map(|(broker, is_clean, is_emptied)| Act::Start { broker, is_clean, is_emptied }),
        9 => (broker(), prop::bool::weighted(0.1), prop::bool::weighted(0.1), prop::bool::weighted(0.2))
            .prop_map(|(broker, is_late, want_fence, want_shut_down)| {
                Act::Beat { broker, is_late, want_fence, want_shut_down }
            }),
        2 => (0..16u8).prop_map(|heard| Act::Silence { heard }),
        9 => (any::<u8>(), any::<u8>(), prop::bool::weighted(0.9))
            .prop_map(|(at, isr, is_settled)| Act::Alter { at, isr, is_settled }),
        4 => (any::<u8>(), prop::option::weighted(0.8, some_brokers()))
            .prop_map(|(at, replicas)| Act::Reassign { at, replicas }),
        1 => any::<bool>().prop_map(|is_unclean| Act::Elect { is_unclean }),
        1 => Just(Act::Balance),
        1 => Just(Act::ElectLeaderless),
        1 => broker().prop_map(Act::Unregister),
        1 => any::<bool>().prop_map(|is_on| Act::Eligible { is_on }),
        1 => broker().prop_map(Act::ProducerIds),
    ]
}

/// One partition of all there are, if there is any.
fn pick(image: &Image, at: u8) -> Option<(TopicId, String, i32, Partition)> {
    let all: Vec<_> = image
        .topics()
        .flat_map(|topic| {
            topic.partitions.iter().zip(0..).map(move |(partition, index)| (topic, index, partition))
        })
        .collect();
    let (topic, index, partition) = all.get(usize::from(at) % all.len().max(1))?;
    Some((topic.id, topic.name.to_string(), *index, (***partition).clone()))
}

/// The in-sync set that a leader proposes: itself, and the replicas whose bits are set.
fn members(partition: &Partition, isr: u8) -> Vec<NodeId> {
    let is_member = |node: &&NodeId| partition.leader == Some(**node) || isr >> node.0 & 1 == 1;
    partition.replicas.iter().filter(is_member).copied().collect()
}

/// What the controller decides about `act`, the `step`th of a history.
fn decide(stage: &mut Stage, act: &Act, step: u64) -> Vec<Record> {
    let name = |n: u8| format!("topic-{n}");
    let image = &stage.image;
    match act {
        Act::Create { topic: n, partitions, replicas } => {
            let topics = vec![topic(&name(*n), (*partitions).into(), (*replicas).into())];
            let request = CreateTopicsRequest { topics, ..CreateTopicsRequest::default() };
            controller().create_topics(image, &request, &mut || Uuid::from_random(step, step)).records
        }
        Act::Delete(n) => {
            let topic_names = vec![name(*n).into()];
            let request = DeleteTopicsRequest { topic_names, ..DeleteTopicsRequest::default() };
            controller().delete_topics(image, &request).records
        }
        Act::Grow { topic, count } => {
            let grow = CreatePartitionsTopic {
                name: name(*topic).into(),
                count: (*count).into(),
                ..CreatePartitionsTopic::default()
            };
            let request =
                CreatePartitionsRequest { topics: vec![grow], ..CreatePartitionsRequest::default() };
            controller().create_partitions(image, &request).records
        }
        Act::Set { topic, key, value } => {
            let key =
                ["min.insync.replicas", "unclean.leader.election.enable", "retention.ms"][usize::from(*key)];
            let value = match (key, value) {
                (_, 0) => None,
                ("unclean.leader.election.enable", value) => Some((*value == 1).to_string().into()),
                (_, value) => Some(value.to_string().into()),
            };
            let config =
                AlterableConfig { name: key.into(), config_operation: i8::from(value.is_none()), value };
            let resource_name = name(*topic).into();
            let resource = AlterConfigsResource { resource_type: 2, resource_name, configs: vec![config] };
            let request = IncrementalAlterConfigsRequest {
                resources: vec![resource],
                ..IncrementalAlterConfigsRequest::default()
            };
            controller().alter_configs(image, &request).records
        }
        Act::Start { broker, is_clean, is_emptied } => {
            let known = image.broker(NodeId(*broker));
            let kept = known.map_or_else(|| vec![directory(*broker)], |known| known.directories.clone());
            let request = BrokerRegistrationRequest {
                log_dirs: if *is_emptied { vec![Uuid::from_random(step, 99)] } else { kept },
                previous_broker_epoch: known.filter(|_| *is_clean).map_or(-1, |known| known.epoch),
                ..registration(*broker, step)
            };
            controller().register_broker(image, &stage.liveness, stage.now, &request).records
        }
        Act::Beat { broker, is_late, want_fence, want_shut_down } => {
            let request = BrokerHeartbeatRequest {
                broker_id: *broker,
                broker_epoch: image.broker(NodeId(*broker)).map_or(-1, |known| known.epoch),
                current_metadata_offset: if *is_late { 0 } else { image.end().0 - 1 },
                want_fence: *want_fence,
                want_shut_down: *want_shut_down,
                ..BrokerHeartbeatRequest::default()
            };
            stage.liveness.heard(stage.now, &request);
            controller().heartbeat(image, &stage.liveness, &request).records
        }
        Act::Silence { heard } => {
            let end = stage.now.plus_ms(SESSION_MS);
            while stage.now < end {
                stage.now = stage.liveness.next_look(stage.now);
                for broker in stage.image.brokers().filter(|broker| heard >> (broker.id.0 - 1) & 1 == 1) {
                    let request = BrokerHeartbeatRequest {
                        broker_id: broker.id.0,
                        broker_epoch: broker.epoch,
                        ..BrokerHeartbeatRequest::default()
                    };
                    stage.liveness.heard(stage.now, &request);
                }
                let silent = stage.liveness.expired(stage.now, &stage.image);
                if !silent.is_empty() {
                    return controller().fence(&stage.image, &silent).records;
                }
            }
            Vec::new()
        }
        Act::Alter { at, isr, is_settled } => {
            let Some((topic_id, _, partition_index, partition)) = pick(image, *at) else { return Vec::new() };
            let Some(leader) = partition.leader else { return Vec::new() };
            let epoch = |node: NodeId| image.broker(node).map_or(-1, |known| known.epoch);
            let members = members(&partition, *isr);
            let state = |node: &NodeId| BrokerState { broker_id: node.0, broker_epoch: epoch(*node) };
            let wanted = AlterPartitionRequestPartitionData {
                partition_index,
                leader_epoch: partition.leader_epoch.0,
                partition_epoch: partition.partition_epoch,
                new_isr_with_epochs: members.iter().map(state).collect(),
                leader_recovery_state: i8::from(partition.recovering && !is_settled),
                ..AlterPartitionRequestPartitionData::default()
            };
            let topics = vec![AlterPartitionRequestTopicData { topic_id, partitions: vec![wanted] }];
            let request = AlterPartitionRequest { broker_id: leader.0, broker_epoch: epoch(leader), topics };
            controller().alter_partition(image, &request).records
        }
        Act::Reassign { at, replicas } => {
            let Some((_, name, partition_index, _)) = pick(image, *at) else { return Vec::new() };
            let partitions = vec![ReassignablePartition { partition_index, replicas: replicas.clone() }];
            let request = AlterPartitionReassignmentsRequest {
                allow_replication_factor_change: true,
                topics: vec![ReassignableTopic { name: name.into(), partitions }],
                ..AlterPartitionReassignmentsRequest::default()
            };
            controller().alter_reassignments(image, &request).records
        }
        Act::Elect { is_unclean } => {
            let request = ElectLeadersRequest {
                election_type: i8::from(*is_unclean),
                topic_partitions: None,
                ..ElectLeadersRequest::default()
            };
            controller().elect_leaders(image, &request).records
        }
        Act::Balance => controller().balance_leaders(image).records,
        Act::ElectLeaderless => controller().elect_leaderless(image).records,
        Act::Unregister(broker_id) => {
            let request = UnregisterBrokerRequest { broker_id: *broker_id };
            controller().unregister_broker(image, &request).records
        }
        Act::Eligible { is_on } => {
            let update = FeatureUpdateKey {
                feature: ELR_FEATURE.into(),
                max_version_level: (*is_on).into(),
                upgrade_type: if *is_on { 1 } else { 2 },
                ..FeatureUpdateKey::default()
            };
            let request =
                UpdateFeaturesRequest { feature_updates: vec![update], ..UpdateFeaturesRequest::default() };
            let members = image.brokers().map(|broker| broker.id).collect();
            controller().update_features(image, &members, &request).records
        }
        Act::ProducerIds(broker_id) => {
            let broker_epoch = image.broker(NodeId(*broker_id)).map_or(-1, |known| known.epoch);
            let request = AllocateProducerIdsRequest { broker_id: *broker_id, broker_epoch };
            controller().allocate_producer_ids(image, &request).records
        }
    }
}

/// Who led each partition in each epoch.
type Reigns = BTreeMap<(TopicId, i32, i32), NodeId>;

/// What no history may break, beside the rules of a single image.
fn check(image: &Image, reigns: &mut Reigns) {
    for topic in image.topics() {
        for (partition, index) in topic.partitions.iter().zip(0..) {
            let Some(leader) = partition.leader else { continue };
            let first = reigns.entry((topic.id, index, partition.leader_epoch.0)).or_insert(leader);
            assert_eq!(*first, leader, "two leaders in one epoch: {partition:?}");
            let broker = image.broker(leader).expect("who leads is registered");
            assert!(broker.is_active(), "who leads is active: {partition:?}");
            assert!(broker.has_directory(partition.directory_of(leader)), "who leads has it: {partition:?}");
            let has_fenced =
                partition.isr.iter().any(|node| image.broker(*node).is_none_or(|broker| broker.fenced));
            assert!(!has_fenced, "who is in sync beside a leader is trusted: {partition:?}");
        }
    }
    for broker in (1..=BROKERS).map(NodeId) {
        let mut held: Vec<(TopicId, i32)> =
            image.partitions_of(broker).map(|(topic, index, _)| (topic.id, index)).collect();
        let mut scanned: Vec<(TopicId, i32)> = image
            .topics()
            .flat_map(|topic| {
                let holds =
                    |(partition, _): &(&std::sync::Arc<Partition>, i32)| partition.replicas.contains(&broker);
                topic.partitions.iter().zip(0..).filter(holds).map(|(_, index)| (topic.id, index))
            })
            .collect();
        held.sort();
        scanned.sort();
        assert_eq!(held, scanned);
    }
}

/// What each log directory holds of what was acknowledged, as far as the in-sync sets promise it.
#[derive(Default)]
struct Disks {
    acknowledged: BTreeMap<(TopicId, i32), u64>,
    written: BTreeMap<(TopicId, i32, NodeId, Uuid), u64>,
}

impl Disks {
    /// A broker lost what is on its disk.
    fn lose(&mut self, broker: NodeId) {
        self.written.iter_mut().filter(|((_, _, node, _), _)| *node == broker).for_each(|(_, end)| *end = 0);
    }

    /// Whom a leader proposes has all that it has: in the directory that the partition names, or where the broker has lost that, in
    /// the one that it has instead.
    fn copy(&mut self, image: &Image, at: u8, isr: u8) {
        let Some((topic, _, index, partition)) = pick(image, at) else { return };
        let end = self.acknowledged.get(&(topic, index)).copied().unwrap_or(0);
        if partition.leader.is_some() {
            for node in members(&partition, isr) {
                let named = partition.directory_of(node);
                let has_it = image.broker(node).is_none_or(|broker| broker.has_directory(named));
                let directory = if has_it { named } else { placement::directory(image, node) };
                self.written.insert((topic, index, node, directory), end);
            }
        }
    }

    /// Every leader that may acknowledges one record more, which all that are in sync have. A leader that was elected in order
    /// must have all that ever was acknowledged.
    fn serve(&mut self, image: &Image) {
        for topic in image.topics() {
            let effective = Effective::new(image, NodeId(-1), &NO_STATICS);
            let configured =
                effective.topic_value(Some(&topic.name), "min.insync.replicas").unwrap().parse().unwrap();
            for (partition, index) in topic.partitions.iter().zip(0..) {
                let Some(leader) = partition.leader else { continue };
                let at = |node: NodeId| (topic.id, index, node, partition.directory_of(node));
                let acknowledged = self.acknowledged.entry((topic.id, index)).or_default();
                let has = self.written.get(&at(leader)).copied().unwrap_or(0);
                if partition.recovering {
                    *acknowledged = has;
                }
                assert_eq!(
                    has, *acknowledged,
                    "leader {leader} of {partition:?} misses what was acknowledged"
                );
                if partition.isr.len() >= partition.min_isr(configured) {
                    *acknowledged += 1;
                }
                let end = *acknowledged;
                self.written.extend(partition.isr.iter().map(|node| (at(*node), end)));
            }
        }
    }
}

static NO_STATICS: Static = Static::new();

/// Lives through a history, with every rule checked at every step.
fn live(acts: &[Act]) -> Stage {
    let mut stage = Stage::of(BROKERS);
    let mut log: Vec<Record> = Vec::new();
    let (start, mut reigns, mut disks) = (stage.image.clone(), Reigns::new(), Disks::default());
    for (act, step) in acts.iter().zip(1_000..) {
        stage.now = stage.now.plus_ms(1);
        let before = stage.image.clone();
        if let Act::Alter { at, isr, .. } = act {
            disks.copy(&before, *at, *isr);
        }
        let records = decide(&mut stage, act, step);
        log.extend(records.iter().cloned());
        stage.commit(records);
        if let Act::Start { broker, is_clean, .. } = act {
            let epoch = |image: &Image| image.broker(NodeId(*broker)).map(|known| known.epoch);
            let was_known = epoch(&before).is_some();
            let keeps_eligible = stage.image.feature(ELR_FEATURE) > 0;
            if keeps_eligible && epoch(&before) != epoch(&stage.image) && !(*is_clean && was_known) {
                disks.lose(NodeId(*broker));
            }
        }
        check(&stage.image, &mut reigns);
        disks.serve(&stage.image);
    }
    let mut replayed = start;
    commit(&mut replayed, log);
    assert_eq!(replayed, stage.image);
    let snapshot: Vec<Record> = stage.image.to_records().collect();
    let restored = Image::from_records(stage.image.end(), stage.image.epoch(), &snapshot).unwrap();
    assert_eq!(restored, stage.image);
    stage
}

proptest! {
    #[test]
    fn every_history_keeps_the_rules_and_can_be_told_again(acts in prop::collection::vec(act(), 1..120)) {
        live(&acts);
    }
}

/// A replica was copied to a disk that is not the one which the partition named, and all others then moved away: it leads. (Found by
/// the property above; nobody led until the next look at partitions without a leader.)
#[test]
fn who_stays_of_a_reassignment_leads_from_a_new_disk() {
    let create = Act::Create { topic: 0, partitions: 1, replicas: 3 };
    let partition = |stage: &Stage| pick(&stage.image, 0).unwrap().3;
    let first = partition(&live(std::slice::from_ref(&create))).leader.unwrap();
    let acts = [
        create,
        Act::Alter { at: 0, isr: 0, is_settled: true }, // the first leader alone is in sync, and loses its disk
        Act::Silence { heard: 0b1111 & !(1 << (first.0 - 1)) },
        Act::Start { broker: first.0, is_clean: false, is_emptied: true },
        Act::Elect { is_unclean: true },
        Act::Reassign { at: 0, replicas: Some(vec![first.0]) },
        Act::Beat { broker: first.0, is_late: false, want_fence: false, want_shut_down: false },
        Act::Alter { at: 0, isr: 1 << first.0, is_settled: true },
    ];
    let stage = live(&acts);
    let left = partition(&stage);
    assert_eq!((&left.replicas[..], left.leader), (&[first][..], Some(first)), "{left:?}");
}
