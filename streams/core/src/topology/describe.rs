//! Drawing a topology.

use std::fmt::Write as _;

use super::{NodeKind, TopicName, Topology};

impl Topology {
    /// The topology as text: subtopologies, their nodes with inputs and outputs, stores and topics.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut text = String::from("Topology\n");
        for (number, part) in self.subtopologies.iter().enumerate() {
            let _ = writeln!(text, "  Subtopology {number}"); // writing to a String cannot fail
            for &at in &part.nodes {
                self.describe_node(&mut text, at);
            }
        }
        text
    }

    fn describe_node(&self, text: &mut String, at: usize) {
        let node = &self.nodes[at];
        let what = match &node.kind {
            NodeKind::Source(source) => {
                let topics: Vec<_> = source.topics.iter().map(topic_text).collect();
                let first = if source.bootstrap { ", read to its end first" } else { "" };
                format!("source {} (topic {}{first})", node.name, topics.join(", "))
            }
            NodeKind::Operator(spec) if spec.stores.is_empty() => format!("{} {}", spec.kind, node.name),
            NodeKind::Operator(spec) => {
                format!("{} {} (store {})", spec.kind, node.name, spec.stores.join(", "))
            }
            NodeKind::Sink(sink) => format!("sink {} (topic {})", node.name, topic_text(&sink.topic)),
        };
        let _ = writeln!(text, "    {what}");
        for (port, child) in &node.children {
            let side = if *port == 0 { String::new() } else { format!(" [port {port}]") };
            let _ = writeln!(text, "      -> {}{side}", self.nodes[*child].name);
        }
    }

    /// The topology as a Mermaid flowchart.
    #[must_use]
    pub fn to_mermaid(&self) -> String {
        let mut text = String::from("flowchart LR\n");
        let mut topics = indexmap::IndexSet::<TopicName>::new();
        for (number, part) in self.subtopologies.iter().enumerate() {
            let _ = writeln!(text, "  subgraph s{number}[\"subtopology {number}\"]");
            for &at in &part.nodes {
                if let NodeKind::Operator(spec) = &self.nodes[at].kind {
                    let _ = writeln!(text, "    n{at}[\"{}: {}\"]", spec.kind, escape(&self.nodes[at].name));
                }
            }
            for store in &part.stores {
                let index = self.stores.get_index_of(store).unwrap_or_default();
                let _ = writeln!(text, "    st{index}[(\"{}\")]", escape(store));
            }
            text.push_str("  end\n");
        }
        let mut edges = String::new();
        for at in 0..self.nodes.len() {
            self.edges_of(at, &mut topics, &mut edges);
        }
        for (index, topic) in topics.iter().enumerate() {
            let _ = writeln!(text, "  t{index}{{{{\"{}\"}}}}", escape(&topic_text(topic)));
        }
        text + &edges
    }

    /// The edges that arrive at a node, and the dotted ones to its stores. Sources and sinks are drawn as their topics.
    fn edges_of(&self, at: usize, topics: &mut indexmap::IndexSet<TopicName>, edges: &mut String) {
        let node = &self.nodes[at];
        let NodeKind::Source(_) = &node.kind else {
            let to = match &node.kind {
                NodeKind::Sink(sink) => format!("t{}", topics.insert_full(sink.topic.clone()).0),
                _ => format!("n{at}"),
            };
            for parent in &node.parents {
                match &self.nodes[parent.node].kind {
                    NodeKind::Source(source) => {
                        for topic in &source.topics {
                            let _ = writeln!(edges, "  t{} --> {to}", topics.insert_full(topic.clone()).0);
                        }
                    }
                    _ if parent.port == 0 => drop(writeln!(edges, "  n{} --> {to}", parent.node)),
                    _ => drop(writeln!(edges, "  n{} -- port {} --> {to}", parent.node, parent.port)),
                }
            }
            if let NodeKind::Operator(spec) = &node.kind {
                for store in &spec.stores {
                    let _ = writeln!(
                        edges,
                        "  n{at} -.- st{}",
                        self.stores.get_index_of(store).unwrap_or_default()
                    );
                }
            }
            return;
        };
    }
}

fn topic_text(topic: &TopicName) -> String {
    match topic {
        TopicName::User(name) => name.to_string(),
        TopicName::Internal(name) => format!("<app>-{name}"),
    }
}

fn escape(text: &str) -> String {
    text.replace('"', "#quot;").replace('<', "#lt;").replace('>', "#gt;")
}
