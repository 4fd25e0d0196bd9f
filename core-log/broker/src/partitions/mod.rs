//! The replicas that are on this broker, kept as the metadata says.

mod leaving;
mod misplaced;
mod notes;
mod opening;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use futures::future::join_all;
use millstream_env::Pool;
use millstream_machine::config::{Effective, Static};
use millstream_machine::metadata::{Committed, ConfigScope, Image, Partition as Known, Record, Topic};
use millstream_protocol::ErrorCode;
use millstream_record::{Offset, TopicId, TopicPartition, Uuid};
use millstream_storage::{Log, LogDir, OpenFiles, Room, StorageError};
use parking_lot::{Mutex, RwLock};
use rustc_hash::FxHashMap;

use self::opening::Wanted;
use crate::lacking::Lacking;
use crate::partition::{Assigned, Context, Leadership, Partition};
use crate::replication::{Limited, Proposals, Side};
use crate::topic_settings::TopicSettings;

/// Replicas that are closed one after the other in one job; many jobs run at once.
const CLOSED_PER_JOB: usize = 16;
/// The topic under whose name the metadata log lies; no topic to clients.
pub(crate) const CLUSTER_METADATA: &str = "__cluster_metadata";
/// Its id, as Kafka has it.
pub(crate) const METADATA_TOPIC_ID: Uuid = Uuid([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);

/// The replicas that are on this broker. Handlers look them up; only the metadata's shell changes what is there.
pub(crate) struct Partitions {
    context: Arc<Context>,
    dir: Arc<RwLock<LogDir>>,
    /// The directory's open files, which know whether it has failed.
    files: Arc<OpenFiles>,
    statics: Static,
    /// Whether start-up found everything closed in order.
    was_clean: bool,
    table: RwLock<FxHashMap<TopicId, Vec<Slot>>>,
    /// Logs that start-up opened, until the metadata's first image is taken up.
    opened: Mutex<BTreeMap<TopicPartition, Log>>,
    /// Whether logs that the metadata does not know were taken out of sight.
    swept: AtomicBool,
    lacking: Lacking,
    /// What start-up opened and the metadata has for lost.
    found_again: Mutex<BTreeSet<(TopicId, i32)>>,
    /// Logs that are noted in the directory and not in the table yet.
    opening: Mutex<BTreeSet<TopicPartition>>,
    /// The image whose partitions the replicas here play.
    taken_up: ArcSwap<Image>,
    watchers: AtomicU64,
}

#[derive(Clone)]
enum Slot {
    /// Not this broker's.
    Elsewhere,
    Here(Arc<Partition>),
    /// Its log could not be opened; the others go on.
    Broken(TopicPartition),
}

/// A partition of which an image says something new.
struct Change<'a> {
    topic: &'a Arc<Topic>,
    index: i32,
    partition: &'a Arc<Known>,
}

impl Change<'_> {
    fn at(&self) -> TopicPartition {
        TopicPartition::new(Arc::clone(&self.topic.name), self.index)
    }
}

impl Partitions {
    pub(crate) fn new(context: Arc<Context>, dir: Arc<RwLock<LogDir>>, statics: Static) -> Arc<Self> {
        let (was_clean, files) = (dir.read().was_clean(), Arc::clone(dir.read().files()));
        Arc::new(Self {
            context,
            was_clean,
            files,
            dir,
            statics,
            table: RwLock::default(),
            opened: Mutex::default(),
            swept: AtomicBool::new(false),
            lacking: Lacking::default(),
            found_again: Mutex::default(),
            opening: Mutex::default(),
            taken_up: ArcSwap::from_pointee(Image::default()),
            watchers: AtomicU64::new(0),
        })
    }

    /// The partition of `topic_id` with this index.
    ///
    /// # Errors
    /// The code that a client is told.
    pub(crate) fn get(&self, topic_id: TopicId, index: i32) -> Result<Arc<Partition>, ErrorCode> {
        let index = usize::try_from(index).map_err(|_| ErrorCode::UnknownTopicOrPartition)?;
        match self.table.read().get(&topic_id).and_then(|slots| slots.get(index)) {
            Some(Slot::Here(partition)) => Ok(Arc::clone(partition)),
            Some(Slot::Broken(_)) => Err(ErrorCode::KafkaStorageError),
            Some(Slot::Elsewhere) | None => Err(ErrorCode::NotLeaderOrFollower),
        }
    }

    /// Where the logs are, and the room on that disk where it is known.
    pub(crate) fn log_dir(&self) -> (PathBuf, Option<Room>) {
        let dir = self.dir.read();
        (dir.path().to_owned(), dir.room().ok().flatten())
    }

    /// Whether the disk has failed: nothing here is written or led any more until the node starts again.
    pub(crate) fn is_offline(&self) -> bool {
        self.check_online().is_err()
    }

    /// The failure of the disk, where it has failed.
    pub(crate) fn check_online(&self) -> Result<(), StorageError> {
        self.files.check_online()
    }

    /// Has `tell` called when the disk fails. It must not block.
    pub(crate) fn on_failure(&self, tell: impl Fn(&StorageError) + Send + Sync + 'static) {
        self.files.on_failure(tell);
    }

    /// Where leaders put the in-sync sets that they want.
    pub(crate) fn proposals(&self) -> &Arc<Proposals> {
        &self.context.proposals
    }

    /// A key that no other watcher of partitions has.
    pub(crate) fn next_watcher(&self) -> u64 {
        self.watchers.fetch_add(1, Ordering::Relaxed)
    }

    /// Every replica that is here.
    pub(crate) fn all(&self) -> Vec<Arc<Partition>> {
        let table = self.table.read();
        let leading = |slot: &Slot| match slot {
            Slot::Here(partition) => Some(Arc::clone(partition)),
            Slot::Elsewhere | Slot::Broken(_) => None,
        };
        table.values().flatten().filter_map(leading).collect()
    }

    /// Takes up what `next` says of partitions, where that is new, before clients learn of it: opens the logs of new replicas and
    /// has each replica play the part it is given.
    pub(crate) async fn before_publishing(&self, next: &Image) {
        self.sweep(next).await;
        let before = self.taken_up.load_full();
        // A broker that was cut off may learn of a topic's end and of the next one of its name at once: the new logs lie where the
        // old ones do.
        let is_replaced = |topic: &&Arc<Topic>| is_gone(topic, next) && next.topic(&topic.name).is_some();
        for topic in before.topics().filter(is_replaced) {
            self.forget(topic).await;
        }
        let changes: Vec<Change<'_>> = changes(&before, next).collect();
        let wanted = changes.iter().filter(|change| self.is_new_here(change));
        let wanted: Vec<Wanted> =
            wanted.map(|change| self.wanted(next, change.topic, change.index)).collect();
        *self.opening.lock() = wanted.iter().map(|wanted| wanted.at.clone()).collect();
        let (ready, missing): (Vec<_>, Vec<_>) =
            wanted.into_iter().partition(|wanted| self.opened.lock().contains_key(&wanted.at));
        let mut logs = self.open_logs(missing).await.unwrap_or_else(|error| {
            tracing::error!(%error, "new logs cannot be noted, and are not served");
            BTreeMap::new()
        });
        for wanted in ready {
            let log = self.opened.lock().remove(&wanted.at);
            logs.insert(wanted.at, log);
        }
        for change in &changes {
            self.take_up(next, change, &mut logs);
        }
        self.opening.lock().clear();
        self.context.copying.attend_all();
        self.taken_up.store(Arc::new(next.clone()));
    }

    fn is_here(&self, partition: &Known) -> bool {
        partition.replicas.contains(&self.context.node)
    }

    fn slot(&self, topic_id: TopicId, index: i32) -> Option<Slot> {
        self.table.read().get(&topic_id)?.get(usize::try_from(index).ok()?).cloned()
    }

    fn is_new_here(&self, change: &Change<'_>) -> bool {
        let is_new = match self.slot(change.topic.id, change.index) {
            Some(Slot::Here(_)) => false,
            Some(Slot::Broken(at)) => self.lacking.is_gone(&at), // it may be copied once nothing hangs on what was there
            Some(Slot::Elsewhere) | None => true,
        };
        let is_missed = || self.lacking.is_missed(&change.at(), change.partition, self.context.node);
        is_new && self.is_here(change.partition) && !is_missed()
    }

    fn take_up(&self, next: &Image, change: &Change<'_>, logs: &mut BTreeMap<TopicPartition, Option<Log>>) {
        let at = change.at();
        let known = self.slot(change.topic.id, change.index);
        let slot = match (known, logs.remove(&at)) {
            (Some(Slot::Here(partition)), _) => Slot::Here(partition),
            (_, Some(Some(log))) => {
                let settings = self.settings(next, &change.topic.name);
                let was_clean = self.was_clean || log.end_offset() == Offset(0);
                let mark = self.dir.read().checkpointed_high_watermark(&at).unwrap_or_default();
                self.lacking.forget(&at);
                Slot::Here(Partition::new(&self.context, at, log, settings, mark, was_clean))
            }
            _ if self.is_here(change.partition) => Slot::Broken(at),
            _ => Slot::Elsewhere,
        };
        if let Slot::Here(partition) = &slot {
            self.assume(partition, change.partition);
        }
        let mut table = self.table.write();
        let slots = table.entry(change.topic.id).or_default();
        if slots.len() < change.topic.partitions.len() {
            slots.resize(change.topic.partitions.len(), Slot::Elsewhere);
        }
        if let Some(place) = usize::try_from(change.index).ok().and_then(|index| slots.get_mut(index)) {
            *place = slot;
        }
    }

    /// Has a replica play its part, and has it copied from its leader where it follows one.
    fn assume(&self, partition: &Arc<Partition>, known: &Known) {
        if !self.is_here(known) {
            return; // it is given up once the image is published
        }
        match partition.assume(&Assigned::from(known)) {
            Leadership::Unchanged => {}
            Leadership::Leads => self.context.copying.forget(partition),
            Leadership::Follows => self.context.copying.copy(partition, known.leader, known.leader_epoch),
        }
    }

    /// Does what clients need not wait for: gives up what is gone, takes up changed configurations.
    pub(crate) async fn after_publishing(&self, before: &Image, next: &Image, batches: &[Committed]) {
        self.give_up(before, next).await;
        for topic in before.topics().filter(|topic| is_gone(topic, next)) {
            self.forget(topic).await;
        }
        if batches.iter().any(|batch| batch.snapshot) {
            next.topics().for_each(|topic| self.configure(next, topic));
        }
        for record in batches.iter().flat_map(|batch| &batch.records) {
            let Record::Config(config) = record else { continue };
            match ConfigScope::of_resource(config.resource_type, &config.resource_name) {
                Some(ConfigScope::Topic(name)) => {
                    next.topic(&name).into_iter().for_each(|topic| self.configure(next, topic));
                }
                Some(_) => next.topics().for_each(|topic| self.configure(next, topic)),
                None => {}
            }
        }
    }

    fn settings(&self, image: &Image, topic: &str) -> TopicSettings {
        let effective = Effective::new(image, self.context.node, &self.statics);
        let expiration_ms = effective.broker_number("producer.id.expiration.ms", 86_400_000);
        let limited = |side: Side| {
            let named = effective.topic_value(Some(topic), side.replicas_name());
            Limited::parse(&named.unwrap_or_default())
        };
        TopicSettings {
            sending_limited: limited(Side::Leader),
            receiving_limited: limited(Side::Follower),
            ..TopicSettings::new(&effective.topic_config(topic), expiration_ms)
        }
    }

    fn configure(&self, image: &Image, topic: &Topic) {
        let settings = self.settings(image, &topic.name);
        let slots = self.table.read().get(&topic.id).cloned().unwrap_or_default();
        for slot in slots {
            if let Slot::Here(partition) = slot {
                partition.configure(settings.clone());
            }
        }
    }

    /// Applies retention everywhere. Blocks.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn retain(&self) -> Result<(), StorageError> {
        self.all().iter().try_for_each(|partition| partition.retain())
    }

    /// Every partition that should be here and whose log could not be opened.
    fn broken(&self) -> Vec<TopicPartition> {
        let broken = |slot: &Slot| match slot {
            Slot::Broken(at) => Some(at.clone()),
            Slot::Elsewhere | Slot::Here(_) => None,
        };
        self.table.read().values().flatten().filter_map(broken).collect()
    }

    /// Plays no part any more, and leaves every log so that the next open need not scan it. Nothing may be flushing any more.
    ///
    /// # Errors
    /// Those of the disk, or a job that was lost; the next start then recovers as after a crash.
    pub(crate) async fn close(&self) -> crate::Result<()> {
        let all = self.all();
        let jobs = all.chunks(CLOSED_PER_JOB).map(|some| {
            let some = some.to_vec();
            let close = move || some.iter().try_for_each(|partition| partition.close());
            self.context.env.blocking(Pool::General, close)
        });
        for closed in join_all(jobs).await {
            closed??;
        }
        Ok(())
    }

    /// Has every partition retire.
    pub(crate) fn retire(&self) {
        self.all().iter().for_each(Partition::retire);
    }

    /// Forgets who waits, everywhere, without an answer.
    pub(crate) fn abandon(&self) {
        self.context.copying.abandon();
        for partition in self.all() {
            partition.abandon();
        }
        self.table.write().clear();
    }
}

/// The partitions of which `next` says something that `before` did not. What two images share is not looked into.
fn changes<'a>(before: &'a Image, next: &'a Image) -> impl Iterator<Item = Change<'a>> {
    next.topics().flat_map(|topic| {
        let known = before.topic_by_id(topic.id);
        let is_same = known.is_some_and(|known| Arc::ptr_eq(known, topic));
        let partitions = if is_same { &[] } else { topic.partitions.as_slice() };
        partitions.iter().enumerate().filter_map(move |(at, partition)| {
            let old = known.and_then(|known| known.partitions.get(at));
            let index = i32::try_from(at).ok()?;
            let is_new = old.is_none_or(|old| !Arc::ptr_eq(old, partition));
            is_new.then_some(Change { topic, index, partition })
        })
    })
}

/// Whether the topic was deleted; one of its name may be there.
fn is_gone(topic: &Topic, next: &Image) -> bool {
    next.topic_by_id(topic.id).is_none()
}
