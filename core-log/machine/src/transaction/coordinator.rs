//! The coordinator of one partition's transactional ids.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use bytestring::ByteString;
use millstream_protocol::ErrorCode;
use millstream_protocol::messages::{EndTxnRequest, InitProducerIdRequest, InitProducerIdResponse};
use millstream_record::{Millis, ProducerEpoch, ProducerId, TopicPartition};

use super::api::{Answer, Config, Effect, Input, Marker, Verdict};
use super::decide::{self, Claim, Init};
use super::invariant;
use super::owed::RETRY_MS;
use super::refusal::{self, ended_with, refused_init, spoken};
use super::state::State;
use super::stored::{NO_EPOCH, Stored, Transaction, tombstone};
use crate::tickets::Tickets;
use crate::timers::Timers;
use crate::wire::{SnapshotWriter, own, read_snapshot};
use crate::{Error, KeyValue, Ticket, TransactionOutcome, Waiter};

/// What has a deadline.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// The open transaction of this id has taken too long.
    Timeout(ByteString),
    /// The next look for ids that nobody uses.
    Expiry,
    /// The next look whether the log takes what is owed to it.
    Owed,
}

/// What is done once an append is durable.
#[derive(Debug)]
enum After {
    Answer(Waiter, Answer),
    /// The id's new state is durable, so it may be changed again; a prepared end goes on to its markers.
    Settled(ByteString),
}

/// What is known of an id besides what is stored.
#[derive(Debug)]
struct Live {
    /// The epoch before the last bump, for a producer that asks again because it missed the answer.
    last_epoch: ProducerEpoch,
    /// A change of state is not durable yet, so any other must wait.
    in_flight: bool,
    /// Partitions whose being added is not durable yet.
    unsure: BTreeSet<TopicPartition>,
    /// Partitions that have not taken their marker.
    unmarked: BTreeSet<TopicPartition>,
}

impl Default for Live {
    fn default() -> Self {
        Self { last_epoch: NO_EPOCH, in_flight: false, unsure: BTreeSet::new(), unmarked: BTreeSet::new() }
    }
}

/// The transactional ids that live in one partition of `__transaction_state`.
#[derive(Debug)]
pub struct Coordinator {
    config: Config,
    coordinator_epoch: i32,
    pub(super) now: Millis,
    pub(super) stored: Stored,
    live: BTreeMap<ByteString, Live>,
    pub(super) timers: Timers<Timer>,
    tickets: Tickets<After>,
    /// Whether the log takes records: else whoever asks for a change is refused, and what nobody asks for is done later.
    pub(super) log_accepts: bool,
    /// Ids whose transaction is complete at all of its partitions, which could not be written.
    pub(super) owed: BTreeSet<ByteString>,
    pub(super) failed: Option<ErrorCode>,
    effects: Vec<Effect>,
}

impl Coordinator {
    /// A coordinator that knows no transactional id, on a partition led in `coordinator_epoch`. Give it the partition's log
    /// through [`Coordinator::replay`], then call [`Coordinator::loaded`].
    #[must_use]
    pub fn new(config: Config, coordinator_epoch: i32) -> Self {
        Self {
            config,
            coordinator_epoch,
            now: Millis(0),
            stored: Stored::default(),
            live: BTreeMap::new(),
            timers: Timers::default(),
            tickets: Tickets::default(),
            log_accepts: true,
            owed: BTreeSet::new(),
            failed: None,
            effects: Vec::new(),
        }
    }

    /// Applies what the log says. The only way in which a transaction's stored state changes.
    ///
    /// # Errors
    /// [`Error::Malformed`] when the record cannot be read.
    pub fn replay(&mut self, record: KeyValue) -> Result<(), Error> {
        self.stored.replay(record)
    }

    /// The log has been replayed to its end: transactions found prepared go on to their markers.
    pub fn loaded(&mut self, now: Millis) -> Vec<Effect> {
        self.now = now;
        for id in self.stored.by_id.keys().cloned().collect::<Vec<_>>() {
            self.go_on(&id);
        }
        self.schedule_expiry();
        std::mem::take(&mut self.effects)
    }

    /// Everything that replay has built, to be restored with [`Coordinator::restore`] instead of reading the log from its
    /// start. It holds what was appended, durable or not: keep it only where [`Coordinator::is_settled`], else a power cut could
    /// leave a snapshot that is ahead of its log.
    #[must_use]
    pub fn snapshot(&self) -> Bytes {
        let mut writer = SnapshotWriter::new();
        for (id, transaction) in &self.stored.by_id {
            writer.entry(0, &transaction.to_record(id));
        }
        writer.finish()
    }

    /// Whether everything that was appended is durable.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.tickets.is_settled()
    }

    /// A coordinator from a snapshot; replay goes on behind it.
    ///
    /// # Errors
    /// [`Error::Snapshot`] when the bytes are not a snapshot.
    pub fn restore(config: Config, coordinator_epoch: i32, snapshot: Bytes) -> Result<Self, Error> {
        let mut coordinator = Self::new(config, coordinator_epoch);
        for (_, record) in read_snapshot("transaction", snapshot)? {
            coordinator.replay(record)?;
        }
        Ok(coordinator)
    }

    /// Takes one input and says what must happen.
    pub fn step(&mut self, now: Millis, input: Input) -> Vec<Effect> {
        self.now = self.now.max(now);
        self.pay();
        match input {
            Input::InitProducerId { waiter, request, fresh, producer_fenced_known } => {
                let begun = self.running().and_then(|()| self.init(waiter, &request, fresh));
                if let Err(error) = begun {
                    self.answer(waiter, refused_init(spoken(error, producer_fenced_known)));
                }
            }
            Input::AddPartitions {
                waiter,
                transactional_id,
                producer_id,
                producer_epoch,
                partitions,
                producer_fenced_known,
            } => {
                let id = own(&transactional_id);
                let added = self.running().and_then(|()| {
                    self.add(waiter, &id, Claim { producer_id, epoch: producer_epoch }, &partitions)
                });
                if let Err(error) = added {
                    self.answer(waiter, Answer::AddPartitions(spoken(error, producer_fenced_known)));
                }
            }
            Input::EndTxn { waiter, request, producer_fenced_known } => {
                let ended = self.running().and_then(|()| self.end(waiter, &request));
                if let Err(error) = ended {
                    self.answer(waiter, ended_with(spoken(error, producer_fenced_known)));
                }
            }
            Input::MarkerWritten { .. } | Input::Durable { .. } | Input::Late { .. }
                if self.failed.is_some() => {}
            Input::MarkerWritten { transactional_id, producer_id, producer_epoch, partition } => {
                self.marked(&transactional_id, Claim { producer_id, epoch: producer_epoch }, &partition);
            }
            Input::Durable { ticket } => self.settle(ticket),
            Input::Late { ticket } => self.late(ticket),
            Input::Failed { error } => self.fail(error),
            Input::Tick => self.tick(),
        }
        std::mem::take(&mut self.effects)
    }

    /// When [`Input::Tick`] is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Millis> {
        self.timers.first()
    }

    /// Whether `partition` is in the open transaction of this producer: asked before a transactional batch is appended, so that
    /// no late batch opens a transaction that nobody will end (KIP-890). A partition that is not answers
    /// TRANSACTION_ABORTABLE, or INVALID_TXN_STATE to a client that does not know that code.
    #[must_use]
    pub fn verify(
        &self,
        transactional_id: &str,
        producer_id: ProducerId,
        producer_epoch: ProducerEpoch,
        partition: &TopicPartition,
    ) -> Verdict {
        if let Some(error) = self.failed {
            return Verdict::Refused(error);
        }
        let Some(current) = self.stored.by_id.get(transactional_id) else {
            return Verdict::Refused(ErrorCode::InvalidProducerIdMapping);
        };
        if let Err(error) = decide::judge_producer(current, producer_id, producer_epoch) {
            return Verdict::Refused(error);
        }
        if current.state.prepared().is_some() {
            return Verdict::Refused(ErrorCode::ConcurrentTransactions);
        }
        let is_unsure = self.live.get(transactional_id).is_some_and(|live| live.unsure.contains(partition));
        if current.state == State::Ongoing && current.partitions.contains(partition) && !is_unsure {
            Verdict::InTransaction
        } else {
            Verdict::Refused(ErrorCode::TransactionAbortable)
        }
    }

    fn running(&self) -> Result<(), ErrorCode> {
        self.failed.map_or(Ok(()), Err)
    }

    fn is_in_flight(&self, id: &str) -> bool {
        self.live.get(id).is_some_and(|live| live.in_flight)
    }

    fn init(
        &mut self,
        waiter: Waiter,
        request: &InitProducerIdRequest,
        fresh: ProducerId,
    ) -> Result<(), ErrorCode> {
        let id = request.transactional_id.as_ref().map(own).unwrap_or_default();
        let claim = Claim {
            producer_id: ProducerId(request.producer_id),
            epoch: ProducerEpoch(request.producer_epoch),
        };
        let has_id = claim.producer_id.0 >= 0;
        if id.is_empty() || has_id != (claim.epoch.0 >= 0) {
            return Err(ErrorCode::InvalidRequest);
        }
        if request.enable2_pc {
            return Err(ErrorCode::TransactionalIdAuthorizationFailed); // as Kafka while two-phase commit is off
        }
        if request.keep_prepared_txn {
            return Err(ErrorCode::UnsupportedVersion);
        }
        if request.transaction_timeout_ms <= 0 || request.transaction_timeout_ms > self.config.max_timeout_ms
        {
            return Err(ErrorCode::InvalidTransactionTimeout);
        }
        if self.is_in_flight(&id) {
            return Err(ErrorCode::ConcurrentTransactions);
        }
        let new = Transaction::new(fresh);
        let current = self.stored.by_id.get(&id).unwrap_or(&new);
        let last_epoch = self.live.get(&id).map_or(NO_EPOCH, |live| live.last_epoch);
        let claim = has_id.then_some(claim);
        let decided =
            decide::init(current, last_epoch, claim, request.transaction_timeout_ms, fresh, self.now)?;
        self.check_log()?;
        match decided {
            Init::Begin { next, last_epoch } => {
                let answer = InitProducerIdResponse {
                    producer_id: next.producer_id.0,
                    producer_epoch: next.epoch.0,
                    ..InitProducerIdResponse::default()
                };
                self.write(&id, &next);
                self.live.entry(id).or_default().last_epoch = last_epoch;
                self.answer_when_durable(waiter, Answer::InitProducerId(answer));
            }
            Init::AbortFirst(next) => {
                self.write(&id, &next);
                self.live.entry(id).or_default().last_epoch = NO_EPOCH;
                self.answer_when_durable(waiter, refused_init(ErrorCode::ConcurrentTransactions));
            }
        }
        Ok(())
    }

    /// The id's state, for its producer and nobody else.
    fn current(&self, id: &ByteString, producer: Claim) -> Result<&Transaction, ErrorCode> {
        if id.is_empty() {
            return Err(ErrorCode::InvalidRequest);
        }
        let current = self.stored.by_id.get(id).ok_or(ErrorCode::InvalidProducerIdMapping)?;
        decide::judge_producer(current, producer.producer_id, producer.epoch)?;
        if self.is_in_flight(id) { Err(ErrorCode::ConcurrentTransactions) } else { Ok(current) }
    }

    fn add(
        &mut self,
        waiter: Waiter,
        id: &ByteString,
        producer: Claim,
        partitions: &[TopicPartition],
    ) -> Result<(), ErrorCode> {
        let current = self.current(id, producer)?;
        let known =
            if current.state == State::Ongoing { current.partitions.clone() } else { BTreeSet::new() };
        if let Some(next) = decide::add(current, partitions, self.now)? {
            self.check_log()?;
            let unsure = next.partitions.difference(&known).cloned().collect();
            self.write(id, &next);
            self.live.entry(id.clone()).or_default().unsure = unsure;
            self.set_timeout(id);
        }
        self.answer_when_durable(waiter, Answer::AddPartitions(ErrorCode::None));
        Ok(())
    }

    fn end(&mut self, waiter: Waiter, request: &EndTxnRequest) -> Result<(), ErrorCode> {
        let id = own(&request.transactional_id);
        let producer = Claim {
            producer_id: ProducerId(request.producer_id),
            epoch: ProducerEpoch(request.producer_epoch),
        };
        let outcome = if request.committed { TransactionOutcome::Commit } else { TransactionOutcome::Abort };
        let current = self.current(&id, producer)?;
        if let Some(next) = decide::end(current, outcome, self.now)? {
            self.check_log()?;
            self.write(&id, &next);
        }
        self.answer_when_durable(waiter, ended_with(ErrorCode::None));
        Ok(())
    }

    fn marked(&mut self, id: &ByteString, producer: Claim, partition: &TopicPartition) {
        let Some(current) = self.stored.by_id.get(id) else { return };
        let is_of_this_end = current.producer_id == producer.producer_id && current.epoch == producer.epoch;
        let (Some(outcome), true, false) = (current.state.prepared(), is_of_this_end, self.is_in_flight(id))
        else {
            return;
        };
        let next = decide::complete(current, outcome, self.now);
        let live = self.live.entry(id.clone()).or_default();
        live.unmarked.remove(partition);
        if live.unmarked.is_empty() {
            self.write_or_owe(id, &next);
        }
    }

    /// Appends an id's new state, which takes effect at once, and lets nobody change it before it is durable.
    pub(super) fn write(&mut self, id: &ByteString, next: &Transaction) {
        debug_assert_eq!(invariant::change(self.stored.by_id.get(id), next), Ok(()));
        self.append(vec![next.to_record(id)]);
        self.live.entry(id.clone()).or_default().in_flight = true;
        if next.state != State::Ongoing {
            self.timers.clear(&Timer::Timeout(id.clone()));
        }
        let held = self.tickets.hold(After::Settled(id.clone()));
        debug_assert!(held.is_none(), "an append is not durable before it is reported");
    }

    fn append(&mut self, records: Vec<KeyValue>) {
        debug_assert!(self.log_accepts, "whoever appends has looked whether the log takes it");
        for record in &records {
            self.stored.replay(record.clone()).expect("the coordinator can read what it writes");
        }
        let ticket = self.tickets.issue();
        self.effects.push(Effect::Append { ticket, records });
    }

    fn settle(&mut self, ticket: Ticket) {
        self.tickets.settle(ticket);
        while let Some(after) = self.tickets.next_ready() {
            match after {
                After::Answer(waiter, answer) => self.answer(waiter, answer),
                After::Settled(id) => {
                    if let Some(live) = self.live.get_mut(&id) {
                        live.in_flight = false;
                        live.unsure.clear();
                    }
                    if self.stored.by_id.get(&id).is_some_and(|current| current.state.prepared().is_some()) {
                        self.go_on(&id);
                    }
                }
            }
        }
    }

    /// Goes on from a durable state: an open transaction has its deadline, a prepared end its markers.
    fn go_on(&mut self, id: &ByteString) {
        let Some(current) = self.stored.by_id.get(id) else { return };
        let Some(outcome) = current.state.prepared() else {
            self.set_timeout(id);
            return;
        };
        let marker = Marker {
            transactional_id: id.clone(),
            producer_id: current.producer_id,
            producer_epoch: current.epoch,
            coordinator_epoch: self.coordinator_epoch,
            outcome,
            partitions: current.partitions.iter().cloned().collect(),
        };
        if marker.partitions.is_empty() {
            let next = decide::complete(current, outcome, self.now);
            self.write_or_owe(id, &next);
        } else {
            self.live.entry(id.clone()).or_default().unmarked = current.partitions.clone();
            self.effects.push(Effect::WriteMarkers(marker));
        }
    }

    fn set_timeout(&mut self, id: &ByteString) {
        let Some(current) = self.stored.by_id.get(id) else { return };
        if current.state == State::Ongoing {
            let deadline = current.start.plus_ms(current.timeout_ms.into());
            self.timers.set(Timer::Timeout(id.clone()), deadline);
        }
    }

    fn tick(&mut self) {
        while let Some(timer) = self.timers.next_due(self.now) {
            match timer {
                Timer::Timeout(id) => self.time_out(&id),
                Timer::Expiry => self.expire(),
                Timer::Owed => self.timers.set(Timer::Owed, self.now.plus_ms(RETRY_MS)), // what can be paid is
            }
        }
    }

    fn time_out(&mut self, id: &ByteString) {
        let Some(current) = self.stored.by_id.get(id).filter(|current| current.state == State::Ongoing)
        else {
            return;
        };
        if self.is_in_flight(id) || !self.log_accepts {
            self.timers.set(Timer::Timeout(id.clone()), self.now.plus_ms(RETRY_MS));
        } else if let Ok(next) = decide::fence(current, self.now) {
            self.write(id, &next);
            self.live.entry(id.clone()).or_default().last_epoch = NO_EPOCH;
        }
    }

    fn schedule_expiry(&mut self) {
        self.timers.set(Timer::Expiry, self.now.plus_ms(self.config.expiration_check_interval_ms));
    }

    fn expire(&mut self) {
        if !self.log_accepts {
            self.timers.set(Timer::Expiry, self.now.plus_ms(RETRY_MS));
            return;
        }
        let unused: Vec<ByteString> = self
            .stored
            .by_id
            .iter()
            .filter(|(id, current)| {
                current.state.is_idle()
                    && !self.is_in_flight(id)
                    && self.now.since_ms(current.updated) >= self.config.expiration_ms
            })
            .map(|(id, _)| id.clone())
            .collect();
        if !unused.is_empty() {
            self.append(unused.iter().map(tombstone).collect());
            unused.iter().for_each(|id| {
                self.live.remove(id);
            });
        }
        self.schedule_expiry();
    }

    fn fail(&mut self, error: ErrorCode) {
        self.failed = Some(error);
        self.timers = Timers::default();
        let held = self.tickets.drain().collect();
        self.refuse(held, error);
    }

    /// Who waits is told to ask again; the change may yet become durable, and nobody makes another before.
    fn late(&mut self, ticket: Ticket) {
        let waiting = self.tickets.give_up(ticket, |after| matches!(after, After::Answer(..)));
        self.refuse(waiting, ErrorCode::CoordinatorNotAvailable);
    }

    fn refuse(&mut self, held: Vec<After>, error: ErrorCode) {
        for after in held {
            if let After::Answer(waiter, answer) = after {
                self.answer(waiter, refusal::of_answer(answer, error));
            }
        }
    }

    fn answer(&mut self, waiter: Waiter, answer: Answer) {
        self.effects.push(Effect::Answer { waiter, answer });
    }

    fn answer_when_durable(&mut self, waiter: Waiter, answer: Answer) {
        if let Some(After::Answer(waiter, answer)) = self.tickets.hold(After::Answer(waiter, answer)) {
            self.answer(waiter, answer);
        }
    }
}
