//! How a replica answers: by hand for each rule, and by chance for all of them together.

use millstream_record::{LeaderEpoch, Millis, NodeId, Offset};
use proptest::prelude::*;

use super::{Acks, Effect, Input, Outcome, Replica, Start, State, TransactionChange};
use crate::Waiter;

const NOW: Millis = Millis(1_000);
const LATER: Millis = Millis(31_000);

fn leader(isr: &[i32], min_isr: usize) -> Replica {
    Replica::new(Start {
        node: NodeId(1),
        epoch: LeaderEpoch(0),
        isr: isr.iter().copied().map(NodeId).collect(),
        min_isr,
        log_start: Offset(0),
        end: Offset(0),
        open_transactions: Vec::new(),
    })
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
    let mut replica = leader(&[1, 2], 2);
    replica.step(NOW, append(10, Acks::All, 1));
    assert_eq!(replica.next_deadline(), Some(LATER));
    assert_eq!(replica.step(LATER, Input::Tick), [answer(1, Outcome::TimedOut)]);
    replica.step(LATER, Input::Flushed { point: Offset(10) });
    let report = Input::FollowerReported { node: NodeId(2), durable_end: Offset(10) };
    assert_eq!(replica.step(LATER, report), [wake(10, 10)]);
}

#[test]
fn the_mark_is_the_least_fsynced_end_of_committed_and_proposed_members() {
    let mut replica = leader(&[1, 2], 1);
    replica.step(NOW, append(10, Acks::All, 1));
    assert_eq!(replica.step(NOW, Input::Flushed { point: Offset(10) }), [], "the follower has nothing yet");
    replica.step(NOW, Input::FollowerReported { node: NodeId(2), durable_end: Offset(4) });
    assert_eq!(replica.high_watermark(), Offset(4));
    replica.step(NOW, Input::IsrProposed { isr: vec![NodeId(1)] });
    assert_eq!(replica.high_watermark(), Offset(4), "a member that leaves counts until that is committed");
    assert_eq!(
        replica.step(NOW, Input::IsrCommitted { isr: vec![NodeId(1)] }),
        [answer(1, Outcome::Done), wake(10, 10)]
    );
    replica.step(NOW, Input::IsrProposed { isr: vec![NodeId(1), NodeId(3)] });
    replica.step(NOW, append(20, Acks::All, 2));
    replica.step(NOW, Input::Flushed { point: Offset(20) });
    assert_eq!(replica.high_watermark(), Offset(10), "a proposed member counts at once");
}

#[test]
fn below_min_insync_the_mark_stands_still() {
    let mut replica = leader(&[1], 2);
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

#[derive(Clone, Debug)]
enum Act {
    Append { acks: Acks, records: i64, opens: bool },
    CloseOldest,
    Duplicate { back: i64 },
    Flush,
    Follower { back: i64 },
    Isr { with_follower: bool },
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
        4 => (0..10i64).prop_map(|back| Act::Follower { back }),
        2 => any::<bool>().prop_map(|with_follower| Act::Isr { with_follower }),
        2 => (0..3_000i64).prop_map(|ms| Act::Tick { ms }),
        1 => any::<bool>().prop_map(|failed| Act::Stop { failed }),
    ]
}

proptest! {
    /// Whatever happens: the marks never go back, each waiter is answered once, none as done before it is durable on the
    /// set that was in sync, and nobody waits when leadership has ended.
    #[test]
    fn marks_only_rise_and_every_waiter_is_answered_once(acts in prop::collection::vec(act(), 1..80)) {
        let mut replica = leader(&[1, 2], 1);
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
                Act::Follower { back } => {
                    Input::FollowerReported { node: NodeId(2), durable_end: Offset((end - back).max(0)) }
                }
                Act::Isr { with_follower: true } => Input::IsrCommitted { isr: vec![NodeId(1), NodeId(2)] },
                Act::Isr { with_follower: false } => Input::IsrCommitted { isr: vec![NodeId(1)] },
                Act::Tick { ms } => {
                    now += ms;
                    Input::Tick
                }
                Act::Stop { failed: true } => Input::FlushFailed,
                Act::Stop { failed: false } => Input::Resigned,
            };
            for effect in replica.step(Millis(now), input) {
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
