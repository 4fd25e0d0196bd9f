//! Transactions as Kafka's producers see them, and what holds whatever they do.

use std::collections::BTreeMap;

use bytestring::ByteString;
use millstream_protocol::ErrorCode;
use millstream_protocol::messages::{EndTxnRequest, InitProducerIdRequest};
use millstream_record::{Millis, ProducerEpoch, ProducerId, TopicPartition};
use proptest::prelude::*;

use super::api::{Answer, Config, Effect, Input, Marker, Verdict};
use super::coordinator::Coordinator;
use super::state::State;
use crate::{KeyValue, Ticket, TransactionOutcome, Waiter};

const TIMEOUT_MS: i32 = 60_000;
const EPOCH: i32 = 7;

/// A coordinator, its clock, and everything it has said.
struct World {
    machine: Coordinator,
    now: Millis,
    waiters: u64,
    fresh: i64,
    answers: BTreeMap<Waiter, Answer>,
    log: Vec<KeyValue>,
    waiting: Vec<Ticket>,
    markers: Vec<Marker>,
    /// Whether appends become durable at once.
    is_durable: bool,
}

/// A producer's id and epoch.
type Producer = (i64, i16);

impl World {
    fn new() -> Self {
        Self::over(Coordinator::new(Config::default(), EPOCH), Millis(0))
    }

    fn over(mut machine: Coordinator, now: Millis) -> Self {
        let effects = machine.loaded(now);
        let mut world = Self {
            machine,
            now,
            waiters: 0,
            fresh: 1_000,
            answers: BTreeMap::new(),
            log: Vec::new(),
            waiting: Vec::new(),
            markers: Vec::new(),
            is_durable: true,
        };
        world.perform(effects);
        world
    }

    /// Another coordinator that has read everything which this one wrote.
    fn reload(&self) -> World {
        let mut machine = Coordinator::new(Config::default(), EPOCH + 1);
        for record in &self.log {
            machine.replay(record.clone()).unwrap();
        }
        let mut world = Self::over(machine, self.now);
        world.fresh = self.fresh + 1_000;
        world.log.splice(0..0, self.log.iter().cloned());
        world
    }

    fn give(&mut self, input: Input) {
        let effects = self.machine.step(self.now, input);
        self.perform(effects);
        if self.is_durable {
            self.flush();
        }
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Append { ticket, records } => {
                    self.log.extend(records);
                    self.waiting.push(ticket);
                }
                Effect::Answer { waiter, answer } => {
                    assert!(self.answers.insert(waiter, answer).is_none(), "{waiter:?} is answered twice");
                }
                Effect::WriteMarkers(marker) => self.markers.push(marker),
            }
        }
    }

    fn flush(&mut self) {
        while !self.waiting.is_empty() {
            for ticket in std::mem::take(&mut self.waiting) {
                let effects = self.machine.step(self.now, Input::Durable { ticket });
                self.perform(effects);
            }
        }
    }

    fn ask(&mut self, input: impl FnOnce(Waiter) -> Input) -> Waiter {
        self.waiters += 1;
        let waiter = Waiter(self.waiters);
        self.give(input(waiter));
        waiter
    }

    fn pass(&mut self, ms: i64) {
        self.now = self.now.plus_ms(ms);
        self.give(Input::Tick);
    }

    fn ask_init(&mut self, claim: Option<Producer>) -> Waiter {
        self.fresh += 1;
        let fresh = ProducerId(self.fresh);
        let (producer_id, producer_epoch) = claim.unwrap_or((-1, -1));
        let request = InitProducerIdRequest {
            transactional_id: Some("t".into()),
            transaction_timeout_ms: TIMEOUT_MS,
            producer_id,
            producer_epoch,
            ..InitProducerIdRequest::default()
        };
        self.ask(|waiter| Input::InitProducerId { waiter, request, fresh, producer_fenced_known: true })
    }

    fn init(&mut self, claim: Option<Producer>) -> Result<Producer, ErrorCode> {
        let waiter = self.ask_init(claim);
        match &self.answers[&waiter] {
            Answer::InitProducerId(answer) if answer.error_code == 0 => {
                Ok((answer.producer_id, answer.producer_epoch))
            }
            Answer::InitProducerId(answer) => Err(ErrorCode::from_code(answer.error_code)),
            other => panic!("not an init: {other:?}"),
        }
    }

    fn ask_add(&mut self, (id, epoch): Producer, partitions: &[i32]) -> Waiter {
        let partitions = partitions.iter().map(|index| partition(*index)).collect();
        self.ask(|waiter| Input::AddPartitions {
            waiter,
            transactional_id: "t".into(),
            producer_id: ProducerId(id),
            producer_epoch: ProducerEpoch(epoch),
            partitions,
            producer_fenced_known: true,
        })
    }

    fn code(&self, waiter: Waiter) -> Option<ErrorCode> {
        self.answers.get(&waiter).map(|answer| match answer {
            Answer::AddPartitions(code) => *code,
            Answer::EndTxn(answer) => ErrorCode::from_code(answer.error_code),
            Answer::InitProducerId(answer) => ErrorCode::from_code(answer.error_code),
        })
    }

    fn add(&mut self, producer: Producer, partitions: &[i32]) -> ErrorCode {
        let waiter = self.ask_add(producer, partitions);
        self.code(waiter).unwrap()
    }

    fn ask_end(&mut self, (producer_id, producer_epoch): Producer, committed: bool) -> Waiter {
        let request = EndTxnRequest { transactional_id: "t".into(), producer_id, producer_epoch, committed };
        self.ask(|waiter| Input::EndTxn { waiter, request, producer_fenced_known: true })
    }

    fn end(&mut self, producer: Producer, committed: bool) -> ErrorCode {
        let waiter = self.ask_end(producer, committed);
        self.code(waiter).unwrap()
    }

    /// Every partition takes every marker that was sent.
    fn write_markers(&mut self) {
        for marker in std::mem::take(&mut self.markers) {
            for partition in marker.partitions {
                self.give(Input::MarkerWritten {
                    transactional_id: marker.transactional_id.clone(),
                    producer_id: marker.producer_id,
                    producer_epoch: marker.producer_epoch,
                    partition,
                });
            }
        }
    }

    fn verify(&self, (id, epoch): Producer, index: i32) -> Verdict {
        self.machine.verify("t", ProducerId(id), ProducerEpoch(epoch), &partition(index))
    }
}

fn partition(index: i32) -> TopicPartition {
    TopicPartition::new("topic", index)
}

#[test]
fn transactions_stand_still_while_the_log_takes_nothing() {
    const REFUSED: ErrorCode = ErrorCode::CoordinatorNotAvailable;
    let mut world = World::new();
    let producer = world.init(None).unwrap();
    assert_eq!(world.add(producer, &[0]), ErrorCode::None);
    let mut written = world.log.len();
    world.machine.log_accepts(false);
    assert_eq!(world.init(None), Err(REFUSED));
    assert_eq!((world.add(producer, &[1]), world.end(producer, true)), (REFUSED, REFUSED));
    assert_eq!(world.add(producer, &[0]), ErrorCode::None, "there is nothing to write");
    assert_eq!(world.verify(producer, 0), Verdict::InTransaction, "what is open may be written to");
    assert_eq!(world.log.len(), written);
    world.machine.log_accepts(true);
    assert_eq!(world.end(producer, true), ErrorCode::None);

    // Its markers are written meanwhile: it is complete once that can be said.
    written = world.log.len();
    world.machine.log_accepts(false);
    world.write_markers();
    world.pass(1_000);
    assert_eq!((world.log.len(), world.add(producer, &[0])), (written, ErrorCode::ConcurrentTransactions));
    world.machine.log_accepts(true);
    world.pass(1_000);
    assert_eq!((world.log.len(), world.add(producer, &[0])), (written + 1, ErrorCode::None));

    // Its time is over meanwhile: it is aborted once that can be said.
    written = world.log.len();
    world.machine.log_accepts(false);
    world.pass(2 * i64::from(TIMEOUT_MS));
    assert_eq!((world.log.len(), world.verify(producer, 0)), (written, Verdict::InTransaction));
    world.machine.log_accepts(true);
    world.pass(1_000);
    let aborted = world.markers.pop().expect("the abort goes to its partition");
    assert_eq!((aborted.outcome, aborted.producer_epoch.0), (TransactionOutcome::Abort, producer.1 + 1));
}

#[test]
fn who_waits_for_a_late_append_asks_again() {
    let mut world = World::new();
    let producer = world.init(None).unwrap();
    world.is_durable = false;
    let late = world.ask_add(producer, &[0]);
    let [ticket] = world.waiting[..] else { panic!("{:?}", world.waiting) };
    world.give(Input::Late { ticket });
    assert_eq!(world.code(late), Some(ErrorCode::CoordinatorNotAvailable));
    assert_eq!(world.add(producer, &[0]), ErrorCode::ConcurrentTransactions, "it may yet become durable");
    world.flush();
    world.is_durable = true;
    assert_eq!((world.add(producer, &[0]), world.end(producer, true)), (ErrorCode::None, ErrorCode::None));
}

#[test]
fn a_transaction_is_answered_once_prepared_and_complete_once_marked() {
    let mut world = World::new();
    let producer = world.init(None).unwrap();
    assert_eq!(producer, (1_001, 0));
    world.is_durable = false;
    let add = world.ask_add(producer, &[0, 1]);
    assert_eq!(world.code(add), None);
    assert_eq!(
        world.verify(producer, 0),
        Verdict::Refused(ErrorCode::TransactionAbortable),
        "not durable yet"
    );
    world.flush();
    assert_eq!((world.code(add), world.verify(producer, 0)), (Some(ErrorCode::None), Verdict::InTransaction));
    assert_eq!(world.verify(producer, 2), Verdict::Refused(ErrorCode::TransactionAbortable));
    let end = world.ask_end(producer, true);
    assert_eq!(
        (world.code(end), world.markers.len()),
        (None, 0),
        "no marker leaves before the decision is durable"
    );
    world.flush();
    assert_eq!(world.code(end), Some(ErrorCode::None));
    let marker = world.markers[0].clone();
    assert_eq!((marker.outcome, marker.coordinator_epoch), (TransactionOutcome::Commit, EPOCH));
    assert_eq!((marker.producer_epoch, marker.partitions.len()), (ProducerEpoch(0), 2));
    assert_eq!(world.add(producer, &[0]), ErrorCode::ConcurrentTransactions, "the markers are on their way");
    world.write_markers();
    world.flush();
    world.is_durable = true;
    assert_eq!(world.end(producer, true), ErrorCode::None, "the answer was lost, it is given again");
    assert_eq!(world.end(producer, false), ErrorCode::InvalidTxnState);
    assert_eq!(world.add(producer, &[2]), ErrorCode::None);
    assert_eq!(
        world.verify(producer, 0),
        Verdict::Refused(ErrorCode::TransactionAbortable),
        "that one is over"
    );
}

#[test]
fn strangers_are_refused_with_kafkas_codes() {
    use ErrorCode as E;
    let mut world = World::new();
    assert_eq!(world.add((1, 0), &[0]), E::InvalidProducerIdMapping, "nobody has that transactional id");
    let (id, _) = world.init(None).unwrap();
    let (_, epoch) = world.init(None).unwrap();
    assert_eq!(epoch, 1, "a new instance gets a higher epoch");
    for (producer, expected) in [
        ((id, 0), E::ProducerFenced),
        ((id, 2), E::ProducerFenced),
        ((id + 1, 1), E::InvalidProducerIdMapping),
        ((id, 1), E::None),
    ] {
        assert_eq!(world.add(producer, &[0]), expected, "{producer:?}");
        let verdict = if expected == E::None { Verdict::InTransaction } else { Verdict::Refused(expected) };
        assert_eq!(world.verify(producer, 0), verdict, "{producer:?}");
        assert_eq!(world.end(producer, false), expected, "{producer:?}");
        world.write_markers();
        world.add((id, 1), &[0]);
    }
    let request = EndTxnRequest { transactional_id: "t".into(), producer_id: id, ..EndTxnRequest::default() };
    let waiter = world.ask(|waiter| Input::EndTxn { waiter, request, producer_fenced_known: false });
    assert_eq!(world.code(waiter), Some(E::InvalidProducerEpoch), "a client from before KIP-588");
}

#[test]
fn bad_inits_are_refused_with_kafkas_codes() {
    use ErrorCode as E;
    let table = [
        (Some(""), TIMEOUT_MS, (-1, -1), E::InvalidRequest),
        (Some("t"), 0, (-1, -1), E::InvalidTransactionTimeout),
        (Some("t"), 900_001, (-1, -1), E::InvalidTransactionTimeout),
        (Some("t"), TIMEOUT_MS, (5, -1), E::InvalidRequest),
        (Some("t"), TIMEOUT_MS, (-1, 5), E::InvalidRequest),
        (Some("t"), TIMEOUT_MS, (5, 5), E::ProducerFenced),
        (Some("t"), TIMEOUT_MS, (1_001, 5), E::ProducerFenced),
        (Some("t"), TIMEOUT_MS, (1_001, 0), E::None),
        (Some("new"), TIMEOUT_MS, (5, 5), E::None),
    ];
    for (id, transaction_timeout_ms, (producer_id, producer_epoch), expected) in table {
        let mut world = World::new();
        world.init(None).unwrap();
        let request = InitProducerIdRequest {
            transactional_id: id.map(ByteString::from),
            transaction_timeout_ms,
            producer_id,
            producer_epoch,
            ..InitProducerIdRequest::default()
        };
        let shown = format!("{request:?}");
        let waiter = world.ask(|waiter| Input::InitProducerId {
            waiter,
            request,
            fresh: ProducerId(9),
            producer_fenced_known: true,
        });
        assert_eq!(world.code(waiter), Some(expected), "{shown}");
    }
}

#[test]
fn two_phase_commit_is_refused() {
    for (enable2_pc, keep_prepared_txn, expected) in [
        (true, false, ErrorCode::TransactionalIdAuthorizationFailed),
        (false, true, ErrorCode::UnsupportedVersion),
    ] {
        let mut world = World::new();
        let request = InitProducerIdRequest {
            transactional_id: Some("t".into()),
            transaction_timeout_ms: TIMEOUT_MS,
            enable2_pc,
            keep_prepared_txn,
            ..InitProducerIdRequest::default()
        };
        let waiter = world.ask(|waiter| Input::InitProducerId {
            waiter,
            request,
            fresh: ProducerId(9),
            producer_fenced_known: true,
        });
        assert_eq!(world.code(waiter), Some(expected));
    }
}

#[test]
fn a_producer_may_ask_again_for_the_epoch_it_was_given() {
    let mut world = World::new();
    let first = world.init(None).unwrap();
    let second = world.init(Some(first)).unwrap();
    assert_eq!(second, (first.0, 1));
    assert_eq!(world.init(Some(first)), Ok(second), "the answer was lost");
    assert_eq!(world.init(Some(second)), Ok((first.0, 2)));
    assert_eq!(world.init(Some(first)), Err(ErrorCode::ProducerFenced));
}

#[test]
fn an_exhausted_epoch_gets_a_new_producer_id() {
    let mut world = World::new();
    let mut producer = world.init(None).unwrap();
    let first = producer.0;
    while producer.1 < i16::MAX - 1 {
        producer = world.init(Some(producer)).unwrap();
    }
    assert_eq!(producer.0, first);
    let next = world.init(Some(producer)).unwrap();
    assert!(next.0 > first && next.1 == 0, "{next:?}");
    assert_eq!(world.init(Some(producer)), Ok(next), "the answer was lost");
    assert_eq!(world.reload().init(Some(producer)), Ok(next), "even if the coordinator was, too");
    assert_eq!(world.add(producer, &[0]), ErrorCode::InvalidProducerIdMapping);
}

#[test]
fn a_new_instance_aborts_what_the_old_one_left_open() {
    let mut world = World::new();
    let old = world.init(None).unwrap();
    world.add(old, &[0]);
    assert_eq!(world.init(None), Err(ErrorCode::ConcurrentTransactions));
    let marker = world.markers[0].clone();
    assert_eq!((marker.outcome, marker.producer_epoch), (TransactionOutcome::Abort, ProducerEpoch(1)));
    assert_eq!(world.init(None), Err(ErrorCode::ConcurrentTransactions), "until the marker is written");
    assert_eq!(world.end(old, true), ErrorCode::ProducerFenced);
    world.write_markers();
    assert_eq!(world.init(None), Ok((old.0, 2)));
}

#[test]
fn a_transaction_that_takes_too_long_is_aborted_and_fenced() {
    let mut world = World::new();
    let producer = world.init(None).unwrap();
    world.add(producer, &[0]);
    world.pass(i64::from(TIMEOUT_MS) - 1);
    assert_eq!(world.markers.len(), 0);
    let mut reloaded = world.reload();
    for world in [&mut world, &mut reloaded] {
        world.pass(1);
        let marker = world.markers[0].clone();
        assert_eq!((marker.outcome, marker.producer_epoch), (TransactionOutcome::Abort, ProducerEpoch(1)));
        assert_eq!(world.end(producer, true), ErrorCode::ProducerFenced);
        world.write_markers();
        assert_eq!(world.add(producer, &[0]), ErrorCode::ProducerFenced);
        assert_eq!(world.init(None), Ok((producer.0, 2)));
    }
}

#[test]
fn a_new_coordinator_goes_on_with_the_markers() {
    let mut world = World::new();
    let producer = world.init(None).unwrap();
    world.add(producer, &[0, 1]);
    world.end(producer, true);
    let mut reloaded = world.reload();
    assert_eq!(reloaded.markers.len(), 1);
    assert_eq!((reloaded.markers[0].coordinator_epoch, reloaded.markers[0].partitions.len()), (EPOCH + 1, 2));
    assert_eq!(reloaded.end(producer, true), ErrorCode::ConcurrentTransactions);
    reloaded.write_markers();
    assert_eq!(reloaded.end(producer, true), ErrorCode::None);
}

#[test]
fn unused_ids_are_forgotten() {
    let mut world = World::new();
    let producer = world.init(None).unwrap();
    world.add(producer, &[0]);
    world.pass(i64::from(TIMEOUT_MS));
    world.pass(Config::default().expiration_ms);
    world.write_markers();
    assert!(world.verify((producer.0, 1), 0) != Verdict::Refused(ErrorCode::InvalidProducerIdMapping));
    world.pass(Config::default().expiration_ms);
    assert_eq!(world.verify((producer.0, 1), 0), Verdict::Refused(ErrorCode::InvalidProducerIdMapping));
    let record = world.log.last().unwrap();
    assert_eq!(record.value, None);
}

#[test]
fn states_change_along_the_table_only() {
    use State::{CompleteAbort, CompleteCommit, Dead, Empty, Ongoing, PrepareAbort, PrepareCommit};
    let allowed = [
        (Empty, vec![Empty, Ongoing, Dead]),
        (Ongoing, vec![Ongoing, PrepareCommit, PrepareAbort]),
        (PrepareCommit, vec![CompleteCommit]),
        (PrepareAbort, vec![CompleteAbort]),
        (CompleteCommit, vec![Empty, Ongoing, Dead]),
        (CompleteAbort, vec![Empty, Ongoing, Dead]),
        (Dead, vec![]),
    ];
    for (from, to) in allowed {
        for next in State::ALL {
            assert_eq!(from.can_become(next), to.contains(&next), "{from:?} -> {next:?}");
        }
        assert_eq!(State::of_code(from.code()), Some(from));
    }
}

#[derive(Clone, Debug)]
enum Act {
    Init(Option<usize>),
    Add(usize, i32),
    End(usize, bool),
    Markers,
    Pass(i64),
    Flush,
    Restart,
}

proptest! {
    /// Whatever producers do, and whenever the disk catches up: the log alone gives the same state, each producer gets an
    /// id or an epoch above those before it, and each waiter is answered once.
    #[test]
    fn whatever_happens_the_log_tells_the_truth(acts in prop::collection::vec(prop_oneof![
        3 => prop::option::of(0..4usize).prop_map(Act::Init),
        5 => (0..4usize, 0..3i32).prop_map(|(who, index)| Act::Add(who, index)),
        3 => (0..4usize, any::<bool>()).prop_map(|(who, commit)| Act::End(who, commit)),
        3 => Just(Act::Markers),
        2 => prop_oneof![Just(1_000i64), Just(i64::from(TIMEOUT_MS))].prop_map(Act::Pass),
        6 => Just(Act::Flush),
        1 => Just(Act::Restart),
    ], 1..100)) {
        let mut world = World::new();
        world.is_durable = false;
        let mut producers: Vec<Producer> = Vec::new();
        for act in acts {
            let pick = |at: usize| producers.iter().rev().nth(at).copied().unwrap_or((0, 0));
            match act {
                Act::Init(at) => {
                    let claim = at.map(pick);
                    world.ask_init(claim);
                }
                Act::Add(who, index) => {
                    world.ask_add(pick(who), &[index]);
                }
                Act::End(who, commit) => {
                    world.ask_end(pick(who), commit);
                }
                Act::Markers => world.write_markers(),
                Act::Pass(ms) => world.pass(ms),
                Act::Flush => world.flush(),
                Act::Restart => {
                    world.flush();
                    prop_assert_eq!(u64::try_from(world.answers.len()).unwrap(), world.waiters);
                    world = world.reload();
                    world.is_durable = false;
                }
            }
            for answer in world.answers.values() {
                if let Answer::InitProducerId(given) = answer
                    && given.error_code == 0
                    && !producers.contains(&(given.producer_id, given.producer_epoch))
                {
                    let new = (given.producer_id, given.producer_epoch);
                    prop_assert!(producers.iter().all(|old| *old < new), "{:?} after {:?}", new, producers);
                    producers.push(new);
                }
            }
            let mut reloaded = Coordinator::new(Config::default(), EPOCH);
            for record in &world.log {
                reloaded.replay(record.clone()).unwrap();
            }
            prop_assert_eq!(reloaded.snapshot(), world.machine.snapshot());
            let restored = Coordinator::restore(Config::default(), EPOCH, reloaded.snapshot()).unwrap();
            prop_assert_eq!(restored.snapshot(), world.machine.snapshot());
        }
        world.flush();
        prop_assert_eq!(u64::try_from(world.answers.len()).unwrap(), world.waiters, "nobody is left waiting");
    }
}
