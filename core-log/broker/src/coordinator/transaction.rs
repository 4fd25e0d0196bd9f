//! Transaction coordinators, and the markers they have written.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millstream_env::TaskGroup;
use millstream_machine::group::{Input as GroupInput, Replay};
use millstream_machine::metadata::InternalTopic;
use millstream_machine::replica::{Acks, Outcome};
use millstream_machine::transaction::{Config, Coordinator, Effect, Input, Marker, Verdict};
use millstream_machine::{Error, Ticket, TransactionOutcome, group, transaction};
use millstream_protocol::ErrorCode;
use millstream_record::{
    BatchBuilder, BatchOptions, EndTxnMarker, Millis, ProducerEpoch, ProducerId, TopicPartition,
};

use super::Groups;
use super::host::{Host, Machine, Step};
use super::set::{Premises, Set};
use crate::partition::{Appender, Terms};
use crate::{BrokerConfig, batches};

/// How long a marker may take to become durable; a disk that takes longer has failed.
const MARKER_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// How long a marker waits before it is tried again, where its partition cannot take it yet.
const MARKER_RETRY: Duration = Duration::from_millis(100);

/// The transaction coordinators of this broker.
pub(crate) type Transactions = Set<Coordinator>;

impl Transactions {
    /// None is loaded yet. Markers for offsets go to `groups`.
    pub(crate) fn of(config: &BrokerConfig, premises: Premises, groups: &Arc<Groups>) -> Arc<Self> {
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
        let (groups, others) = (Arc::clone(groups), premises.clone());
        let run = move |host: &Arc<Host<Coordinator>>, marker: Marker| {
            for partition in marker.partitions.clone() {
                let errand = Errand { host: Arc::downgrade(host), marker: marker.clone(), partition };
                errand.run(&groups, &others);
            }
        };
        Set::new(InternalTopic::Transactions, premises, make, run)
    }

    /// Does `work` if `partition` is in the open transaction of this producer, and keeps it open meanwhile: what `work` appends
    /// is in the log before any marker of the transaction is. `work` runs under the coordinator's lock.
    ///
    /// # Errors
    /// Why it is not, as a client is told.
    pub(crate) fn while_in_transaction<T>(
        self: &Arc<Self>,
        transactional_id: &str,
        producer: (ProducerId, ProducerEpoch),
        partition: &TopicPartition,
        work: impl FnOnce() -> T,
    ) -> Result<T, ErrorCode> {
        let host = self.host_of(transactional_id)?;
        host.with(|machine| match machine.verify(transactional_id, producer.0, producer.1, partition) {
            Verdict::InTransaction => Ok(work()),
            Verdict::Refused(code) => Err(code),
        })
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

    fn next_deadline(&self) -> Option<Millis> {
        Coordinator::next_deadline(self)
    }

    fn durable(ticket: Ticket) -> Input {
        Input::Durable { ticket }
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

/// One marker on its way to one partition.
#[derive(Clone)]
struct Errand {
    host: std::sync::Weak<Host<Coordinator>>,
    marker: Marker,
    partition: TopicPartition,
}

impl Errand {
    fn run(self, groups: &Arc<Groups>, premises: &Premises) {
        if &*self.partition.topic == InternalTopic::Offsets.name() {
            self.tell_group(groups, premises);
        } else {
            self.append(groups, premises);
        }
    }

    /// A marker for offsets: the group coordinator writes it, since it must know.
    fn tell_group(self, groups: &Arc<Groups>, premises: &Premises) {
        let host = match groups.host(self.partition.partition) {
            Ok(host) => host,
            Err(ErrorCode::NotCoordinator) => return self.written(), // the topic is gone, and the offsets with it
            Err(_) => return self.again_later(groups, premises),
        };
        let Marker { producer_id, producer_epoch, coordinator_epoch, outcome, .. } = self.marker;
        let (groups, premises) = (Arc::clone(groups), premises.clone());
        let reply = move |answer| match answer {
            group::Answer::EndTransaction(ErrorCode::None) => self.written(),
            _ => self.again_later(&groups, &premises),
        };
        host.ask(reply, |waiter| GroupInput::EndTransaction {
            waiter,
            producer_id,
            producer_epoch,
            coordinator_epoch,
            outcome,
        });
    }

    fn append(self, groups: &Arc<Groups>, premises: &Premises) {
        let image = premises.image.load();
        let topic_id = image.topic(&self.partition.topic).map(|topic| topic.id);
        let found = topic_id.map(|id| premises.partitions.get(id, self.partition.partition));
        let target = match found {
            Some(Ok(target)) => target,
            None | Some(Err(ErrorCode::UnknownTopicOrPartition)) => return self.written(), // deleted
            Some(Err(_)) => return self.again_later(groups, premises),
        };
        let marker = EndTxnMarker {
            committed: self.marker.outcome == TransactionOutcome::Commit,
            coordinator_epoch: self.marker.coordinator_epoch,
        };
        let (id, epoch) = (self.marker.producer_id, self.marker.producer_epoch);
        let now = premises.tasks.env().now();
        let batch = BatchBuilder::end_txn_marker(now, id, epoch, marker);
        let terms = Terms { acks: Acks::All, timeout: MARKER_TIMEOUT, appender: Appender::Marker };
        let (again, retry) = (self.clone(), (Arc::clone(groups), premises.clone()));
        let waiting = move |outcome| match outcome {
            Outcome::Done => self.written(),
            _ => self.again_later(&retry.0, &retry.1),
        };
        match target.append(&batch, terms, |_| Some(Box::new(waiting))) {
            Ok(_) => {}
            // A newer epoch wrote already: the transaction is over there.
            Err(refusal)
                if matches!(
                    refusal.code,
                    ErrorCode::InvalidProducerEpoch | ErrorCode::TransactionCoordinatorFenced
                ) =>
            {
                again.written();
            }
            Err(_) => again.again_later(groups, premises),
        }
    }

    fn written(self) {
        let Some(host) = self.host.upgrade() else { return };
        host.tell(Input::MarkerWritten {
            transactional_id: self.marker.transactional_id,
            producer_id: self.marker.producer_id,
            producer_epoch: self.marker.producer_epoch,
            partition: self.partition,
        });
    }

    fn again_later(self, groups: &Arc<Groups>, premises: &Premises) {
        let tasks: TaskGroup = premises.tasks.clone();
        let env = tasks.env().clone();
        let (groups, premises) = (Arc::clone(groups), premises.clone());
        tasks.spawn("marker", async move {
            env.sleep(MARKER_RETRY).await;
            self.run(&groups, &premises);
        });
    }
}
