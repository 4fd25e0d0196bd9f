//! The replicas that are on this broker, kept as the metadata says.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use futures::future::join_all;
use millstream_env::Pool;
use millstream_machine::config::{Effective, Static};
use millstream_machine::metadata::{
    Broker as Registered, Committed, ConfigScope, Image, InternalTopic, LOST_DIRECTORY, Partition as Known,
    Record, Topic,
};
use millstream_protocol::ErrorCode;
use millstream_record::{LeaderEpoch, Offset, TopicId, TopicPartition, Uuid};
use millstream_storage::{
    DeletedLog, FoundLog, Log, LogConfig, LogDir, Offsets, OpenFiles, Room, StorageError,
};
use parking_lot::{Mutex, RwLock, RwLockWriteGuard};
use rustc_hash::FxHashMap;

use crate::coordinator::Snapshot;
use crate::lacking::{Lacking, hangs_on};
use crate::partition::{Assigned, Checkpointed, Context, Deferred, Leadership, Partition};
use crate::refusal::Refusal;
use crate::replication::{Limited, Proposals, Side};
use crate::topic_settings::TopicSettings;

/// Logs that are opened one after the other in one job; many jobs run at once.
const LOGS_PER_JOB: usize = 16;
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

/// A log to open.
struct Wanted {
    at: TopicPartition,
    topic_id: TopicId,
    config: LogConfig,
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

    /// At start: opens every log that the metadata knows, and takes out of sight what it does not know. Nothing is appended
    /// before this is done, since an unclean shutdown is told apart by a file that goes then.
    ///
    /// # Errors
    /// When the directory itself cannot be used. A single log that cannot be opened is reported, and only it is not served.
    pub(crate) async fn open_all(&self, image: &Image) -> Result<(), StorageError> {
        let empty = Image::default();
        let mine = changes(&empty, image).filter(|change| self.is_here(change.partition));
        let wanted: Vec<Wanted> = mine.map(|change| self.wanted(image, change.topic, change.index)).collect();
        let known: BTreeSet<TopicPartition> = wanted.iter().map(|wanted| wanted.at.clone()).collect();
        self.delete_unknown(image, &known).await?;
        self.swept.store(true, Ordering::SeqCst);
        let found = self.dir.read().partitions()?;
        let found = found.into_iter().filter(|log| known.contains(&log.partition)).collect();
        self.open_before_use(found, wanted).await?;
        self.lacking.retain(|at, _| known.contains(at));
        Ok(())
    }

    /// At the start of a member of a cluster: opens every log that is here. The metadata that this node has so far may be older than
    /// any of them, so nothing is taken for unknown before the metadata has come to this life of the broker.
    ///
    /// # Errors
    /// As for [`Partitions::open_all`].
    pub(crate) async fn open_found(&self) -> Result<(), StorageError> {
        let image = Image::default();
        let found = self.dir.read().partitions()?;
        let is_a_topics =
            |log: &FoundLog| &*log.partition.topic != CLUSTER_METADATA && log.topic_id.is_some();
        let found: Vec<FoundLog> = found.into_iter().filter(is_a_topics).collect();
        let wanted = found.iter().filter_map(|log| {
            let config = self.settings(&image, &log.partition.topic).log;
            Some(Wanted { topic_id: log.topic_id?, at: log.partition.clone(), config })
        });
        let wanted = wanted.collect();
        self.open_before_use(found, wanted).await
    }

    /// Opens those of `wanted` that are not gone; `found` lie in the directory.
    async fn open_before_use(&self, found: Vec<FoundLog>, wanted: Vec<Wanted>) -> Result<(), StorageError> {
        let is_a_topics = |at: &&TopicPartition| &*at.topic != CLUSTER_METADATA;
        let noted = self.dir.read().noted().map(|noted| noted.filter(is_a_topics).cloned().collect());
        self.lacking.begin(noted, &found);
        let wanted = wanted.into_iter().filter(|wanted| !self.lacking.is_gone(&wanted.at)).collect();
        let logs = self.open_logs(wanted).await?;
        let opened: BTreeMap<_, _> = logs.into_iter().filter_map(|(at, log)| Some((at, log?))).collect();
        self.lacking.lacks(found.into_iter().filter(|log| !opened.contains_key(&log.partition)));
        *self.opened.lock() = opened;
        self.dir.write().begin_use()
    }

    /// Whether nothing says which logs this node should have: then others must not count on anything that it acknowledged.
    pub(crate) fn may_lack_any(&self) -> bool {
        self.lacking.is_unsure()
    }

    /// Takes out of sight what `image`, the first that has this life of the broker, does not know: topics that were deleted, or made
    /// anew under the same name, and replicas that were moved away while this node was not there.
    async fn sweep(&self, image: &Image) {
        if self.swept.swap(true, Ordering::SeqCst) {
            return;
        }
        let empty = Image::default();
        let mine = changes(&empty, image).filter(|change| self.is_here(change.partition));
        let known: BTreeSet<TopicPartition> = mine.map(|change| change.at()).collect();
        self.lacking.retain(|at, id| {
            let of_that_name = image.topic(&at.topic).filter(|_| known.contains(at));
            of_that_name.is_some_and(|topic| id.is_none_or(|id| id == topic.id))
        });
        self.opened.lock().retain(|at, log| {
            known.contains(at) && image.topic(&at.topic).is_some_and(|topic| topic.id == log.topic_id())
        });
        let mine = changes(&empty, image).filter(|change| self.is_here(change.partition));
        let is_back = |change: &Change<'_>| {
            let directory = change.partition.directory_of(self.context.node);
            directory == LOST_DIRECTORY && self.opened.lock().contains_key(&change.at())
        };
        *self.found_again.lock() =
            mine.filter(is_back).map(|change| (change.topic.id, change.index)).collect();
        if let Err(error) = self.delete_unknown(image, &known).await {
            tracing::warn!(%error, "logs of deleted topics stay on disk until the next start");
        }
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

    /// Gives up replicas that a reassignment took from this broker.
    async fn give_up(&self, before: &Image, next: &Image) {
        let mut gone = Vec::new();
        for change in changes(before, next).filter(|change| !self.is_here(change.partition)) {
            let mut table = self.table.write();
            let slots = table.get_mut(&change.topic.id);
            let place = slots.and_then(|slots| slots.get_mut(usize::try_from(change.index).ok()?));
            let partition = match place.map(|place| std::mem::replace(place, Slot::Elsewhere)) {
                Some(Slot::Here(partition)) => {
                    drop(table);
                    self.context.copying.forget(&partition);
                    partition.retire();
                    Some(partition)
                }
                Some(Slot::Broken(at)) => {
                    self.lacking.forget(&at);
                    None
                }
                Some(Slot::Elsewhere) | None => continue,
            };
            gone.push((change.at(), partition));
        }
        self.delete(gone).await;
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

    fn wanted(&self, image: &Image, topic: &Topic, index: i32) -> Wanted {
        Wanted {
            at: TopicPartition::new(Arc::clone(&topic.name), index),
            topic_id: topic.id,
            config: self.settings(image, &topic.name).log,
        }
    }

    /// Opens logs on many threads, and notes that they are here. Those that cannot be opened are `None`, and logged.
    ///
    /// # Errors
    /// When it cannot be noted.
    async fn open_logs(
        &self,
        wanted: Vec<Wanted>,
    ) -> Result<BTreeMap<TopicPartition, Option<Log>>, StorageError> {
        let names: Vec<TopicPartition> = wanted.iter().map(|wanted| wanted.at.clone()).collect();
        self.in_dir(move |dir| dir.forget_gone(&names)).await?;
        let mut jobs = Vec::new();
        let mut rest = wanted.into_iter().peekable();
        while rest.peek().is_some() {
            let some: Vec<Wanted> = rest.by_ref().take(LOGS_PER_JOB).collect();
            let (dir, now) = (Arc::clone(&self.dir), self.context.env.now());
            jobs.push(self.context.env.blocking(Pool::General, move || {
                let open = |wanted: Wanted| {
                    let opened = dir.read().open_log(&wanted.at, wanted.topic_id, wanted.config, now);
                    (wanted.at.clone(), report(&wanted.at, opened))
                };
                some.into_iter().map(open).collect::<Vec<_>>()
            }));
        }
        let logs: BTreeMap<_, _> = join_all(jobs).await.into_iter().flatten().flatten().collect();
        let opened = logs.iter().filter(|(_, log)| log.is_some()).map(|(at, _)| at.clone());
        let opened: Vec<TopicPartition> = opened.collect();
        self.in_dir(move |dir| dir.note(&opened)).await?;
        Ok(logs)
    }

    /// Does something to the directory where it may block. A job that is lost was one of a broker that ends.
    async fn in_dir(
        &self,
        work: impl FnOnce(&mut LogDir) -> Result<(), StorageError> + Send + 'static,
    ) -> Result<(), StorageError> {
        let dir = Arc::clone(&self.dir);
        let done = self.context.env.blocking(Pool::General, move || work(&mut dir.write())).await;
        done.unwrap_or(Ok(()))
    }

    /// Gives up the partitions of a deleted topic. Their directories go out of sight at once, their bytes later.
    async fn forget(&self, topic: &Topic) {
        let slots = self.table.write().remove(&topic.id).unwrap_or_default();
        let mut gone = Vec::new();
        for (slot, index) in slots.into_iter().zip(0..) {
            let partition = match slot {
                Slot::Here(partition) => {
                    self.context.copying.forget(&partition);
                    partition.retire();
                    Some(partition)
                }
                Slot::Broken(at) => {
                    self.lacking.forget(&at);
                    None
                }
                Slot::Elsewhere => continue,
            };
            gone.push((TopicPartition::new(Arc::clone(&topic.name), index), partition));
        }
        self.delete(gone).await;
    }

    async fn delete_unknown(
        &self,
        image: &Image,
        known: &BTreeSet<TopicPartition>,
    ) -> Result<(), StorageError> {
        let found = self.dir.read().partitions()?;
        let is_metadata = |at: &TopicPartition| &*at.topic == CLUSTER_METADATA;
        let is_known = |at: &TopicPartition, id: Option<TopicId>| {
            known.contains(at)
                && image.topic(&at.topic).is_some_and(|topic| id.is_none_or(|id| id == topic.id))
        };
        let stray = found
            .into_iter()
            .filter(|log| !is_metadata(&log.partition) && !is_known(&log.partition, log.topic_id));
        self.delete(stray.map(|log| (log.partition, None)).collect()).await;
        Ok(())
    }

    /// Takes directories out of sight, and then removes them; replicas that were open have retired.
    async fn delete(&self, gone: Vec<(TopicPartition, Option<Arc<Partition>>)>) {
        if gone.is_empty() {
            return;
        }
        let ids: Vec<Uuid> = gone.iter().map(|_| self.context.env.random_uuid()).collect();
        let dir = Arc::clone(&self.dir);
        let hide = move || -> Vec<DeletedLog> {
            let hidden = gone.into_iter().zip(ids).map(|((at, partition), id)| {
                if let Some(partition) = partition {
                    partition.leave();
                }
                (dir.write().delete_log(&at, id), at)
            });
            let report = |(result, at): (Result<DeletedLog, StorageError>, TopicPartition)| {
                result
                    .inspect_err(
                        |error| tracing::warn!(partition = %at, %error, "a deleted log stays on disk"),
                    )
                    .ok()
            };
            hidden.filter_map(report).collect()
        };
        let Ok(deleted) = self.context.env.blocking(Pool::General, hide).await else { return };
        self.context.env.submit(Pool::General, move || {
            for log in deleted {
                if let Err(error) = log.remove() {
                    tracing::warn!(%error, "a deleted log's bytes stay until the next start");
                }
            }
        });
    }

    /// Applies retention everywhere. Blocks.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn retain(&self) -> Result<(), StorageError> {
        self.all().iter().try_for_each(|partition| partition.retain())
    }

    /// Writes the leader epochs of every partition whose file lacks some. Blocks.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn write_epochs(&self) -> Result<(), StorageError> {
        self.all().iter().try_for_each(|partition| partition.write_epochs())
    }

    /// Writes the directory's checkpoints, with that of the metadata log among them, where it is here. Blocks.
    ///
    /// # Errors
    /// Those of the disk; the older checkpoints then still hold.
    pub(crate) fn checkpoint(&self, metadata: impl Fn() -> Option<Checkpointed>) -> Result<(), StorageError> {
        // Held before the table is read: a topic that goes, or a log that is cut, meanwhile must not have its notes written again.
        let (mut dir, metadata) = between_cuts(&self.dir, metadata);
        // Before the table is read, where what is opening now comes to be.
        let mut unopened: Vec<TopicPartition> = self.opening.lock().iter().cloned().collect();
        unopened.extend(self.lacking.names());
        let (mut recovery, mut starts, mut marks) = (Offsets::new(), Offsets::new(), Offsets::new());
        let all = self.all();
        let noted: Vec<Checkpointed> = all.iter().map(|partition| partition.checkpointed()).collect();
        let begins: Vec<Offset> = noted.iter().map(|one| one.start).collect();
        for one in noted.into_iter().chain(metadata) {
            recovery.insert(one.at.clone(), one.recovery_point);
            starts.insert(one.at.clone(), one.start);
            marks.insert(one.at, one.high_watermark);
        }
        unopened.extend(self.broken());
        unopened.extend(self.opened.lock().keys().cloned());
        dir.checkpoint(recovery, starts, marks, &unopened)?;
        let noted = all.iter().zip(begins).map(|(partition, start)| partition.start_noted(start));
        let noted: Vec<Deferred> = noted.collect();
        drop(dir);
        all.iter().zip(noted).for_each(|(partition, after)| partition.perform(after));
        Ok(())
    }

    /// Every partition that should be here and whose log could not be opened.
    fn broken(&self) -> Vec<TopicPartition> {
        let broken = |slot: &Slot| match slot {
            Slot::Broken(at) => Some(at.clone()),
            Slot::Elsewhere | Slot::Here(_) => None,
        };
        self.table.read().values().flatten().filter_map(broken).collect()
    }

    /// The replicas that are not where `image` has them, each with where it is: nowhere, though others count on it; or in the directory of this
    /// broker, `me`, with all that it had, or without anything that others count on.
    pub(crate) fn misplaced(&self, image: &Image, me: &Registered) -> Vec<(TopicId, i32, Uuid)> {
        let own = match me.directories[..] {
            [directory] => Some(directory),
            _ => None,
        };
        let mut found_again = self.found_again.lock();
        found_again.retain(|(topic_id, index)| {
            let known = image.topic_by_id(*topic_id).zip(usize::try_from(*index).ok());
            known
                .and_then(|(topic, index)| topic.partitions.get(index))
                .is_some_and(|known| hangs_on(known, me.id) && known.directory_of(me.id) == LOST_DIRECTORY)
        });
        let place = |slot: &Slot, known: &Known, at: (TopicId, i32)| {
            let is_lost = known.directory_of(me.id) == LOST_DIRECTORY;
            match slot {
                Slot::Broken(_) => (!is_lost && hangs_on(known, me.id)).then_some(LOST_DIRECTORY),
                Slot::Here(_) if is_lost && !hangs_on(known, me.id) => own, // it was copied anew, or will be
                Slot::Here(_) if is_lost && found_again.contains(&at) => own,
                Slot::Here(_) | Slot::Elsewhere => None,
            }
        };
        let table = self.table.read();
        let known = table.iter().filter_map(|(id, slots)| Some((image.topic_by_id(*id)?, slots)));
        let misplaced = known.flat_map(|(topic, slots)| {
            slots.iter().zip(&topic.partitions).zip(0..).filter_map(|((slot, known), index)| {
                Some((topic.id, index, place(slot, known, (topic.id, index))?))
            })
        });
        misplaced.collect()
    }

    /// Cuts a follower's log at `target`, with its recovery point lowered first. Blocks, and keeps checkpoints out meanwhile: one
    /// that was taken before and written after would take what was cut for lost.
    ///
    /// # Errors
    /// As for [`Partition::cut`].
    pub(crate) fn cut(
        &self,
        partition: &Arc<Partition>,
        epoch: LeaderEpoch,
        target: Offset,
    ) -> Result<(), Refusal> {
        let mut dir = self.dir.write();
        self.cut_snapshot(partition, target)?;
        dir.lower_recovery_point(partition.at(), target)?;
        partition.cut(epoch, target)
    }

    /// Has a follower's log begin anew at `start`. Blocks, as [`Partitions::cut`] does.
    ///
    /// # Errors
    /// As for [`Partition::begin_anew`].
    pub(crate) fn begin_anew(
        &self,
        partition: &Arc<Partition>,
        epoch: LeaderEpoch,
        start: Offset,
    ) -> Result<(), Refusal> {
        let mut dir = self.dir.write();
        self.cut_snapshot(partition, Offset(0))?;
        dir.begin_anew(std::slice::from_ref(partition.at()))?;
        partition.begin_anew(epoch, start)
    }

    /// Does `work` while no log is being cut.
    pub(crate) fn between_cuts<T>(&self, work: impl FnOnce() -> T) -> T {
        let _no_cut = self.dir.read();
        work()
    }

    /// Removes what a coordinator noted of records that are going to be cut.
    fn cut_snapshot(&self, partition: &Partition, target: Offset) -> Result<(), Refusal> {
        if InternalTopic::of_name(&partition.at().topic).is_none() {
            return Ok(());
        }
        let dir = partition.dir();
        let failed = |error: std::io::Error| Refusal::new(ErrorCode::KafkaStorageError, error.to_string());
        Snapshot::cut(&*self.context.disk, &dir, target).map_err(failed)
    }

    /// Plays no part any more, and leaves every log so that the next open need not scan it. Nothing may be flushing any more.
    ///
    /// # Errors
    /// Those of the disk, or a job that was lost; the next start then recovers as after a crash.
    pub(crate) async fn close(&self) -> crate::Result<()> {
        let all = self.all();
        let jobs = all.chunks(LOGS_PER_JOB).map(|some| {
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

    /// Says that all logs, that of the metadata too, were closed in order. One that could not be opened was not: it may still have
    /// the tail that a crash tore.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn mark_clean(&self) -> Result<(), StorageError> {
        if self.broken().is_empty() && self.opened.lock().is_empty() {
            self.dir.write().mark_clean()
        } else {
            Ok(())
        }
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

/// Takes `dir`, and what `read` gives of a log that is cut without holding it. That log is locked when its recovery point is lowered,
/// so it cannot be read with the directory held; but a cut between the two is seen, and then it is read again.
fn between_cuts<T>(dir: &RwLock<LogDir>, read: impl Fn() -> T) -> (RwLockWriteGuard<'_, LogDir>, T) {
    loop {
        let lowered = dir.read().lowered();
        let found = read();
        let dir = dir.write();
        if dir.lowered() == lowered {
            return (dir, found);
        }
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

fn report(
    at: &TopicPartition,
    opened: Result<(Log, millstream_storage::RecoveryReport), StorageError>,
) -> Option<Log> {
    match opened {
        Ok((log, report)) => {
            if let Some(cut) = report.cut {
                tracing::warn!(partition = %at, ?cut, "a torn tail was cut off");
            }
            Some(log)
        }
        Err(error) => {
            tracing::error!(
                partition = %at, %error,
                "the log cannot be opened, and this node does not serve the partition: where another replica leads, stop the node and \
                 delete the directory {at}, and it is copied again; else stop the node and restore the directory from a backup, or \
                 delete the topic"
            );
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::path::Path;

    use millstream_storage::MemoryDisk;

    use super::*;

    #[test]
    fn what_a_checkpoint_says_of_a_log_is_read_again_when_that_was_cut_meanwhile() {
        let dir = RwLock::new(LogDir::open(Arc::new(MemoryDisk::default()), Path::new("/data"), 8).unwrap());
        let end = Cell::new(1000);
        let cut_after = |read: i64| {
            if end.replace(900) == 1000 {
                let mut dir = dir.write();
                dir.lower_recovery_point(&TopicPartition::new("t", 0), Offset(900)).unwrap();
            }
            read
        };
        let (_held, read) = between_cuts(&dir, || cut_after(end.get()));
        assert_eq!(read, 900);
    }
}
