//! Topics, configs, groups and offsets.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytestring::ByteString;
use millstream_record::{TopicId, TopicPartition};

use crate::{
    AlterConfig, Client, ClusterDescription, ConfigEntry, ConfigResource, GroupDescription, GroupListing,
    IsolationLevel, NewTopic, OffsetAndTimestamp, OffsetSpec, Offsets, Result, TopicDescription,
};

/// The cluster's administration. Calls retry within `default.api.timeout.ms`.
#[derive(Clone)]
pub struct Admin {
    client: Client,
}

impl Admin {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Creates topics and gives their ids, each with its own outcome (`TopicAlreadyExists` among them).
    ///
    /// # Errors
    /// When the request as a whole fails.
    pub async fn create_topics(&self, topics: &[NewTopic]) -> Result<BTreeMap<Arc<str>, Result<TopicId>>> {
        let _ = topics;
        self.client.unfinished()
    }

    /// Creates a topic, and takes it as created if there is one of that name already.
    ///
    /// # Errors
    /// When it cannot be created.
    pub async fn ensure_topic(&self, topic: NewTopic) -> Result<TopicDescription> {
        let _ = topic;
        self.client.unfinished()
    }

    /// Deletes topics, each with its own outcome.
    ///
    /// # Errors
    /// When the request as a whole fails.
    pub async fn delete_topics(&self, topics: &[&str]) -> Result<BTreeMap<Arc<str>, Result<()>>> {
        let _ = topics;
        self.client.unfinished()
    }

    /// Raises the number of partitions of `topic` to `count`.
    ///
    /// # Errors
    /// When the topic has so many already, or the request fails.
    pub async fn create_partitions(&self, topic: &str, count: i32) -> Result<()> {
        let _ = (topic, count);
        self.client.unfinished()
    }

    /// The names of all topics, internal ones included.
    ///
    /// # Errors
    /// When no broker answers.
    pub async fn list_topics(&self) -> Result<Vec<Arc<str>>> {
        self.client.unfinished()
    }

    /// Describes topics, each with its own outcome (`UnknownTopicOrPartition` among them). Never creates one.
    ///
    /// # Errors
    /// When no broker answers.
    pub async fn describe_topics(
        &self,
        topics: &[&str],
    ) -> Result<BTreeMap<Arc<str>, Result<TopicDescription>>> {
        let _ = topics;
        self.client.unfinished()
    }

    /// The settings of a topic or broker.
    ///
    /// # Errors
    /// When the resource does not exist, or the request fails.
    pub async fn describe_configs(&self, resource: &ConfigResource) -> Result<Vec<ConfigEntry>> {
        let _ = resource;
        self.client.unfinished()
    }

    /// Changes settings of a topic or broker.
    ///
    /// # Errors
    /// When a setting or value is refused.
    pub async fn incremental_alter_configs(
        &self,
        resource: &ConfigResource,
        changes: &[AlterConfig],
    ) -> Result<()> {
        let _ = (resource, changes);
        self.client.unfinished()
    }

    /// All groups of all brokers.
    ///
    /// # Errors
    /// When a broker does not answer.
    pub async fn list_groups(&self) -> Result<Vec<GroupListing>> {
        self.client.unfinished()
    }

    /// Describes classic groups.
    ///
    /// # Errors
    /// When a coordinator does not answer.
    pub async fn describe_groups(&self, groups: &[&str]) -> Result<Vec<GroupDescription>> {
        let _ = groups;
        self.client.unfinished()
    }

    /// Deletes an empty group with its offsets.
    ///
    /// # Errors
    /// When the group has members, or does not exist.
    pub async fn delete_group(&self, group: &str) -> Result<()> {
        let _ = group;
        self.client.unfinished()
    }

    /// The cluster: its id, controller and brokers.
    ///
    /// # Errors
    /// When no broker answers.
    pub async fn describe_cluster(&self) -> Result<ClusterDescription> {
        self.client.unfinished()
    }

    /// Looks offsets up, each with its own outcome; `None` where no record matches.
    ///
    /// # Errors
    /// When no broker answers.
    pub async fn list_offsets(
        &self,
        wanted: &BTreeMap<TopicPartition, OffsetSpec>,
        isolation: IsolationLevel,
    ) -> Result<BTreeMap<TopicPartition, Result<Option<OffsetAndTimestamp>>>> {
        let _ = (wanted, isolation);
        self.client.unfinished()
    }

    /// All committed offsets of a group.
    ///
    /// # Errors
    /// When the coordinator does not answer.
    pub async fn group_offsets(&self, group: impl Into<ByteString>) -> Result<Offsets> {
        let _ = group.into();
        self.client.unfinished()
    }

    /// Sets committed offsets of a group without members.
    ///
    /// # Errors
    /// When the group has members, or the request fails.
    pub async fn alter_group_offsets(&self, group: impl Into<ByteString>, offsets: &Offsets) -> Result<()> {
        let _ = (group.into(), offsets);
        self.client.unfinished()
    }
}
