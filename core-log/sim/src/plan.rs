//! What a seed decides before the world begins: who works, on what, and what goes wrong when.

use std::time::Duration;

use crate::random::Random;
use crate::workload::cast::Cast;
use crate::workload::group::Habits;

/// A fault that the schedule lets happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// kill -9 of the broker; the page cache stays.
    Crash,
    /// The broker dies inside of the n-th disk call from now.
    CrashInside(u64),
    /// The machine loses power: only synced bytes and names stay, and a seeded part of the rest.
    PowerLoss,
    /// Power goes inside of the n-th disk call from now.
    PowerLossInside(u64),
    /// Power goes inside of the n-th disk call after retention has begun to take a segment away.
    PowerLossInRetention(u64),
    /// SIGSTOP for so long.
    Pause(Duration),
    /// One connection is cut.
    CutConnection,
    /// Blocking work takes up to so long from now on, until the next restart.
    SlowDisk(Duration),
    /// The next sync fails and drops its pages; the broker must take itself offline, and is then restarted.
    SyncError,
    /// Writes fail as on a full disk until the next restart.
    FullDisk,
    /// Reads fail once in n calls until the next restart.
    ReadErrors(u64),
    /// The disk is slow, all connections are cut so that every client sends again what is not durable yet, and after this
    /// the power goes.
    RetryThenPowerLoss(Duration),
    /// The next sync fails and drops its pages, the process is started again on the same page cache, and later the power goes.
    SyncErrorThenCrash,
    /// An orderly shutdown and a start, which believes what the shutdown left; the power goes this long after it.
    CleanRestartThenPowerLoss(Duration),
    /// Two power losses, the second one this long after the boot that follows the first.
    PowerLossAgain(Duration),
}

/// One world.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Partitions of the topic that everybody writes to.
    pub partitions: u32,
    /// Idempotent producers with acks=all.
    pub idempotent: u32,
    /// Producers with acks=1.
    pub unsafe_producers: u32,
    /// Transactional producers.
    pub transactional: u32,
    /// Members of the consumer group.
    pub members: u32,
    /// Whether a topic with short retention is written beside.
    pub retention: bool,
    /// Its producer rests for so long that retention takes all that there is.
    pub rests: bool,
    /// Whether topics come and go beside.
    pub topic_changes: bool,
    /// Records that each producer sends.
    pub records: u64,
    /// `log.roll.ms`: short, so that segments roll.
    pub roll_ms: u64,
    /// Readers that search by offset and time.
    pub wanderers: u32,
    /// `log.index.interval.bytes`: short, so that small logs have an index.
    pub index_interval_bytes: u64,
    /// `log.flush.offset.checkpoint.interval.ms`.
    pub checkpoint_ms: u64,
    /// Faults, each after a wait.
    pub faults: Vec<(Duration, Fault)>,
    /// Bits are flipped on the stopped node's disk: then data may be refused, never wrong.
    pub flip_bits: u64,
}

impl Plan {
    /// Who works in it.
    pub fn cast(&self) -> Cast {
        Cast {
            partitions: self.partitions,
            records: self.records,
            idempotent: self.idempotent,
            unsafe_producers: self.unsafe_producers,
            transactional: Some(self.transactional),
            counting: false,
            short: self.retention.then_some(self.rests),
            topic_changes: self.topic_changes,
            operated: None,
            wanderers: self.wanderers,
            members: self.members,
            habits: Habits::default(),
            settings: None,
        }
    }

    /// The plan of a seed.
    pub fn of(random: &mut Random) -> Self {
        let flip_bits = if random.one_in(8) { 1 + random.below(3) } else { 0 };
        let count = random.below(6);
        let faults = (0..count).map(|_| (wait(random), fault(random))).collect();
        let mut plan = Self {
            partitions: 1 + random.below(3) as u32,
            idempotent: 1 + random.below(2) as u32,
            unsafe_producers: random.below(2) as u32,
            transactional: random.below(3) as u32,
            members: random.below(3) as u32,
            retention: random.one_in(2),
            rests: false,
            topic_changes: random.one_in(4),
            records: 20 + random.below(80),
            roll_ms: 50 + random.below(3_000),
            wanderers: 0,
            index_interval_bytes: 4096,
            checkpoint_ms: 60_000,
            faults,
            flip_bits,
        };
        plan.add_later_ideas(random);
        plan
    }

    /// What came to the simulator later is drawn last, so that a seed's older part stays as it was.
    fn add_later_ideas(&mut self, random: &mut Random) {
        self.wanderers = random.below(3) as u32;
        self.index_interval_bytes = 100 + random.below(3_000);
        self.checkpoint_ms = 100 + random.below(5_000);
        for fault in [
            Fault::RetryThenPowerLoss(Duration::from_millis(50 + random.below(400))),
            Fault::PowerLossAgain(Duration::from_millis(random.below(200))),
            Fault::SyncErrorThenCrash,
            Fault::CleanRestartThenPowerLoss(Duration::from_millis(100 + random.below(1_500))),
        ] {
            if random.one_in(4) {
                let at = random.below(self.faults.len() as u64 + 1) as usize;
                self.faults.insert(at, (wait(random), fault));
            }
        }
        self.rests = self.retention && random.one_in(2);
        // Most of these find nothing to delete, or a name that is durable already.
        for _ in 0..if self.rests { 3 } else { 0 } {
            let at = random.below(self.faults.len() as u64 + 1) as usize;
            self.faults.insert(at, (wait(random), Fault::PowerLossInRetention(1 + random.below(4))));
        }
    }
}

fn wait(random: &mut Random) -> Duration {
    Duration::from_millis(20 + random.below(1_500))
}

fn fault(random: &mut Random) -> Fault {
    match random.below(13) {
        0 => Fault::Crash,
        1 | 2 => Fault::CrashInside(1 + random.below(60)),
        3 | 4 => Fault::PowerLoss,
        5 | 6 => Fault::PowerLossInside(1 + random.below(60)),
        7 => Fault::Pause(Duration::from_millis(100 + random.below(8_000))),
        8 => Fault::CutConnection,
        9 => Fault::SlowDisk(Duration::from_millis(1 + random.below(500))),
        10 => Fault::SyncError,
        11 => Fault::FullDisk,
        _ => Fault::ReadErrors(2 + random.below(30)),
    }
}
