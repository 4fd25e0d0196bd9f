//! [`LogDir`]: a directory with the logs of many partitions, as one broker owns it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millstream_record::{Millis, NodeId, Offset, TopicId, TopicPartition, Uuid};

use crate::checkpoint::{self, Offsets};
use crate::config::LogConfig;
use crate::disk::{self, DirLock, Disk, Room};
use crate::error::{Result, StorageError};
use crate::handle::OpenFiles;
use crate::log::Log;
use crate::meta::{self, DirIdentity};
use crate::recovery::{Noted, RecoveryReport, Shutdown};
use crate::retention;

const LOCK_FILE: &str = ".lock";
const CLEAN_SHUTDOWN_FILE: &str = ".kafka_cleanshutdown";
const CLEAN_SHUTDOWN_VERSION: i64 = 0;
const RECOVERY_POINTS_FILE: &str = "recovery-point-offset-checkpoint";
const LOG_STARTS_FILE: &str = "log-start-offset-checkpoint";
const HIGH_WATERMARKS_FILE: &str = "replication-offset-checkpoint";
/// The suffix of a partition's directory that is being deleted.
const DELETE_SUFFIX: &str = "-delete";

/// A directory with the logs of many partitions. It is locked for as long as this lives.
///
/// What it notes beside the logs is in Kafka's files: `meta.properties`, the offset checkpoints, `.kafka_cleanshutdown`.
pub struct LogDir {
    files: Arc<OpenFiles>,
    path: PathBuf,
    clean: bool,
    recovery_points: Offsets,
    log_starts: Offsets,
    high_watermarks: Offsets,
    /// A checkpoint could not be written: its file may hold what it held before, or what it was to hold.
    is_unsure: bool,
    /// How often a recovery point was lowered.
    lowered: u64,
    /// There is a file that says which logs are here.
    notes_logs: bool,
    _lock: DirLock,
}

/// A partition found on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundLog {
    /// The partition, by the name of its directory.
    pub partition: TopicPartition,
    /// The topic's id, when the directory notes one.
    pub topic_id: Option<TopicId>,
}

impl LogDir {
    /// Makes the directory if there is none, locks it, and reads its checkpoints. At most `open_files` files of its logs are open at
    /// any time, apart from those with unsynced bytes. From here on it counts as not cleanly shut down.
    ///
    /// # Errors
    /// [`StorageError::Locked`], [`StorageError::Corrupt`] for a checkpoint that cannot be read, [`StorageError::Io`].
    pub fn open(disk: Arc<dyn Disk>, path: &Path, open_files: usize) -> Result<Self> {
        create_durably(&*disk, path)?;
        let lock_path = path.join(LOCK_FILE);
        let lock = disk.lock(&lock_path).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => StorageError::Locked { path: lock_path.clone() },
            _ => StorageError::io(&lock_path)(error),
        })?;
        let clean_path = path.join(CLEAN_SHUTDOWN_FILE);
        let clean = disk::read_file(&*disk, &clean_path).ok();
        if let Some(version) = clean.as_deref().and_then(clean_shutdown_version) {
            StorageError::refuse_newer(&clean_path, version, CLEAN_SHUTDOWN_VERSION)?;
        }
        let dir = Self {
            clean: clean.is_some(),
            recovery_points: checkpoint::read_offsets(&*disk, &path.join(RECOVERY_POINTS_FILE))?,
            log_starts: checkpoint::read_offsets(&*disk, &path.join(LOG_STARTS_FILE))?,
            high_watermarks: checkpoint::read_offsets(&*disk, &path.join(HIGH_WATERMARKS_FILE))?,
            notes_logs: !is_missing_file(&*disk, &path.join(RECOVERY_POINTS_FILE))?,
            files: OpenFiles::new(disk, open_files),
            path: path.to_owned(),
            is_unsure: false,
            lowered: 0,
            _lock: lock,
        };
        dir.remove_deleted()?;
        Ok(dir)
    }

    /// Says durably that from now on the directory is in use, so that a crash is not taken for a clean shutdown. Call it after all
    /// logs are open and before anything is appended.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    pub fn begin_use(&mut self) -> Result<()> {
        if std::mem::take(&mut self.clean) {
            let path = self.path.join(CLEAN_SHUTDOWN_FILE);
            self.disk().remove(&path).map_err(StorageError::io(&path))?;
            self.disk().sync_dir(&self.path).map_err(StorageError::io(&self.path))?;
        }
        Ok(())
    }

    fn remove_deleted(&self) -> Result<()> {
        for entry in self.disk().list(&self.path).map_err(StorageError::io(&self.path))? {
            if entry.is_dir && entry.name.ends_with(DELETE_SUFFIX) {
                retention::remove_tree(&**self.disk(), &self.path.join(entry.name))?;
            }
        }
        Ok(())
    }

    fn disk(&self) -> &Arc<dyn Disk> {
        self.files.disk()
    }

    /// The open files of this directory; also knows whether it is offline.
    #[must_use]
    pub fn files(&self) -> &Arc<OpenFiles> {
        &self.files
    }

    /// Where the directory is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The room on its disk; `None` where that is not known.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    pub fn room(&self) -> Result<Option<Room>> {
        self.disk().room(&self.path).map_err(StorageError::io(&self.path))
    }

    /// Whether the last owner closed it in order.
    #[must_use]
    pub fn was_clean(&self) -> bool {
        self.clean
    }

    /// Whose the directory is; `None` when nobody has written that yet.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] or [`StorageError::Io`].
    pub fn identity(&self) -> Result<Option<DirIdentity>> {
        DirIdentity::read(&**self.disk(), &self.path)
    }

    /// Refuses to have logs that were somebody's become `node_id`'s: call it where nothing says whose the directory is.
    ///
    /// # Errors
    /// [`StorageError::NoIdentity`] when there are logs, [`StorageError::Io`].
    pub fn expect_no_logs(&self, node_id: NodeId) -> Result<()> {
        let entries = self.disk().list(&self.path).map_err(StorageError::io(&self.path))?;
        let mut names = entries.into_iter().filter(|entry| entry.is_dir).map(|entry| entry.name);
        match names.find(|name| parse_partition(name).is_some()) {
            Some(found) => {
                let path = DirIdentity::path(&self.path);
                Err(StorageError::NoIdentity { path, found, node_id, directory_id: None })
            }
            None => Ok(()),
        }
    }

    /// Notes whose the directory is, or checks that it is that cluster's and node's. Gives the identity that holds; a directory that
    /// has none gets `new_directory_id`.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] when it belongs to another cluster or node; as for [`LogDir::expect_no_logs`].
    pub fn claim(&self, cluster_id: &str, node_id: NodeId, new_directory_id: Uuid) -> Result<DirIdentity> {
        if let Some(found) = self.identity()? {
            if found.cluster_id != cluster_id || found.node_id != node_id {
                let what = format!(
                    "the directory belongs to node {} of cluster {}, not to node {node_id} of cluster {cluster_id}; \
                     use the directory of this node, or an empty one",
                    found.node_id, found.cluster_id
                );
                return Err(StorageError::corrupt(&self.path.join("meta.properties"), 0, what));
            }
            return Ok(found);
        }
        self.expect_no_logs(node_id)?;
        let identity =
            DirIdentity { cluster_id: cluster_id.to_owned(), node_id, directory_id: new_directory_id };
        identity.write(&**self.disk(), &self.path)?;
        Ok(identity)
    }

    /// The partitions that have a directory here, ordered by name.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    pub fn partitions(&self) -> Result<Vec<FoundLog>> {
        let mut found = Vec::new();
        for entry in self.disk().list(&self.path).map_err(StorageError::io(&self.path))? {
            let Some(partition) = parse_partition(&entry.name).filter(|_| entry.is_dir) else { continue };
            let topic_id = meta::partition_topic_id(&**self.disk(), &self.path.join(&entry.name))?;
            found.push(FoundLog { partition, topic_id });
        }
        found.sort_by(|a, b| a.partition.cmp(&b.partition));
        Ok(found)
    }

    /// Opens the log of a partition, or makes an empty one.
    ///
    /// # Errors
    /// As for [`Log::open`].
    pub fn open_log(
        &self,
        partition: &TopicPartition,
        topic_id: TopicId,
        config: LogConfig,
        now: Millis,
    ) -> Result<(Log, RecoveryReport)> {
        let shutdown = if self.clean { Shutdown::Clean } else { Shutdown::Crash };
        let noted = Noted {
            recovery_point: self.recovery_points.get(partition).copied(),
            log_start: self.log_starts.get(partition).copied(),
            high_watermark: Some(self.checkpointed_high_watermark(partition).unwrap_or_default()),
        };
        Log::open(&self.files, &self.log_path(partition), topic_id, config, now, shutdown, noted)
    }

    /// The directory of a partition.
    #[must_use]
    pub fn log_path(&self, partition: &TopicPartition) -> PathBuf {
        self.path.join(partition.to_string())
    }

    /// The high watermark that the last checkpoint has for a partition.
    #[must_use]
    pub fn checkpointed_high_watermark(&self, partition: &TopicPartition) -> Option<Offset> {
        self.high_watermarks.get(partition).copied()
    }

    /// Notes, durably and each in one step, the recovery points ([`Log::recovery_point`]), log starts and high watermarks of all
    /// partitions. Of a partition among `unopened`, whose log lies here but is not open, the older notes are carried on: without its
    /// recovery point a damaged middle would be cut off as a torn tail once it opens. Else what is not named is forgotten.
    ///
    /// # Errors
    /// [`StorageError::Io`]; the older checkpoint then still holds.
    pub fn checkpoint(
        &mut self,
        mut recovery_points: Offsets,
        mut log_starts: Offsets,
        mut high_watermarks: Offsets,
        unopened: &[TopicPartition],
    ) -> Result<()> {
        self.files.check_online()?;
        for (offsets, known) in [
            (&mut recovery_points, &self.recovery_points),
            (&mut log_starts, &self.log_starts),
            (&mut high_watermarks, &self.high_watermarks),
        ] {
            for (at, offset) in unopened.iter().filter_map(|at| known.get_key_value(at)) {
                offsets.entry(at.clone()).or_insert(*offset);
            }
        }
        self.replace(recovery_points, log_starts, high_watermarks)
    }

    /// Writes those of the checkpoints that say something new.
    fn replace(
        &mut self,
        recovery_points: Offsets,
        log_starts: Offsets,
        high_watermarks: Offsets,
    ) -> Result<()> {
        for (name, offsets, known) in [
            (RECOVERY_POINTS_FILE, recovery_points, &mut self.recovery_points),
            (LOG_STARTS_FILE, log_starts, &mut self.log_starts),
            (HIGH_WATERMARKS_FILE, high_watermarks, &mut self.high_watermarks),
        ] {
            if self.is_unsure || offsets != *known {
                self.is_unsure = true;
                checkpoint::write_offsets(&**self.files.disk(), &self.path.join(name), &offsets)?;
                *known = offsets; // each with its file: what is known must be what a restart would find
            }
        }
        self.is_unsure = false;
        Ok(())
    }

    /// Lowers one recovery point durably: what must come before [`Log::truncate_to`], with
    /// [`Log::cut_point`] as `to`.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    pub fn lower_recovery_point(&mut self, partition: &TopicPartition, to: Offset) -> Result<()> {
        self.lowered += 1;
        let is_low = self.recovery_points.get(partition).is_none_or(|known| *known <= to);
        if is_low && !self.is_unsure {
            return Ok(());
        }
        let mut lowered = self.recovery_points.clone();
        lowered.entry(partition.clone()).and_modify(|known| *known = to.min(*known));
        checkpoint::write_offsets(&**self.files.disk(), &self.path.join(RECOVERY_POINTS_FILE), &lowered)?;
        self.recovery_points = lowered;
        Ok(())
    }

    /// Notes, durably, where some logs begin; what is noted of others stays. Before anybody is told that the records below are gone:
    /// their bytes are still there, and a restart would show them again.
    ///
    /// # Errors
    /// [`StorageError::Offline`]: after a failure nobody knows what a restart would find, so the directory goes offline.
    pub fn note_log_starts(
        &mut self,
        moved: impl IntoIterator<Item = (TopicPartition, Offset)>,
    ) -> Result<()> {
        self.files.check_online()?;
        let mut starts = self.log_starts.clone();
        starts.extend(moved);
        if self.is_unsure || starts != self.log_starts {
            // The other checkpoints are as sure as they were.
            let was_unsure = std::mem::replace(&mut self.is_unsure, true);
            let path = self.path.join(LOG_STARTS_FILE);
            checkpoint::write_offsets(&**self.files.disk(), &path, &starts)
                .map_err(|error| self.files.fail_with(error))?;
            (self.log_starts, self.is_unsure) = (starts, was_unsure);
        }
        Ok(())
    }

    /// How often a recovery point was lowered since the directory was opened. Who takes what a checkpoint is to say from a log without
    /// holding this directory tells by it that the log may have been cut since.
    #[must_use]
    pub fn lowered(&self) -> u64 {
        self.lowered
    }

    /// Forgets, durably, what is noted of logs but that they are here: what must come before [`Log::truncate_fully_and_start_at`]. The
    /// old start would hide, and the old recovery point miss, what a log holds that begins anew before them.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    pub fn begin_anew(&mut self, partitions: &[TopicPartition]) -> Result<()> {
        self.lowered += 1;
        let mut points = self.recovery_points.clone();
        points.extend(partitions.iter().map(|at| (at.clone(), Offset(0))));
        let (starts, marks) =
            (without(&self.log_starts, partitions), without(&self.high_watermarks, partitions));
        self.replace(points, starts, marks)
    }

    /// The logs that should be here, by what is noted; `None` where nothing says so.
    #[must_use]
    pub fn noted(&self) -> Option<impl Iterator<Item = &TopicPartition>> {
        self.notes_logs.then(|| self.recovery_points.keys())
    }

    /// Notes, durably, that logs are here which were opened: before anything is written to them, lest they are not missed when somebody
    /// takes them away. Where that fails the directory is offline: nothing may be written to a log that nobody would miss.
    ///
    /// # Errors
    /// [`StorageError::Offline`].
    pub fn note(&mut self, opened: &[TopicPartition]) -> Result<()> {
        if self.notes_logs && opened.iter().all(|at| self.recovery_points.contains_key(at)) {
            return Ok(());
        }
        let mut points = self.recovery_points.clone();
        opened.iter().for_each(|at| {
            points.entry(at.clone()).or_insert(Offset(0));
        });
        checkpoint::write_offsets(&**self.files.disk(), &self.path.join(RECOVERY_POINTS_FILE), &points)
            .map_err(|error| self.files.fail_with(error))?;
        (self.recovery_points, self.notes_logs) = (points, true);
        Ok(())
    }

    /// Forgets, durably, those of `partitions` whose directory is gone, or was emptied to the last name: a log that is made anew there would
    /// be measured by what the old one had. Where that fails the directory is offline.
    ///
    /// # Errors
    /// [`StorageError::Offline`].
    pub fn forget_gone(&mut self, partitions: &[TopicPartition]) -> Result<()> {
        let is_noted = |at: &&TopicPartition| {
            [&self.recovery_points, &self.log_starts, &self.high_watermarks]
                .iter()
                .any(|known| known.contains_key(*at))
        };
        let gone = |at: &&TopicPartition| {
            let topic_id = meta::partition_topic_id(&**self.disk(), &self.log_path(at));
            topic_id.is_ok_and(|topic_id| topic_id.is_none())
        };
        let gone: Vec<TopicPartition> = partitions.iter().filter(is_noted).filter(gone).cloned().collect();
        if gone.is_empty() {
            return Ok(());
        }
        let points = without(&self.recovery_points, &gone);
        let (starts, marks) = (without(&self.log_starts, &gone), without(&self.high_watermarks, &gone));
        self.replace(points, starts, marks).map_err(|error| self.files.fail_with(error))
    }

    /// Says durably that all logs were closed. Call it after [`Log::close`] of each and a last [`LogDir::checkpoint`].
    ///
    /// # Errors
    /// [`StorageError::Io`], [`StorageError::Offline`].
    pub fn mark_clean(&mut self) -> Result<()> {
        self.files.check_online()?;
        let path = self.path.join(CLEAN_SHUTDOWN_FILE);
        let text = format!(r#"{{"version":{CLEAN_SHUTDOWN_VERSION},"brokerEpoch":-1}}"#);
        disk::replace_file(&**self.disk(), &path, text.as_bytes()).map_err(StorageError::io(&path))
    }

    /// Forgets the checkpoints of a deleted partition and takes its directory out of sight, durably; its bytes go with
    /// [`DeletedLog::remove`], or when the directory is opened next. `unique` tells it from others of its name. Have
    /// the partition's [`Log`] leave first ([`Log::leave`]), and forget it.
    ///
    /// # Errors
    /// [`StorageError::Io`].
    pub fn delete_log(&mut self, partition: &TopicPartition, unique: Uuid) -> Result<DeletedLog> {
        for (name, known) in [
            (RECOVERY_POINTS_FILE, &mut self.recovery_points),
            (LOG_STARTS_FILE, &mut self.log_starts),
            (HIGH_WATERMARKS_FILE, &mut self.high_watermarks),
        ] {
            // A topic that is created anew under this name must not inherit them.
            if self.is_unsure || known.contains_key(partition) {
                let mut others = known.clone();
                others.remove(partition);
                checkpoint::write_offsets(&**self.files.disk(), &self.path.join(name), &others)?;
                *known = others;
            }
        }
        let hex: String = unique.0.iter().map(|byte| format!("{byte:02x}")).collect();
        let to = self.path.join(format!("{partition}.{hex}{DELETE_SUFFIX}"));
        let from = self.log_path(partition);
        self.disk().rename(&from, &to).map_err(StorageError::io(&from))?;
        self.disk().sync_dir(&self.path).map_err(StorageError::io(&self.path))?;
        Ok(DeletedLog { disk: Arc::clone(self.disk()), path: to })
    }
}

/// The directory of a deleted partition, out of sight.
#[must_use = "its bytes stay until it is removed"]
pub struct DeletedLog {
    disk: Arc<dyn Disk>,
    path: PathBuf,
}

impl DeletedLog {
    /// Removes the bytes. Blocks; needs no lock.
    ///
    /// # Errors
    /// [`StorageError::Io`]; what is left goes when the log directory is opened next.
    pub fn remove(self) -> Result<()> {
        retention::remove_tree(&*self.disk, &self.path)
    }
}

impl std::fmt::Debug for LogDir {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogDir").field("path", &self.path).field("clean", &self.clean).finish_non_exhaustive()
    }
}

/// What is `known` of others.
fn without(known: &Offsets, partitions: &[TopicPartition]) -> Offsets {
    let mut others = known.clone();
    for at in partitions {
        others.remove(at);
    }
    others
}

fn is_missing_file(disk: &dyn Disk, path: &Path) -> Result<bool> {
    match disk::read_file(disk, path) {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(StorageError::io(path)(error)),
    }
}

/// The partition that a directory's name tells: all before the last `-` is the topic.
fn parse_partition(name: &str) -> Option<TopicPartition> {
    let (topic, index) = name.rsplit_once('-')?;
    let index: i32 = index.parse().ok().filter(|&index| index >= 0)?;
    (!topic.is_empty()).then(|| TopicPartition::new(topic, index))
}

/// The version that the mark of an orderly end names; Kafka's was empty once.
fn clean_shutdown_version(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    let (_, value) = text.split_once(r#""version""#)?;
    let digits = value.trim_start().strip_prefix(':')?.trim_start();
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok()
}

/// Makes `path` and its missing parents, each with a durable name: a synced file in a folder whose own name is lost is lost
/// with it. The deepest folder that is there already may be of a run that died before it could sync that one's name.
fn create_durably(disk: &dyn Disk, path: &Path) -> Result<()> {
    let missing = path.ancestors().take_while(|level| is_missing(disk, level)).count();
    disk.create_dir(path).map_err(StorageError::io(path))?;
    for level in path.ancestors().take(missing + 1) {
        let Some(parent) = level.parent() else { break };
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        match disk.sync_dir(parent) {
            // A folder that we may pass through but not open was there before us.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            other => other.map_err(StorageError::io(parent))?,
        }
    }
    Ok(())
}

fn is_missing(disk: &dyn Disk, path: &Path) -> bool {
    !path.as_os_str().is_empty()
        && matches!(disk.list(path), Err(error) if error.kind() == io::ErrorKind::NotFound)
}
