//! Preparing a directory before its node starts for the first time.

use std::path::Path;
use std::sync::Arc;

use millstream_env::Env;
use millstream_record::{NodeId, Uuid};
use millstream_storage::{LogDir, RealDisk};

use crate::{NodeError, Result};

/// Files that are open at once while a directory is prepared.
const OPEN_FILES: usize = 4;

/// Whose a directory is, as its `meta.properties` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Formatted {
    /// `cluster.id`
    pub cluster_id: String,
    /// `node.id`
    pub node: NodeId,
    /// `directory.id`
    pub directory: Uuid,
}

/// Makes `directory` that of node `node` of a cluster: a new one, unless its id is given. Blocks. It is not needed before a first
/// start, which does the same; it is for those who want to know the ids beforehand, or to be sure that a node joins no cluster but theirs.
///
/// # Errors
/// [`NodeError::Config`] when the directory is somebody's already; it stays so. Those of the disk.
pub fn format(env: &Env, directory: &Path, node: NodeId, cluster_id: Option<&str>) -> Result<Formatted> {
    if let Some(wrong) = cluster_id.filter(|text| Uuid::parse(text).is_none()) {
        return Err(NodeError::Config(vec![format!(
            "'{wrong}' is no id of a cluster: 22 characters of base64 (A-Z, a-z, 0-9, - and _), as another of its nodes has it in \
             meta.properties; without one, a new id is made"
        )]));
    }
    let disk = |error: millstream_storage::StorageError| NodeError::Broker(error.into());
    let dir = LogDir::open(Arc::new(RealDisk), directory, OPEN_FILES).map_err(disk)?;
    if let Some(known) = dir.identity().map_err(disk)? {
        return Err(NodeError::Config(vec![format!(
            "{} belongs to node {} of cluster {} already, and stays so; name an empty directory",
            directory.display(),
            known.node_id,
            known.cluster_id
        )]));
    }
    let new_id = || env.random_uuid().to_string();
    let cluster_id = cluster_id.map_or_else(new_id, str::to_owned);
    let claimed = dir.claim(&cluster_id, node, env.random_uuid()).map_err(disk)?;
    Ok(Formatted { cluster_id: claimed.cluster_id, node: claimed.node_id, directory: claimed.directory_id })
}

#[cfg(test)]
mod tests {
    use millstream_env::HostRuntime;

    use super::*;

    #[test]
    fn a_directory_is_given_away_once() {
        let (_runtime, env) = HostRuntime::start("format", 1).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let made = format(&env, dir.path(), NodeId(3), None).unwrap();
        assert_eq!(made.node, NodeId(3));
        let again = format(&env, dir.path(), NodeId(4), None).unwrap_err().to_string();
        assert!(again.contains(&format!("node 3 of cluster {}", made.cluster_id)), "{again}");
        let other = tempfile::tempdir().unwrap();
        let named = format(&env, other.path(), NodeId(4), Some(&made.cluster_id)).unwrap();
        assert_eq!(named.cluster_id, made.cluster_id);
        assert_ne!(named.directory, made.directory);
        let third = tempfile::tempdir().unwrap();
        let wrong = format(&env, third.path(), NodeId(5), Some("bad id")).unwrap_err().to_string();
        assert!(wrong.contains("'bad id' is no id of a cluster: 22 characters"), "{wrong}");
    }
}
