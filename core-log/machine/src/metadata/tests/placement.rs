//! Where replicas go.

use std::collections::BTreeSet;

use millstream_protocol::ErrorCode;
use millstream_protocol::messages::{BrokerRegistrationRequest, CreateTopicsRequest};
use millstream_record::{NodeId, Uuid};

use super::{Stage, controller, registration, topic};

#[test]
fn replicas_of_a_partition_are_on_as_many_racks_as_there_are() {
    let racks = [(1, "a"), (2, "a"), (3, "a"), (4, "b"), (5, "b"), (6, "c")];
    let mut stage = Stage::empty();
    for (id, rack) in racks {
        stage.start(BrokerRegistrationRequest { rack: Some(rack.into()), ..registration(id, 1) });
    }
    for spread in 0..20 {
        for (factor, distinct) in [(1, 1), (2, 2), (3, 3), (5, 3)] {
            let id = Uuid::from_random(1, spread);
            let placed = crate::metadata::placement::place(&stage.image, id, 0, 30, factor).unwrap();
            let mut led = [0; 7];
            for replicas in placed {
                led[usize::try_from(replicas[0].0).unwrap()] += 1;
                let on: BTreeSet<&str> =
                    replicas.iter().map(|node| racks[usize::try_from(node.0).unwrap() - 1].1).collect();
                assert_eq!((replicas.iter().collect::<BTreeSet<_>>().len(), on.len()), (factor, distinct));
            }
            assert_eq!(led, [0, 5, 5, 5, 5, 5, 5]);
        }
    }
}

#[test]
fn fenced_brokers_follow_only_where_they_must_and_stopping_ones_never() {
    let mut stage = Stage::of(4);
    stage.create(&[&[4, 1]]);
    stage.fence(&[3]);
    stage.beat(4, |beat| beat.want_shut_down = true);
    let place =
        |factor| crate::metadata::placement::place(&stage.image, Uuid::from_random(1, 1), 0, 9, factor);
    for replicas in place(2).unwrap() {
        assert!(replicas.iter().all(|node| node.0 < 3), "{replicas:?}");
    }
    for replicas in place(3).unwrap() {
        assert_eq!(replicas[2], NodeId(3), "{replicas:?}");
    }
    let too_many = "Unable to replicate the partition 4 time(s): The target replication factor of 4 cannot be \
                    reached because only 3 broker(s) are registered.";
    assert_eq!(place(4).unwrap_err(), too_many);
    stage.fence(&[1, 2, 4]);
    let request = CreateTopicsRequest { topics: vec![topic("u", 1, 1)], ..CreateTopicsRequest::default() };
    let decision = controller().create_topics(&stage.image, &request, &mut || Uuid::from_random(8, 8));
    let answer = &decision.response.topics[0];
    assert_eq!(answer.error_code, ErrorCode::InvalidReplicationFactor.code());
    let all_fenced = "Unable to replicate the partition 1 time(s): All brokers are currently fenced.";
    assert_eq!(answer.error_message.as_deref(), Some(all_fenced));
}
