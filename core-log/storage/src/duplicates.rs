//! Batches that are sent again. What the producer state does not remember of them, the log does.
//!
//! A snapshot has a place for one batch of each producer, as Kafka's has, so after a restart or a cut the state knows fewer than
//! the five that a producer may have on their way. One that is sent again from before those would be refused as out of order,
//! and its producer could not tell that from a batch that was lost: it would number it anew, and it would stand twice.

use millstream_record::{Millis, Offset, TimestampType};

use crate::append::{AppendInfo, Incoming};
use crate::batch;
use crate::error::Result;
use crate::log::Log;
use crate::producer::BATCHES_REMEMBERED;
use crate::scan::Found;

/// How many offsets back a search begins to look; each further look goes four times as far.
const FIRST_REACH: i64 = 1024;
/// A search that has read so much goes no further: five batches of the largest default size, and what others wrote between them.
const REACH_BYTES: usize = 8 << 20;

impl Log {
    /// The original of what is sent again, if all of it is.
    pub(crate) fn find_duplicate(&self, incoming: &[Incoming<'_>]) -> Option<AppendInfo> {
        let mut original: Option<(Offset, Offset, Millis)> = None;
        for batch in incoming {
            let found = self.producers.duplicate_of(&batch::produced(&batch.header)?)?;
            let first = original.map_or(found.first_offset(), |(first, ..)| first);
            original = Some((first, found.last_offset, found.timestamp));
        }
        let (base_offset, last_offset, timestamp) = original?;
        let stamps = self.config.message_timestamp_type == TimestampType::LogAppendTime;
        Some(AppendInfo {
            base_offset,
            last_offset,
            log_append_time: stamps.then_some(timestamp),
            log_start_offset: self.start,
            duplicate: true,
            bytes: 0,
        })
    }

    /// Has the producer state remember what the log holds of the producer before what is remembered, where `incoming` may be one
    /// of those. Reads the log, in the one case in which a producer sends again what was written before a restart.
    pub(crate) fn recall(&mut self, incoming: &[Incoming<'_>]) -> Result<()> {
        let [Incoming { header, .. }] = incoming else { return Ok(()) };
        let Some(wanted) = batch::produced(header) else { return Ok(()) };
        let Some(before) = self.producers.forgotten_before(&wanted) else { return Ok(()) };
        let first = self.segments.front().map_or(self.start, |segment| segment.base);
        let mut reach = FIRST_REACH;
        loop {
            let from = Offset(before.0.saturating_sub(reach)).max(first);
            let (mut found, mut read) = (Vec::new(), 0);
            let begin = self.segments.partition_point(|segment| segment.base <= from).saturating_sub(1);
            for segment in self.segments.iter().skip(begin).take_while(|segment| segment.base < before) {
                let mut scanner = segment.scan_from(from.max(segment.base))?;
                while let Found::Batch { header, .. } = scanner.next().map_err(segment.io())? {
                    if header.last_offset() >= before {
                        break;
                    }
                    read += header.size_bytes();
                    let own = batch::produced(&header).filter(|own| own.producer_id == wanted.producer_id);
                    found.extend(own.map(|own| (own, header.last_offset())));
                }
            }
            if found.len() >= BATCHES_REMEMBERED || from == first || read >= REACH_BYTES {
                for (own, last_offset) in found.iter().rev() {
                    self.producers.remember_older(own, *last_offset);
                }
                return Ok(());
            }
            reach = reach.saturating_mul(4);
        }
    }
}
