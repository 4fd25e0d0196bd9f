//! What is true of an image after every record.

use super::image::{Image, Partition};

/// Names the first invariant that does not hold. Only topics touched last could break one; checking all keeps the rule
/// simple, and images in tests are small.
pub(super) fn check(image: &Image) -> Result<(), &'static str> {
    const CHECKED_TOPICS: usize = 64;
    if image.names.len() != image.topics.len() {
        return Err("every topic has exactly one id");
    }
    image
        .topics
        .values()
        .take(CHECKED_TOPICS)
        .flat_map(|topic| topic.partitions.iter())
        .try_for_each(|partition| partition_is_sound(partition))
}

fn partition_is_sound(partition: &Partition) -> Result<(), &'static str> {
    let rules = [
        (partition.isr.iter().all(|node| partition.replicas.contains(node)), "who is in sync is a replica"),
        (
            partition.leader.is_none_or(|leader| partition.replicas.contains(&leader)),
            "the leader is a replica",
        ),
        (
            partition.directories.is_empty() || partition.directories.len() == partition.replicas.len(),
            "every replica has a place for its directory",
        ),
    ];
    rules.iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, rule)| Err(rule))
}
