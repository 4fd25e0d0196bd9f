//! Topics, metadata and configuration.

use millstream_protocol::ErrorCode;
use millstream_protocol::messages::create_partitions::CreatePartitionsTopic;
use millstream_protocol::messages::delete_topics::DeleteTopicState;
use millstream_protocol::messages::describe_configs::DescribeConfigsResource;
use millstream_protocol::messages::describe_topic_partitions::DescribeTopicPartitionsRequestCursor;
use millstream_protocol::messages::incremental_alter_configs::{AlterConfigsResource, AlterableConfig};
use millstream_protocol::messages::metadata::{MetadataRequestTopic, MetadataResponseTopic};
use millstream_protocol::messages::{
    AlterConfigsRequest, ApiVersionsRequest, CreatePartitionsRequest, DeleteTopicsRequest,
    DescribeClusterRequest, DescribeConfigsRequest, DescribeTopicPartitionsRequest,
    IncrementalAlterConfigsRequest, MetadataRequest, alter_configs as replacing,
};
use millstream_record::Uuid;

use crate::harness::{Harness, batch};

fn describe(node: &Harness, name: &str, allow_auto_topic_creation: bool) -> MetadataResponseTopic {
    let topic = MetadataRequestTopic { name: Some(name.into()), ..MetadataRequestTopic::default() };
    let request = MetadataRequest {
        topics: Some(vec![topic]),
        allow_auto_topic_creation,
        ..MetadataRequest::default()
    };
    node.call(request).topics[0].clone()
}

#[test]
fn topics_come_and_go_and_a_new_one_never_shows_the_old_ones_records() {
    let mut node = Harness::start();
    node.create("t", 3, &[]);
    let first = describe(&node, "t", false);
    assert_eq!((first.error_code, first.partitions.len()), (0, 3));
    node.put("t", 1, &["old"]);
    let deleted = node.call(DeleteTopicsRequest {
        topics: vec![DeleteTopicState { name: Some("t".into()), ..DeleteTopicState::default() }],
        timeout_ms: 1000,
        ..DeleteTopicsRequest::default()
    });
    assert_eq!(deleted.responses[0].error_code, 0);
    assert_eq!(
        ErrorCode::from_code(describe(&node, "t", false).error_code),
        ErrorCode::UnknownTopicOrPartition
    );
    node.create("t", 3, &[]);
    assert_ne!(describe(&node, "t", false).topic_id, first.topic_id);
    assert!(node.values("t", 1, 0).is_empty());
    node.put("t", 1, &["new"]);
    node.crash();
    assert_eq!(node.values("t", 1, 0), ["new"]);
    let stale = MetadataRequestTopic { name: None, topic_id: first.topic_id };
    let answer = node.call(MetadataRequest { topics: Some(vec![stale]), ..MetadataRequest::default() });
    assert_eq!(ErrorCode::from_code(answer.topics[0].error_code), ErrorCode::UnknownTopicId);
}

#[test]
fn partitions_are_described_in_pages() {
    let node = Harness::with(&[("max.request.partition.size.limit", "2")]);
    node.create("t", 3, &[]);
    let ask = |cursor| {
        let request = DescribeTopicPartitionsRequest { cursor, ..DescribeTopicPartitionsRequest::default() };
        let answer = node.call(request);
        let partitions = answer.topics[0].partitions.iter();
        let told = partitions.map(|one| (one.partition_index, one.leader_id, one.replica_nodes.clone()));
        (told.collect::<Vec<_>>(), answer.next_cursor)
    };
    let (first, next) = ask(None);
    assert_eq!(first, [(0, 0, vec![0]), (1, 0, vec![0])], "as many as the broker allows");
    let next = next.expect("there is more");
    let cursor = DescribeTopicPartitionsRequestCursor {
        topic_name: next.topic_name,
        partition_index: next.partition_index,
    };
    assert_eq!(ask(Some(cursor)), (vec![(2, 0, vec![0])], None));
}

#[test]
fn a_topic_is_created_by_its_first_use_where_that_is_allowed() {
    let node = Harness::with(&[("num.partitions", "4")]);
    let missing = describe(&node, "t", false);
    assert_eq!(ErrorCode::from_code(missing.error_code), ErrorCode::UnknownTopicOrPartition);
    let made = describe(&node, "t", true);
    assert_eq!((made.error_code, made.partitions.len()), (0, 4));
    assert_eq!(made.partitions[3].leader_id, 0);
    node.put("t", 3, &["a"]);
    let bad = describe(&node, "not a name", true);
    assert_eq!(ErrorCode::from_code(bad.error_code), ErrorCode::InvalidTopicException);
    let strict = Harness::with(&[("auto.create.topics.enable", "false")]);
    let missing = describe(&strict, "t", true);
    assert_eq!(ErrorCode::from_code(missing.error_code), ErrorCode::UnknownTopicOrPartition);
}

#[test]
fn partitions_are_added_and_never_taken_away() {
    let mut node = Harness::start();
    node.create("t", 1, &[]);
    node.put("t", 0, &["a"]);
    let grow = |node: &Harness, count: i32| {
        let topic = CreatePartitionsTopic { name: "t".into(), count, assignments: None };
        let request = CreatePartitionsRequest { topics: vec![topic], ..CreatePartitionsRequest::default() };
        ErrorCode::from_code(node.call(request).results[0].error_code)
    };
    assert_eq!(grow(&node, 3), ErrorCode::None);
    assert_eq!(grow(&node, 2), ErrorCode::InvalidPartitions);
    node.put("t", 2, &["b"]);
    node.restart();
    assert_eq!(node.values("t", 0, 0), ["a"]);
    assert_eq!(node.values("t", 2, 0), ["b"]);
}

#[test]
fn a_changed_configuration_holds_at_once_and_is_described() {
    let mut node = Harness::start();
    node.create("t", 1, &[("retention.ms", "1000")]);
    let alter = |node: &Harness, name: &str, value: &str| {
        let config = AlterableConfig { name: name.into(), config_operation: 0, value: Some(value.into()) };
        let answer = node.call(IncrementalAlterConfigsRequest {
            resources: vec![AlterConfigsResource {
                resource_type: 2,
                resource_name: "t".into(),
                configs: vec![config],
            }],
            ..IncrementalAlterConfigsRequest::default()
        });
        ErrorCode::from_code(answer.responses[0].error_code)
    };
    let ask = |node: &Harness, resource_type: i8, resource: &str, configuration_keys| {
        let resource_name = resource.into();
        let resource = DescribeConfigsResource { resource_type, resource_name, configuration_keys };
        node.call(DescribeConfigsRequest { resources: vec![resource], ..DescribeConfigsRequest::default() })
    };
    let describe = |node: &Harness, kind: i8, resource: &str, name: &str| {
        let answer = ask(node, kind, resource, Some(vec![name.into()]));
        let result = &answer.results[0];
        let entry = result.configs.first();
        (ErrorCode::from_code(result.error_code), entry.and_then(|e| e.value.as_deref().map(str::to_owned)))
    };
    assert_eq!(alter(&node, "max.message.bytes", "100"), ErrorCode::None);
    assert_eq!(alter(&node, "max.message.bytes", "many"), ErrorCode::InvalidConfig);
    let refused = node.produce("t", 0, batch(&[&"x".repeat(200)]));
    assert_eq!(ErrorCode::from_code(refused.error_code), ErrorCode::MessageTooLarge);
    node.restart();
    let text = |value: &str| (ErrorCode::None, Some(value.to_owned()));
    assert_eq!(describe(&node, 2, "t", "max.message.bytes"), text("100"));
    assert_eq!(describe(&node, 2, "t", "retention.ms"), text("1000"));
    assert_eq!(describe(&node, 4, "0", "num.partitions"), text("1"));
    let all = ask(&node, 2, "t", None);
    assert!(all.results[0].configs.len() > 20, "{all:?}");
    assert_eq!(
        ask(&node, 2, "t", Some(Vec::new())),
        all,
        "an empty list of names asks for all, as null does"
    );
    assert_eq!(describe(&node, 2, "none", "retention.ms").0, ErrorCode::UnknownTopicOrPartition);
    assert_eq!(describe(&node, 4, "7", "num.partitions").0, ErrorCode::InvalidRequest);
}

#[test]
fn what_replaces_a_configuration_is_all_that_is_set_then() {
    let node = Harness::start();
    node.create("t", 1, &[("retention.ms", "1000"), ("max.message.bytes", "5000")]);
    let replace = |configs: &[(&str, &str)], validate_only: bool| {
        let config = |(name, value): &(&str, &str)| replacing::AlterableConfig {
            name: (*name).into(),
            value: Some((*value).into()),
        };
        let configs = configs.iter().map(config).collect();
        let resource =
            replacing::AlterConfigsResource { resource_type: 2, resource_name: "t".into(), configs };
        let answer = node.call(AlterConfigsRequest { resources: vec![resource], validate_only });
        ErrorCode::from_code(answer.responses[0].error_code)
    };
    let set = || {
        let answer = node.call(DescribeConfigsRequest {
            resources: vec![DescribeConfigsResource {
                resource_type: 2,
                resource_name: "t".into(),
                configuration_keys: None,
            }],
            ..DescribeConfigsRequest::default()
        });
        let dynamic = answer.results[0].configs.iter().filter(|config| config.config_source == 1);
        dynamic
            .map(|config| format!("{}={}", config.name, config.value.as_deref().unwrap()))
            .collect::<Vec<_>>()
    };
    assert_eq!(set(), ["max.message.bytes=5000", "retention.ms=1000"]);
    assert_eq!(replace(&[("segment.ms", "9000")], true), ErrorCode::None);
    assert_eq!(replace(&[("segment.ms", "soon")], false), ErrorCode::InvalidConfig);
    assert_eq!(set(), ["max.message.bytes=5000", "retention.ms=1000"], "one was only checked, one refused");
    assert_eq!(replace(&[("segment.ms", "9000"), ("retention.ms", "1000")], false), ErrorCode::None);
    assert_eq!(set(), ["retention.ms=1000", "segment.ms=9000"]);
    assert_eq!(replace(&[], false), ErrorCode::None);
    assert_eq!(set(), [""; 0]);
}

#[test]
fn the_cluster_describes_itself_and_keeps_its_id() {
    let mut node = Harness::start();
    let all = MetadataRequest { topics: None, ..MetadataRequest::default() };
    let before = node.call(all.clone());
    assert_eq!(before.brokers.len(), 1);
    assert_eq!((&*before.brokers[0].host, before.brokers[0].port), ("localhost", 9092));
    assert_eq!(before.controller_id, 0);
    node.restart();
    let after = node.call(all);
    assert_eq!(after.cluster_id, before.cluster_id);
    assert!(Uuid::parse(after.cluster_id.as_deref().unwrap()).is_some());
    let cluster = node.call(DescribeClusterRequest { endpoint_type: 1, ..DescribeClusterRequest::default() });
    assert_eq!(Some(cluster.cluster_id), after.cluster_id);
    assert_eq!(cluster.brokers.len(), 1);
    let spoken = node.call(ApiVersionsRequest {
        client_software_name: "test".into(),
        client_software_version: "1.0".into(),
    });
    assert_eq!(spoken.error_code, 0);
    let names: Vec<&str> = spoken.finalized_features.iter().map(|feature| &*feature.name).collect();
    assert_eq!(names, ["eligible.leader.replicas.version", "metadata.version", "transaction.version"]);
}

#[test]
fn one_directory_has_one_broker() {
    let node = Harness::start();
    let found = std::fs::read_to_string(node.dir().join("meta.properties")).unwrap();
    assert!(found.contains("node.id=0"), "{found}");
    let env = millstream_env::HostRuntime::start("second", 1).unwrap();
    let start = millstream_broker::Broker::start(
        env.1.clone(),
        std::sync::Arc::new(millstream_storage::RealDisk),
        node.dir().to_owned(),
        millstream_broker::BrokerConfig::default(),
        std::sync::Arc::new(crate::harness::Nobody),
    );
    let refused = env.0.block_on(start).err().expect("the directory is locked");
    assert!(refused.to_string().contains("another broker runs"), "{refused}");
}

#[test]
fn old_segments_are_deleted_and_never_come_back() {
    let mut node = Harness::with(&[("log.retention.check.interval.ms", "5")]);
    node.create("t", 1, &[("retention.ms", "1000"), ("segment.ms", "1")]);
    for value in ["a", "b", "c"] {
        node.put("t", 0, &[value, value]);
    }
    let mut earliest = 0;
    for _ in 0..2000 {
        earliest = node.offset("t", 0, -2).1;
        if earliest == 6 {
            break;
        }
        node.pause();
    }
    assert_eq!(earliest, 6, "every segment is older than its retention");
    let gone = node.fetch("t", 0, 0);
    assert_eq!(ErrorCode::from_code(gone.error_code), ErrorCode::OffsetOutOfRange);
    node.crash();
    assert_eq!(node.offset("t", 0, -1), (ErrorCode::None, 6));
    assert_eq!(node.put("t", 0, &["d"]), 6);
}
