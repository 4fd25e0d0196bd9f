//! `range`: neighbouring partitions of each topic, topic by topic.

use std::collections::BTreeMap;
use std::sync::Arc;

use millstream_record::TopicPartition;

use super::{Assignments, Assignor, Members, nothing, takers};
use crate::ClientError;

/// Kafka's default: each topic's partitions are cut into as many ranges as there are takers, the first ones one longer. So
/// topics of equal partition counts end up partition by partition with the same member, as joins need it.
#[derive(Clone, Copy, Debug, Default)]
pub struct RangeAssignor;

impl Assignor for RangeAssignor {
    fn name(&self) -> &str {
        "range"
    }

    fn assign(
        &self,
        partitions: &BTreeMap<Arc<str>, i32>,
        members: &Members,
    ) -> Result<Assignments, ClientError> {
        let mut assignments = nothing(members);
        for (topic, &count) in partitions {
            let takers = takers(members, topic);
            let mut next = 0;
            for (at, id) in takers.iter().enumerate() {
                let left = (takers.len() - at) as i32;
                let take = (count - next + left - 1) / left; // the rest, shared by those left, rounded up
                if let Some(assignment) = assignments.get_mut(*id) {
                    let range = (next..next + take).map(|p| TopicPartition::new(Arc::clone(topic), p));
                    assignment.partitions.extend(range);
                }
                next += take;
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
        let assignments = RangeAssignor.assign(&topics(partitions), &members(list)).unwrap();
        assert_eq!(show(&assignments), expected);
    }

    #[test]
    fn ranges_are_javas() {
        check(
            &[("a", &["t", "u"]), ("b", &["t", "u"])],
            &[("t", 3), ("u", 3)],
            "a: t-0 t-1 u-0 u-1\nb: t-2 u-2",
        );
        check(
            &[("a", &["t"]), ("b", &["t"]), ("c", &["t"])],
            &[("t", 7)],
            "a: t-0 t-1 t-2\nb: t-3 t-4\nc: t-5 t-6",
        );
        check(&[("a", &["t"]), ("b", &["t", "u"])], &[("t", 1), ("u", 2)], "a: t-0\nb: u-0 u-1");
        check(&[("a", &["missing"])], &[], "a: ");
    }

    #[test]
    fn static_members_come_first_by_their_names() {
        let mut list = members(&[("a", &["t"]), ("b", &["t"]), ("c", &["t"])]);
        list.get_mut("c").unwrap().group_instance_id = Some("i1".into());
        list.get_mut("b").unwrap().group_instance_id = Some("i2".into());
        let assignments = RangeAssignor.assign(&topics(&[("t", 4)]), &list).unwrap();
        assert_eq!(show(&assignments), "a: t-3\nb: t-2\nc: t-0 t-1");
    }
}
