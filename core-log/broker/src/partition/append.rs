//! Appending to a partition.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millstream_machine::Waiter;
use millstream_machine::replica::{Acks, Input, Outcome, TransactionChange};
use millstream_protocol::ErrorCode;
use millstream_record::{BatchHeader, LeaderEpoch, Offset, ProducerId};
use millstream_storage::{AppendInfo, AppendOrigin, Log};

use super::{Deferred, Partition, State, Waiting, Word};
use crate::refusal::Refusal;

/// How long [`Partition::settled`] and [`Partition::when_durable`] wait.
const DURABLE_TIMEOUT: Duration = Duration::from_secs(60);

/// What an append asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) acks: Acks,
    /// How long the answer may wait for durability.
    pub(crate) timeout: Duration,
    pub(crate) appender: Appender,
}

/// Who appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Appender {
    Client,
    /// A client, within a transaction, on this word that it may.
    Transactional(Word),
    /// A transaction's end, on behalf of its coordinator.
    Marker,
    /// The coordinator that was loaded from this partition in that leader epoch. Led in another, even by this broker again, the
    /// partition may have records that it does not know.
    Coordinator(LeaderEpoch),
}

impl Partition {
    /// Appends whole batches in the order of calls. When it gives `Ok`, `waiting` (made from what was appended) is called once
    /// the terms are met or cannot be; with an error it is not made.
    pub(crate) fn append(
        self: &Arc<Self>,
        batches: &Bytes,
        terms: Terms,
        waiting: impl FnOnce(&AppendInfo) -> Option<Waiting>,
    ) -> Result<AppendInfo, Refusal> {
        let (info, deferred) = self.append_deferred(batches, terms, waiting)?;
        self.perform(deferred);
        Ok(info)
    }

    /// Appends as [`Partition::append`] does, for a caller that holds a lock: it calls [`Partition::perform`] once it holds
    /// none.
    pub(crate) fn append_deferred(
        &self,
        batches: &Bytes,
        terms: Terms,
        waiting: impl FnOnce(&AppendInfo) -> Option<Waiting>,
    ) -> Result<(AppendInfo, Deferred), Refusal> {
        self.append_locked(&mut self.state.lock(), batches, terms, waiting)
    }

    /// Whether a coordinator may append here. Where another leads by now it finds that out when it does.
    pub(crate) fn takes_coordinators(&self) -> bool {
        self.state.lock().role.leading().map_or(true, |leader| leader.has_min_isr())
    }

    /// Calls `waiting` once everything below an offset is durable on the in-sync set, if this replica leads in `epoch` until then.
    pub(crate) fn when_durable(self: &Arc<Self>, epoch: LeaderEpoch, end: Offset, waiting: Waiting) {
        self.await_durable((epoch, end), DURABLE_TIMEOUT, waiting);
    }

    /// Waits as [`Partition::when_durable`] does, for so long.
    pub(crate) fn await_durable(
        self: &Arc<Self>,
        (epoch, end): (LeaderEpoch, Offset),
        timeout: Duration,
        waiting: Waiting,
    ) {
        let after = {
            let mut state = self.state.lock();
            if state.role.leading().is_ok_and(|leader| leader.epoch() == epoch) {
                let waiter = state.expect(waiting);
                let deadline = self.now().plus_ms(as_ms(timeout));
                self.step(&mut state, Input::Await { end, waiter, deadline })
            } else {
                drop(state);
                return waiting(Outcome::NotLeader);
            }
        };
        self.perform(after);
    }

    /// Waits until the mark is where the log ended when this was called: then all that an earlier leader left is replicated.
    /// False when that did not happen in this leadership, or not yet.
    pub(crate) async fn settled(self: &Arc<Self>, epoch: LeaderEpoch) -> bool {
        let (send, outcome) = futures::channel::oneshot::channel();
        let reply = move |outcome| {
            let _ = send.send(outcome); // nobody waits when the broker ends
        };
        self.when_durable(epoch, self.end(), Box::new(reply));
        outcome.await == Ok(Outcome::Done)
    }

    fn append_locked(
        &self,
        state: &mut State,
        batches: &Bytes,
        terms: Terms,
        waiting: impl FnOnce(&AppendInfo) -> Option<Waiting>,
    ) -> Result<(AppendInfo, Deferred), Refusal> {
        let leader = state.role.leading()?;
        // A coordinator looked before it changed what it knows; what it appends is as good as what was appended then.
        let has_looked = matches!(terms.appender, Appender::Coordinator(_));
        if terms.acks == Acks::All && !has_looked && !leader.has_min_isr() {
            return Err(ErrorCode::NotEnoughReplicas.into());
        }
        let epoch = leader.epoch();
        let header = BatchHeader::peek(batches).ok();
        let origin = match terms.appender {
            Appender::Client => AppendOrigin::Leader { epoch },
            Appender::Transactional(word) => {
                state.check_transactional(header.as_ref(), word)?;
                AppendOrigin::Leader { epoch }
            }
            Appender::Coordinator(loaded) if loaded != epoch => {
                return Err(ErrorCode::NotLeaderOrFollower.into());
            }
            Appender::Marker | Appender::Coordinator(_) => AppendOrigin::Coordinator { epoch },
        };
        let producer = header.as_ref().map_or(ProducerId(-1), |header| header.producer_id);
        let open_before = open_transaction(&state.log, producer);
        state.is_closed = false;
        let info = state.log.append(batches, origin, self.context.env.now())?;
        if header.is_some_and(|header| header.attributes.is_control()) {
            state.guards.marked(producer);
        }
        let transaction = match (open_before, open_transaction(&state.log, producer)) {
            (None, Some(first)) => TransactionChange::Opened(first),
            (Some(first), None) => TransactionChange::Closed { first, marker: info.last_offset },
            _ => TransactionChange::None,
        };
        let waiter = waiting(&info).map(|waiting| state.expect(waiting));
        let deadline = self.now().plus_ms(as_ms(terms.timeout));
        let (end, acks) = (info.last_offset.plus(1), terms.acks);
        let input = if info.duplicate {
            Input::Duplicate { end, acks, waiter, deadline }
        } else {
            Input::Appended { end, acks, waiter, deadline, transaction }
        };
        Ok((info, self.step(state, input)))
    }
}

impl State {
    fn expect(&mut self, waiting: Waiting) -> Waiter {
        let waiter = Waiter(self.next_waiter);
        self.next_waiter += 1;
        self.waiting.insert(waiter, waiting);
        waiter
    }
}

fn open_transaction(log: &Log, producer: ProducerId) -> Option<Offset> {
    if producer.0 < 0 { None } else { log.producer(producer)?.open_transaction }
}

fn as_ms(timeout: Duration) -> i64 {
    i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX)
}
