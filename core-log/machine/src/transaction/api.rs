//! What goes into the transaction coordinator and what comes out.

use bytestring::ByteString;
use millstream_protocol::ErrorCode;
use millstream_protocol::messages::{
    AddOffsetsToTxnResponse, EndTxnRequest, EndTxnResponse, InitProducerIdRequest, InitProducerIdResponse,
};
use millstream_record::{ProducerEpoch, ProducerId, TopicPartition};

use crate::{KeyValue, Ticket, TransactionOutcome, Waiter};

/// The broker's settings for transactions; the names are Kafka's.
#[derive(Clone, Debug)]
pub struct Config {
    /// `transaction.max.timeout.ms`.
    pub max_timeout_ms: i32,
    /// `transactional.id.expiration.ms`: how long an id with no open transaction is remembered.
    pub expiration_ms: i64,
    /// `transaction.remove.expired.transaction.cleanup.interval.ms`.
    pub expiration_check_interval_ms: i64,
}

impl Default for Config {
    fn default() -> Self {
        Self { max_timeout_ms: 900_000, expiration_ms: 604_800_000, expiration_check_interval_ms: 3_600_000 }
    }
}

/// What the transaction coordinator is told. The fact `producer_fenced_known` says whether the client knows PRODUCER_FENCED
/// (KIP-588); one that does not is told INVALID_PRODUCER_EPOCH, which its version treats the same.
#[derive(Clone, Debug)]
pub enum Input {
    /// A transactional producer begins, or asks for its epoch to be bumped (KIP-360).
    InitProducerId {
        /// Who waits.
        waiter: Waiter,
        /// What it asks; has a transactional id.
        request: InitProducerIdRequest,
        /// An id that nobody has, should a new one be needed.
        fresh: ProducerId,
        /// See above.
        producer_fenced_known: bool,
    },
    /// Partitions are added to the open transaction, or begin one. Partitions that do not exist have been taken out.
    AddPartitions {
        /// Who waits.
        waiter: Waiter,
        /// The producer's name.
        transactional_id: ByteString,
        /// Its id.
        producer_id: ProducerId,
        /// Its epoch.
        producer_epoch: ProducerEpoch,
        /// What to add. For a group's offsets: the group's partition of `__consumer_offsets`.
        partitions: Vec<TopicPartition>,
        /// See above.
        producer_fenced_known: bool,
    },
    /// The transaction ends.
    EndTxn {
        /// Who waits.
        waiter: Waiter,
        /// What it asks.
        request: EndTxnRequest,
        /// See above.
        producer_fenced_known: bool,
    },
    /// A partition's leader answered to a marker of [`Effect::WriteMarkers`]. The shell retries what is retriable; it reports
    /// success, and what will never succeed (the partition is gone, or has seen a newer epoch), which counts as written.
    MarkerWritten {
        /// Whose transaction.
        transactional_id: ByteString,
        /// The producer the marker named.
        producer_id: ProducerId,
        /// The epoch the marker named.
        producer_epoch: ProducerEpoch,
        /// Where it was written.
        partition: TopicPartition,
    },
    /// The append with this ticket, and so every one before it, is below the high watermark.
    Durable {
        /// Which append.
        ticket: Ticket,
    },
    /// The append with this ticket is in the log, but did not come below the high watermark in time. Who waits for it is answered
    /// with COORDINATOR_NOT_AVAILABLE; it may yet become durable, and [`Input::Durable`] says so then.
    Late {
        /// Which append.
        ticket: Ticket,
    },
    /// An append failed, or this broker no longer leads the partition. Everyone who waits is answered with `error`, and so is
    /// everyone who comes later; the shell loads another coordinator when it may.
    Failed {
        /// NOT_COORDINATOR, or COORDINATOR_NOT_AVAILABLE.
        error: ErrorCode,
    },
    /// Time passed; call at or after [`super::Coordinator::next_deadline`].
    Tick,
}

/// What must happen outside.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Append this as one batch, in the order of the tickets; report [`Input::Durable`] once it is below the high watermark,
    /// or [`Input::Failed`].
    Append {
        /// Names the append.
        ticket: Ticket,
        /// What to append.
        records: Vec<KeyValue>,
    },
    /// Answer a waiter.
    Answer {
        /// Who is answered.
        waiter: Waiter,
        /// With what.
        answer: Answer,
    },
    /// Write markers to these partitions' leaders (WriteTxnMarkers) until each has answered.
    WriteMarkers(Marker),
}

/// The end of a transaction, for its partitions.
#[derive(Clone, Debug, PartialEq)]
pub struct Marker {
    /// Whose transaction; names it in [`Input::MarkerWritten`].
    pub transactional_id: ByteString,
    /// The producer.
    pub producer_id: ProducerId,
    /// Its epoch; for an abort by timeout one higher than the producer's, which fences it at the partitions.
    pub producer_epoch: ProducerEpoch,
    /// The leader epoch of the coordinator's partition.
    pub coordinator_epoch: i32,
    /// How the transaction ends.
    pub outcome: TransactionOutcome,
    /// Where to.
    pub partitions: Vec<TopicPartition>,
}

/// The answer to an input with a waiter.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// To [`Input::InitProducerId`].
    InitProducerId(InitProducerIdResponse),
    /// To [`Input::AddPartitions`]: one code for all of them. The shell puts it into AddPartitionsToTxn's or
    /// AddOffsetsToTxn's answer.
    AddPartitions(ErrorCode),
    /// To [`Input::EndTxn`].
    EndTxn(EndTxnResponse),
}

impl Answer {
    /// The answer to AddOffsetsToTxn, from [`Answer::AddPartitions`].
    #[must_use]
    pub fn into_add_offsets(self) -> Option<AddOffsetsToTxnResponse> {
        match self {
            Self::AddPartitions(error) => Some(AddOffsetsToTxnResponse {
                error_code: error.code(),
                ..AddOffsetsToTxnResponse::default()
            }),
            _ => None,
        }
    }
}

/// Whether a transactional batch may be appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The partition is in the producer's open transaction.
    InTransaction,
    /// It is not, for this reason.
    Refused(ErrorCode),
}
