//! When a snapshot is made beside openraft's own count of entries, and what of the log goes then.
//!
//! openraft makes a snapshot every so many entries. One entry may be a megabyte, and some come rarely, so bytes and time are counted
//! here: of entries since the last snapshot, and of log and snapshot together. What a snapshot covers goes from here alone (openraft
//! does not bear a purge behind its own): all but the last entries, or all of it where log and snapshot have become too large, or the
//! snapshot too old.

use std::sync::Weak;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;

use super::config::Bounds;
use super::quorum_log::{Metrics, QuorumLog};
use super::store::Store;
use super::types::LogId;

/// Longest time between two looks at what is due.
const LOOK: Duration = Duration::from_secs(60);
/// Shortest one, where nothing else happens.
const LOOK_MIN: Duration = Duration::from_millis(10);

/// Keeps the log within `bounds`, and `keep` entries before the last snapshot where that allows it, until the quorum ends here.
pub(super) async fn run(quorum: Weak<QuorumLog>, mut metrics: Metrics, keep: u64, bounds: Bounds) {
    let mut asked = None;
    let look = bounds.retention_age.clamp(LOOK_MIN, LOOK);
    loop {
        let (snapshot, purged) = {
            let now = metrics.borrow_and_update();
            (now.snapshot, now.purged)
        };
        let (env, wait) = {
            let Some(quorum) = quorum.upgrade() else { return };
            let (store, raft) = (&quorum.store, &quorum.raft);
            // Counted anew from here on: asking again while one is being made would move the metrics, and with them this loop.
            let is_due = store.take_due(&bounds);
            if is_due && raft.trigger().snapshot().await.is_err() {
                return;
            }
            let covers_more = snapshot.filter(|snapshot| purged.is_none_or(|purged| purged < *snapshot));
            let last = covers_more.and_then(|snapshot| last_to_go(store, snapshot, keep, &bounds));
            // What a follower is being sent goes later, unasked.
            if let Some(last) = last.filter(|last| asked < Some(*last)) {
                asked = Some(last);
                if raft.trigger().purge_log(last).await.is_err() {
                    return;
                }
            }
            (store.env.clone(), store.due_in(&bounds).clamp(LOOK_MIN, look))
        };
        if let Ok(Err(_ended)) = env.timeout(wait, metrics.changed()).await {
            return;
        }
    }
}

/// The index of the last entry that `snapshot` makes needless.
fn last_to_go(store: &Store, snapshot: LogId, keep: u64, bounds: &Bounds) -> Option<u64> {
    let (bytes, age_ms) = match store.progress().snapshot {
        Some(file) => (file.size(), store.env.now().since_ms(file.made())),
        None => (0, 0),
    };
    let is_large = store.with_log(|log| log.size_bytes()).saturating_add(bytes) > bounds.retention;
    let is_old = u128::try_from(age_ms).is_ok_and(|age| age > bounds.retention_age.as_millis());
    if is_large || is_old {
        return Some(snapshot.index);
    }
    snapshot.index.checked_sub(keep)
}
