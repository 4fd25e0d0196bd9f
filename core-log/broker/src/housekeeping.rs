//! What is done now and then (checkpoints, retention, snapshots: one task for all of it), and what follows from new metadata.

use std::sync::Arc;
use std::time::Duration;

use millstream_env::Pool;

use crate::shared::Shared;

/// Keeps house until the broker ends. Failures are logged and tried again at the next round: nothing here is promised to
/// anybody.
pub(crate) async fn run(shared: Arc<Shared>) {
    let ms =
        |name: &str| Duration::from_millis(u64::try_from(shared.config.number(name)).unwrap_or(u64::MAX));
    let checkpoint_every = ms("log.flush.offset.checkpoint.interval.ms");
    let retention_every = ms("log.retention.check.interval.ms");
    let env = shared.env.clone();
    let mut next_checkpoint = env.elapsed().saturating_add(checkpoint_every);
    let mut next_retention = env.elapsed().saturating_add(retention_every);
    loop {
        env.sleep_until(next_checkpoint.min(next_retention)).await;
        let now = env.elapsed();
        let is_retention_due = now >= next_retention;
        if is_retention_due {
            next_retention = now.saturating_add(retention_every);
        }
        if now >= next_checkpoint {
            next_checkpoint = now.saturating_add(checkpoint_every);
        }
        shared.groups.snapshot_due();
        shared.transactions.snapshot_due();
        let (partitions, metadata) = (Arc::clone(&shared.partitions), Arc::clone(&shared.metadata));
        let round = move || {
            if is_retention_due {
                partitions.retain()?;
            }
            // Before the checkpoint, which holds the directory's lock, so that recovery points can pass.
            partitions.write_epochs()?;
            metadata.log().write_epochs()?;
            partitions.checkpoint(|| metadata.log().checkpointed())
        };
        if let Ok(Err(error)) = env.blocking(Pool::General, round).await {
            tracing::error!(%error, "housekeeping failed; it is tried again");
        }
    }
}

/// Loads the coordinators whose partitions come to be led here, and forgets those that are led elsewhere, as the metadata
/// changes.
pub(crate) async fn follow_leadership(shared: Arc<Shared>) {
    loop {
        let end = shared.image.load().end();
        shared.groups.refresh();
        shared.transactions.refresh();
        if !shared.metadata.changed(end).await {
            return;
        }
    }
}
