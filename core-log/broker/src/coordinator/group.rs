//! Group coordinators, and how their records become batches.

use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use millstream_machine::group::{Answer, Batch, Config, Coordinator, Effect, Input, Replay};
use millstream_machine::metadata::{Image, InternalTopic};
use millstream_machine::{Error, Ticket, TransactionOutcome};
use millstream_protocol::ErrorCode;
use millstream_record::{BatchBuilder, BatchOptions, EndTxnMarker, Millis};

use super::host::{Host, Machine, Step};
use super::set::{Premises, Set};
use crate::BrokerConfig;
use crate::batches;

/// The group coordinators of this broker.
pub(crate) type Groups = Set<Coordinator>;

impl Groups {
    /// None is loaded yet.
    pub(crate) fn of(config: &BrokerConfig, premises: Premises) -> Arc<Self> {
        let config = Config {
            min_session_timeout_ms: config.int("group.min.session.timeout.ms"),
            max_session_timeout_ms: config.int("group.max.session.timeout.ms"),
            initial_rebalance_delay_ms: config.int("group.initial.rebalance.delay.ms"),
            max_size: usize::try_from(config.int("group.max.size")).unwrap_or(usize::MAX),
            offset_metadata_max_bytes: usize::try_from(config.int("offset.metadata.max.bytes")).unwrap_or(0),
            offsets_retention_ms: config.number("offsets.retention.minutes").saturating_mul(60_000),
            offsets_retention_check_interval_ms: config.number("offsets.retention.check.interval.ms"),
        };
        let make = move |_epoch, snapshot: Option<Bytes>| match snapshot {
            Some(bytes) => Coordinator::restore(config.clone(), bytes),
            None => Ok(Coordinator::new(config.clone())),
        };
        Set::new(InternalTopic::Offsets, premises, make, |_: &Arc<Host<Coordinator>>, never| match never {})
    }

    /// Has every group forget its offsets in topics that are gone.
    pub(crate) fn forget_topics(&self, topics: &[ByteString]) {
        for host in self.ready().0 {
            host.tell(Input::TopicsDeleted { topics: topics.to_vec() });
        }
    }
}

/// Groups ask nothing of others.
pub(crate) enum Never {}

impl Machine for Coordinator {
    type Input = Input;
    type Answer = Answer;
    type Errand = Never;

    fn replay(&mut self, entry: Replay) -> Result<(), Error> {
        Coordinator::replay(self, entry)
    }

    fn loaded(&mut self, now: Millis) -> Vec<Step<Self>> {
        steps(Coordinator::loaded(self, now), now)
    }

    fn step(&mut self, now: Millis, input: Input) -> Vec<Step<Self>> {
        steps(Coordinator::step(self, now, input), now)
    }

    fn log_accepts(&mut self, accepts: bool) {
        Coordinator::log_accepts(self, accepts);
    }

    fn next_deadline(&self) -> Option<Millis> {
        Coordinator::next_deadline(self)
    }

    fn durable(ticket: Ticket) -> Input {
        Input::Durable { ticket }
    }

    fn late(ticket: Ticket) -> Input {
        Input::Late { ticket }
    }

    fn failed(error: ErrorCode) -> Input {
        Input::Failed { error }
    }

    fn tick() -> Input {
        Input::Tick
    }

    fn snapshot(&self) -> Bytes {
        Coordinator::snapshot(self)
    }

    /// Topics that were deleted before it was loaded, without the coordinator then having heard of it.
    fn outdated(&self, image: &Image) -> Option<Input> {
        let topics: Vec<ByteString> =
            self.topics().into_iter().filter(|name| image.topic(name).is_none()).cloned().collect();
        (!topics.is_empty()).then_some(Input::TopicsDeleted { topics })
    }
}

fn steps(effects: Vec<Effect>, now: Millis) -> Vec<Step<Coordinator>> {
    let step = |effect| match effect {
        Effect::Append { ticket, batch } => Step::Append { ticket, batch: encode(batch, now) },
        Effect::Answer { waiter, answer } => Step::Answer { waiter, answer },
    };
    effects.into_iter().map(step).collect()
}

fn encode(batch: Batch, now: Millis) -> Bytes {
    match batch {
        Batch::Records(records) => batches::of_records(BatchOptions::default(), now, &records),
        // Without a sequence: the coordinator fences producers itself, and appends once.
        Batch::Transactional { producer_id, producer_epoch, records } => {
            let options =
                BatchOptions { producer_id, producer_epoch, transactional: true, ..BatchOptions::default() };
            batches::of_records(options, now, &records)
        }
        Batch::Marker { producer_id, producer_epoch, coordinator_epoch, outcome } => {
            let marker = EndTxnMarker { committed: outcome == TransactionOutcome::Commit, coordinator_epoch };
            BatchBuilder::end_txn_marker(now, producer_id, producer_epoch, marker)
        }
    }
}
