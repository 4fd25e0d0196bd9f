//! The topology: what both front ends lower to.
//!
//! A topology is a graph of sources, operators and sinks with the stores that operators share. Build it with
//! [`TopologyBuilder`]. It is immutable, and each task makes its own operators from the factories in it.

use std::sync::Arc;

use indexmap::IndexMap;

mod build;
mod describe;
mod io;

pub use build::TopologyBuilder;
pub use io::{BadRecord, Decoded, Deserializer, InputRecord, OutputRecord, Serializer};

use crate::chunk::Rows;
use crate::error::Result;
use crate::operator::Operator;
use crate::store::StoreSpec;

/// Makes an operator for a task.
pub type OperatorFactory = Arc<dyn Fn() -> Box<dyn Operator> + Send + Sync>;
/// Makes a deserializer for one input partition of a task.
pub type DeserializerFactory = Arc<dyn Fn() -> Box<dyn Deserializer> + Send + Sync>;
/// Makes a serializer for a task.
pub type SerializerFactory = Arc<dyn Fn() -> Box<dyn Serializer> + Send + Sync>;

/// A topic, by who owns it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TopicName {
    /// A topic of the user, by its full name.
    User(Arc<str>),
    /// A topic of the topology; its full name is `<app>-<name>`, and the runtime creates it.
    Internal(Arc<str>),
}

impl TopicName {
    /// The full name in the application `application_id`.
    #[must_use]
    pub fn resolve(&self, application_id: &str) -> Arc<str> {
        match self {
            Self::User(name) => Arc::clone(name),
            Self::Internal(name) => format!("{application_id}-{name}").into(),
        }
    }

    /// The name as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::User(name) | Self::Internal(name) => name,
        }
    }
}

/// An output of a node: port 0 is the main one; others are branches and side outputs such as late rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    pub(crate) node: usize,
    pub(crate) port: u16,
}

impl Port {
    /// Another port of the same node.
    #[must_use]
    pub fn side(self, port: u16) -> Self {
        Self { port, ..self }
    }

    /// Position of the node in [`Topology::nodes`].
    #[must_use]
    pub fn node(self) -> usize {
        self.node
    }
}

/// Makes rows of records that could not be decoded, one for each: of a topic, a partition of it, and those records.
pub type BadRows = Arc<dyn Fn(&str, i32, &[BadRecord]) -> Result<Rows> + Send + Sync>;

/// What becomes of records that cannot be decoded.
#[derive(Clone, Default)]
pub(crate) enum OnBad {
    #[default]
    Fail,
    Skip,
    Forward(BadRows),
}

/// Where rows come in.
#[derive(Clone)]
pub struct SourceSpec {
    pub(crate) topics: Vec<TopicName>,
    pub(crate) deserializer: DeserializerFactory,
    pub(crate) bootstrap: bool,
    pub(crate) on_bad: OnBad,
}

impl SourceSpec {
    /// The port of a source for what [`SourceSpec::forward_bad`] makes.
    pub const BAD_PORT: u16 = 1;
}

impl SourceSpec {
    /// Reads `topics`, each partition through a deserializer of its own.
    pub fn new<D: Deserializer + 'static>(
        topics: impl IntoIterator<Item = impl Into<Arc<str>>>,
        deserializer: impl Fn() -> D + Send + Sync + 'static,
    ) -> Self {
        Self {
            topics: topics.into_iter().map(|topic| TopicName::User(topic.into())).collect(),
            deserializer: Arc::new(move || Box::new(deserializer())),
            bootstrap: false,
            on_bad: OnBad::Fail,
        }
    }

    /// A task reads this input up to the end it had when the task started (for a finite input: up to its end), before it
    /// takes rows of any other input: for tables that must be complete before the first row is joined. After that, the lowest
    /// timestamp goes first.
    #[must_use]
    pub fn bootstrap(mut self) -> Self {
        self.bootstrap = true;
        self
    }

    /// Leaves broken records out, counted and logged. Without this the first one stops the task, as in Kafka Streams.
    #[must_use]
    pub fn skip_bad(mut self) -> Self {
        self.on_bad = OnBad::Skip;
        self
    }

    /// Counts broken records, and forwards what `rows` makes of them to [`SourceSpec::BAD_PORT`], without a time of their own.
    #[must_use]
    pub fn forward_bad(
        mut self,
        rows: impl Fn(&str, i32, &[BadRecord]) -> Result<Rows> + Send + Sync + 'static,
    ) -> Self {
        self.on_bad = OnBad::Forward(Arc::new(rows));
        self
    }
}

/// A step.
#[derive(Clone)]
pub struct OperatorSpec {
    pub(crate) kind: Arc<str>,
    pub(crate) factory: OperatorFactory,
    pub(crate) stores: Vec<Arc<str>>,
}

impl OperatorSpec {
    /// A step of the given kind ("filter", "window count"; shown by `describe()`).
    pub fn new<O: Operator + 'static>(
        kind: impl Into<Arc<str>>,
        factory: impl Fn() -> O + Send + Sync + 'static,
    ) -> Self {
        Self { kind: kind.into(), factory: Arc::new(move || Box::new(factory())), stores: Vec::new() }
    }

    /// Declares that the step uses the store `name`; the first one declared is `ctx.store(0)`.
    /// Steps that share a store run in the same task.
    #[must_use]
    pub fn store(mut self, name: impl Into<Arc<str>>) -> Self {
        self.stores.push(name.into());
        self
    }
}

/// Where rows go out.
#[derive(Clone)]
pub struct SinkSpec {
    pub(crate) topic: TopicName,
    pub(crate) serializer: SerializerFactory,
}

impl SinkSpec {
    /// Writes to `topic`.
    pub fn new<S: Serializer + 'static>(
        topic: impl Into<Arc<str>>,
        serializer: impl Fn() -> S + Send + Sync + 'static,
    ) -> Self {
        Self { topic: TopicName::User(topic.into()), serializer: Arc::new(move || Box::new(serializer())) }
    }
}

/// What a node is.
#[derive(Clone)]
pub enum NodeKind {
    /// Brings rows in.
    Source(SourceSpec),
    /// Works on rows.
    Operator(OperatorSpec),
    /// Takes rows out.
    Sink(SinkSpec),
}

/// A node with its place in the graph.
#[derive(Clone)]
pub struct Node {
    /// Name, unique in the topology and stable across versions of the program.
    pub name: Arc<str>,
    /// What it is.
    pub kind: NodeKind,
    /// The ports that feed it.
    pub parents: Vec<Port>,
    /// What it feeds: (port, position of the node).
    pub children: Vec<(u16, usize)>,
    /// The subtopology it belongs to.
    pub subtopology: usize,
}

/// A repartition topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repartition {
    /// Its name, without the application id: `<name>-repartition`.
    pub topic: TopicName,
    /// Number of partitions; none means as many as the topics that it is joined with,
    /// else as the widest topic that feeds it.
    pub partitions: Option<i32>,
    /// The subtopology that writes it.
    pub written_by: usize,
    /// The subtopology that reads it.
    pub read_by: usize,
}

/// A part of the topology that runs in one task for each partition; parts are connected by repartition topics only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subtopology {
    /// Positions of its nodes, parents before children.
    pub nodes: Vec<usize>,
    /// Names of its stores, in order of declaration.
    pub stores: Vec<Arc<str>>,
    /// The topics it reads.
    pub inputs: Vec<TopicName>,
    /// Groups of topics that must have the same number of partitions, since rows of equal keys meet in a join.
    pub copartitioned: Vec<Vec<TopicName>>,
}

/// A checked, immutable topology. See [`TopologyBuilder`].
#[derive(Clone)]
pub struct Topology {
    pub(crate) nodes: Vec<Node>,
    pub(crate) stores: IndexMap<Arc<str>, StoreSpec>,
    pub(crate) repartitions: Vec<Repartition>,
    pub(crate) subtopologies: Vec<Subtopology>,
}

impl Topology {
    /// All nodes.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// All stores.
    pub fn stores(&self) -> impl Iterator<Item = &StoreSpec> {
        self.stores.values()
    }

    /// The store `name`.
    #[must_use]
    pub fn store(&self, name: &str) -> Option<&StoreSpec> {
        self.stores.get(name)
    }

    /// The repartition topics.
    #[must_use]
    pub fn repartitions(&self) -> &[Repartition] {
        &self.repartitions
    }

    /// The subtopologies, in order of their first node.
    #[must_use]
    pub fn subtopologies(&self) -> &[Subtopology] {
        &self.subtopologies
    }

    /// The source that reads `topic`, by position.
    #[must_use]
    pub fn source_of(&self, topic: &TopicName) -> Option<usize> {
        self.nodes.iter().position(|node| match &node.kind {
            NodeKind::Source(source) => source.topics.contains(topic),
            _ => false,
        })
    }

    /// Whether the input `topic` is read to its end at start before rows of other inputs.
    #[must_use]
    pub fn is_bootstrap(&self, topic: &TopicName) -> bool {
        self.source_of(topic)
            .is_some_and(|at| matches!(&self.nodes[at].kind, NodeKind::Source(source) if source.bootstrap))
    }
}

impl std::fmt::Debug for Topology {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.describe())
    }
}
