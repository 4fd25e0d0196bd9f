//! Deciding configuration changes: one by one (KIP-339), or all that a resource has set at once (KIP-133).

use std::collections::BTreeMap;

use bytestring::ByteString;
use millstream_protocol::ErrorCode;
use millstream_protocol::messages::incremental_alter_configs::{
    AlterConfigsResource, AlterConfigsResourceResponse, AlterableConfig,
};
use millstream_protocol::messages::{
    AlterConfigsRequest, AlterConfigsResponse, ClearElrRecord, ConfigRecord, IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse, alter_configs,
};
use millstream_record::NodeId;

use super::Record;
use super::controller::{Controller, Decision, Refusal};
use super::image::{ConfigScope, Image};
use super::partition_change::ELR_FEATURE;
use super::topic_name::validate_topic_name;
use crate::config::{
    Definition, Effective, Type, Update, broker_definition, judge_together, topic_definition,
};

/// In-sync replicas below which nothing is acknowledged.
const MIN_ISR: &str = "min.insync.replicas";

/// What is done to a value. The numbers are Kafka's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Set = 0,
    Delete = 1,
    Append = 2,
    Subtract = 3,
}

impl Operation {
    fn of(code: i8) -> Option<Self> {
        match code {
            0 => Some(Self::Set),
            1 => Some(Self::Delete),
            2 => Some(Self::Append),
            3 => Some(Self::Subtract),
            _ => None,
        }
    }
}

impl Controller {
    /// Decides IncrementalAlterConfigs for topics and brokers. Each resource is changed wholly or not at all.
    #[must_use]
    pub fn alter_configs(
        &self,
        image: &Image,
        request: &IncrementalAlterConfigsRequest,
    ) -> Decision<IncrementalAlterConfigsResponse> {
        let mut named: BTreeMap<(i8, &str), u32> = BTreeMap::new();
        for resource in &request.resources {
            *named.entry((resource.resource_type, &resource.resource_name)).or_default() += 1;
        }
        let (mut records, mut responses) = (Vec::new(), Vec::new());
        for resource in &request.resources {
            let decided = match named.get(&(resource.resource_type, &*resource.resource_name)) {
                Some(1) => self.alter_resource(image, resource),
                _ => Err(Refusal::new(
                    ErrorCode::InvalidRequest,
                    "The resource is named twice in the request.",
                )),
            };
            let mut response = AlterConfigsResourceResponse {
                resource_type: resource.resource_type,
                resource_name: resource.resource_name.clone(),
                ..AlterConfigsResourceResponse::default()
            };
            match decided {
                Ok(facts) => records.extend(facts),
                Err(refusal) => {
                    response.error_code = refusal.code.code();
                    response.error_message = Some(refusal.message.into());
                }
            }
            responses.push(response);
        }
        if request.validate_only {
            records.clear();
        }
        let response =
            IncrementalAlterConfigsResponse { responses, ..IncrementalAlterConfigsResponse::default() };
        Decision { records, response }
    }

    /// Decides AlterConfigs: what each resource is given is all that it has set from then on.
    #[must_use]
    pub fn replace_configs(
        &self,
        image: &Image,
        request: &AlterConfigsRequest,
    ) -> Decision<AlterConfigsResponse> {
        let resources = request.resources.iter().map(|resource| replacing(image, resource)).collect();
        let request = IncrementalAlterConfigsRequest { resources, validate_only: request.validate_only };
        let Decision { records, response } = self.alter_configs(image, &request);
        let told = |told: AlterConfigsResourceResponse| alter_configs::AlterConfigsResourceResponse {
            error_code: told.error_code,
            error_message: told.error_message,
            resource_type: told.resource_type,
            resource_name: told.resource_name,
        };
        let responses = response.responses.into_iter().map(told).collect();
        Decision { records, response: AlterConfigsResponse { responses, ..AlterConfigsResponse::default() } }
    }

    fn alter_resource(&self, image: &Image, resource: &AlterConfigsResource) -> Result<Vec<Record>, Refusal> {
        let scope = judge_resource(image, resource)?;
        let mut changes: BTreeMap<ByteString, Option<ByteString>> = BTreeMap::new();
        for config in &resource.configs {
            let value = self.alter(image, &scope, config)?;
            if changes.insert(config.name.clone(), value).is_some() {
                let message = format!("The config {} is named twice in the request.", config.name);
                return Err(Refusal::new(ErrorCode::InvalidRequest, message));
            }
        }
        if let ConfigScope::Topic(topic) = &scope {
            self.judge_topic(image, topic, &changes)?;
        }
        let unchanged = |name: &str, value: Option<&ByteString>| {
            image.config(&scope, name).map(|set| &**set) == value.map(|value| &**value)
        };
        let (resource_type, resource_name) = scope.resource();
        changes.retain(|name, value| !unchanged(name, value.as_ref()));
        let counts_anew = changes.contains_key(MIN_ISR) && image.feature(ELR_FEATURE) > 0;
        let record = |(name, value)| {
            Record::Config(ConfigRecord {
                resource_type,
                resource_name: resource_name.as_str().into(),
                name,
                value,
            })
        };
        let mut records: Vec<Record> = changes.into_iter().map(record).collect();
        if counts_anew {
            records.push(forget_eligible(&scope)?);
        }
        Ok(records)
    }

    /// Whether what a topic has set goes together once it is changed.
    fn judge_topic(
        &self,
        image: &Image,
        topic: &str,
        changes: &BTreeMap<ByteString, Option<ByteString>>,
    ) -> Result<(), Refusal> {
        let effective = Effective::new(image, NodeId(-1), &self.statics);
        let value = |name: &str| match changes.get(name) {
            Some(Some(value)) => Some(value.to_string()),
            Some(None) => effective.topic_value(None, name),
            None => effective.topic_value(Some(topic), name),
        };
        judge_together(value).map_err(|why| Refusal::new(ErrorCode::InvalidConfig, why))
    }

    /// The value after one operation; `None` when it is no longer set.
    fn alter(
        &self,
        image: &Image,
        scope: &ConfigScope,
        config: &AlterableConfig,
    ) -> Result<Option<ByteString>, Refusal> {
        let operation = Operation::of(config.config_operation).ok_or_else(|| {
            let message = format!("Unknown operation {} on {}.", config.config_operation, config.name);
            Refusal::new(ErrorCode::InvalidRequest, message)
        })?;
        if operation == Operation::Delete && find(scope, &config.name).0.is_none() {
            return Ok(None); // nothing of that name is set
        }
        let definition = definition(scope, &config.name)?;
        if operation == Operation::Delete {
            return Ok(None);
        }
        let Some(given) = &config.value else {
            let message = format!("Null value not supported for {}.", config.name);
            return Err(Refusal::new(ErrorCode::InvalidRequest, message));
        };
        let value = if operation == Operation::Set {
            given.clone()
        } else if definition.kind == Type::List {
            self.edit_list(image, scope, definition, given, operation).into()
        } else {
            let message =
                format!("Only lists can be appended to or subtracted from, and {} is not one.", config.name);
            return Err(Refusal::new(ErrorCode::InvalidConfig, message));
        };
        let wrong = match scope {
            ConfigScope::Topic(_) => ErrorCode::InvalidConfig,
            ConfigScope::Broker(_) | ConfigScope::BrokerDefault => ErrorCode::InvalidRequest,
        };
        let value = definition.canonical(&value).map_err(|why| Refusal::new(wrong, why))?;
        Ok(Some(value.into()))
    }

    fn edit_list(
        &self,
        image: &Image,
        scope: &ConfigScope,
        definition: &Definition,
        given: &str,
        operation: Operation,
    ) -> String {
        let set = image.config(scope, definition.name).map(|value| value.to_string());
        let effective = Effective::new(image, NodeId(-1), &self.statics);
        let current = set.or_else(|| match scope {
            ConfigScope::Topic(_) => effective.topic_value(None, definition.name),
            ConfigScope::Broker(_) | ConfigScope::BrokerDefault => effective.broker_value(definition.name),
        });
        let current = current.unwrap_or_default();
        let split = |text: &str| -> Vec<String> {
            text.split(',').map(str::trim).filter(|one| !one.is_empty()).map(str::to_owned).collect()
        };
        let (mut items, given) = (split(&current), split(given));
        items.retain(|item| operation == Operation::Append || !given.contains(item));
        if operation == Operation::Append {
            let new: Vec<String> = given.into_iter().filter(|item| !items.contains(item)).collect();
            items.extend(new);
        }
        items.join(",")
    }
}

/// Sets what is given, and deletes what else is set.
fn replacing(image: &Image, resource: &alter_configs::AlterConfigsResource) -> AlterConfigsResource {
    let given = resource.configs.iter().map(|config| AlterableConfig {
        name: config.name.clone(),
        config_operation: Operation::Set as i8,
        value: config.value.clone(),
    });
    let mut configs: Vec<AlterableConfig> = given.collect();
    let is_kept = |name: &str| resource.configs.iter().any(|config| *config.name == *name);
    if let Some(scope) = ConfigScope::of_resource(resource.resource_type, &resource.resource_name) {
        let others = image.configs(&scope).filter(|(name, _)| !is_kept(name));
        configs.extend(others.map(|(name, _)| AlterableConfig {
            name: ByteString::from(&**name),
            config_operation: Operation::Delete as i8,
            value: None,
        }));
    }
    let (resource_type, resource_name) = (resource.resource_type, resource.resource_name.clone());
    AlterConfigsResource { resource_type, resource_name, configs }
}

/// Who is eligible to lead follows from how many must be in sync: with another number nobody is, until it is found out anew.
fn forget_eligible(scope: &ConfigScope) -> Result<Record, Refusal> {
    let topic_name = match scope {
        ConfigScope::Topic(name) => ByteString::from(&**name),
        ConfigScope::BrokerDefault => ByteString::new(),
        ConfigScope::Broker(_) => {
            let message =
                format!("{MIN_ISR} must be the same at all brokers while eligible leader replicas are kept.");
            return Err(Refusal::new(ErrorCode::InvalidConfig, message));
        }
    };
    Ok(Record::ClearElr(ClearElrRecord { topic_name }))
}

fn judge_resource(image: &Image, resource: &AlterConfigsResource) -> Result<ConfigScope, Refusal> {
    let scope =
        ConfigScope::of_resource(resource.resource_type, &resource.resource_name).ok_or_else(|| {
            let message = format!(
                "There is nothing to configure in resource type {} by the name '{}'.",
                resource.resource_type, resource.resource_name
            );
            Refusal::new(ErrorCode::InvalidRequest, message)
        })?;
    match &scope {
        ConfigScope::Topic(name) if name.is_empty() => {
            Err(Refusal::new(ErrorCode::InvalidRequest, "There is no configuration of all topics."))
        }
        ConfigScope::Topic(name) if image.topic(name).is_none() => {
            validate_topic_name(name).map_err(|why| Refusal::new(ErrorCode::InvalidTopicException, why))?;
            let message = format!("The topic '{name}' does not exist.");
            Err(Refusal::new(ErrorCode::UnknownTopicOrPartition, message))
        }
        ConfigScope::Broker(id) if image.broker(*id).is_none() => {
            Err(Refusal::new(ErrorCode::InvalidRequest, format!("Broker {id} is not registered.")))
        }
        _ => Ok(scope),
    }
}

/// The definition of a name where `scope` may set it, and what such a scope is called.
fn find(scope: &ConfigScope, name: &str) -> (Option<&'static Definition>, &'static str) {
    match scope {
        ConfigScope::Topic(_) => (topic_definition(name), "topic"),
        ConfigScope::Broker(_) | ConfigScope::BrokerDefault => (broker_definition(name), "broker"),
    }
}

fn definition(scope: &ConfigScope, name: &str) -> Result<&'static Definition, Refusal> {
    let (found, level) = find(scope, name);
    let definition = found.ok_or_else(|| {
        Refusal::new(ErrorCode::InvalidConfig, format!("Unknown {level} config name: {name}"))
    })?;
    let refusal = match (definition.update, scope) {
        (Update::ReadOnly, _) => Some("can be changed only in the broker's file"),
        (Update::PerBroker, ConfigScope::BrokerDefault) => {
            Some("can be changed only for one broker at a time")
        }
        _ => None,
    };
    match refusal {
        Some(why) => Err(Refusal::new(ErrorCode::InvalidRequest, format!("The config {name} {why}."))),
        None => Ok(definition),
    }
}
