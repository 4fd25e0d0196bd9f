//! `cooperative-sticky`: balanced, moving as little as possible, one step at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use bytestring::ByteString;
use millstream_record::TopicPartition;

use super::{Assignments, Assignor, Members, RebalanceProtocol, nothing};
use crate::ClientError;

/// Keeps each partition where it is as far as balance allows. A partition that must change hands is given to nobody in the first
/// round; its owner gives it up, and the second round hands it out (KIP-429).
#[derive(Clone, Copy, Debug, Default)]
pub struct CooperativeStickyAssignor;

impl Assignor for CooperativeStickyAssignor {
    fn name(&self) -> &str {
        "cooperative-sticky"
    }

    fn protocol(&self) -> RebalanceProtocol {
        RebalanceProtocol::Cooperative
    }

    /// The generation, where Java's members before version 2 of the subscription look for it.
    fn user_data(&self, _topics: &BTreeSet<Arc<str>>, generation: i32) -> Option<Bytes> {
        Some(Bytes::copy_from_slice(&generation.to_be_bytes()))
    }

    fn assign(
        &self,
        partitions: &BTreeMap<Arc<str>, i32>,
        members: &Members,
    ) -> Result<Assignments, ClientError> {
        let owners = owners(partitions, members);
        let mut draft = Draft::new(partitions, members, &owners);
        draft.hand_out();
        draft.balance();
        let mut assignments = nothing(members);
        for (partition, taker) in draft.taken {
            let moves = owners.get(&partition).is_some_and(|owner| *owner != taker);
            if !moves && let Some(assignment) = assignments.get_mut(taker) {
                assignment.partitions.push(partition);
            }
        }
        Ok(assignments)
    }
}

/// Who owns what, as far as it can be believed: of several claims the one of the newest generation counts; where two claim
/// a partition in the same generation nobody owns it.
fn owners<'a>(
    partitions: &BTreeMap<Arc<str>, i32>,
    members: &'a Members,
) -> BTreeMap<TopicPartition, &'a ByteString> {
    let mut claims: BTreeMap<TopicPartition, (i32, Option<&ByteString>)> = BTreeMap::new();
    for (id, member) in members {
        let generation = generation_of(member.generation, member.user_data.as_ref());
        for partition in &member.owned {
            if partitions.get(&partition.topic).is_none_or(|count| partition.partition >= *count) {
                continue;
            }
            let claim = claims.entry(partition.clone()).or_insert((generation, Some(id)));
            if claim.0 < generation {
                *claim = (generation, Some(id));
            } else if claim.0 == generation && claim.1 != Some(id) {
                claim.1 = None;
            }
        }
    }
    claims.into_iter().filter_map(|(partition, (_, owner))| Some((partition, owner?))).collect()
}

fn generation_of(told: i32, user_data: Option<&Bytes>) -> i32 {
    match user_data {
        Some(data) if told < 0 && data.len() >= 4 => data.clone().get_i32(),
        _ => told,
    }
}

/// An assignment in the making.
struct Draft<'a> {
    members: &'a Members,
    taken: BTreeMap<TopicPartition, &'a ByteString>,
    free: BTreeSet<TopicPartition>,
    load: BTreeMap<&'a ByteString, usize>,
}

impl<'a> Draft<'a> {
    fn new(
        partitions: &BTreeMap<Arc<str>, i32>,
        members: &'a Members,
        owners: &BTreeMap<TopicPartition, &'a ByteString>,
    ) -> Self {
        let all = partitions
            .iter()
            .flat_map(|(topic, &count)| (0..count).map(move |p| TopicPartition::new(Arc::clone(topic), p)));
        let mut draft = Self {
            members,
            taken: BTreeMap::new(),
            free: all.collect(),
            load: members.keys().map(|id| (id, 0)).collect(),
        };
        for (partition, owner) in owners {
            if draft.wants(owner, partition) && draft.free.remove(partition) {
                draft.give(partition.clone(), owner);
            }
        }
        draft
    }

    fn wants(&self, id: &ByteString, partition: &TopicPartition) -> bool {
        self.members.get(id).is_some_and(|member| member.topics.contains(&partition.topic))
    }

    fn give(&mut self, partition: TopicPartition, taker: &'a ByteString) {
        *self.load.entry(taker).or_default() += 1;
        self.taken.insert(partition, taker);
    }

    /// Gives each free partition to the least loaded member that wants it.
    fn hand_out(&mut self) {
        for partition in std::mem::take(&mut self.free) {
            if let Some(taker) = self.least_loaded(&partition) {
                self.give(partition, taker);
            }
        }
    }

    fn least_loaded(&self, partition: &TopicPartition) -> Option<&'a ByteString> {
        let takers = self.load.iter().filter(|(id, _)| self.wants(id, partition));
        takers.min_by_key(|(_, load)| **load).map(|(id, _)| *id)
    }

    /// Moves partitions from members to others that have at least two fewer, until there is none. Each move lowers the sum of
    /// the squared loads, so this ends.
    fn balance(&mut self) {
        loop {
            let mut moved = false;
            let candidates: Vec<TopicPartition> = self.taken.keys().cloned().collect();
            for partition in candidates {
                let Some(&from) = self.taken.get(&partition) else { continue };
                let Some(to) = self.least_loaded(&partition) else { continue };
                let load = |id| self.load.get(id).copied().unwrap_or(0);
                if load(from) > load(to) + 1 {
                    *self.load.entry(from).or_default() -= 1;
                    self.give(partition, to);
                    moved = true;
                }
            }
            if !moved {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::*;
    use super::*;

    fn assign(partitions: &[(&str, i32)], members: &Members) -> Assignments {
        CooperativeStickyAssignor.assign(&topics(partitions), members).unwrap()
    }

    /// What the members tell the leader next: that they own what they were assigned.
    fn rejoin(members: &mut Members, assignments: &Assignments, generation: i32) {
        for (id, member) in members {
            member.owned = assignments.get(id).map(|a| a.partitions.clone()).unwrap_or_default();
            member.generation = generation;
        }
    }

    #[test]
    fn a_newcomer_gets_its_share_in_two_rounds() {
        let mut group = members(&[("a", &["t"])]);
        let first = assign(&[("t", 4)], &group);
        assert_eq!(show(&first), "a: t-0 t-1 t-2 t-3");
        rejoin(&mut group, &first, 1);
        group.extend(members(&[("b", &["t"])]));
        let second = assign(&[("t", 4)], &group);
        assert_eq!(show(&second), "a: t-2 t-3\nb: ");
        rejoin(&mut group, &second, 2);
        assert_eq!(show(&assign(&[("t", 4)], &group)), "a: t-2 t-3\nb: t-0 t-1");
    }

    #[test]
    fn the_newest_generation_is_believed_and_a_tie_by_nobody() {
        let mut group = members(&[("a", &["t"]), ("b", &["t"])]);
        for (id, generation) in [("a", 3), ("b", 4)] {
            let member = group.get_mut(id).unwrap();
            member.owned = vec![TopicPartition::new("t", 0)];
            member.generation = generation;
        }
        assert_eq!(show(&assign(&[("t", 1)], &group)), "a: \nb: t-0");
        group.get_mut("a").unwrap().generation = 4;
        assert!(owners(&topics(&[("t", 1)]), &group).is_empty());
    }

    proptest! {
        #[test]
        fn it_settles_in_two_rounds_balanced_and_complete(
            counts in proptest::collection::vec(1..9i32, 1..4),
            before in 1..6usize,
            after in 1..6usize,
        ) {
            let names = ["t0", "t1", "t2", "t3"];
            let partitions: Vec<_> = counts.iter().enumerate().map(|(at, n)| (names[at], *n)).collect();
            let ids = ["a", "b", "c", "d", "e", "f"];
            let group = |n: usize| members(&ids[..n].iter().map(|id| (*id, &names[..])).collect::<Vec<_>>());
            let mut old = group(before);
            let settled = assign(&partitions, &old);
            rejoin(&mut old, &settled, 1);
            let mut new = group(after);
            for (id, member) in &mut new {
                if let Some(known) = old.get(id) {
                    *member = known.clone();
                }
            }
            let round = assign(&partitions, &new);
            for (id, assignment) in &round {
                for partition in &assignment.partitions {
                    let owner = new.iter().find(|(_, m)| m.owned.contains(partition)).map(|(id, _)| id);
                    prop_assert!(owner.is_none_or(|owner| owner == id), "{partition} moved without a revocation");
                }
            }
            rejoin(&mut new, &round, 2);
            let last = assign(&partitions, &new);
            let all: BTreeSet<_> = last.values().flat_map(|a| a.partitions.iter().cloned()).collect();
            let sizes: Vec<_> = last.values().map(|a| a.partitions.len()).collect();
            prop_assert_eq!(all.len(), counts.iter().sum::<i32>() as usize);
            prop_assert_eq!(sizes.iter().sum::<usize>(), all.len());
            prop_assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1);
            rejoin(&mut new, &last, 3);
            prop_assert_eq!(assign(&partitions, &new), last);
        }
    }
}
