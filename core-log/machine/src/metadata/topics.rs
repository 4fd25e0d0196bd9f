//! Deciding topics and partitions.

use std::collections::{BTreeMap, BTreeSet};

use bytestring::ByteString;
use millstream_protocol::ErrorCode;
use millstream_protocol::messages::create_partitions::{CreatePartitionsTopic, CreatePartitionsTopicResult};
use millstream_protocol::messages::create_topics::{
    CreatableTopic, CreatableTopicConfigs, CreatableTopicResult,
};
use millstream_protocol::messages::delete_topics::{DeletableTopicResult, DeleteTopicState};
use millstream_protocol::messages::{
    ConfigRecord, CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest,
    CreateTopicsResponse, DeleteTopicsRequest, DeleteTopicsResponse, PartitionRecord, RemoveTopicRecord,
    TopicRecord,
};
use millstream_record::{NodeId, TopicId, Uuid};

use super::controller::{Controller, Decision, MAX_PARTITIONS_PER_REQUEST, NewIds, Refusal, assume};
use super::image::{ConfigScope, Image};
use super::topic_name::{collide, may_collide, validate_topic_name};
use super::{Record, placement};
use crate::config::{Effective, judge_together, topic_definition};

/// The metadata log itself; nobody may create it.
const METADATA_TOPIC: &str = "__cluster_metadata";

/// A manual or automatic assignment: the replicas of each new partition.
type Assignment = Vec<Vec<NodeId>>;

impl Controller {
    /// Decides CreateTopics. Each topic is judged by itself, against those before it.
    #[must_use]
    pub fn create_topics(
        &self,
        image: &Image,
        request: &CreateTopicsRequest,
        new_ids: NewIds<'_>,
    ) -> Decision<CreateTopicsResponse> {
        let repeated = repeated(request.topics.iter().map(|topic| &topic.name));
        let mut scratch = image.clone();
        let (mut records, mut results, mut partitions) = (Vec::new(), Vec::new(), 0);
        for topic in &request.topics {
            if repeated.contains(&topic.name) {
                if !results.iter().any(|result: &CreatableTopicResult| result.name == topic.name) {
                    results.push(refused_topic(
                        &topic.name,
                        Refusal::new(ErrorCode::InvalidRequest, "Duplicate topic name."),
                    ));
                }
                continue;
            }
            match self.create_topic(&mut scratch, topic, new_ids, MAX_PARTITIONS_PER_REQUEST - partitions) {
                Ok((facts, result)) => {
                    partitions += facts.iter().filter(|fact| matches!(fact, Record::Partition(_))).count();
                    records.extend(facts);
                    results.push(result);
                }
                Err(refusal) => results.push(refused_topic(&topic.name, refusal)),
            }
        }
        if request.validate_only {
            records.clear();
        }
        let response = CreateTopicsResponse { topics: results, ..CreateTopicsResponse::default() };
        Decision { records, response }
    }

    /// The records of a topic, which `image` has taken up, and the answer.
    fn create_topic(
        &self,
        image: &mut Image,
        topic: &CreatableTopic,
        new_ids: NewIds<'_>,
        max_partitions: usize,
    ) -> Result<(Vec<Record>, CreatableTopicResult), Refusal> {
        if &*topic.name == METADATA_TOPIC {
            let message = format!("Creation of internal topic {METADATA_TOPIC} is prohibited.");
            return Err(Refusal::new(ErrorCode::InvalidRequest, message));
        }
        judge_name(image, &topic.name)?;
        let configs = self.judge_configs(image, topic)?;
        let id = new_ids();
        let assignment = if topic.assignments.is_empty() {
            self.automatic_assignment(image, topic, id, max_partitions)?
        } else {
            manual_assignment(image, topic)?
        };
        if assignment.len() > max_partitions {
            return Err(too_many_partitions());
        }
        let topic_record = TopicRecord { name: topic.name.clone(), topic_id: id };
        let mut records = vec![Record::Topic(topic_record)];
        for (name, value) in &configs {
            records.push(Record::Config(ConfigRecord {
                resource_type: ConfigScope::Topic("".into()).resource().0,
                resource_name: topic.name.clone(),
                name: name.clone(),
                value: Some(value.clone()),
            }));
        }
        records.extend(partition_records(image, id, 0, &assignment)?);
        assume(image, &records);
        let result = self.created(image, topic, id, &assignment);
        Ok((records, result))
    }

    fn judge_configs(
        &self,
        image: &Image,
        topic: &CreatableTopic,
    ) -> Result<BTreeMap<ByteString, ByteString>, Refusal> {
        let invalid = |message: String| Refusal::new(ErrorCode::InvalidConfig, message);
        let mut configs: BTreeMap<ByteString, ByteString> = BTreeMap::new();
        for config in &topic.configs {
            let definition = topic_definition(&config.name)
                .ok_or_else(|| invalid(format!("Unknown topic config name: {}", config.name)))?;
            let Some(value) = &config.value else {
                return Err(invalid(format!("Null value not supported for topic configs: {}", config.name)));
            };
            let value = definition.canonical(value).map_err(invalid)?;
            configs.insert(config.name.clone(), value.into());
        }
        let defaults = Effective::new(image, NodeId(-1), &self.statics);
        let value = |name: &str| {
            configs.get(name).map(|value| value.to_string()).or_else(|| defaults.topic_value(None, name))
        };
        judge_together(value).map_err(invalid)?;
        Ok(configs)
    }

    fn automatic_assignment(
        &self,
        image: &Image,
        topic: &CreatableTopic,
        id: Uuid,
        max_partitions: usize,
    ) -> Result<Assignment, Refusal> {
        let defaults = Effective::new(image, NodeId(-1), &self.statics);
        let partitions = match topic.num_partitions {
            -1 => defaults.broker_number("num.partitions", 1),
            count => i64::from(count),
        };
        let replication_factor = match topic.replication_factor {
            -1 => defaults.broker_number("default.replication.factor", 1),
            count => i64::from(count),
        };
        let partitions = positive(partitions).ok_or_else(|| {
            Refusal::new(ErrorCode::InvalidPartitions, "The number of partitions must be positive.")
        })?;
        let replication_factor = positive(replication_factor).ok_or_else(|| {
            Refusal::new(ErrorCode::InvalidReplicationFactor, "The replication factor must be positive.")
        })?;
        if partitions > max_partitions {
            return Err(too_many_partitions());
        }
        placement::place(image, id, 0, partitions, replication_factor)
            .map_err(|why| Refusal::new(ErrorCode::InvalidReplicationFactor, why))
    }

    fn created(
        &self,
        image: &Image,
        topic: &CreatableTopic,
        id: Uuid,
        assignment: &Assignment,
    ) -> CreatableTopicResult {
        let effective = Effective::new(image, NodeId(-1), &self.statics);
        let configs = effective.describe_topic(&topic.name).into_iter().map(|entry| CreatableTopicConfigs {
            name: entry.definition.name.into(),
            value: entry.value.map(ByteString::from),
            read_only: entry.read_only,
            config_source: entry.source.code(),
            is_sensitive: entry.definition.is_sensitive(),
        });
        CreatableTopicResult {
            name: topic.name.clone(),
            topic_id: id,
            num_partitions: i32::try_from(assignment.len()).unwrap_or(i32::MAX),
            replication_factor: assignment
                .first()
                .and_then(|replicas| i16::try_from(replicas.len()).ok())
                .unwrap_or(-1),
            configs: Some(configs.collect()),
            ..CreatableTopicResult::default()
        }
    }

    /// Decides DeleteTopics, by name or by id.
    #[must_use]
    pub fn delete_topics(
        &self,
        image: &Image,
        request: &DeleteTopicsRequest,
    ) -> Decision<DeleteTopicsResponse> {
        let by_name = request
            .topic_names
            .iter()
            .map(|name| DeleteTopicState { name: Some(name.clone()), ..DeleteTopicState::default() });
        let wanted: Vec<DeleteTopicState> = request.topics.iter().cloned().chain(by_name).collect();
        let repeated = repeated(wanted.iter().filter_map(|topic| topic.name.as_ref()));
        let mut gone = BTreeSet::new();
        let (mut records, mut responses) = (Vec::new(), Vec::new());
        for topic in &wanted {
            let is_repeated = topic.name.as_ref().is_some_and(|name| repeated.contains(name));
            let mut result = DeletableTopicResult {
                name: topic.name.clone(),
                topic_id: topic.topic_id,
                ..DeletableTopicResult::default()
            };
            match find_doomed(image, topic).and_then(|(name, id)| {
                let is_first = !is_repeated && gone.insert(id);
                is_first.then_some((name, id)).ok_or_else(|| {
                    Refusal::new(ErrorCode::InvalidRequest, "The topic is named twice in the request.")
                })
            }) {
                Ok((name, id)) => {
                    result.name = Some(name);
                    result.topic_id = id;
                    let record = RemoveTopicRecord { topic_id: id };
                    records.push(Record::RemoveTopic(record));
                }
                Err(refusal) => {
                    result.error_code = refusal.code.code();
                    result.error_message = Some(refusal.message.into());
                }
            }
            responses.push(result);
        }
        let response = DeleteTopicsResponse { responses, ..DeleteTopicsResponse::default() };
        Decision { records, response }
    }

    /// Decides CreatePartitions: topics only grow.
    #[must_use]
    pub fn create_partitions(
        &self,
        image: &Image,
        request: &CreatePartitionsRequest,
    ) -> Decision<CreatePartitionsResponse> {
        let repeated = repeated(request.topics.iter().map(|topic| &topic.name));
        let (mut records, mut results, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
        for topic in request.topics.iter().filter(|topic| seen.insert(&topic.name)) {
            let decided = if repeated.contains(&topic.name) {
                Err(Refusal::new(ErrorCode::InvalidRequest, "Duplicate topic name."))
            } else {
                grow(image, topic, MAX_PARTITIONS_PER_REQUEST - records.len())
            };
            let mut result = CreatePartitionsTopicResult {
                name: topic.name.clone(),
                ..CreatePartitionsTopicResult::default()
            };
            match decided {
                Ok(facts) => records.extend(facts),
                Err(refusal) => {
                    result.error_code = refusal.code.code();
                    result.error_message = Some(refusal.message.into());
                }
            }
            results.push(result);
        }
        if request.validate_only {
            records.clear();
        }
        let response = CreatePartitionsResponse { results, ..CreatePartitionsResponse::default() };
        Decision { records, response }
    }
}

fn repeated<'a>(names: impl Iterator<Item = &'a ByteString>) -> BTreeSet<ByteString> {
    let mut seen = BTreeSet::new();
    names.filter(|name| !seen.insert(*name)).cloned().collect()
}

fn positive(number: i64) -> Option<usize> {
    usize::try_from(number).ok().filter(|number| *number > 0)
}

fn too_many_partitions() -> Refusal {
    let message = format!("One request may create {MAX_PARTITIONS_PER_REQUEST} partitions at most.");
    Refusal::new(ErrorCode::PolicyViolation, message)
}

fn refused_topic(name: &ByteString, refusal: Refusal) -> CreatableTopicResult {
    CreatableTopicResult {
        name: name.clone(),
        error_code: refusal.code.code(),
        error_message: Some(refusal.message.into()),
        ..CreatableTopicResult::default()
    }
}

fn judge_name(image: &Image, name: &str) -> Result<(), Refusal> {
    validate_topic_name(name).map_err(|why| Refusal::new(ErrorCode::InvalidTopicException, why))?;
    if image.topic(name).is_some() {
        return Err(Refusal::new(ErrorCode::TopicAlreadyExists, format!("Topic '{name}' already exists.")));
    }
    if may_collide(name)
        && let Some(other) = image.topics().find(|topic| collide(&topic.name, name))
    {
        let message = format!("Topic '{name}' collides with existing topic: {}", other.name);
        return Err(Refusal::new(ErrorCode::InvalidTopicException, message));
    }
    Ok(())
}

fn manual_assignment(image: &Image, topic: &CreatableTopic) -> Result<Assignment, Refusal> {
    if topic.replication_factor != -1 || topic.num_partitions != -1 {
        return Err(Refusal::new(
            ErrorCode::InvalidRequest,
            "A manual partition assignment was given, so the number of partitions and the replication factor must be -1.",
        ));
    }
    let invalid = |message: String| Refusal::new(ErrorCode::InvalidReplicaAssignment, message);
    let mut by_index = BTreeMap::new();
    for assignment in &topic.assignments {
        let replicas: Vec<NodeId> = assignment.broker_ids.iter().copied().map(NodeId).collect();
        if by_index.insert(assignment.partition_index, replicas).is_some() {
            return Err(invalid(format!("Partition {} is assigned twice.", assignment.partition_index)));
        }
    }
    if by_index.keys().copied().ne(0..i32::try_from(by_index.len()).unwrap_or(i32::MAX)) {
        return Err(invalid("Partitions must be numbered from 0 without a gap.".into()));
    }
    let assignment: Assignment = by_index.into_values().collect();
    judge_assignment(image, &assignment, assignment.first().map_or(0, Vec::len))?;
    Ok(assignment)
}

fn judge_assignment(
    image: &Image,
    assignment: &Assignment,
    replication_factor: usize,
) -> Result<(), Refusal> {
    let invalid = |message: String| Refusal::new(ErrorCode::InvalidReplicaAssignment, message);
    for (index, replicas) in assignment.iter().enumerate() {
        judge_replicas(image, replicas).map_err(|why| invalid(format!("Assignment {index} {why}.")))?;
        if replicas.len() != replication_factor {
            return Err(invalid(format!(
                "Assignment {index} has {} replica(s), others have {replication_factor}.",
                replicas.len()
            )));
        }
    }
    Ok(())
}

/// Whether a partition can have these replicas.
///
/// # Errors
/// What the assignment does wrong.
pub(super) fn judge_replicas(image: &Image, replicas: &[NodeId]) -> Result<(), String> {
    if replicas.is_empty() {
        return Err("names no broker".into());
    }
    if replicas.iter().collect::<BTreeSet<_>>().len() != replicas.len() {
        return Err("names a broker twice".into());
    }
    match replicas.iter().find(|node| image.broker(**node).is_none()) {
        Some(unknown) => Err(format!("names broker {unknown}, which is not registered")),
        None => Ok(()),
    }
}

fn partition_records(
    image: &Image,
    id: TopicId,
    first: usize,
    assignment: &Assignment,
) -> Result<Vec<Record>, Refusal> {
    let record = |(at, replicas): (usize, &Vec<NodeId>)| {
        let active: Vec<NodeId> = replicas
            .iter()
            .copied()
            .filter(|node| image.broker(*node).is_some_and(|broker| broker.is_active()))
            .collect();
        let Some(leader) = active.first() else {
            let message = format!("All brokers of partition {} are fenced or shutting down.", first + at);
            return Err(Refusal::new(ErrorCode::InvalidReplicaAssignment, message));
        };
        Ok(Record::Partition(PartitionRecord {
            partition_id: i32::try_from(first + at).unwrap_or(i32::MAX),
            topic_id: id,
            leader: leader.0,
            leader_epoch: 0,
            partition_epoch: 0,
            leader_recovery_state: 0,
            replicas: replicas.iter().map(|node| node.0).collect(),
            isr: active.iter().map(|node| node.0).collect(),
            directories: replicas.iter().map(|node| placement::directory(image, *node)).collect(),
            ..PartitionRecord::default()
        }))
    };
    assignment.iter().enumerate().map(record).collect()
}

fn find_doomed(image: &Image, topic: &DeleteTopicState) -> Result<(ByteString, TopicId), Refusal> {
    match (&topic.name, topic.topic_id) {
        (Some(_), id) if !id.is_zero() => {
            Err(Refusal::new(ErrorCode::InvalidRequest, "You may not specify both topic name and topic id."))
        }
        (None, id) if id.is_zero() => {
            Err(Refusal::new(ErrorCode::InvalidRequest, "Neither topic name nor id were specified."))
        }
        (Some(name), _) => image.topic(name).map(|topic| (name.clone(), topic.id)).ok_or_else(|| {
            Refusal::new(ErrorCode::UnknownTopicOrPartition, format!("There is no topic '{name}'."))
        }),
        (None, id) => {
            image.topic_by_id(id).map(|topic| (ByteString::from(&*topic.name), id)).ok_or_else(|| {
                Refusal::new(ErrorCode::UnknownTopicId, format!("There is no topic with id {id}."))
            })
        }
    }
}

fn grow(image: &Image, request: &CreatePartitionsTopic, max: usize) -> Result<Vec<Record>, Refusal> {
    let name = &request.name;
    let topic = image.topic(name).ok_or_else(|| {
        Refusal::new(ErrorCode::UnknownTopicOrPartition, format!("There is no topic '{name}'."))
    })?;
    let current = topic.partitions.len();
    let wanted = usize::try_from(request.count).unwrap_or(0);
    if wanted <= current {
        let message =
            format!("Topic {name} has {current} partition(s); {} would not be an increase.", request.count);
        return Err(Refusal::new(ErrorCode::InvalidPartitions, message));
    }
    let added = wanted - current;
    if added > max {
        return Err(too_many_partitions());
    }
    let replication_factor = topic.partitions.first().map_or(1, |partition| partition.replicas.len());
    let assignment = match &request.assignments {
        None => placement::place(image, topic.id, current, added, replication_factor)
            .map_err(|why| Refusal::new(ErrorCode::InvalidReplicationFactor, why))?,
        Some(given) if given.len() != added => {
            let message = format!(
                "{added} partition(s) are to be added, but {} assignment(s) were given.",
                given.len()
            );
            return Err(Refusal::new(ErrorCode::InvalidReplicaAssignment, message));
        }
        Some(given) => {
            let given: Assignment =
                given.iter().map(|one| one.broker_ids.iter().copied().map(NodeId).collect()).collect();
            judge_assignment(image, &given, replication_factor)?;
            given
        }
    };
    partition_records(image, topic.id, current, &assignment)
}
