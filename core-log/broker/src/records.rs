//! The one walk through the records that a client sends: what a header says of them is not believed.
//!
//! A batch whose records cannot be walked, once in the log, stops every consumer of its partition for good, and a timestamp that is
//! out of bounds misleads retention. So each record is looked at before it is appended, compressed ones in a buffer that the thread
//! uses again. What leaders send to followers, and what the broker writes itself, is not walked again.

use std::cell::RefCell;

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use millstream_protocol::ErrorCode;
use millstream_record::{Batch, BatchHeader, Millis, RecordError, RecordRef, TimestampType, patch};

use crate::refusal::{BadRecord, Refusal};
use crate::topic_settings::TopicSettings;

/// What a thread keeps of its buffer between batches. Few batches are larger, and they are not to pin their memory.
const BUFFER_KEPT_BYTES: usize = 4 << 20;
/// What a batch may decompress to, or so many times `max.message.bytes` where that is more. Somebody who sends a bomb holds up a thread
/// for this long and takes so much memory; a client whose data compresses even better is told to split its batch.
const UNPACKED_BYTES: usize = 32 << 20;
const UNPACKED_TIMES: usize = 8;
/// Most records that a refusal names. A small batch may decompress to millions of them, each with an entry of its own in the answer.
const MOST_NAMED: usize = 1000;
/// Most records that the sentence about the whole batch names, as in Kafka.
const MOST_IN_SENTENCE: usize = 3;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What a topic asks of each record.
pub(crate) struct Rules {
    has_keys: bool,
    most_unpacked_bytes: usize,
    /// Whether the log keeps the times that producers set.
    keeps_times: bool,
    earliest: Millis,
    latest: Millis,
}

impl Rules {
    pub(crate) fn of(settings: &TopicSettings, now: Millis) -> Self {
        let log = &settings.log;
        Self {
            has_keys: settings.compacted,
            most_unpacked_bytes: usize::try_from(log.max_message_bytes)
                .map_or(0, |bytes| bytes.saturating_mul(UNPACKED_TIMES))
                .max(UNPACKED_BYTES),
            keeps_times: log.message_timestamp_type == TimestampType::CreateTime,
            earliest: Millis(now.0.saturating_sub(log.message_timestamp_before_max_ms)),
            latest: Millis(now.0.saturating_add(log.message_timestamp_after_max_ms)),
        }
    }

    /// Walks the records of `bytes`, one batch as a producer sends it, and gives what is to be appended. That is `bytes` itself, but
    /// where the header names another largest timestamp than the records have: then, as in Kafka, a copy with the right one.
    ///
    /// # Errors
    /// What is wrong with the batch, or with which of its records.
    pub(crate) fn check(&self, bytes: &Bytes) -> Result<Bytes, Refusal> {
        let batch = Batch::parse(bytes.clone()).map_err(unreadable)?;
        let newest = BUFFER.with_borrow_mut(|buffer| {
            let newest = self.walk(&batch, buffer);
            if buffer.capacity() > BUFFER_KEPT_BYTES {
                *buffer = Vec::new();
            }
            newest
        })?;
        let header = batch.header();
        let is_right = header.max_timestamp == newest && !is_stamped(header);
        if is_right || !self.keeps_times {
            return Ok(batch.into_bytes());
        }
        let mut corrected = BytesMut::from(&bytes[..]);
        patch::set_create_time(&mut corrected, newest).map_err(unreadable)?;
        Ok(corrected.freeze())
    }

    /// The largest timestamp of the batch's records.
    fn walk(&self, batch: &Batch, buffer: &mut Vec<u8>) -> Result<Millis, Refusal> {
        let header = batch.header();
        let body = batch.decompress_into(self.most_unpacked_bytes, buffer).map_err(unreadable)?;
        let (mut newest, mut faults) = (Millis::NONE, Faults::default());
        for (record, index) in batch.records(body).zip(0i32..) {
            let record = record.map_err(unreadable)?;
            if record.offset != header.base_offset.plus(i64::from(index)) {
                let why = format!(
                    "record {index} of the batch has offset {}; a producer numbers them from 0 without gaps",
                    record.offset
                );
                return Err(Refusal::new(ErrorCode::InvalidRecord, why));
            }
            newest = newest.max(record.timestamp);
            if let Some(fault) = self.fault(header, &record) {
                faults.add(index, fault);
            }
        }
        if faults.count == 0 { Ok(newest) } else { Err(self.refuse(&faults)) }
    }

    /// In Kafka's order, which names one fault for each record.
    fn fault(&self, header: &BatchHeader, record: &RecordRef<'_>) -> Option<Fault> {
        let time = record.timestamp;
        if self.has_keys && record.key.is_none() {
            Some(Fault::NoKey)
        } else if !self.keeps_times || time == Millis::NONE {
            is_stamped(header).then_some(Fault::Stamped)
        } else {
            (time < self.earliest || time > self.latest).then_some(Fault::OutOfTime(time))
        }
    }

    fn refuse(&self, faults: &Faults) -> Refusal {
        let no_key = ByteString::from_static(
            "the record has no key, which a topic with cleanup.policy=compact requires; give it one",
        );
        let stamped = ByteString::from_static(
            "the batch says that its time is LogAppendTime, which only a broker may set; send CreateTime",
        );
        let say = |&(index, fault): &(i32, Fault)| BadRecord {
            index,
            why: match fault {
                Fault::NoKey => no_key.clone(),
                Fault::Stamped => stamped.clone(),
                Fault::OutOfTime(time) => self.out_of_time(time).into(),
            },
        };
        let records: Vec<_> = faults.named.iter().map(say).collect();
        let first: Vec<_> = records.iter().take(MOST_IN_SENTENCE).map(ToString::to_string).collect();
        let beyond = if faults.count > first.len() { "; and so on" } else { "" };
        let why =
            format!("the batch is refused for {} of its records: {}{beyond}", faults.count, first.join("; "));
        let code = if faults.of_time { ErrorCode::InvalidTimestamp } else { ErrorCode::InvalidRecord };
        Refusal { records, ..Refusal::new(code, why) }
    }

    fn out_of_time(&self, time: Millis) -> String {
        let Self { earliest, latest, .. } = self;
        format!(
            "timestamp {} is not between {} and {}, which the topic's message.timestamp.before.max.ms and \
             message.timestamp.after.max.ms allow",
            time.0, earliest.0, latest.0
        )
    }
}

/// What can be wrong with a record that can be read.
#[derive(Clone, Copy)]
enum Fault {
    NoKey,
    OutOfTime(Millis),
    Stamped,
}

#[derive(Default)]
struct Faults {
    count: usize,
    /// Whether any is one of time, which then is what the whole batch is refused for.
    of_time: bool,
    named: Vec<(i32, Fault)>,
}

impl Faults {
    fn add(&mut self, index: i32, fault: Fault) {
        self.count += 1;
        self.of_time |= !matches!(fault, Fault::NoKey);
        if self.named.len() < MOST_NAMED {
            self.named.push((index, fault));
        }
    }
}

fn is_stamped(header: &BatchHeader) -> bool {
    header.attributes.timestamp_type() == TimestampType::LogAppendTime
}

/// Never CORRUPT_MESSAGE, which clients take for damage on the way, and send the same bytes again.
fn unreadable(error: RecordError) -> Refusal {
    let code = match error {
        RecordError::TooLarge { .. } => ErrorCode::MessageTooLarge, // has a client split the batch
        RecordError::UnknownCompression { .. } => ErrorCode::UnsupportedCompressionType,
        _ => ErrorCode::InvalidRecord,
    };
    Refusal::new(code, error.to_string())
}
