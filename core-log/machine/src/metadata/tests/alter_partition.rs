//! What a leader may propose.

use millstream_protocol::ErrorCode;
use millstream_protocol::messages::AlterPartitionRequest;
use millstream_protocol::messages::alter_partition::{
    AlterPartitionRequestPartitionData, AlterPartitionRequestTopicData, AlterPartitionResponsePartitionData,
    BrokerState,
};
use millstream_record::{NodeId, Uuid};

use super::{Stage, controller};

/// A proposal of `t-0`'s leader that is up to date.
fn proposal(stage: &Stage, isr: &[i32]) -> AlterPartitionRequestPartitionData {
    let state = |id: &i32| BrokerState { broker_id: *id, broker_epoch: stage.epoch(*id) };
    AlterPartitionRequestPartitionData {
        partition_index: 0,
        leader_epoch: stage.partition(0).leader_epoch.0,
        partition_epoch: stage.partition(0).partition_epoch,
        new_isr_with_epochs: isr.iter().map(state).collect(),
        ..AlterPartitionRequestPartitionData::default()
    }
}

fn request(
    stage: &Stage,
    sender: i32,
    topic_id: Uuid,
    wanted: AlterPartitionRequestPartitionData,
) -> AlterPartitionRequest {
    AlterPartitionRequest {
        broker_id: sender,
        broker_epoch: stage.epoch(sender),
        topics: vec![AlterPartitionRequestTopicData { topic_id, partitions: vec![wanted] }],
    }
}

fn propose(
    stage: &mut Stage,
    sender: i32,
    wanted: AlterPartitionRequestPartitionData,
) -> (usize, AlterPartitionResponsePartitionData) {
    let topic_id = stage.image.topic("t").unwrap().id;
    let request = request(stage, sender, topic_id, wanted);
    let mut decision = controller().alter_partition(&stage.image, &request);
    let records = decision.records.len();
    stage.commit(decision.records);
    (records, decision.response.topics.remove(0).partitions.remove(0))
}

#[test]
fn the_leader_is_answered_with_what_is_committed() {
    let mut stage = Stage::of(3);
    stage.create(&[&[1, 2, 3]]);
    let wanted = proposal(&stage, &[1, 3]);
    let (records, answer) = propose(&mut stage, 1, wanted.clone());
    assert_eq!((records, answer.error_code, &answer.isr[..]), (1, 0, &[1, 3][..]));
    assert_eq!((answer.leader_id, answer.leader_epoch, answer.partition_epoch), (1, 0, 1), "no new epoch");
    let (records, answer) = propose(&mut stage, 1, wanted);
    assert_eq!((records, answer.error_code), (0, ErrorCode::InvalidUpdateVersion.code()));
    let same = proposal(&stage, &[1, 3]);
    let (records, answer) = propose(&mut stage, 1, same.clone());
    assert_eq!((records, answer.error_code, answer.partition_epoch), (1, 0, 2), "what is, is a barrier");
    assert_eq!(stage.partition(0).isr, [NodeId(1), NodeId(3)]);
    assert_eq!(propose(&mut stage, 1, same).1.error_code, ErrorCode::InvalidUpdateVersion.code());
    let back = proposal(&stage, &[1, 3, 2]);
    assert_eq!(propose(&mut stage, 1, back).1.isr, [1, 3, 2]);
}

#[test]
fn bad_proposals_are_refused_with_kafkas_codes() {
    use ErrorCode as E;
    type Change = fn(&mut AlterPartitionRequestPartitionData);
    let table: [(i32, Change, ErrorCode); 14] = [
        (1, |_| {}, E::None),
        (1, |wanted| wanted.partition_index = 9, E::UnknownTopicOrPartition),
        (1, |wanted| wanted.partition_index = -1, E::UnknownTopicOrPartition),
        (1, |wanted| wanted.leader_epoch -= 1, E::FencedLeaderEpoch),
        (1, |wanted| wanted.leader_epoch += 1, E::NotController),
        (1, |wanted| wanted.partition_epoch -= 1, E::InvalidUpdateVersion),
        (1, |wanted| wanted.partition_epoch += 1, E::NotController),
        (2, |_| {}, E::InvalidRequest),
        (1, |wanted| wanted.new_isr_with_epochs.retain(|state| state.broker_id != 1), E::InvalidRequest),
        (1, |wanted| wanted.new_isr_with_epochs[1].broker_id = 4, E::InvalidRequest),
        (1, |wanted| wanted.new_isr_with_epochs[1].broker_id = 1, E::InvalidRequest),
        (1, |wanted| wanted.leader_recovery_state = 1, E::InvalidRequest),
        (1, |wanted| wanted.new_isr_with_epochs[1].broker_epoch -= 1, E::IneligibleReplica),
        (1, |wanted| wanted.new_isr_with_epochs[1].broker_epoch = -1, E::IneligibleReplica),
    ];
    for (sender, change, expected) in table {
        let mut stage = Stage::of(4);
        stage.create(&[&[3, 1, 2]]);
        stage.fence(&[3, 2]);
        stage.beat(2, |_| {});
        let mut wanted = proposal(&stage, &[1, 2]);
        change(&mut wanted);
        let shown = format!("{sender} {wanted:?}");
        let (records, answer) = propose(&mut stage, sender, wanted);
        assert_eq!(ErrorCode::from_code(answer.error_code), expected, "{shown}");
        assert_eq!(records, usize::from(expected == E::None), "{shown}");
    }
}

#[test]
fn only_current_senders_and_known_topics_count() {
    let mut stage = Stage::of(2);
    stage.create(&[&[1, 2]]);
    let wanted = proposal(&stage, &[1]);
    let unknown = request(&stage, 1, Uuid::from_random(9, 9), wanted.clone());
    let decision = controller().alter_partition(&stage.image, &unknown);
    let answer = &decision.response.topics[0].partitions[0];
    assert_eq!(answer.error_code, ErrorCode::UnknownTopicId.code());
    let topic_id = stage.image.topic("t").unwrap().id;
    let stale = AlterPartitionRequest { broker_epoch: 0, ..request(&stage, 1, topic_id, wanted.clone()) };
    let decision = controller().alter_partition(&stage.image, &stale);
    assert_eq!(decision.response.error_code, ErrorCode::StaleBrokerEpoch.code());
    let mut twice = request(&stage, 1, topic_id, wanted.clone());
    twice.topics[0].partitions.push(wanted);
    let decision = controller().alter_partition(&stage.image, &twice);
    assert_eq!(decision.response.topics[0].partitions[1].error_code, ErrorCode::InvalidRequest.code());
    assert_eq!(decision.records.len(), 1);
}

#[test]
fn fenced_stopping_and_restarted_brokers_stay_out() {
    type Before = fn(&mut Stage);
    let table: [(Before, ErrorCode); 4] = [
        (|stage| assert!(!stage.beat(2, |_| {}).is_fenced), ErrorCode::None),
        (|_| {}, ErrorCode::IneligibleReplica),
        (
            |stage| {
                stage.beat(2, |_| {});
                stage.beat(2, |beat| beat.want_shut_down = true);
            },
            ErrorCode::IneligibleReplica,
        ),
        (|stage| stage.restart(2, 2), ErrorCode::IneligibleReplica),
    ];
    for (before, expected) in table {
        let mut stage = Stage::of(2);
        stage.create(&[&[1, 2]]);
        stage.fence(&[2]);
        let mut wanted = proposal(&stage, &[1, 2]);
        before(&mut stage);
        wanted.partition_epoch = stage.partition(0).partition_epoch;
        assert_eq!(ErrorCode::from_code(propose(&mut stage, 1, wanted).1.error_code), expected);
    }
}

#[test]
fn a_leader_settles_what_is_lost_before_others_join() {
    let mut stage = Stage::of(2);
    stage.create(&[&[1, 2]]);
    stage.fence(&[1]);
    stage.configure("unclean.leader.election.enable", "true");
    stage.fence(&[2]);
    stage.beat(1, |_| {});
    stage.beat(2, |_| {});
    assert!(stage.partition(0).recovering);
    let early = AlterPartitionRequestPartitionData { leader_recovery_state: 1, ..proposal(&stage, &[1, 2]) };
    assert_eq!(propose(&mut stage, 1, early).1.error_code, ErrorCode::InvalidRequest.code());
    let settled = proposal(&stage, &[1]);
    let (records, answer) = propose(&mut stage, 1, settled);
    assert_eq!((records, answer.error_code, answer.leader_recovery_state), (1, 0, 0));
    let joined = proposal(&stage, &[1, 2]);
    assert_eq!(propose(&mut stage, 1, joined).1.isr, [1, 2]);
}

#[test]
fn a_stopping_leader_hands_over_to_who_has_just_caught_up() {
    let mut stage = Stage::of(2);
    stage.create(&[&[1, 2]]);
    stage.fence(&[2]);
    stage.beat(2, |_| {});
    let mut stopping = (**stage.image.broker(millstream_record::NodeId(1)).unwrap()).clone();
    stopping.in_controlled_shutdown = true;
    std::sync::Arc::make_mut(&mut stage.image.brokers).insert(stopping.id, std::sync::Arc::new(stopping));
    let wanted = proposal(&stage, &[1, 2]);
    let (records, answer) = propose(&mut stage, 1, wanted);
    assert_eq!((records, answer.error_code), (1, ErrorCode::NewLeaderElected.code()));
    assert_eq!(stage.state(0), (2, 1, vec![2], vec![]));
}
