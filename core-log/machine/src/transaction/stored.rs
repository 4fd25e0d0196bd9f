//! What the log says of each transactional id.

use std::collections::{BTreeMap, BTreeSet};

use bytestring::ByteString;
use millstream_protocol::messages::transaction_records::PartitionsSchema;
use millstream_protocol::messages::{TransactionLogKey, TransactionLogValue};
use millstream_record::{Millis, ProducerEpoch, ProducerId, TopicPartition};

use super::state::State;
use crate::wire::{decode_key, decode_value, encode_key, encode_value};
use crate::{Error, KeyValue};

const WHAT: &str = "__transaction_state";
/// The type of the log's only kind of record.
const TRANSACTION: i16 = 0;
/// The version written: the flexible one, which Kafka writes too once `transaction.version` is 1.
const VALUE_VERSION: i16 = 1;
/// How Kafka writes that there is no producer id.
const NO_PRODUCER_ID: ProducerId = ProducerId(-1);

/// A transactional id's durable state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Transaction {
    pub(super) producer_id: ProducerId,
    /// The id that this one took over from when its epochs were used up.
    pub(super) previous_producer_id: ProducerId,
    pub(super) epoch: ProducerEpoch,
    pub(super) timeout_ms: i32,
    pub(super) state: State,
    pub(super) partitions: BTreeSet<TopicPartition>,
    /// When the transaction began; [`Millis::NONE`] when none is open.
    pub(super) start: Millis,
    pub(super) updated: Millis,
}

/// The epoch of an id that no producer has yet.
pub(super) const NO_EPOCH: ProducerEpoch = ProducerEpoch(-1);

impl Transaction {
    /// An id that no producer has yet.
    pub(super) fn new(producer_id: ProducerId) -> Self {
        Self {
            producer_id,
            previous_producer_id: NO_PRODUCER_ID,
            epoch: NO_EPOCH,
            timeout_ms: 0,
            state: State::Empty,
            partitions: BTreeSet::new(),
            start: Millis::NONE,
            updated: Millis::NONE,
        }
    }

    /// Whether the last epoch that a producer may have is taken. One more is kept to fence it with.
    pub(super) fn is_exhausted(&self) -> bool {
        is_last_epoch(self.epoch)
    }

    pub(super) fn to_record(&self, id: &ByteString) -> KeyValue {
        let mut by_topic: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
        for partition in &self.partitions {
            by_topic.entry(&partition.topic).or_default().push(partition.partition);
        }
        let partitions = by_topic
            .into_iter()
            .map(|(topic, partition_ids)| PartitionsSchema { topic: topic.into(), partition_ids });
        let value = TransactionLogValue {
            producer_id: self.producer_id.0,
            previous_producer_id: self.previous_producer_id.0,
            producer_epoch: self.epoch.0,
            transaction_timeout_ms: self.timeout_ms,
            transaction_status: self.state.code(),
            // Kafka writes null while nothing is in a transaction.
            transaction_partitions: (self.state != State::Empty).then(|| partitions.collect()),
            transaction_last_update_timestamp_ms: self.updated.0,
            transaction_start_timestamp_ms: self.start.0,
            ..TransactionLogValue::default()
        };
        KeyValue { key: key(id), value: Some(encode_value(&value, VALUE_VERSION)) }
    }

    fn from_record(value: &TransactionLogValue) -> Result<Self, Error> {
        let state = State::of_code(value.transaction_status).ok_or_else(|| Error::Malformed {
            what: WHAT,
            reason: format!("there is no transaction state {}", value.transaction_status),
        })?;
        let topics = value.transaction_partitions.iter().flatten();
        let partitions = topics.flat_map(|topic| {
            topic.partition_ids.iter().map(|partition| TopicPartition::new(&*topic.topic, *partition))
        });
        Ok(Self {
            producer_id: ProducerId(value.producer_id),
            previous_producer_id: ProducerId(value.previous_producer_id),
            epoch: ProducerEpoch(value.producer_epoch),
            timeout_ms: value.transaction_timeout_ms,
            state,
            partitions: partitions.collect(),
            start: Millis(value.transaction_start_timestamp_ms),
            updated: Millis(value.transaction_last_update_timestamp_ms),
        })
    }
}

/// Whether a producer with this epoch must get another id rather than a higher epoch.
pub(super) fn is_last_epoch(epoch: ProducerEpoch) -> bool {
    epoch.0 >= i16::MAX - 1
}

fn key(id: &ByteString) -> bytes::Bytes {
    encode_key(&TransactionLogKey { transactional_id: id.clone() })
}

/// The record that forgets an id.
pub(super) fn tombstone(id: &ByteString) -> KeyValue {
    KeyValue { key: key(id), value: None }
}

/// Every id's durable state. It changes by [`Stored::replay`] alone.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Stored {
    pub(super) by_id: BTreeMap<ByteString, Transaction>,
}

impl Stored {
    /// Applies one record of the log; the id that it is about, if it is about one.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub(super) fn replay(&mut self, record: KeyValue) -> Result<(), Error> {
        if crate::wire::record_type(&record.key, WHAT)? != TRANSACTION {
            return Ok(());
        }
        let key: TransactionLogKey = decode_key(&record.key, WHAT)?;
        let id = crate::wire::own(&key.transactional_id);
        match record.value {
            Some(value) => {
                let transaction = Transaction::from_record(&decode_value(value, WHAT)?)?;
                if transaction.state == State::Dead {
                    self.by_id.remove(&id);
                } else {
                    self.by_id.insert(id, transaction);
                }
            }
            None => {
                self.by_id.remove(&id);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expected bytes were written by Kafka 4.3.1's own serializers.
    #[test]
    fn records_are_kafkas_byte_for_byte() {
        let transaction = Transaction {
            epoch: ProducerEpoch(1),
            timeout_ms: 60_000,
            state: State::Ongoing,
            partitions: [TopicPartition::new("topic", 0), TopicPartition::new("topic", 1)].into(),
            start: Millis(100),
            updated: Millis(200),
            ..Transaction::new(ProducerId(9))
        };
        let record = transaction.to_record(&"t".into());
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(hex(&record.key), "0000000174");
        assert_eq!(
            hex(record.value.as_ref().unwrap()),
            "0001000000000000000900010000ea60010206746f7069630300000000000000010000000000000000c8000000000000006400"
        );
        let mut stored = Stored::default();
        stored.replay(record).unwrap();
        assert_eq!(stored.by_id.get("t"), Some(&transaction));
    }
}
