//! Telling the controller of replicas that are not where the metadata has them: a log is gone, or cannot be opened, or is back. Without
//! that a broker would be taken to lead what it cannot serve.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::select;
use millstream_protocol::ErrorCode;
use millstream_protocol::messages::AssignReplicasToDirsRequest;
use millstream_protocol::messages::assign_replicas_to_dirs::{
    AssignReplicasToDirsRequestDirectoryData as DirectoryData,
    AssignReplicasToDirsRequestPartitionData as PartitionData,
    AssignReplicasToDirsRequestTopicData as TopicData,
};
use millstream_record::{TopicId, Uuid};

use super::Metadata;

/// After the controller could not be asked, or before what it committed is known here.
const AGAIN: Duration = Duration::from_secs(1);

impl Metadata {
    /// Tells the controller of replicas that are not where the metadata has them, until the node ends.
    pub(crate) async fn tell_of_replicas(self: Arc<Self>) {
        loop {
            let image = self.image.load_full();
            let me = image.broker(self.config.node_id).filter(|me| me.incarnation == self.incarnation);
            let misplaced = me.map(|me| (me.epoch, self.partitions.misplaced(&image, me)));
            let Some((epoch, misplaced)) = misplaced.filter(|(_, misplaced)| !misplaced.is_empty()) else {
                if !self.changed(image.end()).await {
                    return;
                }
                continue;
            };
            for (topic_id, index, directory) in &misplaced {
                tracing::warn!(%topic_id, index, %directory, "tells the controller where this replica is, or that it is lost");
            }
            match self.ask(self.assignment(epoch, misplaced)).await {
                Ok(answer) if answer.error_code == 0 => {}
                Ok(answer) => {
                    let code = ErrorCode::from_code(answer.error_code);
                    tracing::debug!(%code, "the controller is told of replicas again");
                }
                Err(refusal) => tracing::debug!(?refusal, "the controller is told of replicas again"),
            }
            let changed = std::pin::pin!(self.changed(image.end()));
            select(changed, self.env.sleep(AGAIN)).await;
        }
    }

    fn assignment(&self, broker_epoch: i64, of: Vec<(TopicId, i32, Uuid)>) -> AssignReplicasToDirsRequest {
        let mut directories: BTreeMap<Uuid, BTreeMap<TopicId, Vec<PartitionData>>> = BTreeMap::new();
        for (topic_id, partition_index, directory) in of {
            let topics = directories.entry(directory).or_default();
            topics.entry(topic_id).or_default().push(PartitionData { partition_index });
        }
        let topic =
            |(topic_id, partitions): (TopicId, Vec<PartitionData>)| TopicData { topic_id, partitions };
        let directory = |(id, topics): (Uuid, BTreeMap<TopicId, Vec<PartitionData>>)| DirectoryData {
            id,
            topics: topics.into_iter().map(topic).collect(),
        };
        AssignReplicasToDirsRequest {
            broker_id: self.config.node_id.0,
            broker_epoch,
            directories: directories.into_iter().map(directory).collect(),
        }
    }
}
