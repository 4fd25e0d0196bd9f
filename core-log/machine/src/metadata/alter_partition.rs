//! Deciding AlterPartition: a leader's proposals for the in-sync sets of what it leads.

use std::collections::BTreeSet;

use millstream_protocol::ErrorCode;
use millstream_protocol::messages::alter_partition::{
    AlterPartitionRequestPartitionData, AlterPartitionRequestTopicData, AlterPartitionResponsePartitionData,
    AlterPartitionResponseTopicData,
};
use millstream_protocol::messages::{AlterPartitionRequest, AlterPartitionResponse, PartitionChangeRecord};
use millstream_record::{LeaderEpoch, NodeId, TopicId};

use super::Record;
use super::apply::LEADER_UNCHANGED;
use super::controller::{Controller, Decision};
use super::image::{Image, Partition, Topic};
use super::partition_change::{Change, ids};

impl Controller {
    /// Decides AlterPartition. Only the leader proposes, by naming the leader and partition epochs that it saw; and whoever joins
    /// names the broker epoch in which it caught up, so that a restarted broker never counts by what its last incarnation had.
    /// The answer is the partition as it is once the records are committed.
    ///
    /// A set that is committed already is written again: the partition epoch rises, so whatever the leader asked for before and had
    /// no answer to is void. Leaders ask for it when they have to know that.
    ///
    /// When a partition gets another leader by the change, because that completes a reassignment or because the leader is
    /// shutting down, the change is made and the answer is NEW_LEADER_ELECTED.
    #[must_use]
    pub fn alter_partition(
        &self,
        image: &Image,
        request: &AlterPartitionRequest,
    ) -> Decision<AlterPartitionResponse> {
        let sender = NodeId(request.broker_id);
        if image.broker(sender).is_none_or(|broker| broker.epoch != request.broker_epoch) {
            let response = AlterPartitionResponse {
                error_code: ErrorCode::StaleBrokerEpoch.code(),
                ..AlterPartitionResponse::default()
            };
            return Decision { records: Vec::new(), response };
        }
        let (mut records, mut seen) = (Vec::new(), BTreeSet::new());
        let of_topic = |asked: &AlterPartitionRequestTopicData| {
            let topic = image.topic_by_id(asked.topic_id);
            let of_partition = |wanted: &AlterPartitionRequestPartitionData| match topic {
                None => refused(wanted, ErrorCode::UnknownTopicId),
                Some(_) if !seen.insert((asked.topic_id, wanted.partition_index)) => {
                    refused(wanted, ErrorCode::InvalidRequest)
                }
                Some(topic) => match self.alter_one(image, sender, topic, wanted, &mut records) {
                    Ok(partition) => altered(wanted, &partition),
                    Err(code) => refused(wanted, code),
                },
            };
            let partitions = asked.partitions.iter().map(of_partition).collect();
            AlterPartitionResponseTopicData { topic_id: asked.topic_id, partitions }
        };
        let topics = request.topics.iter().map(of_topic).collect();
        Decision { records, response: AlterPartitionResponse { topics, ..AlterPartitionResponse::default() } }
    }

    fn alter_one(
        &self,
        image: &Image,
        sender: NodeId,
        topic: &Topic,
        wanted: &AlterPartitionRequestPartitionData,
        records: &mut Vec<Record>,
    ) -> Result<Partition, ErrorCode> {
        let at = usize::try_from(wanted.partition_index).ok();
        let partition =
            at.and_then(|at| topic.partitions.get(at)).ok_or(ErrorCode::UnknownTopicOrPartition)?;
        let isr = judge(image, sender, partition, wanted)?;
        let mut change =
            Change::new(image, topic.id, wanted.partition_index, partition, self.rules(image, topic));
        let is_leaving = image.broker(sender).is_none_or(|broker| !broker.is_active());
        change.moved_in = isr.iter().copied().filter(|node| !partition.isr.contains(node)).collect();
        change.wanted.isr = isr;
        if is_leaving && change.wanted.isr.len() > 1 {
            change.leave_isr(|node| node == sender);
        }
        change.wanted.recovering = wanted.leader_recovery_state != 0;
        let record = change.record().unwrap_or_else(|| barrier(topic.id, wanted.partition_index, partition));
        let after = partition.changed(&record);
        records.push(Record::PartitionChange(record));
        if after.leader == Some(sender) { Ok(after) } else { Err(ErrorCode::NewLeaderElected) }
    }
}

/// Says again what is, so that the partition epoch rises.
fn barrier(topic_id: TopicId, partition_id: i32, partition: &Partition) -> PartitionChangeRecord {
    PartitionChangeRecord {
        partition_id,
        topic_id,
        isr: Some(ids(&partition.isr)),
        leader: LEADER_UNCHANGED,
        leader_recovery_state: -1,
        ..PartitionChangeRecord::default()
    }
}

/// The in-sync set that is proposed, if the proposal is the leader's and up to date.
fn judge(
    image: &Image,
    sender: NodeId,
    partition: &Partition,
    wanted: &AlterPartitionRequestPartitionData,
) -> Result<Vec<NodeId>, ErrorCode> {
    let epoch = LeaderEpoch(wanted.leader_epoch);
    if epoch > partition.leader_epoch || wanted.partition_epoch > partition.partition_epoch {
        return Err(ErrorCode::NotController); // the leader knows more than this node: it is the controller no more
    }
    if epoch < partition.leader_epoch {
        return Err(ErrorCode::FencedLeaderEpoch);
    }
    if partition.leader != Some(sender) {
        return Err(ErrorCode::InvalidRequest);
    }
    if wanted.partition_epoch < partition.partition_epoch {
        return Err(ErrorCode::InvalidUpdateVersion);
    }
    let named: Vec<(NodeId, i64)> = if wanted.new_isr_with_epochs.is_empty() {
        wanted.new_isr.iter().map(|id| (NodeId(*id), -1)).collect()
    } else {
        wanted.new_isr_with_epochs.iter().map(|state| (NodeId(state.broker_id), state.broker_epoch)).collect()
    };
    let isr: Vec<NodeId> = named.iter().map(|(node, _)| *node).collect();
    let is_repeated = isr.iter().enumerate().any(|(at, node)| isr[..at].contains(node));
    let is_recovering = wanted.leader_recovery_state != 0;
    let is_valid = isr.contains(&sender)
        && !is_repeated
        && isr.iter().all(|node| partition.replicas.contains(node))
        && !(is_recovering && (isr.len() > 1 || !partition.recovering));
    if !is_valid {
        return Err(ErrorCode::InvalidRequest);
    }
    let is_eligible = |(node, epoch): &(NodeId, i64)| {
        let was_in_sync = partition.isr.contains(node);
        image.broker(*node).is_some_and(|broker| {
            let is_same = broker.epoch == *epoch || (*epoch == -1 && was_in_sync);
            // A leader that shuts down may still take in a follower, or it could never hand over what it led alone.
            is_same && (broker.is_active() || *node == sender)
        })
    };
    if named.iter().all(is_eligible) { Ok(isr) } else { Err(ErrorCode::IneligibleReplica) }
}

fn altered(
    wanted: &AlterPartitionRequestPartitionData,
    partition: &Partition,
) -> AlterPartitionResponsePartitionData {
    AlterPartitionResponsePartitionData {
        partition_index: wanted.partition_index,
        error_code: 0,
        leader_id: partition.leader.map_or(-1, |leader| leader.0),
        leader_epoch: partition.leader_epoch.0,
        isr: ids(&partition.isr),
        leader_recovery_state: partition.recovering.into(),
        partition_epoch: partition.partition_epoch,
    }
}

fn refused(
    wanted: &AlterPartitionRequestPartitionData,
    code: ErrorCode,
) -> AlterPartitionResponsePartitionData {
    AlterPartitionResponsePartitionData {
        partition_index: wanted.partition_index,
        error_code: code.code(),
        ..AlterPartitionResponsePartitionData::default()
    }
}
