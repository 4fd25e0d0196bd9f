//! What operators ask of a cluster, of the one node that is a cluster: elections, reassignments, features, the quorum.

use millstream_protocol::ErrorCode;
use millstream_protocol::messages::alter_partition_reassignments::{
    ReassignablePartition, ReassignableTopic,
};
use millstream_protocol::messages::describe_quorum::{
    DescribeQuorumRequestPartitionData, DescribeQuorumRequestTopicData,
};
use millstream_protocol::messages::elect_leaders::TopicPartitions;
use millstream_protocol::messages::update_features::FeatureUpdateKey;
use millstream_protocol::messages::{
    AddRaftVoterRequest, AlterPartitionReassignmentsRequest, DescribeQuorumRequest, ElectLeadersRequest,
    ListPartitionReassignmentsRequest, RemoveRaftVoterRequest, UnregisterBrokerRequest,
    UpdateFeaturesRequest,
};

use crate::harness::Harness;

fn code(code: i16) -> ErrorCode {
    ErrorCode::from_code(code)
}

#[test]
fn the_preferred_leader_leads_already_and_an_unknown_partition_is_named() {
    let node = Harness::start();
    node.create("t", 2, &[]);
    let named = TopicPartitions { topic: "t".into(), partitions: vec![1, 7] };
    let elect = |topic_partitions| ElectLeadersRequest { topic_partitions, ..ElectLeadersRequest::default() };
    let answer = node.call(elect(Some(vec![named])));
    let of_topic = &answer.replica_election_results[0];
    let codes: Vec<_> = of_topic
        .partition_result
        .iter()
        .map(|result| (result.partition_id, code(result.error_code)))
        .collect();
    assert_eq!(
        (&*of_topic.topic, codes),
        ("t", vec![(1, ErrorCode::ElectionNotNeeded), (7, ErrorCode::UnknownTopicOrPartition)])
    );
    let all = node.call(elect(None));
    assert_eq!((all.error_code, all.replica_election_results.len()), (0, 0));
}

#[test]
fn replicas_cannot_move_to_a_broker_that_is_not_there() {
    let node = Harness::start();
    node.create("t", 1, &[]);
    let move_to = |replicas| AlterPartitionReassignmentsRequest {
        topics: vec![ReassignableTopic {
            name: "t".into(),
            partitions: vec![ReassignablePartition { partition_index: 0, replicas }],
        }],
        ..AlterPartitionReassignmentsRequest::default()
    };
    let of_first = |request: AlterPartitionReassignmentsRequest| {
        code(node.call(request).responses[0].partitions[0].error_code)
    };
    assert_eq!(of_first(move_to(Some(vec![77]))), ErrorCode::InvalidReplicaAssignment);
    assert_eq!(of_first(move_to(None)), ErrorCode::NoReassignmentInProgress);
    let moving = node.call(ListPartitionReassignmentsRequest { topics: None, ..Default::default() });
    assert_eq!((moving.error_code, moving.topics.len()), (0, 0));
}

#[test]
fn a_feature_goes_no_further_than_this_build() {
    let node = Harness::start();
    let to = |max_version_level| UpdateFeaturesRequest {
        feature_updates: vec![FeatureUpdateKey {
            feature: "metadata.version".into(),
            max_version_level,
            upgrade_type: 1,
            ..FeatureUpdateKey::default()
        }],
        ..UpdateFeaturesRequest::default()
    };
    let refused = node.call(to(i16::MAX));
    assert_eq!(code(refused.error_code), ErrorCode::InvalidUpdateVersion);
    assert!(refused.error_message.unwrap().contains("metadata.version"));
}

#[test]
fn one_node_is_a_quorum_of_one_that_nobody_joins_or_leaves() {
    let node = Harness::start();
    node.create("t", 1, &[]);
    let partition = |partition_index| DescribeQuorumRequestPartitionData { partition_index };
    let request = DescribeQuorumRequest {
        topics: vec![DescribeQuorumRequestTopicData {
            topic_name: "__cluster_metadata".into(),
            partitions: vec![partition(0), partition(3)],
        }],
    };
    let answer = node.call(request);
    let [quorum, unknown] = &answer.topics[0].partitions[..] else { panic!("{answer:?}") };
    assert_eq!(code(unknown.error_code), ErrorCode::UnknownTopicOrPartition);
    let [voter] = &quorum.current_voters[..] else { panic!("{quorum:?}") };
    assert_eq!((quorum.leader_id, quorum.observers.len()), (voter.replica_id, 0));
    assert!(quorum.high_watermark > 0 && voter.log_end_offset == quorum.high_watermark);
    let remove = RemoveRaftVoterRequest {
        cluster_id: None,
        voter_id: voter.replica_id,
        ..RemoveRaftVoterRequest::default()
    };
    assert_eq!(code(node.call(remove).error_code), ErrorCode::UnsupportedVersion);
    let add = AddRaftVoterRequest { cluster_id: None, voter_id: 9, ..AddRaftVoterRequest::default() };
    assert_eq!(code(node.call(add).error_code), ErrorCode::UnsupportedVersion);
    let forget = |broker_id| code(node.call(UnregisterBrokerRequest { broker_id }).error_code);
    assert_eq!(forget(voter.replica_id), ErrorCode::InvalidRequest, "it is running");
    assert_eq!(forget(99), ErrorCode::BrokerIdNotRegistered);
}
