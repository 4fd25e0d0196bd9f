//! What a seed decides of a cluster's world before it begins.

use std::time::Duration;

use super::guest::Guest;
use crate::random::Random;
use crate::workload::cast::Cast;
use crate::workload::group::Habits;
use crate::workload::settings::Bounds;

/// Nodes that every world begins with.
pub const NODES: u16 = 3;
/// Most faults of one world.
const FAULTS_MAX: u64 = 7;

/// Which node a fault strikes; it is looked up when the fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The node with this number.
    Number(u16),
    /// The leader of partition 0 of the topic that everybody writes to.
    Leader,
    /// The active controller.
    Controller,
}

/// A fault that the schedule lets happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// kill -9; the page cache stays.
    Crash(Who),
    /// The node dies inside of the n-th disk call from now; with the flag the power goes.
    DieInside(Who, u64, bool),
    /// The node loses power.
    PowerLoss(Who),
    /// Every node loses power.
    AllLosePower,
    /// Blocking work of every node takes up to so long; then, after a while, every node loses power, and much is not synced.
    SlowThenDark(Duration, Duration),
    /// The node loses its disk, and comes back with an empty one.
    Wipe(Who),
    /// Bits of the topic that everybody writes to are flipped on the disk of a node that was killed, or lost power. It works with that
    /// until all is mended; then it gets a new disk.
    Rot(Who, bool),
    /// The node's disk is full; later there is room again, and it is started anew.
    FullDisk(Who),
    /// The node's wall clock jumps to so many milliseconds before or behind the others'.
    ClockJump(Who, i64),
    /// An orderly shutdown.
    Stop(Who),
    /// SIGSTOP for so long.
    Pause(Who, Duration),
    /// Nothing gets from the node to the others, nor back; with the flag, clients do not reach it either.
    Isolate(Who, bool),
    /// Nothing gets from the node to the others.
    CutOut(Who),
    /// Nothing gets from the others to the node.
    CutIn(Who),
    /// Nothing gets from the node to one other.
    CutTo(Who, u16),
    /// A follower that was killed comes back and is taken into the in-sync set, of which the leader hears nothing; and from then on the
    /// follower hears nothing from the leader.
    UnheardJoin,
    /// All links work again.
    Mend,
    /// One connection is cut.
    CutConnection,
    /// Blocking work of the node takes up to so long, until it starts again.
    SlowDisk(Who, Duration),
    /// The next sync of the node fails and drops its pages; later it is started again, with the flag after a power loss.
    FailedSync(Who, bool),
}

impl Fault {
    /// What is counted, of every kind.
    pub const KINDS: [&str; 19] = [
        "kills",
        "deaths inside a disk call",
        "power losses of one node",
        "power losses of all nodes",
        "power losses of all nodes on slow disks",
        "disks lost",
        "disks with flipped bits",
        "disks full",
        "clocks moved",
        "orderly stops",
        "pauses",
        "nodes cut off",
        "nodes cut off in one direction",
        "links cut in one direction",
        "joins that a leader did not hear of",
        "mendings of all links",
        "connections cut",
        "slow disks",
        "failed syncs",
    ];

    /// What is counted.
    pub fn name(self) -> &'static str {
        match self {
            Self::Crash(_) => "kills",
            Self::DieInside(..) => "deaths inside a disk call",
            Self::PowerLoss(_) => "power losses of one node",
            Self::AllLosePower => "power losses of all nodes",
            Self::SlowThenDark(..) => "power losses of all nodes on slow disks",
            Self::Wipe(_) => "disks lost",
            Self::Rot(..) => "disks with flipped bits",
            Self::FullDisk(_) => "disks full",
            Self::ClockJump(..) => "clocks moved",
            Self::Stop(_) => "orderly stops",
            Self::Pause(..) => "pauses",
            Self::Isolate(..) => "nodes cut off",
            Self::CutOut(_) | Self::CutIn(_) => "nodes cut off in one direction",
            Self::CutTo(..) => "links cut in one direction",
            Self::UnheardJoin => "joins that a leader did not hear of",
            Self::Mend => "mendings of all links",
            Self::CutConnection => "connections cut",
            Self::SlowDisk(..) => "slow disks",
            Self::FailedSync(..) => "failed syncs",
        }
    }
}

/// One fault: how long the schedule waits before it, and how long a node that it stops stays away.
#[derive(Clone, Copy, Debug)]
pub struct Strike {
    /// Since the one before.
    pub wait: Duration,
    /// What happens.
    pub fault: Fault,
    /// Until the node starts again. The schedule goes on meanwhile.
    pub away: Duration,
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
    /// Transactional producers, and a reader of what they commit.
    pub transactional: Option<u32>,
    /// Whether one of them uses sequence numbers again.
    pub counting: bool,
    /// Members of the consumer group.
    pub members: u32,
    /// How they work.
    pub habits: Habits,
    /// Whether somebody changes settings of topics, and how far.
    pub settings: Option<Bounds>,
    /// Whether all nodes are restarted in order, under load, once everything is whole again.
    pub rolls: bool,
    /// Readers that search by offset and time.
    pub wanderers: u32,
    /// Whether topics come and go beside.
    pub topic_changes: bool,
    /// Whether an operator moves replicas and leaders.
    pub operated: bool,
    /// Whether a topic with short retention is written beside.
    pub retention: bool,
    /// Records that each producer sends.
    pub records: u64,
    /// Longest rest of a producer after every third record.
    pub rest_max_ms: u64,
    /// `log.roll.ms`
    pub roll_ms: u64,
    /// `log.index.interval.bytes`
    pub index_interval_bytes: u64,
    /// `log.flush.offset.checkpoint.interval.ms`
    pub checkpoint_ms: u64,
    /// `replica.lag.time.max.ms`
    pub lag_ms: u64,
    /// `broker.session.timeout.ms`
    pub session_ms: u64,
    /// `leader.imbalance.check.interval.seconds`
    pub leaders_s: u64,
    /// A node that comes later, and may go.
    pub guest: Option<Guest>,
    /// `metadata.log.max.record.bytes.between.snapshots` and `metadata.max.retention.bytes`, where they are so small that they matter.
    pub metadata_bytes: Option<(u64, u64)>,
    /// `metadata.log.max.snapshot.interval.ms` and `metadata.max.retention.ms`, where they are so short that they matter.
    pub metadata_ms: Option<(u64, u64)>,
    /// Whether the last node is a broker only, and reads the metadata from afar.
    pub observed: bool,
    /// How far each node's wall clock is ahead of the clients' at first.
    pub skews_ms: [i64; NODES as usize],
    /// What goes wrong.
    pub strikes: Vec<Strike>,
}

impl Plan {
    /// Who works in it.
    pub fn cast(&self) -> Cast {
        Cast {
            partitions: self.partitions,
            records: self.records,
            idempotent: self.idempotent,
            unsafe_producers: self.unsafe_producers,
            transactional: self.transactional,
            counting: self.counting,
            short: self.retention.then_some(false),
            topic_changes: self.topic_changes,
            operated: self.operated.then_some(NODES),
            wanderers: self.wanderers,
            members: self.members,
            habits: self.habits,
            settings: self.settings,
        }
    }

    /// The plan of a seed.
    pub fn of_seed(seed: u64) -> Self {
        Self::of(&mut Random::new(seed ^ 0x0063_6c75_7374))
    }

    fn of(random: &mut Random) -> Self {
        let count = 1 + random.below(FAULTS_MAX);
        let strikes: Vec<Strike> = (0..count).map(|_| strike(random)).collect();
        let mut plan = Self {
            partitions: 1 + random.below(2) as u32,
            idempotent: 1 + random.below(2) as u32,
            unsafe_producers: random.below(2) as u32,
            members: random.below(3) as u32,
            wanderers: random.below(2) as u32,
            topic_changes: random.one_in(4),
            retention: random.one_in(4),
            records: 30 + random.below(50),
            rest_max_ms: 150 * count,
            roll_ms: 300 + random.below(6_000),
            index_interval_bytes: 100 + random.below(3_000),
            checkpoint_ms: 200 + random.below(5_000),
            lag_ms: 1_000 + random.below(3_000),
            session_ms: 1_000 + random.below(2_000),
            strikes,
            transactional: random.one_in(2).then(|| 1 + random.below(2) as u32),
            operated: random.one_in(3),
            leaders_s: 1 + random.below(12),
            guest: None,
            metadata_bytes: None,
            metadata_ms: None,
            counting: false,
            habits: Habits::default(),
            settings: None,
            rolls: false,
            observed: false,
            skews_ms: [0; NODES as usize],
        };
        // One disk at most: with two of three lost, records that were acknowledged may be.
        if random.one_in(4) {
            let at = random.below(count) as usize;
            plan.strikes[at].fault = Fault::Wipe(who(random));
            plan.operated = false; // a move to two replicas may leave the only one in sync on that disk
        } else {
            plan.observed = random.one_in(4); // the two that vote need each other's disks
        }
        if random.one_in(3) {
            plan.skews_ms = std::array::from_fn(|_| skew(random));
            let at = random.below(count) as usize;
            plan.strikes[at].fault = Fault::ClockJump(who(random), skew(random));
        }
        if random.one_in(6) {
            let at = random.below(count) as usize;
            plan.strikes[at].fault = Fault::FullDisk(who(random));
        }
        if random.one_in(6) {
            let at = random.below(count) as usize;
            let slow = Duration::from_millis(20 + random.below(600));
            plan.strikes[at].fault = Fault::SlowThenDark(slow, Duration::from_millis(random.below(2_000)));
        }
        if random.one_in(5) {
            let arrives = Duration::from_millis(random.below(6_000));
            plan.guest = Some(Guest { arrives, leaves: random.one_in(2) });
            plan.operated = false; // both would move the same replicas
        }
        let keeps_disks = !plan.strikes.iter().any(|strike| matches!(strike.fault, Fault::Wipe(_)));
        if keeps_disks && random.one_in(8) {
            let at = random.below(count) as usize;
            plan.strikes[at].fault = Fault::Rot(who(random), random.one_in(2));
            plan.operated = false; // as with a disk that is lost; the guest's leaving moves replicas, too
            plan.guest = None;
            plan.observed = false;
        }
        if random.one_in(3) {
            plan.metadata_bytes = Some((512 + random.below(8_192), random.below(32_768)));
        }
        if random.one_in(8) {
            let at = random.below(count) as usize;
            plan.strikes[at].fault = Fault::UnheardJoin;
        }
        if random.one_in(4) {
            plan.metadata_ms = Some((300 + random.below(5_000), random.below(8_000)));
        }
        plan.counting = plan.transactional.is_some() && random.one_in(2);
        plan.add_later_ideas(random);
        plan
    }

    /// What came to the simulator later is drawn last, so that a seed's older part stays as it was.
    fn add_later_ideas(&mut self, random: &mut Random) {
        if self.members > 0 && random.one_in(3) {
            self.habits = Habits { stand_still: true, cooperative: random.one_in(2) };
            self.members = 2;
        }
        if random.one_in(4) {
            // A change of it takes their eligibility from all who are not in sync: a disk may be lost that is the only one left.
            let loses = |strike: &Strike| matches!(strike.fault, Fault::Wipe(_) | Fault::Rot(..));
            let min_insync = (!self.strikes.iter().any(loses)).then_some((1, u64::from(NODES)));
            self.settings = Some(Bounds { min_insync, short: self.retention });
        }
        self.rolls = random.one_in(6);
    }
}

fn strike(random: &mut Random) -> Strike {
    let wait = Duration::from_millis(50 + random.below(2_500));
    // Half of the time the node is back before it is missed.
    let away = if random.one_in(2) { random.below(800) } else { random.below(6_000) };
    Strike { wait, fault: fault(random), away: Duration::from_millis(away) }
}

/// Up to half an hour before or behind: Kafka takes records that are an hour before it.
fn skew(random: &mut Random) -> i64 {
    random.below(3_600_000) as i64 - 1_800_000
}

fn who(random: &mut Random) -> Who {
    match random.below(4) {
        0 | 1 => Who::Leader,
        2 => Who::Controller,
        _ => Who::Number(number(random)),
    }
}

fn number(random: &mut Random) -> u16 {
    1 + random.below(u64::from(NODES)) as u16
}

fn fault(random: &mut Random) -> Fault {
    let who = who(random);
    match random.below(20) {
        0 | 1 => Fault::Crash(who),
        2 => Fault::DieInside(who, 1 + random.below(60), random.one_in(2)),
        3 | 4 => Fault::PowerLoss(who),
        5 => Fault::AllLosePower,
        6 | 7 => Fault::Stop(who),
        8 | 9 => Fault::Pause(who, Duration::from_millis(100 + random.below(5_000))),
        10 => Fault::Isolate(who, true),
        11 => Fault::Isolate(who, false),
        12 => Fault::CutOut(who),
        13 => Fault::CutIn(who),
        14 => Fault::CutTo(who, number(random)),
        15 | 16 => Fault::Mend,
        17 => Fault::CutConnection,
        18 => Fault::SlowDisk(who, Duration::from_millis(5 + random.below(400))),
        _ => Fault::FailedSync(who, random.one_in(2)),
    }
}
