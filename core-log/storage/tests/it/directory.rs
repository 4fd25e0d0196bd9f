//! Logs among others: their jobs for the flushers, their files and names, and the directory that holds them.

use std::path::Path;
use std::sync::Arc;

use millstream_record::{LeaderEpoch, Offset, TopicPartition};
use millstream_storage::{
    AppendOrigin, Disk, Durability, Log, LogDir, MemoryDisk, Noted, Offsets, Shutdown, StorageError,
};

use crate::support::*;

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
