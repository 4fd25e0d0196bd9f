//! What a log knows about the producers that wrote to it: their epochs, their last batches, their open transactions.
//!
//! The rules are Kafka's (KIP-98): a batch that repeats one of the last five of its producer is a duplicate and gets the
//! original's offsets; else its first sequence must follow the last; an older epoch is refused. One is stricter than Kafka's:
//! a batch of a transaction that has ended is never taken for the original of a retry (decision 13). The state is a function of
//! the log, so it is rebuilt by replaying batches from the newest snapshot, and the same batches give the same state on
//! every replica.

use std::collections::{BTreeMap, VecDeque};

use millstream_record::{Millis, Offset, ProducerEpoch, ProducerId, advance_sequence as sequence_on};
use rustc_hash::FxHashMap;

use crate::error::{Result, StorageError};

/// How many batches of each producer are remembered; clients keep at most this many in flight.
pub const BATCHES_REMEMBERED: usize = 5;
/// What a producer without any batch has as its last sequence.
pub(crate) const NO_SEQUENCE: i32 = -1;

/// A batch that a producer wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducedBatch {
    /// Sequence of its last record.
    pub last_sequence: i32,
    /// Offset of its last record.
    pub last_offset: Offset,
    /// Records in it, less one.
    pub offset_delta: i32,
    /// Its largest timestamp.
    pub timestamp: Millis,
    /// It is part of a transaction.
    pub transactional: bool,
}

impl ProducedBatch {
    /// Sequence of its first record.
    #[must_use]
    pub fn first_sequence(&self) -> i32 {
        sequence_back(self.last_sequence, self.offset_delta)
    }

    /// Offset of its first record.
    #[must_use]
    pub fn first_offset(&self) -> Offset {
        Offset(self.last_offset.0 - i64::from(self.offset_delta))
    }
}

/// One producer, as DescribeProducers shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerState {
    /// The newest epoch that wrote.
    pub epoch: ProducerEpoch,
    /// Epoch of the coordinator that wrote the last marker; -1 when there was none.
    pub coordinator_epoch: i32,
    /// When the producer wrote last, by its own timestamps.
    pub last_timestamp: Millis,
    /// First offset of its open transaction.
    pub open_transaction: Option<Offset>,
    /// The newest batches of this epoch, oldest first, at most [`BATCHES_REMEMBERED`].
    pub batches: VecDeque<ProducedBatch>,
}

impl ProducerState {
    fn new(epoch: ProducerEpoch) -> Self {
        Self {
            epoch,
            coordinator_epoch: -1,
            last_timestamp: Millis::NONE,
            open_transaction: None,
            batches: VecDeque::new(),
        }
    }

    /// Sequence of the last record; -1 when this epoch has written none.
    #[must_use]
    pub fn last_sequence(&self) -> i32 {
        self.batches.back().map_or(NO_SEQUENCE, |batch| batch.last_sequence)
    }

    /// Whether `batch`, one of this producer's, may still be sent again. Of a transaction that ended, nothing may: a commit waits
    /// for every answer, and after an abort nobody waits. See decision 13.
    fn awaits_an_answer(&self, batch: &ProducedBatch) -> bool {
        !batch.transactional || self.open_transaction.is_some_and(|first| batch.first_offset() >= first)
    }

    fn remember(&mut self, batch: ProducedBatch) {
        if self.batches.len() == BATCHES_REMEMBERED {
            self.batches.pop_front();
        }
        self.batches.push_back(batch);
    }
}

/// A batch of an idempotent producer, as its header tells it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DataBatch {
    pub(crate) producer_id: ProducerId,
    pub(crate) epoch: ProducerEpoch,
    pub(crate) first_sequence: i32,
    pub(crate) offset_delta: i32,
    pub(crate) timestamp: Millis,
    pub(crate) transactional: bool,
}

impl DataBatch {
    /// Whether `next`, of the same producer, may follow this batch within one append.
    pub(crate) fn check_followed_by(&self, next: &Self) -> Result<()> {
        let expected = sequence_on(self.first_sequence, self.offset_delta.saturating_add(1));
        if next.epoch == self.epoch && next.first_sequence == expected {
            return Ok(());
        }
        Err(StorageError::OutOfOrderSequence {
            producer_id: self.producer_id,
            expected,
            found: next.first_sequence,
        })
    }
}

/// A commit or abort marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Marker {
    pub(crate) producer_id: ProducerId,
    pub(crate) epoch: ProducerEpoch,
    pub(crate) coordinator_epoch: i32,
    pub(crate) abort: bool,
    pub(crate) timestamp: Millis,
}

/// A transaction that a marker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Completed {
    pub(crate) producer_id: ProducerId,
    pub(crate) first_offset: Offset,
    /// Offset of the marker.
    pub(crate) last_offset: Offset,
    pub(crate) aborted: bool,
}

/// All producers of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ProducerStates {
    producers: FxHashMap<i64, ProducerState>,
    /// First offsets of open transactions.
    open: BTreeMap<Offset, ProducerId>,
    /// Transactions whose marker is not yet known to be below the high watermark: first offset to marker.
    undecided: BTreeMap<Offset, Offset>,
    silences: Silences,
}

/// What each producer had written when expiry first found it silent, and when that was. No part of the state: a replica that
/// looked at another time knows the same producers.
#[derive(Clone, Debug, Default)]
struct Silences(FxHashMap<i64, (LastWrite, Millis)>);

/// Epoch, last offset and last timestamp.
type LastWrite = (ProducerEpoch, Option<Offset>, Millis);

impl PartialEq for Silences {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Silences {}

impl ProducerStates {
    /// The offsets of the batch that `batch` repeats, if it is a duplicate.
    pub(crate) fn duplicate_of(&self, batch: &DataBatch) -> Option<ProducedBatch> {
        let state = self.producers.get(&batch.producer_id.0)?;
        let last_sequence = sequence_on(batch.first_sequence, batch.offset_delta);
        let same = |b: &&ProducedBatch| {
            let sequences = (b.first_sequence(), b.last_sequence);
            sequences == (batch.first_sequence, last_sequence) && state.awaits_an_answer(b)
        };
        if state.epoch == batch.epoch { state.batches.iter().find(same).copied() } else { None }
    }

    /// Where what is remembered of the producer begins, if `batch` may be one from before that is not remembered any more.
    pub(crate) fn forgotten_before(&self, batch: &DataBatch) -> Option<Offset> {
        let state = self.producers.get(&batch.producer_id.0)?;
        let oldest = state.batches.front()?;
        let is_older = is_behind(batch.first_sequence, oldest.first_sequence());
        let is_forgotten = state.epoch == batch.epoch && state.batches.len() < BATCHES_REMEMBERED && is_older;
        is_forgotten.then(|| oldest.first_offset())
    }

    /// Whether the leader may append `batch`.
    pub(crate) fn check(&self, batch: &DataBatch) -> Result<()> {
        let Some(state) = self.producers.get(&batch.producer_id.0) else { return Ok(()) };
        let DataBatch { producer_id, epoch, first_sequence, .. } = *batch;
        if epoch < state.epoch {
            return Err(StorageError::InvalidProducerEpoch {
                producer_id,
                current: state.epoch,
                found: epoch,
            });
        }
        let expected = if epoch == state.epoch { sequence_on(state.last_sequence(), 1) } else { 0 };
        if first_sequence != expected {
            let found = first_sequence;
            let begins = batch.transactional && state.open_transaction.is_none() && !state.batches.is_empty();
            return Err(if begins && epoch == state.epoch && is_behind(found, expected) {
                StorageError::SequenceUsed { producer_id, expected, found }
            } else {
                StorageError::OutOfOrderSequence { producer_id, expected, found }
            });
        }
        if state.open_transaction.is_some() && !batch.transactional {
            return Err(StorageError::InvalidTransactionState { producer_id });
        }
        Ok(())
    }

    /// Whether the coordinator may append `marker`.
    pub(crate) fn check_marker(&self, marker: &Marker) -> Result<()> {
        let Some(state) = self.producers.get(&marker.producer_id.0) else { return Ok(()) };
        let Marker { producer_id, epoch, coordinator_epoch, .. } = *marker;
        if epoch < state.epoch {
            return Err(StorageError::InvalidProducerEpoch {
                producer_id,
                current: state.epoch,
                found: epoch,
            });
        }
        if coordinator_epoch < state.coordinator_epoch {
            let current = state.coordinator_epoch;
            return Err(StorageError::CoordinatorFenced { producer_id, current, found: coordinator_epoch });
        }
        Ok(())
    }

    /// Takes up a batch that is in the log, its last record at `last_offset`. Checks nothing: what is in the log happened.
    pub(crate) fn apply(&mut self, batch: &DataBatch, last_offset: Offset) {
        let state =
            self.producers.entry(batch.producer_id.0).or_insert_with(|| ProducerState::new(batch.epoch));
        if state.epoch != batch.epoch {
            state.epoch = batch.epoch;
            state.batches.clear();
        }
        let last_sequence = sequence_on(batch.first_sequence, batch.offset_delta);
        let DataBatch { offset_delta, timestamp, transactional, .. } = *batch;
        let produced = ProducedBatch { last_sequence, last_offset, offset_delta, timestamp, transactional };
        state.remember(produced);
        state.last_timestamp = timestamp;
        if batch.transactional && state.open_transaction.is_none() {
            state.open_transaction = Some(produced.first_offset());
            self.open.insert(produced.first_offset(), batch.producer_id);
        }
    }

    /// Takes up a marker that is in the log at `offset`; gives the transaction it ended, if one was open.
    pub(crate) fn apply_marker(&mut self, marker: &Marker, offset: Offset) -> Option<Completed> {
        let producer_id = marker.producer_id;
        let state = self.producers.entry(producer_id.0).or_insert_with(|| ProducerState::new(marker.epoch));
        if state.epoch != marker.epoch {
            state.epoch = marker.epoch;
            state.batches.clear();
        }
        state.coordinator_epoch = state.coordinator_epoch.max(marker.coordinator_epoch);
        state.last_timestamp = marker.timestamp;
        let first_offset = state.open_transaction.take()?;
        self.open.remove(&first_offset);
        self.undecided.insert(first_offset, offset);
        Some(Completed { producer_id, first_offset, last_offset: offset, aborted: marker.abort })
    }

    /// The first offset that a read-committed reader must not pass, given that all below `high_watermark` is replicated:
    /// the begin of the first transaction that is open, or whose marker is at or above that mark.
    pub(crate) fn first_unstable(&self, high_watermark: Offset) -> Option<Offset> {
        let open = self.open.keys().next().copied();
        let undecided =
            self.undecided.iter().find(|&(_, &marker)| marker >= high_watermark).map(|(&first, _)| first);
        [open, undecided].into_iter().flatten().min()
    }

    /// Every transaction that is open, or decided and not forgotten yet, by first offset, with its marker's offset.
    pub(crate) fn unstable(&self) -> Vec<(Offset, Option<Offset>)> {
        let open = self.open.keys().map(|&first| (first, None));
        let undecided = self.undecided.iter().map(|(&first, &marker)| (first, Some(marker)));
        open.chain(undecided).collect()
    }

    /// The last stable offset that the log will have once everything up to the marker of `completed` is replicated.
    pub(crate) fn stable_after(&self, completed: &Completed) -> Offset {
        self.open.keys().next().copied().unwrap_or(completed.last_offset.plus(1))
    }

    /// Forgets transactions whose markers are below `high_watermark`: they no longer hold anyone back.
    pub(crate) fn decided_below(&mut self, high_watermark: Offset) {
        if !self.undecided.is_empty() {
            self.undecided.retain(|_, &mut marker| marker >= high_watermark);
        }
    }

    /// Forgets producers that have not written for `expiration_ms` and have no open transaction. A batch's timestamp may be the
    /// time of an old event, so silence counts from when it was first noticed here: else a producer of old events would be
    /// forgotten at once, and its next retry would be appended a second time.
    pub(crate) fn expire(&mut self, now: Millis, expiration_ms: i64) {
        let Silences(noticed) = &mut self.silences;
        let alive = |id: &i64, state: &mut ProducerState| {
            let wrote =
                (state.epoch, state.batches.back().map(|batch| batch.last_offset), state.last_timestamp);
            let silence = noticed.entry(*id).or_insert((wrote, now));
            if silence.0 != wrote {
                *silence = (wrote, now);
            }
            let since = silence.1.max(state.last_timestamp);
            state.open_transaction.is_some() || now.since_ms(since) < expiration_ms
        };
        self.producers.retain(alive);
        noticed.retain(|id, _| self.producers.contains_key(id));
    }

    /// Forgets transactions that ended below `start`, where the log begins now. One that is open stays so, wherever it began: its
    /// later batches are there still.
    pub(crate) fn truncate_from_start(&mut self, start: Offset) {
        self.undecided.retain(|_, &mut marker| marker >= start);
    }

    /// The state of one producer.
    pub(crate) fn get(&self, producer: ProducerId) -> Option<&ProducerState> {
        self.producers.get(&producer.0)
    }

    /// All producers, ordered by id.
    pub(crate) fn sorted(&self) -> Vec<(ProducerId, &ProducerState)> {
        let mut all: Vec<_> = self.producers.iter().map(|(&id, state)| (ProducerId(id), state)).collect();
        all.sort_unstable_by_key(|&(id, _)| id);
        all
    }

    /// Puts in a producer that a snapshot names.
    pub(crate) fn restore(&mut self, id: ProducerId, state: ProducerState) {
        if let Some(first) = state.open_transaction {
            self.open.insert(first, id);
        }
        self.producers.insert(id.0, state);
    }

    /// Puts an older batch in front of those that are remembered, when it directly precedes them.
    pub(crate) fn remember_older(&mut self, batch: &DataBatch, last_offset: Offset) {
        let Some(state) = self.producers.get_mut(&batch.producer_id.0) else { return };
        let last_sequence = sequence_on(batch.first_sequence, batch.offset_delta);
        let follows = state.batches.front().is_some_and(|next| {
            next.first_sequence() == sequence_on(last_sequence, 1) && next.first_offset() > last_offset
        });
        if state.epoch == batch.epoch && follows && state.batches.len() < BATCHES_REMEMBERED {
            let DataBatch { offset_delta, timestamp, transactional, .. } = *batch;
            let older = ProducedBatch { last_sequence, last_offset, offset_delta, timestamp, transactional };
            state.batches.push_front(older);
        }
    }
}

/// Whether `sequence` comes before `other`; they wrap around.
fn is_behind(sequence: i32, other: i32) -> bool {
    (1..1 << 30).contains(&(i64::from(other) - i64::from(sequence)).rem_euclid(1 << 31))
}

fn sequence_back(sequence: i32, by: i32) -> i32 {
    let difference = i64::from(sequence) - i64::from(by);
    let wrapped =
        if difference < 0 && sequence >= 0 { difference + i64::from(i32::MAX) + 1 } else { difference };
    i32::try_from(wrapped).unwrap_or(NO_SEQUENCE)
}

/// An aborted transaction: what a read-committed reader must skip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AbortedTransaction {
    /// The producer whose batches are void.
    pub producer_id: ProducerId,
    /// First offset of the transaction in this partition.
    pub first_offset: Offset,
    /// Offset of the abort marker.
    pub last_offset: Offset,
    /// The last stable offset once the marker was in the log.
    pub last_stable_offset: Offset,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(epoch: i16, first_sequence: i32, records: i32) -> DataBatch {
        DataBatch {
            producer_id: ProducerId(7),
            epoch: ProducerEpoch(epoch),
            first_sequence,
            offset_delta: records - 1,
            timestamp: Millis(1000),
            transactional: false,
        }
    }

    fn marker(epoch: i16, coordinator_epoch: i32, abort: bool) -> Marker {
        Marker {
            producer_id: ProducerId(7),
            epoch: ProducerEpoch(epoch),
            coordinator_epoch,
            abort,
            timestamp: Millis(1000),
        }
    }

    fn verdict(states: &ProducerStates, batch: &DataBatch) -> String {
        match (states.duplicate_of(batch), states.check(batch)) {
            (Some(original), _) => format!("duplicate {}..{}", original.first_offset(), original.last_offset),
            (None, Ok(())) => "ok".to_owned(),
            (None, Err(StorageError::OutOfOrderSequence { expected, .. })) => format!("expected {expected}"),
            (None, Err(StorageError::SequenceUsed { expected, .. })) => format!("used, expected {expected}"),
            (None, Err(StorageError::InvalidProducerEpoch { .. })) => "old epoch".to_owned(),
            (None, Err(other)) => format!("{other}"),
        }
    }

    #[test]
    fn sequences_epochs_and_duplicates() {
        let mut states = ProducerStates::default();
        let mut offset = 100;
        for n in 0..6 {
            let next = batch(3, n * 10, 10);
            assert_eq!(verdict(&states, &next), "ok");
            offset += 10;
            states.apply(&next, Offset(offset - 1));
        }
        for (given, expected) in [
            (batch(3, 60, 1), "ok"),
            (batch(3, 61, 1), "expected 60"),
            (batch(3, 50, 10), "duplicate 150..159"),
            (batch(3, 10, 10), "duplicate 110..119"),
            (batch(3, 0, 10), "expected 60"),
            (batch(3, 50, 9), "expected 60"),
            (batch(2, 60, 1), "old epoch"),
            (batch(4, 0, 1), "ok"),
            (batch(4, 60, 1), "expected 0"),
        ] {
            assert_eq!(verdict(&states, &given), expected, "{given:?}");
        }
    }

    #[test]
    fn what_a_transaction_ended_is_no_original() {
        let of = |epoch, first, records| DataBatch { transactional: true, ..batch(epoch, first, records) };
        for abort in [true, false] {
            let mut states = ProducerStates::default();
            states.apply(&of(1, 0, 2), Offset(1));
            states.apply(&of(1, 2, 3), Offset(4));
            assert_eq!(verdict(&states, &of(1, 2, 3)), "duplicate 2..4", "it may still be sent again");
            states.apply_marker(&marker(1, 0, abort), Offset(5));
            for (given, expected) in [
                (of(1, 0, 2), "used, expected 5"),
                (of(1, 2, 3), "used, expected 5"),
                (of(1, 4, 7), "used, expected 5"),
                (of(1, 6, 1), "expected 5"),
                (batch(1, 2, 3), "expected 5"),
            ] {
                assert_eq!(verdict(&states, &given), expected, "{given:?}");
            }
            assert_eq!(verdict(&states, &of(1, 5, 1)), "ok", "sequences go on over a marker");
            states.apply(&of(1, 5, 2), Offset(7));
            assert_eq!(verdict(&states, &of(1, 2, 3)), "expected 7");
            assert_eq!(verdict(&states, &of(1, 5, 2)), "duplicate 6..7");
        }
    }

    #[test]
    fn used_sequences_are_told_from_those_to_come() {
        let of = |epoch, first| DataBatch { transactional: true, ..batch(epoch, first, 1) };
        let mut states = ProducerStates::default();
        states.apply_marker(&marker(1, 0, true), Offset(0));
        assert_eq!(verdict(&states, &of(1, i32::MAX)), "expected 0", "nothing was written in this epoch");
        states.apply(&DataBatch { offset_delta: 3, ..of(1, i32::MAX - 1) }, Offset(4));
        states.apply_marker(&marker(1, 0, true), Offset(5));
        for (first, expected) in
            [(i32::MAX, "used, expected 2"), (0, "used, expected 2"), (2, "ok"), (3, "expected 2")]
        {
            assert_eq!(verdict(&states, &of(1, first)), expected, "{first}");
        }
    }

    #[test]
    fn an_unknown_producer_may_begin_anywhere() {
        assert_eq!(verdict(&ProducerStates::default(), &batch(0, 55, 1)), "ok");
    }

    #[test]
    fn sequences_wrap() {
        let mut states = ProducerStates::default();
        states.apply(&batch(0, i32::MAX - 1, 4), Offset(3));
        let last = states.get(ProducerId(7)).unwrap().batches[0];
        assert_eq!((last.last_sequence, last.first_sequence()), (1, i32::MAX - 1));
        assert_eq!(verdict(&states, &batch(0, i32::MAX - 1, 4)), "duplicate 0..3");
        assert_eq!(verdict(&states, &batch(0, 2, 1)), "ok");
        let mut edge = ProducerStates::default();
        edge.apply(&batch(0, i32::MAX, 1), Offset(0));
        assert_eq!(verdict(&edge, &batch(0, 0, 1)), "ok");
    }

    #[test]
    fn a_transaction_holds_the_stable_offset_until_its_marker_is_replicated() {
        let mut states = ProducerStates::default();
        let open = DataBatch { transactional: true, ..batch(0, 0, 5) };
        states.apply(&open, Offset(14));
        assert_eq!(states.first_unstable(Offset(15)), Some(Offset(10)));
        let plain = batch(0, 5, 1);
        assert!(matches!(states.check(&plain), Err(StorageError::InvalidTransactionState { .. })));
        let done = states.apply_marker(&marker(0, 1, true), Offset(15)).unwrap();
        assert_eq!((done.first_offset, done.last_offset, done.aborted), (Offset(10), Offset(15), true));
        assert_eq!(states.stable_after(&done), Offset(16));
        assert_eq!(states.first_unstable(Offset(15)), Some(Offset(10)));
        assert_eq!(states.first_unstable(Offset(16)), None);
        states.decided_below(Offset(16));
        assert_eq!(states.first_unstable(Offset(0)), None);
        assert!(matches!(
            states.check_marker(&marker(0, 0, true)),
            Err(StorageError::CoordinatorFenced { .. })
        ));
        assert_eq!(states.apply_marker(&marker(0, 1, true), Offset(16)), None, "nothing was open");
    }

    #[test]
    fn silent_producers_expire_unless_a_transaction_is_open() {
        let mut states = ProducerStates::default();
        states.apply(&batch(0, 0, 1), Offset(0));
        states.expire(Millis(5000), 100);
        assert!(!states.sorted().is_empty(), "its events are old, but it may have written just now");
        states.expire(Millis(5099), 100);
        assert!(!states.sorted().is_empty());
        states.apply(&batch(0, 1, 1), Offset(1));
        states.expire(Millis(5100), 100);
        assert!(!states.sorted().is_empty(), "it wrote again");
        states.expire(Millis(5199), 100);
        assert!(!states.sorted().is_empty());
        states.expire(Millis(5200), 100);
        assert!(states.sorted().is_empty());
        states.apply(&DataBatch { transactional: true, ..batch(0, 0, 1) }, Offset(1));
        states.expire(Millis(9999), 100);
        assert!(!states.sorted().is_empty());
    }
}
