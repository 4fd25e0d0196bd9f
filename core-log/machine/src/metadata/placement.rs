//! Where new replicas go: leaders even over the brokers, the replicas of a partition on as many racks as there are (KIP-36).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use millstream_record::{NodeId, Uuid};

use super::image::{Broker, Image};

/// Brokers in the order in which they are given leaders: after one of each rack comes the next of each, so that neighbours are
/// on different racks.
struct Ring<'a> {
    brokers: Vec<&'a Broker>,
    racks: usize,
}

impl<'a> Ring<'a> {
    fn of(brokers: impl Iterator<Item = &'a Arc<Broker>>) -> Self {
        let mut by_rack: BTreeMap<Option<&Arc<str>>, Vec<&Broker>> = BTreeMap::new();
        brokers.for_each(|broker| by_rack.entry(broker.rack.as_ref()).or_default().push(broker));
        let longest = by_rack.values().map(Vec::len).max().unwrap_or(0);
        let row = |at: usize| by_rack.values().filter_map(move |rack| rack.get(at).copied());
        Self { brokers: (0..longest).flat_map(row).collect(), racks: by_rack.len() }
    }

    /// Whom to ask for replicas, the leader at `leader` first, each broker once. The followers' distance from the leader grows with
    /// each round, so a lost broker's load spreads over all others.
    fn from(&self, leader: usize, round: usize) -> impl Iterator<Item = &'a Broker> {
        let count = self.brokers.len();
        let others = count.saturating_sub(1).max(1);
        let shift = round * self.racks;
        let step = move |at: usize| if at == 0 { 0 } else { 1 + (shift + at - 1) % others };
        (0..count).map(move |at| self.brokers[(leader + step(at)) % count])
    }
}

/// Replicas for partitions `first..first + count`. `spread` decides where to begin, so that topics of one partition do not all
/// land on one broker. Leaders are active brokers; fenced ones are taken for followers where there are too few others.
///
/// # Errors
/// Why there are not enough brokers.
pub(super) fn place(
    image: &Image,
    spread: Uuid,
    first: usize,
    count: usize,
    replication_factor: usize,
) -> Result<Vec<Vec<NodeId>>, String> {
    let usable = image.brokers().filter(|broker| !broker.in_controlled_shutdown);
    let (fenced, active): (Vec<_>, Vec<_>) = usable.partition(|broker| broker.fenced);
    let registered = fenced.len() + active.len();
    if replication_factor > registered {
        return Err(format!(
            "Unable to replicate the partition {replication_factor} time(s): The target replication factor of \
             {replication_factor} cannot be reached because only {registered} broker(s) are registered."
        ));
    }
    if active.is_empty() {
        return Err(format!(
            "Unable to replicate the partition {replication_factor} time(s): All brokers are currently fenced."
        ));
    }
    let (active, fenced) = (Ring::of(active.into_iter()), Ring::of(fenced.into_iter()));
    let start = usize::from(spread.0[15]) | usize::from(spread.0[14]) << 8;
    let replicas = |partition: usize| {
        let round = partition / active.brokers.len();
        pick([&active, &fenced], start + partition, round, replication_factor)
    };
    Ok((first..first + count).map(replicas).collect())
}

fn pick(rings: [&Ring<'_>; 2], leader: usize, round: usize, replication_factor: usize) -> Vec<NodeId> {
    let mut replicas = Vec::with_capacity(replication_factor);
    let mut racks = BTreeSet::new();
    for ring in rings {
        // First one broker of every rack that has none yet, then whoever comes next.
        for spreads in [true, false] {
            for broker in ring.from(leader, round) {
                let is_new_rack = !racks.contains(&broker.rack);
                if replicas.len() < replication_factor
                    && is_new_rack == spreads
                    && !replicas.contains(&broker.id)
                {
                    racks.insert(&broker.rack);
                    replicas.push(broker.id);
                }
            }
        }
    }
    replicas
}

/// The directory that a new replica on `node` goes to: the only one it has, or unassigned.
pub(super) fn directory(image: &Image, node: NodeId) -> Uuid {
    match image.broker(node).map(|broker| broker.directories.as_slice()) {
        Some([only]) => *only,
        _ => Uuid::ZERO,
    }
}
