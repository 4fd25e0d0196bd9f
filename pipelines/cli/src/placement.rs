//! Where replicas go that leave a broker: to another that has none of the partition, in another rack if possible, and with the fewest.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Result, bail};
use millstream_client::{BrokerInfo, TopicDescription};
use millstream_record::{NodeId, TopicPartition};

/// How many replicas each broker has, and its rack.
#[derive(Clone, Debug)]
pub(crate) struct Spread(BTreeMap<NodeId, (usize, Option<String>)>);

impl Spread {
    /// As it is now.
    pub(crate) fn of(brokers: &[BrokerInfo], topics: &[TopicDescription]) -> Self {
        let mut spread: BTreeMap<_, _> = brokers
            .iter()
            .map(|broker| (broker.node, (0, broker.rack.as_ref().map(ToString::to_string))))
            .collect();
        let partitions = topics.iter().flat_map(|topic| &topic.partitions);
        for node in partitions.flat_map(|partition| &partition.replicas) {
            if let Some((count, _)) = spread.get_mut(node) {
                *count += 1;
            }
        }
        Self(spread)
    }

    fn rack(&self, node: NodeId) -> Option<&String> {
        self.0.get(&node)?.1.as_ref()
    }

    /// The broker that is to take a replica from `leaving`, beside `others`.
    fn best(&self, leaving: NodeId, others: &[NodeId]) -> Option<NodeId> {
        let free = self.0.iter().filter(|(node, _)| **node != leaving && !others.contains(node));
        free.min_by_key(|(node, (count, rack))| {
            let shares_rack = rack.is_some() && others.iter().any(|other| self.rack(*other) == rack.as_ref());
            (shares_rack, *count, **node)
        })
        .map(|(node, _)| *node)
    }
}

/// Replicas of a partition before and after.
type Move = (Vec<NodeId>, Vec<NodeId>);

/// The moves that leave no replica on `node`.
///
/// # Errors
/// When a partition has a replica on every broker already.
pub(crate) fn off(
    node: NodeId,
    spread: &Spread,
    topics: &[TopicDescription],
) -> Result<BTreeMap<TopicPartition, Move>> {
    let (mut spread, mut moves) = (spread.clone(), BTreeMap::new());
    for topic in topics {
        for partition in topic.partitions.iter().filter(|partition| partition.replicas.contains(&node)) {
            let others: Vec<NodeId> =
                partition.replicas.iter().copied().filter(|other| *other != node).collect();
            let Some(best) = spread.best(node, &others) else {
                bail!(
                    "{}-{} has {} replicas and no broker is free to take the one of broker {node}; add a broker, \
                     or lower the replication factor with `cluster reassign {} {} ...`",
                    topic.name,
                    partition.partition,
                    partition.replicas.len(),
                    topic.name,
                    partition.partition,
                );
            };
            if let Some((count, _)) = spread.0.get_mut(&best) {
                *count += 1;
            }
            let after =
                partition.replicas.iter().map(|other| if *other == node { best } else { *other }).collect();
            let at = TopicPartition::new(Arc::clone(&topic.name), partition.partition);
            moves.insert(at, (partition.replicas.clone(), after));
        }
    }
    Ok(moves)
}

#[cfg(test)]
mod tests {
    use millstream_client::PartitionInfo;
    use millstream_protocol::Endpoint;
    use millstream_record::{LeaderEpoch, TopicId};

    use super::*;

    fn brokers(racks: &[(i32, Option<&'static str>)]) -> Vec<BrokerInfo> {
        let broker = |(node, rack): &(i32, Option<&'static str>)| BrokerInfo {
            node: NodeId(*node),
            endpoint: Endpoint::new("localhost", 9092),
            rack: rack.map(Into::into),
        };
        racks.iter().map(broker).collect()
    }

    fn topic(replicas: &[&[i32]]) -> Vec<TopicDescription> {
        let partition = |(replicas, partition): (&&[i32], i32)| {
            let replicas: Vec<NodeId> = replicas.iter().copied().map(NodeId).collect();
            PartitionInfo {
                partition,
                leader: replicas.first().copied(),
                leader_epoch: LeaderEpoch(0),
                in_sync: replicas.clone(),
                replicas,
            }
        };
        let partitions = replicas.iter().zip(0..).map(partition).collect();
        vec![TopicDescription { name: "t".into(), id: TopicId::ZERO, is_internal: false, partitions }]
    }

    fn after(moves: &BTreeMap<TopicPartition, Move>) -> Vec<Vec<i32>> {
        moves.values().map(|(_, after)| after.iter().map(|node| node.0).collect()).collect()
    }

    #[test]
    fn replicas_go_where_the_fewest_are_and_keep_their_place() {
        let topics = topic(&[&[1, 2], &[2, 1], &[3, 2], &[4, 2]]);
        let brokers = brokers(&[(1, None), (2, None), (3, None), (4, None)]);
        let moves = off(NodeId(2), &Spread::of(&brokers, &topics), &topics).unwrap();
        assert_eq!(after(&moves), [[1, 3], [4, 1], [3, 1], [4, 3]]);
    }

    #[test]
    fn another_rack_is_better_than_an_emptier_broker() {
        let topics = topic(&[&[1, 2], &[4, 1]]);
        let brokers = brokers(&[(1, Some("a")), (2, Some("b")), (3, Some("a")), (4, Some("b"))]);
        let moves = off(NodeId(2), &Spread::of(&brokers, &topics), &topics).unwrap();
        assert_eq!(after(&moves), [[1, 4]], "3 has none, but stands beside 1");
    }

    #[test]
    fn without_a_free_broker_it_says_so_and_moves_nothing() {
        let topics = topic(&[&[1], &[1, 2]]);
        let brokers = brokers(&[(1, None), (2, None)]);
        let error = off(NodeId(2), &Spread::of(&brokers, &topics), &topics).unwrap_err().to_string();
        assert!(error.contains("t-1 has 2 replicas"), "{error}");
    }
}
