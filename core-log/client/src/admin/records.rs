//! Deleting records, each partition's at its leader.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use millstream_protocol::messages::delete_records::{DeleteRecordsPartition, DeleteRecordsTopic};
use millstream_protocol::messages::{DeleteRecordsRequest, DeleteRecordsResponse};
use millstream_protocol::{Endpoint, ErrorCode};
use millstream_record::{Offset, TopicPartition};
use parking_lot::Mutex;

use super::Admin;
use crate::cluster::Cluster;
use crate::retry::{Deadline, retry};
use crate::{ClientError, RecordsToDelete, Result};

/// What became of each partition: the low watermark, below which no replica has anything any more.
type Deleted = BTreeMap<TopicPartition, Result<Offset>>;

impl Admin {
    /// Deletes the records of partitions that lie below an offset (KIP-107), each with its own outcome: the low watermark, where all
    /// replicas begin now. An offset beyond the high watermark is refused with `OffsetOutOfRange`; one below the start of the log
    /// deletes nothing.
    ///
    /// # Errors
    /// When a topic does not come to be known within `default.api.timeout.ms`, or no broker answers.
    pub fn delete_records<'a>(
        &'a self,
        wanted: &'a BTreeMap<TopicPartition, RecordsToDelete>,
    ) -> BoxFuture<'a, Result<Deleted>> {
        async move {
            let (cluster, config) = (&*self.cluster, &self.cluster.config);
            let deadline = Deadline::after(&cluster.env, config.api_timeout_ms);
            for topic in wanted.keys().map(|partition| &partition.topic) {
                if !cluster.want(topic) {
                    cluster.topic(topic, deadline).await?;
                }
            }
            let done = Mutex::new(Deleted::new());
            let asked = retry(&cluster.env, config, "deleting records", config.api_timeout_ms, || async {
                let left = wanted.iter().filter(|(partition, _)| !done.lock().contains_key(partition));
                let left = left.map(|(partition, records)| (partition.clone(), *records)).collect();
                let (answers, last) = self.delete_records_once(left).await;
                done.lock().extend(answers);
                last.map_or(Ok(()), Err)
            })
            .await;
            let mut done = done.into_inner();
            match asked {
                Err(late @ ClientError::TimedOut { .. }) => {
                    for partition in wanted.keys() {
                        done.entry(partition.clone()).or_insert_with(|| Err(late.clone()));
                    }
                }
                asked => asked?,
            }
            Ok(done)
        }
        .boxed()
    }

    /// One round; gives what is final, and one of the errors that may go away.
    async fn delete_records_once(
        &self,
        wanted: Vec<(TopicPartition, RecordsToDelete)>,
    ) -> (Deleted, Option<ClientError>) {
        let metadata = self.cluster.metadata();
        let (mut done, mut last) = (Deleted::new(), None);
        let mut by_leader: BTreeMap<Endpoint, Vec<(TopicPartition, RecordsToDelete)>> = BTreeMap::new();
        for (partition, records) in wanted {
            match metadata.leader(&partition.topic, partition.partition) {
                Some(leader) => by_leader.entry(leader.endpoint).or_default().push((partition, records)),
                None => {
                    let code = ErrorCode::LeaderNotAvailable;
                    last = Some(ClientError::broker("DeleteRecords", &partition, code));
                }
            }
        }
        let asked = by_leader.into_iter().map(|(leader, partitions)| async move {
            ask_leader(&self.cluster, &leader, partitions, self.timeout_ms()).await
        });
        for answer in join_all(asked).await {
            match answer {
                Err(error) if error.is_retriable() => last = Some(error),
                Err(error) => return (done, Some(error)),
                Ok(answer) => {
                    for (partition, outcome) in answer {
                        match outcome {
                            Err(error) if error.is_retriable() => last = Some(error),
                            outcome => _ = done.insert(partition, outcome),
                        }
                    }
                }
            }
        }
        if last.is_some() {
            // The retry asks the new leaders. Should the refresh fail, the old ones are asked again.
            let _ = self.cluster.refresh(metadata.version).await;
        }
        (done, last)
    }
}

/// Asks one leader, once. It may take the whole of `timeout_ms` until it says that a follower was too late.
async fn ask_leader(
    cluster: &Cluster,
    leader: &Endpoint,
    partitions: Vec<(TopicPartition, RecordsToDelete)>,
    timeout_ms: i32,
) -> Result<Deleted> {
    let mut topics: BTreeMap<Arc<str>, Vec<DeleteRecordsPartition>> = BTreeMap::new();
    for (partition, records) in partitions {
        let asked =
            DeleteRecordsPartition { partition_index: partition.partition, offset: records.offset().0 };
        topics.entry(partition.topic).or_default().push(asked);
    }
    let topic = |(name, partitions): (Arc<str>, _)| DeleteRecordsTopic { name: (&*name).into(), partitions };
    let request = DeleteRecordsRequest { topics: topics.into_iter().map(topic).collect(), timeout_ms };
    let within = Duration::from_millis(cluster.config.request_timeout_ms.saturating_mul(2));
    Ok(read(cluster.links.call_within(leader, within, request).await?))
}

fn read(answer: DeleteRecordsResponse) -> Deleted {
    let told = answer.topics.into_iter().flat_map(|topic| {
        let name: Arc<str> = Arc::from(&*topic.name);
        topic.partitions.into_iter().map(move |told| {
            let partition = TopicPartition::new(Arc::clone(&name), told.partition_index);
            let outcome = match ErrorCode::from_code(told.error_code) {
                ErrorCode::None => Ok(Offset(told.low_watermark)),
                code => Err(ClientError::broker("DeleteRecords", &partition, code)),
            };
            (partition, outcome)
        })
    });
    told.collect()
}
