//! Groups as Kafka's clients see them, and what holds whatever they do.

use bytestring::ByteString;
use millstream_protocol::ErrorCode;
use millstream_protocol::messages::leave_group::MemberIdentity;
use millstream_protocol::messages::{
    HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, SyncGroupRequest,
};
use proptest::prelude::*;

use super::api::{Answer, Client, Config, Input};
use super::coordinator::{Coordinator, entries};
use crate::TransactionOutcome;

use super::world::*;

mod offsets;
mod owed;

#[test]
fn a_first_join_is_told_its_id_and_expected_back() {
    let mut world = World::new(config());
    let first = world.join_as(request("", None), true);
    let told = world.joined(first).clone();
    assert_eq!(told.error_code, ErrorCode::MemberIdRequired.code());
    assert_eq!(&*told.member_id, "c-00000000-0000-0000-0000-000000000001");
    let second = world.join_as(request(&told.member_id, None), true);
    world.pass(DELAY_MS);
    let joined = world.joined(second);
    assert_eq!((joined.error_code, joined.generation_id), (0, 1));
    assert_eq!((&joined.leader, joined.members.len()), (&told.member_id, 1));

    let mut world = World::new(config());
    let first = world.join_as(request("", None), true);
    let told = world.joined(first).member_id.clone();
    world.pass(SESSION_MS);
    let late = world.join_as(request(&told, None), true);
    assert_eq!(world.joined(late).error_code, ErrorCode::UnknownMemberId.code(), "it took too long");
}

#[test]
fn a_group_goes_from_join_to_stable_and_again() {
    let mut world = World::new(config());
    let (leader, follower) = world.stable_pair();
    assert_eq!(world.state(), "Stable");
    assert_eq!((leader.members.len(), follower.members.len()), (2, 0), "only the leader learns who is there");
    assert_eq!((leader.generation_id, follower.generation_id), (1, 1));
    assert_eq!(world.heartbeat(&leader), ErrorCode::None);
    let again = world.sync(&follower, &[]);
    assert_eq!(&world.synced(again).assignment[..], b"F", "a sync may be repeated");
    let third = world.join("");
    assert_eq!(world.heartbeat(&leader), ErrorCode::RebalanceInProgress);
    let (one, two) = (world.join(&leader.member_id), world.join(&follower.member_id));
    for waiter in [one, two, third] {
        assert_eq!(world.joined(waiter).generation_id, 2, "the last to join completes the rebalance");
    }
    assert_eq!(world.state(), "CompletingRebalance");
    assert_eq!(world.heartbeat(&leader), ErrorCode::IllegalGeneration);
}

#[test]
fn who_does_not_come_back_is_out_when_the_rebalance_timeout_ends() {
    let mut world = World::new(config());
    let (leader, follower) = world.stable_pair();
    let again = world.join(&leader.member_id);
    let mut waited = 0;
    while waited < REBALANCE_MS {
        assert!(!world.answers.contains_key(&again));
        assert_eq!(world.heartbeat(&follower), ErrorCode::RebalanceInProgress, "it lives, but does not join");
        world.pass(SESSION_MS / 2);
        waited += SESSION_MS / 2;
    }
    assert_eq!((world.joined(again).generation_id, world.joined(again).members.len()), (2, 1));
    assert_eq!(world.heartbeat(&follower), ErrorCode::UnknownMemberId);
}

#[test]
fn who_does_not_synchronise_in_time_is_out() {
    let mut world = World::new(config());
    let (one, two) = (world.join(""), world.join(""));
    world.pass(DELAY_MS);
    world.pass(DELAY_MS);
    let (one, two) = (world.joined(one).clone(), world.joined(two).clone());
    let mut waited = 0;
    while waited < REBALANCE_MS {
        assert_eq!(world.heartbeat(&one), ErrorCode::None);
        world.heartbeat(&two);
        world.pass(SESSION_MS / 2);
        waited += SESSION_MS / 2;
    }
    assert_eq!(world.state(), "Empty", "neither did");
    assert_eq!(world.heartbeat(&one), ErrorCode::UnknownMemberId);
}

#[test]
fn silence_ends_a_session_and_the_others_rebalance() {
    let mut world = World::new(config());
    let (leader, follower) = world.stable_pair();
    world.pass(SESSION_MS - 1);
    assert_eq!(world.heartbeat(&leader), ErrorCode::None);
    world.pass(1);
    assert_eq!(world.heartbeat(&leader), ErrorCode::RebalanceInProgress);
    assert_eq!(world.heartbeat(&follower), ErrorCode::UnknownMemberId);
    let again = world.join(&leader.member_id);
    assert_eq!(world.joined(again).generation_id, 2);
}

#[test]
fn bad_joins_are_refused_with_kafkas_codes() {
    use ErrorCode as E;
    let change = |edit: fn(&mut JoinGroupRequest)| {
        let mut request = request("", None);
        edit(&mut request);
        request
    };
    let table: Vec<(JoinGroupRequest, ErrorCode)> = vec![
        (change(|r| r.group_id = ByteString::new()), E::InvalidGroupId),
        (change(|r| r.session_timeout_ms = 5_999), E::InvalidSessionTimeout),
        (change(|r| r.session_timeout_ms = 1_800_001), E::InvalidSessionTimeout),
        (change(|r| r.protocol_type = "connect".into()), E::InconsistentGroupProtocol),
        (change(|r| r.protocols[0].name = "sticky".into()), E::InconsistentGroupProtocol),
        (change(|r| r.protocols.clear()), E::InconsistentGroupProtocol),
        (change(|r| r.member_id = "nobody".into()), E::UnknownMemberId),
        (
            change(|r| {
                r.group_id = "other".into();
                r.member_id = "nobody".into();
            }),
            E::UnknownMemberId,
        ),
        (request("", None), E::GroupMaxSizeReached),
    ];
    for (request, expected) in table {
        let max_size = if expected == E::GroupMaxSizeReached { 2 } else { 3 };
        let mut world = World::new(Config { max_size, ..config() });
        world.stable_pair();
        let shown = format!("{request:?}");
        let waiter = world.join_as(request, false);
        assert_eq!(ErrorCode::from_code(world.joined(waiter).error_code), expected, "{shown}");
        assert_eq!(world.state(), "Stable", "{shown}");
    }
}

#[test]
fn a_static_leader_that_cannot_skip_its_assignment_takes_itself_for_a_follower() {
    for can_skip_assignment in [true, false] {
        let mut world = World::new(config());
        let alone = world.join_as(request("", Some("i")), false);
        world.pass(DELAY_MS);
        let alone = world.joined(alone).clone();
        world.sync(&alone, &[(&alone.member_id, "all")]);
        let back = world.ask(|waiter| Input::Join {
            waiter,
            client: Client::default(),
            request: request("", Some("i")),
            must_know_member_id: true,
            can_skip_assignment,
            random: 99,
        });
        let back = world.joined(back).clone();
        assert_eq!(back.skip_assignment, can_skip_assignment);
        assert_eq!(
            (back.leader == back.member_id, back.members.len() == 1),
            (can_skip_assignment, can_skip_assignment)
        );
        let sync = world.sync(&back, &[]);
        assert_eq!(&world.synced(sync).assignment[..], b"all");
    }
}

#[test]
fn the_empty_name_is_no_group_for_members() {
    let mut world = World::new(config());
    let request = HeartbeatRequest::default();
    let waiter = world.ask(|waiter| Input::Heartbeat { waiter, request });
    let Answer::Heartbeat(answer) = &world.answers[&waiter] else { panic!("not a heartbeat") };
    assert_eq!(answer.error_code, ErrorCode::InvalidGroupId.code());
    let request = SyncGroupRequest::default();
    let waiter = world.ask(|waiter| Input::Sync { waiter, request });
    assert_eq!(world.synced(waiter).error_code, ErrorCode::InvalidGroupId.code());
}

#[test]
fn a_stable_groups_follower_is_told_again_and_its_leader_rebalances() {
    let mut world = World::new(config());
    let (leader, follower) = world.stable_pair();
    let again = world.join(&follower.member_id);
    assert_eq!((world.joined(again).generation_id, world.state().as_str()), (1, "Stable"));
    world.join(&leader.member_id);
    assert_eq!(world.state(), "PreparingRebalance");
}

#[test]
fn a_static_member_gets_its_place_back_without_a_rebalance() {
    let mut world = World::new(config());
    let (one, two) =
        (world.join_as(request("", Some("i1")), true), world.join_as(request("", Some("i2")), true));
    world.pass(DELAY_MS);
    world.pass(DELAY_MS);
    let (one, two) = (world.joined(one).clone(), world.joined(two).clone());
    let (leader, follower) = if one.leader == one.member_id { (one, two) } else { (two, one) };
    let instance = if follower.member_id.starts_with("i1") { "i1" } else { "i2" };
    world.sync(&follower, &[]);
    world.sync(&leader, &[(&leader.member_id, "L"), (&follower.member_id, "F")]);
    let back = world.join_as(request("", Some(instance)), true);
    let back = world.joined(back).clone();
    assert_eq!((back.error_code, back.generation_id, world.state().as_str()), (0, 1, "Stable"));
    assert_ne!(back.member_id, follower.member_id);
    let sync = world.sync(&back, &[]);
    assert_eq!(&world.synced(sync).assignment[..], b"F");
    let mut reloaded = world.reload();
    for world in [&mut world, &mut reloaded] {
        let old = &follower.member_id;
        assert_eq!(world.heartbeat_as(old, 1, Some(instance)), ErrorCode::FencedInstanceId);
        assert_eq!(world.heartbeat_as(old, 1, None), ErrorCode::UnknownMemberId);
        assert_eq!(world.heartbeat_as(&back.member_id, 1, Some(instance)), ErrorCode::None);
        assert_eq!(world.heartbeat_as("x", 1, Some("i9")), ErrorCode::UnknownMemberId);
    }
}

#[test]
fn members_leave_one_by_one_or_together() {
    let mut world = World::new(config());
    let (leader, follower) = world.stable_pair();
    let identity = |member: &str, instance: Option<&str>| MemberIdentity {
        member_id: member.into(),
        group_instance_id: instance.map(ByteString::from),
        ..MemberIdentity::default()
    };
    let request = LeaveGroupRequest {
        group_id: "g".into(),
        members: vec![
            identity(&follower.member_id, None),
            identity("nobody", None),
            identity(&leader.member_id, Some("i")),
        ],
        ..LeaveGroupRequest::default()
    };
    let waiter = world.ask(|waiter| Input::Leave { waiter, request });
    let Answer::Leave(answer) = &world.answers[&waiter] else { panic!("not a leave") };
    let codes: Vec<_> = answer.members.iter().map(|m| ErrorCode::from_code(m.error_code)).collect();
    assert_eq!(codes, [ErrorCode::None, ErrorCode::UnknownMemberId, ErrorCode::UnknownMemberId]);
    assert_eq!(world.state(), "PreparingRebalance");
    let older = LeaveGroupRequest {
        group_id: "g".into(),
        member_id: leader.member_id,
        ..LeaveGroupRequest::default()
    };
    world.ask(|waiter| Input::Leave { waiter, request: older.clone() });
    assert_eq!(world.state(), "Empty");
    let again = world.ask(|waiter| Input::Leave { waiter, request: older });
    let Answer::Leave(answer) = &world.answers[&again] else { panic!("not a leave") };
    assert_eq!((answer.error_code, answer.members.len()), (ErrorCode::UnknownMemberId.code(), 0));
    assert_eq!(world.reload().state(), "Empty");
}

#[test]
fn syncs_and_commits_are_answered_only_once_durable() {
    let mut world = World::new(config());
    let member = world.join("");
    world.pass(DELAY_MS);
    let member = world.joined(member).clone();
    world.is_durable = false;
    let sync = world.sync(&member, &[(&member.member_id, "all")]);
    assert_eq!((world.answers.get(&sync), world.state().as_str()), (None, "CompletingRebalance"));
    world.flush();
    assert_eq!((&world.synced(sync).assignment[..], world.state().as_str()), (&b"all"[..], "Stable"));
    let commit = world.commit(&member.member_id, 1, 7);
    let fetch = world.fetch(false, false);
    assert_eq!(
        (world.commit_code(commit), world.answers.get(&fetch)),
        (None, None),
        "nor is the offset read"
    );
    world.flush();
    assert_eq!(world.commit_code(commit), Some(ErrorCode::None));
    assert!(world.answers.contains_key(&fetch));
    let lost = world.commit(&member.member_id, 1, 8);
    world.give(Input::Failed { error: ErrorCode::NotCoordinator });
    assert_eq!(world.commit_code(lost), Some(ErrorCode::NotCoordinator));
    let later = world.commit(&member.member_id, 1, 9);
    assert_eq!(world.commit_code(later), Some(ErrorCode::NotCoordinator), "for good");
}

#[test]
fn of_a_leaders_assignments_the_first_is_stored_and_no_other() {
    for is_late in [false, true] {
        let mut world = World::new(config());
        let member = world.join("");
        world.pass(DELAY_MS);
        let member = world.joined(member).clone();
        world.is_durable = false;
        let first = world.sync(&member, &[(&member.member_id, "one")]);
        let appends = world.log.len();
        if is_late {
            let ticket = *world.waiting.last().unwrap();
            world.give(Input::Late { ticket });
            assert_eq!(world.synced(first).error_code, ErrorCode::CoordinatorNotAvailable.code());
        }
        let second = world.sync(&member, &[(&member.member_id, "two")]);
        assert_eq!((world.answers.get(&second), world.log.len()), (None, appends), "late: {is_late}");
        world.flush();
        assert_eq!(&world.synced(second).assignment[..], b"one", "late: {is_late}");
        let mut reloaded = world.reload();
        let again = reloaded.sync(&member, &[]);
        assert_eq!(&reloaded.synced(again).assignment[..], b"one", "late: {is_late}");
    }
}

#[test]
fn commits_are_judged_by_member_and_generation() {
    use ErrorCode as E;
    let mut world = World::new(config());
    let unknown = world.commit("m", 0, 1);
    assert_eq!(world.commit_code(unknown), Some(E::IllegalGeneration), "no such group");
    let alone = world.commit("", -1, 1);
    assert_eq!(world.commit_code(alone), Some(E::None), "a consumer that assigns itself");
    assert_eq!(world.offset(false), (1, E::None));
    let (leader, _) = world.stable_pair();
    let id = leader.member_id.clone();
    for (member, generation, expected) in [
        (id.as_ref(), 1, E::None),
        (id.as_ref(), 0, E::IllegalGeneration),
        ("nobody", 1, E::UnknownMemberId),
        ("", -1, E::UnknownMemberId),
    ] {
        let commit = world.commit(member, generation, 5);
        assert_eq!(world.commit_code(commit), Some(expected), "{member} {generation}");
    }
    let big = commit_request(&id, 1, 6, &"x".repeat(4_097));
    let big = world.ask(|waiter| Input::OffsetCommit { waiter, request: big });
    assert_eq!(world.commit_code(big), Some(E::OffsetMetadataTooLarge));
    assert_eq!(world.offset(false), (5, E::None));
    let third = world.join("");
    let during = world.commit(&id, 1, 8);
    assert_eq!(world.commit_code(during), Some(E::None), "while others join, the old generation may commit");
    world.join(&leader.member_id);
    world.pass(REBALANCE_MS);
    let id = world.joined(third).member_id.clone();
    let completing = world.commit(&id, 2, 9);
    assert_eq!(world.commit_code(completing), Some(E::RebalanceInProgress));
}

#[test]
fn groups_are_deleted_when_nobody_is_in_them() {
    let mut world = World::new(config());
    assert_eq!(world.delete(), ErrorCode::GroupIdNotFound);
    let (leader, follower) = world.stable_pair();
    let commit = world.commit(&leader.member_id, 1, 5);
    assert_eq!(world.commit_code(commit), Some(ErrorCode::None));
    assert_eq!(world.delete(), ErrorCode::NonEmptyGroup);
    world.pass(SESSION_MS);
    assert_eq!(world.heartbeat(&follower), ErrorCode::UnknownMemberId);
    assert_eq!(world.state(), "Empty");
    assert_eq!(world.delete(), ErrorCode::None);
    assert_eq!(world.offset(false), (-1, ErrorCode::None));
    assert_eq!(world.machine.list(&[], &[]), []);
    assert_eq!(world.reload().machine.list(&[], &[]), []);
}

#[test]
fn groups_are_listed_and_described_as_kafka_does() {
    let mut world = World::new(config());
    let (leader, _) = world.stable_pair();
    let names = |filter: &[&str]| filter.iter().map(|name| ByteString::from(*name)).collect::<Vec<_>>();
    for (states, types, count) in [
        (vec![], vec![], 1),
        (vec!["stable"], vec!["Classic"], 1),
        (vec!["Empty"], vec![], 0),
        (vec![], vec!["share"], 0),
    ] {
        assert_eq!(world.machine.list(&names(&states), &names(&types)).len(), count, "{states:?} {types:?}");
    }
    let described = world.machine.describe("g", true);
    assert_eq!((&*described.protocol_type, &*described.protocol_data), ("consumer", "range"));
    let member = described.members.iter().find(|member| member.member_id == leader.member_id).unwrap();
    assert_eq!((&*member.client_id, &*member.client_host), ("c", "/127.0.0.1"));
    assert_eq!((&member.member_metadata[..], &member.member_assignment[..]), (&b"m"[..], &b"L"[..]));
    assert_eq!(world.machine.describe("x", true).error_code, ErrorCode::GroupIdNotFound.code());
    let dead = world.machine.describe("x", false);
    assert_eq!((dead.error_code, &*dead.group_state), (0, "Dead"));
}

#[derive(Clone, Debug)]
enum Act {
    JoinNew { must_know: bool, instance: Option<u8> },
    Rejoin(usize),
    Sync(usize),
    Heartbeat(usize),
    Leave(usize),
    Commit(usize),
    TxnCommit(u8),
    EndTxn(u8, bool),
    Fetch(bool),
    DeleteOffsets,
    Delete,
    Pass(i64),
    Flush,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (any::<bool>(), prop::option::of(0..3u8))
            .prop_map(|(must_know, instance)| Act::JoinNew { must_know, instance }),
        4 => (0..8usize).prop_map(Act::Rejoin),
        6 => (0..8usize).prop_map(Act::Sync),
        2 => (0..8usize).prop_map(Act::Heartbeat),
        1 => (0..8usize).prop_map(Act::Leave),
        2 => (0..8usize).prop_map(Act::Commit),
        2 => (0..3u8).prop_map(Act::TxnCommit),
        1 => (0..3u8, any::<bool>()).prop_map(|(producer, commit)| Act::EndTxn(producer, commit)),
        1 => any::<bool>().prop_map(Act::Fetch),
        1 => Just(Act::DeleteOffsets),
        1 => Just(Act::Delete),
        4 => prop_oneof![Just(100i64), Just(DELAY_MS), Just(SESSION_MS), Just(REBALANCE_MS), Just(100_000)]
            .prop_map(Act::Pass),
        5 => Just(Act::Flush),
    ]
}

proptest! {
    /// Whatever members do, and whenever the disk catches up: a group's generation rises, each waiter is answered once,
    /// and what was appended is all that a new coordinator needs.
    #[test]
    fn whatever_happens_the_log_tells_the_truth(acts in prop::collection::vec(act(), 1..120)) {
        let mut world = World::new(config());
        world.is_durable = false;
        let mut known: Vec<JoinGroupResponse> = Vec::new();
        let mut generation = 0;
        for act in acts {
            let pick = |at: usize| known.get(at % known.len().max(1)).cloned().unwrap_or_default();
            match act {
                Act::JoinNew { must_know, instance } => {
                    let instance = instance.map(|n| format!("i{n}"));
                    world.join_as(request("", instance.as_deref()), must_know);
                }
                Act::Rejoin(at) => {
                    world.join(&pick(at).member_id);
                }
                Act::Sync(at) => {
                    let member = pick(at);
                    let shares: Vec<_> = member.members.iter().map(|m| (&m.member_id, "share")).collect();
                    world.sync(&member, &shares);
                }
                Act::Heartbeat(at) => {
                    world.heartbeat(&pick(at));
                }
                Act::Leave(at) => {
                    let member = MemberIdentity { member_id: pick(at).member_id, ..MemberIdentity::default() };
                    let request = LeaveGroupRequest {
                        group_id: "g".into(),
                        members: vec![member],
                        ..LeaveGroupRequest::default()
                    };
                    world.ask(|waiter| Input::Leave { waiter, request });
                }
                Act::Commit(at) => {
                    let member = pick(at);
                    world.commit(&member.member_id, member.generation_id, 1);
                }
                Act::TxnCommit(producer) => {
                    world.commit_in_transaction(producer.into(), 2);
                }
                Act::EndTxn(producer, true) => {
                    world.end_transaction(producer.into(), TransactionOutcome::Commit);
                }
                Act::EndTxn(producer, false) => {
                    world.end_transaction(producer.into(), TransactionOutcome::Abort);
                }
                Act::Fetch(all) => {
                    world.fetch(all, true);
                }
                Act::DeleteOffsets => {
                    world.delete_offsets("g", "topic");
                }
                Act::Delete => {
                    world.ask(|waiter| Input::Delete { waiter, group_id: "g".into() });
                }
                Act::Pass(ms) => {
                    world.pass(ms);
                }
                Act::Flush => {
                    world.flush();
                }
            }
            known = world.answers.values().filter_map(|answer| match answer {
                Answer::Join(joined) if joined.error_code == 0 || !joined.member_id.is_empty() => Some(joined.clone()),
                _ => None,
            }).collect();
            known.reverse();
            known.truncate(8);
            // A deleted group that is formed again begins anew.
            let now_at = world.machine.groups.get("g").map_or(0, |group| group.generation);
            prop_assert!(now_at >= generation || now_at == 0);
            generation = now_at;
            let mut reloaded = Coordinator::new(config());
            for entry in world.log.iter().flat_map(entries) {
                reloaded.replay(entry).unwrap();
            }
            prop_assert_eq!(reloaded.snapshot(), world.machine.snapshot());
            let restored = Coordinator::restore(config(), reloaded.snapshot()).unwrap();
            prop_assert_eq!(restored.snapshot(), world.machine.snapshot());
        }
        world.flush();
        world.give(Input::Failed { error: ErrorCode::NotCoordinator });
        prop_assert_eq!(u64::try_from(world.answers.len()).unwrap(), world.waiters, "nobody is left waiting");
        prop_assert_eq!(world.machine.next_deadline(), None);
    }
}
