//! What is known of the cluster: brokers, topics, leaders.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use millstream_protocol::messages::metadata::{
    MetadataResponse, MetadataResponsePartition, MetadataResponseTopic,
};
use millstream_protocol::{Endpoint, ErrorCode};
use millstream_record::{LeaderEpoch, NodeId, TopicId};

use crate::{BrokerInfo, PartitionInfo};

/// One state of the cluster; never changed, only replaced.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metadata {
    /// Rises with each answer.
    pub version: u64,
    /// Monotonic time of the answer.
    pub fetched_at: Duration,
    pub controller: Option<NodeId>,
    pub brokers: BTreeMap<i32, BrokerInfo>,
    pub topics: BTreeMap<Arc<str>, Topic>,
}

/// A topic as the last answer described it.
#[derive(Clone, Debug)]
pub(crate) struct Topic {
    pub id: TopicId,
    pub is_internal: bool,
    pub error: ErrorCode,
    pub partitions: Vec<PartitionInfo>,
}

/// Who leads a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leader {
    pub node: i32,
    pub endpoint: Endpoint,
    pub epoch: LeaderEpoch,
}

impl Metadata {
    /// The leader of a partition, where it is known and reachable.
    pub(crate) fn leader(&self, topic: &str, partition: i32) -> Option<Leader> {
        let info = self.topics.get(topic)?.partitions.get(usize::try_from(partition).ok()?)?;
        let node = info.leader?.0;
        let broker = self.brokers.get(&node)?;
        Some(Leader { node, endpoint: broker.endpoint.clone(), epoch: info.leader_epoch })
    }

    /// How many partitions a topic has; `None` where it is not known.
    pub(crate) fn partition_count(&self, topic: &str) -> Option<i32> {
        let topic = self.topics.get(topic).filter(|topic| topic.error.is_none())?;
        i32::try_from(topic.partitions.len()).ok()
    }

    pub(crate) fn topic_id(&self, topic: &str) -> TopicId {
        self.topics.get(topic).map(|topic| topic.id).unwrap_or_default()
    }

    /// The name of the topic with this id.
    pub(crate) fn topic_named(&self, id: TopicId) -> Option<&Arc<str>> {
        self.topics.iter().find(|(_, topic)| topic.id == id).map(|(name, _)| name)
    }

    /// The state after `answer`: brokers as told, topics told replaced, others kept.
    pub(crate) fn after(&self, answer: MetadataResponse, now: Duration) -> Self {
        let mut topics = self.topics.clone();
        for told in answer.topics {
            let Some(name) = told.name.clone() else { continue };
            let name: Arc<str> =
                topics.get_key_value(&*name).map_or_else(|| Arc::from(&*name), |(n, _)| Arc::clone(n));
            let topic = Topic::read(told, topics.get(&name));
            topics.insert(name, topic);
        }
        let brokers = answer.brokers.into_iter().map(|broker| {
            let port = u16::try_from(broker.port).unwrap_or(0);
            let info = BrokerInfo {
                node: NodeId(broker.node_id),
                endpoint: Endpoint { host: broker.host, port },
                rack: broker.rack,
            };
            (broker.node_id, info)
        });
        Self {
            version: self.version + 1,
            fetched_at: now,
            controller: Some(NodeId(answer.controller_id)).filter(|id| id.0 >= 0),
            brokers: brokers.collect(),
            topics,
        }
    }
}

impl Topic {
    /// The topic as told. A partition keeps what was known of it while the broker asked is behind (an older leader epoch of the
    /// same topic id), so that a stale broker cannot send us back to a deposed leader (KIP-320).
    pub(crate) fn read(told: MetadataResponseTopic, known: Option<&Self>) -> Self {
        let known = known.filter(|known| known.id == told.topic_id && known.error.is_none());
        let mut partitions: Vec<_> = told.partitions.into_iter().map(read_partition).collect();
        partitions.sort_by_key(|partition| partition.partition);
        for (told, known) in
            partitions.iter_mut().zip(known.map(|k| k.partitions.iter()).into_iter().flatten())
        {
            if told.leader_epoch < known.leader_epoch && told.leader_epoch != LeaderEpoch::NONE {
                *told = known.clone();
            }
        }
        Self {
            id: told.topic_id,
            is_internal: told.is_internal,
            error: ErrorCode::from_code(told.error_code),
            partitions,
        }
    }
}

fn read_partition(told: MetadataResponsePartition) -> PartitionInfo {
    let nodes = |ids: Vec<i32>| ids.into_iter().map(NodeId).collect();
    PartitionInfo {
        partition: told.partition_index,
        leader: Some(NodeId(told.leader_id)).filter(|id| id.0 >= 0),
        leader_epoch: LeaderEpoch(told.leader_epoch),
        replicas: nodes(told.replica_nodes),
        in_sync: nodes(told.isr_nodes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(leader: i32, epoch: i32, id: u8) -> MetadataResponse {
        let partition = MetadataResponsePartition {
            partition_index: 0,
            leader_id: leader,
            leader_epoch: epoch,
            ..MetadataResponsePartition::default()
        };
        let topic = MetadataResponseTopic {
            name: Some("t".into()),
            topic_id: millstream_record::Uuid([id; 16]),
            partitions: vec![partition],
            ..MetadataResponseTopic::default()
        };
        MetadataResponse { topics: vec![topic], ..MetadataResponse::default() }
    }

    #[test]
    fn a_stale_broker_does_not_bring_back_a_deposed_leader() {
        let leader = |m: &Metadata| m.topics["t"].partitions[0].leader.map(|id| id.0);
        let first = Metadata::default().after(told(1, 5, 1), Duration::ZERO);
        for (answer, expected) in [
            (told(2, 6, 1), Some(2)),  // newer
            (told(2, 4, 1), Some(1)),  // older: kept
            (told(2, -1, 1), Some(2)), // unknown epoch: an old broker, believed
            (told(2, 0, 2), Some(2)),  // another topic of the same name
            (told(-1, 6, 1), None),    // no leader
        ] {
            assert_eq!(leader(&first.after(answer.clone(), Duration::ZERO)), expected, "{answer:?}");
        }
    }
}
