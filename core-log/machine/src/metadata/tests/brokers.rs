//! Who belongs to the cluster.

use millstream_protocol::ErrorCode;
use millstream_protocol::messages::broker_registration::Feature;
use millstream_protocol::messages::{
    AllocateProducerIdsRequest, BeginTransactionRecord, BrokerRegistrationRequest, RemoveTopicRecord,
    UnregisterBrokerRequest,
};
use millstream_record::{LeaderEpoch, NodeId, Offset, Uuid};

use super::{Stage, cluster, commit, controller, create, directory, registration, topic};
use crate::Error;
use crate::metadata::{Image, Record, WHATEVER_EPOCH};

#[test]
fn registrations_are_refused_with_kafkas_codes() {
    use ErrorCode as E;
    let old =
        Feature { name: "metadata.version".into(), min_supported_version: 1, max_supported_version: 29 };
    let elsewhere = Uuid::from_random(77, 77);
    let new = || registration(3, 1);
    let table = [
        (new(), E::None),
        (BrokerRegistrationRequest { cluster_id: "other".into(), ..new() }, E::InconsistentClusterId),
        (BrokerRegistrationRequest { features: vec![old], ..new() }, E::UnsupportedVersion),
        (BrokerRegistrationRequest { features: Vec::new(), ..new() }, E::UnsupportedVersion),
        (BrokerRegistrationRequest { log_dirs: Vec::new(), ..new() }, E::InvalidRegistration),
        (BrokerRegistrationRequest { log_dirs: vec![Uuid::ZERO], ..new() }, E::InvalidRegistration),
        (BrokerRegistrationRequest { log_dirs: vec![elsewhere; 2], ..new() }, E::InvalidRegistration),
        (BrokerRegistrationRequest { log_dirs: vec![directory(1)], ..new() }, E::InvalidRegistration),
        (BrokerRegistrationRequest { broker_id: -1, ..new() }, E::InvalidRegistration),
        (
            BrokerRegistrationRequest { log_dirs: vec![elsewhere], ..registration(2, 2) },
            E::DuplicateBrokerRegistration,
        ),
    ];
    for (mut request, expected) in table {
        let stage = Stage::of(2);
        if request.cluster_id.is_empty() {
            request.cluster_id = "this".into();
        }
        let controller = controller().of_cluster("this");
        let decision = controller.register_broker(&stage.image, &stage.liveness, stage.now, &request);
        assert_eq!(ErrorCode::from_code(decision.response.error_code), expected, "{request:?}");
        assert_eq!(decision.records.is_empty(), expected != E::None);
    }
}

#[test]
fn an_id_is_free_once_its_broker_is_silent_or_fenced_or_begins_again_in_its_directory() {
    use ErrorCode as E;
    let other = BrokerRegistrationRequest { log_dirs: vec![Uuid::from_random(77, 77)], ..registration(1, 2) };
    type Before = fn(&mut Stage);
    let table: [(Before, ErrorCode); 4] = [
        (|_| {}, E::DuplicateBrokerRegistration),
        (|stage| assert_eq!(stage.pass_session(&[2]), [NodeId(1)]), E::None),
        (|stage| stage.fence(&[1]), E::None),
        (
            |stage| assert!(!stage.beat(1, |beat| beat.want_shut_down = true).should_shut_down),
            E::DuplicateBrokerRegistration,
        ),
    ];
    for (before, expected) in table {
        let mut stage = Stage::of(2);
        stage.create(&[&[1, 2]]);
        before(&mut stage);
        assert_eq!(stage.register(&other), expected);
    }
    assert_eq!(Stage::of(2).register(&registration(1, 2)), E::None, "the directory was locked by its broker");
}

#[test]
fn a_new_incarnation_has_a_new_epoch_and_is_in_no_in_sync_set() {
    let mut stage = Stage::of(3);
    stage.create(&[&[1, 2, 3], &[2, 1, 3], &[1]]);
    let (end, before) = (stage.image.end(), stage.epoch(1));
    assert_eq!(stage.register(&registration(1, 1)), ErrorCode::None);
    assert_eq!((stage.image.end(), stage.epoch(1)), (end, before), "the same incarnation asks twice");
    let again = BrokerRegistrationRequest { previous_broker_epoch: before, ..registration(1, 2) };
    assert_eq!(stage.register(&again), ErrorCode::None);
    assert_eq!(Offset(stage.epoch(1)), end, "the offset of its record");
    assert!(stage.image.broker(NodeId(1)).unwrap().fenced);
    assert_eq!(stage.state(0), (2, 1, vec![2, 3], vec![]));
    assert_eq!(stage.state(1), (2, 0, vec![2, 3], vec![]));
    assert_eq!(stage.state(2), (-1, 1, vec![], vec![1]), "nobody else has it");
    let late = stage.beat(1, |beat| beat.current_metadata_offset = beat.broker_epoch - 1);
    assert_eq!((late.is_caught_up, late.is_fenced), (false, true));
    let ready = stage.beat(1, |_| {});
    assert_eq!((ready.is_caught_up, ready.is_fenced), (true, false));
    assert_eq!(stage.state(2), (1, 2, vec![1], vec![]));
    assert_eq!(stage.state(0), (2, 1, vec![2, 3], vec![]), "back in sync only by the leader's word");
}

#[test]
fn without_eligible_replicas_the_last_in_sync_set_stays() {
    let mut stage = Stage::without_elr(1);
    stage.create(&[&[1]]);
    assert_eq!(stage.register(&registration(1, 2)), ErrorCode::None);
    assert_eq!(stage.state(0), (-1, 1, vec![1], vec![]));
    stage.beat(1, |_| {});
    assert_eq!(stage.state(0), (1, 2, vec![1], vec![]));
}

#[test]
fn an_unclean_shutdown_loses_eligibility_and_the_last_leader_returns_to_settle_what_is_lost() {
    let mut stage = Stage::of(1);
    stage.create(&[&[1]]);
    assert_eq!(stage.register(&registration(1, 2)), ErrorCode::None);
    assert_eq!(stage.state(0), (-1, 1, vec![], vec![]));
    assert_eq!(stage.partition(0).last_known_elr, [NodeId(1)]);
    stage.beat(1, |_| {});
    assert_eq!(stage.state(0), (1, 2, vec![1], vec![]));
    assert!(stage.partition(0).recovering && stage.partition(0).last_known_elr.is_empty());
}

#[test]
fn who_acknowledges_only_what_is_on_disk_stays_eligible_whatever_epoch_it_remembers() {
    let mut stage = Stage::of(2);
    stage.create(&[&[1, 2]]);
    stage.configure("min.insync.replicas", "2");
    stage.fence(&[2]);
    assert_eq!(stage.state(0), (1, 0, vec![1], vec![2]));
    let after_a_crash =
        BrokerRegistrationRequest { previous_broker_epoch: WHATEVER_EPOCH, ..registration(2, 2) };
    stage.start(after_a_crash);
    assert_eq!(stage.state(0), (1, 0, vec![1], vec![2]));
    stage.fence(&[1]);
    assert_eq!(stage.state(0).0, 2, "it has all that was acknowledged");
    let emptied = vec![Uuid::from_random(77, 77)];
    let mut stage = Stage::of(2);
    stage.create(&[&[1, 2]]);
    stage.configure("min.insync.replicas", "2");
    stage.fence(&[2]);
    stage.start(BrokerRegistrationRequest {
        log_dirs: emptied,
        previous_broker_epoch: WHATEVER_EPOCH,
        ..registration(2, 2)
    });
    assert_eq!(stage.state(0), (1, 0, vec![1], vec![]), "not with another disk");
}

#[test]
fn an_emptied_directory_leads_nothing_that_it_had() {
    for mut stage in [Stage::of(2), Stage::without_elr(2)] {
        stage.create(&[&[1, 2], &[1]]);
        stage.configure("unclean.leader.election.enable", "true");
        let emptied = Uuid::from_random(77, 77);
        let previous_broker_epoch = stage.epoch(1);
        stage.fence(&[1]);
        stage.start(BrokerRegistrationRequest {
            log_dirs: vec![emptied],
            previous_broker_epoch,
            ..registration(1, 2)
        });
        let copied = stage.partition(0);
        assert_eq!(
            (copied.leader, copied.directory_of(NodeId(1))),
            (Some(NodeId(2)), emptied),
            "begins anew"
        );
        let lost = stage.partition(1);
        assert_eq!(
            (lost.leader, lost.directory_of(NodeId(1))),
            (None, directory(1)),
            "waits for the old disk"
        );
        let previous_broker_epoch = stage.epoch(1);
        stage.fence(&[1]);
        stage.start(BrokerRegistrationRequest { previous_broker_epoch, ..registration(1, 3) });
        assert_eq!(stage.partition(1).leader, Some(NodeId(1)), "the old disk is back");
    }
}

#[test]
fn a_sole_broker_serves_in_the_batch_that_registers_it() {
    let mut image = Image::default();
    commit(&mut image, controller().bootstrap(&Image::default()));
    for incarnation in 1..4 {
        let previous_broker_epoch = image.broker(NodeId(1)).map_or(-1, |broker| broker.epoch);
        let request = BrokerRegistrationRequest { previous_broker_epoch, ..registration(1, incarnation) };
        let decision = controller().register_sole_broker(&image, &request);
        commit(&mut image, decision.records);
        assert!(image.broker(NodeId(1)).unwrap().is_active());
        create(&mut image, vec![topic("t", 1, 1)]);
        let partition = image.partition("t", 0).unwrap();
        assert_eq!((partition.leader, &partition.isr[..]), (Some(NodeId(1)), &[NodeId(1)][..]));
        let epochs = 2 * (i32::try_from(incarnation).unwrap() - 1);
        assert_eq!((partition.leader_epoch, partition.recovering), (LeaderEpoch(epochs), false));
    }
}

#[test]
fn an_unregistered_broker_leads_and_counts_nowhere() {
    let mut stage = Stage::of(3);
    stage.create(&[&[1, 2], &[2, 1], &[3]]);
    let request = |broker_id| UnregisterBrokerRequest { broker_id };
    let unknown = controller().unregister_broker(&stage.image, &request(9));
    assert_eq!(unknown.response.error_code, ErrorCode::BrokerIdNotRegistered.code());
    for broker in [1, 3] {
        let decision = controller().unregister_broker(&stage.image, &request(broker));
        assert_eq!(decision.response.error_code, 0);
        stage.commit(decision.records);
    }
    assert_eq!(stage.image.brokers().map(|broker| broker.id).collect::<Vec<_>>(), [NodeId(2)]);
    assert_eq!(stage.state(0), (2, 1, vec![2], vec![]));
    assert_eq!(stage.state(1), (2, 0, vec![2], vec![]));
    assert_eq!(stage.state(2), (-1, 1, vec![], vec![3]));
    assert_eq!(stage.partition(0).replicas, [NodeId(1), NodeId(2)]);
    let again = Record::UnregisterBroker(millstream_protocol::messages::UnregisterBrokerRecord {
        broker_id: 1,
        broker_epoch: 0,
    });
    assert!(stage.image.apply(&again).is_err());
}

#[test]
fn producer_ids_are_granted_in_blocks_to_the_current_incarnation() {
    let mut image = cluster(1);
    let epoch = image.broker(NodeId(1)).unwrap().epoch;
    let ask = |broker_id, broker_epoch| AllocateProducerIdsRequest { broker_id, broker_epoch };
    for expected in [0, 1_000, 2_000] {
        let decision = controller().allocate_producer_ids(&image, &ask(1, epoch));
        assert_eq!(
            (decision.response.producer_id_start, decision.response.producer_id_len),
            (expected, 1_000)
        );
        commit(&mut image, decision.records);
    }
    for (request, code) in
        [(ask(1, epoch + 1), ErrorCode::StaleBrokerEpoch), (ask(2, 0), ErrorCode::BrokerIdNotRegistered)]
    {
        let decision = controller().allocate_producer_ids(&image, &request);
        assert_eq!((decision.records.len(), decision.response.error_code), (0, code.code()));
    }
}

#[test]
fn a_fact_that_this_build_does_not_act_on_stops_the_node() {
    let mut image = cluster(1);
    let unknown = Record::BeginTransaction(BeginTransactionRecord::default());
    assert!(matches!(image.apply(&unknown), Err(Error::UnknownRecord { kind: 23, .. })));
    let absent = Record::RemoveTopic(RemoveTopicRecord { topic_id: Uuid::from_random(1, 1) });
    let error = image.apply(&absent).unwrap_err().to_string();
    assert!(error.contains("RemoveTopicRecord") && error.contains("offset 5"), "{error}");
}
