//! What goes on, and what does not, while the log takes nothing.

use millstream_protocol::ErrorCode;

use super::super::api::Input;
use super::super::owed::RETRY_MS;
use super::super::world::*;

const REFUSED: ErrorCode = ErrorCode::CoordinatorNotAvailable;

#[test]
fn only_what_would_be_written_is_refused() {
    let mut world = World::new(config());
    let (leader, _) = world.stable_pair();
    world.commit(&leader.member_id, 1, 5);
    let appends = world.log.len();
    world.machine.log_accepts(false);
    let refused = world.commit(&leader.member_id, 1, 6);
    assert_eq!(world.commit_code(refused), Some(REFUSED));
    assert_eq!(world.heartbeat(&leader), ErrorCode::None, "the member lives");
    assert_eq!(world.offset(true), (5, ErrorCode::None), "offsets are read");
    let refused = world.commit_in_transaction(9, 10);
    assert_eq!(world.commit_code(refused), Some(REFUSED));
    assert_eq!((world.state(), world.log.len()), ("Stable".to_owned(), appends));
    world.machine.log_accepts(true);
    let taken = world.commit(&leader.member_id, 1, 6);
    assert_eq!((world.commit_code(taken), world.offset(true)), (Some(ErrorCode::None), (6, ErrorCode::None)));
}

#[test]
fn an_assignment_is_stored_once_the_log_takes_it() {
    let mut world = World::new(config());
    let (leader, follower) = world.stable_pair();
    world.machine.log_accepts(false);
    let (two, one) = (world.join(""), world.join(&leader.member_id));
    let three = world.join(&follower.member_id);
    let [leader, new, follower] = [one, two, three].map(|waiter| world.joined(waiter).clone());
    assert_eq!((leader.generation_id, &leader.leader), (2, &leader.member_id), "a rebalance writes nothing");
    let waiting = world.sync(&new, &[]);
    world.sync(&follower, &[]);
    // For longer than members have to synchronise.
    for _ in 0..2 * REBALANCE_MS / SESSION_MS {
        world.pass(SESSION_MS - 1);
        let refused = world.sync(&leader, &[(&new.member_id, "N")]);
        assert_eq!(world.synced(refused).error_code, REFUSED.code());
        let again = world.join(&leader.member_id);
        assert_eq!(world.joined(again).generation_id, 2, "it is told again what it shares out");
    }
    world.machine.log_accepts(true);
    world.sync(&leader, &[(&new.member_id, "N")]);
    assert_eq!(&world.synced(waiting).assignment[..], b"N");
}

#[test]
fn a_static_member_takes_its_place_once_that_can_be_stored() {
    let mut world = World::new(config());
    let first = world.join_as(request("", Some("i")), true);
    world.pass(DELAY_MS);
    let first = world.joined(first).clone();
    world.sync(&first, &[(&first.member_id, "A")]);
    world.machine.log_accepts(false);
    let refused = world.join_as(request("", Some("i")), true);
    assert_eq!(world.joined(refused).error_code, REFUSED.code());
    assert_eq!(world.heartbeat_as(&first.member_id, 1, Some("i")), ErrorCode::None, "nobody has replaced it");
    world.machine.log_accepts(true);
    let taken = world.join_as(request("", Some("i")), true);
    assert_eq!(world.joined(taken).error_code, 0);
    assert_eq!(world.heartbeat_as(&first.member_id, 1, Some("i")), ErrorCode::FencedInstanceId);
}

#[test]
fn a_group_that_became_empty_is_written_later() {
    let mut world = World::new(config());
    let (leader, _) = world.stable_pair();
    world.commit(&leader.member_id, 1, 5);
    let appends = world.log.len();
    world.machine.log_accepts(false);
    world.pass(SESSION_MS);
    world.pass(REBALANCE_MS);
    assert_eq!((world.state(), world.log.len()), ("Empty".to_owned(), appends));
    assert_eq!(
        world.reload().state(),
        "Stable",
        "a coordinator that is loaded now waits for members in vain"
    );
    assert_eq!(world.delete(), REFUSED);
    world.pass(RETRY_MS);
    let due = world.machine.next_deadline().unwrap();
    assert!(due <= world.now.plus_ms(RETRY_MS), "it looks again and again");
    world.machine.log_accepts(true);
    world.pass(RETRY_MS);
    assert_eq!((world.log.len(), world.reload().state()), (appends + 1, "Empty".to_owned()));
    assert_eq!(world.delete(), ErrorCode::None);
}

#[test]
fn offsets_of_a_deleted_topic_are_forgotten_before_those_of_its_namesake_come() {
    let mut world = World::new(config());
    world.commit("", -1, 5);
    world.machine.log_accepts(false);
    world.give(Input::TopicsDeleted { topics: vec!["topic".into()] });
    world.machine.log_accepts(true);
    world.commit("", -1, 2);
    world.pass(RETRY_MS);
    assert_eq!(world.offset(true), (2, ErrorCode::None));
    assert_eq!((world.reload().offset(true), world.log.len()), ((2, ErrorCode::None), 3));
}

#[test]
fn offsets_expire_once_that_can_be_written() {
    let config = config();
    let mut world = World::new(config.clone());
    world.commit("", -1, 5);
    world.machine.log_accepts(false);
    world.pass(config.offsets_retention_ms + config.offsets_retention_check_interval_ms);
    assert_eq!(world.offset(true), (5, ErrorCode::None));
    world.machine.log_accepts(true);
    world.pass(RETRY_MS);
    assert_eq!(world.offset(true), (-1, ErrorCode::None));
}

#[test]
fn who_waits_for_a_late_append_asks_again_and_the_group_lives_on() {
    let mut world = World::new(config());
    let (leader, follower) = world.stable_pair();
    world.is_durable = false;
    let late = world.commit(&leader.member_id, 1, 5);
    let read = world.fetch(false, true);
    let [ticket] = world.waiting[..] else { panic!("{:?}", world.waiting) };
    world.give(Input::Late { ticket });
    assert_eq!(world.commit_code(late), Some(REFUSED));
    assert!(world.answers.contains_key(&read), "it is told to ask again");
    assert_eq!(world.heartbeat(&leader), ErrorCode::None);
    world.flush();
    assert_eq!(world.offset(true), (5, ErrorCode::None), "it was in the log");

    let (one, two) = (world.join(&leader.member_id), world.join(&follower.member_id));
    let (leader, follower) = (world.joined(one).clone(), world.joined(two).clone());
    let (leader_waits, follower_waits) =
        (world.sync(&leader, &[(&follower.member_id, "F")]), world.sync(&follower, &[]));
    let [ticket] = world.waiting[..] else { panic!("{:?}", world.waiting) };
    world.give(Input::Late { ticket });
    for waiter in [leader_waits, follower_waits] {
        assert_eq!(world.synced(waiter).error_code, REFUSED.code());
    }
    world.flush();
    let again = world.sync(&follower, &[]);
    assert_eq!((world.state(), &world.synced(again).assignment[..]), ("Stable".to_owned(), &b"F"[..]));
}
