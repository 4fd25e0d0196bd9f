//! The coordinator of one partition's groups.

use bytes::Bytes;
use bytestring::ByteString;
use millstream_protocol::messages::describe_groups::DescribedGroup;
use millstream_protocol::messages::list_groups::ListedGroup;
use millstream_record::{Millis, ProducerId};

use super::api::{Config, Effect, Input};
use crate::{Error, KeyValue, TransactionOutcome};

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

/// The groups that live in one partition of `__consumer_offsets`.
#[derive(Debug)]
pub struct Coordinator {
    config: Config,
}

impl Coordinator {
    /// A coordinator that knows no group. Give it the partition's log through [`Coordinator::replay`], then call
    /// [`Coordinator::loaded`].
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self { config }
    }

    /// Applies what the log says. The only way in which offsets and stored groups change.
    ///
    /// # Errors
    /// [`Error::Malformed`] when the record cannot be read. Kinds of records that belong to other group protocols are skipped.
    pub fn replay(&mut self, _entry: Replay) -> Result<(), Error> {
        Ok(())
    }

    /// The log has been replayed to its end: members' sessions begin.
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
    pub fn restore(config: Config, _snapshot: Bytes) -> Result<Self, Error> {
        Ok(Self::new(config))
    }

    /// Takes one input and says what must happen.
    pub fn step(&mut self, _now: Millis, _input: Input) -> Vec<Effect> {
        let _ = &self.config;
        Vec::new()
    }

    /// When [`Input::Tick`] is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Millis> {
        None
    }

    /// The groups in one of `states` and of one of `types`; an empty filter lets all pass. Names compare in any case.
    #[must_use]
    pub fn list(&self, _states: &[ByteString], _types: &[ByteString]) -> Vec<ListedGroup> {
        Vec::new()
    }

    /// Describes a group. One that does not exist is GROUP_ID_NOT_FOUND where the client knows that code (KIP-1043), else it is
    /// described as dead.
    #[must_use]
    pub fn describe(&self, group_id: &str, group_id_not_found_known: bool) -> DescribedGroup {
        let _ = group_id_not_found_known;
        DescribedGroup { group_id: group_id.into(), ..DescribedGroup::default() }
    }
}
