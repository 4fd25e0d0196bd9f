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

/// In place of a member's broker epoch: it is in the set already.
const UNNAMED_EPOCH: i64 = -1;

/// An in-sync set that a leader's machine wants, with the epochs in which it does.
pub(crate) struct WantedIsr {
    pub(crate) leader_epoch: LeaderEpoch,
    pub(crate) partition_epoch: i32,
    pub(crate) isr: Vec<(NodeId, i64)>,
}

/// What one leader asks for.
pub(crate) struct Proposal {
    partition: Weak<Partition>,
    leader_epoch: LeaderEpoch,
    isr: Vec<(NodeId, i64)>,
    partition_epoch: i32,
    /// It was sent and nobody said what became of it. So it may yet be committed, and a refusal of a second try says nothing
    /// of the first. Then the committed set is asked for: it is a barrier, behind which nothing older is committed.
    is_uncertain: bool,
}

/// What is to be done about a proposal that was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Metadata will tell the leader what there is.
    Nothing,
    /// It will not be committed.
    TellLeader,
    /// Whoever answered is the controller no more, or not yet; or metadata is on its way that makes an end of it. The leader waits
    /// for one or the other, so it is asked for until then.
    Again,
    /// It will not be committed unless an earlier try is.
    Barrier,
}

/// In-sync sets that leaders of this broker ask the controller for, until they are sent. Bounded by the partitions there
/// are: a leader asks for one at a time, and a newer one replaces what was not sent.
#[derive(Default)]
pub(crate) struct Proposals {
    waiting: Mutex<BTreeMap<Key, Proposal>>,
    more: Notify,
}

impl Proposals {
    pub(crate) fn submit(&self, partition: &Arc<Partition>, wanted: WantedIsr) {
        let WantedIsr { leader_epoch, partition_epoch, isr } = wanted;
        let is_uncertain = false;
        let of = Arc::downgrade(partition);
        let proposal = Proposal { partition: of, leader_epoch, isr, partition_epoch, is_uncertain };
        put(&mut self.waiting.lock(), key_of(partition), proposal);
        self.more.notify_one();
    }

    /// Has `proposals` sent again, but where the leader has asked for something newer.
    fn again(&self, proposals: BTreeMap<Key, Proposal>) {
        let mut waiting = self.waiting.lock();
        for (key, proposal) in proposals {
            put(&mut waiting, key, proposal);
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

/// Has `proposal` wait, unless a newer one does: two threads whose steps came one after the other may come here in the other order.
/// A leader would wait for ever for what is forgotten here.
fn put(waiting: &mut BTreeMap<Key, Proposal>, key: Key, proposal: Proposal) {
    let age = |one: &Proposal| (one.leader_epoch, one.partition_epoch);
    if waiting.get(&key).is_none_or(|known| age(known) < age(&proposal)) {
        waiting.insert(key, proposal);
    }
}

impl Proposal {
    /// Whether the leader that made it still leads in the same epoch, and has heard of no newer state of the partition.
    fn is_current(&self) -> bool {
        self.partition
            .upgrade()
            .is_some_and(|partition| partition.builds_on(self.leader_epoch, self.partition_epoch))
    }
}

/// Asks the controller for what leaders want, until the broker ends. What it commits comes back as metadata; only what it refuses
/// for good is told to the leader here.
pub(crate) async fn propose(shared: Arc<Shared>) {
    let proposals = Arc::clone(shared.partitions.proposals());
    loop {
        let mut asked = proposals.next().await;
        let request = request(&shared, &asked);
        match shared.metadata.alter_partition(request).await {
            Ok(answered) => {
                let mut is_early = false;
                for topic in answered.topics {
                    for answer in topic.partitions {
                        let key = (topic.topic_id, answer.partition_index);
                        let Some(proposal) = asked.remove(&key) else { continue };
                        let again = settle(proposal, ErrorCode::from_code(answer.error_code));
                        is_early |= again.is_some();
                        asked.extend(again.map(|again| (key, again)));
                    }
                }
                if is_early {
                    shared.env.sleep(RETRY).await;
                }
            }
            Err(refusal) => {
                tracing::debug!(
                    ?refusal,
                    "the controller cannot be asked for in-sync sets; it is asked again"
                );
                shared.env.sleep(RETRY).await;
            }
        }
        asked.values_mut().for_each(|proposal| proposal.is_uncertain = true);
        proposals.again(asked);
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

/// Does what an answer asks for; gives what is to be asked next.
fn settle(proposal: Proposal, code: ErrorCode) -> Option<Proposal> {
    match next(code, proposal.is_uncertain) {
        Next::Nothing => None,
        Next::Again => Some(proposal),
        Next::TellLeader => {
            if let Some(partition) = proposal.partition.upgrade() {
                partition.isr_refused(proposal.partition_epoch);
            }
            None
        }
        Next::Barrier => {
            let isr = proposal.partition.upgrade()?.committed_isr()?;
            let unnamed = |node: NodeId| (node, UNNAMED_EPOCH);
            Some(Proposal { isr: isr.into_iter().map(unnamed).collect(), ..proposal })
        }
    }
}

fn next(code: ErrorCode, is_uncertain: bool) -> Next {
    match code {
        ErrorCode::None
        | ErrorCode::NewLeaderElected
        | ErrorCode::FencedLeaderEpoch
        | ErrorCode::UnknownTopicId
        | ErrorCode::UnknownTopicOrPartition => Next::Nothing,
        ErrorCode::IneligibleReplica | ErrorCode::InvalidRequest | ErrorCode::OperationNotAttempted => {
            if is_uncertain {
                Next::Barrier
            } else {
                Next::TellLeader
            }
        }
        _ => Next::Again,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_is_never_left_waiting_for_what_nobody_will_commit() {
        for (code, certain, uncertain) in [
            (ErrorCode::None, Next::Nothing, Next::Nothing),
            (ErrorCode::InvalidUpdateVersion, Next::Again, Next::Again),
            (ErrorCode::FencedLeaderEpoch, Next::Nothing, Next::Nothing),
            (ErrorCode::IneligibleReplica, Next::TellLeader, Next::Barrier),
            (ErrorCode::InvalidRequest, Next::TellLeader, Next::Barrier),
            (ErrorCode::NotController, Next::Again, Next::Again),
            (ErrorCode::UnknownServerError, Next::Again, Next::Again),
        ] {
            assert_eq!((next(code, false), next(code, true)), (certain, uncertain), "{code}");
        }
    }

    #[test]
    fn what_is_overtaken_on_its_way_here_replaces_nothing() {
        let key = (millstream_record::TopicId::ZERO, 0);
        let proposal = |leader_epoch: i32, partition_epoch: i32, is_uncertain: bool| Proposal {
            partition: Weak::new(),
            leader_epoch: LeaderEpoch(leader_epoch),
            isr: Vec::new(),
            partition_epoch,
            is_uncertain,
        };
        let mut waiting = BTreeMap::new();
        let mut left = |proposal: Proposal| {
            put(&mut waiting, key, proposal);
            let left = &waiting[&key];
            (left.leader_epoch.0, left.partition_epoch, left.is_uncertain)
        };
        assert_eq!(left(proposal(3, 7, false)), (3, 7, false));
        assert_eq!(left(proposal(3, 6, false)), (3, 7, false), "the step before it, which was slower");
        assert_eq!(left(proposal(3, 8, true)), (3, 8, true), "what was sent, and is newer");
        assert_eq!(left(proposal(3, 7, true)), (3, 8, true));
        assert_eq!(left(proposal(4, 9, false)), (4, 9, false));
    }
}
