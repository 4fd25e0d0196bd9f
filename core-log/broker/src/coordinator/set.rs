//! The coordinators of one internal topic.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use bytes::Bytes;
use millstream_env::{Pool, TaskGroup};
use millstream_machine::metadata::{Image, InternalTopic};
use millstream_machine::partition_for;
use millstream_protocol::ErrorCode;
use millstream_record::{LeaderEpoch, Offset, TopicId};
use millstream_storage::Disk;
use parking_lot::Mutex;

use super::host::{Host, Machine};
use super::{load, snapshot::Snapshot};
use crate::partition::Partition;
use crate::partitions::Partitions;
use crate::refusal::Refusal;
use crate::steady::SteadyClock;
use crate::timers::Timers;

/// Appends after which a snapshot is worth its writing: what a start replays at most, but for those since the last look.
const SNAPSHOT_EVERY: u64 = 10_000;

/// What coordinators need of the broker.
#[derive(Clone)]
pub(crate) struct Premises {
    pub(crate) image: Arc<ArcSwap<Image>>,
    pub(crate) partitions: Arc<Partitions>,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) clock: SteadyClock,
    pub(crate) timers: Arc<Timers>,
    pub(crate) tasks: TaskGroup,
}

/// Makes the machine of a partition that is led in an epoch, from a snapshot's bytes if there is one.
type Make<M> = Box<dyn Fn(i32, Option<Bytes>) -> Result<M, millstream_machine::Error> + Send + Sync>;
/// Does an errand of a coordinator.
type Run<M> = Arc<dyn Fn(&Arc<Host<M>>, <M as Machine>::Errand) + Send + Sync>;

/// The coordinators of one internal topic, each loaded when its partition is first led.
pub(crate) struct Set<M: Machine> {
    topic: InternalTopic,
    premises: Premises,
    make: Make<M>,
    run: Run<M>,
    slots: Mutex<BTreeMap<i32, Slot<M>>>,
}

enum Slot<M: Machine> {
    Loading(TopicId),
    Ready(Arc<Host<M>>),
    Failed(TopicId),
}

impl<M: Machine> Slot<M> {
    fn topic_id(&self) -> TopicId {
        match self {
            Self::Loading(id) | Self::Failed(id) => *id,
            Self::Ready(host) => host.partition().topic_id(),
        }
    }
}

impl<M: Machine> Set<M> {
    pub(crate) fn new(
        topic: InternalTopic,
        premises: Premises,
        make: impl Fn(i32, Option<Bytes>) -> Result<M, millstream_machine::Error> + Send + Sync + 'static,
        run: impl Fn(&Arc<Host<M>>, M::Errand) + Send + Sync + 'static,
    ) -> Arc<Self> {
        let (make, run) = (Box::new(make), Arc::new(run));
        Arc::new(Self { topic, premises, make, run, slots: Mutex::default() })
    }

    /// The partition that `id` belongs to.
    ///
    /// # Errors
    /// NOT_COORDINATOR while there is no such topic; who asks for the coordinator has it created.
    pub(crate) fn partition_of(&self, id: &str) -> Result<i32, ErrorCode> {
        let image = self.premises.image.load();
        let topic = image.topic(self.topic.name()).ok_or(ErrorCode::NotCoordinator)?;
        let partitions = i32::try_from(topic.partitions.len()).map_err(|_| ErrorCode::NotCoordinator)?;
        Ok(partition_for(id, partitions))
    }

    /// The coordinator of `id`.
    ///
    /// # Errors
    /// The code that a client is told; most are over after a while.
    pub(crate) fn host_of(self: &Arc<Self>, id: &str) -> Result<Arc<Host<M>>, ErrorCode> {
        self.host(self.partition_of(id)?)
    }

    /// The coordinator in this partition.
    ///
    /// # Errors
    /// As for [`Set::host_of`].
    pub(crate) fn host(self: &Arc<Self>, index: i32) -> Result<Arc<Host<M>>, ErrorCode> {
        let topic_id = self.premises.image.load().topic(self.topic.name()).map(|topic| topic.id);
        let topic_id = topic_id.ok_or(ErrorCode::NotCoordinator)?;
        {
            let mut slots = self.slots.lock();
            match slots.get(&index) {
                Some(slot) if slot.topic_id() != topic_id => drop(slots.remove(&index)), // the topic was made anew
                Some(Slot::Ready(host)) => return Ok(Arc::clone(host)),
                Some(Slot::Loading(_)) => return Err(ErrorCode::CoordinatorLoadInProgress),
                Some(Slot::Failed(_)) => return Err(ErrorCode::CoordinatorNotAvailable),
                None => {}
            }
        }
        self.load(index, topic_id)
    }

    /// Begins to load every coordinator whose partition is here.
    pub(crate) fn load_all(self: &Arc<Self>) {
        let image = self.premises.image.load_full();
        let partitions = image.topic(self.topic.name()).map_or(0, |topic| topic.partitions.len());
        for index in (0..).take(partitions) {
            let _ = self.host(index); // who asks for it later is told how it went
        }
    }

    /// Every coordinator, and whether one is still being loaded.
    pub(crate) fn ready(&self) -> (Vec<Arc<Host<M>>>, bool) {
        let slots = self.slots.lock();
        let host = |slot: &Slot<M>| match slot {
            Slot::Ready(host) => Some(Arc::clone(host)),
            Slot::Loading(_) | Slot::Failed(_) => None,
        };
        let loading = slots.values().any(|slot| matches!(slot, Slot::Loading(_)));
        (slots.values().filter_map(host).collect(), loading)
    }

    fn load(self: &Arc<Self>, index: i32, topic_id: TopicId) -> Result<Arc<Host<M>>, ErrorCode> {
        let partition =
            self.premises.partitions.get(topic_id, index).map_err(|_| ErrorCode::NotCoordinator)?;
        if partition.end() == Offset(0) {
            let machine =
                (self.make)(partition.epoch().0, None).map_err(|_| ErrorCode::CoordinatorNotAvailable)?;
            return Ok(self.install(index, partition, machine));
        }
        self.slots.lock().insert(index, Slot::Loading(topic_id));
        let me = Arc::clone(self);
        self.premises
            .tasks
            .spawn("load coordinator", async move { me.load_from_log(index, partition).await });
        Err(ErrorCode::CoordinatorLoadInProgress)
    }

    async fn load_from_log(self: Arc<Self>, index: i32, partition: Arc<Partition>) {
        let (me, source) = (Arc::clone(&self), Arc::clone(&partition));
        let loaded = self.premises.tasks.env().blocking(Pool::General, move || me.read_back(&source)).await;
        match loaded {
            Ok(Ok(machine)) => drop(self.install(index, partition, machine)),
            Ok(Err(refusal)) => {
                tracing::error!(partition = %partition.at(), ?refusal, "a coordinator cannot be loaded");
                self.slots.lock().insert(index, Slot::Failed(partition.topic_id()));
            }
            Err(_) => {} // the broker ends
        }
    }

    /// The machine as the snapshot and the log behind it have it. Blocks.
    fn read_back(&self, partition: &Partition) -> Result<M, Refusal> {
        let epoch = partition.epoch().0;
        let unreadable = |error: &dyn std::fmt::Display| {
            Refusal::new(ErrorCode::CoordinatorNotAvailable, error.to_string())
        };
        let dir = partition.dir();
        let snapshot = Snapshot::read(&*self.premises.disk, &dir).map_err(|error| unreadable(&error))?;
        let end = partition.marks(LeaderEpoch::NONE)?.high_watermark;
        let (from, state) = match snapshot {
            Some(snapshot) if snapshot.offset <= end => (snapshot.offset, Some(snapshot.state)),
            Some(snapshot) => {
                let (at, offset) = (partition.at(), snapshot.offset);
                tracing::warn!(partition = %at, %offset, "a snapshot that is ahead of its log is ignored");
                (Offset(0), None)
            }
            None => (Offset(0), None),
        };
        let mut machine = (self.make)(epoch, state).map_err(|error| unreadable(&error))?;
        load::replay(&mut machine, partition, from)?;
        Ok(machine)
    }

    fn install(self: &Arc<Self>, index: i32, partition: Arc<Partition>, machine: M) -> Arc<Host<M>> {
        let Premises { clock, timers, .. } = self.premises.clone();
        let run = Arc::clone(&self.run);
        let host = Arc::new_cyclic(|me: &Weak<Host<M>>| {
            let me = Weak::clone(me);
            let runner = move |errand| {
                if let Some(host) = me.upgrade() {
                    run(&host, errand);
                }
            };
            Host::new(partition, clock, timers, machine, Box::new(runner))
        });
        host.begin(M::loaded);
        let mut slots = self.slots.lock();
        if let Some(Slot::Ready(first)) = slots.get(&index)
            && first.partition().topic_id() == host.partition().topic_id()
        {
            return Arc::clone(first); // two asked for an empty one at once
        }
        slots.insert(index, Slot::Ready(Arc::clone(&host)));
        host
    }

    /// Writes the snapshots that are due. Each is written once everything in it is durable.
    pub(crate) fn snapshot_due(self: &Arc<Self>) {
        for host in self.ready().0 {
            let Some((state, offset)) = host.snapshot_if_due(SNAPSHOT_EVERY) else { continue };
            let (me, partition) = (Arc::downgrade(self), Arc::clone(host.partition()));
            let write = move |outcome| {
                let (Some(set), millstream_machine::replica::Outcome::Done) = (me.upgrade(), outcome) else {
                    return;
                };
                let env = set.premises.tasks.env().clone();
                env.submit(Pool::General, move || set.write(&partition, Snapshot { offset, state }));
            };
            host.partition().when_durable(offset, Box::new(write));
        }
    }

    /// Writes every snapshot that the log has outgrown. Blocks; everything must be durable already.
    pub(crate) fn snapshot_all(&self) {
        for host in self.ready().0 {
            if let Some((state, offset)) = host.snapshot_if_due(0) {
                self.write(host.partition(), Snapshot { offset, state });
            }
        }
    }

    fn write(&self, partition: &Partition, snapshot: Snapshot) {
        if let Err(error) = snapshot.write(&*self.premises.disk, &partition.dir()) {
            tracing::warn!(partition = %partition.at(), %error, "a snapshot was not written; the next start replays more");
        }
    }

    /// Forgets who waits, everywhere, without an answer.
    pub(crate) fn abandon(&self) {
        for host in self.ready().0 {
            host.abandon();
        }
        self.slots.lock().clear();
    }
}
