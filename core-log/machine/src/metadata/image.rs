//! The image: everything that is committed, ready to be read.

use std::collections::BTreeMap;
use std::sync::Arc;

use millstream_record::{LeaderEpoch, NodeId, Offset, TopicId, Uuid};

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: Arc<str>,
    /// Its id; a topic created again under the same name has another.
    pub id: TopicId,
    /// Its partitions, by index.
    pub partitions: Vec<Arc<Partition>>,
}

/// A partition and who holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Every replica; the first is the preferred leader.
    pub replicas: Vec<NodeId>,
    /// The log directory of each replica, in the order of `replicas`; [`Uuid::ZERO`] where not assigned.
    pub directories: Vec<Uuid>,
    /// The in-sync replicas.
    pub isr: Vec<NodeId>,
    /// Replicas that a reassignment is adding.
    pub adding: Vec<NodeId>,
    /// Replicas that a reassignment is removing.
    pub removing: Vec<NodeId>,
    /// The leader, or `None` while there is none.
    pub leader: Option<NodeId>,
    /// Rises with each change of leader.
    pub leader_epoch: LeaderEpoch,
    /// Rises with each change of this struct.
    pub partition_epoch: i32,
    /// The leader was elected from outside the in-sync set and must still settle what is lost.
    pub recovering: bool,
}

/// A registered broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    /// Its `node.id`.
    pub id: NodeId,
    /// Offset of its registration: which incarnation this is.
    pub epoch: i64,
    /// Chosen anew by the process at each start.
    pub incarnation: Uuid,
    /// Where clients reach it.
    pub listeners: Vec<Listener>,
    /// `broker.rack`.
    pub rack: Option<Arc<str>>,
    /// Not (yet) trusted with leadership.
    pub fenced: bool,
    /// Shutting down; keeps serving, takes no new leadership.
    pub in_controlled_shutdown: bool,
    /// The ids of its log directories.
    pub directories: Vec<Uuid>,
    /// Feature name to the levels it supports, lowest and highest.
    pub features: BTreeMap<Arc<str>, (i16, i16)>,
}

/// One address of a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Name of the listener (`PLAINTEXT`).
    pub name: Arc<str>,
    /// Advertised host.
    pub host: Arc<str>,
    /// Advertised port.
    pub port: u16,
    /// Kafka's number for the security protocol: 0 PLAINTEXT, 1 SSL, 2 SASL_PLAINTEXT, 3 SASL_SSL.
    pub security_protocol: i16,
}

/// What a configuration value belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConfigScope {
    /// A topic, by name.
    Topic(Arc<str>),
    /// One broker.
    Broker(NodeId),
    /// Every broker that has no value of its own.
    BrokerDefault,
}

/// Configuration values set on one scope, by name.
pub(super) type Values = BTreeMap<Arc<str>, Arc<str>>;

/// All committed metadata at one offset. Cloning shares everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    pub(super) end: Offset,
    pub(super) epoch: LeaderEpoch,
    pub(super) topics: Arc<BTreeMap<Arc<str>, Arc<Topic>>>,
    pub(super) names: Arc<BTreeMap<TopicId, Arc<str>>>,
    pub(super) configs: Arc<BTreeMap<ConfigScope, Arc<Values>>>,
    pub(super) brokers: Arc<BTreeMap<NodeId, Arc<Broker>>>,
    pub(super) features: Arc<BTreeMap<Arc<str>, i16>>,
    pub(super) next_producer_id: i64,
}

impl Image {
    /// The offset after the last record applied.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.end
    }

    /// The epoch of the last batch applied.
    #[must_use]
    pub fn epoch(&self) -> LeaderEpoch {
        self.epoch
    }

    /// Every topic, ordered by name.
    pub fn topics(&self) -> impl ExactSizeIterator<Item = &Arc<Topic>> {
        self.topics.values()
    }

    /// The topic called `name`.
    #[must_use]
    pub fn topic(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topics.get(name)
    }

    /// The topic with this id.
    #[must_use]
    pub fn topic_by_id(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.names.get(&id).and_then(|name| self.topics.get(name))
    }

    /// A partition of the topic called `name`.
    #[must_use]
    pub fn partition(&self, name: &str, index: i32) -> Option<&Arc<Partition>> {
        self.topic(name)?.partitions.get(usize::try_from(index).ok()?)
    }

    /// The value set for `key` on exactly this scope; see [`crate::config`] for what applies where none is set.
    #[must_use]
    pub fn config(&self, scope: &ConfigScope, key: &str) -> Option<&Arc<str>> {
        self.configs.get(scope)?.get(key)
    }

    /// Every value set on exactly this scope, ordered by name.
    pub fn configs(&self, scope: &ConfigScope) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
        self.configs.get(scope).into_iter().flat_map(|values| values.iter())
    }

    /// Every scope on which something is set.
    pub fn config_scopes(&self) -> impl Iterator<Item = &ConfigScope> {
        self.configs.keys()
    }

    /// Every registered broker, ordered by id.
    pub fn brokers(&self) -> impl ExactSizeIterator<Item = &Arc<Broker>> {
        self.brokers.values()
    }

    /// The broker with this id.
    #[must_use]
    pub fn broker(&self, id: NodeId) -> Option<&Arc<Broker>> {
        self.brokers.get(&id)
    }

    /// The finalised level of a feature; 0 where it is off.
    #[must_use]
    pub fn feature(&self, name: &str) -> i16 {
        self.features.get(name).copied().unwrap_or(0)
    }

    /// Every finalised feature, ordered by name.
    pub fn features(&self) -> impl Iterator<Item = (&Arc<str>, i16)> {
        self.features.iter().map(|(name, level)| (name, *level))
    }

    /// First producer id that no block covers yet.
    #[must_use]
    pub fn next_producer_id(&self) -> i64 {
        self.next_producer_id
    }
}
