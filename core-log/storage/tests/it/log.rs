//! What a log promises, case by case: what is appended, read, found, kept and cut.

use std::path::Path;
use std::sync::Arc;

use millstream_record::{
    BatchOptions, Batches, Compression, LeaderEpoch, Millis, Offset, ProducerId, TimestampType,
};
use millstream_storage::{AppendOrigin, Log, LogConfig, ReadRequest, StorageError, validate_for_append};

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
fn what_is_read_is_what_was_sent_but_for_the_header() {
    let mut bench = Bench::new(small());
    let sent = compressed(Compression::Zstd, &[(NOW, b"a"), (NOW, b"b")]);
    bench.append(&plain(9, 1));
    bench.append(&sent);
    let read = bench.log.read(at(9)).unwrap().bytes;
    assert_eq!(read[16..], sent[16..]);
    assert_eq!(Batches::new(read).count(), 1);
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
