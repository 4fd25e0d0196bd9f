//! Who leads when brokers go, come back, or are preferred.

use millstream_protocol::ErrorCode;
use millstream_protocol::messages::ElectLeadersRequest;
use millstream_protocol::messages::elect_leaders::TopicPartitions;
use millstream_record::NodeId;

use super::{Stage, controller, create, topic};
use crate::metadata::{MAX_ELECTIONS_PER_BALANCE, Record};

#[test]
fn the_first_active_in_sync_replica_leads_in_a_new_epoch() {
    let mut stage = Stage::of(3);
    stage.create(&[&[1, 2, 3]]);
    let table =
        [(2, (1, 0, vec![1, 3], vec![])), (1, (3, 1, vec![3], vec![])), (3, (-1, 2, vec![], vec![3]))];
    for (fenced, expected) in table {
        stage.fence(&[fenced]);
        assert_eq!(stage.state(0), expected);
    }
    stage.beat(1, |_| {});
    assert_eq!(stage.state(0), (-1, 2, vec![], vec![3]), "broker 1 may miss what 3 acknowledged alone");
    stage.beat(3, |_| {});
    assert_eq!(stage.state(0), (3, 3, vec![3], vec![]));
}

#[test]
fn below_the_least_in_sync_number_who_left_stays_eligible() {
    let mut stage = Stage::of(3);
    stage.create(&[&[1, 2, 3]]);
    stage.configure("min.insync.replicas", "2");
    stage.fence(&[3]);
    assert_eq!(stage.state(0), (1, 0, vec![1, 2], vec![]), "two are enough, and go on without 3");
    stage.fence(&[2]);
    assert_eq!(stage.state(0), (1, 0, vec![1], vec![2]));
    stage.fence(&[1]);
    assert_eq!(stage.state(0), (-1, 1, vec![], vec![1, 2]));
    stage.beat(3, |_| {});
    assert_eq!(stage.state(0).0, -1, "3 is not eligible");
    stage.beat(2, |_| {});
    assert_eq!(stage.state(0), (2, 2, vec![2], vec![1]));
    stage.configure("min.insync.replicas", "1");
    assert_eq!(stage.state(0), (2, 2, vec![2], vec![]), "2 acknowledges alone now");
}

#[test]
fn brokers_that_go_together_leave_one_change_for_each_partition() {
    for (mut stage, kept) in
        [(Stage::of(3), (vec![], vec![1, 2])), (Stage::without_elr(3), (vec![1, 2], vec![]))]
    {
        stage.create(&[&[1, 2], &[2, 3], &[3, 1, 2]]);
        stage.configure("min.insync.replicas", "2");
        let records = controller().fence(&stage.image, &[NodeId(1), NodeId(2)]).records;
        assert_eq!(records.len(), 2 + 3);
        stage.commit(records);
        assert_eq!(stage.state(0), (-1, 1, kept.0, kept.1));
        assert_eq!((stage.state(1).0, stage.state(2).0), (3, 3));
        stage.beat(2, |_| {});
        assert_eq!(stage.state(0).0, 2);
        assert_eq!(stage.partition(0).isr, [NodeId(2)], "who is still fenced is not in sync");
    }
}

#[test]
fn who_leads_alone_where_one_is_enough_ends_the_eligibility_of_the_others() {
    let mut stage = Stage::of(2);
    stage.create(&[&[1, 2]]);
    stage.fence(&[1, 2]);
    assert_eq!(stage.state(0), (-1, 1, vec![], vec![1, 2]));
    stage.beat(2, |_| {});
    assert_eq!(stage.state(0), (2, 2, vec![2], vec![]));
}

#[test]
fn an_unclean_election_needs_leave_and_leaves_a_leader_that_settles_what_is_lost() {
    for (is_allowed, expected) in [("false", -1), ("true", 1)] {
        for mut stage in [Stage::of(2), Stage::without_elr(2)] {
            stage.create(&[&[1, 2]]);
            stage.fence(&[1]);
            stage.configure("unclean.leader.election.enable", is_allowed);
            stage.fence(&[2]);
            stage.beat(1, |_| {});
            assert_eq!(stage.state(0).0, expected);
            let partition = stage.partition(0);
            assert_eq!(partition.recovering, expected == 1);
            if expected == 1 {
                assert_eq!((&partition.isr[..], partition.elr.len()), (&[NodeId(1)][..], 0));
            }
        }
    }
}

#[test]
fn ten_thousand_partitions_move_in_one_decision() {
    let mut stage = Stage::of(3);
    assert_eq!(create(&mut stage.image, vec![topic("t", 10_000, 3)]), [ErrorCode::None]);
    let led = stage.image.partitions_of(NodeId(1)).filter(|(_, _, p)| p.leader == Some(NodeId(1))).count();
    assert!(led > 3_000);
    let records = controller().fence(&stage.image, &[NodeId(1)]).records;
    assert_eq!(records.len(), 10_001);
    let elected =
        records.iter().filter(|record| matches!(record, Record::PartitionChange(c) if c.leader > 0));
    assert_eq!(elected.count(), led, "an epoch begins only where the leader goes");
    stage.commit(records);
    assert!(!stage.image.leads_any(NodeId(1)));
}

#[test]
fn elections_are_answered_with_kafkas_codes() {
    use ErrorCode as E;
    const PREFERRED: i8 = 0;
    const UNCLEAN: i8 = 1;
    let mut stage = Stage::of(3);
    // 0 is led by its preferred replica, 1 could be, 2's preferred is fenced, 3 has nobody, 4 has nobody in sync.
    stage.create(&[&[1, 2], &[2, 1], &[3, 1], &[3], &[1, 3]]);
    stage.fence(&[2]);
    stage.beat(2, |_| {});
    let isr = millstream_protocol::messages::PartitionChangeRecord {
        topic_id: stage.image.topic("t").unwrap().id,
        partition_id: 1,
        isr: Some(vec![1, 2]),
        ..millstream_protocol::messages::PartitionChangeRecord::default()
    };
    let away = millstream_protocol::messages::PartitionChangeRecord {
        partition_id: 4,
        isr: Some(vec![3]),
        leader: 3,
        ..isr.clone()
    };
    stage.commit(vec![isr.into(), away.into()]);
    stage.fence(&[3]);
    let table = [
        (PREFERRED, 0, E::ElectionNotNeeded, 1),
        (PREFERRED, 1, E::None, 2),
        (PREFERRED, 2, E::PreferredLeaderNotAvailable, 1),
        (PREFERRED, 3, E::PreferredLeaderNotAvailable, -1),
        (UNCLEAN, 0, E::ElectionNotNeeded, 1),
        (UNCLEAN, 3, E::EligibleLeadersNotAvailable, -1),
        (UNCLEAN, 4, E::None, 1),
        (UNCLEAN, 9, E::UnknownTopicOrPartition, 0),
    ];
    for (election_type, index, expected, leader) in table {
        let mut stage = stage.clone();
        let named = TopicPartitions { topic: "t".into(), partitions: vec![index, index] };
        let request = ElectLeadersRequest {
            election_type,
            topic_partitions: Some(vec![named]),
            ..ElectLeadersRequest::default()
        };
        let decision = controller().elect_leaders(&stage.image, &request);
        let results = &decision.response.replica_election_results[0].partition_result;
        let codes: Vec<_> = results.iter().map(|result| ErrorCode::from_code(result.error_code)).collect();
        assert_eq!(codes, [expected; 2], "{election_type} {index}");
        assert_eq!(decision.records.len(), usize::from(expected == E::None));
        stage.commit(decision.records);
        if index < 9 {
            assert_eq!(stage.state(index).0, leader, "{election_type} {index}");
        }
    }
    let all = ElectLeadersRequest { topic_partitions: None, ..ElectLeadersRequest::default() };
    let decision = controller().elect_leaders(&stage.image, &all);
    let listed: Vec<i32> = decision.response.replica_election_results[0]
        .partition_result
        .iter()
        .map(|result| result.partition_id)
        .collect();
    assert_eq!(listed, [1, 2, 3, 4], "0 has what it should have");
    let unknown = ElectLeadersRequest { election_type: 7, ..ElectLeadersRequest::default() };
    let decision = controller().elect_leaders(&stage.image, &unknown);
    assert_eq!(decision.response.error_code, E::InvalidRequest.code());
}

#[test]
fn a_topic_that_comes_to_allow_it_gets_leaders_in_bounded_steps() {
    let mut stage = Stage::of(2);
    let count = MAX_ELECTIONS_PER_BALANCE + 10;
    let replicas: Vec<&[i32]> = vec![&[1, 2]; count];
    stage.create(&replicas);
    stage.fence(&[1]);
    stage.fence(&[2]);
    stage.beat(1, |_| {});
    assert!(controller().elect_leaderless(&stage.image).records.is_empty());
    stage.configure("unclean.leader.election.enable", "true");
    for (expected, more) in [(MAX_ELECTIONS_PER_BALANCE, true), (10, false), (0, false)] {
        let decision = controller().elect_leaderless(&stage.image);
        assert_eq!((decision.records.len(), decision.response), (expected, more));
        stage.commit(decision.records);
    }
}

#[test]
fn balance_comes_back_in_bounded_steps() {
    let mut stage = Stage::of(2);
    let count = MAX_ELECTIONS_PER_BALANCE + 10;
    let replicas: Vec<&[i32]> = vec![&[1, 2]; count];
    stage.create(&replicas);
    let topic_id = stage.image.topic("t").unwrap().id;
    let stray = |partition_id| {
        Record::PartitionChange(millstream_protocol::messages::PartitionChangeRecord {
            topic_id,
            partition_id,
            leader: 2,
            ..millstream_protocol::messages::PartitionChangeRecord::default()
        })
    };
    stage.commit((0..i32::try_from(count).unwrap()).map(stray).collect());
    for (expected, more) in [(MAX_ELECTIONS_PER_BALANCE, true), (10, false), (0, false)] {
        let decision = controller().balance_leaders(&stage.image);
        assert_eq!((decision.records.len(), decision.response), (expected, more));
        stage.commit(decision.records);
    }
    assert!(stage.image.topic("t").unwrap().partitions.iter().all(|p| p.leader == Some(NodeId(1))));
    stage.fence(&[1]);
    assert!(controller().balance_leaders(&stage.image).records.is_empty(), "the preferred one is not there");
}
