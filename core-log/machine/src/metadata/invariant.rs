//! The rules that no record may break. The controller's tests and the simulator hold them against every image.

use super::image::{Image, Partition};

/// Names the first rule that an image breaks. Looks at everything; what a record touched is checked when it is applied.
///
/// # Errors
/// The rule.
pub fn check(image: &Image) -> Result<(), &'static str> {
    if image.names.len() != image.topics.len() {
        return Err("every topic has exactly one id");
    }
    image.topics.values().flat_map(|topic| topic.partitions.iter()).try_for_each(|p| is_sound(p))
}

/// Names the first rule that a partition breaks by itself.
///
/// # Errors
/// The rule.
pub fn is_sound(partition: &Partition) -> Result<(), &'static str> {
    let Partition { replicas, isr, elr, leader, .. } = partition;
    let are_replicas = |nodes: &[_]| nodes.iter().all(|node| replicas.contains(node));
    let are_distinct = |nodes: &[_]| nodes.iter().enumerate().all(|(at, node)| !nodes[..at].contains(node));
    let rules = [
        (!replicas.is_empty() && are_distinct(replicas), "a partition has replicas, each on another broker"),
        (are_replicas(isr) && are_distinct(isr), "who is in sync is a replica"),
        (are_replicas(elr) && are_distinct(elr), "who is eligible to lead is a replica"),
        (!elr.iter().any(|node| isr.contains(node)), "who is in sync needs no eligibility"),
        (leader.is_none_or(|leader| isr.contains(&leader)), "the leader is in sync"),
        (
            are_replicas(&partition.adding) && are_replicas(&partition.removing),
            "a reassignment moves replicas",
        ),
        (
            !partition.adding.iter().any(|node| partition.removing.contains(node)),
            "no replica is added and removed at once",
        ),
        (
            partition.directories.is_empty() || partition.directories.len() == replicas.len(),
            "every replica has a place for its directory",
        ),
        (
            !partition.recovering || leader.is_none() || isr.len() == 1,
            "a leader that settles what was lost is alone in sync",
        ),
    ];
    rules.iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, rule)| Err(rule))
}

/// Names the first rule that a partition breaks by becoming `after`. Step by step these keep two leaders out of one epoch.
///
/// # Errors
/// The rule.
pub fn follows(before: &Partition, after: &Partition) -> Result<(), &'static str> {
    let same_epoch = before.leader_epoch == after.leader_epoch;
    let rules = [
        (before.leader_epoch <= after.leader_epoch, "a leader epoch never goes back"),
        (!same_epoch || before.leader == after.leader, "an epoch has one leader, or none"),
        (
            before.partition_epoch < after.partition_epoch || before == after,
            "a partition epoch rises with every change",
        ),
    ];
    rules.iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, rule)| Err(rule))
}
