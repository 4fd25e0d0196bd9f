//! Drawing a plan.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use millstream_connect_api::config::format_duration;
use millstream_streams_core::rule::JoinKind;

use crate::plan::{Plan, Sink, Source, SourceKind, Step};
use crate::sql::Stage;

/// A language that graphs are drawn in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GraphFormat {
    /// Mermaid, which many web pages draw.
    Mermaid,
    /// DOT of Graphviz.
    Dot,
}

/// The graph of `plan`: what brings rows in, works on them, takes them out, and where rows are brought together by key.
/// `partitions` tells how many partitions a topic has, where that is known already.
#[must_use]
pub fn graph(plan: &Plan, format: GraphFormat, partitions: &dyn Fn(&str) -> Option<i32>) -> String {
    let mut drawing = Drawing::default();
    for source in &plan.sources {
        drawing.source(source, partitions);
    }
    for step in &plan.steps {
        drawing.step(plan, step, partitions);
    }
    for sink in &plan.sinks {
        drawing.sink(plan, sink);
    }
    match format {
        GraphFormat::Mermaid => drawing.mermaid(),
        GraphFormat::Dot => drawing.dot(),
    }
}

#[derive(Default)]
struct Drawing {
    nodes: Vec<Node>,
    edges: BTreeSet<(String, String, String)>,
    /// How many partitions the rows of a relation are spread over.
    partitions: Vec<(String, i32)>,
}

struct Node {
    id: String,
    lines: Vec<String>,
    shape: Shape,
}

#[derive(Clone, Copy)]
enum Shape {
    Source,
    Table,
    Step,
    Repartition,
    Sink,
}

impl Drawing {
    fn node(&mut self, id: impl Into<String>, shape: Shape, lines: Vec<String>) {
        self.nodes.push(Node { id: id.into(), lines, shape });
    }

    fn edge(&mut self, from: &str, to: &str, label: &str) {
        self.edges.insert((from.to_owned(), to.to_owned(), label.to_owned()));
    }

    fn partitions(&self, relation: &str) -> i32 {
        self.partitions.iter().find(|(name, _)| name == relation).map_or(1, |(_, count)| *count)
    }

    fn source(&mut self, source: &Source, partitions: &dyn Fn(&str) -> Option<i32>) {
        let name = source.table.name.to_string();
        let kind = match &source.kind {
            SourceKind::Connector { connector, .. } => connector.clone(),
            SourceKind::Topic { .. } => format!("topic {}", source.topic),
        };
        let mut lines = vec![name.clone(), kind];
        if source.is_table {
            lines.push(format!("table by {}", source.table.key.join(", ")));
        }
        if let Some(time) = &source.time {
            let column = source.table.schema.field(time.column).name();
            lines.push(format!("time {column}, up to {} late", format_duration(time.lateness)));
        }
        let count = partitions(&source.topic).unwrap_or(source.partitions);
        if count > 1 {
            lines.push(format!("{count} partitions"));
        }
        self.partitions.push((name.clone(), count));
        self.node(name, if source.is_table { Shape::Table } else { Shape::Source }, lines);
    }

    fn step(&mut self, plan: &Plan, step: &Step, partitions: &dyn Fn(&str) -> Option<i32>) {
        let mut count = self.partitions(&step.query.from);
        let mut from = step.query.from.clone();
        let mut lines = vec![step.name.clone()];
        for stage in &step.query.stages {
            match stage {
                Stage::Select(select) if select.filter.is_some() => lines.push("where".to_owned()),
                Stage::Select(_) => {}
                Stage::Join(join) => {
                    let table = plan.sources.iter().find(|source| *source.table.name == *join.table);
                    let own = table.map_or(1, |table| partitions(&table.topic).unwrap_or(table.partitions));
                    if count > 1 || own > 1 {
                        from = self.repartition(step, &format!("by key of {}", join.table), own, &from);
                        count = own;
                    }
                    self.edge(&join.table, &step.name, "table");
                    let kind = if join.kind == JoinKind::Left { "left join" } else { "join" };
                    lines.push(format!("{kind} {}", join.table));
                }
                Stage::Aggregate(aggregate) => {
                    let groups = aggregate.schema.fields().iter().take(aggregate.groups.len());
                    let groups: Vec<_> = groups.map(|field| field.name().as_str()).collect();
                    if count > 1 {
                        let together = aggregate.windows.is_some()
                            && aggregate
                                .groups
                                .iter()
                                .all(|group| !matches!(group, crate::sql::GroupColumn::Value(_)));
                        count = if together { 1 } else { count };
                        from = self.repartition(step, &format!("by {}", groups.join(", ")), count, &from);
                    }
                    lines.push(format!("group by {}", groups.join(", ")));
                    lines.extend(aggregate.windows.map(|windows| {
                        let [size, slide] = [windows.size_ms(), windows.advance_ms()]
                            .map(|ms| format_duration(std::time::Duration::from_millis(ms.unsigned_abs())));
                        if size == slide { format!("each {size}") } else { format!("{size} each {slide}") }
                    }));
                    lines.extend(step.lateness.map(|late| format!("up to {} late", format_duration(late))));
                }
            }
        }
        if step.query.updates {
            lines.push("rows change".to_owned());
        }
        self.edge(&from, &step.name, "");
        self.partitions.push((step.name.clone(), count));
        self.node(step.name.clone(), Shape::Step, lines);
    }

    fn repartition(&mut self, step: &Step, why: &str, partitions: i32, from: &str) -> String {
        let id = format!("{} {why}", step.name);
        let lines = vec!["repartition".to_owned(), why.to_owned(), format!("{partitions} partitions")];
        self.node(id.clone(), Shape::Repartition, lines);
        self.edge(from, &id, "");
        id
    }

    fn sink(&mut self, plan: &Plan, sink: &Sink) {
        self.node(sink.name.clone(), Shape::Sink, vec![sink.name.clone(), sink.type_name().to_string()]);
        if let Some(from) = &sink.from {
            self.edge(from, &sink.name, "");
            return;
        }
        let sources = plan.sources.iter().map(|source| (&*source.table.name, &source.on_error));
        let sinks = plan.sinks.iter().map(|other| (other.name.as_str(), &other.on_error));
        for (from, on_error) in sources.chain(sinks) {
            if matches!(on_error, crate::plan::BadInput::Topic(topic) if sink.topics.contains(topic)) {
                self.edge(from, &sink.name, "bad input");
            }
        }
    }

    fn index(&self, id: &str) -> usize {
        self.nodes.iter().position(|node| node.id == id).unwrap_or_default()
    }

    fn mermaid(&self) -> String {
        let mut text = String::from("flowchart LR\n");
        for (at, node) in self.nodes.iter().enumerate() {
            let label = node.lines.iter().map(|line| escape(line)).collect::<Vec<_>>().join("<br/>");
            let (open, close) = match node.shape {
                Shape::Source => ("([", "])"),
                Shape::Table => ("[(", ")]"),
                Shape::Step => ("[", "]"),
                Shape::Repartition => ("{{", "}}"),
                Shape::Sink => ("[/", "/]"),
            };
            let _ = writeln!(text, "  n{at}{open}\"{label}\"{close}"); // writing to a String cannot fail
        }
        for (from, to, label) in &self.edges {
            let arrow = if label.is_empty() { "-->".to_owned() } else { format!("-- {label} -->") };
            let _ = writeln!(text, "  n{} {arrow} n{}", self.index(from), self.index(to));
        }
        text
    }

    fn dot(&self) -> String {
        let mut text = String::from("digraph pipeline {\n  rankdir=LR;\n");
        for (at, node) in self.nodes.iter().enumerate() {
            let label = node.lines.iter().map(|line| escape(line)).collect::<Vec<_>>().join("\\n");
            let shape = match node.shape {
                Shape::Source => "ellipse",
                Shape::Table => "cylinder",
                Shape::Step => "box",
                Shape::Repartition => "hexagon",
                Shape::Sink => "parallelogram",
            };
            let _ = writeln!(text, "  n{at} [shape={shape}, label=\"{label}\"];");
        }
        for (from, to, label) in &self.edges {
            let label = if label.is_empty() { String::new() } else { format!(" [label=\"{label}\"]") };
            let _ = writeln!(text, "  n{} -> n{}{label};", self.index(from), self.index(to));
        }
        text.push_str("}\n");
        text
    }
}

/// Names of columns may hold anything.
fn escape(text: &str) -> String {
    text.replace('"', "'").replace('\\', "/")
}
