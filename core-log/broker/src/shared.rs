//! What every handler needs.

use std::sync::Arc;

use arc_swap::ArcSwap;
use bytestring::ByteString;
use millstream_env::Env;
use millstream_machine::metadata::Image;
use millstream_machine::transaction::ProducerIds;
use millstream_protocol::ErrorCode;
use millstream_record::{NodeId, ProducerId, TopicId};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::BrokerConfig;
use crate::api::Sessions;
use crate::coordinator::{Groups, MarkerWriter, Transactions};
use crate::metadata::Metadata;
use crate::partition::Partition;
use crate::partitions::Partitions;
use crate::refusal::Refusal;
use crate::replication::{Suspects, Throttle};
use crate::verification::Verification;

/// Fetches that may wait for more records at once. Beyond it a fetch is answered with what there is.
const MAX_PARKED_FETCHES: usize = 16_384;

/// What every handler needs.
pub(crate) struct Shared {
    pub(crate) env: Env,
    pub(crate) config: BrokerConfig,
    pub(crate) cluster_id: ByteString,
    pub(crate) image: Arc<ArcSwap<Image>>,
    pub(crate) partitions: Arc<Partitions>,
    pub(crate) metadata: Arc<Metadata>,
    pub(crate) groups: Arc<Groups>,
    pub(crate) transactions: Arc<Transactions>,
    pub(crate) markers: MarkerWriter,
    pub(crate) verification: Arc<Verification>,
    pub(crate) producer_ids: Mutex<ProducerIds>,
    pub(crate) throttle: Arc<Throttle>,
    pub(crate) suspects: Arc<Suspects>,
    /// A place for each fetch that waits.
    pub(crate) parking: Arc<Semaphore>,
    pub(crate) sessions: Sessions,
}

impl Shared {
    pub(crate) fn parking() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(MAX_PARKED_FETCHES))
    }

    /// A producer id that nobody has, if the broker was granted some.
    pub(crate) fn take_producer_id(&self) -> Option<ProducerId> {
        self.producer_ids.lock().take()
    }

    /// A producer id from a new block.
    ///
    /// # Errors
    /// As for [`Metadata::decide`].
    pub(crate) async fn grant_producer_id(&self) -> Result<ProducerId, Refusal> {
        let block = self.metadata.allocate_producer_ids().await?;
        let mut ids = self.producer_ids.lock();
        ids.granted(block.producer_id_start, block.producer_id_len);
        ids.take().ok_or_else(|| ErrorCode::CoordinatorNotAvailable.into())
    }

    /// Whether `node`, which leads something by `image`, can be expected to.
    pub(crate) fn is_leading(&self, node: NodeId, image: &Image) -> bool {
        self.suspects.leads(node, image, self.env.elapsed())
    }

    /// The partition that a request names by topic id or, without one, by topic name.
    ///
    /// # Errors
    /// The code that the client is told.
    pub(crate) fn partition(&self, name: &str, id: TopicId, index: i32) -> Result<Arc<Partition>, Refusal> {
        let image = self.image.load();
        let (topic, unknown) = if id.is_zero() {
            (image.topic(name), ErrorCode::UnknownTopicOrPartition)
        } else {
            (image.topic_by_id(id), ErrorCode::UnknownTopicId)
        };
        let topic = topic.ok_or(unknown)?;
        let exists = usize::try_from(index).is_ok_and(|index| index < topic.partitions.len());
        if !exists {
            return Err(ErrorCode::UnknownTopicOrPartition.into());
        }
        Ok(self.partitions.get(topic.id, index)?)
    }
}
