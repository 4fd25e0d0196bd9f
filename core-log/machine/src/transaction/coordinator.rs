//! The coordinator of one partition's transactional ids.

use bytes::Bytes;
use millstream_record::{Millis, ProducerEpoch, ProducerId, TopicPartition};

use super::api::{Config, Effect, Input, Verdict};
use crate::{Error, KeyValue};

/// The transactional ids that live in one partition of `__transaction_state`.
#[derive(Debug)]
pub struct Coordinator {
    config: Config,
    coordinator_epoch: i32,
}

impl Coordinator {
    /// A coordinator that knows no transactional id, on a partition led in `coordinator_epoch`. Give it the partition's log
    /// through [`Coordinator::replay`], then call [`Coordinator::loaded`].
    #[must_use]
    pub fn new(config: Config, coordinator_epoch: i32) -> Self {
        Self { config, coordinator_epoch }
    }

    /// Applies what the log says. The only way in which a transaction's stored state changes.
    ///
    /// # Errors
    /// [`Error::Malformed`] when the record cannot be read.
    pub fn replay(&mut self, _record: KeyValue) -> Result<(), Error> {
        Ok(())
    }

    /// The log has been replayed to its end: transactions found prepared go on to their markers.
    pub fn loaded(&mut self, _now: Millis) -> Vec<Effect> {
        Vec::new()
    }

    /// Everything that replay has built, to be restored with [`Coordinator::restore`] instead of reading the log from its
    /// start.
    #[must_use]
    pub fn snapshot(&self) -> Bytes {
        Bytes::new()
    }

    /// A coordinator from a snapshot; replay goes on behind it.
    ///
    /// # Errors
    /// [`Error::Snapshot`] when the bytes are not a snapshot.
    pub fn restore(config: Config, coordinator_epoch: i32, _snapshot: Bytes) -> Result<Self, Error> {
        Ok(Self::new(config, coordinator_epoch))
    }

    /// Takes one input and says what must happen.
    pub fn step(&mut self, _now: Millis, _input: Input) -> Vec<Effect> {
        let _ = (&self.config, self.coordinator_epoch);
        Vec::new()
    }

    /// When [`Input::Tick`] is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Millis> {
        None
    }

    /// Whether `partition` is in the open transaction of this producer: asked before a transactional batch is appended.
    #[must_use]
    pub fn verify(
        &self,
        _transactional_id: &str,
        _producer_id: ProducerId,
        _producer_epoch: ProducerEpoch,
        _partition: &TopicPartition,
    ) -> Verdict {
        Verdict::InTransaction
    }
}
