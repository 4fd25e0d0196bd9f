//! What this broker copies from which leader.

use std::collections::BTreeMap;
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
    pub(super) copies: BTreeMap<Key, Copied>,
    /// Lanes that run, and those of them that wait for something to do.
    pub(super) lanes: usize,
    pub(super) idle: usize,
}

/// A partition that is copied.
pub(super) struct Copied {
    pub(super) partition: Arc<Partition>,
    pub(super) epoch: LeaderEpoch,
    /// Some lane has it in a fetch.
    pub(super) in_flight: bool,
    /// Not before this, in monotonic time: after an error.
    pub(super) not_before: Duration,
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
        let sources: Vec<_> = self.leaders.lock().values().cloned().collect();
        for source in sources {
            self.attend(&source);
        }
    }

    pub(super) fn premises(&self) -> Option<&Premises> {
        self.premises.get()
    }

    /// Copies `partition` from `leader` from now on, and from nobody else; from nobody while there is no leader.
    pub(crate) fn copy(
        self: &Arc<Self>,
        partition: &Arc<Partition>,
        leader: Option<NodeId>,
        epoch: LeaderEpoch,
    ) {
        let source = {
            let mut leaders = self.leaders.lock();
            take_out(&mut leaders, partition);
            let Some(leader) = leader else { return };
            let source = leaders.entry(leader).or_insert_with(|| {
                Arc::new(Source { leader, state: Mutex::default(), changed: Notify::new() })
            });
            let copied = Copied {
                partition: Arc::clone(partition),
                epoch,
                in_flight: false,
                not_before: Duration::ZERO,
            };
            source.state.lock().copies.insert(key_of(partition), copied);
            Arc::clone(source)
        };
        self.attend(&source);
    }

    /// Copies `partition` no more.
    pub(crate) fn forget(&self, partition: &Partition) {
        take_out(&mut self.leaders.lock(), partition);
    }

    /// Copies nothing any more: the broker is gone.
    pub(crate) fn abandon(&self) {
        let leaders = std::mem::take(&mut *self.leaders.lock());
        for source in leaders.into_values() {
            source.state.lock().copies.clear();
        }
    }

    /// Sees to it that somebody fetches what was added: a lane that has nothing to do, or a new one.
    fn attend(self: &Arc<Self>, source: &Arc<Source>) {
        let Some(premises) = self.premises.get() else { return };
        let starts = {
            let mut state = source.state.lock();
            let starts = state.idle == 0 && state.lanes < LANES_PER_LEADER;
            state.lanes += usize::from(starts);
            starts
        };
        if starts {
            let lane = Lane::new(Arc::clone(self), Arc::clone(source), premises.links.fork());
            premises.tasks.spawn("replica fetcher", lane.run());
        } else {
            source.changed.notify_one();
        }
    }
}

fn take_out(leaders: &mut BTreeMap<NodeId, Arc<Source>>, partition: &Partition) {
    let key = key_of(partition);
    leaders.retain(|_, source| {
        let mut state = source.state.lock();
        state.copies.remove(&key);
        !state.copies.is_empty() || state.lanes > 0
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
