//! In-sync sets that leaders of this broker ask the controller for.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use millstream_record::NodeId;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::copying::{Key, key_of};
use crate::partition::Partition;

/// What one leader asks for.
pub(crate) struct Proposal {
    pub(crate) partition: Weak<Partition>,
    pub(crate) isr: Vec<(NodeId, i64)>,
    pub(crate) partition_epoch: i32,
}

/// In-sync sets that leaders of this broker ask the controller for, until they are sent. Bounded by the partitions there
/// are: a leader asks for one at a time, and a newer one replaces what was not sent.
#[derive(Default)]
pub(crate) struct Proposals {
    waiting: Mutex<BTreeMap<Key, Proposal>>,
    more: Notify,
}

impl Proposals {
    pub(crate) fn submit(&self, partition: &Arc<Partition>, isr: Vec<(NodeId, i64)>, partition_epoch: i32) {
        let proposal = Proposal { partition: Arc::downgrade(partition), isr, partition_epoch };
        self.waiting.lock().insert(key_of(partition), proposal);
        self.more.notify_one();
    }

    /// All that wait, once there are any.
    pub(crate) async fn next(&self) -> BTreeMap<Key, Proposal> {
        loop {
            let more = self.more.notified();
            let waiting = std::mem::take(&mut *self.waiting.lock());
            if !waiting.is_empty() {
                return waiting;
            }
            more.await;
        }
    }
}
