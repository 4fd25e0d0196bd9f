//! What a log promises, case by case.

use std::path::Path;
use std::sync::Arc;

use millstream_record::{
    BatchOptions, Batches, Compression, LeaderEpoch, Millis, Offset, ProducerId, TimestampType,
    TopicPartition,
};
use millstream_storage::{
    AppendOrigin, Disk, Durability, Log, LogConfig, LogDir, MemoryDisk, Noted, Offsets, ReadRequest,
    Shutdown, StorageError, validate_for_append,
};

use crate::support::*;

#[test]
fn offsets_epochs_and_crcs_of_what_is_appended() {
    let mut bench = Bench::new(small());
    assert_eq!(bench.append(&plain(3, 10)), 0);
    let two = [plain(2, 10), plain(1, 10)].concat();
    let epoch = LeaderEpoch(4);
    let info = bench.log.append(&two, AppendOrigin::Leader { epoch }, NOW).unwrap();
    assert_eq!((info.base_offset, info.last_offset, info.bytes), (Offset(3), Offset(5), two.len() as u64));
    let all = read_all(&bench.log, Offset(0)).unwrap();
    let seen: Vec<_> = all.iter().map(|b| (b.header().base_offset.0, b.header().leader_epoch.0)).collect();
    assert_eq!(seen, [(0, 0), (3, 4), (5, 4)]);
    all.iter().for_each(|batch| batch.check_crc().unwrap());
    assert_eq!(bench.log.epoch_end_offset(LeaderEpoch(0)), Some((LeaderEpoch(0), Offset(3))));
    assert_eq!(bench.log.epoch_end_offset(LeaderEpoch(4)), Some((LeaderEpoch(4), Offset(6))));
}

#[test]
fn log_append_time_is_stamped_and_the_crc_follows() {
    let config = LogConfig { message_timestamp_type: TimestampType::LogAppendTime, ..small() };
    let mut bench = Bench::new(config);
    let info = bench.log.append(&plain(3, 10), LEADER, Millis(NOW.0 + 77)).unwrap();
    assert_eq!(info.log_append_time, Some(Millis(NOW.0 + 77)));
    let batch = read_all(&bench.log, Offset(0)).unwrap().remove(0);
    batch.check_crc().unwrap();
    assert_eq!(batch.header().attributes.timestamp_type(), TimestampType::LogAppendTime);
    let body = batch.body();
    assert!(batch.records(&body).all(|record| record.unwrap().timestamp == Millis(NOW.0 + 77)));
}

#[test]
fn reads_give_whole_batches_within_their_bounds() {
    let mut bench = Bench::new(LogConfig { index_interval_bytes: 200, ..LogConfig::default() });
    for _ in 0..40 {
        bench.append(&plain(5, 20));
    }
    let size = plain(5, 20).len();
    let request = |offset, batches: usize, upper| ReadRequest {
        max_bytes: batches * size,
        upper_bound: Offset(upper),
        ..at(offset)
    };
    for (given, expected) in [
        (request(0, 1, 200), vec![(0, 5)]),
        (request(0, 2, 200), vec![(0, 5), (5, 10)]),
        (request(7, 2, 200), vec![(5, 10), (10, 15)]),
        (request(199, 9, 200), vec![(195, 200)]),
        (request(200, 9, 200), vec![]),
        (request(190, 9, 195), vec![(190, 195)]),
        (request(190, 9, 194), vec![]),
        (request(190, 9, 190), vec![]),
        (ReadRequest { max_bytes: 1, ..at(63) }, vec![(60, 65)]),
        (ReadRequest { max_bytes: 1, at_least_one: false, ..at(63) }, vec![]),
        (ReadRequest { max_bytes: size + size / 2, at_least_one: false, ..at(63) }, vec![(60, 65)]),
    ] {
        assert_eq!(bench.spans(given), expected, "{given:?}");
        let now = bench.log.read_plan(given).unwrap().try_now().unwrap();
        assert_eq!(spans(&now.unwrap().bytes), expected, "without waiting: {given:?}");
    }
    for offset in [-1, 201] {
        assert!(matches!(bench.log.read(at(offset)), Err(StorageError::OffsetOutOfRange { .. })), "{offset}");
    }
}

#[test]
fn duplicates_give_the_originals_offsets_even_after_a_restart() {
    for shutdown in [Ended::Clean, Ended::Crash { recovery_point: Offset(0) }] {
        let mut bench = Bench::new(small());
        bench.append(&plain(2, 10));
        for n in 0..6 {
            assert_eq!(bench.append(&produced(9, 0, n * 2, 2, false)), 2 + 2 * i64::from(n));
        }
        bench.log.flush_blocking().unwrap();
        for again in 0..2 {
            for n in 1..6 {
                let info = bench.log.append(&produced(9, 0, n * 2, 2, false), LEADER, NOW).unwrap();
                let place = 2 + 2 * i64::from(n);
                assert!(info.duplicate);
                assert_eq!(
                    (info.base_offset.0, info.last_offset.0),
                    (place, place + 1),
                    "{shutdown:?} {again}"
                );
            }
            let old = bench.log.append(&produced(9, 0, 0, 2, false), LEADER, NOW);
            assert!(matches!(old, Err(StorageError::OutOfOrderSequence { expected: 12, .. })), "{old:?}");
            assert_eq!(bench.log.end_offset(), Offset(14));
            bench = bench.reopen(shutdown).unwrap();
        }
    }
}

#[test]
fn sequences_that_an_ended_transaction_used_are_refused_even_after_a_restart_or_a_cut() {
    let written = || {
        let mut bench = Bench::new(small());
        for at in 0..3 {
            bench.append(&produced(9, 0, 2 * at, 2, true)); // at 0, 2 and 4
            bench.log.roll_now(NOW).unwrap(); // the state of each is in a snapshot, which has a place for one batch
        }
        bench.log.append(&marker(9, 0, false), COORDINATOR, NOW).unwrap(); // at 6
        bench.log.flush_blocking().unwrap();
        bench
    };
    let cut = |mut bench: Bench| {
        bench.append(&plain(1, 10));
        bench.log.truncate_to(Offset(7), NOW).unwrap();
        bench
    };
    for (what, mut bench) in [
        ("as written", written()),
        ("stop", written().reopen(Ended::Clean).unwrap()),
        ("crash", written().reopen(Ended::Crash { recovery_point: Offset(7) }).unwrap()),
        (
            "crash without a recovery point",
            written().reopen(Ended::Crash { recovery_point: Offset(0) }).unwrap(),
        ),
        ("cut", cut(written())),
    ] {
        for at in 0..3 {
            let other = bench.log.append(&produced(9, 0, 2 * at, 2, true), LEADER, NOW);
            let is_refused = matches!(other, Err(StorageError::SequenceUsed { expected: 6, .. }));
            assert!(is_refused, "{what}, batch {at}: {other:?}");
        }
        assert_eq!(bench.append(&produced(9, 0, 6, 2, true)), 7, "{what}: the next transaction goes on");
        assert!(bench.log.append(&produced(9, 0, 6, 2, true), LEADER, NOW).unwrap().duplicate, "{what}");
    }
    // A cut that takes the end of the transaction away opens it again, and with it the retries.
    let mut bench = written();
    bench.log.truncate_to(Offset(6), NOW).unwrap();
    for at in 0..3 {
        assert!(bench.log.append(&produced(9, 0, 2 * at, 2, true), LEADER, NOW).unwrap().duplicate, "{at}");
    }
}

#[test]
fn a_transaction_stays_open_when_retention_takes_its_begin() {
    let shortened = || {
        let mut bench = Bench::new(LogConfig { retention_bytes: 0, ..small() });
        bench.append(&produced(1, 0, 0, 2, true)); // at 0
        bench.log.roll_now(NOW).unwrap();
        bench.append(&produced(1, 0, 2, 2, true)); // at 2
        bench.append(&plain(1, 10)); // at 4
        bench.log.flush_blocking().unwrap();
        assert_eq!(bench.log.retention(NOW, Offset(2)).unwrap(), 1);
        bench
    };
    for (what, mut bench) in [
        ("as it is", shortened()),
        ("stop", shortened().reopen(Ended::Clean).unwrap()),
        ("crash", shortened().reopen(Ended::Crash { recovery_point: Offset(2) }).unwrap()),
    ] {
        assert_eq!(bench.log.start_offset(), Offset(2), "{what}");
        assert_eq!(bench.log.last_stable_offset(Offset(5)), Offset(2), "{what}");
        assert_eq!(bench.log.unstable(), [(Offset(0), None)], "{what}");
        let again = bench.log.append(&produced(1, 0, 2, 2, true), LEADER, NOW).unwrap();
        assert!(again.duplicate, "{what}: it may be sent again");
        bench.log.append(&marker(1, 0, false), COORDINATOR, NOW).unwrap(); // at 5
        assert_eq!(bench.log.last_stable_offset(Offset(6)), Offset(6), "{what}");
        let request = ReadRequest { upper_bound: Offset(6), with_aborted: true, ..at(2) };
        let aborted = bench.log.read(request).unwrap().aborted;
        let aborted: Vec<_> = aborted.iter().map(|a| (a.producer_id.0, a.last_offset.0)).collect();
        assert_eq!(aborted, [(1, 5)], "{what}: what is left of it is not read as committed");
    }
}

#[test]
fn duplicates_are_known_behind_a_roll_too() {
    let mut bench = Bench::new(small());
    for n in 0..5 {
        bench.append(&produced(9, 0, n, 1, false));
    }
    bench.log.roll_now(NOW).unwrap();
    bench.append(&plain(1, 10));
    bench.log.flush_blocking().unwrap();
    let mut bench = bench.reopen(Ended::Crash { recovery_point: Offset(5) }).unwrap();
    for n in 0..5 {
        assert_eq!(bench.append(&produced(9, 0, n, 1, false)), i64::from(n));
    }
}

#[test]
fn aborted_transactions_and_the_last_stable_offset() {
    for restart in [None, Some(Ended::Clean), Some(Ended::Crash { recovery_point: Offset(0) })] {
        let mut bench = Bench::new(small());
        bench.append(&produced(1, 0, 0, 2, true)); // 0..2
        bench.append(&produced(2, 0, 0, 2, true)); // 2..4
        assert_eq!(bench.log.last_stable_offset(Offset(4)), Offset(0));
        assert_eq!(bench.log.append(&marker(1, 0, false), COORDINATOR, NOW).unwrap().base_offset, Offset(4));
        bench.log.roll_now(NOW).unwrap();
        bench.append(&produced(3, 0, 0, 1, true)); // 5
        bench.log.append(&marker(2, 0, true), COORDINATOR, NOW).unwrap(); // 6
        bench.log.append(&marker(3, 0, false), COORDINATOR, NOW).unwrap(); // 7
        bench.append(&plain(1, 10)); // 8
        bench.append(&produced(4, 0, 0, 1, true)); // 9, open
        if let Some(shutdown) = restart {
            bench = bench.reopen(shutdown).unwrap();
        }
        assert_eq!(bench.log.last_stable_offset(Offset(10)), Offset(9), "{restart:?}");
        if restart.is_none() {
            assert_eq!(
                bench.log.last_stable_offset(Offset(7)),
                Offset(5),
                "the marker at 7 is not replicated yet"
            );
        }
        let aborted = |from: i64, upper: i64| {
            let request = ReadRequest { upper_bound: Offset(upper), with_aborted: true, ..at(from) };
            let slices = bench.log.read(request).unwrap();
            slices
                .aborted
                .iter()
                .map(|a| (a.producer_id.0, a.first_offset.0, a.last_offset.0))
                .collect::<Vec<_>>()
        };
        assert_eq!(aborted(0, 4), [(1, 0, 4)], "{restart:?}");
        assert_eq!(aborted(0, 9), [(1, 0, 4)], "one read ends with its segment");
        assert_eq!(aborted(4, 9), [(1, 0, 4)]);
        assert_eq!(aborted(5, 9), [(3, 5, 7)]);
        assert_eq!(aborted(8, 9), []);
        let producer = bench.log.producer(ProducerId(4)).unwrap();
        assert_eq!(producer.open_transaction, Some(Offset(9)));
    }
}

#[test]
fn timestamps_are_found_in_every_segment_and_within_compressed_batches() {
    let mut bench =
        Bench::new(LogConfig { segment_bytes: 400, index_interval_bytes: 100, ..LogConfig::default() });
    for n in 0..30i64 {
        let value = format!("value {n}");
        let stamp = |i: i64| Millis(1000 + 100 * n + i);
        let records: Vec<_> = (0..3).map(|i| (stamp(10 * i), value.as_bytes())).collect();
        bench.append(&compressed(Compression::ALL[n as usize % 5], &records));
    }
    assert!(bench.log.segment_bases().len() > 3);
    for again in 0..2 {
        for (timestamp, expected) in [
            (0, Some((1000, 0))),
            (1000, Some((1000, 0))),
            (1001, Some((1010, 1))),
            (1021, Some((1100, 3))),
            (2520, Some((2520, 47))),
            (3920, Some((3920, 89))),
            (3921, None),
        ] {
            let plan = bench.log.offset_for_timestamp(Millis(timestamp));
            let found = plan.and_then(|plan| plan.run_blocking().unwrap());
            assert_eq!(found.map(|f| (f.timestamp.0, f.offset.0)), expected, "{timestamp} {again}");
        }
        let newest = bench.log.offset_of_max_timestamp().unwrap().run_blocking().unwrap().unwrap();
        assert_eq!((newest.timestamp.0, newest.offset.0), (3920, 89));
        bench = bench.reopen(Ended::Clean).unwrap();
    }
    bench.log.advance_log_start(Offset(10)).unwrap();
    let first = bench.log.offset_for_timestamp(Millis(0)).unwrap().run_blocking().unwrap().unwrap();
    assert_eq!(first.offset, Offset(10));
}

#[test]
fn segments_roll_by_size_and_by_time() {
    let mut bench = Bench::new(LogConfig { segment_ms: 1000, ..small() });
    let big = plain(1, 900);
    for _ in 0..5 {
        bench.append(&big);
    }
    assert_eq!(bench.log.segment_bases(), [Offset(0), Offset(2), Offset(4)]);
    let late = |ms: i64| batch_of(BatchOptions::default(), &[(Millis(NOW.0 + ms), b"late")]);
    bench.append(&late(1000));
    bench.append(&late(1001));
    assert_eq!(bench.log.segment_bases(), [Offset(0), Offset(2), Offset(4), Offset(6)]);
    let too_large = bench.log.append(&plain(1, 2100), LEADER, NOW);
    assert!(matches!(too_large, Err(StorageError::AppendTooLarge { max: 2000, .. })), "{too_large:?}");
}

#[test]
fn retention_deletes_whole_segments_below_the_high_watermark() {
    let old = |bench: &mut Bench, ms: i64| {
        let value = [b'v'; 900];
        bench.append(&batch_of(BatchOptions::default(), &[(Millis(NOW.0 + ms), &value)]))
    };
    let filled = |config: LogConfig| {
        let mut bench = Bench::new(config);
        (0..10).for_each(|n| assert_eq!(old(&mut bench, n * 100), n));
        assert_eq!(bench.log.segment_bases().len(), 5);
        bench
    };
    // By time: segments end at 100, 300, 500, ... ms.
    let mut bench = filled(LogConfig { retention_ms: 1000, ..small() });
    let later = Millis(NOW.0 + 1000 + 301);
    assert_eq!(bench.log.retention(later, Offset(3)).unwrap(), 1, "the rest is not replicated");
    assert_eq!(bench.log.retention(later, Offset(10)).unwrap(), 1);
    assert_eq!((bench.log.start_offset(), bench.log.segment_bases()[0]), (Offset(4), Offset(4)));
    assert!(matches!(bench.log.read(at(3)), Err(StorageError::OffsetOutOfRange { .. })));
    assert_eq!(bench.log.retention(Millis(NOW.0 + 10_000), Offset(10)).unwrap(), 3, "the newest one too");
    assert_eq!((bench.log.start_offset(), bench.log.end_offset()), (Offset(10), Offset(10)));
    assert_eq!(old(&mut bench, 0), 10);
    // Deleted files wait for file.delete.delay.ms.
    let deleted = |bench: &Bench| {
        let names = bench.files.disk().list(bench.log.dir()).unwrap();
        names.iter().filter(|entry| entry.name.ends_with(".deleted")).count()
    };
    assert!(deleted(&bench) > 5);
    bench.log.retention(Millis(NOW.0 + 70_001), Offset(0)).unwrap();
    assert_eq!(deleted(&bench), 0);
    let bench = bench.reopen(Ended::Clean).unwrap();
    assert_eq!((bench.log.start_offset(), bench.log.end_offset()), (Offset(10), Offset(11)));
    // By size, and not at all where cleanup.policy is compact.
    let mut bench = filled(LogConfig { retention_bytes: 5000, retention_ms: -1, ..small() });
    assert_eq!(bench.log.retention(NOW, Offset(10)).unwrap(), 2);
    assert!(bench.log.size_bytes() >= 5000);
    let mut bench = filled(LogConfig { retention_bytes: 0, cleanup_delete: false, ..small() });
    assert_eq!(bench.log.retention(Millis(i64::MAX), Offset(10)).unwrap(), 0);
    // Below the log start.
    assert!(bench.log.advance_log_start(Offset(5)).unwrap());
    assert_eq!(bench.log.retention(NOW, Offset(10)).unwrap(), 2);
    assert_eq!((bench.log.start_offset(), bench.log.segment_bases()[0]), (Offset(5), Offset(4)));
    assert_eq!(bench.spans(at(5)), [(5, 6)]);
}

#[test]
fn truncation_takes_everything_derived_along() {
    let mut bench = Bench::new(small());
    for n in 0..20 {
        let epoch = LeaderEpoch(n / 5);
        bench.log.append(&produced(5, 0, n, 1, false), AppendOrigin::Leader { epoch }, NOW).unwrap();
    }
    let epoch = LeaderEpoch(3);
    bench.log.append(&produced(6, 0, 0, 1, true), AppendOrigin::Leader { epoch }, NOW).unwrap(); // 20
    bench.log.append(&marker(6, 0, false), AppendOrigin::Coordinator { epoch }, NOW).unwrap(); // 21
    bench.log.flush_blocking().unwrap();
    assert_eq!(bench.log.truncate_to(Offset(12), NOW).unwrap(), Offset(12));
    assert_eq!(bench.log.flushed_offset(), Offset(12));
    assert_eq!(bench.log.leader_epochs().latest(), Some(LeaderEpoch(2)));
    assert_eq!(bench.log.producer(ProducerId(5)).unwrap().last_sequence(), 11);
    assert!(bench.log.producer(ProducerId(6)).is_none());
    let epoch = LeaderEpoch(4);
    let next = bench.log.append(&produced(5, 0, 12, 1, false), AppendOrigin::Leader { epoch }, NOW).unwrap();
    assert_eq!(next.base_offset, Offset(12));
    let slices = bench.log.read(ReadRequest { with_aborted: true, ..at(0) }).unwrap();
    assert_eq!(slices.aborted, []);
    assert_eq!(read_all(&bench.log, Offset(0)).unwrap().len(), 13);
    bench.log.truncate_fully_and_start_at(Offset(100), NOW).unwrap();
    assert_eq!(bench.append(&plain(1, 1)), 100);
    assert_eq!(bench.log.start_offset(), Offset(100));
}

/// A leader that begins where the mark is has to know of every transaction whose marker lies behind it.
#[test]
fn decided_transactions_behind_the_mark_are_known_however_the_log_was_opened() {
    let filled = || {
        let mut bench = Bench::new(small());
        let epoch = LeaderEpoch(0);
        bench.append(&plain(1, 1)); // 0
        bench.append(&produced(6, 0, 0, 1, true)); // 1
        bench.log.append(&marker(6, 0, true), AppendOrigin::Coordinator { epoch }, NOW).unwrap(); // 2
        bench.log.roll_now(NOW).unwrap();
        bench.append(&produced(7, 0, 0, 1, true)); // 3
        bench.log.append(&marker(7, 0, false), AppendOrigin::Coordinator { epoch }, NOW).unwrap(); // 4
        bench.log.roll_now(NOW).unwrap();
        bench.append(&produced(8, 0, 0, 1, true)); // 5
        bench.append(&plain(1, 1)); // 6
        bench.log.flush_blocking().unwrap();
        bench
    };
    let all = [(5, None), (1, Some(2)), (3, Some(4))];
    for (mark, expected) in [(1, &all[..]), (2, &all), (3, &[(5, None), (3, Some(4))]), (7, &all[..1])] {
        let mark = Offset(mark);
        let unstable = |bench: &mut Bench| {
            bench.log.high_watermark_moved(mark);
            bench.log.unstable().into_iter().map(|(a, b)| (a.0, b.map(|b| b.0))).collect::<Vec<_>>()
        };
        let recovery_point = Offset(7);
        for shutdown in [Ended::Clean, Ended::Crash { recovery_point }] {
            let mut bench = filled().reopen_with_mark(shutdown, Some(mark)).unwrap();
            assert_eq!(unstable(&mut bench), expected, "mark {mark}, {shutdown:?}");
        }
        let mut cut = filled();
        cut.log.high_watermark_moved(mark);
        cut.log.truncate_to(Offset(6), NOW).unwrap();
        assert_eq!(unstable(&mut cut), expected, "mark {mark}, cut");
    }
}

#[test]
fn a_producer_outlives_the_segment_of_its_batches() {
    let crash = |bench: Bench| {
        let recovery_point = bench.log.recovery_point();
        bench.reopen(Ended::Crash { recovery_point }).unwrap()
    };
    let cut = |mut bench: Bench| {
        let start = bench.log.start_offset();
        bench.log.truncate_to(start, NOW).unwrap();
        bench
    };
    let cut_and_crash = |bench| crash(cut(bench));
    let changes: [(&str, &dyn Fn(Bench) -> Bench); 3] =
        [("crash", &crash), ("cut", &cut), ("both", &cut_and_crash)];
    for (what, change) in changes {
        let mut bench = Bench::new(LogConfig { retention_bytes: 0, ..small() });
        bench.append(&produced(1, 0, 0, 2, false));
        bench.log.flush_blocking().unwrap();
        bench.log.roll_now(NOW).unwrap();
        bench.append(&plain(1, 10));
        assert_eq!(
            bench.log.retention(NOW, Offset(2)).unwrap(),
            1,
            "{what}: no flush has come since the roll"
        );
        let mut bench = change(bench);
        assert_eq!(bench.log.start_offset(), Offset(2), "{what}");
        let again = bench.log.append(&produced(1, 0, 0, 2, false), LEADER, NOW).unwrap();
        assert!(again.duplicate, "{what}");
        assert_eq!((again.base_offset, again.last_offset), (Offset(0), Offset(1)), "{what}");
    }
}

#[test]
fn retention_waits_for_a_flush_that_is_to_write_what_producers_had() {
    let mut bench = Bench::new(LogConfig { retention_bytes: 0, ..small() });
    bench.append(&produced(1, 0, 0, 2, false));
    bench.log.flush_blocking().unwrap();
    bench.log.roll_now(NOW).unwrap();
    bench.append(&plain(1, 10));
    bench.append(&plain(1, 10));
    let job = bench.log.flush_begin().unwrap();
    assert_eq!(bench.log.retention(NOW, Offset(2)).unwrap(), 0, "the job has the snapshot");
    bench.log.truncate_to(Offset(3), NOW).unwrap();
    bench.log.flush_done(job.run()).unwrap();
    assert_eq!(bench.log.retention(NOW, Offset(2)).unwrap(), 1);
    let mut bench = bench.reopen(Ended::Crash { recovery_point: Offset(2) }).unwrap();
    assert_eq!(
        bench.append(&produced(1, 0, 0, 2, false)),
        0,
        "the job was overtaken by a cut and wrote none"
    );
}

#[test]
fn what_a_restart_or_a_cut_makes_a_producers_state_forget_the_log_still_knows() {
    let fill = |bench: &mut Bench| {
        for at in 0..5 {
            assert_eq!(bench.append(&produced(1, 0, 7 + 2 * at, 2, false)), 4 * i64::from(at));
            bench.append(&plain(2, 10)); // of others, between them
            bench.log.roll_now(NOW).unwrap(); // each in a segment of its own, with a snapshot behind it
        }
        bench.append(&plain(1, 10));
    };
    let restarted = |shutdown| {
        let mut bench = Bench::new(small());
        fill(&mut bench);
        bench.log.flush_blocking().unwrap();
        bench.reopen(shutdown).unwrap()
    };
    let cut = || {
        let mut bench = Bench::new(small());
        fill(&mut bench);
        bench.log.truncate_to(Offset(20), NOW).unwrap();
        bench
    };
    let crash = Ended::Crash { recovery_point: Offset(21) };
    for (what, mut bench) in [("stop", restarted(Ended::Clean)), ("crash", restarted(crash)), ("cut", cut())]
    {
        for at in [0, 4, 2, 1, 3] {
            let again = bench.log.append(&produced(1, 0, 7 + 2 * at, 2, false), LEADER, NOW).unwrap();
            assert!(again.duplicate, "{what}: batch {at}");
            assert_eq!(again.base_offset, Offset(4 * i64::from(at)), "{what}");
        }
        // What was never written, and what is no batch of the run, is refused as before.
        for (sequence, count) in [(5, 2), (8, 2), (7, 1), (18, 1)] {
            let refused = bench.log.append(&produced(1, 0, sequence, count, false), LEADER, NOW);
            let is_refused = matches!(refused, Err(StorageError::OutOfOrderSequence { expected: 17, .. }));
            assert!(is_refused, "{what}: {sequence}, {count}: {refused:?}");
        }
        assert!(!bench.log.append(&produced(1, 0, 17, 1, false), LEADER, NOW).unwrap().duplicate, "{what}");
    }
}

#[test]
fn what_recovery_replayed_is_kept_when_its_segment_goes() {
    let mut bench = Bench::new(LogConfig { retention_bytes: 0, ..small() });
    bench.append(&produced(1, 0, 0, 2, false));
    bench.log.roll_now(NOW).unwrap();
    bench.append(&plain(1, 10));
    let mut bench = bench.reopen(Ended::Crash { recovery_point: Offset(0) }).unwrap();
    assert_eq!(bench.log.retention(NOW, Offset(2)).unwrap(), 1);
    let mut bench = bench.reopen(Ended::Crash { recovery_point: Offset(2) }).unwrap();
    assert_eq!(bench.append(&produced(1, 0, 0, 2, false)), 0);
}

#[test]
fn a_plan_that_races_with_truncation_or_deletion_gives_old_bytes_or_says_so() {
    let mut bench = Bench::new(small());
    for _ in 0..10 {
        bench.append(&plain(1, 900));
    }
    let plan = bench.log.read_plan(at(3)).unwrap();
    bench.log.truncate_to(Offset(3), NOW).unwrap();
    assert!(
        matches!(plan.run_blocking(), Err(StorageError::Changed)),
        "the bytes that were planned are gone"
    );
    bench.append(&plain(7, 20));
    assert!(
        matches!(plan.run_blocking(), Err(StorageError::Changed)),
        "what is there now is not what was planned"
    );
    let cold = bench.log.read_plan(at(0)).unwrap();
    bench.log.close_files();
    bench.log.advance_log_start(Offset(2)).unwrap();
    assert_eq!(bench.log.retention(NOW, Offset(3)).unwrap(), 1);
    assert!(matches!(cold.run_blocking(), Err(StorageError::Changed)));
}

#[test]
fn followers_keep_the_leaders_offsets() {
    let mut leader = Bench::new(small());
    for n in 0..8 {
        let epoch = LeaderEpoch(n / 4);
        leader.log.append(&produced(1, 0, n, 1, false), AppendOrigin::Leader { epoch }, NOW).unwrap();
    }
    let bytes = leader.log.read(at(0)).unwrap().bytes;
    let mut follower = Bench::new(small());
    follower.log.append(&bytes, AppendOrigin::Follower, NOW).unwrap();
    assert_eq!(follower.log.read(at(0)).unwrap().bytes, bytes);
    assert_eq!(follower.log.leader_epochs(), leader.log.leader_epochs());
    assert_eq!(follower.log.producers(), leader.log.producers());
    let again = follower.log.append(&bytes, AppendOrigin::Follower, NOW);
    assert!(matches!(again, Err(StorageError::OffsetsOutOfOrder { expected: Offset(8), found: Offset(0) })));
    let far =
        batch_of(BatchOptions { base_offset: Offset(5_000_000_000), ..Default::default() }, &[(NOW, b"far")]);
    follower.log.append(&far, AppendOrigin::Follower, NOW).unwrap();
    assert_eq!(follower.log.end_offset(), Offset(5_000_000_001));
    assert_eq!(follower.spans(at(9)), [(5_000_000_000, 5_000_000_001)]);
}

#[test]
fn validation_before_append() {
    let config = LogConfig { max_message_bytes: 500, ..small() };
    let stamped = |ms: i64| batch_of(BatchOptions::default(), &[(Millis(NOW.0 + ms), b"x")]).to_vec();
    let placed = |options| batch_of(options, &[(NOW, b"x")]).to_vec();
    let mut flipped = stamped(0);
    flipped[65] ^= 1;
    let mut old_magic = stamped(0);
    old_magic[16] = 1;
    let mut count = stamped(0);
    count[60] = 9;
    for (bytes, expected) in [
        (stamped(0), "ok 1"),
        ([stamped(0), stamped(1)].concat(), "ok 2"),
        (placed(BatchOptions { base_offset: Offset(99), ..BatchOptions::default() }), "malformed"),
        (placed(BatchOptions { producer_id: ProducerId(7), ..BatchOptions::default() }), "malformed"),
        (plain(1, 600).to_vec(), "too large"),
        (marker(1, 0, true).to_vec(), "malformed"),
        (flipped, "malformed"),
        (old_magic, "malformed"),
        (count, "malformed"),
        (stamped(0)[..30].to_vec(), "malformed"),
        (stamped(0)[..65].to_vec(), "malformed"),
        ([&stamped(0)[..], b"tail"].concat(), "malformed"),
        (Vec::new(), "malformed"),
    ] {
        let found = match validate_for_append(&bytes, &config) {
            Ok(summary) => format!("ok {}", summary.batches),
            Err(StorageError::BatchTooLarge { .. }) => "too large".to_owned(),
            Err(StorageError::MalformedBatch { .. }) => "malformed".to_owned(),
            Err(other) => other.to_string(),
        };
        assert_eq!(found, expected, "{} bytes", bytes.len());
    }
}

#[test]
fn the_flush_point_is_taken_before_the_sync_and_a_cut_lowers_it() {
    let mut bench = Bench::new(small());
    bench.append(&plain(2, 10));
    let job = bench.log.flush_begin().unwrap();
    assert!(bench.log.flush_begin().is_none(), "one job at a time");
    bench.append(&plain(1, 10));
    let result = job.run();
    assert_eq!(bench.log.flush_done(result).unwrap(), Offset(2));
    let job = bench.log.flush_begin().unwrap();
    assert_eq!(job.point().0, Offset(3));
    bench.log.truncate_to(Offset(2), NOW).unwrap();
    bench.append(&plain(5, 10));
    let result = job.run();
    assert_eq!(
        bench.log.flush_done(result).unwrap(),
        Offset(2),
        "what was appended behind the cut is not synced"
    );
    assert_eq!(bench.log.flush_blocking().unwrap(), Offset(7));
    assert!(bench.log.flush_begin().is_none(), "nothing is left to do");
}

#[test]
fn a_log_is_not_closed_while_a_job_is_out() {
    let mut bench = Bench::new(small());
    bench.append(&plain(1, 10));
    let job = bench.log.flush_begin().unwrap();
    let refused = bench.log.close().unwrap_err().to_string();
    assert!(refused.contains("a flush is under way"), "{refused}");
    bench.log.flush_done(job.run()).unwrap();
    bench.log.close().unwrap();
    assert_eq!(bench.log.flushed_offset(), Offset(1));
}

#[test]
fn a_round_shares_jobs_out_and_runs_each_once() {
    let mut logs: Vec<Bench> = (0..7).map(|_| Bench::new(small())).collect();
    logs.iter_mut().enumerate().for_each(|(n, bench)| assert_eq!(bench.append(&plain(1, 100 * n)), 0));
    let jobs = logs.iter_mut().enumerate().map(|(n, bench)| (n, bench.log.flush_begin().unwrap())).collect();
    let lanes = Durability::new(3).round(jobs);
    assert_eq!(lanes.len(), 3);
    let mut done = 0;
    for (n, result) in lanes.into_iter().flat_map(|lane| lane()) {
        assert_eq!(logs[n].log.flush_done(result).unwrap(), Offset(1));
        done += 1;
    }
    assert_eq!(done, 7);
}

#[test]
fn an_idle_log_holds_no_open_file_and_a_busy_directory_few() {
    let disk = Arc::new(MemoryDisk::new());
    let dir = LogDir::open(disk, std::path::Path::new("/logs"), 4).unwrap();
    let open =
        |n| dir.open_log(&millstream_record::TopicPartition::new("t", n), TOPIC, small(), NOW).unwrap().0;
    let mut logs: Vec<_> = (0..20).map(open).collect();
    assert_eq!(dir.files().open_count(), 0, "opening leaves nothing open");
    for log in &mut logs {
        for _ in 0..6 {
            log.append(&plain(1, 900), LEADER, NOW).unwrap();
        }
        log.flush_blocking().unwrap();
    }
    assert!(dir.files().open_count() <= 4, "{}", dir.files().open_count());
    for log in &logs {
        assert_eq!(read_all(log, Offset(0)).unwrap().len(), 6);
        log.close_files();
    }
    assert_eq!(dir.files().open_count(), 0);
}

#[test]
fn topics_that_were_created_anew_do_not_read_the_old_ones_log() {
    let mut bench = Bench::new(small());
    bench.append(&plain(1, 10));
    bench.log.close().unwrap();
    let other = millstream_record::Uuid([8; 16]);
    let dir = std::path::Path::new(DIR);
    let opened = Log::open(&bench.files, dir, other, small(), NOW, Shutdown::Clean, Noted::default());
    assert!(
        matches!(opened, Err(StorageError::TopicIdMismatch { expected, found, .. }) if expected == other && found == TOPIC)
    );
}

#[test]
fn a_log_directory_keeps_its_checkpoints_its_lock_and_its_identity() {
    let disk = Arc::new(MemoryDisk::new());
    let id = millstream_record::Uuid([3; 16]);
    let node = millstream_record::NodeId(4);
    let (dir, _log, _) = open_dir(Arc::new(MemoryDisk::new()), small()).unwrap();
    assert!(matches!(dir.claim("cluster", node, id), Err(StorageError::NoIdentity { .. })), "it has a log");
    let dir = LogDir::open(disk.clone(), Path::new("/logs"), 8).unwrap();
    assert_eq!(dir.claim("cluster", node, id).unwrap().directory_id, id);
    drop(dir);
    let (mut dir, mut log, _) = open_dir(disk.clone(), small()).unwrap();
    assert!(matches!(open_dir(disk.clone(), small()), Err(StorageError::Locked { .. })));
    assert_eq!(dir.claim("cluster", node, TOPIC).unwrap().directory_id, id);
    assert!(dir.claim("another", node, id).is_err());
    log.append(&plain(4, 10), LEADER, NOW).unwrap();
    log.close().unwrap();
    let partition = millstream_record::TopicPartition::new("topic", 0);
    let offsets = |offset| [(partition.clone(), Offset(offset))].into_iter().collect();
    dir.checkpoint(offsets(4), offsets(1), offsets(3), &[]).unwrap();
    dir.mark_clean().unwrap();
    drop((dir, log));
    let (mut dir, log, report) = open_dir(disk.clone(), small()).unwrap();
    assert_eq!(report.rebuilt_indexes, 0, "a clean log is not scanned");
    assert_eq!((log.start_offset(), log.end_offset()), (Offset(1), Offset(4)));
    assert_eq!(dir.checkpointed_high_watermark(&partition), Some(Offset(3)));
    assert_eq!(dir.partitions().unwrap().len(), 1);
    drop(log);
    let deleted = dir.delete_log(&partition, id).unwrap();
    assert_eq!(dir.partitions().unwrap(), []);
    deleted.remove().unwrap();
    drop(dir);
    let (_, log, report) = open_dir(disk, small()).unwrap();
    assert_eq!((log.end_offset(), report.rebuilt_indexes), (Offset(0), 0));
}

#[test]
fn what_is_read_is_what_was_sent_but_for_the_header() {
    let mut bench = Bench::new(small());
    let sent = compressed(Compression::Zstd, &[(NOW, b"a"), (NOW, b"b")]);
    bench.append(&plain(9, 1));
    bench.append(&sent);
    let read = bench.log.read(at(9)).unwrap().bytes;
    assert_eq!(read[16..], sent[16..]);
    assert_eq!(Batches::new(read).count(), 1);
}

/// The directory of a deleted partition is renamed while a flush of it may be under way, and another log may have the name then.
#[test]
fn a_job_of_a_log_that_left_touches_nothing_by_name() {
    let mut bench = Bench::new(small());
    for _ in 0..3 {
        bench.append(&plain(10, 100)); // more than a segment: a snapshot is to be written too
    }
    let (gone, next) = (bench.log.flush_begin().unwrap(), Path::new("/logs/topic-0.gone"));
    bench.log.leave();
    bench.files.disk().rename(Path::new(DIR), next).unwrap();
    bench.log.flush_done(gone.run()).unwrap();
    bench.files.check_online().unwrap();
    assert!(bench.files.disk().list(Path::new(DIR)).is_err(), "nothing was made under the old name");
    assert!(bench.log.flush_begin().is_none());
}

/// A read that was planned from a log does not find the bytes of the next log of its name.
#[test]
fn a_read_of_a_log_that_left_does_not_open_the_files_of_the_next_one() {
    let mut bench = Bench::new(small());
    bench.append(&plain(3, 10));
    bench.log.flush_blocking().unwrap();
    bench.log.close_files();
    let planned = bench.log.read_plan(at(0)).unwrap();
    bench.log.leave();
    let disk = bench.files.disk();
    disk.rename(Path::new(DIR), Path::new("/logs/topic-0.gone")).unwrap();
    let (_, mut next, _) = open_dir(Arc::clone(disk), small()).unwrap();
    next.append(&plain(7, 10), AppendOrigin::Leader { epoch: LeaderEpoch(0) }, NOW).unwrap();
    next.flush_blocking().unwrap();
    let read = planned.run_blocking();
    assert!(matches!(read, Err(StorageError::Changed)), "{read:?}");
}

/// Retention renames the oldest segments one after the other, and a power loss may undo any of that: what is left has gaps, and what
/// follows them was acknowledged.
#[test]
fn a_power_loss_that_undoes_some_of_retention_costs_nothing_behind_it() {
    for undone in [&[0_i64][..], &[10], &[0, 10], &[20], &[0, 20]] {
        let mut bench = Bench::new(LogConfig { retention_bytes: 1, ..small() });
        for _ in 0..4 {
            bench.append(&plain(10, 10));
            bench.log.flush_blocking().unwrap();
            bench.log.roll_now(NOW).unwrap();
        }
        bench.append(&plain(2, 10));
        bench.log.flush_blocking().unwrap();
        let disk = Arc::clone(bench.files.disk());
        assert_eq!(bench.log.retention(NOW, Offset(30)).unwrap(), 3);
        for base in undone {
            for suffix in ["log", "index", "timeindex"] {
                let name = format!("{DIR}/{base:020}.{suffix}");
                let gone = format!("{name}.deleted");
                disk.rename(Path::new(&gone), Path::new(&name)).unwrap();
            }
        }
        // The checkpoints are those of before.
        drop(bench);
        let shutdown = Ended::Crash { recovery_point: Offset(5) };
        let bench = Bench::open(disk, small(), shutdown).unwrap();
        assert_eq!(bench.log.end_offset(), Offset(42), "{undone:?}");
        assert_eq!(read_all(&bench.log, Offset(30)).unwrap().len(), 2, "{undone:?}");
        let expected_start = if undone.contains(&20) { 20 } else { 30 };
        assert_eq!(bench.log.start_offset(), Offset(expected_start), "{undone:?}");
    }
}

/// Recovery reads anew from where a segment begins, and epochs begin anywhere.
#[test]
fn recovery_in_the_middle_of_an_epoch_knows_where_it_began() {
    let mut bench = Bench::new(small());
    let append = |log: &mut Log, epoch| {
        let origin = AppendOrigin::Leader { epoch: LeaderEpoch(epoch) };
        log.append(&plain(2, 10), origin, NOW).unwrap();
    };
    append(&mut bench.log, 0);
    append(&mut bench.log, 1);
    for epoch in [1, 1, 2] {
        bench.log.roll_now(NOW).unwrap();
        append(&mut bench.log, epoch);
    }
    bench.log.flush_blocking().unwrap();
    for recovery_point in 0..=10 {
        let point = Offset(recovery_point);
        bench = bench.reopen(Ended::Crash { recovery_point: point }).unwrap();
        let starts = [(LeaderEpoch(0), Offset(0)), (LeaderEpoch(1), Offset(2)), (LeaderEpoch(2), Offset(8))];
        assert_eq!(bench.log.leader_epochs().starts(), starts, "read anew from {point}");
    }
}

/// Writes three segments to a log of a directory, has what `take` names taken away, and opens it again.
fn open_without(
    ended_in_order: bool,
    noted: bool,
    take: impl Fn(&str) -> bool,
) -> Result<Offset, StorageError> {
    let disk = Arc::new(MemoryDisk::new());
    let (mut dir, mut log, _) = open_dir(disk.clone(), small()).unwrap();
    let at = TopicPartition::new("topic", 0);
    if noted {
        dir.note(std::slice::from_ref(&at)).unwrap();
    }
    for _ in 0..3 {
        log.append(&plain(1, 10), LEADER, NOW).unwrap();
        log.roll_now(NOW).unwrap();
    }
    log.append(&plain(1, 10), LEADER, NOW).unwrap();
    log.flush_blocking().unwrap();
    if ended_in_order {
        log.close().unwrap();
        let points = Offsets::from([(at, log.recovery_point())]);
        dir.checkpoint(points, Offsets::new(), Offsets::new(), &[]).unwrap();
        dir.mark_clean().unwrap();
    }
    drop(dir);
    let path = std::path::Path::new("/logs/topic-0");
    for entry in disk.list(path).unwrap().into_iter().filter(|entry| take(&entry.name)) {
        disk.remove(&path.join(entry.name)).unwrap();
    }
    open_dir(disk, small()).map(|(_, log, _)| log.end_offset())
}

#[test]
fn a_log_that_somebody_emptied_or_shortened_is_no_log() {
    let all = |name: &str| name.starts_with('0');
    let last = |name: &str| name.starts_with("00000000000000000003.");
    let corrupt = |opened| matches!(opened, Err(StorageError::Corrupt { .. }));
    for ended_in_order in [true, false] {
        assert!(corrupt(open_without(ended_in_order, true, all)), "in order: {ended_in_order}");
    }
    assert!(corrupt(open_without(true, true, last)));
    assert_eq!(open_without(true, true, |_| false).unwrap(), Offset(4));
    assert_eq!(open_without(false, true, |_| false).unwrap(), Offset(4));
    assert_eq!(
        open_without(false, false, all).unwrap(),
        Offset(0),
        "a start that was interrupted before it was noted"
    );
}
