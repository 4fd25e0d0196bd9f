//! In-sync sets that leaders of this broker ask the controller for.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use millstream_protocol::ErrorCode;
use millstream_protocol::messages::AlterPartitionRequest;
use millstream_protocol::messages::alter_partition::{
    AlterPartitionRequestPartitionData as PartitionData, AlterPartitionRequestTopicData as TopicData,
    BrokerState,
};
use millstream_record::{LeaderEpoch, NodeId};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::copying::{Key, key_of};
use crate::partition::Partition;
use crate::shared::Shared;

/// Partitions that one request asks for.
const PARTITIONS_PER_REQUEST: usize = 10_000;
/// After the controller could not be asked, or did not answer.
const RETRY: Duration = Duration::from_millis(100);

/// What one leader asks for.
pub(crate) struct Proposal {
    partition: Weak<Partition>,
    leader_epoch: LeaderEpoch,
    isr: Vec<(NodeId, i64)>,
    partition_epoch: i32,
    /// It was sent and nobody said what became of it. So it may yet be committed, and a refusal of a second try says nothing
    /// of the first.
    is_uncertain: bool,
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
        let leader_epoch = partition.epoch();
        let is_uncertain = false;
        let partition_ref = Arc::downgrade(partition);
        let proposal =
            Proposal { partition: partition_ref, leader_epoch, isr, partition_epoch, is_uncertain };
        self.waiting.lock().insert(key_of(partition), proposal);
        self.more.notify_one();
    }

    /// Has `proposals` sent again, but where the leader has asked for something newer.
    fn again(&self, proposals: BTreeMap<Key, Proposal>) {
        let mut waiting = self.waiting.lock();
        for (key, proposal) in proposals {
            waiting.entry(key).or_insert(proposal);
        }
    }

    /// What waits, as much as one request takes, once there is any.
    async fn next(&self) -> BTreeMap<Key, Proposal> {
        loop {
            let more = self.more.notified();
            let next = {
                let mut waiting = self.waiting.lock();
                let next: BTreeMap<Key, Proposal> = std::iter::from_fn(|| waiting.pop_first())
                    .filter(|(_, proposal)| proposal.is_current())
                    .take(PARTITIONS_PER_REQUEST)
                    .collect();
                if !waiting.is_empty() {
                    self.more.notify_one();
                }
                next
            };
            if !next.is_empty() {
                return next;
            }
            more.await;
        }
    }
}

impl Proposal {
    /// Whether the leader that made it still leads, in the same epoch.
    fn is_current(&self) -> bool {
        self.partition
            .upgrade()
            .is_some_and(|partition| partition.epoch() == self.leader_epoch && partition.leads())
    }
}

/// Asks the controller for what leaders want, until the broker ends. What it commits comes back as metadata; only what it refuses
/// for good is told to the leader here.
pub(crate) async fn propose(shared: Arc<Shared>) {
    let proposals = Arc::clone(shared.partitions.proposals());
    loop {
        let mut asked = proposals.next().await;
        let request = request(&shared, &asked);
        let mut unsettled = BTreeMap::new();
        match shared.metadata.alter_partition(request).await {
            Ok(answered) => {
                for topic in answered.topics {
                    for answer in topic.partitions {
                        let key = (topic.topic_id, answer.partition_index);
                        let Some(proposal) = asked.remove(&key) else { continue };
                        if !settle(&proposal, ErrorCode::from_code(answer.error_code)) {
                            unsettled.insert(key, proposal);
                        }
                    }
                }
            }
            Err(refusal) => {
                tracing::debug!(
                    ?refusal,
                    "the controller cannot be asked for in-sync sets; it is asked again"
                );
            }
        }
        asked.values_mut().for_each(|proposal| proposal.is_uncertain = true);
        unsettled.append(&mut asked);
        if !unsettled.is_empty() {
            shared.env.sleep(RETRY).await;
            proposals.again(unsettled);
        }
    }
}

fn request(shared: &Shared, asked: &BTreeMap<Key, Proposal>) -> AlterPartitionRequest {
    let node = shared.config.node_id;
    let broker_epoch = shared.image.load().broker(node).map_or(-1, |broker| broker.epoch);
    let mut topics: Vec<TopicData> = Vec::new();
    for ((topic_id, index), proposal) in asked {
        let isr = proposal.isr.iter().map(|(member, epoch)| BrokerState {
            broker_id: member.0,
            broker_epoch: if *member == node { broker_epoch } else { *epoch },
        });
        let partition = PartitionData {
            partition_index: *index,
            leader_epoch: proposal.leader_epoch.0,
            new_isr_with_epochs: isr.collect(),
            partition_epoch: proposal.partition_epoch,
            ..PartitionData::default()
        };
        match topics.last_mut().filter(|topic| topic.topic_id == *topic_id) {
            Some(topic) => topic.partitions.push(partition),
            None => topics.push(TopicData { topic_id: *topic_id, partitions: vec![partition] }),
        }
    }
    AlterPartitionRequest { broker_id: node.0, broker_epoch, topics }
}

/// Tells the leader what was refused for good. Where the controller knows something newer, metadata will tell it instead. False
/// when the controller has to be asked again: it does not know yet what the leader knows, or what it refuses now it may have
/// been asked for before, and may yet commit.
fn settle(proposal: &Proposal, code: ErrorCode) -> bool {
    match code {
        ErrorCode::None
        | ErrorCode::InvalidUpdateVersion
        | ErrorCode::FencedLeaderEpoch
        | ErrorCode::NewLeaderElected
        | ErrorCode::UnknownTopicOrPartition
        | ErrorCode::UnknownTopicId => true,
        ErrorCode::IneligibleReplica | ErrorCode::InvalidRequest | ErrorCode::OperationNotAttempted
            if !proposal.is_uncertain =>
        {
            if let Some(partition) = proposal.partition.upgrade() {
                partition.isr_refused(proposal.partition_epoch);
            }
            true
        }
        code => {
            tracing::debug!(%code, "an in-sync set is not decided yet; it is asked for again");
            false
        }
    }
}

/// Looks at every leader now and then, so that followers which have gone silent leave the in-sync sets.
pub(crate) async fn watch_lag(shared: Arc<Shared>) {
    let lag_ms = u64::try_from(shared.config.number("replica.lag.time.max.ms")).unwrap_or(u64::MAX);
    let every = Duration::from_millis((lag_ms / 2).max(1));
    loop {
        shared.env.sleep(every).await;
        for partition in shared.partitions.all() {
            partition.look_at_lag();
        }
    }
}
