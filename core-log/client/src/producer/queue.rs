//! The batches of one partition, from the first record to the acknowledgement, and their order.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use millstream_record::{
    BatchBuilder, BatchOptions, ProducerEpoch, ProducerId, TopicPartition, advance_sequence, patch,
};

use super::delivery::{Outcome, WHOLE, Written};
use super::split::Halves;
use crate::{ClientError, Result};

/// Who produces: the id and epoch that brokers know duplicates by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub id: ProducerId,
    pub epoch: ProducerEpoch,
}

/// What idempotent producers are not.
pub(super) const NOBODY: Identity = Identity { id: ProducerId(-1), epoch: ProducerEpoch(-1) };

/// A batch that takes records, or is full.
#[derive(Debug)]
pub(super) struct Draft {
    pub builder: BatchBuilder,
    pub common: Common,
}

/// What a batch keeps all its way.
#[derive(Debug)]
pub(super) struct Common {
    pub outcome: Arc<Outcome>,
    /// Which of the outcome's records are in it: all of them, unless the batch had to be split.
    pub records: Range<i32>,
    /// When its first record came, in monotonic time.
    pub created: Duration,
    /// Buffer memory that its records hold.
    pub memory: usize,
}

/// A batch that was sent at least once.
#[derive(Debug)]
pub(super) struct Sent {
    /// Names it within the producer.
    pub ticket: u64,
    pub bytes: Bytes,
    /// How many batches of its partition were sent before it.
    nth: u64,
    pub sequence: i32,
    pub count: i32,
    /// A try of it was not answered, so it may be in the log.
    pub unanswered: bool,
    /// It is a part of a batch of which that is true.
    pub of_unanswered: bool,
    pub common: Common,
}

/// Where a batch stands among those of its producer that were acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// There is no order: the producer is not idempotent.
    None,
    /// Before one that was acknowledged.
    Before,
    /// Just behind them, or behind one that was given up.
    Next,
    /// Behind one that is on its way, or goes again.
    Later,
}

/// A batch to be put into a request.
pub(super) enum Next {
    /// To be built first; [`Queue::built`] then takes the bytes.
    Build { ticket: u64, builder: BatchBuilder },
    /// As it was sent before.
    Again { ticket: u64, bytes: Bytes },
}

/// The batches of one partition.
///
/// Order: the first batch of an identity goes alone. A batch that failed is sent again once nothing of the partition is in flight, and
/// nothing newer goes before it. A sequence number that cannot be used any more (its batch failed for good) ends the identity's run:
/// batches from there on are numbered anew under the next epoch (KIP-360), but only when every one before has its outcome, and
/// never one that may be in the log.
#[derive(Debug)]
pub(super) struct Queue {
    pub partition: TopicPartition,
    pub full: VecDeque<Draft>,
    pub open: Option<Draft>,
    pub in_flight: VecDeque<Sent>,
    pub retry: VecDeque<Sent>,
    /// Monotonic time before which nothing is sent again.
    pub retry_at: Duration,
    /// Failures since the last acknowledgement; the wait before the next try grows with them.
    pub failures: u32,
    /// The last of them.
    pub last_error: Option<ClientError>,
    identity: Identity,
    next_sequence: i32,
    /// Last sequence acknowledged; -1 for none under this identity.
    last_acked: i32,
    /// Sequences from here on have to be numbered anew.
    renumber_from: Option<i32>,
    /// Batches sent so far, those sent again not counted twice.
    sent: u64,
}

impl Queue {
    pub(super) fn new(partition: TopicPartition) -> Self {
        Self {
            partition,
            full: VecDeque::new(),
            open: None,
            in_flight: VecDeque::new(),
            retry: VecDeque::new(),
            retry_at: Duration::ZERO,
            failures: 0,
            last_error: None,
            identity: NOBODY,
            next_sequence: 0,
            last_acked: -1,
            renumber_from: None,
            sent: 0,
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.full.is_empty() && self.open.is_none() && self.in_flight.is_empty() && self.retry.is_empty()
    }

    /// When the next batch may be sent, were its leader there; `None` while something has to happen first.
    pub(super) fn ready_at(
        &self,
        current: Identity,
        linger: Duration,
        hurry: bool,
        most_in_flight: usize,
    ) -> Option<Duration> {
        // Counted from the oldest one on its way, since brokers remember that many batches: one that has been overtaken by more
        // would not be recognised if it had to go again.
        let oldest = self.in_flight.front().map_or(self.sent, |oldest| oldest.nth);
        if self.sent - oldest >= most_in_flight as u64 {
            return None;
        }
        if !self.retry.is_empty() {
            return self.in_flight.is_empty().then_some(self.retry_at);
        }
        let changes = self.identity != current || self.renumber_from.is_some();
        if (changes || self.is_beginning()) && !self.in_flight.is_empty() {
            return None; // what is in flight belongs to the old run, or begins the new one
        }
        if !self.full.is_empty() {
            return Some(Duration::ZERO);
        }
        let open = self.open.as_ref()?;
        Some(if hurry { Duration::ZERO } else { open.common.created.saturating_add(linger) })
    }

    /// Whether the broker may not have heard of this run yet. It takes a producer that it does not know at any sequence, so a
    /// batch that overtook a lost one would be taken, and the lost one never.
    fn is_beginning(&self) -> bool {
        self.identity != NOBODY && self.last_acked < 0
    }

    /// Whether the batches to be sent next need an epoch newer than `current`.
    pub(super) fn needs_new_epoch(&self, current: Identity) -> bool {
        self.renumber_from.is_some_and(|from| {
            let settled = self.in_flight.is_empty()
                && self.retry.front().is_none_or(|front| !precedes(front.sequence, from));
            settled && self.identity == current
        })
    }

    /// Bytes of the next batch, before compression.
    pub(super) fn next_size(&self) -> usize {
        let draft = self.full.front().or(self.open.as_ref()).map(|draft| draft.builder.size_bytes());
        self.retry.front().map(|batch| batch.bytes.len()).or(draft).unwrap_or(0)
    }

    /// Takes the next batch, under the identity it belongs to.
    pub(super) fn next(&mut self, current: Identity, ticket: u64) -> Option<Next> {
        self.enter(current);
        if let Some(batch) = self.retry.pop_front() {
            let next = Next::Again { ticket: batch.ticket, bytes: batch.bytes.clone() };
            self.in_flight.push_back(batch);
            return Some(next);
        }
        let Draft { mut builder, common } = self.full.pop_front().or_else(|| self.open.take())?;
        let (sequence, count) = (self.next_sequence, builder.record_count());
        if self.identity != NOBODY {
            builder.set_producer(self.identity.id, self.identity.epoch, sequence);
            self.next_sequence = advance_sequence(sequence, count);
        }
        let nth = self.sent;
        self.sent += 1;
        let (unanswered, of_unanswered) = (false, false);
        let bytes = Bytes::new();
        self.in_flight.push_back(Sent {
            ticket,
            bytes,
            nth,
            sequence,
            count,
            unanswered,
            of_unanswered,
            common,
        });
        Some(Next::Build { ticket, builder })
    }

    /// Goes over to `current`, if nothing of the old run is left.
    fn enter(&mut self, current: Identity) {
        let old_left = self.retry.front().is_some_and(|front| {
            self.renumber_from.is_none_or(|from| precedes(front.sequence, from)) && self.identity != NOBODY
        });
        if self.identity == current || old_left || !self.in_flight.is_empty() {
            return;
        }
        self.identity = current;
        self.renumber_from = None;
        self.last_acked = -1;
        self.next_sequence = 0;
        for batch in &mut self.retry {
            batch.sequence = self.next_sequence;
            let mut bytes = BytesMut::from(&batch.bytes[..]);
            patch::set_producer(&mut bytes, current.id, current.epoch, batch.sequence)
                .expect("a batch that was built has a header");
            batch.bytes = bytes.freeze();
            self.next_sequence = advance_sequence(self.next_sequence, batch.count);
        }
    }

    /// Keeps the bytes of a batch for the case that it has to be sent again.
    pub(super) fn built(&mut self, ticket: u64, bytes: Bytes) {
        if let Some(batch) = self.in_flight.iter_mut().find(|batch| batch.ticket == ticket) {
            batch.bytes = bytes;
        }
    }

    /// Takes a batch out of flight, to be completed or retried.
    pub(super) fn land(&mut self, ticket: u64) -> Option<Sent> {
        let at = self.in_flight.iter().position(|batch| batch.ticket == ticket)?;
        self.in_flight.remove(at)
    }

    /// Where this batch stands among those that were acknowledged.
    pub(super) fn place(&self, batch: &Sent) -> Place {
        let expected = if self.last_acked < 0 { 0 } else { advance_sequence(self.last_acked, 1) };
        if self.identity == NOBODY {
            Place::None
        } else if batch.sequence == expected {
            Place::Next
        } else if precedes(batch.sequence, expected) {
            Place::Before
        } else if self
            .in_flight
            .iter()
            .chain(&self.retry)
            .any(|other| precedes(other.sequence, batch.sequence))
        {
            Place::Later
        } else {
            Place::Next // those before it were given up
        }
    }

    /// The batch is in the log, and so is every one before it: brokers take sequences without gaps only, once they know the producer.
    /// Where it is a part of another, that one is not there, since a part of it would not have followed.
    pub(super) fn acknowledge(&mut self, batch: &Sent) {
        if self.identity != NOBODY && self.place(batch) != Place::Before {
            self.last_acked = advance_sequence(batch.sequence, batch.count - 1);
        }
        if batch.of_unanswered {
            let parts = self.in_flight.iter_mut().chain(&mut self.retry).filter(|part| part.nth == batch.nth);
            parts.for_each(|part| part.of_unanswered = false);
        }
    }

    /// The batch goes again, in its place among those that failed.
    pub(super) fn retry(&mut self, batch: Sent, at: Duration) {
        let place = self.retry.iter().position(|other| batch.order() < other.order());
        self.retry.insert(place.unwrap_or(self.retry.len()), batch);
        self.retry_at = self.retry_at.max(at);
    }

    /// The batch is too large for the broker, which took no sequence of it: two parts go in its place, with its sequences. Those
    /// behind it do not follow what is in the log, so they come back, and go again behind the parts. Should an earlier try have been
    /// taken after all, the broker says of the parts that they do not follow either.
    pub(super) fn split(&mut self, batch: Sent, halves: Halves, ticket: u64) {
        let Halves { first, second, count } = halves;
        let (front, back) = batch.common.split(count);
        let sequence = match self.identity {
            NOBODY => batch.sequence,
            _ => advance_sequence(batch.sequence, count),
        };
        let rest = batch.count - count;
        let batch = Sent {
            unanswered: false,
            of_unanswered: batch.unanswered || batch.of_unanswered,
            bytes: first,
            common: front,
            ..batch
        };
        let back = Sent { ticket, bytes: second, sequence, count: rest, common: back, ..batch };
        self.retry(Sent { count, ..batch }, Duration::ZERO);
        self.retry(back, Duration::ZERO);
    }

    /// A record is too large, and stood at the head of a batch that may be in the log as a whole. The parts behind it, none of which
    /// was sent yet, take its sequences: they follow there if, and only if, nothing of that batch is in the log.
    pub(super) fn close_gap(&mut self, given_up: &Sent) {
        let Identity { id, epoch } = self.identity;
        let mut sequence = given_up.sequence;
        if self.identity == NOBODY || !given_up.of_unanswered {
            return;
        }
        for part in self.retry.iter_mut().filter(|part| part.nth == given_up.nth && !part.unanswered) {
            part.sequence = sequence;
            let mut bytes = BytesMut::from(&part.bytes[..]);
            patch::set_producer(&mut bytes, id, epoch, sequence)
                .expect("a batch that was built has a header");
            part.bytes = bytes.freeze();
            sequence = advance_sequence(sequence, part.count);
        }
    }

    /// The bytes of a batch in flight.
    pub(super) fn bytes_of(&self, ticket: u64) -> Option<Bytes> {
        self.in_flight.iter().find(|batch| batch.ticket == ticket).map(|batch| batch.bytes.clone())
    }

    /// Sequences from `sequence` on cannot be used under this identity any more.
    pub(super) fn renumber(&mut self, sequence: i32) {
        if self.identity != NOBODY {
            let from = self
                .renumber_from
                .map_or(sequence, |old| if precedes(sequence, old) { sequence } else { old });
            self.renumber_from = Some(from);
        }
    }

    /// The batch of `sequence` failed for good. What was sent behind it keeps its numbers: it may be in the log, which only the
    /// broker can tell, and numbered anew it would stand twice.
    pub(super) fn gave_up(&mut self, sequence: i32) {
        if self.retry.is_empty() && self.in_flight.is_empty() {
            self.renumber(sequence);
        }
    }

    /// Takes out what waits longer than `created_before` allows, and says whether something of it had been sent.
    pub(super) fn expire(&mut self, created_before: Duration) -> (Vec<Common>, bool) {
        let old = |common: &Common| common.created < created_before;
        let mut expired = Vec::new();
        let mut was_sent = None;
        while let Some(batch) = self.retry.pop_front_if(|batch| old(&batch.common)) {
            was_sent.get_or_insert(batch.sequence);
            expired.push(batch.common);
        }
        if let Some(sequence) = was_sent {
            self.gave_up(sequence);
        }
        while let Some(draft) = self.full.pop_front_if(|draft| old(&draft.common)) {
            expired.push(draft.common);
        }
        if let Some(draft) = self.open.take_if(|draft| old(&draft.common)) {
            expired.push(draft.common);
        }
        (expired, was_sent.is_some())
    }

    /// Takes out everything that is not in flight, and says whether something of it had been sent.
    pub(super) fn drop_unsent(&mut self) -> (Vec<Common>, bool) {
        self.expire(Duration::MAX)
    }

    /// When the oldest waiting batch was created.
    pub(super) fn oldest(&self) -> Option<Duration> {
        let waiting = self.retry.front().map(|b| b.common.created).into_iter();
        let full = self.full.front().map(|d| d.common.created);
        waiting.chain(full).chain(self.open.as_ref().map(|d| d.common.created)).min()
    }

    /// The open batch if it has room for `bytes` more; a full one is put behind the others.
    pub(super) fn room(
        &mut self,
        bytes: usize,
        batch_size: usize,
        options: BatchOptions,
        now: impl FnOnce() -> Duration,
    ) -> &mut Draft {
        if let Some(draft) = self.open.take_if(|open| open.builder.size_bytes() + bytes > batch_size) {
            self.full.push_back(draft);
        }
        let partition = &self.partition;
        self.open.get_or_insert_with(|| Draft {
            builder: BatchBuilder::with_capacity(options, bytes.max(batch_size)),
            common: Common {
                outcome: Outcome::new(partition.clone()),
                records: WHOLE,
                created: now(),
                memory: 0,
            },
        })
    }
}

impl Sent {
    /// Grows in the order in which the partition's records came.
    fn order(&self) -> (u64, i32) {
        (self.nth, self.common.records.start)
    }
}

#[cfg(test)]
impl Sent {
    pub(super) fn for_test(bytes: Bytes, common: Common) -> Self {
        Self {
            ticket: 0,
            bytes,
            nth: 0,
            sequence: 0,
            count: 1,
            unanswered: false,
            of_unanswered: false,
            common,
        }
    }
}

impl Common {
    /// Ends the batch; gives the memory to be freed.
    pub(super) fn complete(self, result: Result<Written, ClientError>) -> usize {
        self.outcome.complete(self.records, result);
        self.memory
    }

    /// The same for the first `count` records and for the others.
    fn split(self, count: i32) -> (Self, Self) {
        self.outcome.split();
        let middle = self.records.start + count;
        let (first, second) = (self.records.start..middle, middle..self.records.end);
        let memory = self.memory / 2;
        let front = Self { outcome: Arc::clone(&self.outcome), records: first, memory, ..self };
        (front, Self { outcome: self.outcome, records: second, memory: self.memory - memory, ..self })
    }
}

/// Whether sequence `a` comes before `b`, where sequences wrap; batches in flight are never half the range apart.
fn precedes(a: i32, b: i32) -> bool {
    a != b && (b.wrapping_sub(a) & i32::MAX) < i32::MAX / 2
}

#[cfg(test)]
mod tests {
    use millstream_record::{Batch, Codec, Millis};

    use super::*;

    const OURS: Identity = Identity { id: ProducerId(7), epoch: ProducerEpoch(0) };
    const NEXT_EPOCH: Identity = Identity { id: ProducerId(7), epoch: ProducerEpoch(1) };

    /// A queue with `batches` full ones of two records each.
    fn queue(batches: usize) -> Queue {
        let mut queue = Queue::new(TopicPartition::new("t", 0));
        for _ in 0..batches {
            let draft = queue.room(10, 1000, BatchOptions::default(), || Duration::ZERO);
            for _ in 0..2 {
                draft.builder.append(Millis(0), None, Some(b"v"), &[]).unwrap();
            }
            let draft = queue.open.take().unwrap();
            queue.full.push_back(draft);
        }
        queue
    }

    /// Sends the next batch under `identity`; gives its epoch and sequence as the broker would read them.
    fn send(queue: &mut Queue, identity: Identity, ticket: u64) -> (i16, i32) {
        let bytes = match queue.next(identity, ticket).expect("there is a batch") {
            Next::Again { bytes, .. } => bytes,
            Next::Build { ticket, builder } => {
                let bytes = builder.build().unwrap().freeze();
                queue.built(ticket, bytes.clone());
                bytes
            }
        };
        let batch = Batch::parse(bytes).unwrap();
        batch.check_crc().unwrap();
        (batch.header().producer_epoch.0, batch.header().base_sequence)
    }

    fn may_send(queue: &Queue, identity: Identity) -> bool {
        queue.ready_at(identity, Duration::ZERO, false, 5).is_some()
    }

    fn acknowledge(queue: &mut Queue, ticket: u64) {
        let batch = queue.land(ticket).unwrap();
        queue.acknowledge(&batch);
    }

    fn fail(queue: &mut Queue, ticket: u64) {
        let batch = queue.land(ticket).unwrap();
        queue.retry(batch, Duration::ZERO);
    }

    #[test]
    fn the_first_of_a_run_goes_alone() {
        let mut queue = queue(3);
        assert_eq!(send(&mut queue, OURS, 0), (0, 0));
        assert!(!may_send(&queue, OURS), "the broker would take the second one without it");
        fail(&mut queue, 0);
        assert_eq!(send(&mut queue, OURS, 99), (0, 0));
        assert!(!may_send(&queue, OURS));
        acknowledge(&mut queue, 0);
        assert_eq!(send(&mut queue, OURS, 1), (0, 2));
        assert!(may_send(&queue, OURS));
        assert!(!may_send(&queue, NEXT_EPOCH));
        acknowledge(&mut queue, 1);
        assert_eq!(send(&mut queue, NEXT_EPOCH, 2), (1, 0));
        assert!(!may_send(&queue, NEXT_EPOCH));
    }

    #[test]
    fn five_are_in_flight_counted_from_the_oldest() {
        let mut queue = queue(10);
        send(&mut queue, OURS, 9);
        acknowledge(&mut queue, 9);
        for ticket in 0..5 {
            assert!(may_send(&queue, OURS));
            send(&mut queue, OURS, ticket);
        }
        assert!(!may_send(&queue, OURS));
        acknowledge(&mut queue, 1);
        assert!(!may_send(&queue, OURS), "the broker would forget the first before it is known to be there");
        acknowledge(&mut queue, 0);
        assert!(may_send(&queue, OURS));
    }

    #[test]
    fn what_failed_goes_again_alone_in_order_and_before_anything_newer() {
        let mut queue = queue(4);
        for ticket in 0..3 {
            send(&mut queue, OURS, ticket);
        }
        fail(&mut queue, 2);
        fail(&mut queue, 0);
        assert!(!may_send(&queue, OURS), "one is still in flight");
        fail(&mut queue, 1);
        for (ticket, sequence) in [(0, 0), (1, 2)] {
            assert!(may_send(&queue, OURS));
            assert_eq!(send(&mut queue, OURS, 99), (0, sequence));
            assert!(!may_send(&queue, OURS));
            acknowledge(&mut queue, ticket);
        }
        assert_eq!(send(&mut queue, OURS, 99), (0, 4));
        assert!(may_send(&queue, OURS), "the last of them may be followed");
        assert_eq!(send(&mut queue, OURS, 3), (0, 6));
    }

    #[test]
    fn a_sequence_that_is_lost_ends_the_run_but_only_behind_what_may_be_there() {
        let mut queue = queue(4);
        for ticket in 0..3 {
            send(&mut queue, OURS, ticket);
        }
        fail(&mut queue, 0); // its answer was lost: it may be in the log
        let refused = queue.land(1).unwrap(); // refused for good
        queue.renumber(refused.sequence);
        fail(&mut queue, 2);
        assert!(!queue.needs_new_epoch(OURS), "the first has to be settled as it was sent");
        assert_eq!(send(&mut queue, OURS, 99), (0, 0));
        assert!(!queue.needs_new_epoch(OURS));
        acknowledge(&mut queue, 0);
        assert!(queue.needs_new_epoch(OURS));
        assert_eq!(send(&mut queue, NEXT_EPOCH, 99), (1, 0));
        acknowledge(&mut queue, 2);
        assert!(!queue.needs_new_epoch(NEXT_EPOCH));
        assert_eq!(send(&mut queue, NEXT_EPOCH, 3), (1, 2));
    }

    #[test]
    fn what_was_sent_behind_an_expired_batch_keeps_its_number_until_the_broker_says_that_it_is_not_there() {
        let mut queue = queue(4);
        send(&mut queue, OURS, 0);
        acknowledge(&mut queue, 0);
        for ticket in 1..4 {
            send(&mut queue, OURS, ticket);
        }
        let numbers: Vec<i32> = queue.in_flight.iter().map(|batch| batch.sequence).collect();
        for ticket in 1..4 {
            fail(&mut queue, ticket);
        }
        if let Some(first) = queue.retry.front_mut() {
            first.common.created = Duration::ZERO;
        }
        queue.retry.iter_mut().skip(1).for_each(|batch| batch.common.created = Duration::from_secs(9));
        assert_eq!(queue.expire(Duration::from_secs(1)).0.len(), 1);
        assert!(!queue.needs_new_epoch(OURS), "the others may be in the log");
        assert_eq!(send(&mut queue, OURS, 2), (0, numbers[1]));
        let second = queue.land(2).unwrap();
        assert!(queue.place(&second) == Place::Next, "none before it is left");
        queue.acknowledge(&second); // it was in the log, so the expired one is, too
        assert_eq!(send(&mut queue, OURS, 3), (0, numbers[2]));
        let third = queue.land(3).unwrap();
        assert!(queue.place(&third) == Place::Next);
        queue.renumber(third.sequence); // the broker says that it does not follow
        queue.retry(third, Duration::ZERO);
        assert!(queue.needs_new_epoch(OURS));
        assert_eq!(send(&mut queue, NEXT_EPOCH, 3), (1, 0));
    }

    #[test]
    fn an_expired_batch_that_was_sent_ends_the_run_and_one_that_was_not_leaves_no_gap() {
        let mut sent = queue(2);
        send(&mut sent, OURS, 0);
        fail(&mut sent, 0);
        let (expired, was_sent) = sent.expire(Duration::from_secs(1));
        assert_eq!((expired.len(), was_sent), (2, true));
        assert!(sent.needs_new_epoch(OURS) && sent.is_idle());

        let mut unsent = queue(2);
        assert!(!unsent.expire(Duration::from_secs(1)).1);
        assert!(!unsent.needs_new_epoch(OURS));
    }

    #[test]
    fn places_are_told_from_what_was_acknowledged() {
        let mut queue = queue(4);
        for ticket in 0..4 {
            send(&mut queue, OURS, ticket);
        }
        let places =
            |queue: &Queue| queue.in_flight.iter().map(|batch| queue.place(batch)).collect::<Vec<_>>();
        assert_eq!(places(&queue), [Place::Next, Place::Later, Place::Later, Place::Later]);
        acknowledge(&mut queue, 1);
        assert_eq!(places(&queue), [Place::Before, Place::Next, Place::Later]);
        acknowledge(&mut queue, 0);
        assert_eq!(places(&queue), [Place::Next, Place::Later], "an older one does not move the mark back");
    }

    /// The batch of `ticket` is too large; its second record gets the ticket `second`.
    fn split(queue: &mut Queue, ticket: u64, second: u64) {
        let bytes = queue.bytes_of(ticket).unwrap();
        let halves = Halves::of(bytes, Codec::default()).unwrap().unwrap();
        let batch = queue.land(ticket).unwrap();
        queue.split(batch, halves, second);
    }

    #[test]
    fn parts_of_a_batch_take_its_place_and_its_sequences() {
        let mut queue = queue(5);
        send(&mut queue, OURS, 0);
        acknowledge(&mut queue, 0);
        for ticket in 1..4 {
            send(&mut queue, OURS, ticket);
        }
        fail(&mut queue, 2); // it was refused for what it should have come behind
        split(&mut queue, 1, 11);
        assert!(!may_send(&queue, OURS), "one is still in flight");
        let third = queue.land(3).unwrap();
        assert_eq!(queue.place(&third), Place::Later);
        queue.retry(third, Duration::ZERO);
        for (ticket, sequence) in [(1, 2), (11, 3), (2, 4), (3, 6)] {
            assert!(may_send(&queue, OURS));
            assert_eq!(send(&mut queue, OURS, 99), (0, sequence));
            acknowledge(&mut queue, ticket);
        }
        assert_eq!(send(&mut queue, OURS, 4), (0, 8));
    }

    #[test]
    fn parts_of_a_batch_that_may_be_in_the_log_know_it_and_so_do_theirs() {
        for unanswered in [false, true] {
            let mut queue = queue(1);
            for n in 0..2 {
                queue.full[0].builder.append(Millis(n), None, Some(b"more"), &[]).unwrap();
            }
            send(&mut queue, OURS, 0);
            let mut batch = queue.land(0).unwrap();
            batch.unanswered = unanswered;
            queue.retry(batch, Duration::ZERO);
            send(&mut queue, OURS, 99);
            split(&mut queue, 0, 1);
            send(&mut queue, OURS, 99);
            split(&mut queue, 0, 2);
            let parts: Vec<_> =
                queue.retry.iter().map(|part| (part.of_unanswered, part.unanswered)).collect();
            assert_eq!(parts, [(unanswered, false); 3]);
            send(&mut queue, OURS, 99);
            acknowledge(&mut queue, 0);
            assert!(queue.retry.iter().all(|part| !part.of_unanswered), "the first part of it is there");
        }
    }

    #[test]
    fn parts_behind_a_record_that_is_too_large_show_whether_the_whole_is_in_the_log() {
        for unanswered in [false, true] {
            let mut queue = queue(2);
            send(&mut queue, OURS, 0);
            acknowledge(&mut queue, 0);
            send(&mut queue, OURS, 1);
            fail(&mut queue, 1);
            queue.retry[0].unanswered = unanswered;
            send(&mut queue, OURS, 99);
            split(&mut queue, 1, 2);
            assert_eq!(send(&mut queue, OURS, 99), (0, 2));
            let given_up = queue.land(1).unwrap();
            queue.close_gap(&given_up);
            queue.gave_up(given_up.sequence);
            assert_eq!(send(&mut queue, OURS, 99), (0, if unanswered { 2 } else { 3 }));
            assert_eq!(queue.place(&queue.in_flight[0]), Place::Next);
        }
    }

    #[test]
    fn parts_keep_their_order_without_sequences_too() {
        let mut queue = queue(3);
        send(&mut queue, NOBODY, 0);
        split(&mut queue, 0, 10);
        send(&mut queue, NOBODY, 99);
        fail(&mut queue, 0); // before its other half, too
        for ticket in [0, 10, 1, 2] {
            assert!(may_send(&queue, NOBODY));
            send(&mut queue, NOBODY, ticket);
            queue.land(ticket).expect("it is the turn of this one");
        }
        assert!(queue.is_idle());
    }

    #[test]
    fn sequences_are_compared_around_their_wrap() {
        for (a, b, expected) in
            [(0, 1, true), (1, 0, false), (3, 3, false), (i32::MAX, 0, true), (0, i32::MAX, false)]
        {
            assert_eq!(precedes(a, b), expected, "{a} {b}");
        }
    }
}
