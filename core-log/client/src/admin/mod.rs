//! Topics and the cluster; configs, groups and offsets are in the modules below.

mod cluster;
mod configs;
mod groups;
mod records;

use futures::FutureExt;
use futures::future::BoxFuture;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use bytestring::ByteString;
use millstream_protocol::ErrorCode;
use millstream_protocol::messages::create_partitions::{CreatePartitionsRequest, CreatePartitionsTopic};
use millstream_protocol::messages::create_topics::{
    CreatableTopic, CreatableTopicConfig, CreatableTopicResult, CreateTopicsRequest,
};
use millstream_protocol::messages::delete_topics::{DeleteTopicState, DeleteTopicsRequest};
use millstream_protocol::messages::describe_cluster::{DescribeClusterRequest, DescribeClusterResponse};
use millstream_record::{NodeId, TopicId, TopicPartition};

use crate::cluster::Cluster;
use crate::metadata::Topic;
use crate::retry::retry;
use crate::types::AFTER_MAX;
use crate::{
    BrokerInfo, ClientError, ClusterDescription, IsolationLevel, NewTopic, OffsetAndTimestamp, OffsetSpec,
    Result, TopicDescription, offsets,
};

/// The cluster's administration. Calls retry within `default.api.timeout.ms`.
#[derive(Clone)]
pub struct Admin {
    cluster: Arc<Cluster>,
}

impl Admin {
    pub(crate) fn new(cluster: Arc<Cluster>) -> Self {
        Self { cluster }
    }

    async fn retry<T, F, Fut>(&self, what: &str, attempt: F) -> Result<T>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        let config = &self.cluster.config;
        retry(&self.cluster.env, config, what, config.api_timeout_ms, attempt).await
    }

    fn timeout_ms(&self) -> i32 {
        i32::try_from(self.cluster.config.request_timeout_ms).unwrap_or(i32::MAX)
    }

    /// Creates topics and gives their ids, each with its own outcome (`TopicAlreadyExists` among them).
    ///
    /// # Errors
    /// When the request as a whole fails.
    pub fn create_topics<'a>(
        &'a self,
        topics: &'a [NewTopic],
    ) -> BoxFuture<'a, Result<BTreeMap<Arc<str>, Result<TopicId>>>> {
        async move {
            let answer = self.retry("creating topics", || async {
                let request = CreateTopicsRequest {
                    topics: topics.iter().map(creatable).collect(),
                    timeout_ms: self.timeout_ms(),
                    validate_only: false,
                };
                let answer = self.cluster.ask_controller(request).await?;
                // The controller may have moved: then nothing was done, and all of it can be asked again.
                match answer.topics.iter().find(|t| t.error_code == ErrorCode::NotController.code()) {
                    Some(moved) => {
                        self.cluster.refresh(self.cluster.metadata().version).await?;
                        Err(outcome(moved.error_code, "CreateTopics", &moved.name, None)
                            .expect_err("it is an error"))
                    }
                    None => Ok(answer),
                }
            });
            let read = |topic: CreatableTopicResult| {
                let done = outcome(topic.error_code, "CreateTopics", &topic.name, topic.error_message);
                (Arc::from(&*topic.name), done.map(|()| topic.topic_id))
            };
            Ok(answer.await?.topics.into_iter().map(read).collect())
        }
        .boxed()
    }

    /// Creates a topic, and takes it as created if there is one of that name already. Waits until every partition has a leader.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn ensure_topic(&self, mut topic: NewTopic) -> BoxFuture<'_, Result<TopicDescription>> {
        async move {
            let name = Arc::clone(&topic.name);
            loop {
                let mut done = self.create_topics(std::slice::from_ref(&topic)).await?;
                match done.remove(&name).unwrap_or(Ok(TopicId::ZERO)) {
                    Err(error) if error.code() == Some(ErrorCode::TopicAlreadyExists) => break,
                    // Before Kafka 3.6 there was neither this setting nor its bound.
                    Err(error)
                        if error.code() == Some(ErrorCode::InvalidConfig)
                            && topic.configs.remove(AFTER_MAX).is_some() => {}
                    Err(error) => return Err(error),
                    Ok(_) => break,
                }
            }
            let described = self.retry("finding the new topic's leaders", || async {
                let unready = |code| ClientError::broker("Metadata", format!("topic {name}"), code);
                let found = self.describe_topics(&[&name]).await?.remove(&name);
                let topic = found.ok_or_else(|| unready(ErrorCode::UnknownTopicOrPartition))??;
                let led = !topic.partitions.is_empty() && topic.partitions.iter().all(|p| p.leader.is_some());
                if led { Ok(topic) } else { Err(unready(ErrorCode::LeaderNotAvailable)) }
            });
            described.await
        }
        .boxed()
    }

    /// Deletes topics, each with its own outcome.
    ///
    /// # Errors
    /// When the request as a whole fails.
    pub fn delete_topics<'a>(
        &'a self,
        topics: &'a [&'a str],
    ) -> BoxFuture<'a, Result<BTreeMap<Arc<str>, Result<()>>>> {
        async move {
            let names: Vec<ByteString> = topics.iter().map(|topic| ByteString::from(*topic)).collect();
            let answer = self.retry("deleting topics", || async {
                let state = |name: &ByteString| DeleteTopicState {
                    name: Some(name.clone()),
                    topic_id: TopicId::ZERO,
                };
                let request = DeleteTopicsRequest {
                    topics: names.iter().map(state).collect(),
                    timeout_ms: self.timeout_ms(),
                    ..DeleteTopicsRequest::default()
                };
                self.cluster.ask_controller(request).await
            });
            let each = answer.await?.responses.into_iter().map(|done| {
                let name = done.name.unwrap_or_default();
                let result = outcome(done.error_code, "DeleteTopics", &name, done.error_message);
                (Arc::from(&*name), result)
            });
            Ok(each.collect())
        }
        .boxed()
    }

    /// Raises the number of partitions of `topic` to `count`.
    ///
    /// # Errors
    /// When the topic has so many already, or the request fails.
    pub fn create_partitions<'a>(&'a self, topic: &'a str, count: i32) -> BoxFuture<'a, Result<()>> {
        async move {
            self.retry("creating partitions", || async {
                let wanted = CreatePartitionsTopic { name: topic.into(), count, assignments: None };
                let request = CreatePartitionsRequest {
                    topics: vec![wanted],
                    timeout_ms: self.timeout_ms(),
                    validate_only: false,
                };
                let answer = self.cluster.ask_controller(request).await?;
                answer.results.into_iter().try_for_each(|done| {
                    outcome(done.error_code, "CreatePartitions", &done.name, done.error_message)
                })
            })
            .await
        }
        .boxed()
    }

    /// The names of all topics, internal ones included.
    ///
    /// # Errors
    /// When no broker answers.
    pub fn list_topics(&self) -> BoxFuture<'_, Result<Vec<Arc<str>>>> {
        async move {
            let (_, topics) = self.retry("listing topics", || self.cluster.describe(None)).await?;
            Ok(topics.into_keys().collect())
        }
        .boxed()
    }

    /// Describes topics, each with its own outcome (`UnknownTopicOrPartition` among them). Never creates one.
    ///
    /// # Errors
    /// When no broker answers.
    pub fn describe_topics<'a>(
        &'a self,
        topics: &'a [&'a str],
    ) -> BoxFuture<'a, Result<BTreeMap<Arc<str>, Result<TopicDescription>>>> {
        async move {
            let (_, found) = self.retry("describing topics", || self.cluster.describe(Some(topics))).await?;
            let describe = |(name, topic): (Arc<str>, Topic)| {
                let described = match topic.error {
                    ErrorCode::None => Ok(TopicDescription {
                        name: Arc::clone(&name),
                        id: topic.id,
                        is_internal: topic.is_internal,
                        partitions: topic.partitions,
                    }),
                    code => Err(ClientError::broker("Metadata", format!("topic {name}"), code)),
                };
                (name, described)
            };
            Ok(found.into_iter().map(describe).collect())
        }
        .boxed()
    }

    /// The cluster: its id, controller and brokers.
    ///
    /// # Errors
    /// When no broker answers.
    pub fn describe_cluster(&self) -> BoxFuture<'_, Result<ClusterDescription>> {
        async move {
            let request = DescribeClusterRequest { endpoint_type: 1, ..DescribeClusterRequest::default() };
            let answer =
                self.retry("describing the cluster", || self.cluster.ask_any(request.clone())).await?;
            outcome(answer.error_code, "DescribeCluster", "the cluster", answer.error_message.clone())?;
            Ok(read_cluster(answer))
        }
        .boxed()
    }

    /// Looks offsets up, each with its own outcome; `None` where no record matches.
    ///
    /// # Errors
    /// When no broker answers.
    pub fn list_offsets<'a>(
        &'a self,
        wanted: &'a BTreeMap<TopicPartition, OffsetSpec>,
        isolation: IsolationLevel,
    ) -> BoxFuture<'a, Result<BTreeMap<TopicPartition, Result<Option<OffsetAndTimestamp>>>>> {
        async move { offsets::list(&self.cluster, &self.cluster.links, wanted, isolation).await }.boxed()
    }
}

fn creatable(topic: &NewTopic) -> CreatableTopic {
    let config = |(name, value): (&String, &String)| CreatableTopicConfig {
        name: name.as_str().into(),
        value: Some(value.as_str().into()),
    };
    CreatableTopic {
        name: (&*topic.name).into(),
        num_partitions: topic.partitions.unwrap_or(-1),
        replication_factor: topic.replication_factor.unwrap_or(-1),
        assignments: Vec::new(),
        configs: topic.configs.iter().map(config).collect(),
    }
}

fn read_cluster(answer: DescribeClusterResponse) -> ClusterDescription {
    let brokers = answer.brokers.into_iter().map(|broker| BrokerInfo {
        node: NodeId(broker.broker_id),
        endpoint: millstream_protocol::Endpoint {
            host: broker.host,
            port: u16::try_from(broker.port).unwrap_or(0),
        },
        rack: broker.rack,
    });
    ClusterDescription {
        cluster_id: Some(answer.cluster_id),
        controller: Some(NodeId(answer.controller_id)).filter(|id| id.0 >= 0),
        brokers: brokers.collect(),
    }
}

/// A code of an answer as a result.
fn outcome(code: i16, api: &'static str, subject: &str, detail: Option<ByteString>) -> Result<()> {
    match ErrorCode::from_code(code) {
        ErrorCode::None => Ok(()),
        code => Err(ClientError::Broker {
            api,
            subject: subject.to_owned(),
            code,
            detail: detail.filter(|text| !text.is_empty()).map(|text| text.to_string()),
        }),
    }
}
