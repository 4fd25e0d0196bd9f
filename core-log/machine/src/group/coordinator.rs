//! The coordinator of one partition's groups.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use bytestring::ByteString;
use millstream_protocol::ErrorCode;
use millstream_record::{Millis, ProducerId};

use super::api::{Answer, Batch, Config, Effect, Input};
use super::live::Group;
use super::owed::Owed;
use super::refusal;
use super::state::State;
use super::stored::Stored;
use crate::tickets::Tickets;
use crate::timers::Timers;
use crate::{Error, KeyValue, Ticket, TransactionOutcome, Waiter};

/// One thing read back from the partition's log.
#[derive(Clone, Debug, PartialEq)]
pub enum Replay {
    /// A record, with its producer when it is part of a transaction.
    Record {
        /// The producer of a transactional batch.
        producer_id: Option<ProducerId>,
        /// The record.
        record: KeyValue,
    },
    /// A marker.
    Marker {
        /// Whose transaction ends.
        producer_id: ProducerId,
        /// How.
        outcome: TransactionOutcome,
    },
}

/// What has a deadline.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// A member's session, or the time an expected member has to come back: group, member.
    Session(ByteString, ByteString),
    /// The end of waiting for members to join.
    Join(ByteString),
    /// The end of waiting for members to synchronise.
    Sync(ByteString),
    /// The next look for offsets that have expired.
    Expiry,
    /// The next look whether the log takes what is owed to it.
    Owed,
}

/// What is done once an append is durable.
#[derive(Debug)]
pub(super) enum After {
    Answer(Waiter, Answer),
    /// The leader's assignment is stored: hand it out, if the generation is still at work.
    Assigned {
        group: ByteString,
        generation: i32,
        assignments: BTreeMap<ByteString, Bytes>,
    },
}

/// What every part of the coordinator needs besides the groups.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) config: Config,
    pub(super) now: Millis,
    pub(super) stored: Stored,
    pub(super) timers: Timers<Timer>,
    /// Whether the log takes records.
    pub(super) log_accepts: bool,
    pub(super) owed: Owed,
    tickets: Tickets<After>,
    effects: Vec<Effect>,
}

impl Core {
    pub(super) fn answer(&mut self, waiter: Waiter, answer: Answer) {
        self.effects.push(Effect::Answer { waiter, answer });
    }

    /// Answers once everything appended so far is durable.
    pub(super) fn answer_when_durable(&mut self, waiter: Waiter, answer: Answer) {
        if let Some(After::Answer(waiter, answer)) = self.tickets.hold(After::Answer(waiter, answer)) {
            self.answer(waiter, answer);
        }
    }

    /// Appends a batch; its records take effect on what is stored at once, in this order.
    pub(super) fn append(&mut self, batch: Batch) {
        debug_assert!(self.log_accepts, "whoever appends has looked whether the log takes it");
        for entry in entries(&batch) {
            self.stored.replay(entry).expect("the coordinator can read what it writes");
        }
        let ticket = self.tickets.issue();
        self.effects.push(Effect::Append { ticket, batch });
    }

    pub(super) fn hold(&mut self, after: After) -> Option<After> {
        self.tickets.hold(after)
    }

    pub(super) fn set_session(&mut self, group: &ByteString, member: &ByteString, ms: i64) {
        self.timers.set(Timer::Session(group.clone(), member.clone()), self.now.plus_ms(ms));
    }

    pub(super) fn clear_session(&mut self, group: &ByteString, member: &ByteString) {
        self.timers.clear(&Timer::Session(group.clone(), member.clone()));
    }
}

/// What the log will say after a batch was appended.
pub(super) fn entries(batch: &Batch) -> Vec<Replay> {
    let plain = |producer_id: Option<ProducerId>, records: &[KeyValue]| {
        records.iter().map(|record| Replay::Record { producer_id, record: record.clone() }).collect()
    };
    match batch {
        Batch::Records(records) => plain(None, records),
        Batch::Transactional { producer_id, records, .. } => plain(Some(*producer_id), records),
        Batch::Marker { producer_id, outcome, .. } => {
            vec![Replay::Marker { producer_id: *producer_id, outcome: *outcome }]
        }
    }
}

/// The groups that live in one partition of `__consumer_offsets`.
#[derive(Debug)]
pub struct Coordinator {
    pub(super) groups: BTreeMap<ByteString, Group>,
    pub(super) core: Core,
    failed: Option<ErrorCode>,
}

impl Coordinator {
    /// A coordinator that knows no group. Give it the partition's log through [`Coordinator::replay`], then call
    /// [`Coordinator::loaded`].
    #[must_use]
    pub fn new(config: Config) -> Self {
        let core = Core {
            config,
            now: Millis(0),
            stored: Stored::default(),
            timers: Timers::default(),
            log_accepts: true,
            owed: Owed::default(),
            tickets: Tickets::default(),
            effects: Vec::new(),
        };
        Self { groups: BTreeMap::new(), core, failed: None }
    }

    /// Applies what the log says. The only way in which offsets and stored groups change.
    ///
    /// # Errors
    /// [`Error::Malformed`] when the record cannot be read. Kinds of records that belong to other group protocols are skipped.
    pub fn replay(&mut self, entry: Replay) -> Result<(), Error> {
        self.core.stored.replay(entry)
    }

    /// The log has been replayed to its end: members' sessions begin.
    pub fn loaded(&mut self, now: Millis) -> Vec<Effect> {
        self.core.now = now;
        let stored: Vec<Group> =
            self.core.stored.groups().map(|(id, record)| Group::from_record(id, record)).collect();
        for group in stored {
            for member in group.members.values() {
                self.core.set_session(&group.id, &member.id, member.session_timeout_ms.into());
            }
            self.groups.insert(group.id.clone(), group);
        }
        for id in self.core.stored.groups_with_offsets().into_iter().cloned().collect::<Vec<_>>() {
            self.groups.entry(id.clone()).or_insert_with(|| Group::new(&id));
        }
        let too_big: Vec<ByteString> = self
            .groups
            .values()
            .filter(|group| group.members.len() > self.core.config.max_size)
            .map(|group| group.id.clone())
            .collect();
        for id in too_big {
            self.rebalance(&id, |work| work.prepare());
        }
        self.schedule_expiry();
        std::mem::take(&mut self.core.effects)
    }

    /// Everything that replay has built, to be restored with [`Coordinator::restore`] instead of reading the log from its
    /// start. It holds what was appended, durable or not: keep it only where [`Coordinator::is_settled`], else a power cut could
    /// leave a snapshot that is ahead of its log.
    #[must_use]
    pub fn snapshot(&self) -> Bytes {
        self.core.stored.snapshot()
    }

    /// Whether everything that was appended is durable.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.core.tickets.is_settled()
    }

    /// A coordinator from a snapshot; replay goes on behind it.
    ///
    /// # Errors
    /// [`Error::Snapshot`] when the bytes are not a snapshot.
    pub fn restore(config: Config, snapshot: Bytes) -> Result<Self, Error> {
        let mut coordinator = Self::new(config);
        coordinator.core.stored = Stored::restore(snapshot)?;
        Ok(coordinator)
    }

    /// Takes one input and says what must happen.
    pub fn step(&mut self, now: Millis, input: Input) -> Vec<Effect> {
        self.core.now = self.core.now.max(now);
        if let Some(error) = self.failed {
            if let Some((waiter, answer)) = refusal::of_input(input, error) {
                self.core.answer(waiter, answer);
            }
            return std::mem::take(&mut self.core.effects);
        }
        self.pay();
        match input {
            Input::Join { waiter, client, request, must_know_member_id, can_skip_assignment, random } => {
                let join =
                    super::join::Join { client, request, must_know_member_id, can_skip_assignment, random };
                self.join(waiter, &join);
            }
            Input::Sync { waiter, request } => self.sync(waiter, &request),
            Input::Heartbeat { waiter, request } => self.heartbeat(waiter, &request),
            Input::Leave { waiter, request } => self.leave(waiter, &request),
            Input::OffsetCommit { waiter, request } => self.commit(waiter, &request),
            Input::TxnOffsetCommit { waiter, request } => self.commit_in_transaction(waiter, &request),
            Input::OffsetFetch { waiter, request, require_stable } => {
                self.fetch(waiter, &request, require_stable);
            }
            Input::OffsetDelete { waiter, request } => self.delete_offsets(waiter, &request),
            Input::Delete { waiter, group_id } => self.delete(waiter, &group_id),
            Input::EndTransaction { waiter, .. } if !self.core.log_accepts => {
                let refused = Answer::EndTransaction(ErrorCode::CoordinatorNotAvailable);
                self.core.answer(waiter, refused);
            }
            Input::EndTransaction { waiter, producer_id, producer_epoch, coordinator_epoch, outcome } => {
                self.core.append(Batch::Marker { producer_id, producer_epoch, coordinator_epoch, outcome });
                self.core.answer_when_durable(waiter, Answer::EndTransaction(ErrorCode::None));
            }
            Input::TopicsDeleted { topics } if !self.core.log_accepts => self.core.owe_topics(&topics),
            Input::TopicsDeleted { topics } => self.forget_topics(&topics),
            Input::Durable { ticket } => self.settle(ticket),
            Input::Late { ticket } => self.late(ticket),
            Input::Failed { error } => self.fail(error),
            Input::Tick => self.tick(),
        }
        std::mem::take(&mut self.core.effects)
    }

    /// The topics in which a group has offsets.
    #[must_use]
    pub fn topics(&self) -> BTreeSet<&ByteString> {
        self.core.stored.topics()
    }

    /// When [`Input::Tick`] is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Millis> {
        self.core.timers.first()
    }

    fn settle(&mut self, ticket: Ticket) {
        self.core.tickets.settle(ticket);
        while let Some(after) = self.core.tickets.next_ready() {
            match after {
                After::Answer(waiter, answer) => self.core.answer(waiter, answer),
                After::Assigned { group, generation, assignments } => {
                    self.assigned(&group, generation, &assignments);
                }
            }
        }
    }

    /// Who waits is told to ask again; an assignment that is still to be handed out is, once it is durable.
    fn late(&mut self, ticket: Ticket) {
        const ERROR: ErrorCode = ErrorCode::CoordinatorNotAvailable;
        let is_answer = |after: &After| matches!(after, After::Answer(..));
        for after in self.core.tickets.give_up(ticket, is_answer) {
            if let After::Answer(waiter, answer) = after {
                self.core.answer(waiter, refusal::of_answer(answer, ERROR));
            }
        }
        let awaited = self.core.tickets.held_until(ticket).filter_map(|after| match after {
            After::Assigned { group, generation, .. } => Some((group.clone(), *generation)),
            After::Answer(..) => None,
        });
        for (group, generation) in awaited.collect::<Vec<_>>() {
            self.rebalance(&group, |work| {
                if work.group.state() == State::CompletingRebalance && work.group.generation == generation {
                    work.refuse_syncs(ERROR);
                }
            });
        }
    }

    fn fail(&mut self, error: ErrorCode) {
        self.failed = Some(error);
        self.core.timers = Timers::default();
        for after in self.core.tickets.drain().collect::<Vec<_>>() {
            if let After::Answer(waiter, answer) = after {
                self.core.answer(waiter, refusal::of_answer(answer, error));
            }
        }
        for group in std::mem::take(&mut self.groups).into_values() {
            for member in group.members.into_values() {
                if let Some(waiter) = member.awaiting_join {
                    self.core.answer(waiter, Answer::Join(refusal::join(&member.id, error)));
                }
                if let Some(waiter) = member.awaiting_sync {
                    self.core.answer(waiter, Answer::Sync(refusal::sync(error)));
                }
            }
        }
    }

    fn tick(&mut self) {
        while let Some(timer) = self.core.timers.next_due(self.core.now) {
            match timer {
                Timer::Session(group, member) => self.session_over(&group, &member),
                Timer::Join(group) => self.join_time_over(&group),
                Timer::Sync(group) => self.sync_time_over(&group),
                Timer::Expiry => self.expire_offsets(),
                Timer::Owed => self.owed_time_over(),
            }
        }
    }

    /// Does something to a group that may move its rebalance.
    pub(super) fn rebalance<R>(
        &mut self,
        group: &ByteString,
        act: impl FnOnce(&mut super::rebalance::Rebalance<'_>) -> R,
    ) -> Option<R> {
        let group = self.groups.get_mut(group)?;
        Some(act(&mut super::rebalance::Rebalance { group, core: &mut self.core }))
    }

    /// The group that a member of it names; a group that is gone is as good as one that never knew the member.
    pub(super) fn group_of_member(&self, group: &str) -> Result<&Group, ErrorCode> {
        if group.is_empty() {
            return Err(ErrorCode::InvalidGroupId);
        }
        match self.groups.get(group) {
            Some(group) if group.state() == State::Dead => Err(ErrorCode::CoordinatorNotAvailable),
            Some(group) => Ok(group),
            None => Err(ErrorCode::UnknownMemberId),
        }
    }
}
