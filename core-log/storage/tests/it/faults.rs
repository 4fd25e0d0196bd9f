//! Disks that fail: nothing acknowledged is lost, nothing damaged is served, and the log says what is wrong.

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use millstream_record::{Offset, TopicPartition};
use millstream_storage::disk::{Fault, Op};
use millstream_storage::{Disk, FaultyDisk, LogConfig, LogDir, MemoryDisk, Offsets, OpenMode, StorageError};

use proptest::prelude::*;

use crate::support::*;

fn faulty(config: LogConfig) -> (FaultyDisk, Bench) {
    let disk = FaultyDisk::new(Arc::new(MemoryDisk::new()));
    let bench = Bench::on(Arc::new(disk.clone()), config);
    (disk, bench)
}

fn file(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

fn flip(disk: &dyn Disk, path: &Path, at: u64) {
    let file = disk.open(path, OpenMode::Write).unwrap();
    let mut byte = [0];
    assert_eq!(file.read_at(&mut byte, at).unwrap(), 1);
    file.write_at(&[IoSlice::new(&[byte[0] ^ 4])], at).unwrap();
}

const LOG: &str = "00000000000000000000.log";

/// Else a smaller batch might be taken after a larger one of the same producer was not.
#[test]
fn a_write_that_fails_takes_the_directory_offline_and_leaves_no_trace() {
    for (fault, name) in [
        (Fault::Error, ".log"),
        (Fault::Full, ".log"),
        (Fault::Torn, ".log"),
        (Fault::Full, ".index"),
        (Fault::Full, ".timeindex"),
    ] {
        let (disk, mut bench) = faulty(small());
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = Arc::clone(&told);
        bench.files.on_failure(move |offline| tell.lock().unwrap().push(offline.to_string()));
        bench.append(&produced(1, 0, 0, 2, false));
        disk.arm(Op::Write, name, 0, fault);
        let (end, failed) = loop {
            let end = bench.log.end_offset();
            let sequence = i32::try_from(end.0).unwrap();
            match bench.log.append(&produced(1, 0, sequence, 2, false), LEADER, NOW) {
                Ok(_) => assert!(end.0 < 1000, "{fault:?} {name}: never struck"),
                Err(failed) => break (end, failed),
            }
        };
        assert!(failed.is_fatal(), "{fault:?} {name}: {failed:?}");
        assert_eq!(bench.log.end_offset(), end);
        let smaller = bench.log.append(&produced(2, 0, 7, 1, false), LEADER, NOW);
        assert!(smaller.unwrap_err().is_fatal(), "{fault:?} {name}");
        assert_eq!(*told.lock().unwrap(), [failed.to_string()], "once");
        let bench = bench.reopen(Ended::Crash { recovery_point: Offset(0) }).unwrap();
        assert_eq!(bench.report.cut, None, "{fault:?} {name}: no stale bytes behind the log's end");
        assert_eq!(bench.log.end_offset(), end);
    }
}

#[test]
fn a_failed_sync_is_fatal_and_never_tried_again() {
    for (op, suffix) in
        [(Op::Sync, ".log"), (Op::SyncDir, "topic-0"), (Op::Sync, ".snapshot"), (Op::Sync, ".index")]
    {
        let (disk, mut bench) = faulty(small());
        bench.append(&plain(1, 10));
        bench.log.flush_blocking().unwrap();
        let flushed = bench.log.flushed_offset();
        bench.log.roll_now(NOW).unwrap();
        bench.append(&plain(1, 10));
        disk.arm(op, suffix, 0, Fault::Error);
        assert!(bench.log.flush_blocking().unwrap_err().is_fatal(), "{op:?} {suffix}");
        assert_eq!((disk.pending(), bench.log.flushed_offset()), (0, flushed));
        assert!(bench.log.append(&plain(1, 10), LEADER, NOW).unwrap_err().is_fatal());
        assert!(bench.log.read(at(0)).unwrap_err().is_fatal());
        assert!(bench.log.close().unwrap_err().is_fatal());
        assert_eq!(bench.log.flushed_offset(), flushed);
    }
}

#[test]
fn a_flipped_bit_is_an_error_with_its_place_and_never_data() {
    for reopen in [false, true] {
        let mut bench = Bench::new(small());
        for _ in 0..9 {
            bench.append(&plain(1, 100));
        }
        let size = plain(1, 100).len() as u64;
        bench.log.flush_blocking().unwrap();
        bench.log.close().unwrap();
        flip(&**bench.files.disk(), &file(LOG), 2 * size + 90);
        if reopen {
            bench = Bench::open(Arc::clone(bench.files.disk()), small(), Ended::Clean).unwrap();
        }
        assert_eq!(
            bench.spans(millstream_storage::ReadRequest { max_bytes: 2 * size as usize, ..at(0) }).len(),
            2
        );
        assert_eq!(bench.spans(at(0)), [(0, 1), (1, 2)], "what lies before is served");
        match bench.log.read(at(2)) {
            Err(StorageError::Corrupt { path, position, .. }) => {
                assert_eq!((path, position), (file(LOG), 2 * size))
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(bench.spans(at(3)).len(), 6, "what lies behind is still there");
    }
    let (disk, mut bench) = faulty(small());
    bench.append(&plain(3, 100));
    disk.arm(Op::Read, ".log", 0, Fault::BitFlip);
    assert!(matches!(bench.log.read(at(0)), Err(StorageError::Corrupt { .. })), "flipped on the way");
    assert_eq!(bench.spans(at(0)), [(0, 3)]);
}

#[test]
fn a_torn_tail_is_cut_and_a_corrupt_middle_is_reported() {
    let fill = || {
        let mut bench = Bench::new(small());
        for _ in 0..30 {
            bench.append(&plain(1, 100));
        }
        bench.log.flush_blocking().unwrap();
        assert!(bench.log.segment_bases().len() > 2);
        bench
    };
    let size = plain(1, 100).len() as u64;
    // Below the recovery point.
    let bench = fill();
    flip(&**bench.files.disk(), &file(LOG), 3 * size + 70);
    match bench.reopen(Ended::Crash { recovery_point: Offset(4) }).map(|bench| bench.report) {
        Err(StorageError::Corrupt { path, position, .. }) => {
            assert_eq!((path, position), (file(LOG), 3 * size))
        }
        other => panic!("{other:?}"),
    }
    // The same place, never durable: all behind goes, and the report says that something good was there.
    let bench = fill();
    flip(&**bench.files.disk(), &file(LOG), 3 * size + 70);
    let mut bench = bench.reopen(Ended::Crash { recovery_point: Offset(3) }).unwrap();
    let cut = bench.report.cut.clone().unwrap();
    assert_eq!((cut.path, cut.position, cut.bytes), (file(LOG), 3 * size, 27 * size));
    assert!(cut.good_batch_behind);
    assert_eq!((bench.log.end_offset(), bench.log.segment_bases()), (Offset(3), vec![Offset(0)]));
    assert_eq!(bench.append(&plain(1, 5)), 3);
    // Half a batch at the end.
    let disk = Arc::clone(bench.files.disk());
    let log = disk.open(&file(LOG), OpenMode::Write).unwrap();
    let end = log.len().unwrap();
    log.write_at(&[IoSlice::new(&plain(1, 50)[..80])], end).unwrap();
    let bench = bench.reopen(Ended::Crash { recovery_point: Offset(4) }).unwrap();
    let cut = bench.report.cut.clone().unwrap();
    assert_eq!((cut.position, cut.bytes, cut.good_batch_behind), (end, 80, false));
    assert_eq!(log.len().unwrap(), end);
    assert_eq!(bench.spans(at(0)).len(), 4);
}

#[test]
fn a_stale_batch_behind_a_torn_tail_is_not_taken_for_a_new_one() {
    let mut bench = Bench::new(small());
    bench.append(&plain(2, 10));
    let stale = bench.log.read(at(0)).unwrap().bytes; // offset 0 again
    let disk = Arc::clone(bench.files.disk());
    let log = disk.open(&file(LOG), OpenMode::Write).unwrap();
    log.write_at(&[IoSlice::new(&stale)], stale.len() as u64).unwrap();
    let bench = bench.reopen(Ended::Crash { recovery_point: Offset(2) }).unwrap();
    assert_eq!(bench.log.end_offset(), Offset(2));
    assert_eq!(bench.report.cut.unwrap().position, stale.len() as u64);
}

#[test]
fn a_segment_that_was_lost_in_the_middle_is_noticed() {
    let fill = || {
        let mut bench = Bench::new(small());
        for _ in 0..30 {
            bench.append(&plain(1, 100));
        }
        bench.log.flush_blocking().unwrap();
        let second = bench.log.segment_bases()[1];
        let path = file(&format!("{:020}.log", second.0));
        bench.files.disk().open(&path, OpenMode::Write).unwrap().truncate(0).unwrap();
        (bench, second)
    };
    let (bench, second) = fill();
    let bench = bench.reopen(Ended::Crash { recovery_point: Offset(1) }).unwrap();
    assert_eq!(bench.log.end_offset(), second);
    let (bench, second) = fill();
    let durable = bench.reopen(Ended::Crash { recovery_point: second.plus(1) });
    assert!(matches!(durable, Err(StorageError::Corrupt { .. })), "{:?}", durable.map(|bench| bench.report));
}

#[test]
fn indexes_are_hints_and_are_made_anew_where_they_are_wrong() {
    let fill = || {
        let mut bench = Bench::new(small());
        for n in 0..40 {
            bench.append(&produced(1, 0, n, 1, false));
        }
        bench.log.close().unwrap();
        bench
    };
    let expected: Vec<i64> = (0..40).collect();
    type Damage = fn(&dyn Disk, &Path);
    let damage: [(&str, Damage); 4] = [
        ("removed", |disk, path| disk.remove(path).unwrap()),
        ("cut within an entry", |disk, path| disk.open(path, OpenMode::Write).unwrap().truncate(5).unwrap()),
        ("zeros", |disk, path| {
            let file = disk.open(path, OpenMode::Write).unwrap();
            file.truncate(0).unwrap();
            file.truncate(2400).unwrap();
        }),
        ("positions that are no batches", |disk, path| {
            let file = disk.open(path, OpenMode::Write).unwrap();
            for at in 0..file.len().unwrap() / 8 {
                flip(disk, path, at * 8 + 7);
            }
        }),
    ];
    for (name, hurt) in damage {
        for kind in ["index", "timeindex"] {
            let bench = fill();
            hurt(&**bench.files.disk(), &file(&format!("00000000000000000000.{kind}")));
            let bench = bench.reopen(Ended::Clean).unwrap();
            let found: Vec<i64> = expected.iter().map(|&offset| bench.spans(at(offset))[0].0).collect();
            assert_eq!(found, expected, "{kind} {name}");
            let by_time = bench.log.offset_for_timestamp(NOW).unwrap().run_blocking().unwrap().unwrap();
            assert_eq!(by_time.offset, Offset(0), "{kind} {name}");
        }
    }
}

#[test]
fn a_snapshot_that_is_broken_or_ahead_of_the_log_is_not_believed() {
    let mut bench = Bench::new(small());
    for n in 0..10 {
        bench.append(&produced(1, 0, n, 1, false));
    }
    bench.log.close().unwrap();
    let disk = Arc::clone(bench.files.disk());
    let path = file("00000000000000000010.snapshot");
    let copy = |to: &str| {
        let from = disk.open(&path, OpenMode::Read).unwrap();
        let mut bytes = vec![0; from.len().unwrap() as usize];
        from.read_at(&mut bytes, 0).unwrap();
        disk.open(&file(to), OpenMode::Replace).unwrap().write_at(&[IoSlice::new(&bytes)], 0).unwrap();
    };
    copy("00000000000000000099.snapshot");
    flip(&*disk, &path, 20);
    let bench = Bench::open(disk.clone(), small(), Ended::Clean).unwrap();
    assert_eq!(bench.report.replayed_batches, 10);
    assert_eq!(bench.log.producers()[0].1.last_sequence(), 9);
    let names = disk.list(Path::new(DIR)).unwrap();
    assert!(!names.iter().any(|entry| entry.name.contains("99.snapshot")));
}

/// Everything that a log derives from, in one directory: several segments, producers, aborted transactions.
fn varied() -> Bench {
    let mut bench = Bench::new(small());
    for n in 0..25 {
        bench.append(&plain(1 + n as usize % 3, 40));
        bench.append(&produced(1, 0, n, 1, false));
        bench.append(&produced(2, 0, n, 1, true));
        bench.log.append(&marker(2, 0, n % 2 == 0), COORDINATOR, NOW).unwrap();
    }
    bench.log.close().unwrap();
    bench
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens to any file: opening and reading give the batches that were written, or an error, and never panic.
    #[test]
    fn damage_to_any_file_is_never_served(
        which in 0..1000usize,
        place in 0..1000u64,
        damage in prop_oneof![
            proptest::collection::vec(any::<u8>(), 1..40).prop_map(Some),
            Just(None),
        ],
        recovery_point in proptest::option::of(0..120i64),
    ) {
        let bench = varied();
        let written = read_all(&bench.log, Offset(0)).unwrap();
        let disk = Arc::clone(bench.files.disk());
        let names = disk.list(Path::new(DIR)).unwrap();
        let name = &names[which % names.len()].name;
        let file = disk.open(&file(name), OpenMode::Write).unwrap();
        let position = file.len().unwrap() * place / 1000;
        match &damage {
            Some(bytes) => file.write_at(&[IoSlice::new(bytes)], position).unwrap(),
            None => file.truncate(position).unwrap(),
        }
        let shutdown = recovery_point.map_or(Ended::Clean, |point| Ended::Crash { recovery_point: Offset(point) });
        let Ok(bench) = Bench::open(disk, small(), shutdown) else { return Ok(()) };
        for batch in &written {
            let offset = batch.header().base_offset;
            let request = millstream_storage::ReadRequest { max_bytes: 1, with_aborted: true, ..at(offset.0) };
            if let Ok(slices) = bench.log.read(request)
                && offset < bench.log.end_offset()
                // A closed file that became shorter by whole batches looks like one that was compacted.
                && (damage.is_some() || spans(&slices.bytes)[0].0 == offset.0)
            {
                // Of the bytes that the CRC does not cover, the leader epoch is the one whose every value is possible.
                prop_assert_eq!(&slices.bytes[..12], &batch.bytes()[..12], "{} at {}", name, position);
                prop_assert_eq!(&slices.bytes[16..], &batch.bytes()[16..], "{} at {}", name, position);
            }
        }
        if let Some(plan) = bench.log.offset_for_timestamp(NOW) {
            drop(plan.run_blocking());
        }
    }
}

#[test]
fn a_disk_that_cannot_be_read_gives_its_error_and_recovers() {
    let (disk, mut bench) = faulty(small());
    bench.append(&plain(1, 10));
    disk.arm(Op::Read, ".log", 0, Fault::Error);
    assert!(matches!(bench.log.read(at(0)), Err(StorageError::Io { .. })));
    assert_eq!(bench.spans(at(0)), [(0, 1)]);
}

/// A directory that notes 50 for its one log; the disk then fails at one step of noting 100, and at one of what comes after.
fn noted(op: Op, of: &str) -> (FaultyDisk, LogDir, TopicPartition) {
    let disk = FaultyDisk::new(Arc::new(MemoryDisk::new()));
    let mut dir = LogDir::open(Arc::new(disk.clone()), Path::new("/data"), 10).unwrap();
    let at = TopicPartition::new("topic", 0);
    let note = |dir: &mut LogDir, end: i64| {
        let offsets = || Offsets::from([(at.clone(), Offset(end))]);
        dir.checkpoint(offsets(), offsets(), offsets(), &[])
    };
    note(&mut dir, 50).unwrap();
    disk.arm(op, of, 0, Fault::Error);
    assert!(note(&mut dir, 100).is_err(), "{op:?} {of}");
    disk.arm(op, of, 0, Fault::Error);
    (disk, dir, at)
}

const RECOVERY_POINTS: &str = "recovery-point-offset-checkpoint";
const STEPS: [(Op, &str); 8] = [
    (Op::Open, "recovery-point-offset-checkpoint.tmp"),
    (Op::Write, "recovery-point-offset-checkpoint.tmp"),
    (Op::Sync, "recovery-point-offset-checkpoint.tmp"),
    (Op::Rename, "recovery-point-offset-checkpoint.tmp"),
    (Op::SyncDir, "data"),
    (Op::Write, "log-start-offset-checkpoint.tmp"),
    (Op::Rename, "replication-offset-checkpoint.tmp"),
    (Op::Sync, "replication-offset-checkpoint.tmp"),
];

/// What a file holds of the log.
fn on_disk(disk: &dyn Disk, name: &str) -> Option<Offset> {
    let file = disk.open(&Path::new("/data").join(name), OpenMode::Read).unwrap();
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    let read = file.read_at(&mut bytes, 0).unwrap();
    let text = String::from_utf8(bytes[..read].to_vec()).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("topic 0 "))?;
    Some(Offset(line.parse().unwrap()))
}

#[test]
fn a_log_is_not_cut_below_a_recovery_point_that_a_failed_checkpoint_may_have_left() {
    for (op, of) in STEPS {
        let (disk, mut dir, at) = noted(op, of);
        let tries = (0..3).map(|_| dir.lower_recovery_point(&at, Offset(60)).is_ok()).collect::<Vec<_>>();
        assert!(tries[2], "{op:?} {of}: {tries:?}");
        let found = on_disk(&disk, RECOVERY_POINTS).unwrap();
        assert!(found <= Offset(60), "{op:?} {of}: the next start would miss all from 60 to {found}");
    }
}

#[test]
fn a_deleted_log_leaves_no_notes_to_the_next_of_its_name() {
    for (op, of) in STEPS {
        let (disk, mut dir, at) = noted(op, of);
        disk.create_dir(&dir.log_path(&at)).unwrap();
        let id = |n: u8| millstream_record::Uuid([n; 16]);
        let gone = (0..3).find_map(|n| dir.delete_log(&at, id(n)).ok());
        gone.unwrap_or_else(|| panic!("{op:?} {of}")).remove().unwrap();
        for name in [RECOVERY_POINTS, "log-start-offset-checkpoint", "replication-offset-checkpoint"] {
            assert_eq!(on_disk(&disk, name), None, "{op:?} {of}: {name}");
        }
    }
}

#[test]
fn a_log_that_cannot_be_noted_takes_the_directory_offline() {
    for (op, of) in &STEPS[..5] {
        let disk = FaultyDisk::new(Arc::new(MemoryDisk::new()));
        let mut dir = LogDir::open(Arc::new(disk.clone()), Path::new("/data"), 10).unwrap();
        disk.arm(*op, of, 0, Fault::Error);
        let noted = dir.note(&[TopicPartition::new("topic", 0)]);
        assert!(matches!(noted, Err(StorageError::Offline { .. })), "{op:?} {of}: {noted:?}");
        assert!(dir.files().check_online().is_err());
    }
}
