//! DescribeConfigs: the configuration of topics and of this broker, with where each value comes from (KIP-133, KIP-226).

use bytestring::ByteString;
use millstream_machine::config::{Effective, Entry};
use millstream_machine::metadata::validate_topic_name;
use millstream_protocol::ErrorCode;
use millstream_protocol::messages::describe_configs::{
    DescribeConfigsResource, DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use millstream_protocol::messages::{DescribeConfigsRequest, DescribeConfigsResponse};

use super::resource::Resource;
use crate::shared::Shared;

type Refusal = (ErrorCode, String);

pub(super) fn handle(shared: &Shared, request: &DescribeConfigsRequest) -> DescribeConfigsResponse {
    let results = request.resources.iter().map(|resource| {
        let base = DescribeConfigsResult {
            resource_type: resource.resource_type,
            resource_name: resource.resource_name.clone(),
            ..DescribeConfigsResult::default()
        };
        match entries(shared, resource) {
            Ok(entries) => {
                let asked = |entry: &Entry| match &resource.configuration_keys {
                    Some(keys) if !keys.is_empty() => keys.iter().any(|key| *key == entry.definition.name),
                    _ => true,
                };
                let shown = entries.into_iter().filter(asked);
                let configs = shown.map(|entry| shown_as(entry, request.include_synonyms)).collect();
                DescribeConfigsResult { configs, ..base }
            }
            Err((error, why)) => {
                DescribeConfigsResult { error_code: error.code(), error_message: Some(why.into()), ..base }
            }
        }
    });
    DescribeConfigsResponse { results: results.collect(), ..DescribeConfigsResponse::default() }
}

fn entries(shared: &Shared, resource: &DescribeConfigsResource) -> Result<Vec<Entry>, Refusal> {
    let image = shared.image.load();
    let effective = Effective::new(&image, shared.config.node_id, &shared.config.properties);
    match Resource::parse(resource.resource_type, &resource.resource_name, shared.config.node_id)? {
        Resource::Topic(name) => {
            validate_topic_name(name).map_err(|why| (ErrorCode::InvalidTopicException, why))?;
            if image.topic(name).is_none() {
                return Err((ErrorCode::UnknownTopicOrPartition, format!("there is no topic `{name}`")));
            }
            Ok(effective.describe_topic(name))
        }
        Resource::Broker => Ok(effective.describe_broker()),
        Resource::AllBrokers => Ok(effective.describe_broker_defaults()),
        Resource::Loggers | Resource::Group => Ok(Vec::new()),
    }
}

fn shown_as(entry: Entry, with_synonyms: bool) -> DescribeConfigsResourceResult {
    let synonyms = entry.synonyms.into_iter().filter(|_| with_synonyms);
    DescribeConfigsResourceResult {
        name: ByteString::from_static(entry.definition.name),
        value: entry.value.map(ByteString::from),
        read_only: entry.read_only,
        config_source: entry.source.code(),
        is_sensitive: entry.definition.is_sensitive(),
        synonyms: synonyms
            .map(|synonym| DescribeConfigsSynonym {
                name: ByteString::from_static(synonym.name),
                value: synonym.value.map(ByteString::from),
                source: synonym.source.code(),
            })
            .collect(),
        config_type: entry.definition.kind.code(),
        documentation: None,
    }
}
