//! What this broker copies from which leader.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use millstream_client::Links;
use millstream_env::TaskGroup;
use millstream_machine::metadata::Image;
use millstream_protocol::Endpoint;
use millstream_record::{LeaderEpoch, NodeId, TopicId};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::lane::Lane;
use super::suspects::Suspects;
use super::throttle::Throttle;
use crate::BrokerConfig;
use crate::partition::Partition;
use crate::partitions::Partitions;
use crate::peers;

/// Fetches that may be under way to one leader. A new partition is not to wait for a long poll that does not name it, so
/// it gets a lane of its own; a lane that finds nothing left ends.
const LANES_PER_LEADER: usize = 4;

/// What copying needs of the broker.
pub(crate) struct Premises {
    pub(crate) node: NodeId,
    pub(crate) tasks: TaskGroup,
    pub(crate) links: Links,
    pub(crate) image: Arc<ArcSwap<Image>>,
    /// Weak, since partitions know what copies them.
    pub(crate) partitions: Weak<Partitions>,
    /// Name of the listener that brokers use among themselves.
    pub(crate) listener: String,
    pub(crate) settings: Settings,
    pub(crate) throttle: Arc<Throttle>,
    pub(crate) suspects: Arc<Suspects>,
}

/// How followers fetch; each by its name in Kafka's configuration.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// `replica.fetch.wait.max.ms`
    pub(crate) wait_max: Duration,
    /// `replica.fetch.min.bytes`
    pub(crate) min_bytes: i32,
    /// `replica.fetch.max.bytes`: for each partition.
    pub(crate) partition_max_bytes: i32,
    /// `replica.fetch.response.max.bytes`
    pub(crate) response_max_bytes: i32,
    /// `replica.fetch.backoff.ms`: after an error that time may mend.
    pub(crate) backoff: Duration,
    /// `replica.socket.timeout.ms`: beyond the wait that was asked for.
    pub(crate) timeout: Duration,
}

impl Settings {
    pub(crate) fn of(config: &BrokerConfig) -> Self {
        let ms = |name: &str| Duration::from_millis(u64::try_from(config.number(name)).unwrap_or(0));
        Self {
            wait_max: ms("replica.fetch.wait.max.ms"),
            min_bytes: config.int("replica.fetch.min.bytes"),
            partition_max_bytes: config.int("replica.fetch.max.bytes"),
            response_max_bytes: config.int("replica.fetch.response.max.bytes"),
            backoff: ms("replica.fetch.backoff.ms"),
            timeout: ms("replica.socket.timeout.ms"),
        }
    }
}

/// What this broker copies from which leader. A partition is at most once in it: metadata is applied in order, and the
/// newest leader replaces the one before.
pub(crate) struct Copying {
    premises: OnceLock<Premises>,
    leaders: Mutex<BTreeMap<NodeId, Arc<Source>>>,
}

/// A partition among those that are copied.
pub(super) type Key = (TopicId, i32);

/// One leader and what is copied from it.
pub(super) struct Source {
    pub(super) leader: NodeId,
    pub(super) state: Mutex<Sourced>,
    /// Something may be due that was not.
    pub(super) changed: Notify,
}

#[derive(Default)]
pub(super) struct Sourced {
    copies: BTreeMap<Key, Copied>,
    /// Those that no lane has, by when they may be fetched, in monotonic time: after an error that is later.
    waiting: BTreeSet<(Duration, Key)>,
    lanes: BTreeMap<u64, LaneState>,
    next_lane: u64,
}

/// A partition that is copied.
struct Copied {
    partition: Arc<Partition>,
    epoch: LeaderEpoch,
    held: Held,
}

/// Who has a partition in hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    By(u64),
    /// Nobody; from then on somebody may.
    From(Duration),
}

/// What others know of a lane.
#[derive(Default)]
struct LaneState {
    /// It has nothing to do.
    is_idle: bool,
    /// It waits for its leader's answer.
    is_polling: bool,
    /// What it has in hand no more.
    gone: Vec<Key>,
}

/// What a lane is to do.
#[derive(Default)]
pub(super) struct Taken {
    /// What it has in hand no more.
    pub(super) gone: Vec<Key>,
    /// What it has in hand as well from now on.
    pub(super) added: Vec<(Arc<Partition>, LeaderEpoch)>,
    /// When there is more to take.
    pub(super) more_at: Option<Duration>,
}

impl Sourced {
    fn add(&mut self, partition: &Arc<Partition>, epoch: LeaderEpoch) {
        let key = key_of(partition);
        self.remove(&key);
        let held = Held::From(Duration::ZERO);
        self.copies.insert(key, Copied { partition: Arc::clone(partition), epoch, held });
        self.waiting.insert((Duration::ZERO, key));
    }

    fn remove(&mut self, key: &Key) {
        match self.copies.remove(key).map(|copied| copied.held) {
            Some(Held::By(lane)) => {
                self.lanes.entry(lane).and_modify(|state| state.gone.push(*key));
            }
            Some(Held::From(at)) => {
                self.waiting.remove(&(at, *key));
            }
            None => {}
        }
    }

    fn clear(&mut self) {
        let keys: Vec<Key> = self.copies.keys().copied().collect();
        keys.iter().for_each(|key| self.remove(key));
    }

    /// A new lane, if there is something to do for one.
    fn new_lane(&mut self) -> Option<u64> {
        let has_room = self.lanes.len() < LANES_PER_LEADER;
        let is_wanted = !self.waiting.is_empty() && !self.lanes.values().any(|lane| lane.is_idle);
        (has_room && is_wanted).then(|| {
            self.next_lane += 1;
            self.lanes.insert(self.next_lane, LaneState::default());
            self.next_lane
        })
    }

    /// What `lane` has in hand from now on: besides what it had, all that is due, and what younger lanes have while those wait for an
    /// answer. So in the end one lane has all, and a fetch is not many.
    pub(super) fn take(&mut self, lane: u64, now: Duration) -> Taken {
        let mut taken = self.back(lane);
        while let Some((at, key)) = self.waiting.first().copied().filter(|(at, _)| *at <= now) {
            self.waiting.remove(&(at, key));
            if let Some(copied) = self.copies.get_mut(&key) {
                copied.held = Held::By(lane);
                taken.added.push((Arc::clone(&copied.partition), copied.epoch));
            }
        }
        let mut younger = self.lanes.range_mut((Excluded(lane), Unbounded)).filter(|(_, it)| it.is_polling);
        if younger.next().is_some() {
            self.take_over(lane, &mut taken);
        }
        taken.more_at = self.waiting.first().map(|(at, _)| *at);
        taken
    }

    fn take_over(&mut self, lane: u64, taken: &mut Taken) {
        for (key, copied) in &mut self.copies {
            let Held::By(other) = copied.held else { continue };
            let Some(state) = self.lanes.get_mut(&other).filter(|it| other > lane && it.is_polling) else {
                continue;
            };
            state.gone.push(*key);
            copied.held = Held::By(lane);
            taken.added.push((Arc::clone(&copied.partition), copied.epoch));
        }
    }

    /// `lane` asks its leader.
    pub(super) fn polls(&mut self, lane: u64) {
        self.lanes.entry(lane).and_modify(|state| state.is_polling = true);
    }

    /// `lane` is not waiting any more; gives what was taken from it meanwhile.
    pub(super) fn back(&mut self, lane: u64) -> Taken {
        let Some(state) = self.lanes.get_mut(&lane) else { return Taken::default() };
        let gone = std::mem::take(&mut state.gone);
        *state = LaneState::default();
        Taken { gone, ..Taken::default() }
    }

    /// `lane` has nothing to do for now.
    pub(super) fn idles(&mut self, lane: u64) {
        self.lanes.entry(lane).and_modify(|state| state.is_idle = true);
    }

    /// `lane` ends, if there is nothing that it could do.
    pub(super) fn ends(&mut self, lane: u64) -> bool {
        let ends = self.waiting.is_empty();
        if ends {
            self.lanes.remove(&lane);
        }
        ends
    }

    /// Whoever comes may have it, from `not_before` on, unless somebody else has it already.
    pub(super) fn release(&mut self, lane: u64, key: Key, epoch: LeaderEpoch, not_before: Duration) {
        let copied = self.copies.get_mut(&key).filter(|it| it.held == Held::By(lane) && it.epoch == epoch);
        if let Some(copied) = copied {
            copied.held = Held::From(not_before);
            self.waiting.insert((not_before, key));
        }
    }
}

impl Copying {
    /// Nothing is copied before [`Copying::begin`].
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { premises: OnceLock::new(), leaders: Mutex::default() })
    }

    /// Begins to copy what [`Copying::copy`] was and will be told.
    pub(crate) fn begin(self: &Arc<Self>, premises: Premises) {
        if self.premises.set(premises).is_err() {
            return; // it has begun
        }
        self.attend_all();
    }

    pub(super) fn premises(&self) -> Option<&Premises> {
        self.premises.get()
    }

    /// Copies `partition` from `leader` from now on, and from nobody else; from nobody while there is no leader. It begins with
    /// [`Copying::attend_all`]: many that come at once are to be in one fetch.
    pub(crate) fn copy(&self, partition: &Arc<Partition>, leader: Option<NodeId>, epoch: LeaderEpoch) {
        let mut leaders = self.leaders.lock();
        take_out(&mut leaders, partition);
        let Some(leader) = leader else { return };
        let source = leaders
            .entry(leader)
            .or_insert_with(|| Arc::new(Source { leader, state: Mutex::default(), changed: Notify::new() }));
        source.state.lock().add(partition, epoch);
    }

    /// Copies `partition` no more.
    pub(crate) fn forget(&self, partition: &Partition) {
        take_out(&mut self.leaders.lock(), partition);
    }

    /// Copies nothing any more: the broker is gone.
    pub(crate) fn abandon(&self) {
        let leaders = std::mem::take(&mut *self.leaders.lock());
        for source in leaders.into_values() {
            source.state.lock().clear();
        }
    }

    /// Sees to it that somebody fetches what was added.
    pub(crate) fn attend_all(self: &Arc<Self>) {
        let sources: Vec<_> = self.leaders.lock().values().cloned().collect();
        for source in sources {
            self.attend(&source);
        }
    }

    /// Sees to it that somebody fetches what no lane has: one that has nothing to do, or a new one.
    fn attend(self: &Arc<Self>, source: &Arc<Source>) {
        if !self.begin_lane(source) {
            source.changed.notify_one();
        }
    }

    /// Starts a lane for what no lane has, unless one is there that has nothing to do.
    pub(super) fn begin_lane(self: &Arc<Self>, source: &Arc<Source>) -> bool {
        let Some(premises) = self.premises.get() else { return false };
        let Some(number) = source.state.lock().new_lane() else { return false };
        let lane = Lane::new(number, Arc::clone(self), Arc::clone(source), premises.links.fork());
        premises.tasks.spawn("replica fetcher", lane.run());
        true
    }
}

fn take_out(leaders: &mut BTreeMap<NodeId, Arc<Source>>, partition: &Partition) {
    let key = key_of(partition);
    leaders.retain(|_, source| {
        let mut state = source.state.lock();
        state.remove(&key);
        !state.copies.is_empty() || !state.lanes.is_empty()
    });
}

pub(super) fn key_of(partition: &Partition) -> Key {
    (partition.topic_id(), partition.at().partition)
}

impl Premises {
    /// Where brokers reach `node`, as the metadata has it.
    pub(super) fn endpoint(&self, node: NodeId) -> Option<Endpoint> {
        peers::endpoint(&self.image.load(), node, &self.listener)
    }

    /// The broker epoch that this broker's fetches carry: -1 until it is registered.
    pub(super) fn broker_epoch(&self) -> i64 {
        self.image.load().broker(self.node).map_or(-1, |broker| broker.epoch)
    }
}
