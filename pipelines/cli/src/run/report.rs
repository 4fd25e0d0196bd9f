//! What a run did, node by node.

use std::collections::BTreeMap;
use std::time::Duration;

use millstream_connect_api::config::format_size;
use millstream_connect_runtime::{Counts, Status};
use millstream_plan::plan::SinkKind;
use millstream_plan::{Lowered, Plan};
use millstream_streams::{NodeCounters, StreamsControl};

use crate::table::Table;

/// Counters of all nodes of a run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    nodes: Vec<Node>,
    stopped: bool,
    /// Steps in which rows were late, perhaps only because another partition was read faster.
    unordered: Vec<String>,
}

#[derive(Debug)]
struct Node {
    name: String,
    kind: &'static str,
    rows_in: u64,
    rows_out: u64,
    late: u64,
    /// Rows without a time, or with a null in a key.
    dropped: u64,
    bad: u64,
    bytes: Option<u64>,
}

impl Node {
    fn connector(name: &str, kind: &'static str, counts: &Counts) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            rows_in: counts.rows + counts.bad,
            rows_out: counts.rows,
            late: 0,
            dropped: 0,
            bad: counts.bad,
            bytes: Some(counts.bytes),
        }
    }
}

impl Report {
    /// Gathers the counters of the nodes of `plan`.
    pub(crate) fn new(
        plan: &Plan,
        lowered: &Lowered,
        statuses: &BTreeMap<String, Status>,
        control: Option<&StreamsControl>,
        stopped: bool,
    ) -> Self {
        let counters = control.map(StreamsControl::counters).unwrap_or_default();
        let of = |name: &str| counters.get(name).copied().unwrap_or_default();
        let counts = |name: &str| statuses.get(name).map(Status::counts);
        let mut nodes = Vec::new();
        for (section, sources) in plan.sections() {
            let from_log = of(section);
            let tables = sources.iter().map(|source| of(&format!("{}.table", source.table.name)).dropped);
            // A topic that others write is read by the steps themselves.
            let found = counts(section).unwrap_or(Counts { rows: from_log.rows_out, ..Counts::default() });
            let node = Node::connector(section, "source", &found);
            nodes.push(Node {
                rows_in: node.rows_in + from_log.bad,
                bad: found.bad + from_log.bad,
                dropped: tables.sum(),
                ..node
            });
        }
        for step in &plan.steps {
            let names = lowered.nodes.get(&step.name).map(Vec::as_slice).unwrap_or_default();
            let parts: Vec<NodeCounters> = names.iter().map(|name| of(name)).collect();
            let late = parts.iter().map(|part| part.late).sum();
            nodes.push(Node {
                name: step.name.clone(),
                kind: "step",
                rows_in: parts.first().map_or(0, |first| first.rows_in),
                rows_out: parts.last().map_or(0, |last| last.rows_out.saturating_sub(last.late)),
                late,
                dropped: parts.iter().map(|part| part.dropped).sum(),
                bad: parts.iter().map(|part| part.bad).sum(),
                bytes: None,
            });
        }
        for sink in &plan.sinks {
            let written = of(&format!("{}.out", sink.name));
            let found = match sink.kind {
                SinkKind::Topic { .. } => Counts { rows: written.rows_in, ..Counts::default() },
                _ => counts(&sink.name).unwrap_or_default(),
            };
            nodes.push(Node::connector(&sink.name, "sink", &found));
        }
        let late = nodes.iter().filter(|node| node.late > 0 && lowered.unordered.contains(&node.name));
        let unordered = late.map(|node| node.name.clone()).collect();
        Self { nodes, stopped, unordered }
    }

    /// Gathers the counters of connectors that run without steps.
    pub(crate) fn of_connectors<'a>(
        sources: impl Iterator<Item = (&'a str, &'a Status)>,
        sinks: impl Iterator<Item = (&'a str, &'a Status)>,
        stopped: bool,
    ) -> Self {
        let node =
            |kind| move |(name, status): (&str, &Status)| Node::connector(name, kind, &status.counts());
        let nodes = sources.map(node("source")).chain(sinks.map(node("sink"))).collect();
        Self { nodes, stopped, unordered: Vec::new() }
    }

    /// Whether nothing was read and nothing was written.
    pub(crate) fn is_empty(&self) -> bool {
        !self.stopped && self.nodes.iter().all(|node| node.rows_in == 0 && node.rows_out == 0)
    }

    /// The summary for the screen. Few runs drop rows, so others have no column for it.
    pub(crate) fn table(&self, took: Duration) -> String {
        let drops = self.nodes.iter().any(|node| node.dropped > 0);
        let counted: &[&str] = if drops { &[">late", ">dropped", ">bad"] } else { &[">late", ">bad"] };
        let columns = ["node", "kind", ">rows in", ">rows out"].iter().chain(counted).chain(&[">bytes"]);
        let mut table = Table::new(columns);
        for node in &self.nodes {
            let mut row = vec![
                node.name.clone(),
                node.kind.to_owned(),
                node.rows_in.to_string(),
                node.rows_out.to_string(),
                node.late.to_string(),
            ];
            row.extend(drops.then(|| node.dropped.to_string()));
            row.extend([node.bad.to_string(), node.bytes.map_or(String::new(), size)]);
            table.row(row);
        }
        let end = if self.stopped { "stopped" } else { "done" };
        let hint = match self.unordered.as_slice() {
            [] => String::new(),
            steps => format!(
                "\nrows of several partitions come to {} in any order, since their time is another column than that of their source: some may be late only by that. Name the column as `time` of the source, or raise lateness",
                steps.join(", ")
            ),
        };
        let dropped = match drops {
            true => {
                "\ndropped: rows whose time is null, and rows with a null in the key that they are joined or kept by"
            }
            false => "",
        };
        format!("{table}\n{end} in {:.1} s{dropped}{hint}", took.as_secs_f64())
    }
}

/// A size in the largest unit in which it is at least one, with one digit behind the point.
fn size(bytes: u64) -> String {
    let units = [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.into_iter().find(|(_, factor)| bytes >= *factor) {
        Some((unit, factor)) => format!("{:.1} {unit}", bytes as f64 / factor as f64),
        None => format_size(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_rows_are_shown_where_there_are_any() {
        let step = |dropped| Node {
            name: "hourly".to_owned(),
            kind: "step",
            rows_in: 5,
            rows_out: 1,
            late: 0,
            dropped,
            bad: 0,
            bytes: None,
        };
        let shown = |dropped| {
            let report = Report { nodes: vec![step(dropped)], ..Report::default() };
            let table = report.table(Duration::from_secs(1));
            table
                .lines()
                .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
                .collect::<Vec<_>>()
        };
        let with = shown(2);
        assert_eq!(with[0], "node kind rows in rows out late dropped bad bytes");
        assert!(with.contains(&"hourly step 5 1 0 2 0".to_owned()), "{with:?}");
        assert!(
            with.last().is_some_and(|line| line.starts_with("dropped: rows whose time is null")),
            "{with:?}"
        );
        let without = shown(0);
        assert_eq!(without[0], "node kind rows in rows out late bad bytes");
        assert_eq!(without.last().map(String::as_str), Some("done in 1.0 s"));
    }
}
