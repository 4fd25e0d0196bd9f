//! The image: everything that is committed, ready to be read.

use std::collections::BTreeMap;
use std::sync::Arc;

use millstream_record::{LeaderEpoch, NodeId, Offset, TopicId, Uuid};

use super::held::Held;

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
    /// The eligible leader replicas (KIP-966): not in sync any more, but holding all that was acknowledged, since nothing has
    /// been since they left; they may lead when the in-sync set is empty.
    pub elr: Vec<NodeId>,
    /// Who led last, while nobody is eligible.
    pub last_known_elr: Vec<NodeId>,
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

impl Partition {
    /// Whether replicas are being added or removed.
    #[must_use]
    pub fn is_reassigning(&self) -> bool {
        !self.adding.is_empty() || !self.removing.is_empty()
    }

    /// In-sync replicas below which nothing is acknowledged, where `min.insync.replicas` is `configured`: no more than there are
    /// replicas. Leaders and the controller must count alike, or who is eligible to lead (KIP-966) may miss something.
    #[must_use]
    pub fn min_isr(&self, configured: usize) -> usize {
        configured.min(self.replicas.len())
    }

    /// The log directory that `node` holds it in; [`Uuid::ZERO`] where not assigned.
    #[must_use]
    pub fn directory_of(&self, node: NodeId) -> Uuid {
        let at = self.replicas.iter().position(|replica| *replica == node);
        at.and_then(|at| self.directories.get(at)).copied().unwrap_or(Uuid::ZERO)
    }

    /// Whether anybody counts on what the replica of `node` has.
    #[must_use]
    pub fn hangs_on(&self, node: NodeId) -> bool {
        let sets = [&self.isr, &self.elr, &self.last_known_elr];
        self.leader == Some(node) || sets.iter().any(|set| set.contains(&node))
    }
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

impl Broker {
    /// Whether it may lead and join in-sync sets: neither fenced nor shutting down.
    #[must_use]
    pub fn is_active(&self) -> bool {
        !self.fenced && !self.in_controlled_shutdown
    }

    /// Whether it has this log directory. [`Uuid::ZERO`] means one that it chooses itself.
    #[must_use]
    pub fn has_directory(&self, directory: Uuid) -> bool {
        directory.is_zero() || self.directories.contains(&directory)
    }
}

/// A registered controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerNode {
    /// Its `node.id`.
    pub id: NodeId,
    /// Chosen anew by the process at each start.
    pub incarnation: Uuid,
    /// Where brokers and other controllers reach it.
    pub listeners: Vec<Listener>,
    /// Feature name to the levels it supports, lowest and highest.
    pub features: BTreeMap<Arc<str>, (i16, i16)>,
}

/// One address of a node.
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
    pub(super) controllers: Arc<BTreeMap<NodeId, Arc<ControllerNode>>>,
    /// Which partitions each broker holds; follows from `topics`.
    pub(super) held: Arc<Held>,
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

    /// Every partition that has a replica on `node`, ordered by topic id and index, at the cost of those and no others.
    pub fn partitions_of(&self, node: NodeId) -> impl Iterator<Item = (&Arc<Topic>, i32, &Arc<Partition>)> {
        self.held.by(node).flat_map(|(id, indexes)| {
            let topic = self.topic_by_id(id).expect("what is held exists, see the invariants");
            indexes.map(move |index| {
                let at = usize::try_from(index).expect("an index is not negative");
                (topic, index, &topic.partitions[at])
            })
        })
    }

    /// Whether `node` leads a partition.
    #[must_use]
    pub fn leads_any(&self, node: NodeId) -> bool {
        self.partitions_of(node).any(|(_, _, partition)| partition.leader == Some(node))
    }

    /// Every registered controller, ordered by id.
    pub fn controllers(&self) -> impl ExactSizeIterator<Item = &Arc<ControllerNode>> {
        self.controllers.values()
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
