//! What a broker shows of itself to whoever runs it.

use std::sync::Arc;

use millstream_machine::metadata::{Image, MetadataLog};
use millstream_record::{LeaderEpoch, NodeId, Offset, TopicId, TopicPartition};

use crate::Broker;

/// One replica on a broker, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaView {
    /// Topic and index.
    pub at: TopicPartition,
    /// Which topic of that name.
    pub topic_id: TopicId,
    /// The leader epoch in which it plays its part; [`LeaderEpoch::NONE`] before it was given one.
    pub epoch: LeaderEpoch,
    /// The committed in-sync set, where it leads.
    pub leads: Option<Vec<NodeId>>,
    /// End of what is known to be fsynced on the whole in-sync set.
    pub high_watermark: Offset,
    /// First offset of the log.
    pub start: Offset,
    /// End of the log.
    pub end: Offset,
    /// End of what is fsynced here.
    pub durable_end: Offset,
}

impl Broker {
    /// Every replica that is here, by topic and index.
    #[must_use]
    pub fn replicas(&self) -> Vec<ReplicaView> {
        let mut views: Vec<ReplicaView> =
            self.shared.partitions.all().iter().map(|partition| partition.view()).collect();
        views.sort_by(|one, other| one.at.cmp(&other.at));
        views
    }

    /// The metadata that this broker has applied.
    #[must_use]
    pub fn image(&self) -> Arc<Image> {
        self.shared.image.load_full()
    }

    /// Whether this node is the active controller, as far as it knows.
    #[must_use]
    pub fn is_active_controller(&self) -> bool {
        self.shared.metadata.log().leadership().1
    }
}
