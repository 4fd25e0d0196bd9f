//! Requests of administrators: to describe partitions, and to delete the offsets of groups, some of which have members.

use bytestring::ByteString;
use millstream_protocol::messages::describe_topic_partitions::{
    DescribeTopicPartitionsRequestCursor, TopicRequest,
};
use millstream_protocol::messages::join_group::JoinGroupRequestProtocol;
use millstream_protocol::messages::offset_delete::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use millstream_protocol::messages::*;
use millstream_protocol::wire::Message;
use millstream_protocol::{Request, Response};

use super::Asked;

/// Far longer than the test.
const SESSION_MS: i32 = 120_000;
const UNKNOWN: ByteString = ByteString::from_static("unknown-topic");

/// The group of `topic` whose one member speaks this protocol.
fn group(topic: &ByteString, protocol_type: &str) -> ByteString {
    format!("{topic}-{protocol_type}").into()
}

/// Makes two groups with one member each: a consumer of the topic, and one of another kind.
pub(super) async fn join_groups(asked: &Asked) {
    for protocol_type in ["consumer", "connect"] {
        let group_id = group(&asked.topic, protocol_type);
        let find = FindCoordinatorRequest {
            key_type: 0,
            coordinator_keys: vec![group_id.clone()],
            ..Default::default()
        };
        asked.settled(find.into()).await; // which makes the topic that groups are kept in
        let subscription =
            ConsumerProtocolSubscription { topics: vec![asked.topic.clone()], ..Default::default() };
        let metadata = subscription.encode_versioned(0).unwrap();
        let mut join = JoinGroupRequest {
            group_id,
            session_timeout_ms: SESSION_MS,
            rebalance_timeout_ms: SESSION_MS,
            protocol_type: protocol_type.into(),
            protocols: vec![JoinGroupRequestProtocol { name: "range".into(), metadata }],
            ..JoinGroupRequest::default()
        };
        for expected in [79, 0] {
            // MEMBER_ID_REQUIRED, and then with that id.
            let Response::JoinGroup(joined) = asked.settled(join.clone().into()).await else {
                panic!("JoinGroup is answered by its like");
            };
            assert_eq!(joined.error_code, expected, "{protocol_type}");
            join.member_id = joined.member_id;
        }
    }
}

pub(super) fn cases(topic: &ByteString) -> Vec<(&'static str, Request)> {
    let describe = |names: &[&str], cursor: Option<(&str, i32)>| {
        Request::from(DescribeTopicPartitionsRequest {
            topics: names.iter().map(|name| TopicRequest { name: (*name).into() }).collect(),
            cursor: cursor.map(|(name, partition_index)| DescribeTopicPartitionsRequestCursor {
                topic_name: name.into(),
                partition_index,
            }),
            ..DescribeTopicPartitionsRequest::default()
        })
    };
    let delete = |group: &str, topics: &[(&ByteString, &[i32])]| {
        let topic = |(name, indexes): &(&ByteString, &[i32])| OffsetDeleteRequestTopic {
            name: (*name).clone(),
            partitions: indexes
                .iter()
                .map(|index| OffsetDeleteRequestPartition { partition_index: *index })
                .collect(),
        };
        let topics = topics.iter().map(topic).collect();
        Request::from(OffsetDeleteRequest { group_id: group.into(), topics })
    };
    let (consumers, others) = (group(topic, "consumer"), group(topic, "connect"));
    vec![
        ("describes partitions", describe(&[topic], None)),
        ("describes partitions of unknown topics", describe(&["zz-unknown", topic, "zz no name"], None)),
        ("describes partitions from none", describe(&[topic], Some((topic, -1)))),
        ("describes partitions from another topic", describe(&[topic], Some(("another", 0)))),
        ("describes partitions from behind the last", describe(&[topic], Some((topic, 99)))),
        ("describes partitions behind all topics", describe(&[], Some(("zzzzzzzz", 0)))),
        ("deletes offsets of an unknown group", delete("errors-unknown", &[(topic, &[0]), (&UNKNOWN, &[0])])),
        ("deletes offsets without a group", delete("", &[(topic, &[0])])),
        ("deletes offsets", delete("errors-group", &[(topic, &[0])])),
        ("deletes offsets that there are not", delete("errors-group", &[(topic, &[0])])),
        ("deletes no offsets", delete("errors-group", &[])),
        (
            "deletes offsets of unknown partitions",
            delete("errors-group", &[(topic, &[0, 99]), (&UNKNOWN, &[0])]),
        ),
        ("deletes offsets that a consumer reads", delete(&consumers, &[(topic, &[0, 99])])),
        ("deletes offsets of a group that is no consumers'", delete(&others, &[(topic, &[0])])),
        ("deletes no offsets of a group that is no consumers'", delete(&others, &[(&UNKNOWN, &[0])])),
    ]
}
