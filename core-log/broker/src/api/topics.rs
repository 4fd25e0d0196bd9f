//! CreateTopics, DeleteTopics, CreatePartitions, IncrementalAlterConfigs, AlterConfigs: the controller decides, the answer waits for the commit.

use std::sync::Arc;

use millstream_protocol::messages::create_partitions::CreatePartitionsTopicResult;
use millstream_protocol::messages::create_topics::CreatableTopicResult;
use millstream_protocol::messages::delete_topics::DeletableTopicResult;
use millstream_protocol::messages::incremental_alter_configs::AlterConfigsResourceResponse;
use millstream_protocol::messages::{
    AlterConfigsRequest, AlterConfigsResponse, CreatePartitionsRequest, CreatePartitionsResponse,
    CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest, DeleteTopicsResponse,
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse, alter_configs as replacing,
};
use millstream_protocol::{Ctx, ErrorCode, Receipt};

use crate::Broker;
use crate::refusal::Refusal;

pub(super) fn create(broker: &Broker, request: CreateTopicsRequest) -> Receipt {
    let shared = Arc::clone(&broker.shared);
    broker.answer("create topics", async move {
        shared.metadata.ask(request.clone()).await.unwrap_or_else(|Refusal { code, why, .. }| {
            let topics = request.topics.into_iter().map(|topic| CreatableTopicResult {
                name: topic.name,
                error_code: code.code(),
                error_message: why.clone(),
                ..CreatableTopicResult::default()
            });
            CreateTopicsResponse { topics: topics.collect(), ..CreateTopicsResponse::default() }
        })
    })
}

pub(super) fn delete(broker: &Broker, ctx: &Ctx, request: DeleteTopicsRequest) -> Receipt {
    let shared = Arc::clone(&broker.shared);
    if !shared.config.delete_topic_enable {
        let known = ctx.facts.topic_deletion_disabled_known;
        let code = if known { ErrorCode::TopicDeletionDisabled } else { ErrorCode::InvalidRequest };
        return super::now(none_deleted(&request, &code.into()));
    }
    broker.answer("delete topics", async move {
        let decided = shared.metadata.ask(request.clone()).await;
        decided.unwrap_or_else(|refusal| none_deleted(&request, &refusal))
    })
}

fn none_deleted(request: &DeleteTopicsRequest, refusal: &Refusal) -> DeleteTopicsResponse {
    let result = |name, topic_id| DeletableTopicResult {
        name,
        topic_id,
        error_code: refusal.code.code(),
        error_message: refusal.why.clone(),
    };
    let responses = request.topics.iter().map(|topic| result(topic.name.clone(), topic.topic_id)).collect();
    DeleteTopicsResponse { responses, ..DeleteTopicsResponse::default() }
}

pub(super) fn create_partitions(broker: &Broker, request: CreatePartitionsRequest) -> Receipt {
    let shared = Arc::clone(&broker.shared);
    broker.answer("create partitions", async move {
        shared.metadata.ask(request.clone()).await.unwrap_or_else(|Refusal { code, why, .. }| {
            let results = request.topics.into_iter().map(|topic| CreatePartitionsTopicResult {
                name: topic.name,
                error_code: code.code(),
                error_message: why.clone(),
            });
            CreatePartitionsResponse { results: results.collect(), ..CreatePartitionsResponse::default() }
        })
    })
}

pub(super) fn alter_configs(broker: &Broker, request: IncrementalAlterConfigsRequest) -> Receipt {
    let shared = Arc::clone(&broker.shared);
    broker.answer("alter configs", async move {
        shared.metadata.ask(request.clone()).await.unwrap_or_else(|Refusal { code, why, .. }| {
            let responses = request.resources.into_iter().map(|resource| AlterConfigsResourceResponse {
                error_code: code.code(),
                error_message: why.clone(),
                resource_type: resource.resource_type,
                resource_name: resource.resource_name,
            });
            IncrementalAlterConfigsResponse { responses: responses.collect(), ..Default::default() }
        })
    })
}

pub(super) fn replace_configs(broker: &Broker, request: AlterConfigsRequest) -> Receipt {
    let shared = Arc::clone(&broker.shared);
    broker.answer("replace configs", async move {
        shared.metadata.ask(request.clone()).await.unwrap_or_else(|Refusal { code, why, .. }| {
            let responses =
                request.resources.into_iter().map(|resource| replacing::AlterConfigsResourceResponse {
                    error_code: code.code(),
                    error_message: why.clone(),
                    resource_type: resource.resource_type,
                    resource_name: resource.resource_name,
                });
            AlterConfigsResponse { responses: responses.collect(), ..Default::default() }
        })
    })
}
