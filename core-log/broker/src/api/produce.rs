//! Produce: appends batches in the order of calls, and answers when they are as durable as `acks` says.
//!
//! The append (to the page cache) is done before [`handle`] returns; that fixes the order. With `acks=all` the partition's
//! replica machine answers once the records are fsynced on the in-sync set.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use millstream_machine::metadata::InternalTopic;
use millstream_machine::replica::{Acks, Outcome};
use millstream_protocol::messages::produce::{
    BatchIndexAndErrorMessage, PartitionProduceData, PartitionProduceResponse, TopicProduceData,
    TopicProduceResponse,
};
use millstream_protocol::messages::{ProduceRequest, ProduceResponse};
use millstream_protocol::{CallError, Ctx, ErrorCode, Receipt};
use millstream_record::{BatchHeader, Compression, RecordError, TopicId};
use millstream_storage::{AppendInfo, validate_for_append};

use super::leader_hint::LeaderHint;
use super::transactions;
use crate::gather::Gather;
use crate::partition::{Appender, Partition, Terms, Waiting};
use crate::records::Rules;
use crate::refusal::Refusal;
use crate::shared::Shared;
use crate::verification::Claim;

/// Kafka's admin tools may write to internal topics under this client id.
const ADMIN_CLIENT: &str = "__admin_client";

pub(super) fn handle(shared: &Arc<Shared>, ctx: &Ctx, request: ProduceRequest) -> Receipt {
    let acks = match request.acks {
        0 => Acks::None,
        1 => Acks::Leader,
        -1 => Acks::All,
        _ => return refuse_all(&request, ErrorCode::InvalidRequiredAcks).into(),
    };
    if request.transactional_id.is_none() && has_transactional_batch(&request) {
        // Before anything is appended, and with this code, as Kafka does.
        let refused = refuse_all(&request, ErrorCode::TransactionalIdAuthorizationFailed);
        return leaves(acks, ctx, refused.into(), true);
    }
    let skeleton = skeleton(&request);
    let places = skeleton.responses.iter().map(|topic| topic.partition_responses.len()).sum();
    let (pending, receipt) = Gather::new(skeleton, places);
    let produce = Produce {
        shared,
        ctx,
        transactional_id: request.transactional_id,
        terms: Terms {
            acks,
            timeout: Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0)),
            appender: Appender::Client,
        },
    };
    let mut is_refused = false;
    for (t, topic) in request.topic_data.into_iter().enumerate() {
        for (p, data) in topic.partition_data.iter().enumerate() {
            let place = Place {
                shared: Arc::clone(shared),
                pending: Arc::clone(&pending),
                listener: ctx.listener.clone(),
                topic: (topic.name.clone(), topic.topic_id),
                index: data.index,
                at: (t, p),
            };
            if let Err(refusal) = produce.append(&topic, data, &place) {
                if acks == Acks::None {
                    tracing::debug!(topic = %topic.name, partition = data.index, ?refusal, "acks=0 batch refused");
                }
                place.refuse(refusal);
                is_refused = true;
            }
        }
    }
    pending.all_admitted();
    leaves(acks, ctx, receipt, is_refused)
}

/// What leaves as the answer: nothing with `acks=0`.
fn leaves(acks: Acks, ctx: &Ctx, answer: Receipt, is_refused: bool) -> Receipt {
    match acks {
        // Nothing else tells such a client that it has to ask who leads: its connection ends.
        Acks::None if is_refused => Receipt::from(CallError::Disconnected {
            peer: ctx.peer.to_string(),
            reason: "a batch with acks=0 was refused".to_owned(),
        }),
        Acks::None => Receipt::none(),
        Acks::Leader | Acks::All => answer,
    }
}

fn has_transactional_batch(request: &ProduceRequest) -> bool {
    let batches = request.topic_data.iter().flat_map(|topic| &topic.partition_data);
    let mut headers = batches.filter_map(|data| BatchHeader::peek(data.records.as_deref()?).ok());
    headers.any(|header| header.attributes.is_transactional())
}

/// One request on its way through its partitions.
struct Produce<'a> {
    shared: &'a Arc<Shared>,
    ctx: &'a Ctx,
    transactional_id: Option<ByteString>,
    terms: Terms,
}

impl Produce<'_> {
    fn append(
        &self,
        topic: &TopicProduceData,
        data: &PartitionProduceData,
        place: &Place,
    ) -> Result<(), Refusal> {
        let partition = self.shared.partition(&topic.name, topic.topic_id, data.index)?;
        if InternalTopic::of_name(&partition.at().topic).is_some()
            && self.ctx.client_id.as_deref() != Some(ADMIN_CLIENT)
        {
            return Err(Refusal::new(
                ErrorCode::InvalidTopicException,
                "clients cannot write to an internal topic",
            ));
        }
        let records = data.records.as_ref().filter(|records| !records.is_empty());
        let records =
            records.ok_or_else(|| Refusal::new(ErrorCode::InvalidRecord, "there is no record batch"))?;
        partition.must_lead()?; // whoever asks the wrong broker is told so, whatever is wrong with the batch
        let (header, records) = self.check(&partition, records)?;
        if header.attributes.is_transactional() {
            self.append_transactional(&partition, records, &header, place)
        } else {
            partition.append(&records, self.terms, place.clone().answering()).map(|_| ())
        }
    }

    /// What must hold of any batch that a client sends; needs no lock. Gives what is to be appended.
    fn check(&self, partition: &Partition, records: &Bytes) -> Result<(BatchHeader, Bytes), Refusal> {
        let invalid = |why: &'static str| Refusal::new(ErrorCode::InvalidRecord, why);
        let header =
            BatchHeader::peek(records).map_err(|error| Refusal::new(code_of(&error), error.to_string()))?;
        if header.size_bytes() < records.len() {
            return Err(invalid("a request may hold one record batch for each partition"));
        }
        if header.attributes.is_control() {
            return Err(invalid("clients cannot write control batches"));
        }
        let compression = header.attributes.compression();
        match compression {
            Err(error) => return Err(Refusal::new(ErrorCode::UnsupportedCompressionType, error.to_string())),
            Ok(Compression::Zstd) if !self.ctx.facts.zstd_allowed => {
                return Err(ErrorCode::UnsupportedCompressionType.into());
            }
            Ok(_) => {}
        }
        let settings = partition.settings();
        validate_for_append(records, &settings.log)?;
        let records = Rules::of(&settings, self.shared.env.now()).check(records)?;
        Ok((header, records))
    }

    /// A transaction's first batch in a partition is appended on the coordinator's word that the partition belongs to the
    /// transaction (KIP-890); later ones only continue it. What waits for the word keeps its place.
    fn append_transactional(
        &self,
        partition: &Arc<Partition>,
        records: Bytes,
        header: &BatchHeader,
        place: &Place,
    ) -> Result<(), Refusal> {
        let Some(transactional_id) = self.transactional_id.clone() else {
            return Err(Refusal::new(
                ErrorCode::InvalidRequest,
                "a transactional batch without a transactional id",
            ));
        };
        let claim = Claim {
            transactional_id,
            producer_id: header.producer_id,
            producer_epoch: header.producer_epoch,
        };
        let (facts, terms, place) = (self.ctx.facts, self.terms, place.clone());
        let target = Arc::clone(partition);
        self.shared.verification.admit(claim, partition, move |word| {
            let appended = word.map_err(|code| Refusal::from(transactions::unverified(code, &facts)));
            let appended = appended.and_then(|word| {
                let terms = Terms { appender: Appender::Transactional(word), ..terms };
                target.append(&records, terms, place.clone().answering())
            });
            if let Err(refusal) = appended {
                place.refuse(refusal);
            }
        });
        Ok(())
    }
}

/// A partition's place in the answer.
#[derive(Clone)]
struct Place {
    shared: Arc<Shared>,
    pending: Arc<Gather<ProduceResponse>>,
    listener: ByteString,
    topic: (ByteString, TopicId),
    index: i32,
    at: (usize, usize),
}

impl Place {
    fn refuse(&self, refusal: Refusal) {
        let hint = self.hint(refusal.code == ErrorCode::NotLeaderOrFollower);
        self.settle(hint, |slot| refuse(slot, refusal));
    }

    /// Takes what becomes of an append.
    fn answering(self) -> impl FnOnce(&AppendInfo) -> Option<Waiting> {
        move |info| {
            let info = *info;
            Some(Box::new(move |outcome| {
                let hint = self.hint(outcome == Outcome::NotLeader);
                self.settle(hint, |slot| fill(slot, &info, outcome));
            }))
        }
    }

    fn hint(&self, is_elsewhere: bool) -> Option<LeaderHint> {
        let (name, id) = &self.topic;
        let find = || LeaderHint::find(&self.shared, &self.listener, (name, *id), self.index);
        is_elsewhere.then(find).flatten()
    }

    fn settle(&self, hint: Option<LeaderHint>, fill: impl FnOnce(&mut PartitionProduceResponse)) {
        self.pending.settle(|response| {
            fill(slot(response, self.at));
            if let Some(hint) = hint {
                hint.tell(response, |response| slot(response, self.at));
            }
        });
    }
}

fn skeleton(request: &ProduceRequest) -> ProduceResponse {
    let topics = request.topic_data.iter().map(|topic| TopicProduceResponse {
        name: topic.name.clone(),
        topic_id: topic.topic_id,
        partition_responses: topic
            .partition_data
            .iter()
            .map(|data| PartitionProduceResponse { index: data.index, base_offset: -1, ..Default::default() })
            .collect(),
    });
    ProduceResponse { responses: topics.collect(), ..ProduceResponse::default() }
}

fn slot(response: &mut ProduceResponse, (t, p): (usize, usize)) -> &mut PartitionProduceResponse {
    &mut response.responses[t].partition_responses[p] // as the skeleton has it
}

fn refuse_all(request: &ProduceRequest, code: ErrorCode) -> millstream_protocol::Response {
    let mut response = skeleton(request);
    for slot in response.responses.iter_mut().flat_map(|topic| &mut topic.partition_responses) {
        slot.error_code = code.code();
    }
    response.into()
}

fn refuse(slot: &mut PartitionProduceResponse, refusal: Refusal) {
    slot.error_code = refusal.code.code();
    slot.error_message = refusal.why;
    let named = refusal.records.into_iter().map(|record| BatchIndexAndErrorMessage {
        batch_index: record.index,
        batch_index_error_message: Some(record.why),
    });
    slot.record_errors = named.collect();
}

fn fill(slot: &mut PartitionProduceResponse, info: &AppendInfo, outcome: Outcome) {
    let code = match outcome {
        Outcome::Done => {
            slot.base_offset = info.base_offset.0;
            slot.log_append_time_ms = info.log_append_time.map_or(-1, |time| time.0);
            slot.log_start_offset = info.log_start_offset.0;
            ErrorCode::None
        }
        Outcome::TimedOut => ErrorCode::RequestTimedOut,
        Outcome::NotLeader => ErrorCode::NotLeaderOrFollower,
        Outcome::StorageFailed => ErrorCode::KafkaStorageError,
        Outcome::Overloaded => ErrorCode::NotEnoughReplicasAfterAppend,
    };
    slot.error_code = code.code();
}

/// As Kafka: a format that never was is damage, an older one is only refused.
fn code_of(error: &RecordError) -> ErrorCode {
    match error {
        RecordError::Magic { magic, .. } if !(0..=1).contains(magic) => ErrorCode::CorruptMessage,
        _ => ErrorCode::InvalidRecord,
    }
}
