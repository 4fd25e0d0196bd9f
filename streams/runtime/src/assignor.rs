//! Placing tasks on the members of the group.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use millstream_client::ClientError;
use millstream_client::assignor::{Assignments, Assignor, MemberAssignment, Members};
use millstream_record::Uuid;
use millstream_streams_core::TaskId;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::layout::Layout;
use crate::state::StateDir;

/// Gives each member its share of the tasks, and leaves a task where it ran, or else in the process that has its state.
#[derive(Debug)]
pub(crate) struct TaskAssignor {
    layout: Arc<Layout>,
    process: Uuid,
    /// Where the state of this process lies.
    state: StateDir,
    /// Tasks of this member in the last generation.
    last: Mutex<BTreeSet<TaskId>>,
}

/// What a member tells the leader.
#[derive(Debug, Default, Serialize, Deserialize)]
struct About {
    process: String,
    running: Vec<String>,
    warm: Vec<String>,
}

/// A member as the leader sees it.
struct Member<'a> {
    id: &'a ByteString,
    running: BTreeSet<TaskId>,
    warm: BTreeSet<TaskId>,
    load: usize,
}

impl TaskAssignor {
    pub(crate) fn new(layout: Arc<Layout>, process: Uuid, state: StateDir) -> Self {
        Self { layout, process, state, last: Mutex::default() }
    }

    fn members<'a>(members: &'a Members) -> Vec<Member<'a>> {
        let parse = |tasks: Vec<String>| tasks.iter().filter_map(|task| TaskId::parse(task)).collect();
        let read = |(id, member): (&'a ByteString, &millstream_client::assignor::MemberSubscription)| {
            let bytes = member.user_data.as_deref().unwrap_or_default();
            let about: About = serde_json::from_slice(bytes).unwrap_or_default(); // costs the stickiness, nothing else
            Member { id, running: parse(about.running), warm: parse(about.warm), load: 0 }
        };
        members.iter().map(read).collect()
    }
}

impl Assignor for TaskAssignor {
    fn name(&self) -> &str {
        "millstream-streams"
    }

    fn user_data(&self, _topics: &BTreeSet<Arc<str>>, _generation: i32) -> Option<Bytes> {
        let names = |tasks: &BTreeSet<TaskId>| tasks.iter().map(ToString::to_string).collect();
        let about = About {
            process: self.process.to_string(),
            running: names(&self.last.lock()),
            warm: names(&self.state.tasks().unwrap_or_default()), // costs a longer restore elsewhere, nothing else
        };
        serde_json::to_vec(&about).ok().map(Bytes::from)
    }

    fn assign(
        &self,
        _partitions: &BTreeMap<Arc<str>, i32>,
        members: &Members,
    ) -> Result<Assignments, ClientError> {
        let placed = place(self.layout.tasks().collect(), Self::members(members));
        let mut assignments: Assignments =
            members.keys().map(|id| (id.clone(), MemberAssignment::default())).collect();
        for (task, id) in placed {
            let assignment = assignments.entry(id).or_default();
            assignment.partitions.extend(self.layout.inputs_of(task).map(|(_, partition)| partition));
        }
        Ok(assignments)
    }

    fn assigned(&self, assignment: &MemberAssignment, _generation: i32) {
        let reader = |partition| self.layout.reader_of(partition).map(|(task, _)| task);
        *self.last.lock() = assignment.partitions.iter().filter_map(reader).collect();
    }
}

/// Places tasks so that loads differ by at most one; among the members with room, first who ran the task, then who has its
/// state, then who has least.
fn place(tasks: Vec<TaskId>, mut members: Vec<Member<'_>>) -> BTreeMap<TaskId, ByteString> {
    let mut placed = BTreeMap::new();
    if members.is_empty() {
        return placed;
    }
    let (share, mut extra) = (tasks.len() / members.len(), tasks.len() % members.len());
    let mut open = tasks;
    let reasons: [fn(&Member<'_>, TaskId) -> bool; 3] = [
        |member, task| member.running.contains(&task),
        |member, task| member.warm.contains(&task),
        |_, _| true,
    ];
    for fits in reasons {
        open.retain(|task| {
            let has_room = |member: &Member<'_>| member.load < share || (member.load == share && extra > 0);
            let candidates = members.iter_mut().filter(|member| has_room(member) && fits(member, *task));
            let Some(member) = candidates.min_by_key(|member| member.load) else { return true };
            extra -= usize::from(member.load == share);
            member.load += 1;
            placed.insert(*task, member.id.clone());
            false
        });
    }
    placed
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn task(partition: i32) -> TaskId {
        TaskId { subtopology: 0, partition }
    }

    fn show(ids: &[ByteString], running: &[&[i32]], warm: &[&[i32]], tasks: i32) -> String {
        let set = |list: &[i32]| list.iter().map(|partition| task(*partition)).collect();
        let member =
            |at: usize| Member { id: &ids[at], running: set(running[at]), warm: set(warm[at]), load: 0 };
        let placed = place((0..tasks).map(task).collect(), (0..ids.len()).map(member).collect());
        placed.iter().map(|(task, id)| format!("{}{id}", task.partition)).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn tasks_stay_where_they_run_or_have_state() {
        let ids = ["a".into(), "b".into()];
        let check = |running: [&[i32]; 2], warm: [&[i32]; 2], expected| {
            assert_eq!(show(&ids, &running, &warm, 4), expected);
        };
        check([&[], &[]], [&[], &[]], "0a 1b 2a 3b");
        check([&[1, 3], &[0, 2]], [&[], &[]], "0b 1a 2b 3a");
        check([&[0, 1, 2, 3], &[]], [&[], &[]], "0a 1a 2b 3b");
        check([&[], &[]], [&[2, 3], &[2, 3]], "0a 1b 2a 3b");
        check([&[], &[]], [&[], &[0, 1]], "0b 1b 2a 3a");
    }

    proptest! {
        #[test]
        fn every_task_is_placed_and_loads_differ_by_one(
            tasks in 0i32..40,
            owned in prop::collection::vec(prop::collection::btree_set(0i32..40, 0..20), 1..6),
        ) {
            let ids: Vec<ByteString> = (0..owned.len()).map(|n| format!("m{n}").into()).collect();
            let member = |at: usize| Member {
                id: &ids[at],
                running: owned[at].iter().map(|partition| task(*partition)).collect(),
                warm: BTreeSet::new(),
                load: 0,
            };
            let placed = place((0..tasks).map(task).collect(), (0..ids.len()).map(member).collect());
            prop_assert_eq!(placed.len(), tasks as usize);
            let loads: Vec<_> = ids.iter().map(|id| placed.values().filter(|to| *to == id).count()).collect();
            prop_assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1, "{:?}", loads);
        }
    }
}
