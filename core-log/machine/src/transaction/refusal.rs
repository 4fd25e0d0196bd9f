//! Answers that say no.

use millstream_protocol::ErrorCode;
use millstream_protocol::messages::{EndTxnResponse, InitProducerIdResponse};

use super::api::Answer;

/// What an answer that waited for its records becomes when they are not durable.
pub(super) fn of_answer(answer: Answer, error: ErrorCode) -> Answer {
    match answer {
        Answer::InitProducerId(_) => refused_init(error),
        Answer::AddPartitions(_) => Answer::AddPartitions(error),
        Answer::EndTxn(_) => ended_with(error),
    }
}

/// The code as the client knows it (KIP-588).
pub(super) fn spoken(error: ErrorCode, producer_fenced_known: bool) -> ErrorCode {
    if error == ErrorCode::ProducerFenced && !producer_fenced_known {
        ErrorCode::InvalidProducerEpoch
    } else {
        error
    }
}

/// No producer begins.
pub(super) fn refused_init(error: ErrorCode) -> Answer {
    Answer::InitProducerId(InitProducerIdResponse {
        error_code: error.code(),
        producer_id: -1,
        producer_epoch: -1,
        ..InitProducerIdResponse::default()
    })
}

/// A transaction ends, or does not.
pub(super) fn ended_with(error: ErrorCode) -> Answer {
    Answer::EndTxn(EndTxnResponse { error_code: error.code(), ..EndTxnResponse::default() })
}
