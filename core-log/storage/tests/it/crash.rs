//! The power is cut at every change to the disk; what was said to be durable is there, and nothing torn is served.

use std::sync::Arc;

use bytes::Bytes;
use millstream_record::{Batch, LeaderEpoch, Millis, Offset, ProducerId, TopicPartition};
use millstream_storage::{
    AppendOrigin, Disk, Log, LogConfig, LogDir, Offsets, ReadRequest, Result, StorageError,
};

use crate::crash_disk::{CrashDisk, Dice};
use crate::support::*;

/// What was appended, and what of it was said to be durable.
#[derive(Default)]
struct History {
    /// Bytes, first offset and end of each batch.
    batches: Vec<(Bytes, i64, i64)>,
    flushed: i64,
    sequences: [i32; 3],
    open_transaction: [bool; 3],
    /// Producer, first offset and marker of transactions that were aborted.
    aborted: Vec<(i64, i64, i64)>,
    first_offsets: [i64; 3],
}

struct Run {
    dir: LogDir,
    log: Log,
    dice: Dice,
    history: History,
}

fn config() -> LogConfig {
    LogConfig { segment_bytes: 1500, index_interval_bytes: 150, ..LogConfig::default() }
}

impl Run {
    fn step(&mut self, epoch: i32) -> Result<()> {
        let leader = AppendOrigin::Leader { epoch: LeaderEpoch(epoch) };
        let coordinator = AppendOrigin::Coordinator { epoch: LeaderEpoch(epoch) };
        match self.dice.roll(12) {
            0..3 => {
                let batch = plain(1 + self.dice.roll(3) as usize, self.dice.roll(300) as usize);
                self.append(batch, leader)?;
            }
            3..7 => {
                let producer = self.dice.roll(3) as usize;
                let records = 1 + self.dice.roll(3) as usize;
                let transactional = producer > 0;
                let batch =
                    produced(producer as i64, 0, self.history.sequences[producer], records, transactional);
                let at = self.append(batch, leader)?;
                self.history.sequences[producer] += records as i32;
                if transactional && !std::mem::replace(&mut self.history.open_transaction[producer], true) {
                    self.history.first_offsets[producer] = at;
                }
            }
            7 => {
                let producer = 1 + self.dice.roll(2) as usize;
                let commits = self.dice.roll(2) == 0;
                let at = self.append(marker(producer as i64, 0, commits), coordinator)?;
                if std::mem::replace(&mut self.history.open_transaction[producer], false) && !commits {
                    self.history.aborted.push((producer as i64, self.history.first_offsets[producer], at));
                }
            }
            8..10 => self.history.flushed = self.log.flush_blocking()?.0,
            10 => self.checkpoint()?,
            _ if self.dice.roll(3) == 0 => self.truncate()?,
            _ => self.log.roll_now(NOW)?,
        }
        Ok(())
    }

    /// Cuts some of the end off, as a follower does whose leader never had it.
    fn truncate(&mut self) -> Result<()> {
        let end = self.log.end_offset().0;
        let to = end - self.dice.roll(end as u64 / 3 + 1) as i64;
        let to = self.log.cut_point(Offset(to))?.0;
        self.history.flushed = self.history.flushed.min(to);
        self.history.flushed = self
            .history
            .batches
            .iter()
            .rfind(|batch| batch.2 <= self.history.flushed)
            .map_or(0, |batch| batch.2);
        self.dir.lower_recovery_point(&TopicPartition::new("topic", 0), Offset(to))?;
        let end = self.log.truncate_to(Offset(to), NOW)?.0;
        self.history.batches.retain(|batch| batch.2 <= end);
        self.history.aborted.retain(|aborted| aborted.2 < end);
        for id in 0..3 {
            let state = self.log.producer(ProducerId(id as i64));
            self.history.sequences[id] = state.map_or(0, |state| state.last_sequence() + 1);
            let open = state.and_then(|state| state.open_transaction);
            self.history.open_transaction[id] = open.is_some();
            self.history.first_offsets[id] = open.map_or(0, |offset| offset.0);
        }
        Ok(())
    }

    fn append(&mut self, batch: Bytes, origin: AppendOrigin) -> Result<i64> {
        let end = self.log.end_offset().0;
        // The batch may be in the log even when the append fails: the power went while it was written.
        self.history.batches.push((batch.clone(), end, end + records_in(&batch)));
        Ok(self.log.append(&batch, origin, NOW)?.base_offset.0)
    }

    fn checkpoint(&mut self) -> Result<()> {
        if let Some(job) = self.log.epochs_begin() {
            self.log.epochs_done(job.run())?;
        }
        let offsets: Offsets =
            [(TopicPartition::new("topic", 0), self.log.recovery_point())].into_iter().collect();
        self.dir.checkpoint(offsets, Offsets::new(), Offsets::new(), &[])
    }
}

fn records_in(batch: &Bytes) -> i64 {
    i64::from(Batch::parse(batch.clone()).unwrap().header().last_offset_delta) + 1
}

/// Runs the steps that `seed` decides until the power is cut; gives what was done.
fn run(disk: &CrashDisk, seed: u64, steps: usize) -> History {
    let Ok((mut dir, log, _)) = open_dir(Arc::new(disk.clone()), config()) else { return History::default() };
    if dir.note(&[TopicPartition::new("topic", 0)]).is_err() {
        return History::default();
    }
    let mut run = Run { dir, log, dice: Dice(seed), history: History::default() };
    for step in 0..steps {
        if run.step(step as i32 / 10).is_err() {
            break;
        }
    }
    run.history
}

/// Opens what is left and compares it with what was done.
fn check(disk: CrashDisk, history: &History, what: &str) {
    let (_, mut log, _) =
        open_dir(Arc::new(disk), config()).unwrap_or_else(|error| panic!("{what}: {error}"));
    let end = log.end_offset().0;
    assert!(end >= history.flushed, "{what}: {} was durable, the log ends at {end}", history.flushed);
    let found = read_all(&log, Offset(0)).unwrap_or_else(|error| panic!("{what}: {error}"));
    for (batch, (bytes, base, next)) in found.iter().zip(&history.batches) {
        let header = batch.header();
        assert_eq!((header.base_offset.0, header.next_offset().0), (*base, *next), "{what}");
        assert_eq!(batch.bytes()[16..], bytes[16..], "{what}");
    }
    assert!(found.len() <= history.batches.len(), "{what}: a batch that nobody sent");
    check_aborted(&log, history, what);
    // The last batch of each producer is known as a duplicate, unless it is of a transaction that ended.
    for id in 0..3 {
        let of_producer =
            |batch: &&Batch| batch.header().producer_id.0 == id && batch.header().base_sequence >= 0;
        let last: Vec<&Batch> = found.iter().filter(of_producer).collect();
        let marker = found
            .iter()
            .rfind(|batch| batch.header().producer_id.0 == id && batch.header().attributes.is_control());
        if let Some(batch) = last.last() {
            let ended = marker.is_some_and(|marker| marker.header().base_offset > batch.header().base_offset);
            match log.append(batch.bytes(), LEADER, NOW) {
                Ok(again) if !ended => {
                    assert!(again.duplicate, "{what}: producer {id}");
                    assert_eq!(again.base_offset, batch.header().base_offset, "{what}");
                }
                Err(StorageError::SequenceUsed { .. }) if ended => {}
                other => panic!("{what}: producer {id}, ended: {ended}: {other:?}"),
            }
        }
        let known = log.producer(ProducerId(id)).map_or(-1, |state| state.last_sequence());
        assert_eq!(
            known,
            last.last().map_or(-1, |batch| batch.header().last_sequence()),
            "{what}: producer {id}"
        );
    }
    let epochs: Vec<i32> = log.leader_epochs().starts().iter().map(|(epoch, _)| epoch.0).collect();
    let mut expected: Vec<i32> = found.iter().map(|batch| batch.header().leader_epoch.0).collect();
    expected.dedup();
    assert_eq!(epochs, expected, "{what}");
}

fn check_aborted(log: &Log, history: &History, what: &str) {
    let mut next = 0;
    while next < log.end_offset().0 {
        let slices = log.read(ReadRequest { with_aborted: true, max_bytes: 500, ..at(next) }).unwrap();
        let (from, to) = (next, slices.next_offset.0);
        let found: Vec<_> =
            slices.aborted.iter().map(|a| (a.producer_id.0, a.first_offset.0, a.last_offset.0)).collect();
        let overlap = |a: &&(i64, i64, i64)| a.2 >= from && a.1 < to && a.2 < log.end_offset().0;
        let mut expected: Vec<_> = history.aborted.iter().filter(overlap).copied().collect();
        expected.sort_by_key(|aborted| aborted.1);
        assert_eq!(found, expected, "{what}: read of {from}..{to}");
        next = to;
    }
}

#[test]
fn whatever_was_flushed_is_there_after_a_power_cut_at_any_change() {
    const STEPS: usize = 60;
    for seed in 0..6 {
        let whole = CrashDisk::default();
        run(&whole, seed, STEPS);
        let changes = whole.changes();
        assert!(changes > 60, "only {changes} changes");
        for cut in 0..changes {
            let disk = CrashDisk::default();
            disk.cut_after(cut);
            let history = run(&disk, seed, STEPS);
            for survivor in 0..3 {
                let what = format!("seed {seed}, cut at change {cut}, survivor {survivor}");
                check(disk.after_power_loss(seed * 1000 + survivor), &history, &what);
            }
        }
    }
}

/// Three segments, that then begin anew at `start`; false where the power was cut before that was done.
fn begin_anew(disk: &CrashDisk, start: i64) -> Result<()> {
    let at = [TopicPartition::new("topic", 0)];
    let (mut dir, mut log, _) = open_dir(Arc::new(disk.clone()), config())?;
    dir.note(&at)?;
    for _ in 0..3 {
        log.append(&plain(1, 10), LEADER, NOW)?;
        log.roll_now(NOW)?;
    }
    log.flush_blocking()?;
    dir.checkpoint(
        at.iter().map(|at| (at.clone(), Offset(3))).collect(),
        Offsets::new(),
        Offsets::new(),
        &[],
    )?;
    dir.begin_anew(&at)?;
    log.truncate_fully_and_start_at(Offset(start), NOW)
}

#[test]
fn a_log_that_begins_anew_opens_after_a_power_cut_at_any_change() {
    for start in [0, 1, 3, 50] {
        let whole = CrashDisk::default();
        begin_anew(&whole, start).unwrap();
        for cut in 0..=whole.changes() {
            let disk = CrashDisk::default();
            disk.cut_after(cut);
            let begun = begin_anew(&disk, start).is_ok();
            for survivor in 0..60 {
                let what = format!("start {start}, cut at change {cut}, survivor {survivor}");
                let opened = open_dir(Arc::new(disk.after_power_loss(survivor)), config());
                let (_, log, _) = opened.unwrap_or_else(|error| panic!("{what}: {error}"));
                assert!(!begun || log.end_offset() == Offset(start), "{what}");
            }
        }
    }
}

#[test]
fn a_killed_process_loses_nothing_that_was_appended() {
    for seed in 100..120 {
        let disk = CrashDisk::default();
        let mut history = run(&disk, seed, 60);
        history.flushed = history.batches.last().map_or(0, |batch| batch.2);
        check(disk, &history, &format!("seed {seed}"));
    }
}

/// What the killed process had not synced of names and bytes, recovery has to: later flushes take it for done.
#[test]
fn what_is_flushed_after_a_kill_is_there_after_a_power_cut() {
    // Killed while it makes its first files, or later between two steps.
    for (seed, kill) in (0..40).map(|kill| (400, Some(kill))).chain((300..340).map(|seed| (seed, None))) {
        let disk = CrashDisk::default();
        kill.into_iter().for_each(|changes| disk.cut_after(changes));
        let mut history = run(&disk, seed, 40);
        disk.revive();
        let (dir, log, _) = open_dir(Arc::new(disk.clone()), config()).unwrap();
        history.batches.retain(|batch| batch.2 <= log.end_offset().0); // but for one that it died in
        let mut again = Run { dir, log, dice: Dice(seed), history };
        let leader = AppendOrigin::Leader { epoch: LeaderEpoch(4) };
        again.append(plain(1, 10), leader).unwrap();
        again.history.flushed = again.log.flush_blocking().unwrap().0;
        history = again.history;
        for survivor in 0..4 {
            check(
                disk.after_power_loss(seed * 10 + survivor),
                &history,
                &format!("seed {seed}, killed at {kill:?}, survivor {survivor}"),
            );
        }
    }
}

#[test]
fn recovery_is_cut_too() {
    for seed in 200..206 {
        let first = CrashDisk::default();
        first.cut_after(90);
        let history = run(&first, seed, 60);
        for cut in 0..25 {
            let second = first.after_power_loss(seed);
            second.cut_after(cut);
            let opened = open_dir(Arc::new(second.clone()) as Arc<dyn Disk>, config());
            drop(opened);
            check(
                second.after_power_loss(seed + cut as u64),
                &history,
                &format!("seed {seed}, recovery cut at {cut}"),
            );
        }
    }
}

#[test]
fn retention_never_takes_the_last_name_that_tells_where_the_log_ends() {
    for seed in 0..64 {
        let disk = CrashDisk::default();
        let (_dir, mut log, _) = open_dir(Arc::new(disk.clone()), config()).unwrap();
        let segments = 1 + seed as usize % 3;
        for _ in 0..segments {
            log.roll_now(NOW).unwrap();
            log.append(&plain(5, 10), AppendOrigin::Leader { epoch: LeaderEpoch(0) }, NOW).unwrap();
        }
        let end = log.flush_blocking().unwrap();
        log.set_config(LogConfig { retention_ms: 0, ..config() });
        // The last segment is rolled and deleted in one go: nobody has flushed the new one's name before.
        assert_eq!(log.retention(Millis(NOW.0 + 1), end).unwrap(), segments);
        let after: Arc<dyn Disk> = Arc::new(disk.after_power_loss(seed));
        let (_dir, log, _) = open_dir(after, config()).unwrap();
        assert_eq!(log.end_offset(), end, "seed {seed}: offsets would be given out a second time");
    }
}
