//! Offsets: committed, pending, deleted, expired.

use millstream_protocol::ErrorCode;
use millstream_protocol::messages::ConsumerProtocolSubscription;
use millstream_protocol::wire::Message;

use super::super::api::Input;
use super::super::world::*;
use crate::TransactionOutcome;

#[test]
fn offsets_of_a_transaction_show_when_it_commits_unless_overtaken() {
    use TransactionOutcome::{Abort, Commit};
    let mut world = World::new(config());
    assert_eq!(world.offset(true), (-1, ErrorCode::None), "nothing was ever committed");
    world.commit("", -1, 1);
    world.commit_in_transaction(9, 10);
    assert_eq!(world.offset(false), (1, ErrorCode::None));
    assert_eq!(world.offset(true), (-1, ErrorCode::UnstableOffsetCommit));
    let mut reloaded = world.reload();
    for world in [&mut world, &mut reloaded] {
        world.end_transaction(9, Commit);
        assert_eq!(world.offset(true), (10, ErrorCode::None));
    }
    world.commit_in_transaction(9, 20);
    world.end_transaction(9, Abort);
    assert_eq!(world.offset(true), (10, ErrorCode::None));
    world.commit_in_transaction(9, 30);
    world.commit("", -1, 40);
    world.end_transaction(9, Commit);
    assert_eq!(world.offset(true), (40, ErrorCode::None), "what was written later stays");
}

#[test]
fn commits_that_are_refused_leave_no_group_behind() {
    type Ask = fn(&mut World) -> crate::Waiter;
    let too_large: Ask = |world| {
        let request = commit_request("", -1, 6, &"x".repeat(4_097));
        world.ask(|waiter| Input::OffsetCommit { waiter, request })
    };
    let cases: [(Ask, bool, ErrorCode); 4] = [
        (|world| world.commit("", -1, 1), false, ErrorCode::CoordinatorNotAvailable),
        (|world| world.commit_in_transaction(9, 1), false, ErrorCode::CoordinatorNotAvailable),
        (|world| world.commit("m", 3, 1), true, ErrorCode::IllegalGeneration),
        (too_large, true, ErrorCode::OffsetMetadataTooLarge),
    ];
    for (at, (ask, log_accepts, expected)) in cases.into_iter().enumerate() {
        let mut world = World::new(config());
        world.machine.log_accepts(log_accepts);
        let waiter = ask(&mut world);
        assert_eq!(world.commit_code(waiter), Some(expected), "{at}");
        assert_eq!(world.state(), "Dead", "{at}: there is no such group");
        world.machine.log_accepts(true);
        let waiter = world.commit("", -1, 1);
        assert_eq!((world.commit_code(waiter), &*world.state()), (Some(ErrorCode::None), "Empty"), "{at}");
    }
}

#[test]
fn offsets_are_deleted_where_nobody_reads_the_topic() {
    use ErrorCode as E;
    let done = || (E::None, vec![E::None, E::None]);
    let mut world = World::new(config());
    for (group, expected) in [("", E::InvalidGroupId), ("g", E::GroupIdNotFound)] {
        let waiter = world.delete_offsets(group, "topic");
        assert_eq!(world.deleted_offsets(waiter), (expected, vec![]), "`{group}`");
    }
    world.commit("", -1, 7);
    let appends = world.log.len();
    let waiter = world.delete_offsets("g", "other");
    assert_eq!((world.deleted_offsets(waiter), world.log.len()), (done(), appends), "nothing was committed");
    world.is_durable = false;
    let waiter = world.delete_offsets("g", "topic");
    assert!(!world.answers.contains_key(&waiter), "the tombstone could still be lost");
    world.flush();
    world.is_durable = true;
    assert_eq!(world.deleted_offsets(waiter), done());
    assert_eq!(world.offset(false), (-1, E::None));
    assert_eq!(world.reload().offset(false), (-1, E::None));

    world.commit_in_transaction(5, 9);
    let waiter = world.delete_offsets("g", "topic");
    assert_eq!(world.deleted_offsets(waiter), done());
    world.end_transaction(5, TransactionOutcome::Commit);
    assert_eq!(world.offset(true), (-1, E::None), "what was pending does not come back");
    assert_eq!(world.reload().offset(true), (-1, E::None));
}

#[test]
fn offsets_that_members_may_read_are_kept() {
    use ErrorCode as E;
    let subscription = ConsumerProtocolSubscription { topics: vec!["topic".into()], ..Default::default() };
    let subscription = subscription.encode_versioned(0).unwrap();
    let readable = Some(subscription);
    // (Protocol type, what its member says, topic, the code of the group, the code of each partition.)
    let table = [
        ("consumer", readable.clone(), "topic", E::None, Some(E::GroupSubscribedToTopic)),
        ("consumer", readable.clone(), "other", E::None, Some(E::None)),
        ("consumer", None, "other", E::None, Some(E::GroupSubscribedToTopic)),
        ("connect", readable, "other", E::NonEmptyGroup, None),
    ];
    for (protocol_type, says, topic, of_group, of_partitions) in table {
        let shown = format!("{protocol_type}, {says:?}, {topic}");
        let mut world = World::new(config());
        let mut member = request("", None);
        member.protocol_type = protocol_type.into();
        if let Some(says) = says {
            member.protocols[0].metadata = says;
        }
        let waiter = world.join_as(member, false);
        world.pass(DELAY_MS);
        let joined = world.joined(waiter).clone();
        world.sync(&joined, &[]);
        world.commit(&joined.member_id, 1, 7);
        let waiter = world.delete_offsets("g", topic);
        let expected = (of_group, vec![of_partitions; 2].into_iter().flatten().collect());
        assert_eq!(world.deleted_offsets(waiter), expected, "{shown}");
        assert_eq!(world.offset(false), (7, E::None), "{shown}");
        world.pass(SESSION_MS);
        assert_eq!(world.state(), "Empty", "{shown}");
        let waiter = world.delete_offsets("g", "topic");
        assert_eq!(world.deleted_offsets(waiter), (E::None, vec![E::None, E::None]), "{shown}");
        assert_eq!(world.offset(false), (-1, E::None), "{shown}: nobody is left who reads it");
    }
}

#[test]
fn offsets_expire_when_their_group_is_no_longer_used() {
    let mut world = World::new(config());
    let (leader, follower) = world.stable_pair();
    world.commit(&leader.member_id, 1, 5);
    for _ in 0..30 {
        world.pass(SESSION_MS / 2);
        world.heartbeat(&leader);
        world.heartbeat(&follower);
    }
    assert_eq!(
        world.offset(false),
        (5, ErrorCode::None),
        "a subscription that cannot be read keeps its offsets"
    );
    world.pass(SESSION_MS);
    assert_eq!(world.state(), "Empty");
    world.pass(90_000);
    assert_eq!(world.offset(false), (5, ErrorCode::None), "retention begins when the group becomes empty");
    world.pass(20_000);
    assert_eq!(world.offset(false), (-1, ErrorCode::None));
    assert_eq!(world.reload().machine.list(&[], &[]), [], "and the group is gone with them");
}

#[test]
fn offsets_of_deleted_topics_are_void() {
    let mut world = World::new(config());
    world.commit("", -1, 5);
    world.give(Input::TopicsDeleted { topics: vec!["another".into()] });
    assert_eq!(world.offset(false).0, 5);
    world.give(Input::TopicsDeleted { topics: vec!["topic".into()] });
    assert_eq!(world.offset(false).0, -1);
}
