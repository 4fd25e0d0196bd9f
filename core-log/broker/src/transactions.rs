//! Transactions.

use millstream_protocol::ErrorCode;
use millstream_record::{ProducerEpoch, ProducerId, TopicPartition};

/// The transaction coordinators of this broker.
pub(crate) struct Transactions;

impl Transactions {
    pub(crate) fn while_in_transaction<T>(
        &self,
        _id: &str,
        _producer_id: ProducerId,
        _epoch: ProducerEpoch,
        _partition: &TopicPartition,
        _append: impl FnOnce() -> T,
    ) -> Result<T, ErrorCode> {
        Err(ErrorCode::CoordinatorNotAvailable)
    }
}
