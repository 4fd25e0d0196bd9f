//! Which partitions a broker holds, without a look at the others'.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use millstream_record::{NodeId, TopicId};

/// The partitions of one broker, by topic.
type Topics = BTreeMap<TopicId, Arc<BTreeSet<i32>>>;

/// Partitions by the brokers that hold a replica. Only replicas are indexed: in-sync sets change with every hiccup, and whoever
/// asks for them reads the partition anyway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Held(BTreeMap<NodeId, Arc<Topics>>);

impl Held {
    /// The partitions with a replica on `node`, by topic.
    pub(super) fn by(&self, node: NodeId) -> impl Iterator<Item = (TopicId, impl Iterator<Item = i32>)> {
        let topics = self.0.get(&node).into_iter().flat_map(|topics| topics.iter());
        topics.map(|(topic, indexes)| (*topic, indexes.iter().copied()))
    }

    /// `node` got a replica.
    pub(super) fn add(&mut self, node: NodeId, topic: TopicId, index: i32) {
        let topics = Arc::make_mut(self.0.entry(node).or_default());
        Arc::make_mut(topics.entry(topic).or_default()).insert(index);
    }

    /// `node` lost a replica.
    pub(super) fn remove(&mut self, node: NodeId, topic: TopicId, index: i32) {
        let Some(topics) = self.0.get_mut(&node) else { return };
        let topics = Arc::make_mut(topics);
        if let Some(indexes) = topics.get_mut(&topic) {
            Arc::make_mut(indexes).remove(&index);
            if indexes.is_empty() {
                topics.remove(&topic);
            }
        }
        if topics.is_empty() {
            self.0.remove(&node);
        }
    }
}
