//! Metadata: who leads what, and where brokers are. Creates topics on first use, where the broker and the client allow it.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytestring::ByteString;
use millstream_machine::metadata::{Image, InternalTopic, Partition, Topic, validate_topic_name};
use millstream_protocol::messages::metadata::{
    MetadataRequestTopic, MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use millstream_protocol::messages::{MetadataRequest, MetadataResponse};
use millstream_protocol::{Ctx, ErrorCode, Receipt};
use millstream_record::NodeId;

use super::permissions;
use crate::Broker;
use crate::shared::Shared;

pub(super) fn handle(broker: &Broker, ctx: Ctx, request: MetadataRequest) -> Receipt {
    let missing = missing_topics(&broker.shared, &request);
    if missing.is_empty() {
        return super::now(respond(&broker.shared, &ctx, &request));
    }
    let shared = Arc::clone(&broker.shared);
    broker.answer("auto-create topics", async move {
        let failed = shared.metadata.auto_create(missing).await;
        let mut response = respond(&shared, &ctx, &request);
        for topic in &mut response.topics {
            if let Some(error) = topic.name.as_ref().and_then(|name| failed.get(name)) {
                topic.error_code = error.code();
            }
        }
        response
    })
}

/// The topics asked for that do not exist and may be created.
fn missing_topics(shared: &Shared, request: &MetadataRequest) -> BTreeSet<ByteString> {
    if !request.allow_auto_topic_creation || !shared.config.auto_create_topics_enable {
        return BTreeSet::new();
    }
    let image = shared.image.load();
    let named = request.topics.iter().flatten().filter(|topic| topic.topic_id.is_zero());
    named.filter_map(|topic| topic.name.clone()).filter(|name| image.topic(name).is_none()).collect()
}

fn respond(shared: &Shared, ctx: &Ctx, request: &MetadataRequest) -> MetadataResponse {
    let image = shared.image.load();
    let asked = |wanted: bool, granted: i32| if wanted { granted } else { permissions::NOT_ASKED };
    let operations = asked(request.include_topic_authorized_operations, permissions::TOPIC);
    let topics = match &request.topics {
        Some(topics) => topics.iter().map(|topic| one(shared, &image, topic, operations)).collect(),
        None => image.topics().map(|topic| described(shared, &image, topic, operations)).collect(),
    };
    MetadataResponse {
        brokers: brokers(&image, &ctx.listener),
        cluster_id: Some(shared.cluster_id.clone()),
        controller_id: shared.config.node_id.0,
        topics,
        cluster_authorized_operations: asked(
            request.include_cluster_authorized_operations,
            permissions::CLUSTER,
        ),
        ..MetadataResponse::default()
    }
}

/// The brokers that serve, with the address of the listener that the client came through.
pub(super) fn brokers(image: &Image, listener: &str) -> Vec<MetadataResponseBroker> {
    let alive = image.brokers().filter(|broker| !broker.fenced);
    alive
        .map(|broker| {
            let same = broker.listeners.iter().find(|one| &*one.name == listener);
            let (host, port) =
                same.or(broker.listeners.first()).map_or(("", 0), |one| (&*one.host, one.port));
            MetadataResponseBroker {
                node_id: broker.id.0,
                host: host.into(),
                port: port.into(),
                rack: broker.rack.as_deref().map(ByteString::from),
            }
        })
        .collect()
}

fn one(
    shared: &Shared,
    image: &Image,
    asked: &MetadataRequestTopic,
    operations: i32,
) -> MetadataResponseTopic {
    let refused = |error: ErrorCode| MetadataResponseTopic {
        error_code: error.code(),
        name: asked.name.clone(),
        topic_id: asked.topic_id,
        ..MetadataResponseTopic::default()
    };
    match (&asked.name, asked.topic_id.is_zero()) {
        (_, false) => match image.topic_by_id(asked.topic_id) {
            Some(topic) => described(shared, image, topic, operations),
            None => refused(ErrorCode::UnknownTopicId),
        },
        (None, true) => refused(ErrorCode::InvalidRequest),
        (Some(name), true) => match image.topic(name) {
            Some(topic) => described(shared, image, topic, operations),
            None if validate_topic_name(name).is_err() => refused(ErrorCode::InvalidTopicException),
            None => refused(ErrorCode::UnknownTopicOrPartition),
        },
    }
}

fn described(shared: &Shared, image: &Image, topic: &Topic, operations: i32) -> MetadataResponseTopic {
    let partitions = topic.partitions.iter().zip(0..).map(|(partition, index)| {
        let leader = partition.leader.filter(|node| shared.is_leading(*node, image));
        let error = if leader.is_none() { ErrorCode::LeaderNotAvailable } else { ErrorCode::None };
        MetadataResponsePartition {
            error_code: error.code(),
            partition_index: index,
            leader_id: leader.map_or(-1, |node| node.0),
            leader_epoch: partition.leader_epoch.0,
            replica_nodes: partition.replicas.iter().map(|node| node.0).collect(),
            isr_nodes: partition.isr.iter().map(|node| node.0).collect(),
            offline_replicas: offline_replicas(image, partition),
        }
    });
    MetadataResponseTopic {
        name: Some((&*topic.name).into()),
        topic_id: topic.id,
        is_internal: InternalTopic::of_name(&topic.name).is_some(),
        partitions: partitions.collect(),
        topic_authorized_operations: operations,
        ..MetadataResponseTopic::default()
    }
}

/// The replicas whose brokers do not serve.
pub(super) fn offline_replicas(image: &Image, partition: &Partition) -> Vec<i32> {
    let is_alive = |node: &NodeId| image.broker(*node).is_some_and(|broker| !broker.fenced);
    partition.replicas.iter().filter(|node| !is_alive(node)).map(|node| node.0).collect()
}
