//! Building and checking a topology.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use indexmap::IndexMap;

use super::{
    Deserializer, Node, NodeKind, OnBad, OperatorSpec, Port, Repartition, Serializer, SinkSpec, SourceSpec,
    Subtopology, TopicName, Topology,
};
use crate::error::{Result, StreamsError};
use crate::store::StoreSpec;

/// Collects nodes and stores. Methods never fail: what is wrong is reported by [`TopologyBuilder::build`], all at once.
///
/// ```
/// # use millstream_streams_core::*;
/// # fn demo(lines: SourceSpec, count: OperatorSpec, counts: SinkSpec) -> Result<Topology> {
/// let mut topology = TopologyBuilder::new();
/// let source = topology.source("lines", lines);
/// topology.add_store(StoreSpec::new("counts"));
/// let counted = topology.operator("count", count.store("counts"), &[source]);
/// topology.sink("out", counts, counted);
/// topology.build()
/// # }
/// ```
#[derive(Default)]
pub struct TopologyBuilder {
    nodes: Vec<Node>,
    stores: IndexMap<Arc<str>, StoreSpec>,
    repartitions: Vec<(TopicName, Option<i32>)>,
    /// Nodes whose inputs meet by key.
    joins: Vec<usize>,
    problems: Vec<String>,
}

impl TopologyBuilder {
    /// An empty topology.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a source. Its rows come out of the returned port.
    pub fn source(&mut self, name: impl Into<Arc<str>>, spec: SourceSpec) -> Port {
        for topic in &spec.topics {
            let taken = self.nodes.iter().any(|node| match &node.kind {
                NodeKind::Source(other) => other.topics.contains(topic),
                _ => false,
            });
            if taken {
                self.problems.push(format!(
                    "topic {:?} is read by two sources; read it once and use the result twice",
                    topic.as_str()
                ));
            }
        }
        self.add(name.into(), NodeKind::Source(spec), &[])
    }

    /// Adds a step fed by `inputs` (rows of all of them arrive at the same `on_chunk`).
    pub fn operator(&mut self, name: impl Into<Arc<str>>, spec: OperatorSpec, inputs: &[Port]) -> Port {
        self.add(name.into(), NodeKind::Operator(spec), inputs)
    }

    /// Says that rows of equal keys meet at the node of `port` (through its inputs or its stores), so that all topics
    /// which feed the meeting must have the same number of partitions.
    pub fn joins_by_key(&mut self, port: Port) {
        self.joins.push(port.node);
    }

    /// Adds a sink.
    pub fn sink(&mut self, name: impl Into<Arc<str>>, spec: SinkSpec, input: Port) {
        self.add(name.into(), NodeKind::Sink(spec), &[input]);
    }

    /// Sends the rows of `input` through the topic `<app>-<name>-repartition`, so that rows of equal keys come together;
    /// they come out of the returned port, in another subtopology. Partitions: as given, or as the topics that it
    /// is joined with, or as the widest topic upstream.
    ///
    /// A record of that topic has the time of its row, whatever that is; what stands there for a row without one is between
    /// `serializer` and `deserializer`.
    pub fn repartition<S: Serializer + 'static, D: Deserializer + 'static>(
        &mut self,
        name: &str,
        serializer: impl Fn() -> S + Send + Sync + 'static,
        deserializer: impl Fn() -> D + Send + Sync + 'static,
        partitions: Option<i32>,
        input: Port,
    ) -> Port {
        let topic = TopicName::Internal(format!("{name}-repartition").into());
        if partitions.is_some_and(|count| count < 1) {
            self.problems.push(format!("repartition {name:?} asks for fewer than one partition"));
        }
        self.repartitions.push((topic.clone(), partitions));
        let sink = SinkSpec {
            topic: topic.clone(),
            serializer: Arc::new(move || Box::new(serializer()) as Box<dyn Serializer>),
        };
        self.add(format!("{name}-repartition-sink").into(), NodeKind::Sink(sink), &[input]);
        let source = SourceSpec {
            topics: vec![topic],
            deserializer: Arc::new(move || Box::new(deserializer()) as Box<dyn Deserializer>),
            bootstrap: false,
            on_bad: OnBad::Fail,
        };
        self.add(format!("{name}-repartition-source").into(), NodeKind::Source(source), &[])
    }

    /// Declares a store.
    pub fn add_store(&mut self, spec: StoreSpec) {
        if spec.name.is_empty() {
            self.problems.push("a store has an empty name".to_owned());
        }
        if let Some(first) = self.stores.insert(Arc::clone(&spec.name), spec) {
            self.problems.push(format!("two stores are named {:?}; give each its own name", first.name));
        }
    }

    /// Notes a problem that the front end found itself; it is reported with the others.
    pub fn problem(&mut self, problem: impl Into<String>) {
        self.problems.push(problem.into());
    }

    /// A name for a stateless step: `base`, or `base-2`, `base-3`... when taken.
    #[must_use]
    pub fn free_name(&self, base: &str) -> Arc<str> {
        let taken = |name: &str| self.nodes.iter().any(|node| &*node.name == name);
        if !taken(base) {
            return base.into();
        }
        let numbered = (2..).map(|n| format!("{base}-{n}")).find(|name| !taken(name));
        numbered.expect("an unbounded range has a free number").into()
    }

    fn add(&mut self, name: Arc<str>, kind: NodeKind, inputs: &[Port]) -> Port {
        let at = self.nodes.len();
        if name.is_empty() {
            self.problems.push("a step has an empty name".to_owned());
        }
        if self.nodes.iter().any(|node| node.name == name) {
            self.problems.push(format!("two steps are named {name:?}; give each its own name"));
        }
        for input in inputs {
            self.nodes[input.node].children.push((input.port, at));
        }
        self.nodes.push(Node { name, kind, parents: inputs.to_vec(), children: Vec::new(), subtopology: 0 });
        Port { node: at, port: 0 }
    }

    /// Checks everything and finishes.
    ///
    /// # Errors
    /// [`StreamsError::Topology`] with every problem found.
    pub fn build(mut self) -> Result<Topology> {
        if !self.nodes.iter().any(|node| matches!(node.kind, NodeKind::Source(_))) {
            self.problems.push("there is no source".to_owned());
        }
        self.check_stores();
        let subtopologies = self.divide();
        let repartitions = self.connect();
        if !self.problems.is_empty() {
            return Err(StreamsError::Topology { problems: self.problems });
        }
        Ok(Topology { nodes: self.nodes, stores: self.stores, repartitions, subtopologies })
    }

    fn check_stores(&mut self) {
        let mut used = BTreeSet::new();
        for node in &self.nodes {
            let NodeKind::Operator(spec) = &node.kind else { continue };
            for store in &spec.stores {
                used.insert(Arc::clone(store));
                if !self.stores.contains_key(store) {
                    self.problems
                        .push(format!("step {:?} uses store {store:?}, which is not declared", node.name));
                }
            }
        }
        for store in self.stores.keys().filter(|store| !used.contains(*store)) {
            self.problems.push(format!("store {store:?} is used by no step"));
        }
    }

    /// Divides the nodes into subtopologies: connected by edges or by a shared store.
    fn divide(&mut self) -> Vec<Subtopology> {
        let mut union: Vec<usize> = (0..self.nodes.len()).collect();
        let mut first_user: BTreeMap<Arc<str>, usize> = BTreeMap::new();
        for at in 0..self.nodes.len() {
            for parent in self.nodes[at].parents.clone() {
                join(&mut union, parent.node, at);
            }
            if let NodeKind::Operator(spec) = &self.nodes[at].kind {
                for store in &spec.stores {
                    let first = *first_user.entry(Arc::clone(store)).or_insert(at);
                    join(&mut union, first, at);
                }
            }
        }
        let mut parts: IndexMap<usize, Subtopology> = IndexMap::new();
        for at in 0..self.nodes.len() {
            let entry = parts.entry(root(&union, at));
            self.nodes[at].subtopology = entry.index();
            let part = entry.or_default();
            part.nodes.push(at);
            match &self.nodes[at].kind {
                NodeKind::Source(source) => part.inputs.extend(source.topics.iter().cloned()),
                NodeKind::Operator(spec) => {
                    for store in &spec.stores {
                        if !part.stores.contains(store) {
                            part.stores.push(Arc::clone(store));
                        }
                    }
                }
                NodeKind::Sink(_) => {}
            }
        }
        let mut parts: Vec<_> = parts.into_values().collect();
        for &at in &self.joins {
            let topics = self.meeting_topics(at);
            parts[self.nodes[at].subtopology].copartitioned.push(topics);
        }
        parts
    }

    /// The topics whose rows meet at `at`: those upstream of it and those upstream of whoever writes its stores.
    fn meeting_topics(&self, at: usize) -> Vec<TopicName> {
        let stores = match &self.nodes[at].kind {
            NodeKind::Operator(spec) => spec.stores.clone(),
            _ => Vec::new(),
        };
        let shares = |node: &Node| match &node.kind {
            NodeKind::Operator(spec) => spec.stores.iter().any(|store| stores.contains(store)),
            _ => false,
        };
        let mut open: Vec<usize> =
            (0..self.nodes.len()).filter(|&n| n == at || shares(&self.nodes[n])).collect();
        let mut seen = BTreeSet::new();
        let mut topics = BTreeSet::new();
        while let Some(node) = open.pop() {
            if !seen.insert(node) {
                continue;
            }
            if let NodeKind::Source(source) = &self.nodes[node].kind {
                topics.extend(source.topics.iter().cloned());
            }
            open.extend(self.nodes[node].parents.iter().map(|parent| parent.node));
        }
        topics.into_iter().collect()
    }

    /// Finds the two ends of each repartition topic.
    fn connect(&mut self) -> Vec<Repartition> {
        let mut found = Vec::new();
        for (topic, partitions) in &self.repartitions {
            let writer =
                self.nodes.iter().find(|n| matches!(&n.kind, NodeKind::Sink(s) if s.topic == *topic));
            let reader = self
                .nodes
                .iter()
                .find(|n| matches!(&n.kind, NodeKind::Source(s) if s.topics.contains(topic)));
            if let (Some(writer), Some(reader)) = (writer, reader) {
                found.push(Repartition {
                    topic: topic.clone(),
                    partitions: *partitions,
                    written_by: writer.subtopology,
                    read_by: reader.subtopology,
                });
            }
        }
        found
    }
}

fn root(union: &[usize], mut at: usize) -> usize {
    while union[at] != at {
        at = union[at];
    }
    at
}

/// Joins two sets; the earlier root stays, so that subtopologies are numbered by their first node.
fn join(union: &mut [usize], a: usize, b: usize) {
    let (a, b) = (root(union, a), root(union, b));
    union[a.max(b)] = a.min(b);
}
