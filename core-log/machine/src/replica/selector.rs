//! Which replica a consumer reads from (KIP-392).

use millstream_record::{NodeId, Offset};

/// A replica that has what a consumer asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// The broker.
    pub node: NodeId,
    /// Its rack, if it has one.
    pub rack: Option<&'a str>,
    /// End of what it has.
    pub end: Offset,
}

/// The replica in a consumer's rack that a leader sends it to, as Kafka's `RackAwareReplicaSelector` does: none where the leader is in
/// that rack itself, or nobody is; of several the one that has most. Consumers of one partition all go to the same, as its pages
/// are cached there.
#[must_use]
pub fn nearest(rack: &str, leader: &Candidate<'_>, followers: &[Candidate<'_>]) -> Option<NodeId> {
    if rack.is_empty() || leader.rack == Some(rack) {
        return None;
    }
    let near = followers.iter().filter(|follower| follower.rack == Some(rack));
    near.max_by_key(|follower| (follower.end, std::cmp::Reverse(follower.node))).map(|follower| follower.node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rack_decides_then_who_has_most() {
        let candidate = |node, rack, end| Candidate { node: NodeId(node), rack, end: Offset(end) };
        let leader = candidate(1, Some("a"), 10);
        let followers = [candidate(2, Some("b"), 8), candidate(3, Some("b"), 9), candidate(4, None, 10)];
        for (rack, expected) in [("a", None), ("b", Some(NodeId(3))), ("c", None), ("", None)] {
            assert_eq!(nearest(rack, &leader, &followers), expected, "{rack}");
        }
        let alike = [candidate(3, Some("b"), 9), candidate(2, Some("b"), 9)];
        assert_eq!(nearest("b", &leader, &alike), Some(NodeId(2)));
    }
}
