//! The outcome of a batch, shared by the deliveries of its records.

use std::future::Future;
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

/// What became of a batch; written once.
#[derive(Debug)]
pub(super) struct Outcome {
    partition: TopicPartition,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    result: Option<Result<Written>>,
    /// One place for each delivery that is waited for.
    wakers: Vec<Waker>,
}

impl Outcome {
    pub(super) fn new(partition: TopicPartition) -> Arc<Self> {
        Arc::new(Self { partition, state: Mutex::default() })
    }

    /// Gives the result; the first one counts.
    pub(super) fn complete(&self, result: Result<Written>) {
        let wakers = {
            let mut state = self.state.lock();
            if state.result.is_some() {
                return;
            }
            state.result = Some(result);
            std::mem::take(&mut state.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    /// The delivery of the batch's record `index`.
    pub(super) fn delivery(self: &Arc<Self>, index: i32, timestamp: Millis) -> Delivery {
        Delivery { outcome: Arc::clone(self), index, timestamp, place: None }
    }
}

/// The outcome of one record, to be awaited. Dropping it changes nothing: the record is on its way.
#[must_use = "the outcome says whether the record was written"]
#[derive(Debug)]
pub struct Delivery {
    outcome: Arc<Outcome>,
    index: i32,
    timestamp: Millis,
    /// Our waker among those of the batch.
    place: Option<usize>,
}

impl Future for Delivery {
    type Output = Result<RecordMetadata>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = Arc::clone(&self.outcome);
        let mut state = outcome.state.lock();
        if let Some(result) = &state.result {
            let written = result.clone();
            drop(state);
            return Poll::Ready(written.map(|written| RecordMetadata {
                partition: outcome.partition.clone(),
                offset: written.base_offset.map(|base| base.plus(i64::from(self.index))),
                timestamp: written.append_time.unwrap_or(self.timestamp),
            }));
        }
        match self.place.and_then(|place| state.wakers.get_mut(place)) {
            Some(waker) => waker.clone_from(cx.waker()),
            None => {
                self.place = Some(state.wakers.len());
                state.wakers.push(cx.waker().clone());
            }
        }
        Poll::Pending
    }
}
