//! Where new replicas go.

use millstream_record::{NodeId, Uuid};

use super::image::{Broker, Image};

/// Brokers that may be given new replicas, in order of id.
fn usable(image: &Image) -> Vec<NodeId> {
    image.brokers().filter(|broker| is_active(broker)).map(|broker| broker.id).collect()
}

/// Whether a broker may lead and be in sync.
pub(super) fn is_active(broker: &Broker) -> bool {
    !broker.fenced && !broker.in_controlled_shutdown
}

/// Replicas for partitions `first..first + count`, spread so that leaders and followers even out. `spread` decides where to
/// begin, so that topics of one partition do not all land on one broker.
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
    let brokers = usable(image);
    if replication_factor > brokers.len() {
        return Err(format!(
            "Unable to replicate the partition {replication_factor} time(s): only {} broker(s) are available.",
            brokers.len()
        ));
    }
    let start = usize::from(spread.0[15]) | usize::from(spread.0[14]) << 8;
    let pick = |partition: usize| {
        let leader = start + partition;
        // The followers' distance from the leader grows with each round, so a lost broker's load spreads over all others.
        let shift = if brokers.len() > 1 { partition / brokers.len() % (brokers.len() - 1) } else { 0 };
        (0..replication_factor)
            .map(|replica| {
                let step =
                    if replica == 0 { 0 } else { 1 + (shift + replica - 1) % (brokers.len() - 1).max(1) };
                brokers[(leader + step) % brokers.len()]
            })
            .collect()
    };
    Ok((first..first + count).map(pick).collect())
}

/// The directory that a new replica on `node` goes to: the only one it has, or unassigned.
pub(super) fn directory(image: &Image, node: NodeId) -> Uuid {
    match image.broker(node).map(|broker| broker.directories.as_slice()) {
        Some([only]) => *only,
        _ => Uuid::ZERO,
    }
}
