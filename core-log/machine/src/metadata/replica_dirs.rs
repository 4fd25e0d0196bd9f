//! Deciding AssignReplicasToDirs: in which log directory replicas of a broker are, or that they are in none (KIP-858).

use std::collections::BTreeSet;

use millstream_protocol::ErrorCode;
use millstream_protocol::messages::assign_replicas_to_dirs::{
    AssignReplicasToDirsRequestTopicData as AskedTopic, AssignReplicasToDirsResponseDirectoryData,
    AssignReplicasToDirsResponsePartitionData, AssignReplicasToDirsResponseTopicData,
};
use millstream_protocol::messages::{AssignReplicasToDirsRequest, AssignReplicasToDirsResponse};
use millstream_record::{NodeId, TopicId, Uuid};

use super::Record;
use super::controller::{Controller, Decision};
use super::image::{Broker, Image};
use super::partition_change::Change;

/// The directory of a replica whose log is gone, or cannot be opened. Kafka's number, which no broker's directory has.
pub const LOST_DIRECTORY: Uuid = Uuid([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);

impl Controller {
    /// Decides AssignReplicasToDirs. A replica that is in none of the directories that its broker registered with leaves the in-sync set
    /// and is eligible no more, so that others lead; once it was copied anew it is where a new replica would be. One that is back, with
    /// all that it had, may lead where nobody else can.
    #[must_use]
    pub fn assign_directories(
        &self,
        image: &Image,
        request: &AssignReplicasToDirsRequest,
    ) -> Decision<AssignReplicasToDirsResponse> {
        let sender = image.broker(NodeId(request.broker_id));
        let Some(broker) = sender.filter(|broker| broker.epoch == request.broker_epoch) else {
            let response = AssignReplicasToDirsResponse {
                error_code: ErrorCode::StaleBrokerEpoch.code(),
                ..AssignReplicasToDirsResponse::default()
            };
            return Decision { records: Vec::new(), response };
        };
        let (mut records, mut seen) = (Vec::new(), BTreeSet::new());
        let mut directories = Vec::new();
        for asked in &request.directories {
            let assign = |topic: &AskedTopic| {
                let partitions = topic.partitions.iter().map(|partition| {
                    let at = (topic.topic_id, partition.partition_index);
                    let assigned = match seen.insert(at) {
                        true => self.assign_one(image, broker, at, asked.id, &mut records),
                        false => Err(ErrorCode::InvalidRequest),
                    };
                    AssignReplicasToDirsResponsePartitionData {
                        partition_index: partition.partition_index,
                        error_code: assigned.err().map_or(0, ErrorCode::code),
                    }
                });
                AssignReplicasToDirsResponseTopicData {
                    topic_id: topic.topic_id,
                    partitions: partitions.collect(),
                }
            };
            let topics = asked.topics.iter().map(assign).collect();
            directories.push(AssignReplicasToDirsResponseDirectoryData { id: asked.id, topics });
        }
        let response =
            AssignReplicasToDirsResponse { directories, ..AssignReplicasToDirsResponse::default() };
        Decision { records, response }
    }

    fn assign_one(
        &self,
        image: &Image,
        broker: &Broker,
        (topic_id, index): (TopicId, i32),
        directory: Uuid,
        records: &mut Vec<Record>,
    ) -> Result<(), ErrorCode> {
        let topic = image.topic_by_id(topic_id).ok_or(ErrorCode::UnknownTopicId)?;
        let at = usize::try_from(index).ok();
        let partition =
            at.and_then(|at| topic.partitions.get(at)).ok_or(ErrorCode::UnknownTopicOrPartition)?;
        if !partition.replicas.contains(&broker.id) {
            return Err(ErrorCode::NotLeaderOrFollower);
        }
        let change = |change: &mut Change<'_>| {
            change.assigned = Some((broker.id, directory));
            if !broker.has_directory(directory) {
                change.leave_isr(|node| node == broker.id);
                change.unclean_shutdown = Some(broker.id);
            }
        };
        records.extend(self.change_partitions(image, [(topic, index, partition)], change));
        Ok(())
    }
}
