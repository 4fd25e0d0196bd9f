//! The coordinators of one internal topic.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use millstream_env::{Env, Pool, TaskGroup};
use millstream_machine::metadata::{Image, InternalTopic};
use millstream_machine::partition_for;
use millstream_protocol::ErrorCode;
use millstream_record::{LeaderEpoch, NodeId, Offset};
use millstream_storage::Disk;
use parking_lot::Mutex;

use super::host::{Host, Machine, WayOut};
use super::{load, snapshot::Snapshot};
use crate::lease::Lease;
use crate::partition::{Partition, monotonic};
use crate::partitions::Partitions;
use crate::refusal::Refusal;
use crate::steady::SteadyClock;
use crate::timers::Timers;

/// Appends after which a snapshot is worth its writing: what a start replays at most, but for those since the last look.
const SNAPSHOT_EVERY: u64 = 10_000;

/// After a coordinator could not write, or its partition could not be replicated: before it is loaded anew.
const RELOAD_AFTER: Duration = Duration::from_millis(500);

/// What coordinators need of the broker.
#[derive(Clone)]
pub(crate) struct Premises {
    pub(crate) image: Arc<ArcSwap<Image>>,
    pub(crate) partitions: Arc<Partitions>,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) clock: SteadyClock,
    pub(crate) timers: Arc<Timers>,
    pub(crate) tasks: TaskGroup,
    pub(crate) lease: Arc<Lease>,
    pub(crate) env: Env,
    pub(crate) node: NodeId,
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

/// A coordinator, as long as its partition is led in the epoch in which it was loaded.
struct Slot<M: Machine> {
    partition: Arc<Partition>,
    epoch: LeaderEpoch,
    state: Loaded<M>,
}

enum Loaded<M: Machine> {
    Loading,
    Ready(Arc<Host<M>>),
    Failed,
}

impl<M: Machine> Slot<M> {
    /// Whether it still is the coordinator: its partition was not made anew, and is led in the same epoch.
    fn is_current(&self, partition: &Arc<Partition>) -> bool {
        Arc::ptr_eq(&self.partition, partition) && self.epoch == partition.epoch() && partition.leads()
    }

    /// Who waits is told to ask another broker.
    fn resign(&self) {
        if let Loaded::Ready(host) = &self.state {
            host.resign();
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

    /// Who leads the partition that `id` belongs to, and so is its coordinator.
    pub(crate) fn leader_of(&self, id: &str) -> Option<NodeId> {
        let index = self.partition_of(id).ok()?;
        self.premises.image.load().partition(self.topic.name(), index)?.leader
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
        let image = self.premises.image.load();
        if !self.is_alone(&image, index) && !self.premises.lease.holds(monotonic(&self.premises.env)) {
            return Err(ErrorCode::NotCoordinator); // another may coordinate by now
        }
        let topic_id =
            image.topic(self.topic.name()).map(|topic| topic.id).ok_or(ErrorCode::NotCoordinator)?;
        let found = self.premises.partitions.get(topic_id, index);
        let partition = found.ok().filter(|partition| partition.leads()).ok_or(ErrorCode::NotCoordinator)?;
        let replaced = {
            let mut slots = self.slots.lock();
            match slots.get(&index) {
                Some(slot) if !slot.is_current(&partition) => slots.remove(&index),
                Some(Slot { state: Loaded::Ready(host), .. }) => return Ok(Arc::clone(host)),
                Some(Slot { state: Loaded::Loading, .. }) => {
                    return Err(ErrorCode::CoordinatorLoadInProgress);
                }
                Some(Slot { state: Loaded::Failed, .. }) => return Err(ErrorCode::CoordinatorNotAvailable),
                None => None,
            }
        };
        replaced.iter().for_each(Slot::resign);
        self.load(index, partition)
    }

    /// Whether nobody else has a replica of this partition: then nobody else can be elected in this broker's place, heard or not.
    fn is_alone(&self, image: &Image, index: i32) -> bool {
        let partition = image.partition(self.topic.name(), index);
        partition.is_some_and(|partition| partition.replicas == [self.premises.node])
    }

    /// Begins to load every coordinator whose partition is led here, and forgets those that are led elsewhere now.
    pub(crate) fn refresh(self: &Arc<Self>) {
        let image = self.premises.image.load_full();
        let partitions = image.topic(self.topic.name()).map_or(0, |topic| topic.partitions.len());
        let gone: Vec<Slot<M>> = {
            let mut slots = self.slots.lock();
            slots
                .extract_if(.., |_, slot| !slot.is_current(&Arc::clone(&slot.partition)))
                .map(|(_, slot)| slot)
                .collect()
        };
        gone.iter().for_each(Slot::resign);
        for index in (0..).take(partitions) {
            let _ = self.host(index); // who asks for it later is told how it went
        }
    }

    /// Every coordinator, and whether one is still being loaded.
    pub(crate) fn ready(&self) -> (Vec<Arc<Host<M>>>, bool) {
        let slots = self.slots.lock();
        let host = |slot: &Slot<M>| match &slot.state {
            Loaded::Ready(host) => Some(Arc::clone(host)),
            Loaded::Loading | Loaded::Failed => None,
        };
        let loading = slots.values().any(|slot| matches!(slot.state, Loaded::Loading));
        (slots.values().filter_map(host).collect(), loading)
    }

    fn load(self: &Arc<Self>, index: i32, partition: Arc<Partition>) -> Result<Arc<Host<M>>, ErrorCode> {
        let epoch = partition.epoch();
        if partition.end() == Offset(0) {
            let machine = (self.make)(epoch.0, None).map_err(|_| ErrorCode::CoordinatorNotAvailable)?;
            return self.install(index, partition, epoch, machine);
        }
        {
            let mut slots = self.slots.lock();
            if slots.get(&index).is_some_and(|slot| slot.is_current(&partition)) {
                return Err(ErrorCode::CoordinatorLoadInProgress); // two asked for it at once
            }
            let slot = Slot { partition: Arc::clone(&partition), epoch, state: Loaded::Loading };
            slots.insert(index, slot);
        }
        let me = Arc::clone(self);
        self.premises
            .tasks
            .spawn("load coordinator", async move { me.load_from_log(index, partition, epoch).await });
        Err(ErrorCode::CoordinatorLoadInProgress)
    }

    /// Whether the slot is still the one that is being loaded for `epoch`.
    fn is_loading(&self, index: i32, partition: &Arc<Partition>, epoch: LeaderEpoch) -> bool {
        let slots = self.slots.lock();
        slots.get(&index).is_some_and(|slot| {
            matches!(slot.state, Loaded::Loading) && slot.epoch == epoch && slot.is_current(partition)
        })
    }

    async fn load_from_log(self: Arc<Self>, index: i32, partition: Arc<Partition>, epoch: LeaderEpoch) {
        let env = self.premises.tasks.env().clone();
        // What an earlier leader appended may be answered for only once it can no longer be taken back. However long that takes,
        // transactions wait for their coordinator.
        while !partition.settled(epoch).await {
            if !self.is_loading(index, &partition, epoch) {
                return;
            }
            env.sleep(RELOAD_AFTER).await;
        }
        let (me, source) = (Arc::clone(&self), Arc::clone(&partition));
        let loaded = env.blocking(Pool::General, move || me.read_back(&source, epoch)).await;
        if !self.is_loading(index, &partition, epoch) {
            return; // it is led elsewhere, or anew
        }
        match loaded {
            Ok(Ok(machine)) => drop(self.install(index, partition, epoch, machine)),
            Ok(Err(refusal)) => {
                tracing::error!(partition = %partition.at(), ?refusal, "a coordinator cannot be loaded");
                let slot = Slot { partition, epoch, state: Loaded::Failed };
                self.slots.lock().insert(index, slot);
            }
            Err(_) => {} // the broker ends
        }
    }

    /// The machine as the snapshot and the log behind it have it. Blocks.
    fn read_back(&self, partition: &Partition, epoch: LeaderEpoch) -> Result<M, Refusal> {
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
        let mut machine = (self.make)(epoch.0, state).map_err(|error| unreadable(&error))?;
        load::replay(&mut machine, partition, from)?;
        Ok(machine)
    }

    fn install(
        self: &Arc<Self>,
        index: i32,
        partition: Arc<Partition>,
        epoch: LeaderEpoch,
        machine: M,
    ) -> Result<Arc<Host<M>>, ErrorCode> {
        let Premises { clock, timers, .. } = self.premises.clone();
        let run = Arc::clone(&self.run);
        let at = Arc::clone(&partition);
        let host = Arc::new_cyclic(|me: &Weak<Host<M>>| {
            let me = Weak::clone(me);
            let failed = self.reloading(index, Weak::clone(&me));
            let run = move |errand| {
                if let Some(host) = me.upgrade() {
                    run(&host, errand);
                }
            };
            let way_out = WayOut { run: Box::new(run), failed: Box::new(failed) };
            Host::new((partition, epoch), clock, timers, machine, way_out)
        });
        host.begin(M::loaded); // before anybody can ask it
        {
            let mut slots = self.slots.lock();
            match slots.get(&index) {
                // Two asked for an empty one at once.
                Some(Slot { state: Loaded::Ready(first), epoch: led, .. }) if *led >= epoch => {
                    return Ok(Arc::clone(first));
                }
                Some(slot) if slot.epoch > epoch => return Err(ErrorCode::NotCoordinator),
                _ => {}
            }
            slots.insert(index, Slot { partition: at, epoch, state: Loaded::Ready(Arc::clone(&host)) });
        }
        // Whoever is in a slot hears what changes from now on.
        if let Some(input) = host.with(|machine| machine.outdated(&self.premises.image.load())) {
            host.tell(input);
        }
        Ok(host)
    }

    /// Has another coordinator loaded in the place of one that has failed, after a while, if its partition is led here still.
    fn reloading(self: &Arc<Self>, index: i32, host: Weak<Host<M>>) -> impl Fn() + Send + Sync + use<M> {
        let set = Arc::downgrade(self);
        move || {
            let (Some(owner), set, host) = (set.upgrade(), Weak::clone(&set), Weak::clone(&host)) else {
                return;
            };
            let env = owner.premises.tasks.env().clone();
            owner.premises.tasks.spawn("reload coordinator", async move {
                env.sleep(RELOAD_AFTER).await;
                if let (Some(set), Some(host)) = (set.upgrade(), host.upgrade()) {
                    set.replace(index, &host);
                }
            });
        }
    }

    fn replace(self: &Arc<Self>, index: i32, failed: &Arc<Host<M>>) {
        {
            let mut slots = self.slots.lock();
            let is_its =
                |slot: &Slot<M>| matches!(&slot.state, Loaded::Ready(host) if Arc::ptr_eq(host, failed));
            if !slots.get(&index).is_some_and(is_its) {
                return;
            }
            slots.remove(&index);
        }
        let _ = self.host(index); // who asks for it later is told how it went
    }

    /// Writes the snapshots that are due. Each is written once everything in it is durable.
    pub(crate) fn snapshot_due(self: &Arc<Self>) {
        for host in self.ready().0 {
            let Some((state, offset)) = host.snapshot_if_due(SNAPSHOT_EVERY) else { continue };
            let (me, partition, epoch) = (Arc::downgrade(self), Arc::clone(host.partition()), host.epoch());
            let write = move |outcome| {
                let (Some(set), millstream_machine::replica::Outcome::Done) = (me.upgrade(), outcome) else {
                    return;
                };
                let env = set.premises.tasks.env().clone();
                env.submit(Pool::General, move || set.write(&partition, epoch, &Snapshot { offset, state }));
            };
            host.partition().when_durable(epoch, offset, Box::new(write));
        }
    }

    /// Writes every snapshot that the log has outgrown, where all that is in it is below the mark. Blocks.
    pub(crate) fn snapshot_all(&self) {
        for host in self.ready().0 {
            let Some((state, offset)) = host.snapshot_if_due(0) else { continue };
            let marks = host.partition().marks(LeaderEpoch::NONE);
            if marks.is_ok_and(|marks| offset <= marks.high_watermark) {
                self.write(host.partition(), host.epoch(), &Snapshot { offset, state });
            }
        }
    }

    /// Writes a snapshot of a coordinator that was loaded in `epoch`, unless its partition has another leader by now, after which it
    /// may be cut.
    fn write(&self, partition: &Partition, epoch: LeaderEpoch, snapshot: &Snapshot) {
        let write = || match partition.end_in(epoch) {
            Some(_) => snapshot.write(&*self.premises.disk, &partition.dir()),
            None => Ok(()),
        };
        if let Err(error) = self.premises.partitions.between_cuts(write) {
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
