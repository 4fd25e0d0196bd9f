//! What a broker is told at start.

use bytestring::ByteString;
use millstream_machine::config::{Effective, Static};
use millstream_machine::metadata::{Image, SupportedFeatures};
use millstream_protocol::Endpoint;
use millstream_record::NodeId;

/// Kafka's name for the choice of replicas by rack.
const RACK_AWARE_SELECTOR: &str = "org.apache.kafka.common.replica.RackAwareReplicaSelector";

/// One address that clients are told to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerEndpoint {
    /// The listener's name; a client is told the address of the listener that it came through.
    pub name: ByteString,
    /// The address.
    pub endpoint: Endpoint,
}

/// How a node takes part in a cluster of several: as a broker, as a controller, or as both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuorumConfig {
    /// Name of the listener on which controllers and brokers ask each other (`controller.listener.names`).
    pub listener: String,
    /// Where others reach this node's controller; `None` for a node that is a broker only.
    pub endpoint: Option<Endpoint>,
    /// Whether the node is a broker: it registers, holds partitions and serves clients.
    pub is_broker: bool,
    /// `controller.quorum.bootstrap.servers`: where a cluster is found that is there already. Without any but itself, an empty node
    /// founds one.
    pub bootstrap: Vec<Endpoint>,
    /// `controller.quorum.auto.join.enable`: an empty node has itself made a voter.
    pub auto_join: bool,
}

impl QuorumConfig {
    /// Whether there is a cluster to be joined, rather than founded.
    #[must_use]
    pub fn joins(&self) -> bool {
        self.bootstrap.iter().any(|server| Some(server) != self.endpoint.as_ref())
    }
}

/// What a broker is told at start. Every property has Kafka's name and, but for [`BrokerConfig::SINGLE_NODE`], its default.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// `node.id`.
    pub node_id: NodeId,
    /// `broker.rack`.
    pub rack: Option<ByteString>,
    /// `advertised.listeners`; the first is told to clients of a listener without an entry of its own.
    pub listeners: Vec<ListenerEndpoint>,
    /// How it takes part in a cluster; `None` for a node that is alone.
    pub quorum: Option<QuorumConfig>,
    /// `num.partitions`: partitions of a topic whose creator did not say.
    pub num_partitions: i32,
    /// `default.replication.factor`.
    pub default_replication_factor: i16,
    /// `auto.create.topics.enable`.
    pub auto_create_topics_enable: bool,
    /// `delete.topic.enable`.
    pub delete_topic_enable: bool,
    /// `fetch.max.bytes`: the most that one fetch returns, beyond its first batch.
    pub fetch_max_bytes: i32,
    /// `offsets.topic.num.partitions`.
    pub offsets_topic_num_partitions: i32,
    /// `offsets.topic.replication.factor`.
    pub offsets_topic_replication_factor: i16,
    /// `transaction.state.log.num.partitions`.
    pub transaction_state_log_num_partitions: i32,
    /// `transaction.state.log.replication.factor`.
    pub transaction_state_log_replication_factor: i16,
    /// `replica.selector.class` is Kafka's `RackAwareReplicaSelector`: consumers read from a replica in their own rack (KIP-392).
    pub reads_from_nearest_rack: bool,
    /// `log.retention.check.interval.ms`.
    pub log_retention_check_interval_ms: i64,
    /// What the node supports of each feature: no property, but what its build is. Tests of upgrades have it be another.
    pub supported_features: SupportedFeatures,
    /// Every property that was given, as text; where a topic or a tool asks for more than the fields above, it is read here.
    pub properties: Static,
}

impl BrokerConfig {
    /// Where a single node must differ from Kafka's defaults, which ask for three brokers.
    pub const SINGLE_NODE: &'static [(&'static str, &'static str)] = &[
        ("offsets.topic.replication.factor", "1"),
        ("transaction.state.log.min.isr", "1"),
        ("transaction.state.log.replication.factor", "1"),
    ];

    /// Reads validated properties; what is not among them has its default.
    #[must_use]
    pub fn from_properties(
        mut properties: Static,
        listeners: Vec<ListenerEndpoint>,
        quorum: Option<QuorumConfig>,
    ) -> Self {
        for (name, value) in Self::SINGLE_NODE.iter().filter(|_| quorum.is_none()) {
            properties.entry((*name).to_owned()).or_insert_with(|| (*value).to_owned());
        }
        let image = Image::default();
        let read = Effective::new(&image, NodeId(-1), &properties);
        let long = |name: &str| read.broker_number(name, 0);
        let int = |name: &str| i32::try_from(long(name)).unwrap_or(i32::MAX);
        let short = |name: &str| i16::try_from(long(name)).unwrap_or(i16::MAX);
        Self {
            node_id: NodeId(properties.get("node.id").and_then(|id| id.parse().ok()).unwrap_or(0)),
            rack: read.broker_value("broker.rack").map(ByteString::from),
            listeners,
            quorum,
            num_partitions: int("num.partitions"),
            default_replication_factor: short("default.replication.factor"),
            auto_create_topics_enable: read.broker_flag("auto.create.topics.enable"),
            delete_topic_enable: read.broker_flag("delete.topic.enable"),
            fetch_max_bytes: int("fetch.max.bytes"),
            offsets_topic_num_partitions: int("offsets.topic.num.partitions"),
            offsets_topic_replication_factor: short("offsets.topic.replication.factor"),
            transaction_state_log_num_partitions: int("transaction.state.log.num.partitions"),
            transaction_state_log_replication_factor: short("transaction.state.log.replication.factor"),
            reads_from_nearest_rack: read.broker_value("replica.selector.class").as_deref()
                == Some(RACK_AWARE_SELECTOR),
            log_retention_check_interval_ms: long("log.retention.check.interval.ms"),
            supported_features: SupportedFeatures::default(),
            properties,
        }
    }

    /// `inter.broker.listener.name`, else the first listener there is.
    #[must_use]
    pub fn inter_broker_listener(&self) -> String {
        let named = self.properties.get("inter.broker.listener.name").cloned();
        named.or_else(|| self.listeners.first().map(|one| one.name.to_string())).unwrap_or_default()
    }

    /// A property that is a number, in its own unit.
    #[must_use]
    pub fn number(&self, name: &str) -> i64 {
        Effective::new(&Image::default(), self.node_id, &self.properties).broker_number(name, 0)
    }

    /// A property that is true or false.
    #[must_use]
    pub fn flag(&self, name: &str) -> bool {
        Effective::new(&Image::default(), self.node_id, &self.properties).broker_flag(name)
    }

    /// A property that is a 32-bit number, in its own unit.
    #[must_use]
    pub fn int(&self, name: &str) -> i32 {
        i32::try_from(self.number(name)).unwrap_or(i32::MAX)
    }
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self::from_properties(Static::new(), Vec::new(), None)
    }
}
