//! How a replica answers: by hand for each rule, and by chance for all of them together.

use millstream_record::{LeaderEpoch, Millis, NodeId, Offset};
use proptest::prelude::*;

use super::{Acks, Effect, Input, Outcome, Replica, Start, State, TransactionChange};
use crate::Waiter;

const NOW: Millis = Millis(1_000);
const LATER: Millis = Millis(31_000);

/// `replica.lag.time.max.ms` in these tests.
const LAG_MS: i64 = 10_000;

fn nodes(ids: &[i32]) -> Vec<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

/// Node 1 leads replicas 1, 2 and 3, or only itself where it is alone in sync.
fn start(isr: &[i32], min_isr: usize) -> Start {
    let replicas = if isr == [1] { nodes(&[1]) } else { nodes(&[1, 2, 3]) };
    let alone = Start::alone(NodeId(1), LeaderEpoch(0), Offset(0), Offset(0));
    Start { replicas, isr: nodes(isr), min_isr, lag_max_ms: LAG_MS, ..alone }
}

fn leader(isr: &[i32], min_isr: usize) -> Replica {
    Replica::new(NOW, start(isr, min_isr))
}

fn fetched(node: i32, durable_end: i64) -> Input {
    fetched_in(node, 100 + i64::from(node), durable_end)
}

fn fetched_in(node: i32, broker_epoch: i64, durable_end: i64) -> Input {
    Input::FollowerFetched {
        node: NodeId(node),
        broker_epoch,
        log_start: Offset(0),
        durable_end: Offset(durable_end),
        eligible: true,
    }
}

fn committed(isr: &[i32], partition_epoch: i32) -> Input {
    Input::Committed { replicas: nodes(&[1, 2, 3]), isr: nodes(isr), partition_epoch }
}

fn propose(isr: &[(i32, i64)], partition_epoch: i32) -> Effect {
    Effect::ProposeIsr {
        isr: isr.iter().map(|&(node, epoch)| (NodeId(node), epoch)).collect(),
        partition_epoch,
    }
}

fn append(end: i64, acks: Acks, waiter: u64) -> Input {
    appended(end, acks, waiter, TransactionChange::None)
}

fn appended(end: i64, acks: Acks, waiter: u64, transaction: TransactionChange) -> Input {
    let waiter = (acks != Acks::None).then_some(Waiter(waiter));
    Input::Appended { end: Offset(end), acks, waiter, deadline: LATER, transaction }
}

fn answer(waiter: u64, outcome: Outcome) -> Effect {
    Effect::Answer { waiter: Waiter(waiter), outcome }
}

fn wake(high_watermark: i64, last_stable: i64) -> Effect {
    Effect::Wake { high_watermark: Offset(high_watermark), last_stable: Offset(last_stable) }
}

#[test]
fn acks_all_waits_for_fsync_and_acks_one_does_not() {
    let mut replica = leader(&[1], 1);
    assert_eq!(
        replica.step(NOW, append(10, Acks::Leader, 1)),
        [Effect::Flush, answer(1, Outcome::Done)],
        "acks=1 is answered from the page cache, yet flushed, since consumers wait for it"
    );
    assert_eq!(replica.step(NOW, append(20, Acks::All, 2)), [], "a flush is on its way already");
    assert_eq!(
        replica.step(NOW, Input::Flushed { point: Offset(10) }),
        [Effect::Flush, wake(10, 10)],
        "what was appended after the point needs another flush"
    );
    assert_eq!(
        replica.step(NOW, Input::Flushed { point: Offset(20) }),
        [answer(2, Outcome::Done), wake(20, 20)]
    );
    assert_eq!(replica.next_deadline(), None);
}

#[test]
fn a_duplicate_waits_for_its_original() {
    let mut replica = leader(&[1], 1);
    replica.step(NOW, append(10, Acks::All, 1));
    let duplicate = |waiter| Input::Duplicate {
        end: Offset(10),
        acks: Acks::All,
        waiter: Some(Waiter(waiter)),
        deadline: LATER,
    };
    assert_eq!(replica.step(NOW, duplicate(2)), []);
    assert_eq!(
        replica.step(NOW, Input::Flushed { point: Offset(10) }),
        [answer(1, Outcome::Done), answer(2, Outcome::Done), wake(10, 10)]
    );
    assert_eq!(replica.step(NOW, duplicate(3)), [answer(3, Outcome::Done)], "the original is durable");
}

#[test]
fn a_failed_fsync_and_a_new_leader_fail_every_waiter_for_good() {
    for (input, state, outcome) in [
        (Input::FlushFailed, State::Failed, Outcome::StorageFailed),
        (Input::Resigned, State::Resigned, Outcome::NotLeader),
    ] {
        let mut replica = leader(&[1], 1);
        replica.step(NOW, append(10, Acks::All, 1));
        assert_eq!(replica.step(NOW, input), [answer(1, outcome)]);
        assert_eq!(
            replica.step(NOW, Input::Flushed { point: Offset(10) }),
            [],
            "a later success proves nothing"
        );
        assert_eq!(replica.high_watermark(), Offset(0));
        assert_eq!(replica.step(NOW, append(20, Acks::All, 2)), [answer(2, outcome)]);
        assert_eq!(replica.state(), state);
    }
}

#[test]
fn a_deadline_answers_once() {
    let mut replica = Replica::new(NOW, Start { lag_max_ms: i64::MAX, ..start(&[1, 2], 2) });
    replica.step(NOW, append(10, Acks::All, 1));
    assert_eq!(replica.next_deadline(), Some(LATER));
    assert_eq!(replica.step(LATER, Input::Tick), [answer(1, Outcome::TimedOut)]);
    replica.step(LATER, Input::Flushed { point: Offset(10) });
    assert_eq!(replica.step(LATER, fetched(2, 10)), [wake(10, 10)]);
}

#[test]
fn the_mark_is_the_least_fsynced_end_of_committed_and_proposed_members() {
    let mut replica = leader(&[1, 2], 1);
    replica.step(NOW, append(10, Acks::All, 1));
    assert_eq!(replica.step(NOW, Input::Flushed { point: Offset(10) }), [], "the follower has nothing yet");
    assert_eq!(replica.step(NOW, fetched(2, 4)), [wake(4, 4)]);
    let late = NOW.plus_ms(LAG_MS + 1);
    assert_eq!(replica.step(late, Input::Tick), [propose(&[(1, -1)], 0)], "it did not catch up");
    assert_eq!(replica.high_watermark(), Offset(4), "a member that leaves counts until that is committed");
    assert_eq!(replica.step(late, Input::Tick), [], "one proposal at a time");
    let out = replica.step(late, committed(&[1], 1));
    assert_eq!(out, [Effect::HearFollowers, answer(1, Outcome::Done), wake(10, 10)]);
    assert_eq!(replica.step(late, fetched(3, 9)), [], "below the mark: it must not join");
    assert_eq!(replica.step(late, fetched(3, 10)), [propose(&[(1, -1), (3, 103)], 1)]);
    replica.step(late, append(20, Acks::All, 2));
    replica.step(late, Input::Flushed { point: Offset(20) });
    assert_eq!(replica.high_watermark(), Offset(10), "a proposed member counts at once");
}

#[test]
fn what_is_older_than_what_is_known_is_ignored() {
    let mut replica = leader(&[1, 2], 1);
    replica.step(NOW, append(10, Acks::Leader, 1));
    replica.step(NOW, Input::Flushed { point: Offset(10) });
    replica.step(NOW, committed(&[1, 2, 3], 5));
    replica.step(NOW, committed(&[1], 4));
    assert_eq!(replica.isr(), nodes(&[1, 2, 3]));
    replica.step(NOW, fetched_in(2, 200, 10));
    replica.step(NOW, fetched_in(3, 300, 10));
    assert_eq!(replica.high_watermark(), Offset(10));
    replica.step(NOW, append(20, Acks::Leader, 2));
    replica.step(NOW, Input::Flushed { point: Offset(20) });
    replica.step(NOW, fetched_in(3, 300, 20));
    replica.step(NOW, fetched_in(2, 199, 20));
    assert_eq!(replica.high_watermark(), Offset(10), "an older incarnation of the follower says nothing");
    replica.step(NOW, fetched_in(2, 201, 0));
    assert_eq!(replica.high_watermark(), Offset(10), "an emptied disk does not take the mark back");
    replica.step(NOW, fetched_in(2, 201, 20));
    assert_eq!(replica.high_watermark(), Offset(20));
}

#[test]
fn who_may_not_be_in_sync_is_not_asked_for_and_a_refusal_is_not_repeated_at_once() {
    let mut replica = leader(&[1, 2], 1);
    let fenced = Input::FollowerFetched {
        node: NodeId(3),
        broker_epoch: 7,
        log_start: Offset(0),
        durable_end: Offset(0),
        eligible: false,
    };
    assert_eq!(replica.step(NOW, fenced), []);
    assert_eq!(replica.step(NOW, fetched(3, 0)), [propose(&[(1, -1), (2, -1), (3, 103)], 0)]);
    replica.step(NOW, Input::IsrRefused { partition_epoch: 0 });
    assert_eq!(replica.step(NOW, fetched(3, 0)), []);
    let again = replica.step(NOW.plus_ms(1_000), fetched(3, 0));
    assert_eq!(again, [propose(&[(1, -1), (2, -1), (3, 103)], 0)]);
    let stranger = replica.step(NOW, fetched(9, 0));
    assert_eq!(stranger, [], "a broker that is no replica");
}

#[test]
fn who_was_taken_out_or_refused_is_asked_for_once_it_fetches_again_and_keeps_nobody_else_out() {
    let mut replica = leader(&[1, 2], 1);
    assert_eq!(replica.step(NOW, fetched(2, 0)), []);
    assert_eq!(
        replica.step(NOW, committed(&[1], 1)),
        [Effect::HearFollowers],
        "the controller knows that 2 is gone"
    );
    assert_eq!(replica.step(NOW, fetched(3, 0)), [propose(&[(1, -1), (3, 103)], 1)]);
    replica.step(NOW, Input::IsrRefused { partition_epoch: 1 });
    assert_eq!(replica.step(NOW.plus_ms(1_000), Input::Tick), [], "3 may be gone by now as well");
    assert_eq!(replica.step(NOW.plus_ms(1_000), fetched(2, 0)), [propose(&[(1, -1), (2, 102)], 1)]);
    replica.step(NOW.plus_ms(1_000), committed(&[1, 2], 2));
    let last = replica.step(NOW.plus_ms(1_000), fetched(3, 0));
    assert_eq!(last, [propose(&[(1, -1), (2, 102), (3, 103)], 2)]);
}

#[test]
fn a_follower_that_had_all_at_its_last_fetch_was_caught_up_then() {
    let mut replica = leader(&[1, 2], 1);
    replica.step(NOW, committed(&[1, 2], 1));
    let at = |ms: i64| NOW.plus_ms(ms);
    replica.step(at(0), append(10, Acks::Leader, 1));
    replica.step(at(0), fetched(2, 0));
    replica.step(at(9_000), append(20, Acks::Leader, 2));
    replica.step(at(9_000), fetched(2, 10)); // all that there was at 0
    replica.step(at(10_000), Input::Tick);
    replica.step(at(10_000), append(30, Acks::Leader, 3));
    assert_eq!(replica.step(at(10_001), Input::Tick), [propose(&[(1, -1)], 1)]);
    let mut steady = leader(&[1, 2], 1);
    for second in 0..40 {
        steady.step(at(second * 1_000), append(second + 1, Acks::Leader, 1));
        let effects = steady.step(at(second * 1_000), fetched(2, second));
        assert_eq!(effects, [], "one record behind at any time is in sync");
    }
}

#[test]
fn a_follower_that_has_all_says_nothing_and_is_in_sync_from_when_the_log_grows() {
    let mut replica = leader(&[1, 2], 1);
    let at = |ms: i64| NOW.plus_ms(ms);
    replica.step(at(0), append(10, Acks::Leader, 1));
    replica.step(at(1), fetched(2, 10));
    assert_eq!(replica.step(at(60_000), Input::Tick), [], "it has all, and nothing to say");
    replica.step(at(60_000), append(20, Acks::Leader, 2));
    assert_eq!(replica.step(at(70_000), Input::Tick), [], "it had all until 60 s");
    assert_eq!(replica.step(at(70_001), Input::Tick), [propose(&[(1, -1)], 0)]);
}

#[test]
fn a_fetch_that_was_overtaken_takes_nothing_back() {
    let mut replica = leader(&[1, 2, 3], 1);
    replica.step(NOW, append(20, Acks::Leader, 1));
    replica.step(NOW, Input::Flushed { point: Offset(20) });
    replica.step(NOW, fetched(2, 20));
    replica.step(NOW, fetched(2, 10)); // was sent first, on another connection
    replica.step(NOW, fetched(3, 20));
    assert_eq!(replica.high_watermark(), Offset(20));
}

#[test]
fn a_refused_proposal_is_made_again_by_the_clock() {
    let mut replica = leader(&[1, 2], 1);
    assert_eq!(replica.step(NOW, fetched(3, 0)), [propose(&[(1, -1), (2, -1), (3, 103)], 0)]);
    assert_eq!(replica.step(NOW, Input::IsrRefused { partition_epoch: 0 }), [Effect::HearFollowers]);
    assert_eq!(replica.step(NOW, fetched(3, 0)), [], "too early");
    let due = replica.next_deadline().unwrap();
    assert_eq!(replica.step(due, Input::Tick), [propose(&[(1, -1), (2, -1), (3, 103)], 0)]);
    assert_eq!(replica.next_deadline(), None);
}

#[test]
fn a_new_leader_settles_once_its_mark_is_where_its_epoch_began() {
    let known = Start {
        end: Offset(10),
        durable_end: Offset(10),
        high_watermark: Offset(6),
        unstable: vec![(Offset(4), Some(Offset(7)))],
        ..start(&[1, 2], 1)
    };
    let mut replica = Replica::new(NOW, known);
    assert_eq!((replica.high_watermark(), replica.last_stable()), (Offset(6), Offset(4)));
    assert!(!replica.has_settled(), "an earlier leader may have shown a higher mark");
    replica.step(NOW, fetched(2, 9));
    assert!(!replica.has_settled());
    assert_eq!(replica.step(NOW, fetched(2, 10)), [wake(10, 10)]);
    assert!(replica.has_settled());
}

#[test]
fn below_min_insync_the_mark_stands_still() {
    assert!(leader(&[1], 2).has_min_isr(), "there is only one replica");
    let mut replica = Replica::new(NOW, Start { replicas: nodes(&[1, 2, 3]), ..start(&[1], 2) });
    assert!(!replica.has_min_isr());
    replica.step(NOW, append(10, Acks::Leader, 1));
    assert_eq!(replica.step(NOW, Input::Flushed { point: Offset(10) }), []);
    assert_eq!(replica.step(NOW, Input::MinIsrChanged { min_isr: 1 }), [wake(10, 10)]);
}

#[test]
fn read_committed_stops_at_a_transaction_until_its_marker_is_durable() {
    let mut replica = leader(&[1], 1);
    replica.step(NOW, append(5, Acks::Leader, 1));
    replica.step(NOW, appended(8, Acks::All, 2, TransactionChange::Opened(Offset(5))));
    replica.step(NOW, Input::Flushed { point: Offset(8) });
    assert_eq!((replica.high_watermark(), replica.last_stable()), (Offset(8), Offset(5)));
    let closed = TransactionChange::Closed { first: Offset(5), marker: Offset(8) };
    replica.step(NOW, appended(9, Acks::All, 3, closed));
    assert_eq!(replica.last_stable(), Offset(5), "a power cut could still take the marker back");
    assert_eq!(
        replica.step(NOW, Input::Flushed { point: Offset(9) }),
        [answer(3, Outcome::Done), wake(9, 9)]
    );
}

#[test]
fn a_transaction_that_began_before_what_is_left_of_the_log_holds_readers_back_at_its_start() {
    let mut replica = leader(&[1], 1);
    replica.step(NOW, appended(8, Acks::None, 0, TransactionChange::Opened(Offset(2))));
    replica.step(NOW, Input::Flushed { point: Offset(8) });
    assert_eq!(replica.last_stable(), Offset(2));
    assert_eq!(replica.step(NOW, Input::LogStartMoved { log_start: Offset(6) }), [wake(8, 6)]);
    let closed = TransactionChange::Closed { first: Offset(2), marker: Offset(8) };
    replica.step(NOW, appended(9, Acks::None, 0, closed));
    assert_eq!(replica.step(NOW, Input::Flushed { point: Offset(9) }), [wake(9, 9)]);
}

#[derive(Clone, Debug)]
enum Act {
    Append { acks: Acks, records: i64, opens: bool },
    CloseOldest,
    Duplicate { back: i64 },
    Flush,
    Follower { node: i32, back: i64 },
    Settle { refuse: bool },
    Tick { ms: i64 },
    Stop { failed: bool },
}

fn act() -> impl Strategy<Value = Act> {
    let acks = prop_oneof![Just(Acks::None), Just(Acks::Leader), Just(Acks::All)];
    prop_oneof![
        6 => (acks, 1..5i64, any::<bool>())
            .prop_map(|(acks, records, opens)| Act::Append { acks, records, opens }),
        2 => Just(Act::CloseOldest),
        1 => (0..20i64).prop_map(|back| Act::Duplicate { back }),
        4 => Just(Act::Flush),
        6 => (2..4, 0..10i64).prop_map(|(node, back)| Act::Follower { node, back }),
        3 => any::<bool>().prop_map(|refuse| Act::Settle { refuse }),
        2 => (0..6_000i64).prop_map(|ms| Act::Tick { ms }),
        1 => any::<bool>().prop_map(|failed| Act::Stop { failed }),
    ]
}

proptest! {
    /// Whatever happens: the marks never go back, each waiter is answered once, none as done before it is durable on the
    /// set that was in sync, and nobody waits when leadership has ended.
    #[test]
    fn marks_only_rise_and_every_waiter_is_answered_once(acts in prop::collection::vec(act(), 1..80)) {
        let mut replica = leader(&[1, 2], 1);
        let (mut changes, mut in_flight) = (0, None::<(Vec<i32>, i32)>);
        let (mut now, mut end, mut next) = (0i64, 0i64, 0u64);
        let mut open: Vec<i64> = Vec::new();
        let mut wants = std::collections::BTreeMap::new();
        let mut answered = std::collections::BTreeSet::new();
        let mut marks = (Offset(0), Offset(0));
        for act in acts.into_iter().chain([Act::Stop { failed: false }]) {
            let deadline = Millis(now + 1_000);
            let input = match act {
                Act::Append { acks, records, opens } => {
                    let first = end;
                    end += records;
                    next += 1;
                    if acks != Acks::None {
                        wants.insert(Waiter(next), (end, acks));
                    }
                    let transaction = if opens {
                        open.push(first);
                        TransactionChange::Opened(Offset(first))
                    } else {
                        TransactionChange::None
                    };
                    let waiter = (acks != Acks::None).then_some(Waiter(next));
                    Input::Appended { end: Offset(end), acks, waiter, deadline, transaction }
                }
                Act::CloseOldest if open.is_empty() => Input::Tick,
                Act::CloseOldest => {
                    let transaction =
                        TransactionChange::Closed { first: Offset(open.remove(0)), marker: Offset(end) };
                    end += 1;
                    Input::Appended { end: Offset(end), acks: Acks::None, waiter: None, deadline, transaction }
                }
                Act::Duplicate { back } => {
                    next += 1;
                    let original = (end - back).max(0);
                    wants.insert(Waiter(next), (original, Acks::All));
                    Input::Duplicate { end: Offset(original), acks: Acks::All, waiter: Some(Waiter(next)), deadline }
                }
                Act::Flush => Input::Flushed { point: Offset(end) },
                Act::Follower { node, back } => fetched(node, (end - back).max(0)),
                Act::Settle { refuse } => match in_flight.take() {
                    Some((_, partition_epoch)) if refuse => Input::IsrRefused { partition_epoch },
                    Some((isr, _)) => {
                        changes += 1;
                        committed(&isr, changes)
                    }
                    None => Input::Tick,
                },
                Act::Tick { ms } => {
                    now += ms;
                    Input::Tick
                }
                Act::Stop { failed: true } => Input::FlushFailed,
                Act::Stop { failed: false } => Input::Resigned,
            };
            for effect in replica.step(Millis(now), input) {
                if let Effect::ProposeIsr { isr, partition_epoch } = &effect {
                    prop_assert!(in_flight.is_none(), "two proposals at once");
                    prop_assert_eq!(*partition_epoch, changes);
                    in_flight = Some((isr.iter().map(|(node, _)| node.0).collect::<Vec<_>>(), changes));
                }
                if let Effect::Answer { waiter, outcome } = effect {
                    prop_assert!(answered.insert(waiter), "{waiter:?} answered twice");
                    let (wanted, acks) = wants[&waiter];
                    if outcome == Outcome::Done && acks == Acks::All {
                        prop_assert!(replica.high_watermark() >= Offset(wanted));
                    }
                }
            }
            let after = (replica.high_watermark(), replica.last_stable());
            prop_assert!(after.0 >= marks.0 && after.1 >= marks.1, "{marks:?} -> {after:?}");
            marks = after;
        }
        prop_assert_eq!(answered.len(), wants.len(), "everyone is answered once leadership ends");
    }
}

fn begins(node: i32, log_start: i64, durable_end: i64) -> Input {
    match fetched(node, durable_end) {
        Input::FollowerFetched { node, broker_epoch, durable_end, eligible, .. } => {
            let log_start = Offset(log_start);
            Input::FollowerFetched { node, broker_epoch, log_start, durable_end, eligible }
        }
        other => other,
    }
}

#[test]
fn the_low_watermark_is_the_least_start_of_those_that_live_or_are_in_sync() {
    let mut replica = leader(&[1, 2], 1);
    let low =
        |replica: &Replica, alive: &[i32]| replica.low_watermark(Offset(7), |node| alive.contains(&node.0)).0;
    assert_eq!(low(&leader(&[1], 1), &[]), 7, "alone");
    assert_eq!(low(&replica, &[2, 3]), -1, "nobody has said where its log begins");
    replica.step(NOW, begins(2, 5, 0));
    assert_eq!((low(&replica, &[2, 3]), low(&replica, &[2])), (-1, 5));
    assert_eq!(low(&replica, &[]), 5, "who is in sync counts though it seems to be gone");
    replica.step(NOW, begins(3, 3, 0));
    assert_eq!((low(&replica, &[2, 3]), low(&replica, &[2])), (3, 5));
    replica.step(NOW, begins(2, 9, 0));
    replica.step(NOW, begins(2, 8, 0));
    assert_eq!(low(&replica, &[2]), 7, "the leader's own; and a log start does not go back");
}

/// Elected, it would show again what was deleted.
#[test]
fn who_still_has_what_was_deleted_does_not_join() {
    let mut replica = leader(&[1, 2], 1);
    replica.step(NOW, append(10, Acks::Leader, 1));
    replica.step(NOW, Input::Flushed { point: Offset(10) });
    replica.step(NOW, fetched(2, 10));
    replica.step(NOW, Input::LogStartMoved { log_start: Offset(6) });
    assert_eq!(replica.step(NOW, begins(3, 0, 10)), [], "it has all, and more");
    assert_eq!(replica.step(NOW, begins(3, 6, 10)), [propose(&[(1, -1), (2, 102), (3, 103)], 0)]);
}
