//! Writing markers to partitions that are led here.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use millstream_env::Env;
use millstream_machine::TransactionOutcome;
use millstream_machine::group::{Answer, Input};
use millstream_machine::metadata::{Image, InternalTopic};
use millstream_machine::replica::{Acks, Outcome};
use millstream_machine::transaction::Marker;
use millstream_protocol::ErrorCode;
use millstream_record::{BatchBuilder, EndTxnMarker, ProducerEpoch, ProducerId, TopicPartition};

use crate::coordinator::Groups;
use crate::partition::{Appender, Terms};
use crate::partitions::Partitions;

/// How long a marker may take to come below the mark, before its coordinator is told to ask again.
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// How a transaction ends, as its marker says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    pub(crate) producer_id: ProducerId,
    pub(crate) producer_epoch: ProducerEpoch,
    pub(crate) coordinator_epoch: i32,
    pub(crate) outcome: TransactionOutcome,
}

impl From<&Marker> for Ending {
    fn from(marker: &Marker) -> Self {
        Self {
            producer_id: marker.producer_id,
            producer_epoch: marker.producer_epoch,
            coordinator_epoch: marker.coordinator_epoch,
            outcome: marker.outcome,
        }
    }
}

/// Writes markers to partitions that are led here.
#[derive(Clone)]
pub(crate) struct MarkerWriter {
    env: Env,
    image: Arc<ArcSwap<Image>>,
    partitions: Arc<Partitions>,
    groups: Arc<Groups>,
}

impl MarkerWriter {
    pub(crate) fn new(
        env: Env,
        image: Arc<ArcSwap<Image>>,
        partitions: Arc<Partitions>,
        groups: Arc<Groups>,
    ) -> Self {
        Self { env, image, partitions, groups }
    }

    pub(super) fn image(&self) -> Guard<Arc<Image>> {
        self.image.load()
    }

    /// Writes a transaction's end to a partition. `reply` is told once it is below the mark, or why it is not: perhaps before
    /// this returns.
    pub(crate) fn write(
        &self,
        at: &TopicPartition,
        ending: Ending,
        reply: impl FnOnce(ErrorCode) + Send + 'static,
    ) {
        if InternalTopic::of_name(&at.topic) == Some(InternalTopic::Offsets) {
            self.tell_group(at.partition, ending, reply);
        } else {
            self.append(at, ending, reply);
        }
    }

    /// The group coordinator writes it, since it must know which offsets count now.
    fn tell_group(&self, index: i32, ending: Ending, reply: impl FnOnce(ErrorCode) + Send + 'static) {
        let host = match self.groups.host(index) {
            Ok(host) => host,
            Err(code) => return reply(as_leader(code)),
        };
        let Ending { producer_id, producer_epoch, coordinator_epoch, outcome } = ending;
        host.ask_if(
            |partition| partition.check_marker(producer_id, producer_epoch, coordinator_epoch),
            move |answer| {
                reply(match answer {
                    Ok(Answer::EndTransaction(code)) | Err(code) => as_leader(code),
                    Ok(_) => ErrorCode::UnknownServerError,
                });
            },
            |waiter| Input::EndTransaction {
                waiter,
                producer_id,
                producer_epoch,
                coordinator_epoch,
                outcome,
            },
        );
    }

    fn append(&self, at: &TopicPartition, ending: Ending, reply: impl FnOnce(ErrorCode) + Send + 'static) {
        let topic_id = self.image.load().topic(&at.topic).map(|topic| topic.id);
        let found = topic_id.ok_or(ErrorCode::UnknownTopicOrPartition);
        let target = match found.and_then(|id| self.partitions.get(id, at.partition)) {
            Ok(target) => target,
            Err(code) => return reply(code),
        };
        let marker = EndTxnMarker {
            committed: ending.outcome == TransactionOutcome::Commit,
            coordinator_epoch: ending.coordinator_epoch,
        };
        let batch =
            BatchBuilder::end_txn_marker(self.env.now(), ending.producer_id, ending.producer_epoch, marker);
        let terms = Terms { acks: Acks::All, timeout: WRITE_TIMEOUT, appender: Appender::Marker };
        let mut reply = Some(reply);
        let appended = target.append(&batch, terms, |_| {
            let reply = reply.take()?;
            Some(Box::new(move |outcome| reply(code_of(outcome))))
        });
        if let (Err(refusal), Some(reply)) = (appended, reply) {
            reply(refusal.code);
        }
    }
}

fn code_of(outcome: Outcome) -> ErrorCode {
    match outcome {
        Outcome::Done => ErrorCode::None,
        Outcome::TimedOut => ErrorCode::RequestTimedOut,
        Outcome::NotLeader => ErrorCode::NotLeaderOrFollower,
        Outcome::StorageFailed => ErrorCode::KafkaStorageError,
        Outcome::Overloaded => ErrorCode::NotEnoughReplicasAfterAppend,
    }
}

/// A transaction coordinator knows leaders only: where a group's is not ready it asks again, as Kafka's does.
fn as_leader(code: ErrorCode) -> ErrorCode {
    match code {
        ErrorCode::CoordinatorNotAvailable
        | ErrorCode::CoordinatorLoadInProgress
        | ErrorCode::NotCoordinator => ErrorCode::NotLeaderOrFollower,
        other => other,
    }
}
