//! Deciding where replicas move: AlterPartitionReassignments and what is under way.
//!
//! A reassignment adds the new replicas first, so that for a while a partition has the old and the new ones. It is done when all
//! that are to stay are in sync; the change of the in-sync set that makes it so also drops the old ones.

use std::sync::Arc;

use millstream_protocol::ErrorCode;
use millstream_protocol::messages::alter_partition_reassignments::{
    ReassignablePartition, ReassignablePartitionResponse, ReassignableTopic, ReassignableTopicResponse,
};
use millstream_protocol::messages::list_partition_reassignments::{
    ListPartitionReassignmentsTopics, OngoingPartitionReassignment, OngoingTopicReassignment,
};
use millstream_protocol::messages::{
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse,
    ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse, PartitionChangeRecord,
};
use millstream_record::NodeId;

use super::Record;
use super::controller::{Controller, Decision, Refusal};
use super::image::{Image, Partition, Topic};
use super::partition_change::{Change, Election, ids, may_lead};
use super::topics::judge_replicas;

impl Controller {
    /// Decides AlterPartitionReassignments: begins or replaces one for each partition named, or cancels it where no replicas are
    /// given.
    #[must_use]
    pub fn alter_reassignments(
        &self,
        image: &Image,
        request: &AlterPartitionReassignmentsRequest,
    ) -> Decision<AlterPartitionReassignmentsResponse> {
        let mut records = Vec::new();
        let mut of_partition = |topic: &ReassignableTopic, asked: &ReassignablePartition| {
            let is_first = !topic
                .partitions
                .iter()
                .take_while(|other| !std::ptr::eq(*other, asked))
                .any(|other| other.partition_index == asked.partition_index);
            let decided = if is_first {
                self.reassign(image, &topic.name, asked, request.allow_replication_factor_change)
            } else {
                Err(Refusal::new(ErrorCode::InvalidRequest, "The partition is named twice in the request."))
            };
            let mut response = ReassignablePartitionResponse {
                partition_index: asked.partition_index,
                ..ReassignablePartitionResponse::default()
            };
            match decided {
                Ok(record) => records.extend(record.map(Record::PartitionChange)),
                Err(refusal) => {
                    response.error_code = refusal.code.code();
                    response.error_message = Some(refusal.message.into());
                }
            }
            response
        };
        let of_topic = |topic: &ReassignableTopic| ReassignableTopicResponse {
            name: topic.name.clone(),
            partitions: topic.partitions.iter().map(|asked| of_partition(topic, asked)).collect(),
        };
        let responses = request.topics.iter().map(of_topic).collect();
        let response = AlterPartitionReassignmentsResponse {
            allow_replication_factor_change: request.allow_replication_factor_change,
            responses,
            ..AlterPartitionReassignmentsResponse::default()
        };
        Decision { records, response }
    }

    /// Answers ListPartitionReassignments from the image: of the partitions named, or of all, those that move.
    #[must_use]
    pub fn list_reassignments(
        image: &Image,
        request: &ListPartitionReassignmentsRequest,
    ) -> ListPartitionReassignmentsResponse {
        let of_topic = |topic: &Arc<Topic>, named: Option<&[i32]>| {
            let numbered = topic.partitions.iter().zip(0..);
            let moving = numbered.filter(|(partition, index)| {
                partition.is_reassigning() && named.is_none_or(|named| named.contains(index))
            });
            let ongoing =
                |(partition, partition_index): (&Arc<Partition>, i32)| OngoingPartitionReassignment {
                    partition_index,
                    replicas: ids(&partition.replicas),
                    adding_replicas: ids(&partition.adding),
                    removing_replicas: ids(&partition.removing),
                };
            let partitions: Vec<_> = moving.map(ongoing).collect();
            let name = (&*topic.name).into();
            (!partitions.is_empty()).then_some(OngoingTopicReassignment { name, partitions })
        };
        let topics = match &request.topics {
            None => image.topics().filter_map(|topic| of_topic(topic, None)).collect(),
            Some(named) => {
                let find = |asked: &ListPartitionReassignmentsTopics| {
                    of_topic(image.topic(&asked.name)?, Some(&asked.partition_indexes))
                };
                named.iter().filter_map(find).collect()
            }
        };
        ListPartitionReassignmentsResponse { topics, ..ListPartitionReassignmentsResponse::default() }
    }

    fn reassign(
        &self,
        image: &Image,
        name: &str,
        asked: &ReassignablePartition,
        may_change_factor: bool,
    ) -> Result<Option<PartitionChangeRecord>, Refusal> {
        let index = asked.partition_index;
        let unknown = |what: String| Refusal::new(ErrorCode::UnknownTopicOrPartition, what);
        let topic =
            image.topic(name).ok_or_else(|| unknown(format!("Unable to find a topic named {name}.")))?;
        let partition = image
            .partition(name, index)
            .ok_or_else(|| unknown(format!("Unable to find partition {name}:{index}.")))?;
        let mut change = Change::new(image, topic.id, index, partition, self.rules(image, topic));
        match &asked.replicas {
            None => cancel(&mut change, name, index)?,
            Some(target) => {
                let target: Vec<NodeId> = target.iter().copied().map(NodeId).collect();
                judge_target(image, partition, &target, may_change_factor)?;
                begin(&mut change, target);
            }
        }
        Ok(change.record())
    }
}

/// The replicas that a partition had before anything began to move.
fn original(partition: &Partition) -> Vec<NodeId> {
    partition.replicas.iter().copied().filter(|node| !partition.adding.contains(node)).collect()
}

fn judge_target(
    image: &Image,
    partition: &Partition,
    target: &[NodeId],
    may_change_factor: bool,
) -> Result<(), Refusal> {
    judge_replicas(image, target)
        .map_err(|why| Refusal::new(ErrorCode::InvalidReplicaAssignment, format!("The assignment {why}.")))?;
    let factor = original(partition).len();
    if !may_change_factor && target.len() != factor {
        let message = format!(
            "The partition has {factor} replica(s) and would have {}; the request does not allow that.",
            target.len()
        );
        return Err(Refusal::new(ErrorCode::InvalidReplicationFactor, message));
    }
    Ok(())
}

/// Adds what the target has and the original had not, and marks for removal what it was and is not in the target. What an earlier
/// reassignment was adding, and this one is not, goes at once, unless the records hang on it.
fn begin(change: &mut Change<'_>, target: Vec<NodeId>) {
    let before = change.before();
    let original = original(before);
    let stays = |node: &&NodeId| original.contains(node) || target.contains(node);
    let kept_isr: Vec<NodeId> = before.isr.iter().filter(stays).copied().collect();
    let holds_on_to_all = kept_isr.is_empty();
    let is_kept = |node: &&NodeId| holds_on_to_all || stays(node);
    let removing = before.replicas.iter().filter(|node| !target.contains(node)).filter(is_kept);
    let wanted = &mut change.wanted;
    wanted.removing = removing.copied().collect();
    wanted.adding = target.iter().copied().filter(|node| !original.contains(node)).collect();
    if !holds_on_to_all {
        wanted.isr = kept_isr;
    }
    wanted.replicas = target;
    wanted.replicas.extend(wanted.removing.iter().copied());
}

/// Back to the original replicas. When none of them is in sync the first one that lives leads, if the topic allows that.
fn cancel(change: &mut Change<'_>, name: &str, index: i32) -> Result<(), Refusal> {
    let before = change.before();
    if !before.is_reassigning() {
        let message = "No partition reassignment is in progress.";
        return Err(Refusal::new(ErrorCode::NoReassignmentInProgress, message));
    }
    let original = original(before);
    let isr: Vec<NodeId> = before.isr.iter().copied().filter(|node| original.contains(node)).collect();
    let has_eligible = before.isr.is_empty() && before.elr.iter().any(|node| original.contains(node));
    let is_possible = change.election == Election::Unclean
        && original.iter().any(|node| may_lead(change.image(), before, *node));
    if isr.is_empty() && !has_eligible && !is_possible {
        let message = format!(
            "Unable to revert partition assignment for {name}-{index} because it would require an unclean leader election."
        );
        return Err(Refusal::new(ErrorCode::InvalidReplicaAssignment, message));
    }
    let wanted = &mut change.wanted;
    wanted.replicas = original;
    wanted.isr = isr;
    wanted.adding.clear();
    wanted.removing.clear();
    Ok(())
}
