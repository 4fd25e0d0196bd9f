//! What a broker is told at start.

use std::collections::BTreeMap;

use bytestring::ByteString;
use millstream_protocol::Endpoint;
use millstream_record::NodeId;

/// One address that clients are told to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerEndpoint {
    /// The listener's name; a client is told the address of the listener that it came through.
    pub name: ByteString,
    /// The address.
    pub endpoint: Endpoint,
}

/// What a broker is told at start. Names and defaults are Kafka's; times end in their unit.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// `node.id`.
    pub node_id: NodeId,
    /// `broker.rack`.
    pub rack: Option<ByteString>,
    /// `advertised.listeners`, the first one being the default for a listener without an entry of its own.
    pub listeners: Vec<ListenerEndpoint>,
    /// `num.partitions`: partitions of a topic whose creator did not say.
    pub num_partitions: i32,
    /// `default.replication.factor`.
    pub default_replication_factor: i16,
    /// `auto.create.topics.enable`.
    pub auto_create_topics_enable: bool,
    /// `delete.topic.enable`.
    pub delete_topic_enable: bool,
    /// `fetch.max.bytes`: the most that one fetch may return, beyond its first batch.
    pub fetch_max_bytes: i32,
    /// `offsets.topic.num.partitions`.
    pub offsets_topic_num_partitions: i32,
    /// `offsets.topic.replication.factor`.
    pub offsets_topic_replication_factor: i16,
    /// `offset.metadata.max.bytes`.
    pub offset_metadata_max_bytes: i32,
    /// `offsets.retention.minutes`, in milliseconds.
    pub offsets_retention_ms: i64,
    /// `group.initial.rebalance.delay.ms`.
    pub group_initial_rebalance_delay_ms: i32,
    /// `group.min.session.timeout.ms`.
    pub group_min_session_timeout_ms: i32,
    /// `group.max.session.timeout.ms`.
    pub group_max_session_timeout_ms: i32,
    /// `group.max.size`.
    pub group_max_size: i32,
    /// `transaction.state.log.num.partitions`.
    pub transaction_state_log_num_partitions: i32,
    /// `transaction.state.log.replication.factor`.
    pub transaction_state_log_replication_factor: i16,
    /// `transaction.max.timeout.ms`.
    pub transaction_max_timeout_ms: i32,
    /// `transactional.id.expiration.ms`.
    pub transactional_id_expiration_ms: i64,
    /// `log.retention.check.interval.ms`.
    pub log_retention_check_interval_ms: i64,
    /// Broker-level values of topic configs, under the topic configs' names (`segment.bytes`, `retention.ms`, ...).
    pub topic_defaults: BTreeMap<String, String>,
    /// Every property that was given, as text, for DescribeConfigs.
    pub given: BTreeMap<String, String>,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self {
            node_id: NodeId(0),
            rack: None,
            listeners: Vec::new(),
            num_partitions: 1,
            default_replication_factor: 1,
            auto_create_topics_enable: true,
            delete_topic_enable: true,
            fetch_max_bytes: 55 << 20,
            offsets_topic_num_partitions: 50,
            offsets_topic_replication_factor: 1,
            offset_metadata_max_bytes: 4096,
            offsets_retention_ms: 7 * 24 * 3_600_000,
            group_initial_rebalance_delay_ms: 3000,
            group_min_session_timeout_ms: 6000,
            group_max_session_timeout_ms: 1_800_000,
            group_max_size: i32::MAX,
            transaction_state_log_num_partitions: 50,
            transaction_state_log_replication_factor: 1,
            transaction_max_timeout_ms: 900_000,
            transactional_id_expiration_ms: 604_800_000,
            log_retention_check_interval_ms: 300_000,
            topic_defaults: BTreeMap::new(),
            given: BTreeMap::new(),
        }
    }
}
