//! Topics, partitions and configurations.

use std::sync::Arc;

use bytestring::ByteString;
use millstream_protocol::ErrorCode;
use millstream_protocol::messages::create_partitions::CreatePartitionsTopic;
use millstream_protocol::messages::create_topics::CreatableTopic;
use millstream_protocol::messages::delete_topics::DeleteTopicState;
use millstream_protocol::messages::incremental_alter_configs::{AlterConfigsResource, AlterableConfig};
use millstream_protocol::messages::{
    CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest, IncrementalAlterConfigsRequest,
};
use millstream_record::{NodeId, Uuid};

use super::{assigned, cluster, commit, configured, controller, create, topic};
use crate::config::{Effective, Source, Static};
use crate::metadata::{ConfigScope, Controller, InternalTopic};

#[test]
fn bad_topics_are_refused_with_kafkas_codes() {
    use ErrorCode as E;
    let table: Vec<(CreatableTopic, ErrorCode)> = vec![
        (topic("new", 1, 1), E::None),
        (topic("defaults", -1, -1), E::None),
        (topic("taken", 1, 1), E::TopicAlreadyExists),
        (topic("a_b", 1, 1), E::InvalidTopicException),
        (topic("no/slash", 1, 1), E::InvalidTopicException),
        (topic("__cluster_metadata", 1, 1), E::InvalidRequest),
        (topic("none", 0, 1), E::InvalidPartitions),
        (topic("many", 10_001, 1), E::PolicyViolation),
        (topic("replicas", 1, 0), E::InvalidReplicationFactor),
        (topic("replicas", 1, 3), E::InvalidReplicationFactor),
        (configured("c", "retention.ms", Some("5")), E::None),
        (configured("c", "retention.ms", Some("x")), E::InvalidConfig),
        (configured("c", "retention.ms", None), E::InvalidConfig),
        (configured("c", "colour", Some("red")), E::InvalidConfig),
        (configured("c", "remote.storage.enable", Some("true")), E::InvalidConfig),
        (configured("c", "remote.storage.enable", Some("false")), E::None),
        (lags("c", "5", "4"), E::InvalidConfig),
        (lags("c", "5", "5"), E::None),
        (assigned("m", &[(0, &[1, 2]), (1, &[2, 1])]), E::None),
        (assigned("m", &[(0, &[1]), (2, &[2])]), E::InvalidReplicaAssignment),
        (assigned("m", &[(0, &[1]), (0, &[2])]), E::InvalidReplicaAssignment),
        (assigned("m", &[(0, &[1, 2]), (1, &[1])]), E::InvalidReplicaAssignment),
        (assigned("m", &[(0, &[1, 1])]), E::InvalidReplicaAssignment),
        (assigned("m", &[(0, &[])]), E::InvalidReplicaAssignment),
        (assigned("m", &[(0, &[9])]), E::InvalidReplicaAssignment),
        (CreatableTopic { num_partitions: 1, ..assigned("m", &[(0, &[1])]) }, E::InvalidRequest),
    ];
    for (topic, expected) in table {
        let mut image = cluster(2);
        create(&mut image, vec![self::topic("taken", 1, 1), self::topic("a.b", 1, 1)]);
        let shown = format!("{topic:?}");
        assert_eq!(create(&mut image, vec![topic.clone()]), [expected], "{shown}");
        let exists = image.topic(&topic.name).is_some();
        assert_eq!(exists, matches!(expected, E::None | E::TopicAlreadyExists), "{shown}");
    }
}

#[test]
fn a_request_is_decided_topic_by_topic_against_those_before() {
    use ErrorCode as E;
    let mut image = cluster(1);
    let codes = create(
        &mut image,
        vec![
            topic("x.y", 1, 1),
            topic("x_y", 1, 1),
            topic("twice", 1, 1),
            topic("twice", 1, 1),
            topic("z", 3, 1),
        ],
    );
    assert_eq!(codes, [E::None, E::InvalidTopicException, E::InvalidRequest, E::None]);
    assert_eq!(
        image.topics().map(|t| (&*t.name, t.partitions.len())).collect::<Vec<_>>(),
        [("x.y", 1), ("z", 3)]
    );
    let partition = image.partition("z", 2).unwrap();
    assert_eq!((partition.leader, &partition.isr[..]), (Some(NodeId(1)), &[NodeId(1)][..]));
    assert_eq!(partition.directories, image.broker(NodeId(1)).unwrap().directories);
}

#[test]
fn validate_only_answers_and_changes_nothing() {
    let image = cluster(1);
    let request = CreateTopicsRequest {
        topics: vec![configured("v", "retention.ms", Some("5"))],
        validate_only: true,
        ..CreateTopicsRequest::default()
    };
    let decision = controller().create_topics(&image, &request, &mut || Uuid::from_random(1, 1));
    assert!(decision.records.is_empty());
    let answer = &decision.response.topics[0];
    assert_eq!((answer.error_code, answer.num_partitions, answer.replication_factor), (0, 1, 1));
    let configs = answer.configs.as_ref().unwrap();
    let retention = configs.iter().find(|config| &*config.name == "retention.ms").unwrap();
    assert_eq!(retention.value.as_deref(), Some("5"));
    assert_eq!(retention.config_source, Source::DynamicTopic.code());
}

#[test]
fn replicas_spread_evenly() {
    let mut image = cluster(5);
    assert_eq!(create(&mut image, vec![topic("t", 20, 3)]), [ErrorCode::None]);
    let mut led = [0; 6];
    let mut held = [0; 6];
    for partition in &image.topic("t").unwrap().partitions {
        led[usize::try_from(partition.leader.unwrap().0).unwrap()] += 1;
        let mut replicas = partition.replicas.clone();
        replicas.sort();
        replicas.dedup();
        assert_eq!(replicas.len(), 3, "distinct brokers");
        replicas.iter().for_each(|node| held[usize::try_from(node.0).unwrap()] += 1);
    }
    assert_eq!((led, held), ([0, 4, 4, 4, 4, 4], [0, 12, 12, 12, 12, 12]));
}

#[test]
fn topics_are_deleted_by_name_or_id_with_all_they_had() {
    use ErrorCode as E;
    let mut image = cluster(1);
    create(
        &mut image,
        vec![configured("a", "retention.ms", Some("5")), topic("b", 1, 1), topic("twice", 1, 1)],
    );
    let id = image.topic("b").unwrap().id;
    let by_name = |name: &str| DeleteTopicState { name: Some(name.into()), ..DeleteTopicState::default() };
    let by_id = |topic_id| DeleteTopicState { topic_id, ..DeleteTopicState::default() };
    let request = DeleteTopicsRequest {
        topics: vec![
            by_name("a"),
            by_id(id),
            by_name("b"),
            by_name("c"),
            by_name("twice"),
            by_name("twice"),
            by_id(Uuid::from_random(9, 9)),
            by_id(Uuid::ZERO),
            DeleteTopicState { topic_id: id, ..by_name("b") },
        ],
        ..DeleteTopicsRequest::default()
    };
    let decision = controller().delete_topics(&image, &request);
    let codes: Vec<_> =
        decision.response.responses.iter().map(|r| ErrorCode::from_code(r.error_code)).collect();
    assert_eq!(
        codes,
        [
            E::None,
            E::None,
            E::InvalidRequest,
            E::UnknownTopicOrPartition,
            E::InvalidRequest,
            E::InvalidRequest,
            E::UnknownTopicId,
            E::InvalidRequest,
            E::InvalidRequest
        ]
    );
    assert_eq!(
        decision.response.responses[1].name.as_deref(),
        Some("b"),
        "the name is told to who knew the id"
    );
    commit(&mut image, decision.records);
    assert_eq!(image.topics().map(|topic| &*topic.name).collect::<Vec<_>>(), ["twice"]);
    assert_eq!(image.config(&ConfigScope::Topic("a".into()), "retention.ms"), None);
    assert!(image.topic_by_id(id).is_none());
}

#[test]
fn topics_only_grow() {
    use ErrorCode as E;
    for (count, assignments, expected) in [
        (5, None, E::None),
        (3, None, E::InvalidPartitions),
        (1, None, E::InvalidPartitions),
        (4, Some(vec![vec![1]]), E::None),
        (5, Some(vec![vec![1]]), E::InvalidReplicaAssignment),
        (4, Some(vec![vec![7]]), E::InvalidReplicaAssignment),
        (4, Some(vec![vec![1, 2]]), E::InvalidReplicaAssignment),
        (20_000, None, E::PolicyViolation),
    ] {
        let mut image = cluster(2);
        create(&mut image, vec![topic("t", 3, 1)]);
        let assignments = assignments.map(|all: Vec<Vec<i32>>| {
            all.into_iter()
                .map(|broker_ids| {
                    millstream_protocol::messages::create_partitions::CreatePartitionsAssignment {
                        broker_ids,
                    }
                })
                .collect()
        });
        let request = CreatePartitionsRequest {
            topics: vec![CreatePartitionsTopic { name: "t".into(), count, assignments }],
            ..CreatePartitionsRequest::default()
        };
        let decision = controller().create_partitions(&image, &request);
        assert_eq!(ErrorCode::from_code(decision.response.results[0].error_code), expected, "{count}");
        commit(&mut image, decision.records);
        let expected_count = if expected == E::None { usize::try_from(count).unwrap() } else { 3 };
        assert_eq!(image.topic("t").unwrap().partitions.len(), expected_count);
    }
}

#[test]
fn configs_are_altered_by_operation() {
    use ErrorCode as E;
    let (topic_type, broker_type) = (2i8, 4i8);
    let (set, delete, append, subtract) = (0i8, 1i8, 2i8, 3i8);
    type Row = (i8, &'static str, &'static str, i8, Option<&'static str>, ErrorCode, Option<&'static str>);
    let table: &[Row] = &[
        (topic_type, "t", "retention.ms", set, Some("7"), E::None, Some("7")),
        (topic_type, "t", "retention.ms", set, Some(" +78 "), E::None, Some("78")),
        (topic_type, "t", "cleanup.policy", set, Some(" compact , delete "), E::None, Some("compact,delete")),
        (topic_type, "t", "cleanup.policy", set, Some(",delete"), E::InvalidConfig, None),
        (topic_type, "t", "remote.storage.enable", set, Some("TRUE"), E::InvalidConfig, None),
        (topic_type, "t", "retention.ms", delete, None, E::None, None),
        (topic_type, "t", "retention.ms", set, Some("-7"), E::InvalidConfig, Some("5")),
        (topic_type, "t", "retention.ms", set, None, E::InvalidRequest, Some("5")),
        (topic_type, "t", "retention.ms", append, Some("7"), E::InvalidConfig, Some("5")),
        (topic_type, "t", "retention.ms", 9, Some("7"), E::InvalidRequest, Some("5")),
        (topic_type, "t", "cleanup.policy", append, Some("compact"), E::None, Some("delete,compact")),
        (topic_type, "t", "cleanup.policy", subtract, Some("delete"), E::None, Some("")),
        (topic_type, "t", "colour", set, Some("red"), E::InvalidConfig, None),
        (topic_type, "t", "colour", delete, None, E::None, None),
        (topic_type, "none", "retention.ms", set, Some("7"), E::UnknownTopicOrPartition, None),
        (topic_type, "no ne", "retention.ms", set, Some("7"), E::InvalidTopicException, None),
        (topic_type, "", "retention.ms", set, Some("7"), E::InvalidRequest, None),
        (broker_type, "1", "log.cleaner.threads", set, Some("2"), E::None, Some("2")),
        (broker_type, "", "log.cleaner.threads", set, Some("2"), E::None, Some("2")),
        (broker_type, "", "node.id", set, Some("2"), E::InvalidRequest, None),
        (broker_type, "", "ssl.keystore.type", set, Some("PEM"), E::InvalidRequest, None),
        (broker_type, "1", "ssl.keystore.type", set, Some("PEM"), E::None, Some("PEM")),
        (broker_type, "7", "log.cleaner.threads", set, Some("2"), E::InvalidRequest, None),
        (broker_type, "1", "log.cleaner.threads", set, Some("two"), E::InvalidRequest, None),
        (broker_type, "one", "log.cleaner.threads", set, Some("2"), E::InvalidRequest, None),
        (8, "1", "root", set, Some("DEBUG"), E::InvalidRequest, None),
    ];
    for (kind, resource, name, operation, value, code, after) in table {
        let mut image = cluster(1);
        create(&mut image, vec![configured("t", "retention.ms", Some("5"))]);
        let config = AlterableConfig {
            name: (*name).into(),
            config_operation: *operation,
            value: value.map(ByteString::from),
        };
        let request = IncrementalAlterConfigsRequest {
            resources: vec![AlterConfigsResource {
                resource_type: *kind,
                resource_name: (*resource).into(),
                configs: vec![config],
            }],
            ..IncrementalAlterConfigsRequest::default()
        };
        let decision = controller().alter_configs(&image, &request);
        let shown = format!("{kind} {resource} {name} {operation} {value:?}");
        assert_eq!(ErrorCode::from_code(decision.response.responses[0].error_code), *code, "{shown}");
        commit(&mut image, decision.records);
        let scope = ConfigScope::of_resource(*kind, resource);
        let stored = scope.and_then(|scope| image.config(&scope, name).map(|value| value.to_string()));
        assert_eq!(stored.as_deref(), *after, "{shown}");
    }
}

fn lags(name: &str, min: &str, max: &str) -> CreatableTopic {
    let mut topic = configured(name, "min.compaction.lag.ms", Some(min));
    topic.configs.extend(configured(name, "max.compaction.lag.ms", Some(max)).configs);
    topic
}

#[test]
fn values_that_do_not_go_together_are_refused_whenever_they_were_set() {
    const MIN: &str = "min.compaction.lag.ms";
    const MAX: &str = "max.compaction.lag.ms";
    const SET: i8 = 0;
    const DELETE: i8 = 1;
    let statics: Static =
        [("log.cleaner.max.compaction.lag.ms".to_owned(), "2000".to_owned())].into_iter().collect();
    let controller = Controller::new(Arc::new(statics));
    let mut image = cluster(1);
    create(&mut image, vec![topic("t", 1, 1)]);
    type Row = (&'static [(&'static str, i8, Option<&'static str>)], bool);
    let table: &[Row] = &[
        (&[(MIN, SET, Some("2001"))], false), // more than what the broker's file says
        (&[(MIN, SET, Some("1000"))], true),
        (&[(MAX, SET, Some("10"))], false),
        (&[(MAX, SET, Some("10")), (MIN, SET, Some("9"))], true),
        (&[(MIN, SET, Some("11"))], false),
        (&[(MAX, SET, Some("3000"))], true),
        (&[(MIN, SET, Some("3000"))], true),
        (&[(MAX, DELETE, None)], false),
        (&[(MAX, DELETE, None), (MIN, DELETE, None)], true),
    ];
    for (changes, is_right) in table {
        let config = |&(name, operation, value): &(&str, i8, Option<&str>)| AlterableConfig {
            name: name.into(),
            config_operation: operation,
            value: value.map(ByteString::from),
        };
        let request = IncrementalAlterConfigsRequest {
            resources: vec![AlterConfigsResource {
                resource_type: 2,
                resource_name: "t".into(),
                configs: changes.iter().map(config).collect(),
            }],
            ..IncrementalAlterConfigsRequest::default()
        };
        let decision = controller.alter_configs(&image, &request);
        let answer = &decision.response.responses[0];
        let expected = if *is_right { ErrorCode::None } else { ErrorCode::InvalidConfig };
        assert_eq!(
            ErrorCode::from_code(answer.error_code),
            expected,
            "{changes:?} {:?}",
            answer.error_message
        );
        commit(&mut image, decision.records);
    }
}

#[test]
fn internal_topics_wait_for_as_many_brokers_as_they_have_replicas() {
    for (internal, configs) in [(InternalTopic::Offsets, 3), (InternalTopic::Transactions, 5)] {
        for (brokers, factor, expected) in [
            (1, None, ErrorCode::InvalidReplicationFactor),
            (2, None, ErrorCode::InvalidReplicationFactor),
            (3, None, ErrorCode::None),
            (1, Some("1"), ErrorCode::None),
        ] {
            let mut image = cluster(brokers);
            let mut statics = Static::default();
            for prefix in ["offsets.topic", "transaction.state.log"] {
                let set = factor.map(|factor| (format!("{prefix}.replication.factor"), factor.to_owned()));
                statics.extend(set);
            }
            let request = internal.request(&Effective::new(&image, NodeId(1), &statics));
            assert_eq!(request.configs.len(), configs);
            assert_eq!(create(&mut image, vec![request]), [expected], "{internal:?} on {brokers}");
            let partitions = image.topic(internal.name()).map_or(0, |topic| topic.partitions.len());
            assert_eq!(partitions, if expected == ErrorCode::None { 50 } else { 0 });
        }
        assert_eq!(InternalTopic::of_name(internal.name()), Some(internal));
    }
}
