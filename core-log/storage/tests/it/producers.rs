//! What a log knows of producers and their transactions: duplicates, what is open, what was aborted; whatever restarts, cuts and retention
//! take.

use millstream_record::{LeaderEpoch, Offset, ProducerId};
use millstream_storage::{AppendOrigin, LogConfig, ReadRequest, StorageError};

use crate::support::*;

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
