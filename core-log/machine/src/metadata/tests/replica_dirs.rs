//! Replicas that are in none of their broker's directories.

use millstream_protocol::messages::AssignReplicasToDirsRequest;
use millstream_protocol::messages::assign_replicas_to_dirs::{
    AssignReplicasToDirsRequestDirectoryData, AssignReplicasToDirsRequestPartitionData,
    AssignReplicasToDirsRequestTopicData,
};

use super::*;
use crate::metadata::{LOST_DIRECTORY, WHATEVER_EPOCH};

impl Stage {
    /// Broker `broker` says that its replica of partition 0 of `t` is in `id`.
    fn assign(&mut self, broker: i32, id: Uuid) -> ErrorCode {
        let partitions = vec![AssignReplicasToDirsRequestPartitionData { partition_index: 0 }];
        let topics = vec![AssignReplicasToDirsRequestTopicData {
            topic_id: self.image.topic("t").unwrap().id,
            partitions,
        }];
        let request = AssignReplicasToDirsRequest {
            broker_id: broker,
            broker_epoch: self.epoch(broker),
            directories: vec![AssignReplicasToDirsRequestDirectoryData { id, topics }],
        };
        let decision = controller().assign_directories(&self.image, &request);
        self.commit(decision.records);
        ErrorCode::from_code(decision.response.directories[0].topics[0].partitions[0].error_code)
    }
}

#[test]
fn others_lead_in_place_of_a_lost_replica() {
    let mut stage = Stage::of(3);
    stage.create(&[&[1, 2]]);
    stage.configure("min.insync.replicas", "2");
    assert_eq!(stage.assign(1, LOST_DIRECTORY), ErrorCode::None);
    assert_eq!(stage.state(0), (2, 1, vec![2], vec![]), "and it is not eligible");
    assert_eq!(stage.partition(0).directory_of(NodeId(1)), LOST_DIRECTORY);
    assert_eq!(stage.assign(3, LOST_DIRECTORY), ErrorCode::NotLeaderOrFollower, "it has none");
}

#[test]
fn the_only_copy_leads_no_more_until_it_is_back() {
    for mut stage in [Stage::of(2), Stage::without_elr(2)] {
        stage.create(&[&[1, 2]]);
        stage.configure("min.insync.replicas", "1");
        stage.fence(&[2]);
        assert_eq!(stage.state(0).2, [1]);
        assert_eq!(stage.assign(1, LOST_DIRECTORY), ErrorCode::None);
        assert_eq!(stage.state(0).0, -1);
        for incarnation in 2..4 {
            let again = registration(1, incarnation);
            stage.start(BrokerRegistrationRequest { previous_broker_epoch: WHATEVER_EPOCH, ..again });
            assert_eq!(stage.state(0).0, -1, "what is gone is not back with the broker");
        }
        assert_eq!(stage.assign(1, directory(1)), ErrorCode::None);
        assert_eq!((stage.state(0).0, stage.state(0).2), (1, vec![1]));
        assert_eq!(stage.partition(0).directory_of(NodeId(1)), directory(1));
    }
}

#[test]
fn whoever_may_miss_records_leads_in_place_of_the_only_copy_where_that_is_allowed() {
    let mut stage = Stage::of(2);
    stage.create(&[&[1, 2]]);
    stage.configure("min.insync.replicas", "1");
    stage.fence(&[2]);
    stage.assign(1, LOST_DIRECTORY);
    stage.restart(2, 2);
    assert_eq!(stage.state(0).0, -1);
    stage.configure("unclean.leader.election.enable", "true");
    stage.commit(controller().elect_leaderless(&stage.image).records);
    assert_eq!((stage.state(0).0, stage.state(0).2), (2, vec![2]));
    // One whose copying began anew says so, and may lead uncleanly as any other.
    let mut interrupted = stage.clone();
    assert_eq!(interrupted.assign(1, directory(1)), ErrorCode::None);
    for mut stage in [stage.clone(), interrupted] {
        let leads = if stage.partition(0).directory_of(NodeId(1)) == directory(1) { 1 } else { -1 };
        stage.fence(&[2]);
        assert_eq!(stage.state(0).0, leads);
    }
    // It begins anew, and is a replica as any other.
    stage.restart(1, 2);
    assert_eq!(stage.partition(0).directory_of(NodeId(1)), directory(1));
}
