//! DescribeTopicPartitions: as Metadata, with who is eligible to lead, and in pages (KIP-966).

use std::collections::BTreeSet;

use bytestring::ByteString;
use millstream_machine::metadata::{Image, InternalTopic, Topic, validate_topic_name};
use millstream_protocol::ErrorCode;
use millstream_protocol::messages::describe_topic_partitions::{
    DescribeTopicPartitionsResponseCursor, DescribeTopicPartitionsResponsePartition,
    DescribeTopicPartitionsResponseTopic,
};
use millstream_protocol::messages::{DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse};
use millstream_record::NodeId;

use super::metadata::offline_replicas;
use super::permissions;
use crate::shared::Shared;

pub(super) fn handle(
    shared: &Shared,
    request: &DescribeTopicPartitionsRequest,
) -> DescribeTopicPartitionsResponse {
    let image = shared.image.load();
    let most = shared.config.int("max.request.partition.size.limit");
    describe(&image, request, most, |node| shared.is_leading(node, &image))
}

/// At most as many partitions as the request and the broker (`most`) allow, but one at least, in the order of names. A topic of
/// which there is more than fits is where the next request goes on; what it is then told is of the image of that time.
fn describe(
    image: &Image,
    request: &DescribeTopicPartitionsRequest,
    most: i32,
    is_leading: impl Fn(NodeId) -> bool,
) -> DescribeTopicPartitionsResponse {
    let cursor = request.cursor.as_ref();
    let begin = cursor.map_or("", |cursor| &*cursor.topic_name);
    let asked: BTreeSet<&str> = request.topics.iter().map(|topic| &*topic.name).collect();
    let is_all = asked.is_empty();
    let is_wrong =
        cursor.is_some_and(|cursor| cursor.partition_index < 0 || !(is_all || asked.contains(begin)));
    if is_wrong {
        let refused = |topic: &_| without_partitions(topic, ErrorCode::InvalidRequest);
        let topics = request.topics.iter().map(|topic| refused(&topic.name)).collect();
        return DescribeTopicPartitionsResponse { topics, ..Default::default() };
    }
    let names: Box<dyn Iterator<Item = &str>> =
        if is_all { Box::new(image.topics().map(|topic| &*topic.name)) } else { Box::new(asked.into_iter()) };
    let mut room = usize::try_from(request.response_partition_limit.min(most)).unwrap_or(0).max(1);
    let mut response = DescribeTopicPartitionsResponse::default();
    let next = |topic_name: &str, partition_index| {
        let topic_name = topic_name.into();
        Some(DescribeTopicPartitionsResponseCursor { topic_name, partition_index })
    };
    for name in names.skip_while(|name| *name < begin) {
        if room == 0 {
            response.next_cursor = next(name, 0);
            break;
        }
        let Some(topic) = image.topic(name) else {
            let is_name = validate_topic_name(name).is_ok();
            let error =
                if is_name { ErrorCode::UnknownTopicOrPartition } else { ErrorCode::InvalidTopicException };
            response.topics.push(DescribeTopicPartitionsResponseTopic {
                topic_authorized_operations: permissions::TOPIC,
                ..without_partitions(&name.into(), error)
            });
            continue;
        };
        let at_cursor = cursor.filter(|cursor| *cursor.topic_name == *name);
        let first = at_cursor.map_or(0, |cursor| usize::try_from(cursor.partition_index).unwrap_or(0));
        let end = topic.partitions.len().min(first.saturating_add(room));
        let described = described(image, topic, first..end.max(first), &is_leading);
        room -= described.partitions.len();
        response.topics.push(described);
        if end < topic.partitions.len() {
            response.next_cursor = next(name, i32::try_from(end).unwrap_or(i32::MAX));
            break;
        }
    }
    response
}

fn without_partitions(name: &ByteString, error: ErrorCode) -> DescribeTopicPartitionsResponseTopic {
    DescribeTopicPartitionsResponseTopic {
        error_code: error.code(),
        name: Some(name.clone()),
        is_internal: error != ErrorCode::InvalidRequest && InternalTopic::of_name(name).is_some(),
        ..DescribeTopicPartitionsResponseTopic::default()
    }
}

fn described(
    image: &Image,
    topic: &Topic,
    range: std::ops::Range<usize>,
    is_leading: impl Fn(NodeId) -> bool,
) -> DescribeTopicPartitionsResponseTopic {
    let ids = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect::<Vec<_>>();
    let partitions = topic.partitions.iter().zip(0..).skip(range.start).take(range.len());
    let partitions = partitions.map(|(partition, index)| DescribeTopicPartitionsResponsePartition {
        error_code: ErrorCode::None.code(), // that it has no leader is all that Kafka says here
        partition_index: index,
        leader_id: partition.leader.filter(|node| is_leading(*node)).map_or(-1, |node| node.0),
        leader_epoch: partition.leader_epoch.0,
        replica_nodes: ids(&partition.replicas),
        isr_nodes: ids(&partition.isr),
        eligible_leader_replicas: Some(ids(&partition.elr)),
        last_known_elr: Some(ids(&partition.last_known_elr)),
        offline_replicas: offline_replicas(image, partition),
    });
    DescribeTopicPartitionsResponseTopic {
        error_code: ErrorCode::None.code(),
        name: Some((&*topic.name).into()),
        topic_id: topic.id,
        is_internal: InternalTopic::of_name(&topic.name).is_some(),
        partitions: partitions.collect(),
        topic_authorized_operations: permissions::TOPIC,
    }
}

#[cfg(test)]
mod tests {
    use millstream_machine::metadata::Record;
    use millstream_protocol::messages::describe_topic_partitions::{
        DescribeTopicPartitionsRequestCursor, TopicRequest,
    };
    use millstream_protocol::messages::{PartitionRecord, TopicRecord};
    use millstream_record::Uuid;

    use super::*;

    /// Topics `a`, `b` and `c` with 1, 3 and 2 partitions. Nobody of their replicas 1, 2 and 3 is registered; of `b`, partition 1
    /// has lost its leader 2, with 3 still eligible, and partition 2 all but a memory of 3.
    fn image() -> Image {
        let mut image = Image::default();
        for (name, id, partitions) in [("a", 1, 1), ("b", 2, 3), ("c", 3, 2)] {
            let topic_id = Uuid([id; 16]);
            image.apply(&Record::Topic(TopicRecord { name: name.into(), topic_id })).unwrap();
            for partition_id in 0..partitions {
                let (leader, isr, elr, last_known) = match (name, partition_id) {
                    ("b", 1) => (-1, vec![], Some(vec![3]), None),
                    ("b", 2) => (-1, vec![], None, Some(vec![3])),
                    _ => (1, vec![1, 2, 3], None, None),
                };
                let record = PartitionRecord {
                    partition_id,
                    topic_id,
                    replicas: vec![1, 2, 3],
                    isr,
                    leader,
                    leader_epoch: 7,
                    directories: vec![Uuid::ZERO; 3],
                    eligible_leader_replicas: elr,
                    last_known_elr: last_known,
                    ..PartitionRecord::default()
                };
                image.apply(&Record::Partition(record)).unwrap();
            }
        }
        image
    }

    fn request(topics: &[&str], limit: i32, cursor: Option<(&str, i32)>) -> DescribeTopicPartitionsRequest {
        DescribeTopicPartitionsRequest {
            topics: topics.iter().map(|name| TopicRequest { name: (*name).into() }).collect(),
            response_partition_limit: limit,
            cursor: cursor.map(|(name, partition_index)| DescribeTopicPartitionsRequestCursor {
                topic_name: name.into(),
                partition_index,
            }),
        }
    }

    /// Each topic with its partitions, or its error; and where to go on.
    fn shown(answer: &DescribeTopicPartitionsResponse) -> String {
        let mut shown: Vec<String> = Vec::new();
        for topic in &answer.topics {
            let indexes: Vec<i32> = topic.partitions.iter().map(|one| one.partition_index).collect();
            let what = match ErrorCode::from_code(topic.error_code) {
                ErrorCode::None => format!("{indexes:?}"),
                error => format!("{error:?}"),
            };
            shown.push(format!("{}{what}", topic.name.as_deref().unwrap()));
        }
        if let Some(next) = &answer.next_cursor {
            shown.push(format!("> {}-{}", next.topic_name, next.partition_index));
        }
        shown.join(" ")
    }

    #[test]
    fn pages_are_kafkas() {
        type Row<'a> = (&'a [&'a str], i32, Option<(&'a str, i32)>, &'a str);
        let table: &[Row] = &[
            (&[], 2000, None, "a[0] b[0, 1, 2] c[0, 1]"),
            (&[], 1, None, "a[0] > b-0"),
            (&[], 0, None, "a[0] > b-0"),
            (&[], -5, None, "a[0] > b-0"),
            (&[], 3, None, "a[0] b[0, 1] > b-2"),
            (&[], 3, Some(("b", 2)), "b[2] c[0, 1]"),
            (&[], 4, None, "a[0] b[0, 1, 2] > c-0"),
            (&[], 2000, Some(("b", 3)), "b[] c[0, 1]"),
            (&[], 2000, Some(("b", i32::MAX)), "b[] c[0, 1]"),
            (&[], 2000, Some(("bb", 1)), "c[0, 1]"),
            (&[], 2000, Some(("b", -1)), ""),
            (&["c", "a", "c"], 2000, None, "a[0] c[0, 1]"),
            (&["c", "a"], 2, None, "a[0] c[0] > c-1"),
            (&["c", "a"], 2, Some(("c", 1)), "c[1]"),
            (&["c", "a"], 2, Some(("b", 0)), "cInvalidRequest aInvalidRequest"),
            (&["c", "a"], 2, Some(("c", -1)), "cInvalidRequest aInvalidRequest"),
            (&["z", "a", "no name"], 1, None, "a[0] > no name-0"),
            (&["z", "a", "no name"], 5, None, "a[0] no nameInvalidTopicException zUnknownTopicOrPartition"),
        ];
        let image = image();
        for (topics, limit, cursor, expected) in table {
            let asked = request(topics, *limit, *cursor);
            let answer = describe(&image, &asked, 2000, |_| true);
            assert_eq!(shown(&answer), *expected, "{topics:?}, {limit}, {cursor:?}");
        }
        let asked = request(&[], 2000, None);
        assert_eq!(
            shown(&describe(&image, &asked, 2, |_| true)),
            "a[0] b[0] > b-1",
            "the broker's own limit"
        );
    }

    #[test]
    fn who_may_lead_is_told() {
        let answer = describe(&image(), &request(&["b"], 2000, None), 2000, |_| true);
        let topic = &answer.topics[0];
        assert_eq!((topic.topic_id, topic.is_internal), (Uuid([2; 16]), false));
        assert_eq!(topic.topic_authorized_operations, permissions::TOPIC);
        let told = topic.partitions.iter().map(|one| {
            assert_eq!((one.error_code, one.leader_epoch), (0, 7));
            assert_eq!((&one.replica_nodes[..], &one.offline_replicas[..]), (&[1, 2, 3][..], &[1, 2, 3][..]));
            let some = |ids: &Option<Vec<i32>>| ids.clone().expect("it is known, if only that there is none");
            (
                one.leader_id,
                one.isr_nodes.clone(),
                some(&one.eligible_leader_replicas),
                some(&one.last_known_elr),
            )
        });
        assert_eq!(
            told.collect::<Vec<_>>(),
            [
                (1, vec![1, 2, 3], vec![], vec![]),
                (-1, vec![], vec![3], vec![]),
                (-1, vec![], vec![], vec![3])
            ]
        );
        let suspected = describe(&image(), &request(&["a"], 2000, None), 2000, |_| false);
        assert_eq!(suspected.topics[0].partitions[0].leader_id, -1, "as in Metadata");
    }
}
