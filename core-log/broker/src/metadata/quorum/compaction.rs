//! When a snapshot is made beside openraft's own count of entries, and what of the log goes then.
//!
//! openraft makes a snapshot every so many entries. One entry may be a megabyte, so bytes are counted here: of entries since the last
//! snapshot, and of log and snapshot together. What a snapshot covers goes from here alone (openraft does not bear a purge behind its own):
//! all but the last entries, or all of it where log and snapshot have become too large.

use std::sync::Weak;

use openraft::async_runtime::WatchReceiver;

use super::config::Bounds;
use super::quorum_log::{Metrics, QuorumLog};
use super::store::Store;
use super::types::LogId;

/// Keeps the log within `bounds`, and `keep` entries before the last snapshot where that allows it, until the quorum ends here.
pub(super) async fn run(quorum: Weak<QuorumLog>, mut metrics: Metrics, keep: u64, bounds: Bounds) {
    let mut asked = None;
    loop {
        let (snapshot, purged) = {
            let now = metrics.borrow_and_update();
            (now.snapshot, now.purged)
        };
        {
            let Some(quorum) = quorum.upgrade() else { return };
            let (store, raft) = (&quorum.store, &quorum.raft);
            // Counted anew from here on: asking again while one is being made would move the metrics, and with them this loop.
            let is_due = store.take_since_snapshot(bounds.between_snapshots);
            if is_due && raft.trigger().snapshot().await.is_err() {
                return;
            }
            let covers_more = snapshot.filter(|snapshot| purged.is_none_or(|purged| purged < *snapshot));
            let last = covers_more.and_then(|snapshot| last_to_go(store, snapshot, keep, bounds.retention));
            // What a follower is being sent goes later, unasked.
            if let Some(last) = last.filter(|last| asked < Some(*last)) {
                asked = Some(last);
                if raft.trigger().purge_log(last).await.is_err() {
                    return;
                }
            }
        }
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

/// The index of the last entry that `snapshot` makes needless.
fn last_to_go(store: &Store, snapshot: LogId, keep: u64, retention: u64) -> Option<u64> {
    let file = store.progress().snapshot.map_or(0, |file| file.size());
    if store.with_log(|log| log.size_bytes()).saturating_add(file) > retention {
        return Some(snapshot.index);
    }
    snapshot.index.checked_sub(keep)
}
