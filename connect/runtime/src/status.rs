//! What a running connector tells: counters, state, where its output ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::FutureExt;
use futures::future::BoxFuture;
use millstream_record::{Offset, TopicPartition};
use parking_lot::Mutex;
use tokio::sync::watch;

/// The end offset of each partition that a finite source has written.
pub type Ends = BTreeMap<TopicPartition, Offset>;

/// A channel on which a source, or a step, publishes where its output ends.
pub fn ends_channel() -> (tokio::sync::watch::Sender<Option<Ends>>, tokio::sync::watch::Receiver<Option<Ends>>)
{
    tokio::sync::watch::channel(None)
}

/// How a connector ended without an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its input has ended, and all of it is durable.
    Drained,
    /// It was asked to stop.
    Stopped,
}

/// Live counters of one source or sink. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Status(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    rows: AtomicU64,
    bytes: AtomicU64,
    bad: AtomicU64,
    commits: AtomicU64,
    retries: AtomicU64,
    last_error: Mutex<Option<String>>,
    caught_up: watch::Sender<bool>,
}

/// A snapshot of [`Status`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rows that are durable where they were brought: in the log for a source, in the outside system for a sink (those it has
    /// taken; they are durable at its next commit).
    pub rows: u64,
    /// Bytes read from the outside by a source, or bytes of record values taken by a sink.
    pub bytes: u64,
    /// Input that was no row.
    pub bad: u64,
    /// Transactions of a source, offset commits of a sink.
    pub commits: u64,
    /// Times that the task was started again after a failure.
    pub retries: u64,
    /// The last failure that is being retried.
    pub last_error: Option<String>,
}

impl Status {
    /// Counters at zero.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The counters now.
    pub fn counts(&self) -> Counts {
        Counts {
            rows: self.0.rows.load(Ordering::Relaxed),
            bytes: self.0.bytes.load(Ordering::Relaxed),
            bad: self.0.bad.load(Ordering::Relaxed),
            commits: self.0.commits.load(Ordering::Relaxed),
            retries: self.0.retries.load(Ordering::Relaxed),
            last_error: self.0.last_error.lock().clone(),
        }
    }

    /// Completes once a source has made durable all that was there when it was started: it found nothing new, or has ended.
    pub fn caught_up(&self) -> BoxFuture<'static, ()> {
        let mut hears = self.0.caught_up.subscribe();
        let keeps = self.clone(); // else the sender may go first
        async move {
            let _ = hears.wait_for(|caught_up| *caught_up).await; // an error would mean that the sender is gone
            drop(keeps);
        }
        .boxed()
    }

    /// Whether [`Status::caught_up`] has completed.
    pub fn has_caught_up(&self) -> bool {
        *self.0.caught_up.borrow()
    }

    pub(crate) fn set_caught_up(&self) {
        self.0.caught_up.send_if_modified(|caught_up| !std::mem::replace(caught_up, true));
    }

    pub(crate) fn committed(&self, rows: u64, bytes: u64, bad: u64) {
        self.0.rows.fetch_add(rows, Ordering::Relaxed);
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.0.bad.fetch_add(bad, Ordering::Relaxed);
        self.0.commits.fetch_add(1, Ordering::Relaxed);
        *self.0.last_error.lock() = None;
    }

    pub(crate) fn failed(&self, error: &crate::RuntimeError) {
        self.0.retries.fetch_add(1, Ordering::Relaxed);
        *self.0.last_error.lock() = Some(error.to_string());
    }
}
