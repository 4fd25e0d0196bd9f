//! Files that appear whole or not at all.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use millstream_connect_api::{ConnectError, Result};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

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
    let mut ranges: Vec<Range> = found.into_iter().filter_map(read).collect();
    ranges.sort();
    Ok(ranges)
}

/// Two of the sorted ranges that hold the same offset: one writer never makes such files.
pub(super) fn overlap(ranges: &[Range]) -> Option<(&Range, &Range)> {
    let pairs = ranges.iter().zip(ranges.iter().skip(1));
    pairs.into_iter().find(|(a, b)| a.partition == b.partition && b.first <= a.last)
}

/// Gives a finished file its name: its bytes first, then its name, each durable before the next. False when there is a file of that
/// name with other bytes: it is another writer's, and stays.
pub(super) fn publish(tmp: &Path, name: &Path) -> Result<bool> {
    place(tmp, name, |tmp, name| match rename_to_new(tmp, name) {
        Ok(()) => Ok(true),
        // A call whose task was given up may have come as far as this with the same rows.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match holds_the_same(tmp, name)? {
            true => fs::remove_file(tmp).map(|()| true),
            false => Ok(false),
        },
        Err(error) => Err(error),
    })
}

/// Gives a file its name as [`publish`] does, in the place of an earlier one.
pub(super) fn replace(tmp: &Path, name: &Path) -> Result<()> {
    place(tmp, name, |tmp, name| fs::rename(tmp, name))
}

fn place<T>(tmp: &Path, name: &Path, rename: impl FnOnce(&Path, &Path) -> io::Result<T>) -> Result<T> {
    File::open(tmp).and_then(|file| file.sync_all()).map_err(io_error("syncing", tmp))?;
    let parent = folder(name.parent().unwrap_or(Path::new(".")));
    create_folder(parent)?;
    let renamed = rename(tmp, name).map_err(io_error("renaming to", name))?;
    sync_folder(parent)?;
    match tmp.parent().map(folder) {
        Some(from) if from != parent => sync_folder(from)?,
        _ => {}
    }
    Ok(renamed)
}

/// Renames where nothing has the new name.
fn rename_to_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Not every file system can do it in one step; on those a look before is better than none.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => match fs::symlink_metadata(to) {
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => fs::rename(from, to),
            Err(error) => Err(error),
        },
        other => other.map_err(io::Error::from),
    }
}

fn holds_the_same(a: &Path, b: &Path) -> io::Result<bool> {
    let (a, b) = (File::open(a)?, File::open(b)?);
    if a.metadata()?.len() != b.metadata()?.len() {
        return Ok(false);
    }
    let mut others = BufReader::new(b).bytes();
    for byte in BufReader::new(a).bytes() {
        if others.next().transpose()? != Some(byte?) {
            return Ok(false);
        }
    }
    Ok(others.next().is_none())
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
