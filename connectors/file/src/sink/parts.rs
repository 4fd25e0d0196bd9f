//! Files that appear whole or not at all.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use millstream_connect_api::{ConnectError, Result};

use super::settings::Settings;
use super::template::Range;
use crate::source::glob;

/// The files below the base folder that are named by the template.
pub(super) fn finished(settings: &Settings, topics: &[&str]) -> Result<Vec<Range>> {
    let base = folder(&settings.base_dir);
    let pattern = format!("{}/{}", glob::escape(&base.to_string_lossy()), settings.template.pattern());
    let found = glob::expand(&[pattern], &[]).map_err(io_error("listing", base))?;
    let read = |path: PathBuf| {
        let below = path.strip_prefix(base).ok()?.to_str()?.to_owned();
        settings.template.read(&below, topics)
    };
    Ok(found.into_iter().filter_map(read).collect())
}

/// Gives a finished file its name: its bytes first, then its name, each durable before the next.
pub(super) fn publish(tmp: &Path, name: &Path) -> Result<()> {
    File::open(tmp).and_then(|file| file.sync_all()).map_err(io_error("syncing", tmp))?;
    let parent = folder(name.parent().unwrap_or(Path::new(".")));
    create_folder(parent)?;
    fs::rename(tmp, name).map_err(io_error("renaming to", name))?;
    sync_folder(parent)?;
    match tmp.parent().map(folder) {
        Some(from) if from != parent => sync_folder(from),
        _ => Ok(()),
    }
}

/// The folder, with a name for the current one.
pub(super) fn folder(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

/// Creates a folder and those above it, durably.
pub(super) fn create_folder(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let above = folder(path.parent().unwrap_or(Path::new(".")));
    if above != path {
        create_folder(above)?;
    }
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(io_error("creating", path)(error)),
        Ok(()) => sync_folder(above),
    }
}

fn sync_folder(path: &Path) -> Result<()> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(io_error("syncing", path))
}

/// A full disk or a missing right may be mended while the worker waits; so all I/O errors are tried again.
pub(super) fn io_error<'a>(doing: &'a str, path: &'a Path) -> impl Fn(io::Error) -> ConnectError + 'a {
    move |error| ConnectError::retriable(format!("{doing} {}", path.display()), error)
}
