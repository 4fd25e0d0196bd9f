//! What an answer to a produce means for the batches that were in it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use millstream_protocol::messages::produce::{PartitionProduceResponse, ProduceRequest, ProduceResponse};
use millstream_protocol::{CallError, Endpoint, ErrorCode, Response};
use millstream_record::{Millis, Offset, TopicPartition};

use super::Shared;
use super::delivery::Written;
use super::queue::{Place, Sent};
use super::sender::Asked;
use super::split::Halves;
use super::state::Slot;
use super::transaction::Phase;
use crate::links::read_answer;
use crate::metadata::Metadata;
use crate::{Acks, ClientError, Result};

/// What is to become of a batch.
#[derive(Debug, PartialEq)]
enum Verdict {
    /// It is in the log.
    Done(Written),
    /// It goes again; nothing was written, or it will be recognised as a duplicate.
    Again(ClientError),
    /// It goes again under a new epoch: the broker does not know the sequences before it.
    Renumber(ClientError),
    /// It is too large for the topic, but it has several records: it goes again in two.
    Split(ClientError, Halves),
    /// It failed.
    Failed(ClientError),
    /// The producer failed.
    Fatal(ClientError),
}

impl Shared {
    /// Deals with the batches of a request that was answered, or will not be.
    pub(super) fn landed(&self, endpoint: &Endpoint, asked: &Asked, answer: Result<Response, CallError>) {
        let answer = match answer {
            Err(CallError::NoAnswer) => Ok(None), // acks=0
            // Nor does anything that a link says later concern what it took with acks=0: sent again, it would stand twice.
            Err(error) if self.config.acks == Acks::None && !was_not_sent(&error) => {
                tracing::debug!(%error, broker = %endpoint, "records with acks=0 may be lost");
                Ok(None)
            }
            answer => read_answer::<ProduceRequest>(endpoint, answer).map(Some),
        };
        let mut told = answer.map(|answer| answer.map(|answer| by_partition(answer, &asked.metadata)));
        for &(slot, ticket) in &asked.batches {
            let partition = self.state.lock().partition(slot).cloned();
            let Some(partition) = partition else { continue };
            let answer = match &mut told {
                Ok(None) => Ok(Written { base_offset: None, append_time: None }),
                Ok(Some(told)) => told
                    .remove(&partition)
                    .ok_or_else(|| ClientError::Answer {
                        api: "Produce",
                        broker: endpoint.to_string(),
                        what: format!("it says nothing of {partition}"),
                    })
                    .and_then(|told| read_partition(&partition, &told)),
                Err(error) => Err(error.clone()),
            };
            self.settle_batch(slot, ticket, answer);
        }
    }

    fn settle_batch(&self, slot: Slot, ticket: u64, answer: Result<Written>) {
        let halves = self.halves(slot, ticket, &answer);
        let mut state = self.state.lock();
        let second = state.ticket();
        let transactional = !matches!(state.transaction.phase, Phase::Plain);
        let aborting = matches!(state.transaction.phase, Phase::Aborting | Phase::Failed(_));
        let Some(queue) = state.queues.get_mut(slot) else { return };
        let Some(mut batch) = queue.land(ticket) else { return };
        let mut verdict = judge(answer, &batch, queue.place(&batch), transactional, halves);
        if aborting && matches!(verdict, Verdict::Again(_) | Verdict::Split(..)) {
            verdict = Verdict::Failed(ClientError::Aborted); // the transaction ends without it
        }
        let result = match verdict {
            Verdict::Again(ref error) | Verdict::Renumber(ref error) => {
                tracing::debug!(%error, sequence = batch.sequence, "a batch goes again");
                queue.last_error = Some(error.clone());
                batch.unanswered |= may_be_written(error);
                if matches!(verdict, Verdict::Renumber(_)) {
                    queue.renumber(batch.sequence);
                }
                queue.failures = queue.failures.saturating_add(1);
                let wait =
                    backoff(&self.cluster.config, queue.failures, self.cluster.env.random_below(1 << 16));
                queue.retry(batch, self.cluster.env.elapsed().saturating_add(wait));
                self.cluster.mark_stale();
                return;
            }
            Verdict::Split(error, halves) => {
                tracing::debug!(%error, sequence = batch.sequence, records = batch.count, "a batch goes again in two");
                queue.last_error = Some(error);
                return queue.split(batch, halves, second);
            }
            Verdict::Done(written) => {
                queue.failures = 0;
                queue.last_error = None;
                queue.acknowledge(&batch);
                Ok(written)
            }
            Verdict::Failed(error) => {
                tracing::debug!(%error, sequence = batch.sequence, "a batch is given up");
                if error.code() == Some(ErrorCode::MessageTooLarge) {
                    queue.close_gap(&batch);
                }
                queue.gave_up(batch.sequence);
                state.transaction.needs_new_epoch |= transactional;
                state.fail_transaction(error.clone());
                Err(error)
            }
            Verdict::Fatal(error) => {
                drop(state);
                let freed = batch.common.complete(Err(error.clone()));
                self.memory.add_permits(freed);
                return self.give_up(error);
            }
        };
        state.settle(slot);
        drop(state);
        self.memory.add_permits(batch.common.complete(result));
    }

    /// The halves of a batch that is too large, made without the lock.
    fn halves(&self, slot: Slot, ticket: u64, answer: &Result<Written>) -> Option<Halves> {
        let error = answer.as_ref().err()?;
        if error.code() != Some(ErrorCode::MessageTooLarge) {
            return None;
        }
        let bytes = self.state.lock().queues.get(slot)?.bytes_of(ticket)?;
        Halves::of(bytes, self.config.compression).unwrap_or_else(|error| {
            tracing::warn!(%error, "a batch that is too large cannot be split");
            None
        })
    }
}

/// Whether the request did certainly not go to the broker.
fn was_not_sent(error: &CallError) -> bool {
    matches!(error, CallError::Busy { .. } | CallError::Unsupported { .. } | CallError::Codec(_))
}

/// Whether the batch may be in the log in spite of the error.
fn may_be_written(error: &ClientError) -> bool {
    match error {
        ClientError::Call { source, .. } => !was_not_sent(source),
        // What a leader says that could not finish what it began, or was deposed meanwhile.
        ClientError::Broker { code, .. } => matches!(
            code,
            ErrorCode::RequestTimedOut
                | ErrorCode::NotEnoughReplicasAfterAppend
                | ErrorCode::NotLeaderOrFollower
                | ErrorCode::KafkaStorageError
        ),
        _ => false,
    }
}

fn by_partition(
    answer: ProduceResponse,
    metadata: &Metadata,
) -> BTreeMap<TopicPartition, PartitionProduceResponse> {
    let mut told = BTreeMap::new();
    for topic in answer.responses {
        let by_id = metadata.topic_named(topic.topic_id).filter(|_| topic.name.is_empty());
        let name = by_id.cloned().unwrap_or_else(|| Arc::from(&*topic.name));
        for partition in topic.partition_responses {
            told.insert(TopicPartition::new(Arc::clone(&name), partition.index), partition);
        }
    }
    told
}

fn read_partition(partition: &TopicPartition, told: &PartitionProduceResponse) -> Result<Written> {
    let written = Written {
        base_offset: Some(Offset(told.base_offset)).filter(|offset| offset.0 >= 0),
        append_time: Some(Millis(told.log_append_time_ms)).filter(|time| *time != Millis::NONE),
    };
    match ErrorCode::from_code(told.error_code) {
        ErrorCode::None | ErrorCode::DuplicateSequenceNumber => Ok(written),
        code => Err(ClientError::Broker {
            api: "Produce",
            subject: partition.to_string(),
            code,
            detail: told.error_message.as_ref().map(ToString::to_string),
        }),
    }
}

fn judge(
    answer: Result<Written>,
    batch: &Sent,
    place: Place,
    transactional: bool,
    halves: Option<Halves>,
) -> Verdict {
    let error = match answer {
        Ok(written) => return Verdict::Done(written),
        Err(error) => error,
    };
    let who = || format!("producer with the batch of sequence {}", batch.sequence);
    if let Some(halves) = halves.filter(|_| place != Place::Before) {
        return Verdict::Split(error, halves); // where a later one was acknowledged, its sequences are gone
    }
    match error.code() {
        // An earlier batch is still to come: this one was only too fast.
        Some(ErrorCode::OutOfOrderSequenceNumber) if place == Place::Later => Verdict::Again(error),
        // A later one was acknowledged, so this one is in the log: the broker only remembers it no more.
        Some(ErrorCode::OutOfOrderSequenceNumber) if place == Place::Before => {
            Verdict::Done(Written { base_offset: None, append_time: None })
        }
        // A part of a batch that may be in the log as a whole: then no part of it follows. Under other numbers it would stand twice.
        Some(
            ErrorCode::OutOfOrderSequenceNumber
            | ErrorCode::UnknownProducerId
            | ErrorCode::InvalidProducerEpoch,
        ) if batch.of_unanswered => Verdict::Failed(outcome_unknown(error)),
        // The broker lost or forgot what it knew of us; a transaction cannot be sure of itself any more.
        Some(
            ErrorCode::OutOfOrderSequenceNumber
            | ErrorCode::UnknownProducerId
            | ErrorCode::InvalidProducerEpoch,
        ) if place != Place::None && !transactional => Verdict::Renumber(error),
        Some(ErrorCode::ProducerFenced) => Verdict::Fatal(ClientError::Fenced { who: who() }),
        Some(ErrorCode::ClusterAuthorizationFailed | ErrorCode::TransactionalIdAuthorizationFailed) => {
            Verdict::Fatal(ClientError::Fatal { cause: Arc::new(error) })
        }
        _ if error.is_retriable() => Verdict::Again(error),
        _ => Verdict::Failed(error),
    }
}

fn outcome_unknown(error: ClientError) -> ClientError {
    match error {
        ClientError::Broker { api, subject, code, .. } => {
            let detail = "the records may be in the log all the same: an earlier try, in a larger batch, was not answered";
            ClientError::Broker { api, subject, code, detail: Some(detail.to_owned()) }
        }
        other => other,
    }
}

fn backoff(config: &crate::ClientConfig, failures: u32, random: u64) -> Duration {
    let doubled = config.retry_backoff_ms.saturating_mul(1 << (failures - 1).min(16));
    let most = doubled.min(config.retry_backoff_max_ms);
    Duration::from_millis(most - most / 5 + random % (most * 2 / 5 + 1))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::producer::delivery::{Outcome, WHOLE};
    use crate::producer::queue::Common;

    /// What becomes of a batch, which has several records or one, in one word.
    fn verdict(code: ErrorCode, place: Place, transactional: bool, several: bool) -> &'static str {
        verdict_on(code, place, transactional, several, false)
    }

    fn verdict_on(
        code: ErrorCode,
        place: Place,
        transactional: bool,
        several: bool,
        of_unanswered: bool,
    ) -> &'static str {
        let partition = TopicPartition::new("t", 0);
        let outcome = Outcome::new(partition.clone());
        let common = Common { outcome, records: WHOLE, created: Duration::ZERO, memory: 0 };
        let mut batch = Sent::for_test(Bytes::new(), common);
        batch.of_unanswered = of_unanswered;
        let halves = several.then(|| Halves { first: Bytes::new(), second: Bytes::new(), count: 1 });
        let told =
            PartitionProduceResponse { error_code: code.code(), ..PartitionProduceResponse::default() };
        match judge(read_partition(&partition, &told), &batch, place, transactional, halves) {
            Verdict::Split(..) => "split",
            Verdict::Done(_) => "done",
            Verdict::Again(_) => "again",
            Verdict::Renumber(_) => "renumber",
            Verdict::Failed(_) => "failed",
            Verdict::Fatal(_) => "fatal",
        }
    }

    #[test]
    fn errors_are_judged_as_kafkas_producer_does() {
        use ErrorCode as E;
        use Place::{Before, Later, Next, None};
        for (code, place, transactional, expected) in [
            (E::None, Next, false, "done"),
            (E::DuplicateSequenceNumber, Next, false, "done"),
            (E::NotLeaderOrFollower, Next, false, "again"),
            (E::NotEnoughReplicasAfterAppend, None, false, "again"),
            (E::OutOfOrderSequenceNumber, Later, false, "again"),
            (E::OutOfOrderSequenceNumber, Later, true, "again"),
            (E::OutOfOrderSequenceNumber, Next, false, "renumber"),
            (E::OutOfOrderSequenceNumber, Next, true, "failed"),
            (E::OutOfOrderSequenceNumber, Before, false, "done"),
            (E::UnknownProducerId, Next, false, "renumber"),
            (E::InvalidProducerEpoch, Next, false, "renumber"),
            (E::InvalidProducerEpoch, Next, true, "failed"),
            (E::ProducerFenced, Next, true, "fatal"),
            (E::MessageTooLarge, Next, false, "failed"),
            (E::TopicAuthorizationFailed, None, false, "failed"),
            (E::ClusterAuthorizationFailed, Next, false, "fatal"),
        ] {
            assert_eq!(
                verdict(code, place, transactional, false),
                expected,
                "{code} {place:?} {transactional}"
            );
        }
        let of_several = |place, transactional| verdict(E::MessageTooLarge, place, transactional, true);
        assert_eq!([of_several(None, false), of_several(Next, true), of_several(Later, false)], ["split"; 3]);
        assert_eq!(of_several(Before, false), "failed", "its sequences are behind us");
        // A part of a batch that was sent without an answer, and is in the log if the part does not follow what is there.
        let of_unanswered = |code, place| verdict_on(code, place, false, code == E::MessageTooLarge, true);
        for code in [E::OutOfOrderSequenceNumber, E::UnknownProducerId] {
            assert_eq!(of_unanswered(code, Next), "failed", "numbered anew it would stand twice");
        }
        assert_eq!(of_unanswered(E::OutOfOrderSequenceNumber, Later), "again");
        assert_eq!(of_unanswered(E::MessageTooLarge, Next), "split");
    }
}
