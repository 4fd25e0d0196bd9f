//! Requests to describe and to change configurations.

use bytestring::ByteString;
use millstream_protocol::Request;
use millstream_protocol::messages::describe_configs::DescribeConfigsResource;
use millstream_protocol::messages::incremental_alter_configs::{AlterConfigsResource, AlterableConfig};
use millstream_protocol::messages::{alter_configs as replacing, *};

/// Kinds of resources, by Kafka's numbers.
const NONE: i8 = 0;
const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const LOGGERS: i8 = 8;
const UNHEARD_OF: i8 = 99;

/// What is done to a configuration, by Kafka's numbers.
const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

/// A name, what is done to it, and the value.
type Change<'a> = (&'a str, i8, Option<&'a str>);

fn describe(kind: i8, name: &str, keys: Option<&[&str]>) -> Request {
    let configuration_keys = keys.map(|keys| keys.iter().map(|key| ByteString::from(*key)).collect());
    let resource =
        DescribeConfigsResource { resource_type: kind, resource_name: name.into(), configuration_keys };
    Request::from(DescribeConfigsRequest { resources: vec![resource], ..DescribeConfigsRequest::default() })
}

fn resource(kind: i8, name: &str, changes: &[Change<'_>]) -> AlterConfigsResource {
    let change = |(name, config_operation, value): &Change<'_>| AlterableConfig {
        name: ByteString::from(*name),
        config_operation: *config_operation,
        value: value.map(ByteString::from),
    };
    AlterConfigsResource {
        resource_type: kind,
        resource_name: name.into(),
        configs: changes.iter().map(change).collect(),
    }
}

/// Every case. What would succeed is only checked.
pub(super) fn cases(topic: &ByteString) -> Vec<(&'static str, Request)> {
    let alter_all =
        |resources| Request::from(IncrementalAlterConfigsRequest { resources, validate_only: true });
    let alter = |kind, name: &str, changes: &[Change<'_>]| alter_all(vec![resource(kind, name, changes)]);
    let replace = |resource_type: i8, name: &str, configs: &[(&str, Option<&str>)]| {
        let config = |(name, value): &(&str, Option<&str>)| replacing::AlterableConfig {
            name: ByteString::from(*name),
            value: value.map(ByteString::from),
        };
        let configs = configs.iter().map(config).collect();
        let resource_name = name.into();
        let resources = vec![replacing::AlterConfigsResource { resource_type, resource_name, configs }];
        Request::from(AlterConfigsRequest { resources, validate_only: true })
    };
    let of_topic = |changes: &[Change<'_>]| alter(TOPIC, topic, changes);
    let retention = ("retention.ms", SET, Some("1000"));
    vec![
        ("describes a topic's configuration", describe(TOPIC, topic, None)),
        ("describes no configuration of a topic", describe(TOPIC, topic, Some(&[]))),
        ("describes an unknown configuration", describe(TOPIC, topic, Some(&["no.such.key"]))),
        ("describes an unknown topic's configuration", describe(TOPIC, "unknown-topic", None)),
        ("describes the configuration of a topic without a name", describe(TOPIC, "", None)),
        ("describes the configuration of a topic with a space", describe(TOPIC, "a b", None)),
        ("describes all brokers' configuration", describe(BROKER, "", None)),
        ("describes the configuration of another broker", describe(BROKER, "77", None)),
        ("describes the configuration of a broker that is no number", describe(BROKER, "one", None)),
        ("describes the loggers of no broker", describe(LOGGERS, "", None)),
        ("describes the configuration of nothing", describe(NONE, "x", None)),
        ("describes the configuration of what there is not", describe(UNHEARD_OF, "x", None)),
        ("sets a configuration", of_topic(&[retention])),
        ("sets nothing", of_topic(&[])),
        ("sets an unknown configuration", of_topic(&[("no.such.key", SET, Some("1"))])),
        ("sets a number to a word", of_topic(&[("retention.ms", SET, Some("soon"))])),
        ("sets a number out of bounds", of_topic(&[("segment.bytes", SET, Some("-3"))])),
        ("sets to no value", of_topic(&[("retention.ms", SET, None)])),
        ("sets a name that is empty", of_topic(&[("", SET, Some("1"))])),
        ("sets twice", of_topic(&[retention, retention])),
        ("sets a policy that there is not", of_topic(&[("cleanup.policy", SET, Some("hide"))])),
        ("sets a policy with a comma too many", of_topic(&[("cleanup.policy", SET, Some(",delete"))])),
        ("sets a number with blanks and a sign", of_topic(&[("retention.ms", SET, Some(" +78 "))])),
        ("sets what needs tiered storage", of_topic(&[("remote.storage.enable", SET, Some("true"))])),
        (
            "sets what contradicts itself",
            of_topic(&[("min.compaction.lag.ms", SET, Some("5")), ("max.compaction.lag.ms", SET, Some("4"))]),
        ),
        ("deletes a configuration", of_topic(&[("retention.ms", DELETE, None)])),
        ("deletes an unknown configuration", of_topic(&[("no.such.key", DELETE, None)])),
        ("appends to a list", of_topic(&[("cleanup.policy", APPEND, Some("compact"))])),
        ("appends to a number", of_topic(&[("retention.ms", APPEND, Some("1"))])),
        ("appends no value", of_topic(&[("cleanup.policy", APPEND, None)])),
        ("subtracts from a list", of_topic(&[("cleanup.policy", SUBTRACT, Some("compact"))])),
        ("subtracts from a number", of_topic(&[("retention.ms", SUBTRACT, Some("1"))])),
        ("does what nobody heard of", of_topic(&[("retention.ms", 9, Some("1"))])),
        ("sets of an unknown topic", alter(TOPIC, "unknown-topic", &[retention])),
        ("sets of a topic without a name", alter(TOPIC, "", &[retention])),
        ("sets of a topic with a space", alter(TOPIC, "a b", &[retention])),
        ("sets of a topic twice", alter_all(vec![resource(TOPIC, topic, &[retention]); 2])),
        ("sets of all brokers", alter(BROKER, "", &[("log.retention.ms", SET, Some("1000"))])),
        ("sets of all brokers what is read only", alter(BROKER, "", &[("node.id", SET, Some("7"))])),
        ("sets of all brokers what is unknown", alter(BROKER, "", &[("no.such.key", SET, Some("7"))])),
        (
            "sets of all brokers a number to a word",
            alter(BROKER, "", &[("log.retention.ms", SET, Some("soon"))]),
        ),
        ("sets of another broker", alter(BROKER, "77", &[("log.retention.ms", SET, Some("1000"))])),
        ("sets of a broker that is no number", alter(BROKER, "one", &[("log.retention.ms", SET, Some("1"))])),
        ("replaces what a topic has set", replace(TOPIC, topic, &[("retention.ms", Some("1000"))])),
        ("replaces by nothing", replace(TOPIC, topic, &[])),
        ("replaces by what is unknown", replace(TOPIC, topic, &[("no.such.key", Some("1"))])),
        ("replaces by a word", replace(TOPIC, topic, &[("retention.ms", Some("soon"))])),
        ("replaces by no value", replace(TOPIC, topic, &[("retention.ms", None)])),
        ("replaces of an unknown topic", replace(TOPIC, "unknown-topic", &[])),
        ("replaces of a topic without a name", replace(TOPIC, "", &[])),
        ("replaces of all brokers", replace(BROKER, "", &[("log.retention.ms", Some("1000"))])),
        ("replaces of another broker", replace(BROKER, "77", &[("log.retention.ms", Some("1000"))])),
        ("replaces of what there is not", replace(UNHEARD_OF, "x", &[])),
        ("sets of nothing", alter(NONE, "x", &[retention])),
        ("sets of what there is not", alter(UNHEARD_OF, "x", &[retention])),
    ]
}
