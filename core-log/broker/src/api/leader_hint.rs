//! Who is refused because another broker leads is told which one (KIP-951), and need not ask for metadata that may be late.

use millstream_protocol::messages::produce::{LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse};
use millstream_protocol::messages::{ProduceResponse, metadata::MetadataResponseBroker};
use millstream_record::{LeaderEpoch, NodeId, TopicId};

use super::metadata;
use crate::shared::Shared;

/// Who leads a partition, as far as this broker knows.
pub(super) struct LeaderHint {
    leader: NodeId,
    epoch: LeaderEpoch,
    at: MetadataResponseBroker,
}

impl LeaderHint {
    /// For a client that came by `listener`. A replica knows its leader a moment before the image that everybody reads.
    pub(super) fn find(shared: &Shared, listener: &str, topic: (&str, TopicId), index: i32) -> Option<Self> {
        let image = shared.image.load();
        let (name, id) = topic;
        let topic = if id.is_zero() { image.topic(name) } else { image.topic_by_id(id) }?;
        let published = topic.partitions.get(usize::try_from(index).ok()?)?;
        let replica = shared.partitions.get(topic.id, index).ok().and_then(|replica| replica.leader());
        let (leader, epoch) = replica
            .filter(|(_, epoch)| *epoch >= published.leader_epoch)
            .or(Some((published.leader?, published.leader_epoch)))?;
        let at = metadata::brokers(&image, listener).into_iter().find(|broker| broker.node_id == leader.0)?;
        (leader != shared.config.node_id).then_some(Self { leader, epoch, at })
    }

    /// Tells it to a producer, in the partition's place and in the answer's list of addresses.
    pub(super) fn tell(
        self,
        response: &mut ProduceResponse,
        slot: impl Fn(&mut ProduceResponse) -> &mut PartitionProduceResponse,
    ) {
        slot(response).current_leader =
            LeaderIdAndEpoch { leader_id: self.leader.0, leader_epoch: self.epoch.0 };
        if response.node_endpoints.iter().all(|known| known.node_id != self.leader.0) {
            let MetadataResponseBroker { node_id, host, port, rack } = self.at;
            response.node_endpoints.push(NodeEndpoint { node_id, host, port, rack });
        }
    }
}
