//! The bytes in which members and leader talk: Kafka's consumer protocol.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use millstream_protocol::Message;
use millstream_protocol::messages::consumer_protocol::{
    ConsumerProtocolAssignment, ConsumerProtocolAssignmentTopicPartition, ConsumerProtocolSubscription,
    ConsumerProtocolSubscriptionTopicPartition,
};
use millstream_record::TopicPartition;

use super::{MemberAssignment, MemberSubscription};
use crate::ClientError;

/// The newest version: with owned partitions, generation and rack. Readers take what they know of it.
const VERSION: i16 = 3;

/// A subscription as JoinGroup carries it.
///
/// # Errors
/// When a name or list is longer than the format can say.
pub fn write_subscription(subscription: &MemberSubscription) -> Result<Bytes, ClientError> {
    let owned = by_topic(&subscription.owned).into_iter();
    let message = ConsumerProtocolSubscription {
        topics: subscription.topics.iter().map(|topic| ByteString::from(&**topic)).collect(),
        user_data: subscription.user_data.clone(),
        owned_partitions: owned
            .map(|(topic, partitions)| ConsumerProtocolSubscriptionTopicPartition { topic, partitions })
            .collect(),
        generation_id: subscription.generation,
        rack_id: subscription.rack.clone(),
    };
    message.encode_versioned(VERSION).map_err(|source| fault("the subscription", source))
}

/// Reads a subscription; `group_instance_id` comes from JoinGroup.
///
/// # Errors
/// When the bytes are no subscription.
pub fn read_subscription(
    bytes: Bytes,
    group_instance_id: Option<ByteString>,
) -> Result<MemberSubscription, ClientError> {
    let message = ConsumerProtocolSubscription::decode_versioned(bytes)
        .map_err(|source| fault("a member's subscription", source))?;
    let owned = message.owned_partitions.into_iter().flat_map(|list| spread(&list.topic, list.partitions));
    Ok(MemberSubscription {
        group_instance_id,
        topics: message.topics.iter().map(|topic| Arc::from(&**topic)).collect(),
        owned: owned.collect(),
        generation: message.generation_id,
        rack: message.rack_id,
        user_data: message.user_data,
    })
}

/// An assignment as SyncGroup carries it.
///
/// # Errors
/// When a name or list is longer than the format can say.
pub fn write_assignment(assignment: &MemberAssignment) -> Result<Bytes, ClientError> {
    let assigned = by_topic(&assignment.partitions).into_iter();
    let message = ConsumerProtocolAssignment {
        assigned_partitions: assigned
            .map(|(topic, partitions)| ConsumerProtocolAssignmentTopicPartition { topic, partitions })
            .collect(),
        user_data: assignment.user_data.clone(),
    };
    message.encode_versioned(VERSION).map_err(|source| fault("the assignment", source))
}

/// Reads an assignment. No bytes at all are an assignment of nothing.
///
/// # Errors
/// When the bytes are no assignment.
pub fn read_assignment(bytes: Bytes) -> Result<MemberAssignment, ClientError> {
    if bytes.is_empty() {
        return Ok(MemberAssignment::default());
    }
    let message = ConsumerProtocolAssignment::decode_versioned(bytes)
        .map_err(|source| fault("the group's assignment", source))?;
    let assigned =
        message.assigned_partitions.into_iter().flat_map(|list| spread(&list.topic, list.partitions));
    Ok(MemberAssignment { partitions: assigned.collect(), user_data: message.user_data })
}

fn by_topic(partitions: &[TopicPartition]) -> BTreeMap<ByteString, Vec<i32>> {
    let mut topics: BTreeMap<ByteString, Vec<i32>> = BTreeMap::new();
    for partition in partitions {
        topics.entry(ByteString::from(&*partition.topic)).or_default().push(partition.partition);
    }
    topics
}

fn spread(topic: &str, partitions: Vec<i32>) -> impl Iterator<Item = TopicPartition> + use<> {
    let topic: Arc<str> = Arc::from(topic);
    partitions.into_iter().map(move |partition| TopicPartition::new(Arc::clone(&topic), partition))
}

fn fault(what: &str, source: millstream_protocol::CodecError) -> ClientError {
    ClientError::Codec { what: what.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of Java's `ConsumerProtocol.serializeSubscription` for topics `t`, owned `t-1`, generation 7, no rack.
    #[test]
    fn subscriptions_are_javas_bytes() {
        let subscription = MemberSubscription {
            topics: [Arc::from("t")].into(),
            owned: vec![TopicPartition::new("t", 1)],
            generation: 7,
            ..MemberSubscription::default()
        };
        let bytes = write_subscription(&subscription).unwrap();
        let expected: &[u8] = &[
            0, 3, // version
            0, 0, 0, 1, 0, 1, b't', // topics
            0xff, 0xff, 0xff, 0xff, // no user data
            0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 1, 0, 0, 0, 1, // owned
            0, 0, 0, 7, // generation
            0xff, 0xff, // no rack
        ];
        assert_eq!(bytes, expected);
        assert_eq!(read_subscription(bytes, None).unwrap(), subscription);
    }

    #[test]
    fn assignments_round_trip_and_no_bytes_are_nothing() {
        let assignment = MemberAssignment {
            partitions: vec![
                TopicPartition::new("a", 0),
                TopicPartition::new("a", 2),
                TopicPartition::new("b", 1),
            ],
            user_data: Some(Bytes::from_static(b"x")),
        };
        let bytes = write_assignment(&assignment).unwrap();
        assert_eq!(read_assignment(bytes.clone()).unwrap(), assignment);
        assert_eq!(read_assignment(Bytes::new()).unwrap(), MemberAssignment::default());
        assert!(read_assignment(bytes.slice(..bytes.len() - 3)).is_err());
        assert!(read_subscription(Bytes::from_static(&[0, 1, 0xff, 0xff, 0xff, 0xff]), None).is_err());
    }
}
