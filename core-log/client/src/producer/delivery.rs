//! The outcome of a batch, shared by the deliveries of its records.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use millstream_record::{Millis, Offset, TopicPartition};
use parking_lot::Mutex;

use crate::{RecordMetadata, Result};

/// Where a batch was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Written {
    /// `None` where the broker does not tell.
    pub base_offset: Option<Offset>,
    /// The broker's time, where the topic says that it counts.
    pub append_time: Option<Millis>,
}

/// What became of a batch; written once, or once for each part of it where it was too large and had to be split.
#[derive(Debug)]
pub(super) struct Outcome {
    partition: TopicPartition,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Parts that have no result yet.
    open: usize,
    /// Those that have one, in order: the positions of their records in the batch, and what became of them.
    results: Vec<(Range<i32>, Result<Written>)>,
    wakers: Wakers,
}

/// Who waits for an outcome: one place for each delivery that was polled.
#[derive(Debug, Default)]
struct Wakers {
    /// By record, in the order in which they came, or, if `sorted`, in that of the records.
    each: Vec<(i32, Option<Waker>)>,
    sorted: bool,
    /// Those of deliveries that stand for all records.
    all: Vec<Waker>,
}

/// The records of a batch that was not split.
pub(super) const WHOLE: Range<i32> = 0..i32::MAX;

impl Outcome {
    pub(super) fn new(partition: TopicPartition) -> Arc<Self> {
        let state = State { open: 1, results: Vec::new(), wakers: Wakers::default() };
        Arc::new(Self { partition, state: Mutex::new(state) })
    }

    /// One of its parts is two from now on.
    pub(super) fn split(&self) {
        self.state.lock().open += 1;
    }

    /// Gives the result of the part that has `records`; the first one counts.
    pub(super) fn complete(&self, records: Range<i32>, result: Result<Written>) {
        let woken = {
            let mut state = self.state.lock();
            if state.open == 0 || state.part(records.start).is_some() {
                return;
            }
            let woken = match state.open {
                1 => state.wakers.take_all(),
                _ => state.wakers.take(&records), // deliveries of other parts wait on
            };
            let at = state.results.partition_point(|(other, _)| other.start < records.start);
            state.results.insert(at, (records, result));
            state.open -= 1;
            woken
        };
        woken.into_iter().for_each(Waker::wake);
    }

    /// The delivery of the batch's record `index`.
    pub(super) fn delivery(self: &Arc<Self>, index: i32, timestamp: Millis) -> Delivery {
        Delivery { outcome: Arc::clone(self), index: Some(index), timestamp, place: None }
    }

    /// A delivery that stands for all records of the batch: it fails when one of them did.
    pub(super) fn delivery_of_all(self: &Arc<Self>) -> Delivery {
        Delivery { outcome: Arc::clone(self), index: None, timestamp: Millis::NONE, place: None }
    }
}

impl State {
    /// The part with record `index`, if it has a result.
    fn part(&self, index: i32) -> Option<&(Range<i32>, Result<Written>)> {
        let behind = self.results.partition_point(|(records, _)| records.start <= index);
        self.results[..behind].last().filter(|(records, _)| records.contains(&index))
    }

    /// The part of record `index`, or, for all, one that failed if one did.
    fn result(&self, index: Option<i32>) -> Option<&(Range<i32>, Result<Written>)> {
        match index {
            Some(index) => self.part(index),
            None if self.open > 0 => None,
            None => self.results.iter().find(|(_, result)| result.is_err()).or(self.results.first()),
        }
    }
}

impl Wakers {
    /// Notes who waits for record `index`, or for all; gives the place to be told the next time.
    fn note(&mut self, index: Option<i32>, place: Option<usize>, waker: &Waker) -> usize {
        let Some(index) = index else {
            if let Some(known) = place.and_then(|place| self.all.get_mut(place)) {
                known.clone_from(waker);
                return place.unwrap_or_default();
            }
            self.all.push(waker.clone());
            return self.all.len() - 1;
        };
        // Where they were sorted since, the place is another's, and a new one is taken.
        match place.and_then(|place| Some((place, self.each.get_mut(place)?))) {
            Some((place, (known, slot))) if *known == index => {
                *slot = Some(waker.clone());
                place
            }
            _ => {
                self.each.push((index, Some(waker.clone())));
                self.sorted = false;
                self.each.len() - 1
            }
        }
    }

    fn take_all(&mut self) -> Vec<Waker> {
        let Self { each, all, .. } = std::mem::take(self);
        each.into_iter().filter_map(|(_, waker)| waker).chain(all).collect()
    }

    /// Those that wait for these records. Parts come one by one, and a batch may have many of them and of deliveries: so the
    /// others are not looked at.
    fn take(&mut self, records: &Range<i32>) -> Vec<Waker> {
        if !self.sorted {
            self.each.sort_unstable_by_key(|(index, _)| *index);
            self.sorted = true;
        }
        let from = self.each.partition_point(|(index, _)| *index < records.start);
        let these = self.each[from..].iter_mut().take_while(|(index, _)| *index < records.end);
        these.filter_map(|(_, waker)| waker.take()).collect()
    }
}

/// The outcome of one record, to be awaited. Dropping it changes nothing: the record is on its way.
#[must_use = "the outcome says whether the record was written"]
#[derive(Debug)]
pub struct Delivery {
    outcome: Arc<Outcome>,
    /// The record's position in its batch as it was made; none stands for all.
    index: Option<i32>,
    timestamp: Millis,
    /// Our waker among those of the batch.
    place: Option<usize>,
}

impl Future for Delivery {
    type Output = Result<RecordMetadata>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = Arc::clone(&self.outcome);
        let mut state = outcome.state.lock();
        if let Some((records, result)) = state.result(self.index) {
            let (first, written) = (records.start, result.clone());
            drop(state);
            let behind = i64::from(self.index.map_or(0, |index| index - first));
            return Poll::Ready(written.map(|written| RecordMetadata {
                partition: outcome.partition.clone(),
                offset: written.base_offset.map(|base| base.plus(behind)),
                timestamp: written.append_time.unwrap_or(self.timestamp),
            }));
        }
        self.place = Some(state.wakers.note(self.index, self.place, cx.waker()));
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;
    use crate::ClientError;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn records_of_a_split_batch_have_the_outcome_of_their_part() {
        let outcome = Outcome::new(TopicPartition::new("t", 0));
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut cx = Context::from_waker(&waker);
        let mut deliveries: Vec<_> = (0..6).map(|index| outcome.delivery(index, Millis(0))).collect();
        let mut all = outcome.delivery_of_all();
        let mut poll = |delivery: &mut Delivery| Pin::new(delivery).poll(&mut cx);
        assert!(deliveries.iter_mut().chain([&mut all]).all(|delivery| poll(delivery).is_pending()));

        outcome.split();
        outcome.split();
        outcome.complete(2..4, Err(ClientError::Aborted));
        assert_eq!(woken.0.swap(0, Ordering::Relaxed), 2, "no others than these are woken");
        for (index, delivery) in deliveries.iter_mut().enumerate() {
            match poll(delivery) {
                Poll::Ready(result) => assert!((2..4).contains(&index) && result.is_err(), "{index}"),
                Poll::Pending => assert!(!(2..4).contains(&index), "{index}"),
            }
        }
        let written = |at| Ok(Written { base_offset: Some(Offset(at)), append_time: None });
        outcome.complete(4..i32::MAX, written(70));
        assert!(poll(&mut all).is_pending(), "two are not in yet");
        outcome.complete(0..2, written(50));
        assert!(woken.0.load(Ordering::Relaxed) >= 5, "nobody sleeps on");
        assert!(matches!(poll(&mut all), Poll::Ready(Err(ClientError::Aborted))));
        for (index, at) in [(0, 50), (1, 51), (4, 70), (5, 71)] {
            let Poll::Ready(Ok(told)) = poll(&mut deliveries[index]) else {
                panic!("{index} has no outcome")
            };
            assert_eq!(told.offset, Some(Offset(at)), "{index}");
        }
    }
}
