//! What a consumer, its handles and its tasks share.

use std::sync::Arc;
use std::time::Duration;

use millstream_record::TopicPartition;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::membership::Membership;
use super::subscription::Subscription;
use crate::cluster::Cluster;
use crate::links::Links;
use crate::{ClientError, ConsumerConfig, GroupMetadata, Result};

pub(super) struct Shared {
    pub cluster: Arc<Cluster>,
    pub config: ConsumerConfig,
    /// For commits and lookups.
    pub links: Links,
    /// For fetches, which wait long.
    pub fetch_links: Links,
    /// For joins, which wait longer, and heartbeats.
    pub group_links: Links,
    pub subscription: Mutex<Subscription>,
    pub membership: Mutex<Membership>,
    /// Tells a waiting poll to look again.
    pub wake: Notify,
}

impl Shared {
    /// Leaves a partition alone for a backoff.
    pub(super) fn try_later(&self, partition: &TopicPartition, version: u64) {
        let at = self.cluster.env.elapsed() + Duration::from_millis(self.cluster.config.retry_backoff_ms);
        let mut subscription = self.subscription.lock();
        if let Some(assigned) = subscription.partitions.get_mut(partition).filter(|a| a.version == version) {
            assigned.retry_at = at;
        }
    }

    /// Who this consumer is in its group.
    pub(super) fn group_metadata(&self) -> GroupMetadata {
        let membership = self.membership.lock();
        GroupMetadata {
            group_id: self.config.group_id.clone().unwrap_or_default(),
            generation_id: membership.generation,
            member_id: if membership.generation < 0 {
                Default::default()
            } else {
                membership.member_id.clone()
            },
            group_instance_id: self.config.group_instance_id.clone(),
        }
    }

    pub(super) fn group_id(&self) -> Result<&bytestring::ByteString> {
        self.config.group_id.as_ref().ok_or_else(|| ClientError::Config {
            setting: "group.id",
            reason: "subscribing and committing need one".to_owned(),
        })
    }
}
