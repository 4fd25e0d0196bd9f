//! Replicas on the move.

use millstream_protocol::ErrorCode;
use millstream_protocol::messages::alter_partition::{
    AlterPartitionRequestPartitionData, AlterPartitionRequestTopicData, BrokerState,
};
use millstream_protocol::messages::alter_partition_reassignments::{
    ReassignablePartition, ReassignableTopic,
};
use millstream_protocol::messages::list_partition_reassignments::ListPartitionReassignmentsTopics;
use millstream_protocol::messages::{
    AlterPartitionReassignmentsRequest, AlterPartitionRequest, ListPartitionReassignmentsRequest,
};

use super::{Stage, controller};
use crate::metadata::{Controller, partition_change::ids};

fn reassign(stage: &mut Stage, index: i32, replicas: Option<&[i32]>) -> ErrorCode {
    let replicas = replicas.map(<[i32]>::to_vec);
    let topic = ReassignableTopic {
        name: "t".into(),
        partitions: vec![ReassignablePartition { partition_index: index, replicas }],
    };
    let request = AlterPartitionReassignmentsRequest {
        allow_replication_factor_change: true,
        topics: vec![topic],
        ..AlterPartitionReassignmentsRequest::default()
    };
    let decision = controller().alter_reassignments(&stage.image, &request);
    stage.commit(decision.records);
    ErrorCode::from_code(decision.response.responses[0].partitions[0].error_code)
}

/// Its leader proposes this in-sync set for `t-0`.
fn in_sync(stage: &mut Stage, isr: &[i32]) -> ErrorCode {
    let partition = stage.partition(0);
    let state = |id: &i32| BrokerState { broker_id: *id, broker_epoch: stage.epoch(*id) };
    let wanted = AlterPartitionRequestPartitionData {
        leader_epoch: partition.leader_epoch.0,
        partition_epoch: partition.partition_epoch,
        new_isr_with_epochs: isr.iter().map(state).collect(),
        ..AlterPartitionRequestPartitionData::default()
    };
    let broker_id = partition.leader.unwrap().0;
    let topic_id = stage.image.topic("t").unwrap().id;
    let request = AlterPartitionRequest {
        broker_id,
        broker_epoch: stage.epoch(broker_id),
        topics: vec![AlterPartitionRequestTopicData { topic_id, partitions: vec![wanted] }],
    };
    let decision = controller().alter_partition(&stage.image, &request);
    stage.commit(decision.records);
    ErrorCode::from_code(decision.response.topics[0].partitions[0].error_code)
}

/// Replicas, in-sync, adding and removing replicas of `t-0`.
fn moving(stage: &Stage) -> [Vec<i32>; 4] {
    let partition = stage.partition(0);
    [&partition.replicas, &partition.isr, &partition.adding, &partition.removing].map(|nodes| ids(nodes))
}

#[test]
fn a_reassignment_adds_waits_and_drops() {
    let mut stage = Stage::of(4);
    stage.create(&[&[1, 2]]);
    assert_eq!(reassign(&mut stage, 0, Some(&[3, 4])), ErrorCode::None);
    assert_eq!(moving(&stage), [vec![3, 4, 1, 2], vec![1, 2], vec![3, 4], vec![1, 2]]);
    let list = |topics| {
        let request =
            ListPartitionReassignmentsRequest { topics, ..ListPartitionReassignmentsRequest::default() };
        Controller::list_reassignments(&stage.image, &request).topics
    };
    let named = |name: &str, index| {
        Some(vec![ListPartitionReassignmentsTopics { name: name.into(), partition_indexes: vec![index] }])
    };
    let listed = list(None);
    assert_eq!(listed[0].partitions[0].adding_replicas, [3, 4]);
    assert_eq!(list(named("t", 0)), listed);
    assert!(list(named("t", 1)).is_empty() && list(named("u", 0)).is_empty());
    assert_eq!(in_sync(&mut stage, &[1, 2, 3]), ErrorCode::None);
    assert_eq!(moving(&stage)[2], [3, 4], "4 is still missing");
    assert_eq!(in_sync(&mut stage, &[1, 2, 3, 4]), ErrorCode::NewLeaderElected);
    assert_eq!(moving(&stage), [vec![3, 4], vec![3, 4], vec![], vec![]]);
    assert_eq!(stage.state(0).0, 3);
    assert_eq!(stage.image.partitions_of(millstream_record::NodeId(1)).count(), 0);
}

#[test]
fn a_shrink_is_done_at_once_and_begins_an_epoch() {
    let mut stage = Stage::of(3);
    stage.create(&[&[1, 2, 3]]);
    assert_eq!(reassign(&mut stage, 0, Some(&[1, 2])), ErrorCode::None);
    assert_eq!(moving(&stage), [vec![1, 2], vec![1, 2], vec![], vec![]]);
    assert_eq!(stage.state(0).1, 1, "so that the dropped replica's fetches are of the past");
    assert_eq!(reassign(&mut stage, 0, Some(&[2, 1])), ErrorCode::None);
    assert_eq!((moving(&stage)[0].clone(), stage.state(0)), (vec![2, 1], (1, 1, vec![1, 2], vec![])));
}

#[test]
fn a_reassignment_can_be_replaced_and_cancelled() {
    let mut stage = Stage::of(5);
    stage.create(&[&[1, 2]]);
    assert_eq!(reassign(&mut stage, 0, Some(&[1, 3])), ErrorCode::None);
    assert_eq!(in_sync(&mut stage, &[1]), ErrorCode::None);
    assert_eq!(reassign(&mut stage, 0, Some(&[4, 5])), ErrorCode::None);
    assert_eq!(moving(&stage), [vec![4, 5, 1, 2], vec![1], vec![4, 5], vec![1, 2]], "3 is forgotten");
    assert_eq!(reassign(&mut stage, 0, None), ErrorCode::None);
    assert_eq!(moving(&stage), [vec![1, 2], vec![1], vec![], vec![]]);
    assert_eq!(reassign(&mut stage, 0, None), ErrorCode::NoReassignmentInProgress);
}

#[test]
fn who_alone_has_the_records_is_not_dropped() {
    for mut stage in [Stage::of(4), Stage::without_elr(4)] {
        stage.create(&[&[1]]);
        assert_eq!(reassign(&mut stage, 0, Some(&[2, 3])), ErrorCode::None);
        assert_eq!(in_sync(&mut stage, &[1, 2]), ErrorCode::None);
        stage.fence(&[1]);
        assert_eq!(stage.state(0), (2, 1, vec![2], vec![]));
        assert_eq!(reassign(&mut stage, 0, None), ErrorCode::InvalidReplicaAssignment, "only 2 is in sync");
        assert_eq!(reassign(&mut stage, 0, Some(&[4])), ErrorCode::None);
        assert_eq!(moving(&stage), [vec![4, 2, 3, 1], vec![2], vec![4], vec![2, 3, 1]]);
        assert_eq!(stage.state(0).0, 2, "and goes on leading");
        stage.beat(1, |_| {});
        stage.configure("unclean.leader.election.enable", "true");
        assert_eq!(in_sync(&mut stage, &[2, 4]), ErrorCode::NewLeaderElected);
        assert_eq!(moving(&stage), [vec![4], vec![4], vec![], vec![]]);
    }
}

#[test]
fn bad_reassignments_are_refused_with_kafkas_codes() {
    use ErrorCode as E;
    type Row = (&'static str, i32, Option<&'static [i32]>, bool, ErrorCode);
    let table: [Row; 9] = [
        ("t", 0, Some(&[2, 3]), false, E::None),
        ("none", 0, Some(&[2]), true, E::UnknownTopicOrPartition),
        ("t", 7, Some(&[2]), true, E::UnknownTopicOrPartition),
        ("t", 0, Some(&[]), true, E::InvalidReplicaAssignment),
        ("t", 0, Some(&[2, 2]), true, E::InvalidReplicaAssignment),
        ("t", 0, Some(&[2, 9]), true, E::InvalidReplicaAssignment),
        ("t", 0, Some(&[2]), false, E::InvalidReplicationFactor),
        ("t", 0, Some(&[2]), true, E::None),
        ("t", 0, None, true, E::NoReassignmentInProgress),
    ];
    for (name, partition_index, replicas, may_change, expected) in table {
        let mut stage = Stage::of(3);
        stage.create(&[&[1, 2]]);
        let replicas = replicas.map(<[i32]>::to_vec);
        let asked = ReassignablePartition { partition_index, replicas };
        let shown = format!("{name} {asked:?}");
        let request = AlterPartitionReassignmentsRequest {
            allow_replication_factor_change: may_change,
            topics: vec![ReassignableTopic { name: name.into(), partitions: vec![asked.clone(), asked] }],
            ..AlterPartitionReassignmentsRequest::default()
        };
        let decision = controller().alter_reassignments(&stage.image, &request);
        let answers = &decision.response.responses[0].partitions;
        assert_eq!(ErrorCode::from_code(answers[0].error_code), expected, "{shown}");
        assert_eq!(answers[1].error_code, E::InvalidRequest.code(), "{shown}");
        assert_eq!(decision.records.len(), usize::from(expected == E::None), "{shown}");
    }
}
