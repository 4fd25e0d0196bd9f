//! Groups and their offsets.

use futures::FutureExt;
use millstream_protocol::messages::join_group::JoinGroupRequestProtocol;
use millstream_protocol::messages::leave_group::MemberIdentity;
use millstream_protocol::messages::offset_commit::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use millstream_protocol::messages::offset_delete::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic, OffsetDeleteResponseTopic,
};
use millstream_protocol::messages::offset_fetch::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use millstream_protocol::messages::sync_group::SyncGroupRequestAssignment;
use millstream_protocol::messages::{
    DeleteGroupsRequest, DescribeGroupsRequest, FindCoordinatorRequest, HeartbeatRequest, JoinGroupRequest,
    JoinGroupResponse, LeaveGroupRequest, ListGroupsRequest, OffsetCommitRequest, OffsetDeleteRequest,
    OffsetFetchRequest, SyncGroupRequest,
};
use millstream_protocol::{ErrorCode, Receipt};

use crate::harness::Harness;

const RETRIES: usize = 2000;

fn find(node: &Harness, group: &str) {
    let request =
        FindCoordinatorRequest { coordinator_keys: vec![group.into()], ..FindCoordinatorRequest::default() };
    let found = node.call(request).coordinators[0].clone();
    assert_eq!((found.error_code, found.node_id, found.port), (0, 0, 9092));
}

/// Asks again while the coordinator loads.
pub(crate) fn settled<T>(node: &Harness, mut ask: impl FnMut() -> T, code: impl Fn(&T) -> i16) -> T {
    for _ in 0..RETRIES {
        let answer = ask();
        if ErrorCode::from_code(code(&answer)) != ErrorCode::CoordinatorLoadInProgress {
            return answer;
        }
        node.pause();
    }
    panic!("the coordinator is still loading");
}

fn join_request(group: &str, member: &str) -> JoinGroupRequest {
    JoinGroupRequest {
        group_id: group.into(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 10_000,
        member_id: member.into(),
        protocol_type: "consumer".into(),
        protocols: vec![JoinGroupRequestProtocol { name: "range".into(), metadata: "meta".into() }],
        ..JoinGroupRequest::default()
    }
}

/// A new member's id, which the coordinator makes up (KIP-394).
fn new_member(node: &Harness, group: &str) -> String {
    let answer = settled(node, || node.call(join_request(group, "")), |answer| answer.error_code);
    assert_eq!(ErrorCode::from_code(answer.error_code), ErrorCode::MemberIdRequired);
    answer.member_id.to_string()
}

fn joined(node: &Harness, receipt: Receipt) -> JoinGroupResponse {
    let answer = node.wait::<JoinGroupRequest>(receipt).unwrap();
    assert_eq!(ErrorCode::from_code(answer.error_code), ErrorCode::None);
    answer
}

fn sync(
    node: &Harness,
    group: &str,
    joined: &JoinGroupResponse,
    work: &[(&str, &str)],
) -> (ErrorCode, String) {
    let assignments = work.iter().map(|(member, assignment)| SyncGroupRequestAssignment {
        member_id: (*member).into(),
        assignment: bytes::Bytes::copy_from_slice(assignment.as_bytes()),
    });
    let answer = node.call(SyncGroupRequest {
        group_id: group.into(),
        generation_id: joined.generation_id,
        member_id: joined.member_id.clone(),
        protocol_type: joined.protocol_type.clone(),
        protocol_name: joined.protocol_name.clone(),
        assignments: assignments.collect(),
        ..SyncGroupRequest::default()
    });
    (ErrorCode::from_code(answer.error_code), String::from_utf8(answer.assignment.to_vec()).unwrap())
}

fn heartbeat(node: &Harness, group: &str, joined: &JoinGroupResponse) -> ErrorCode {
    let answer = node.call(HeartbeatRequest {
        group_id: group.into(),
        generation_id: joined.generation_id,
        member_id: joined.member_id.clone(),
        ..HeartbeatRequest::default()
    });
    ErrorCode::from_code(answer.error_code)
}

pub(crate) fn commit_request(group: &str, topic: &str, partition: i32, offset: i64) -> OffsetCommitRequest {
    OffsetCommitRequest {
        group_id: group.into(),
        generation_id_or_member_epoch: -1,
        topics: vec![OffsetCommitRequestTopic {
            name: topic.into(),
            partitions: vec![OffsetCommitRequestPartition {
                partition_index: partition,
                committed_offset: offset,
                committed_leader_epoch: 3,
                committed_metadata: Some("note".into()),
            }],
            ..OffsetCommitRequestTopic::default()
        }],
        ..OffsetCommitRequest::default()
    }
}

fn commit(node: &Harness, group: &str, topic: &str, partition: i32, offset: i64) -> ErrorCode {
    let ask = || node.call(commit_request(group, topic, partition, offset)).topics[0].partitions[0].clone();
    ErrorCode::from_code(settled(node, ask, |answer| answer.error_code).error_code)
}

pub(crate) fn committed(node: &Harness, group: &str, topic: &str, stable: bool) -> Result<i64, ErrorCode> {
    let topics = vec![OffsetFetchRequestTopics {
        name: topic.into(),
        partition_indexes: vec![0],
        ..OffsetFetchRequestTopics::default()
    }];
    let ask = || {
        let group = OffsetFetchRequestGroup {
            group_id: group.into(),
            topics: Some(topics.clone()),
            ..OffsetFetchRequestGroup::default()
        };
        let request = OffsetFetchRequest {
            groups: vec![group],
            require_stable: stable,
            ..OffsetFetchRequest::default()
        };
        node.call(request).groups[0].clone()
    };
    let answer = settled(node, ask, |answer| answer.error_code);
    ErrorCode::from_code(answer.error_code).ok()?;
    let partition = &answer.topics[0].partitions[0];
    ErrorCode::from_code(partition.error_code).ok()?;
    Ok(partition.committed_offset)
}

#[test]
fn members_join_share_the_work_and_are_told_when_it_changes() {
    let node = Harness::start();
    node.create("t", 2, &[]);
    find(&node, "g");
    let first = new_member(&node, "g");
    let alone = joined(&node, node.send(join_request("g", &first)));
    assert_eq!((&*alone.leader, alone.generation_id), (first.as_str(), 1));
    assert_eq!(sync(&node, "g", &alone, &[(&first, "all")]), (ErrorCode::None, "all".to_owned()));
    assert_eq!(heartbeat(&node, "g", &alone), ErrorCode::None);

    let second = new_member(&node, "g");
    let mut waiting = node.send(join_request("g", &second));
    assert!((&mut waiting).now_or_never().is_none(), "it waits for the first member");
    assert_eq!(heartbeat(&node, "g", &alone), ErrorCode::RebalanceInProgress);
    let again = joined(&node, node.send(join_request("g", &first)));
    let newcomer = joined(&node, waiting);
    assert_eq!((again.generation_id, again.members.len()), (2, 2));
    assert_eq!(newcomer.members.len(), 0, "only the leader sees the members");
    assert_eq!(heartbeat(&node, "g", &alone), ErrorCode::IllegalGeneration);
    let work = [(first.as_str(), "half"), (second.as_str(), "other half")];
    assert_eq!(sync(&node, "g", &again, &work), (ErrorCode::None, "half".to_owned()));
    assert_eq!(sync(&node, "g", &newcomer, &[]), (ErrorCode::None, "other half".to_owned()));

    let listed = node.call(ListGroupsRequest::default());
    assert_eq!(listed.groups.len(), 1);
    assert_eq!((&*listed.groups[0].group_id, &*listed.groups[0].group_state), ("g", "Stable"));
    let described = node.call(DescribeGroupsRequest { groups: vec!["g".into()], ..Default::default() });
    assert_eq!(described.groups[0].members.len(), 2);
    assert_eq!(&*described.groups[0].protocol_data, "range");

    let member = MemberIdentity { member_id: second.as_str().into(), ..MemberIdentity::default() };
    let left = node.call(LeaveGroupRequest {
        group_id: "g".into(),
        members: vec![member],
        ..LeaveGroupRequest::default()
    });
    assert_eq!((left.error_code, left.members[0].error_code), (0, 0));
    assert_eq!(heartbeat(&node, "g", &again), ErrorCode::RebalanceInProgress);
    let busy = node.call(DeleteGroupsRequest { groups_names: vec!["g".into()] });
    assert_eq!(ErrorCode::from_code(busy.results[0].error_code), ErrorCode::NonEmptyGroup);
}

#[test]
fn committed_offsets_survive_restart_and_crash() {
    let mut node = Harness::start();
    node.create("t", 1, &[]);
    find(&node, "g");
    assert_eq!(committed(&node, "g", "t", true), Ok(-1));
    assert_eq!(commit(&node, "g", "t", 0, 7), ErrorCode::None);
    assert_eq!(commit(&node, "g", "t", 9, 7), ErrorCode::UnknownTopicOrPartition);
    assert_eq!(commit(&node, "g", "none", 0, 7), ErrorCode::UnknownTopicOrPartition);
    assert_eq!(committed(&node, "g", "t", true), Ok(7));
    node.crash();
    assert_eq!(committed(&node, "g", "t", true), Ok(7));
    assert_eq!(commit(&node, "g", "t", 0, 8), ErrorCode::None);
    node.restart();
    assert_eq!(committed(&node, "g", "t", true), Ok(8), "from the snapshot");
    assert_eq!(commit(&node, "g", "t", 0, 9), ErrorCode::None);
    node.crash();
    assert_eq!(committed(&node, "g", "t", true), Ok(9), "from the snapshot and the log behind it");
    let deleted = node.call(DeleteGroupsRequest { groups_names: vec!["g".into()] });
    assert_eq!(deleted.results[0].error_code, 0);
    assert_eq!(committed(&node, "g", "t", true), Ok(-1));
    node.crash();
    assert_eq!(committed(&node, "g", "t", true), Ok(-1));
}

/// Deletes offsets: the code of the group, and every partition with its code.
fn delete_offsets(
    node: &Harness,
    group: &str,
    topics: &[(&str, &[i32])],
) -> (ErrorCode, Vec<(String, i32, ErrorCode)>) {
    let topic = |(name, indexes): &(&str, &[i32])| OffsetDeleteRequestTopic {
        name: (*name).into(),
        partitions: indexes
            .iter()
            .map(|index| OffsetDeleteRequestPartition { partition_index: *index })
            .collect(),
    };
    let request = OffsetDeleteRequest { group_id: group.into(), topics: topics.iter().map(topic).collect() };
    let answer = settled(node, || node.call(request.clone()), |answer| answer.error_code);
    let told = |topic: &OffsetDeleteResponseTopic| {
        let name = topic.name.to_string();
        let partitions = topic.partitions.iter();
        partitions
            .map(|one| (name.clone(), one.partition_index, ErrorCode::from_code(one.error_code)))
            .collect::<Vec<_>>()
    };
    (ErrorCode::from_code(answer.error_code), answer.topics.iter().flat_map(told).collect())
}

#[test]
fn offsets_are_deleted_for_good_one_by_one() {
    let mut node = Harness::start();
    node.create("t", 2, &[]);
    node.create("u", 1, &[]);
    assert_eq!(delete_offsets(&node, "g", &[("t", &[0])]), (ErrorCode::NotCoordinator, vec![]));
    find(&node, "g");
    assert_eq!(delete_offsets(&node, "", &[("t", &[0])]), (ErrorCode::InvalidGroupId, vec![]));
    let nobody = (ErrorCode::GroupIdNotFound, vec![]);
    assert_eq!(delete_offsets(&node, "g", &[("t", &[0]), ("none", &[0])]), nobody);
    assert_eq!(commit(&node, "g", "t", 0, 7), ErrorCode::None);
    assert_eq!(commit(&node, "g", "u", 0, 8), ErrorCode::None);
    let unknown = ErrorCode::UnknownTopicOrPartition;
    let of = |name: &str, index, code| (name.to_owned(), index, code);
    assert_eq!(
        delete_offsets(&node, "g", &[("t", &[0, 1, 9]), ("none", &[0])]),
        (
            ErrorCode::None,
            vec![
                of("t", 9, unknown),
                of("t", 0, ErrorCode::None),
                of("t", 1, ErrorCode::None),
                of("none", 0, unknown)
            ]
        ),
        "partition 1 has no offset, which is as good as deleted"
    );
    let left = |node: &Harness| (committed(node, "g", "t", true), committed(node, "g", "u", true));
    assert_eq!(left(&node), (Ok(-1), Ok(8)));
    node.crash();
    assert_eq!(left(&node), (Ok(-1), Ok(8)));
}

#[test]
fn a_group_is_in_one_place_only_once_the_topic_is_there() {
    let node = Harness::start();
    node.create("t", 1, &[]);
    assert_eq!(commit(&node, "g", "t", 0, 7), ErrorCode::NotCoordinator);
    find(&node, "g");
    assert_eq!(commit(&node, "g", "t", 0, 7), ErrorCode::None);
}

#[test]
fn a_member_that_falls_silent_is_taken_out() {
    let node = Harness::with(&[("group.min.session.timeout.ms", "50")]);
    node.create("t", 1, &[]);
    find(&node, "g");
    let member = new_member(&node, "g");
    let request = JoinGroupRequest { session_timeout_ms: 50, ..join_request("g", &member) };
    let alone = joined(&node, node.send(request));
    assert_eq!(sync(&node, "g", &alone, &[(&member, "all")]).0, ErrorCode::None);
    let mut state = String::new();
    for _ in 0..RETRIES {
        let request = DescribeGroupsRequest { groups: vec!["g".into()], ..DescribeGroupsRequest::default() };
        state = node.call(request).groups[0].group_state.to_string();
        if state == "Empty" {
            break;
        }
        node.pause();
    }
    assert_eq!(state, "Empty");
    assert_eq!(heartbeat(&node, "g", &alone), ErrorCode::UnknownMemberId);
}

/// Every `coordinator.snapshot` under `dir`.
fn snapshots(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let partitions = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    partitions.map(|dir| dir.join("coordinator.snapshot")).filter(|file| file.exists()).collect()
}

#[test]
fn a_snapshot_ahead_of_its_log_is_ignored() {
    let mut node = Harness::start();
    node.create("t", 1, &[]);
    find(&node, "g");
    assert_eq!(commit(&node, "g", "t", 0, 1), ErrorCode::None);
    // What a power cut would leave if a snapshot could outrun the log: state of the offset 99, which nobody committed.
    node.restart_after(|dir| {
        let files = snapshots(dir);
        assert_eq!(files.len(), 1, "the one coordinator that has records");
        let mut bytes = std::fs::read(&files[0]).unwrap();
        bytes[8..16].copy_from_slice(&1000i64.to_be_bytes());
        let place = bytes.windows(8).rposition(|eight| eight == 1i64.to_be_bytes()).unwrap();
        bytes[place..place + 8].copy_from_slice(&99i64.to_be_bytes());
        let crc = crc32c::crc32c(&bytes[8..]);
        bytes[4..8].copy_from_slice(&crc.to_be_bytes());
        std::fs::write(&files[0], bytes).unwrap();
    });
    assert_eq!(committed(&node, "g", "t", false), Ok(1), "the log is believed");
}
