//! Any sequence of steps gives what a plain list of batches would.

use std::sync::Arc;

use bytes::Bytes;
use millstream_record::{Millis, Offset, ProducerId};
use millstream_storage::{LogConfig, MemoryDisk, ReadRequest};
use proptest::prelude::*;

use crate::support::*;

#[derive(Clone, Debug)]
enum Step {
    Append { records: usize, size: usize },
    Produce { producer: i64, records: usize },
    Repeat { producer: i64 },
    Read { from: usize, max_bytes: usize },
    Truncate { to: usize },
    Roll,
    Flush,
    Reopen { clean: bool },
    AdvanceStart { to: usize },
    Retain { bytes: i64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..5usize, 0..400usize).prop_map(|(records, size)| Step::Append { records, size }),
        4 => (1..3i64, 1..4usize).prop_map(|(producer, records)| Step::Produce { producer, records }),
        2 => (1..3i64).prop_map(|producer| Step::Repeat { producer }),
        6 => (0..1000usize, 0..1500usize).prop_map(|(from, max_bytes)| Step::Read { from, max_bytes }),
        2 => (0..1000usize).prop_map(|to| Step::Truncate { to }),
        1 => Just(Step::Roll),
        2 => Just(Step::Flush),
        2 => any::<bool>().prop_map(|clean| Step::Reopen { clean }),
        1 => (0..1000usize).prop_map(|to| Step::AdvanceStart { to }),
        1 => (0..6000i64).prop_map(|bytes| Step::Retain { bytes }),
    ]
}

/// A batch as the model remembers it.
#[derive(Clone, Debug)]
struct Entry {
    base: i64,
    next: i64,
    bytes: Bytes,
    /// Producer and first sequence.
    produced: Option<(i64, i32)>,
}

struct World {
    bench: Bench,
    batches: Vec<Entry>,
    /// What producers wrote, also where its segment was deleted since: that is no reason to forget a producer.
    written: Vec<Entry>,
    start: i64,
}

impl World {
    fn new() -> Self {
        let config = LogConfig { retention_ms: -1, ..small() };
        let bench = Bench::on(Arc::new(MemoryDisk::new()), config);
        Self { bench, batches: Vec::new(), written: Vec::new(), start: 0 }
    }

    fn end(&self) -> i64 {
        self.batches.last().map_or(self.start, |entry| entry.next.max(self.start))
    }

    /// An offset of the log, one in a thousand steps of its length.
    fn place(&self, thousandth: usize) -> i64 {
        self.start + (self.end() - self.start) * thousandth as i64 / 1000
    }

    fn append(&mut self, bytes: Bytes, produced: Option<(i64, i32)>) {
        let info = self.bench.log.append(&bytes, LEADER, NOW).unwrap();
        assert!(!info.duplicate);
        assert_eq!(info.base_offset.0, self.end());
        let (base, next) = (info.base_offset.0, info.last_offset.0 + 1);
        let entry = Entry { base, next, bytes, produced };
        self.written.extend(produced.map(|_| entry.clone()));
        self.batches.push(entry);
    }

    /// A producer's newest batch.
    fn newest_of(&self, producer: i64) -> Option<&Entry> {
        self.written.iter().rev().find(|entry| entry.produced.is_some_and(|(id, _)| id == producer))
    }

    fn next_sequence(&self, producer: i64) -> i32 {
        let after = |entry: &Entry| entry.produced.unwrap().1 + (entry.next - entry.base) as i32;
        let expected = self.newest_of(producer).map_or(0, after);
        let known = self.bench.log.producer(ProducerId(producer));
        assert_eq!(known.map_or(0, |state| state.last_sequence() + 1), expected, "producer {producer}");
        expected
    }

    fn truncate(&mut self, to: i64) {
        let begins_anew =
            self.batches.iter().any(|entry| entry.base < self.start && to < entry.next && self.start <= to);
        self.batches.retain(|entry| entry.next <= to);
        self.written.retain(|entry| entry.next <= to && !begins_anew);
        let end = self.bench.log.truncate_to(Offset(to), NOW).unwrap();
        assert_eq!(end.0, self.end());
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Append { records, size } => self.append(plain(records, size), None),
            Step::Produce { producer, records } => {
                let sequence = self.next_sequence(producer);
                self.append(produced(producer, 0, sequence, records, false), Some((producer, sequence)));
            }
            Step::Repeat { producer } => {
                let Some(entry) = self.newest_of(producer).cloned() else { return };
                let info = self.bench.log.append(&entry.bytes, LEADER, NOW).unwrap();
                assert_eq!(
                    (info.duplicate, info.base_offset.0, info.last_offset.0),
                    (true, entry.base, entry.next - 1)
                );
            }
            Step::Read { from, max_bytes } => self.read(self.place(from), max_bytes),
            Step::Truncate { to } => self.truncate(self.place(to)),
            Step::Roll => self.bench.log.roll_now(NOW).unwrap(),
            Step::Flush => assert_eq!(self.bench.log.flush_blocking().unwrap().0, self.end()),
            Step::Reopen { clean } => self.reopen(clean),
            Step::AdvanceStart { to } => {
                let to = self.place(to);
                self.bench.log.advance_log_start(Offset(to)).unwrap();
                self.start = to;
            }
            Step::Retain { bytes } => {
                let config = LogConfig { retention_bytes: bytes, ..self.bench.log.config().clone() };
                self.bench.log.set_config(config);
                let end = self.bench.log.end_offset();
                self.bench.log.retention(Millis(NOW.0 + 1), end).unwrap();
                self.start = self.bench.log.start_offset().0;
                let base = self.bench.log.segment_bases()[0].0;
                self.batches.retain(|entry| entry.base >= base);
            }
        }
        assert_eq!(
            (self.bench.log.start_offset().0, self.bench.log.end_offset().0),
            (self.start, self.end())
        );
    }

    fn reopen(&mut self, clean: bool) {
        let recovery_point = self.bench.log.recovery_point();
        let shutdown = if clean { Ended::Clean } else { Ended::Crash { recovery_point } };
        let World { bench, batches, written, start } = std::mem::replace(self, World::new());
        let bench = bench.reopen(shutdown).unwrap();
        assert_eq!(bench.report.cut, None);
        *self = World { bench, batches, written, start };
    }

    fn read(&self, from: i64, max_bytes: usize) {
        let request = ReadRequest { max_bytes, ..at(from) };
        let found = self.bench.spans(request);
        let expected: Vec<(i64, i64)> = self
            .batches
            .iter()
            .filter(|entry| entry.next > from)
            .map(|entry| (entry.base, entry.next))
            .collect();
        assert_eq!(found, expected[..found.len()], "read at {from}");
        assert_eq!(found.is_empty(), from >= self.end(), "read at {from} of {}", self.end());
        let bytes: usize = self
            .batches
            .iter()
            .filter(|entry| found.contains(&(entry.base, entry.next)))
            .map(|e| e.bytes.len())
            .sum();
        assert!(found.len() == 1 || bytes <= max_bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_log_is_a_list_of_batches(steps in proptest::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        for step in steps {
            world.run(step);
        }
        let start = world.start;
        let all = read_all(&world.bench.log, Offset(start)).unwrap();
        let expected = world.batches.iter().filter(|entry| entry.next > start);
        for (found, expected) in all.iter().zip(expected.clone()) {
            assert_eq!(found.header().base_offset.0, expected.base);
            assert_eq!(found.bytes()[16..], expected.bytes[16..]);
        }
        assert_eq!(all.len(), expected.count());
    }
}
