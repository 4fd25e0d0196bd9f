//! Small text files that say whose a directory is: `meta.properties` of a log directory and `partition.metadata` of a partition.

use std::io;
use std::path::{Path, PathBuf};

use millstream_record::{NodeId, TopicId, Uuid};

use crate::disk::{self, Disk};
use crate::error::{Result, StorageError};

const META_FILE: &str = "meta.properties";
const PARTITION_FILE: &str = "partition.metadata";
/// Version 1 of `meta.properties` is that of KRaft clusters.
const META_VERSION: i64 = 1;
/// What helps when `meta.properties` cannot be read.
const MEND: &str = "restore the file from a backup, or write it with the lines version=1, cluster.id=, node.id= and directory.id=; \
                    `millstream cluster status` at another node shows the cluster's id, and the directories of controllers";
/// The version of `partition.metadata`.
const PARTITION_VERSION: i64 = 0;

/// Whose a log directory is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirIdentity {
    /// The cluster (`cluster.id`).
    pub cluster_id: String,
    /// The broker (`node.id`).
    pub node_id: NodeId,
    /// This directory (`directory.id`, KIP-858).
    pub directory_id: Uuid,
}

impl DirIdentity {
    /// Reads `meta.properties`; `None` for a directory that has none yet.
    pub(crate) fn read(disk: &dyn Disk, dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(META_FILE);
        let text = match disk::read_file(disk, &path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StorageError::io(&path)(error)),
        };
        let value = |key: &str| {
            let found =
                text.lines().find_map(|line| line.trim().strip_prefix(key)?.trim_start().strip_prefix('='));
            let missing = || StorageError::corrupt(&path, 0, format!("`{key}` is missing; {MEND}"));
            found.map(str::trim).ok_or_else(missing)
        };
        let wrong = |key: &str, found: &str| {
            StorageError::corrupt(&path, 0, format!("`{key}={found}` is not valid; {MEND}"))
        };
        let version = value("version")?;
        let known = version.parse::<i64>().map_err(|_| wrong("version", version))?;
        StorageError::refuse_newer(&path, known, META_VERSION)?;
        if known < META_VERSION {
            return Err(wrong("version", version));
        }
        let (node, directory) = (value("node.id")?, value("directory.id")?);
        Ok(Some(Self {
            cluster_id: value("cluster.id")?.to_owned(),
            node_id: NodeId(node.parse().map_err(|_| wrong("node.id", node))?),
            directory_id: Uuid::parse(directory).ok_or_else(|| wrong("directory.id", directory))?,
        }))
    }

    /// Where it is, or is to be.
    pub(crate) fn path(dir: &Path) -> PathBuf {
        dir.join(META_FILE)
    }

    /// Writes `meta.properties`, durably.
    pub(crate) fn write(&self, disk: &dyn Disk, dir: &Path) -> Result<()> {
        let Self { cluster_id, node_id, directory_id } = self;
        let text = format!(
            "#\ncluster.id={cluster_id}\ndirectory.id={directory_id}\nnode.id={node_id}\nversion={META_VERSION}\n"
        );
        let path = dir.join(META_FILE);
        disk::replace_file(disk, &path, text.as_bytes()).map_err(StorageError::io(&path))
    }
}

/// Makes the directory of a partition and notes the topic's id in it, or checks that it is that topic's.
pub(crate) fn claim_partition(disk: &dyn Disk, dir: &Path, topic_id: TopicId) -> Result<()> {
    match partition_topic_id(disk, dir)? {
        Some(found) if found == topic_id => Ok(()),
        Some(found) => Err(StorageError::TopicIdMismatch { path: dir.to_owned(), expected: topic_id, found }),
        None => {
            disk.create_dir(dir).map_err(StorageError::io(dir))?;
            // Before the note: who finds the note, also after this process was killed, may take the directory's name for durable.
            if let Some(parent) = dir.parent() {
                disk.sync_dir(parent).map_err(StorageError::io(parent))?;
            }
            let path = dir.join(PARTITION_FILE);
            let text = format!("version: {PARTITION_VERSION}\ntopic_id: {topic_id}");
            disk::replace_file(disk, &path, text.as_bytes()).map_err(StorageError::io(&path))
        }
    }
}

/// The topic id that a partition's directory notes; `None` when there is no such directory, or no note in it.
pub(crate) fn partition_topic_id(disk: &dyn Disk, dir: &Path) -> Result<Option<TopicId>> {
    let path = dir.join(PARTITION_FILE);
    let text = match disk::read_file(disk, &path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StorageError::io(&path)(error)),
    };
    let value = |key: &str| text.lines().find_map(|line| Some(line.strip_prefix(key)?.trim()));
    if let Some(version) = value("version:").and_then(|version| version.parse::<i64>().ok()) {
        StorageError::refuse_newer(&path, version, PARTITION_VERSION)?;
    }
    let id = value("topic_id:").and_then(Uuid::parse);
    id.map(Some).ok_or_else(|| StorageError::corrupt(&path, 0, "no `topic_id` that can be read"))
}
