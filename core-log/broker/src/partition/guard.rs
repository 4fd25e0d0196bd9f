//! What keeps a transactional batch out of the log whose transaction ended while the coordinator was being asked (KIP-890).

use millstream_protocol::ErrorCode;
use millstream_record::{BatchHeader, ProducerEpoch, ProducerId};
use millstream_storage::Log;
use rustc_hash::FxHashMap;

use super::{Partition, State};
use crate::refusal::Refusal;

/// Taken before the coordinator is asked; void once a marker of the producer has come since, or the partition is led anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Guard(u64);

/// On whose word a transactional batch is appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// The producer has its transaction open here: the batch only continues it.
    Continues,
    /// The coordinator, led in `coordinator_epoch` where that is known, says that the partition is in the transaction.
    Verified { guard: Guard, coordinator_epoch: Option<i32> },
}

/// The guards of producers whose transactions are being asked for.
#[derive(Default)]
pub(super) struct Guards {
    by_producer: FxHashMap<ProducerId, Held>,
    next: u64,
}

struct Held {
    guard: Guard,
    holders: usize,
}

impl Guards {
    fn take(&mut self, producer: ProducerId) -> Guard {
        let next = &mut self.next;
        let held = self.by_producer.entry(producer).or_insert_with(|| {
            *next += 1;
            Held { guard: Guard(*next), holders: 0 }
        });
        held.holders += 1;
        held.guard
    }

    fn give_back(&mut self, producer: ProducerId, guard: Guard) {
        let Some(held) = self.by_producer.get_mut(&producer).filter(|held| held.guard == guard) else {
            return;
        };
        held.holders -= 1;
        if held.holders == 0 {
            self.by_producer.remove(&producer);
        }
    }

    fn holds(&self, producer: ProducerId, guard: Guard) -> bool {
        self.by_producer.get(&producer).is_some_and(|held| held.guard == guard)
    }

    /// A marker of `producer` is in the log.
    pub(super) fn marked(&mut self, producer: ProducerId) {
        self.by_producer.remove(&producer);
    }

    pub(super) fn clear(&mut self) {
        self.by_producer.clear();
    }
}

impl Partition {
    /// Whether `producer` has a transaction open here in `epoch`, so that its next batch only continues it.
    pub(crate) fn has_open_transaction(&self, producer: ProducerId, epoch: ProducerEpoch) -> bool {
        has_open_transaction(&self.state.lock().log, producer, epoch)
    }

    /// A guard for what `producer` is about to append; to be given back with [`Partition::release`].
    ///
    /// # Errors
    /// This replica does not lead.
    pub(crate) fn guard(&self, producer: ProducerId) -> Result<Guard, Refusal> {
        let mut state = self.state.lock();
        state.role.leading()?;
        Ok(state.guards.take(producer))
    }

    /// Gives a guard back.
    pub(crate) fn release(&self, producer: ProducerId, guard: Guard) {
        self.state.lock().guards.give_back(producer, guard);
    }

    /// Whether a batch may be appended on `word` now.
    ///
    /// # Errors
    /// INVALID_TXN_STATE when its transaction has ended.
    pub(crate) fn check_word(
        &self,
        producer: ProducerId,
        epoch: ProducerEpoch,
        word: Word,
    ) -> Result<(), Refusal> {
        self.state.lock().check_word(producer, epoch, word)
    }

    /// Whether the marker of a transaction's end would be taken.
    ///
    /// # Errors
    /// INVALID_PRODUCER_EPOCH or TRANSACTION_COORDINATOR_FENCED where a newer one has been here.
    pub(crate) fn check_marker(
        &self,
        producer: ProducerId,
        epoch: ProducerEpoch,
        coordinator_epoch: i32,
    ) -> Result<(), Refusal> {
        Ok(self.state.lock().log.check_marker(producer, epoch, coordinator_epoch)?)
    }
}

impl State {
    pub(super) fn check_transactional(
        &self,
        header: Option<&BatchHeader>,
        word: Word,
    ) -> Result<(), Refusal> {
        let header = header.ok_or(ErrorCode::InvalidRecord)?;
        self.check_word(header.producer_id, header.producer_epoch, word)
    }

    fn check_word(&self, producer: ProducerId, epoch: ProducerEpoch, word: Word) -> Result<(), Refusal> {
        let ended = || Refusal::new(ErrorCode::InvalidTxnState, "the transaction has ended meanwhile");
        let known = self.log.producer(producer);
        if has_open_transaction(&self.log, producer, epoch) {
            return Ok(());
        }
        if known.is_some_and(|known| known.epoch > epoch) {
            return Err(ErrorCode::InvalidProducerEpoch.into());
        }
        let Word::Verified { guard, coordinator_epoch } = word else { return Err(ended()) };
        // A coordinator that does not know yet that it was replaced does not know either what its successor has ended.
        let is_deposed = match (coordinator_epoch, known) {
            (Some(asked), Some(known)) => asked < known.coordinator_epoch,
            _ => false,
        };
        if self.guards.holds(producer, guard) && !is_deposed { Ok(()) } else { Err(ended()) }
    }
}

fn has_open_transaction(log: &Log, producer: ProducerId, epoch: ProducerEpoch) -> bool {
    log.producer(producer).is_some_and(|known| known.epoch == epoch && known.open_transaction.is_some())
}
