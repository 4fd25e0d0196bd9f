//! Which log the files of a folder were written from. Positions are read from names, and names hold offsets; offsets of another log (after
//! a reset, or of another cluster) mean nothing here, so such files are refused instead of being taken for progress.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use millstream_connect_api::{ConnectError, Result, SinkPartition};

use super::parts::{self, io_error};
use super::settings::Settings;
use super::template::Range;

/// Ids of topics by name.
type Topics = BTreeMap<String, String>;

/// The manifest of this template's files; a hidden file, so that readers of the folder pass over it.
pub(super) fn path(settings: &Settings) -> PathBuf {
    settings.base_dir.join(format!(".millstream-{:016x}.json", hash(settings.template.text())))
}

/// Compares the manifest with the topics that the sink is to read, and writes it if it is new.
///
/// # Errors
/// Fatal when files that are there were written from another topic.
pub(super) fn reconcile(settings: &Settings, partitions: &[SinkPartition], finished: &[Range]) -> Result<()> {
    let path = path(settings);
    let topics: Topics = partitions
        .iter()
        .filter(|at| !at.topic_id.is_zero())
        .map(|at| (at.partition.topic.to_string(), at.topic_id.to_string()))
        .collect();
    let stored: Topics = match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
            ConnectError::fatal(
                format!("reading {}", path.display()),
                format!("{error}; remove the file if its folder is empty"),
            )
        })?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Topics::new(),
        Err(error) => return Err(io_error("reading", &path)(error)),
    };
    let holds = |topic: &str| finished.iter().any(|range| &*range.partition.topic == topic);
    for (topic, id) in &topics {
        if holds(topic) && !stored.is_empty() && stored.get(topic) != Some(id) {
            return Err(another_log(settings, topic));
        }
    }
    let mut merged = stored.clone();
    merged.retain(|topic, _| settings.template.has_topic() || topics.contains_key(topic));
    merged.extend(topics);
    if merged == stored {
        return Ok(());
    }
    let text =
        serde_json::to_vec(&merged).map_err(|error| ConnectError::fatal("writing a manifest", error))?;
    let tmp = path.with_extension("tmp");
    fs::write(&tmp, text).map_err(io_error("writing", &tmp))?;
    parts::publish(&tmp, &path)
}

fn another_log(settings: &Settings, topic: &str) -> ConnectError {
    let reason = format!(
        "its files were written from another log than topic '{topic}' of this one (after a reset, or on another cluster), so their names \
         do not tell what is still missing; move or remove them, or choose another path"
    );
    ConnectError::fatal(format!("folder {}", folder(&settings.base_dir).display()), reason)
}

/// The folder, with a name for the current one.
pub(super) fn folder(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

/// FNV-1a, 64 bits: frozen, since it names a file.
fn hash(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
