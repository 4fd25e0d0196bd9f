//! Transaction coordinators.

use std::sync::Arc;

use bytes::Bytes;
use millstream_machine::group::Replay;
use millstream_machine::metadata::InternalTopic;
use millstream_machine::transaction::{Config, Coordinator, Effect, Input, Marker};
use millstream_machine::{Error, Ticket, transaction};
use millstream_protocol::ErrorCode;
use millstream_record::{BatchOptions, Millis};

use super::host::{Host, Machine, Step};
use super::markers::Markers;
use super::set::{Premises, Set};
use crate::{BrokerConfig, batches};

/// The transaction coordinators of this broker.
pub(crate) type Transactions = Set<Coordinator>;

impl Transactions {
    /// None is loaded yet.
    pub(crate) fn of(config: &BrokerConfig, premises: Premises, markers: Arc<Markers>) -> Arc<Self> {
        let config = Config {
            max_timeout_ms: config.int("transaction.max.timeout.ms"),
            expiration_ms: config.number("transactional.id.expiration.ms"),
            expiration_check_interval_ms: config
                .number("transaction.remove.expired.transaction.cleanup.interval.ms"),
        };
        let make = move |epoch, snapshot: Option<Bytes>| match snapshot {
            Some(bytes) => Coordinator::restore(config.clone(), epoch, bytes),
            None => Ok(Coordinator::new(config.clone(), epoch)),
        };
        let run = move |host: &Arc<Host<Coordinator>>, marker: Marker| markers.send(host, marker);
        Set::new(InternalTopic::Transactions, premises, make, run)
    }
}

impl Machine for Coordinator {
    type Input = Input;
    type Answer = transaction::Answer;
    type Errand = Marker;

    fn replay(&mut self, entry: Replay) -> Result<(), Error> {
        match entry {
            Replay::Record { record, .. } => Coordinator::replay(self, record),
            Replay::Marker { .. } => Ok(()), // nobody writes transactions to this topic
        }
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
}

fn steps(effects: Vec<Effect>, now: Millis) -> Vec<Step<Coordinator>> {
    let step = |effect| match effect {
        Effect::Append { ticket, records } => {
            Step::Append { ticket, batch: batches::of_records(BatchOptions::default(), now, &records) }
        }
        Effect::Answer { waiter, answer } => Step::Answer { waiter, answer },
        Effect::WriteMarkers(marker) => Step::Errand(marker),
    };
    effects.into_iter().map(step).collect()
}
