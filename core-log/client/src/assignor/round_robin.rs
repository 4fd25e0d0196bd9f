//! `roundrobin`: all partitions of all topics, dealt in turn.

use std::collections::BTreeMap;
use std::sync::Arc;

use millstream_record::TopicPartition;

use super::{Assignments, Assignor, Members, member_order, nothing};
use crate::ClientError;

/// Deals the partitions of all topics to the members in turn, passing over members that do not want the topic.
#[derive(Clone, Copy, Debug, Default)]
pub struct RoundRobinAssignor;

impl Assignor for RoundRobinAssignor {
    fn name(&self) -> &str {
        "roundrobin"
    }

    fn assign(
        &self,
        partitions: &BTreeMap<Arc<str>, i32>,
        members: &Members,
    ) -> Result<Assignments, ClientError> {
        let mut assignments = nothing(members);
        let mut circle: Vec<_> = members.iter().collect();
        circle.sort_by(|(a_id, a), (b_id, b)| member_order(a_id, a).cmp(&member_order(b_id, b)));
        let mut turn = 0;
        for (topic, &count) in partitions {
            for partition in 0..count {
                let wants =
                    |at: &usize| circle.get(at % circle.len()).is_some_and(|(_, m)| m.topics.contains(topic));
                let Some(at) = (turn..turn + circle.len()).find(wants) else { break };
                turn = (at + 1) % circle.len();
                if let Some((id, _)) = circle.get(at % circle.len())
                    && let Some(assignment) = assignments.get_mut(*id)
                {
                    assignment.partitions.push(TopicPartition::new(Arc::clone(topic), partition));
                }
            }
        }
        Ok(assignments)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[track_caller]
    fn check(list: &[(&str, &[&str])], partitions: &[(&str, i32)], expected: &str) {
        let assignments = RoundRobinAssignor.assign(&topics(partitions), &members(list)).unwrap();
        assert_eq!(show(&assignments), expected);
    }

    #[test]
    fn turns_are_javas() {
        check(
            &[("a", &["t", "u"]), ("b", &["t", "u"])],
            &[("t", 3), ("u", 3)],
            "a: t-0 t-2 u-1\nb: t-1 u-0 u-2",
        );
        // The example of Java's documentation: unequal subscriptions.
        check(
            &[("c0", &["t0"]), ("c1", &["t0", "t1"]), ("c2", &["t0", "t1", "t2"])],
            &[("t0", 1), ("t1", 2), ("t2", 3)],
            "c0: t0-0\nc1: t1-0\nc2: t1-1 t2-0 t2-1 t2-2",
        );
        check(&[("a", &["missing"])], &[("t", 2)], "a: ");
    }
}
