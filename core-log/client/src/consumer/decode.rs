//! From fetched bytes to records: decompression, transactions, and where the position ends up.

use std::collections::{BTreeSet, VecDeque};

use millstream_protocol::messages::fetch::AbortedTransaction;
use millstream_record::{Batch, Batches, ControlKind, LeaderEpoch, Offset, RecordError, TopicPartition};

use super::subscription::Position;
use crate::{ConsumerRecord, PartitionRecords};

/// How batches are read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    pub check_crcs: bool,
    pub limit_bytes: usize,
    /// Whether aborted records are left out.
    pub committed_only: bool,
}

/// Fetched batches of one partition that poll has not returned yet.
#[derive(Debug)]
pub(super) struct Fetched {
    pub partition: TopicPartition,
    /// The assignment's version that they were fetched for.
    pub version: u64,
    /// Where reading goes on.
    pub position: Position,
    pub high_watermark: Offset,
    pub last_stable_offset: Offset,
    reading: Reading,
    batches: Batches,
    /// Transactions that end in an abort, by first offset.
    aborted: VecDeque<AbortedTransaction>,
    /// Producers inside of such a transaction at the position.
    aborting: BTreeSet<i64>,
    /// What is left of the batch being read, and the position behind it.
    rest: VecDeque<ConsumerRecord>,
    behind: Position,
}

impl Fetched {
    pub(super) fn new(
        partition: TopicPartition,
        version: u64,
        position: Position,
        reading: Reading,
        batches: Batches,
        aborted: Vec<AbortedTransaction>,
    ) -> Self {
        let mut aborted = aborted;
        aborted.sort_by_key(|transaction| transaction.first_offset);
        Self {
            partition,
            version,
            position,
            high_watermark: Offset(-1),
            last_stable_offset: Offset(-1),
            reading,
            batches,
            aborted: aborted.into(),
            aborting: BTreeSet::new(),
            rest: VecDeque::new(),
            behind: position,
        }
    }

    /// At most `most` records; `None` once there are no more batches. Moves the position behind what it gives.
    pub(super) fn take(&mut self, most: usize) -> Result<Option<PartitionRecords>, RecordError> {
        let mut records = Vec::new();
        let start = self.position;
        while records.len() < most {
            if self.rest.is_empty() {
                self.position = self.behind;
                match self.read_batch() {
                    Ok(true) => continue,
                    Ok(false) => break,
                    // What came before the fault is still good; the next call meets the fault again.
                    Err(_) if !records.is_empty() => break,
                    Err(error) => return Err(error),
                }
            }
            let wanted = (most - records.len()).min(self.rest.len());
            records.extend(self.rest.drain(..wanted));
            if let Some(last) = records.last() {
                self.position = Position { offset: last.offset.plus(1), offset_epoch: last.leader_epoch };
            }
        }
        if self.rest.is_empty() {
            self.position = self.behind;
        }
        if records.is_empty() && self.position == start {
            return Ok(None);
        }
        Ok(Some(PartitionRecords {
            topic_partition: self.partition.clone(),
            records,
            next_offset: self.position.offset,
            leader_epoch: self.position.offset_epoch,
            high_watermark: self.high_watermark,
            last_stable_offset: self.last_stable_offset,
        }))
    }

    /// Whether everything in it was given, so that what follows may be fetched.
    pub(super) fn is_done(&self) -> bool {
        self.rest.is_empty() && self.batches.clone().next().is_none()
    }

    /// Reads the next batch into `rest`; `false` when there is none.
    fn read_batch(&mut self) -> Result<bool, RecordError> {
        let mut ahead = self.batches.clone();
        let Some(batch) = ahead.next().transpose()? else { return Ok(false) };
        let header = *batch.header();
        let behind = Position { offset: header.next_offset(), offset_epoch: header.leader_epoch };
        if header.next_offset() > self.position.offset {
            if self.reading.check_crcs {
                batch.check_crc()?;
            }
            if !self.is_hidden(&batch)? {
                self.read_records(&batch, header.leader_epoch)?;
            }
            self.behind = behind;
        }
        self.batches = ahead;
        Ok(true)
    }

    fn read_records(&mut self, batch: &Batch, leader_epoch: LeaderEpoch) -> Result<(), RecordError> {
        let body = batch.decompress(self.reading.limit_bytes)?;
        let mut records = VecDeque::with_capacity(
            usize::try_from(batch.header().record_count).unwrap_or(0).min(body.len()),
        );
        for record in batch.records(&body) {
            let record = record?;
            if record.offset < self.position.offset {
                continue; // a fetch from the middle of a batch returns all of it
            }
            let record = record.to_record(&body);
            records.push_back(ConsumerRecord {
                offset: record.offset,
                timestamp: record.timestamp,
                key: record.key,
                value: record.value,
                headers: record.headers,
                leader_epoch,
            });
        }
        self.rest = records;
        Ok(())
    }

    /// Whether the application does not see the batch: control records, and those of aborted transactions.
    fn is_hidden(&mut self, batch: &Batch) -> Result<bool, RecordError> {
        let header = batch.header();
        let producer = header.producer_id.0;
        while self.aborted.front().is_some_and(|next| next.first_offset <= header.last_offset().0) {
            self.aborting.extend(self.aborted.pop_front().map(|next| next.producer_id));
        }
        if header.attributes.is_control() {
            if self.reading.committed_only && is_abort(batch, self.reading.limit_bytes)? {
                self.aborting.remove(&producer);
            }
            return Ok(true);
        }
        Ok(self.reading.committed_only
            && header.attributes.is_transactional()
            && self.aborting.contains(&producer))
    }
}

fn is_abort(batch: &Batch, limit_bytes: usize) -> Result<bool, RecordError> {
    let body = batch.decompress(limit_bytes)?;
    let first = batch.records(&body).next().transpose()?;
    let kind = first.and_then(|record| ControlKind::from_key(record.key.unwrap_or_default()));
    Ok(kind == Some(ControlKind::Abort))
}

#[cfg(test)]
mod tests {
    use bytes::{Bytes, BytesMut};
    use millstream_record::{
        BatchBuilder, BatchOptions, EndTxnMarker, Millis, ProducerEpoch, ProducerId, patch,
    };

    use super::*;

    fn data(producer: i64, values: &[&str]) -> Bytes {
        let mut builder = BatchBuilder::new(BatchOptions {
            producer_id: ProducerId(producer),
            producer_epoch: ProducerEpoch(0),
            base_sequence: 0,
            transactional: producer >= 0,
            ..BatchOptions::default()
        });
        for value in values {
            builder.append(Millis(1), None, Some(value.as_bytes()), &[]).unwrap();
        }
        builder.build().unwrap().freeze()
    }

    fn marker(producer: i64, committed: bool) -> Bytes {
        let marker = EndTxnMarker { committed, coordinator_epoch: 0 };
        BatchBuilder::end_txn_marker(Millis(1), ProducerId(producer), ProducerEpoch(0), marker)
    }

    /// The batches at consecutive offsets from 0 on.
    fn log(batches: &[Bytes]) -> Bytes {
        let mut next = Offset(0);
        let mut log = BytesMut::new();
        for batch in batches {
            let mut batch = BytesMut::from(&batch[..]);
            patch::set_offset_and_epoch(&mut batch, next, LeaderEpoch(3)).unwrap();
            next = Batch::parse(batch.clone().freeze()).unwrap().header().next_offset();
            log.extend_from_slice(&batch);
        }
        log.freeze()
    }

    fn fetched(log: Bytes, from: i64, committed_only: bool, aborted: &[(i64, i64)]) -> Fetched {
        let aborted = aborted
            .iter()
            .map(|&(producer_id, first_offset)| AbortedTransaction { producer_id, first_offset })
            .collect();
        Fetched::new(
            TopicPartition::new("t", 0),
            0,
            Position { offset: Offset(from), offset_epoch: LeaderEpoch::NONE },
            Reading { check_crcs: true, limit_bytes: 1 << 20, committed_only },
            Batches::ignoring_partial(log),
            aborted,
        )
    }

    /// `offset=value` of each record, and the position behind.
    fn read(mut fetched: Fetched, most: usize) -> Vec<(String, i64)> {
        let mut polls = Vec::new();
        while let Some(poll) = fetched.take(most).unwrap() {
            let records = poll.records.iter().map(|record| {
                format!("{}={}", record.offset, String::from_utf8_lossy(record.value.as_ref().unwrap()))
            });
            polls.push((records.collect::<Vec<_>>().join(" "), poll.next_offset.0));
        }
        polls
    }

    /// Producer 1 aborts 0-1 (marker 4), producer 2 commits 2-3 (marker 5), producer 1 commits 6 (marker 7), 8 has no transaction.
    fn mixed() -> Bytes {
        log(&[
            data(1, &["a", "b"]),
            data(2, &["c", "d"]),
            marker(1, false),
            marker(2, true),
            data(1, &["e"]),
            marker(1, true),
            data(-1, &["f"]),
        ])
    }

    #[test]
    fn aborted_records_and_markers_are_passed_over_and_the_position_moves() {
        let table = [
            (true, &[(1, 0)][..], 0, vec![("2=c 3=d 6=e 8=f", 9)]),
            (false, &[], 0, vec![("0=a 1=b 2=c 3=d 6=e 8=f", 9)]),
            (true, &[(1, 0)], 3, vec![("3=d 6=e 8=f", 9)]),
            (true, &[(1, 0)], 8, vec![("8=f", 9)]),
        ];
        for (committed_only, aborted, from, expected) in table {
            let polls = read(fetched(mixed(), from, committed_only, aborted), 100);
            let polls: Vec<_> = polls.iter().map(|(text, next)| (text.as_str(), *next)).collect();
            assert_eq!(polls, expected, "{committed_only} {from}");
        }
    }

    #[test]
    fn a_poll_that_finds_only_hidden_batches_still_moves_the_position() {
        let only_aborted = log(&[data(1, &["a"]), marker(1, false)]);
        assert_eq!(read(fetched(only_aborted, 0, true, &[(1, 0)]), 100), [(String::new(), 2)]);
    }

    #[test]
    fn polls_are_cut_at_the_limit_and_lose_nothing() {
        let polls = read(fetched(mixed(), 0, true, &[(1, 0)]), 3);
        assert_eq!(polls, [("2=c 3=d 6=e".to_owned(), 7), ("8=f".to_owned(), 9)]);
        let mut three = fetched(log(&[data(-1, &["x", "y", "z"])]), 0, false, &[]);
        three.take(2).unwrap();
        assert!(!three.is_done(), "z is left");
        three.take(2).unwrap();
        assert!(three.is_done());
        let one = read(fetched(log(&[data(-1, &["x", "y", "z"])]), 1, false, &[]), 1);
        assert_eq!(one, [("1=y".to_owned(), 2), ("2=z".to_owned(), 3)]);
    }

    #[test]
    fn a_corrupt_batch_is_an_error_once_what_came_before_it_was_given() {
        let good = log(&[data(-1, &["x"]), data(-1, &["y"])]);
        let mut bad = BytesMut::from(&good[..]);
        let last = bad.len() - 1;
        bad[last] ^= 1;
        let mut fetched = fetched(bad.freeze(), 0, false, &[]);
        let first = fetched.take(10).unwrap().unwrap();
        assert_eq!((first.records.len(), first.next_offset.0), (1, 1));
        for _ in 0..2 {
            assert!(matches!(fetched.take(10), Err(RecordError::Crc { base_offset: 1, .. })));
        }
    }
}
