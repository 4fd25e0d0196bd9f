//! Where rows must be handed on one by one.

use std::collections::{BTreeMap, BTreeSet};

use crate::topology::{NodeKind, Topology};

/// The ports behind which two ways of a row meet again: at one node, at a store that one of them writes, or at one topic.
///
/// A chunk goes whole to one child and then whole to the next. That is what a row-by-row walk (Kafka's) does too, as long as no
/// child sees what another one did. Where it does, the second row's turn at the first child must come after the first row's
/// turn at the last one; else a merge puts rows out of order (and windows behind it take them for late), and a join finds in
/// its table what rows behind its own have put there. What is handed on one by one is slow, so it is these ports only.
/// Ways end at a repartition topic: what comes out of it has one order.
///
/// `only_reads` tells of an operator that it writes to none of its stores.
pub(super) fn one_by_one(
    topology: &Topology,
    nodes: &[usize],
    only_reads: impl Fn(usize) -> bool,
) -> BTreeSet<(usize, u16)> {
    let mut found = BTreeSet::new();
    for &at in nodes {
        let node = &topology.nodes()[at];
        let ports: BTreeSet<u16> = node.children.iter().map(|(port, _)| *port).collect();
        let together: Vec<Vec<u16>> = match &node.kind {
            // A run of a source goes out of one port; an operator may send the rows of one chunk to several.
            NodeKind::Source(_) => ports.into_iter().map(|port| vec![port]).collect(),
            _ => vec![ports.into_iter().collect()],
        };
        for ports in together {
            if ways_meet(topology, at, &ports, &only_reads) {
                found.extend(ports.into_iter().map(|port| (at, port)));
            }
        }
    }
    found
}

/// Whether two ways out of `ports` of the node `from` meet.
fn ways_meet(topology: &Topology, from: usize, ports: &[u16], only_reads: &impl Fn(usize) -> bool) -> bool {
    let children = &topology.nodes()[from].children;
    let mut open: Vec<usize> =
        children.iter().filter(|(port, _)| ports.contains(port)).map(|(_, child)| *child).collect();
    let mut reached = BTreeSet::new();
    let mut stores: BTreeMap<_, Vec<usize>> = BTreeMap::new();
    let mut topics = BTreeSet::new();
    while let Some(at) = open.pop() {
        if !reached.insert(at) {
            return true; // by a second edge
        }
        let node = &topology.nodes()[at];
        match &node.kind {
            NodeKind::Operator(spec) => {
                spec.stores.iter().for_each(|store| stores.entry(store).or_default().push(at));
            }
            NodeKind::Sink(spec) if !topics.insert(&spec.topic) => return true,
            NodeKind::Sink(_) | NodeKind::Source(_) => {}
        }
        open.extend(node.children.iter().map(|(_, child)| *child));
    }
    stores.into_values().any(|users| users.len() > 1 && !users.into_iter().all(only_reads))
}
