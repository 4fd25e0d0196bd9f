//! What becomes of a transaction when its producer asks for something: pure rules, in Kafka's words of refusal.

use std::collections::BTreeSet;

use millstream_protocol::ErrorCode;
use millstream_record::{Millis, ProducerEpoch, ProducerId, TopicPartition};

use super::state::State;
use super::stored::{NO_EPOCH, Transaction, is_last_epoch};
use crate::TransactionOutcome;

/// What a producer that already has an id and an epoch says they are (KIP-360).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) producer_id: ProducerId,
    pub(super) epoch: ProducerEpoch,
}

/// What InitProducerId leads to.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Init {
    /// The producer begins with this; the epoch that it had before, should it ask again.
    Begin { next: Transaction, last_epoch: ProducerEpoch },
    /// The open transaction of the instance before is aborted first, under a higher epoch; then the producer asks again.
    AbortFirst(Transaction),
}

/// Decides InitProducerId.
pub(super) fn init(
    current: &Transaction,
    last_epoch: ProducerEpoch,
    claim: Option<Claim>,
    timeout_ms: i32,
    fresh: ProducerId,
    now: Millis,
) -> Result<Init, ErrorCode> {
    if !claim.is_none_or(|claim| is_known(current, claim)) {
        return Err(ErrorCode::ProducerFenced);
    }
    match current.state {
        State::PrepareCommit | State::PrepareAbort => Err(ErrorCode::ConcurrentTransactions),
        State::Ongoing => fence(current, now).map(Init::AbortFirst),
        State::Empty | State::CompleteCommit | State::CompleteAbort => {
            let begun = Transaction {
                timeout_ms,
                state: State::Empty,
                partitions: BTreeSet::new(),
                start: Millis::NONE,
                updated: now,
                ..current.clone()
            };
            if current.is_exhausted() && claim.is_none_or(|claim| claim.epoch == current.epoch) {
                let last_epoch = if claim.is_some() { current.epoch } else { NO_EPOCH };
                let next = Transaction {
                    producer_id: fresh,
                    previous_producer_id: current.producer_id,
                    epoch: ProducerEpoch(0),
                    ..begun
                };
                return Ok(Init::Begin { next, last_epoch });
            }
            let (epoch, last_epoch) = bump(current, last_epoch, claim)?;
            Ok(Init::Begin { next: Transaction { epoch, ..begun }, last_epoch })
        }
        State::Dead => Err(ErrorCode::ConcurrentTransactions),
    }
}

/// Whether the producer that claims this is the one we know, perhaps under the id it had before its epochs ran out.
fn is_known(current: &Transaction, claim: Claim) -> bool {
    current.epoch == NO_EPOCH
        || claim.producer_id == current.producer_id
        || (claim.producer_id == current.previous_producer_id && is_last_epoch(claim.epoch))
}

/// The next epoch, and the one before it. An exhausted epoch does not come here but with a claim of another.
fn bump(
    current: &Transaction,
    last_epoch: ProducerEpoch,
    claim: Option<Claim>,
) -> Result<(ProducerEpoch, ProducerEpoch), ErrorCode> {
    match claim {
        // The answer to the same request was lost: it is given again.
        Some(claim) if claim.epoch == last_epoch && last_epoch != NO_EPOCH => Ok((current.epoch, last_epoch)),
        // The producer's id was exchanged, and the answer was lost.
        Some(claim) if claim.producer_id == current.previous_producer_id && is_last_epoch(claim.epoch) => {
            Ok((current.epoch, last_epoch))
        }
        Some(claim) if current.epoch != NO_EPOCH && claim.epoch != current.epoch => {
            Err(ErrorCode::ProducerFenced)
        }
        Some(_) => Ok((ProducerEpoch(current.epoch.0 + 1), current.epoch)),
        None => Ok((ProducerEpoch(current.epoch.0 + 1), NO_EPOCH)),
    }
}

/// The open transaction, being aborted under an epoch that no producer has.
pub(super) fn fence(current: &Transaction, now: Millis) -> Result<Transaction, ErrorCode> {
    let epoch = current.epoch.0.checked_add(1).ok_or(ErrorCode::ProducerFenced)?;
    Ok(Transaction {
        epoch: ProducerEpoch(epoch),
        state: State::PrepareAbort,
        updated: now,
        ..current.clone()
    })
}

/// Whether a request comes from the producer that has the transactional id now.
pub(super) fn judge_producer(
    current: &Transaction,
    producer_id: ProducerId,
    epoch: ProducerEpoch,
) -> Result<(), ErrorCode> {
    if current.producer_id != producer_id {
        Err(ErrorCode::InvalidProducerIdMapping)
    } else if current.epoch != epoch {
        Err(ErrorCode::ProducerFenced)
    } else {
        Ok(())
    }
}

/// Decides AddPartitionsToTxn and AddOffsetsToTxn; `None` when there is nothing to add.
pub(super) fn add(
    current: &Transaction,
    partitions: &[TopicPartition],
    now: Millis,
) -> Result<Option<Transaction>, ErrorCode> {
    match current.state {
        State::PrepareCommit | State::PrepareAbort | State::Dead => Err(ErrorCode::ConcurrentTransactions),
        State::Ongoing if partitions.iter().all(|one| current.partitions.contains(one)) => Ok(None),
        _ if partitions.is_empty() => Ok(None),
        State::Ongoing | State::Empty | State::CompleteCommit | State::CompleteAbort => {
            let is_open = current.state == State::Ongoing;
            let mut all = if is_open { current.partitions.clone() } else { BTreeSet::new() };
            all.extend(partitions.iter().cloned());
            Ok(Some(Transaction {
                state: State::Ongoing,
                partitions: all,
                start: if is_open { current.start } else { now },
                updated: now,
                ..current.clone()
            }))
        }
    }
}

/// Decides EndTxn; `None` when it has ended like this already.
pub(super) fn end(
    current: &Transaction,
    outcome: TransactionOutcome,
    now: Millis,
) -> Result<Option<Transaction>, ErrorCode> {
    use TransactionOutcome::{Abort, Commit};
    match (current.state, outcome) {
        (State::Ongoing, Commit) => Ok(Some(ended(current, State::PrepareCommit, now))),
        (State::Ongoing, Abort) => Ok(Some(ended(current, State::PrepareAbort, now))),
        (State::CompleteCommit, Commit) | (State::CompleteAbort, Abort) => Ok(None),
        (State::PrepareCommit, Commit) | (State::PrepareAbort, Abort) => {
            Err(ErrorCode::ConcurrentTransactions)
        }
        _ => Err(ErrorCode::InvalidTxnState),
    }
}

fn ended(current: &Transaction, state: State, now: Millis) -> Transaction {
    Transaction { state, updated: now, ..current.clone() }
}

/// Every marker is written.
pub(super) fn complete(current: &Transaction, outcome: TransactionOutcome, now: Millis) -> Transaction {
    let state = match outcome {
        TransactionOutcome::Commit => State::CompleteCommit,
        TransactionOutcome::Abort => State::CompleteAbort,
    };
    Transaction { state, partitions: BTreeSet::new(), updated: now, ..current.clone() }
}
