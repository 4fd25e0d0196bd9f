//! Trust, and how it ends.

use millstream_protocol::ErrorCode;
use millstream_protocol::messages::{BrokerHeartbeatRequest, BrokerRegistrationRequest};
use millstream_record::{NodeId, Uuid};

use super::{SESSION_MS, Stage, controller, registration};

#[test]
fn a_heartbeat_moves_a_broker_between_its_standings() {
    // Whether it is fenced, leads something, wants to be fenced, wants to stop; then: fenced, told to stop.
    let table = [
        ((false, true, false, false), (false, false)),
        ((false, true, true, false), (true, false)),
        ((false, true, true, true), (true, true)),
        ((false, true, false, true), (false, false)),
        ((false, false, false, true), (true, true)),
        ((true, false, false, false), (false, false)),
        ((true, false, true, false), (true, false)),
        ((true, false, false, true), (true, true)),
    ];
    for ((fenced, leads, want_fence, want_shut_down), expected) in table {
        let mut stage = Stage::of(2);
        let replicas: &[i32] = if leads { &[1, 2] } else { &[2, 1] };
        stage.create(&[replicas]);
        if fenced {
            stage.fence(&[1]);
        }
        let response = stage.beat(1, |beat| {
            beat.want_fence = want_fence;
            beat.want_shut_down = want_shut_down;
        });
        let shown = format!("{fenced} {leads} {want_fence} {want_shut_down}");
        assert_eq!((response.is_fenced, response.should_shut_down), expected, "{shown}");
        assert_eq!(stage.image.broker(NodeId(1)).unwrap().fenced, expected.0, "{shown}");
        let is_in_sync = stage.partition(0).isr.contains(&NodeId(1));
        let stays = !fenced && !want_fence && !want_shut_down;
        assert_eq!(is_in_sync, stays, "{shown}");
    }
}

#[test]
fn who_was_fenced_knows_that_before_it_serves_again() {
    for is_succeeded in [false, true] {
        let mut stage = Stage::of(2);
        stage.create(&[&[1, 2]]);
        let known = stage.image.end().0 - 1;
        stage.fence(&[1]);
        if is_succeeded {
            stage.liveness.lead(stage.now, &stage.image);
        }
        let end = stage.image.end().0;
        stage.configure("min.insync.replicas", "1");
        let mut says = |offset: i64| stage.beat(1, |beat| beat.current_metadata_offset = offset).is_fenced;
        assert!(says(known), "it does not know what others did in its place");
        assert!(says(end - 2), "nor all of it");
        assert!(!says(end - 1), "what came after is not waited for");
    }
}

#[test]
fn a_session_is_longer_by_the_time_in_which_nobody_could_be_heard() {
    let mut stage = Stage::of(1);
    let heard = stage.now;
    for deaf_ms in [SESSION_MS / 3, SESSION_MS / 3] {
        stage.now = stage.now.plus_ms(deaf_ms);
        stage.liveness.extend(stage.now, deaf_ms);
    }
    let lasts = |ms: i64| stage.liveness.has_session(heard.plus_ms(ms), NodeId(1), stage.epoch(1));
    let deaf_ms = 2 * (SESSION_MS / 3);
    assert!(lasts(deaf_ms + SESSION_MS - 1));
    assert!(!lasts(deaf_ms + SESSION_MS), "and no longer, however often");
}

#[test]
fn who_was_told_that_nobody_controls_has_a_session_from_then_on_unless_its_own_was_over() {
    let mut stage = Stage::of(2);
    let silent_since = stage.now;
    stage.now = stage.now.plus_ms(SESSION_MS / 2);
    stage.beat(2, |_| {});
    stage.now = silent_since.plus_ms(SESSION_MS);
    stage.liveness.denied(stage.now);
    let lasts = |broker: i32, ms: i64| {
        stage.liveness.has_session(stage.now.plus_ms(ms), NodeId(broker), stage.epoch(broker))
    };
    assert!(!lasts(1, 0));
    assert!(lasts(2, SESSION_MS - 1) && !lasts(2, SESSION_MS));
}

#[test]
fn an_earlier_incarnation_is_not_heard() {
    let mut stage = Stage::of(1);
    let old = stage.epoch(1);
    stage.restart(1, 2);
    let mut heard = stage.clone();
    assert!(heard.pass_session(&[1]).is_empty());
    assert_eq!(stage.pass_session(&[]), [NodeId(1)]);
    let stale = stage.beat(1, |beat| beat.broker_epoch = old);
    assert_eq!(stale.error_code, ErrorCode::StaleBrokerEpoch.code());
    assert_eq!(stage.liveness.expired(stage.now, &stage.image), [NodeId(1)], "that was its predecessor");
    let unknown = BrokerHeartbeatRequest { broker_id: 9, ..BrokerHeartbeatRequest::default() };
    let decision = controller().heartbeat(&stage.image, &stage.liveness, &unknown);
    assert_eq!(decision.response.error_code, ErrorCode::StaleBrokerEpoch.code());
}

#[test]
fn a_silent_broker_is_fenced_after_its_session_and_not_before() {
    let mut stage = Stage::of(3);
    stage.create(&[&[1, 2, 3]]);
    let began = stage.now;
    loop {
        stage.now = stage.liveness.next_look(stage.now);
        [2, 3].iter().for_each(|broker| assert!(!stage.beat(*broker, |_| {}).is_fenced));
        let silent = stage.liveness.expired(stage.now, &stage.image);
        assert_eq!(silent.is_empty(), stage.now.0 - began.0 < SESSION_MS);
        if !silent.is_empty() {
            assert_eq!(silent, [NodeId(1)]);
            stage.commit(controller().fence(&stage.image, &silent).records);
            break;
        }
    }
    assert_eq!(stage.state(0), (2, 1, vec![2, 3], vec![]));
    assert!(stage.liveness.expired(stage.now, &stage.image).is_empty(), "fenced once");
    assert!(controller().fence(&stage.image, &[NodeId(1), NodeId(9)]).records.is_empty());
}

#[test]
fn a_controller_that_stood_still_accuses_nobody() {
    let mut stage = Stage::of(2);
    assert!(stage.liveness.expired(stage.now, &stage.image).is_empty());
    stage.now = stage.now.plus_ms(10 * SESSION_MS);
    assert!(stage.liveness.expired(stage.now, &stage.image).is_empty());
    assert_eq!(stage.pass_session(&[1]), [NodeId(2)]);
}

#[test]
fn a_new_controller_waits_a_session_before_it_fences() {
    let mut stage = Stage::of(2);
    stage.now = stage.now.plus_ms(100 * SESSION_MS);
    stage.liveness.lead(stage.now, &stage.image);
    assert!(stage.liveness.expired(stage.now, &stage.image).is_empty());
    assert!(stage.liveness.has_session(stage.now, NodeId(1), stage.epoch(1)));
}

#[test]
fn a_broker_stops_when_all_others_know_that_it_leads_nothing() {
    let mut stage = Stage::of(3);
    stage.create(&[&[1, 2, 3], &[2, 1], &[1]]);
    [2, 3].iter().for_each(|broker| assert!(!stage.beat(*broker, |_| {}).is_fenced));
    let wants = |beat: &mut BrokerHeartbeatRequest| {
        beat.want_shut_down = true;
        beat.current_metadata_offset = beat.broker_epoch;
    };
    let first = stage.beat(1, wants);
    assert_eq!((first.is_fenced, first.should_shut_down), (false, false));
    assert!(stage.image.broker(NodeId(1)).unwrap().in_controlled_shutdown);
    assert_eq!(stage.state(0), (2, 1, vec![2, 3], vec![]));
    assert_eq!(stage.state(1), (2, 0, vec![2], vec![]));
    assert_eq!(stage.state(2), (-1, 1, vec![], vec![1]), "nobody to hand it to");
    let handed_over = stage.image.end().0 - 1;
    assert!(!stage.beat(1, wants).should_shut_down, "nobody has said that they know");
    stage.beat(2, |beat| beat.current_metadata_offset = handed_over);
    stage.beat(3, |beat| beat.current_metadata_offset = handed_over - 1);
    assert!(!stage.beat(1, wants).should_shut_down, "broker 3 does not know");
    stage.beat(3, |beat| beat.current_metadata_offset = handed_over);
    assert!(
        !stage.beat(1, wants).should_shut_down,
        "it does not know itself, and still takes what clients write"
    );
    let last = stage.beat(1, |beat| {
        wants(beat);
        beat.current_metadata_offset = handed_over;
    });
    assert_eq!((last.is_fenced, last.should_shut_down), (true, true));
    stage.restart(1, 2);
    assert!(stage.image.broker(NodeId(1)).unwrap().is_active());
    assert_eq!(stage.state(2), (1, 2, vec![1], vec![]));
}

#[test]
fn a_failed_directory_takes_its_partitions_out_of_service() {
    let (good, bad) = (Uuid::from_random(50, 1), Uuid::from_random(50, 2));
    let mut stage = Stage::of(2);
    stage.start(BrokerRegistrationRequest { log_dirs: vec![good, bad], ..registration(3, 1) });
    stage.create(&[&[3, 1], &[3, 2]]);
    let assign = |index, directory| {
        millstream_protocol::messages::PartitionChangeRecord {
            topic_id: stage.image.topic("t").unwrap().id,
            partition_id: index,
            directories: Some(vec![directory, Uuid::ZERO]),
            ..millstream_protocol::messages::PartitionChangeRecord::default()
        }
        .into()
    };
    let records = vec![assign(0, good), assign(1, bad)];
    stage.commit(records);
    let answer = stage.beat(3, |beat| beat.offline_log_dirs = vec![bad]);
    assert!(!answer.is_fenced);
    assert_eq!(stage.image.broker(NodeId(3)).unwrap().directories, [good]);
    assert_eq!((stage.partition(0).leader, stage.partition(1).leader), (Some(NodeId(3)), Some(NodeId(2))));
    assert!(
        stage.beat(3, |beat| beat.offline_log_dirs = vec![good]).is_fenced,
        "nothing is left to serve from"
    );
    assert_eq!(stage.partition(0).leader, Some(NodeId(1)));
}
