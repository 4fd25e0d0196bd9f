//! Settings of topics and brokers.

use futures::FutureExt;
use futures::future::BoxFuture;
use millstream_protocol::ErrorCode;
use millstream_protocol::messages::describe_configs::{
    DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResourceResult,
};
use millstream_protocol::messages::incremental_alter_configs::{
    AlterConfigsResource, AlterConfigsResourceResponse, AlterableConfig, IncrementalAlterConfigsRequest,
};

use super::{Admin, outcome};
use crate::{AlterConfig, ConfigEntry, ConfigResource, Result};

const TOPIC: i8 = 2;
const BROKER: i8 = 4;
/// `config_source` of a default.
const DEFAULT_SOURCE: i8 = 5;

impl Admin {
    /// The settings of a topic or broker.
    ///
    /// # Errors
    /// When the resource does not exist, or the request fails.
    pub fn describe_configs<'a>(
        &'a self,
        resource: &'a ConfigResource,
    ) -> BoxFuture<'a, Result<Vec<ConfigEntry>>> {
        async move {
            let (resource_type, name) = named(resource);
            let wanted = DescribeConfigsResource {
                resource_type,
                resource_name: name.into(),
                configuration_keys: None,
            };
            let request =
                DescribeConfigsRequest { resources: vec![wanted], ..DescribeConfigsRequest::default() };
            let answer = self.retry("describing configs", || async {
                let answer = self.cluster.ask_controller(request.clone()).await?;
                for result in &answer.results {
                    outcome(result.error_code, "DescribeConfigs", name, result.error_message.clone())?;
                }
                Ok(answer)
            });
            Ok(answer.await?.results.into_iter().flat_map(|result| result.configs).map(read).collect())
        }
        .boxed()
    }

    /// Changes settings of a topic or broker.
    ///
    /// # Errors
    /// When a setting or value is refused.
    pub fn incremental_alter_configs<'a>(
        &'a self,
        resource: &'a ConfigResource,
        changes: &'a [AlterConfig],
    ) -> BoxFuture<'a, Result<()>> {
        async move {
            let (resource_type, name) = named(resource);
            let altered = AlterConfigsResource {
                resource_type,
                resource_name: name.into(),
                configs: changes.iter().map(alterable).collect(),
            };
            let request = IncrementalAlterConfigsRequest { resources: vec![altered], validate_only: false };
            let read = |done: &AlterConfigsResourceResponse| {
                outcome(done.error_code, "IncrementalAlterConfigs", name, done.error_message.clone())
            };
            let answer = self.retry("changing configs", || async {
                let done = self.cluster.ask_controller(request.clone()).await?.responses;
                // The controller knows every topic there is: asking it again brings none about.
                let unknown = ErrorCode::UnknownTopicOrPartition.code();
                done.iter().filter(|done| done.error_code != unknown).try_for_each(read)?;
                Ok(done)
            });
            answer.await?.iter().try_for_each(read)
        }
        .boxed()
    }
}

fn named(resource: &ConfigResource) -> (i8, &str) {
    match resource {
        ConfigResource::Topic(name) => (TOPIC, name),
        ConfigResource::Broker(id) => (BROKER, id),
    }
}

fn alterable(change: &AlterConfig) -> AlterableConfig {
    let (name, config_operation, value) = match change {
        AlterConfig::Set(name, value) => (name, 0, Some(value)),
        AlterConfig::Delete(name) => (name, 1, None),
        AlterConfig::Append(name, value) => (name, 2, Some(value)),
        AlterConfig::Subtract(name, value) => (name, 3, Some(value)),
    };
    AlterableConfig { name: name.as_str().into(), config_operation, value: value.map(|v| v.as_str().into()) }
}

fn read(entry: DescribeConfigsResourceResult) -> ConfigEntry {
    ConfigEntry {
        name: entry.name,
        value: entry.value,
        is_default: entry.config_source == DEFAULT_SOURCE,
        read_only: entry.read_only,
        is_sensitive: entry.is_sensitive,
    }
}
