//! Wakes the source when something changes below the watched folders. Only a hint: inotify coalesces, has limits and is dead on
//! network mounts, so folders are listed at an interval as well.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use futures::StreamExt;
use futures::channel::mpsc;
use notify::{RecursiveMode, Watcher};

/// Watches folders.
pub(super) struct Watch {
    watcher: Option<notify::RecommendedWatcher>,
    folders: BTreeSet<PathBuf>,
    changes: mpsc::Receiver<()>,
}

impl Watch {
    /// A watch of nothing yet. Without the system's notices only the interval is left.
    pub(super) fn new() -> Self {
        // Room for one: many changes are one reason to look.
        let (mut changed, changes) = mpsc::channel(0);
        let notice = move |event: notify::Result<notify::Event>| {
            let only_read = event.is_ok_and(|event| event.kind.is_access());
            if !only_read {
                let _ = changed.try_send(()); // full: the source will look anyway
            }
        };
        let watcher = notify::recommended_watcher(notice)
            .inspect_err(
                |error| tracing::warn!(%error, "no notices of changed files, looking at an interval only"),
            )
            .ok();
        Self { watcher, folders: BTreeSet::new(), changes }
    }

    /// Watches exactly these folders; one that cannot be watched is left to the interval.
    pub(super) fn set(&mut self, folders: BTreeSet<PathBuf>) {
        let Some(watcher) = &mut self.watcher else { return };
        for old in self.folders.difference(&folders) {
            let _ = watcher.unwatch(old); // it may be gone, with its watch
        }
        let mut watch = |folder: &Path| match watcher.watch(folder, RecursiveMode::NonRecursive) {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(folder = %folder.display(), %error, "not watched, looking at an interval");
                false
            }
        };
        let known = &self.folders;
        let kept = folders.into_iter().filter(|folder| known.contains(folder) || watch(folder));
        self.folders = kept.collect();
    }

    /// Completes at the next change, or never when nothing can be watched.
    pub(super) async fn changed(&mut self) {
        if self.watcher.is_none() || self.changes.next().await.is_none() {
            futures::future::pending::<()>().await;
        }
    }
}
