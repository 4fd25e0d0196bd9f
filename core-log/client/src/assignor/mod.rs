//! Who of a group reads which partition: decided by the group's leader, on the client.

mod protocol;
mod range;
mod round_robin;
mod sticky;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use millstream_record::TopicPartition;

use crate::ClientError;

pub use protocol::{read_assignment, read_subscription, write_assignment, write_subscription};
pub use range::RangeAssignor;
pub use round_robin::RoundRobinAssignor;
pub use sticky::CooperativeStickyAssignor;

/// How members give partitions away when a group rebalances (KIP-429).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RebalanceProtocol {
    /// Each gives up all of its partitions before it rejoins.
    Eager,
    /// Each keeps its partitions and gives up only those that the new assignment takes away.
    Cooperative,
}

/// What a member tells the leader when it joins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberSubscription {
    /// The static member's name.
    pub group_instance_id: Option<ByteString>,
    /// The topics it wants.
    pub topics: BTreeSet<Arc<str>>,
    /// What it owns now.
    pub owned: Vec<TopicPartition>,
    /// The generation in which it got that; -1 for none.
    pub generation: i32,
    /// Its rack.
    pub rack: Option<ByteString>,
    /// What its assignor added.
    pub user_data: Option<Bytes>,
}

/// What the leader tells a member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberAssignment {
    /// Its partitions.
    pub partitions: Vec<TopicPartition>,
    /// What the leader's assignor added.
    pub user_data: Option<Bytes>,
}

/// Members by id.
pub type Members = BTreeMap<ByteString, MemberSubscription>;
/// Assignments by member id.
pub type Assignments = BTreeMap<ByteString, MemberAssignment>;

/// A strategy of assignment. The name must be the same on all members of a group, in any language.
pub trait Assignor: Send + Sync + Debug + 'static {
    /// The name on the wire.
    fn name(&self) -> &str;

    /// How members give partitions away.
    fn protocol(&self) -> RebalanceProtocol {
        RebalanceProtocol::Eager
    }

    /// What this member adds to its subscription. `generation` is the one it was last assigned in, or -1.
    fn user_data(&self, topics: &BTreeSet<Arc<str>>, generation: i32) -> Option<Bytes> {
        let _ = (topics, generation);
        None
    }

    /// Assigns partitions to members; `partitions` holds how many there are of each topic that exists and that anybody wants.
    /// Runs on the leader only.
    ///
    /// # Errors
    /// When what a member said cannot be read; the rebalance fails and is tried again.
    fn assign(
        &self,
        partitions: &BTreeMap<Arc<str>, i32>,
        members: &Members,
    ) -> Result<Assignments, ClientError>;

    /// Told on every member, once it is assigned.
    fn assigned(&self, assignment: &MemberAssignment, generation: i32) {
        let _ = (assignment, generation);
    }
}

/// Members that want `topic`, in Java's order: static members by instance id first, then the others by member id.
fn takers<'a>(members: &'a Members, topic: &str) -> Vec<&'a ByteString> {
    let mut takers: Vec<_> = members.iter().filter(|(_, member)| member.topics.contains(topic)).collect();
    takers.sort_by(|(a_id, a), (b_id, b)| member_order(a_id, a).cmp(&member_order(b_id, b)));
    takers.into_iter().map(|(id, _)| id).collect()
}

fn member_order<'a>(id: &'a ByteString, member: &'a MemberSubscription) -> (bool, &'a str) {
    match &member.group_instance_id {
        Some(instance) => (false, instance),
        None => (true, id),
    }
}

/// An assignment of nothing to everybody.
fn nothing(members: &Members) -> Assignments {
    members.keys().map(|id| (id.clone(), MemberAssignment::default())).collect()
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    pub(crate) fn members(list: &[(&str, &[&str])]) -> Members {
        let member = |topics: &[&str]| MemberSubscription {
            topics: topics.iter().map(|topic| Arc::from(*topic)).collect(),
            generation: -1,
            ..MemberSubscription::default()
        };
        list.iter().map(|(id, topics)| ((*id).into(), member(topics))).collect()
    }

    pub(crate) fn topics(list: &[(&str, i32)]) -> BTreeMap<Arc<str>, i32> {
        list.iter().map(|(topic, partitions)| (Arc::from(*topic), *partitions)).collect()
    }

    /// `member: topic-partition ...`, one line each.
    pub(crate) fn show(assignments: &Assignments) -> String {
        let line = |(id, assignment): (&ByteString, &MemberAssignment)| {
            let partitions: Vec<_> = assignment.partitions.iter().map(ToString::to_string).collect();
            format!("{id}: {}", partitions.join(" "))
        };
        assignments.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}
