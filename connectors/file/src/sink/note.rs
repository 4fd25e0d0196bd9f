//! Which log the files of a sink were written from. Positions are read from names, and names hold offsets; offsets of another log
//! (after a reset, or of another cluster) mean nothing here, so such files are refused instead of being taken for progress.
//!
//! The note of it lies with the state of the pipeline and goes with that, so that the folder of the files holds nothing else.
//! Where it is lost though the log is not, a committed offset tells as much: this sink has worked on this log before.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use millstream_connect_api::{ConnectError, Result, SinkPartition};

use super::parts::{self, io_error};
use super::settings::Settings;
use super::template::Range;

const FILE: &str = "topics.json";
/// Holds the name of another writer's file.
const TAKEN: &str = "taken";

/// Ids of topics by name.
type Topics = BTreeMap<String, String>;

/// Compares the note in `state_dir` with the topics that the sink is to read, and writes it if it is new.
///
/// # Errors
/// Fatal when files that are there were written from another topic.
pub(super) fn reconcile(
    settings: &Settings,
    state_dir: &Path,
    partitions: &[SinkPartition],
    finished: &[Range],
) -> Result<()> {
    let path = state_dir.join(FILE);
    let stored = read(&path)?;
    let mut topics = Topics::new();
    for at in partitions.iter().filter(|at| !at.topic_id.is_zero()) {
        topics.insert(at.partition.topic.to_string(), at.topic_id.to_string());
    }
    for (topic, id) in &topics {
        let is_known = match &stored {
            Some(stored) => stored.get(topic) == Some(id),
            None => partitions.iter().any(|at| *at.partition.topic == **topic && at.committed.is_some()),
        };
        if !is_known && finished.iter().any(|range| *range.partition.topic == **topic) {
            return Err(another_log(settings, topic, stored.as_ref()));
        }
    }
    let mut merged = stored.clone().unwrap_or_default();
    // Where names do not tell the topic, all files count as those of the one that is read now.
    merged.retain(|topic, _| settings.template.has_topic() || topics.contains_key(topic));
    merged.extend(topics);
    if stored.as_ref() == Some(&merged) {
        return Ok(());
    }
    let text = serde_json::to_vec(&merged).map_err(|error| ConnectError::fatal("writing a note", error))?;
    write(&path, &text)
}

/// Says in `state_dir` that another writer's file has the name that a file of this sink was to have. By its name it would count as
/// progress of this sink in the next run, which would then leave out the rows that are not in it.
pub(super) fn remember_taken(state_dir: &Path, name: &Path) -> Result<()> {
    write(&state_dir.join(TAKEN), name.as_os_str().as_encoded_bytes())
}

/// Refuses to go on while a file that [`remember_taken`] was told of is still there.
pub(super) fn check_taken(state_dir: &Path) -> Result<()> {
    let note = state_dir.join(TAKEN);
    let name = match fs::read(&note) {
        Ok(bytes) => PathBuf::from(OsString::from_vec(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error("reading", &note)(error)),
    };
    match fs::symlink_metadata(&name) {
        Ok(_) => Err(taken(&name)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::remove_file(&note).map_err(io_error("removing", &note))
        }
        Err(error) => Err(io_error("finding", &name)(error)),
    }
}

/// The file of another writer has the name that a file of this sink was to have.
pub(super) fn taken(name: &Path) -> ConnectError {
    ConnectError::fatal(
        name.display().to_string(),
        "a file with other rows has this name, so another sink writes to the same path; give each sink a path of its own, and move that \
         file away",
    )
}

fn write(path: &Path, text: &[u8]) -> Result<()> {
    path.parent().map_or(Ok(()), parts::create_folder)?;
    let tmp = path.with_extension("tmp");
    fs::write(&tmp, text).map_err(io_error("writing", &tmp))?;
    parts::replace(&tmp, path)
}

fn read(path: &Path) -> Result<Option<Topics>> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            let reason = format!("{error}; remove the file if the sink has written nothing yet");
            ConnectError::fatal(format!("reading {}", path.display()), reason)
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("reading", path)(error)),
    }
}

fn another_log(settings: &Settings, topic: &str, stored: Option<&Topics>) -> ConnectError {
    // Where names tell the topic, files of others are not looked at.
    let before = stored.filter(|stored| !settings.template.has_topic() && !stored.contains_key(topic));
    let cause = match before.and_then(|stored| stored.keys().next()) {
        Some(before) => format!(
            "its files were written from topic '{before}', and the sink reads '{topic}' now ('from' or 'topic' has changed)"
        ),
        None => format!(
            "its files were written from another log than topic '{topic}' of this one (after a reset, on another cluster, or with another \
             'from')"
        ),
    };
    let reason = format!(
        "{cause}, so their names do not tell what is still missing; choose another path, or move the files away or remove them: then all rows \
         that are still in the log are written anew"
    );
    ConnectError::fatal(format!("folder {}", parts::folder(&settings.base_dir).display()), reason)
}
