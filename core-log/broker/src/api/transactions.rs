//! InitProducerId, AddPartitionsToTxn, AddOffsetsToTxn, EndTxn.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytestring::ByteString;
use millstream_machine::metadata::{Image, InternalTopic};
use millstream_machine::transaction::{Answer, Input, Verdict};
use millstream_protocol::messages::add_partitions_to_txn::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnResult, AddPartitionsToTxnTopic,
    AddPartitionsToTxnTopicResult, AddPartitionsToTxnTransaction,
};
use millstream_protocol::messages::{
    AddOffsetsToTxnRequest, AddOffsetsToTxnResponse, AddPartitionsToTxnRequest, AddPartitionsToTxnResponse,
    EndTxnRequest, EndTxnResponse, InitProducerIdRequest, InitProducerIdResponse,
};
use millstream_protocol::{Ctx, ErrorCode, Facts, Receipt, Response};
use millstream_record::{ProducerEpoch, ProducerId, TopicPartition};

use crate::Broker;
use crate::gather::Gather;
use crate::shared::Shared;

pub(super) fn init_producer_id(broker: &Broker, ctx: &Ctx, request: InitProducerIdRequest) -> Receipt {
    let shared = &broker.shared;
    let refused = |code: ErrorCode| InitProducerIdResponse {
        error_code: code.code(),
        producer_id: -1,
        producer_epoch: -1,
        ..InitProducerIdResponse::default()
    };
    if request.transactional_id.as_deref() == Some("") || request.enable2_pc || request.keep_prepared_txn {
        return super::now(refused(ErrorCode::InvalidRequest));
    }
    if let Some(fresh) = shared.take_producer_id() {
        return with_fresh_id(shared, ctx, request, fresh);
    }
    let (shared, ctx) = (Arc::clone(shared), ctx.clone());
    broker.relay("grant producer ids", async move {
        match shared.grant_producer_id().await {
            Ok(fresh) => with_fresh_id(&shared, &ctx, request, fresh).await,
            Err(refusal) => Ok(refused(refusal.code).into()),
        }
    })
}

fn with_fresh_id(shared: &Shared, ctx: &Ctx, request: InitProducerIdRequest, fresh: ProducerId) -> Receipt {
    let Some(id) = request.transactional_id.clone() else {
        return super::now(InitProducerIdResponse {
            producer_id: fresh.0,
            producer_epoch: 0,
            ..InitProducerIdResponse::default()
        });
    };
    let producer_fenced_known = ctx.facts.producer_fenced_known;
    let input = |waiter| Input::InitProducerId { waiter, request, fresh, producer_fenced_known };
    ask(shared, &id, input, |code| {
        InitProducerIdResponse {
            error_code: code.code(),
            producer_id: -1,
            producer_epoch: -1,
            ..InitProducerIdResponse::default()
        }
        .into()
    })
}

pub(super) fn end(shared: &Shared, ctx: &Ctx, request: EndTxnRequest) -> Receipt {
    let id = request.transactional_id.clone();
    let producer_fenced_known = ctx.facts.producer_fenced_known;
    ask(
        shared,
        &id,
        |waiter| Input::EndTxn { waiter, request, producer_fenced_known },
        |code| EndTxnResponse { error_code: code.code(), ..EndTxnResponse::default() }.into(),
    )
}

/// The group's partition joins the transaction; its offsets follow with TxnOffsetCommit. Nobody need have asked for the group's
/// coordinator before, so its topic may have to be created.
pub(super) fn add_offsets(broker: &Broker, ctx: &Ctx, request: AddOffsetsToTxnRequest) -> Receipt {
    if let Ok(index) = broker.shared.groups.partition_of(&request.group_id) {
        return add_group(&broker.shared, ctx, &request, index);
    }
    let (shared, ctx) = (Arc::clone(&broker.shared), ctx.clone());
    broker.relay("create internal topic", async move {
        let topic = BTreeSet::from([InternalTopic::Offsets.name().into()]);
        shared.metadata.auto_create(topic).await; // where it fails the producer asks again
        match shared.groups.partition_of(&request.group_id) {
            Ok(index) => add_group(&shared, &ctx, &request, index).await,
            Err(_) => Ok(offsets_refused(ErrorCode::CoordinatorNotAvailable)), // not about the producer's own
        }
    })
}

fn add_group(shared: &Shared, ctx: &Ctx, request: &AddOffsetsToTxnRequest, index: i32) -> Receipt {
    let input = |waiter| Input::AddPartitions {
        waiter,
        transactional_id: request.transactional_id.clone(),
        producer_id: ProducerId(request.producer_id),
        producer_epoch: ProducerEpoch(request.producer_epoch),
        partitions: vec![TopicPartition::new(InternalTopic::Offsets.name(), index)],
        producer_fenced_known: ctx.facts.producer_fenced_known,
    };
    ask(shared, &request.transactional_id, input, offsets_refused)
}

fn offsets_refused(code: ErrorCode) -> Response {
    AddOffsetsToTxnResponse { error_code: code.code(), ..AddOffsetsToTxnResponse::default() }.into()
}

/// Asks the coordinator of a transactional id; `refused` makes the answer where there is none.
fn ask(
    shared: &Shared,
    id: &str,
    input: impl FnOnce(millstream_machine::Waiter) -> Input,
    refused: impl FnOnce(ErrorCode) -> Response,
) -> Receipt {
    match shared.transactions.host_of(id) {
        Ok(host) => {
            let (completer, receipt) = Receipt::pending();
            let reply = move |answer| {
                let response = match answer {
                    Answer::InitProducerId(response) => response.into(),
                    Answer::EndTxn(response) => response.into(),
                    Answer::AddPartitions(code) => {
                        AddOffsetsToTxnResponse { error_code: code.code(), ..Default::default() }.into()
                    }
                };
                completer.complete(Ok(response));
            };
            host.ask(reply, input);
            receipt
        }
        Err(code) => refused(code).into(),
    }
}

pub(super) fn add_partitions(shared: &Shared, ctx: &Ctx, request: AddPartitionsToTxnRequest) -> Receipt {
    let places = request.transactions.len();
    let response = AddPartitionsToTxnResponse {
        results_by_transaction: vec![AddPartitionsToTxnResult::default(); places],
        ..AddPartitionsToTxnResponse::default()
    };
    let (gather, receipt) = Gather::new(response, places);
    for (at, transaction) in request.transactions.into_iter().enumerate() {
        let gather = Arc::clone(&gather);
        add_to_one(shared, ctx, transaction, move |result| {
            gather.settle(|response| response.results_by_transaction[at] = result);
        });
    }
    gather.all_admitted();
    receipt
}

fn add_to_one(
    shared: &Shared,
    ctx: &Ctx,
    transaction: AddPartitionsToTxnTransaction,
    settle: impl FnOnce(AddPartitionsToTxnResult) + Send + 'static,
) {
    let id = transaction.transactional_id.clone();
    let topics = transaction.topics;
    let producer = (ProducerId(transaction.producer_id), ProducerEpoch(transaction.producer_epoch));
    let host = match shared.transactions.host_of(&id) {
        Ok(host) => host,
        Err(code) => return settle(result(id, &topics, |_, _| code)),
    };
    if transaction.verify_only {
        let abortable_known = ctx.facts.abortable_error_known;
        let verdicts = host.with(|machine| {
            result(id.clone(), &topics, |name, index| {
                match machine.verify(&id, producer.0, producer.1, &TopicPartition::new(name, index)) {
                    Verdict::InTransaction => ErrorCode::None,
                    Verdict::Refused(ErrorCode::TransactionAbortable) if !abortable_known => {
                        ErrorCode::InvalidTxnState
                    }
                    Verdict::Refused(code) => code,
                }
            })
        });
        return settle(AddPartitionsToTxnResult { coordinator_epoch: host.epoch().0, ..verdicts });
    }
    let image = shared.image.load();
    let partitions = named(&topics);
    if partitions.iter().any(|partition| !exists(&image, partition)) {
        return settle(result(id, &topics, |name, index| {
            let is_known = image.partition(name, index).is_some();
            if is_known { ErrorCode::OperationNotAttempted } else { ErrorCode::UnknownTopicOrPartition }
        }));
    }
    let reply_id = id.clone();
    let reply = move |answer| {
        if let Answer::AddPartitions(code) = answer {
            settle(result(reply_id, &topics, |_, _| code));
        }
    };
    host.ask(reply, |waiter| Input::AddPartitions {
        waiter,
        transactional_id: id,
        producer_id: producer.0,
        producer_epoch: producer.1,
        partitions,
        producer_fenced_known: ctx.facts.producer_fenced_known,
    });
}

/// What a producer is told where its transaction could not be verified. What passes by itself is retried, which producers do
/// on NOT_ENOUGH_REPLICAS; they know no coordinator's errors in this place.
pub(super) fn unverified(code: ErrorCode, facts: &Facts) -> ErrorCode {
    match code {
        ErrorCode::ProducerFenced => ErrorCode::InvalidProducerEpoch,
        ErrorCode::TransactionAbortable if !facts.abortable_error_known => ErrorCode::InvalidTxnState,
        ErrorCode::ConcurrentTransactions if facts.transactions_v2 => code,
        ErrorCode::ConcurrentTransactions
        | ErrorCode::NetworkException
        | ErrorCode::CoordinatorLoadInProgress
        | ErrorCode::CoordinatorNotAvailable
        | ErrorCode::NotCoordinator => ErrorCode::NotEnoughReplicas,
        other => other,
    }
}

fn named(topics: &[AddPartitionsToTxnTopic]) -> Vec<TopicPartition> {
    let of_topic = |topic: &AddPartitionsToTxnTopic| {
        let name: Arc<str> = Arc::from(&*topic.name);
        let partitions = topic.partitions.iter();
        partitions.map(move |&index| TopicPartition::new(Arc::clone(&name), index)).collect::<Vec<_>>()
    };
    topics.iter().flat_map(of_topic).collect()
}

fn exists(image: &Image, partition: &TopicPartition) -> bool {
    image.partition(&partition.topic, partition.partition).is_some()
}

fn result(
    transactional_id: ByteString,
    topics: &[AddPartitionsToTxnTopic],
    code: impl Fn(&str, i32) -> ErrorCode,
) -> AddPartitionsToTxnResult {
    let topic_results = topics.iter().map(|topic| AddPartitionsToTxnTopicResult {
        name: topic.name.clone(),
        results_by_partition: topic
            .partitions
            .iter()
            .map(|&partition_index| AddPartitionsToTxnPartitionResult {
                partition_index,
                partition_error_code: code(&topic.name, partition_index).code(),
            })
            .collect(),
    });
    AddPartitionsToTxnResult {
        transactional_id,
        topic_results: topic_results.collect(),
        ..AddPartitionsToTxnResult::default()
    }
}
