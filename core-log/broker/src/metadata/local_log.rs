//! The metadata log with one voter: a storage log under `__cluster_metadata-0`, led by this node in a new epoch at each start.

use std::sync::Arc;

use futures::FutureExt;
use millstream_env::{Env, Pool};
use millstream_machine::metadata::{BoxFuture, Committed, MetadataLog, ProposeError, Record};
use millstream_record::{Batches, LeaderEpoch, Offset, TopicPartition};
use millstream_storage::{AppendOrigin, Log, ReadRequest, StorageError};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::codec::{decode, encode, failed};
use crate::partition::Checkpointed;
use crate::partitions::CLUSTER_METADATA;

/// Largest stretch of the log that is read at once.
const READ_BYTES: usize = 1 << 20;

/// The metadata log with one voter.
pub(crate) struct LocalLog {
    env: Env,
    epoch: LeaderEpoch,
    log: Arc<Mutex<Log>>,
    /// Whoever holds it syncs; the others wait, and are often done by then.
    flushing: Arc<tokio::sync::Mutex<()>>,
    committed: Arc<Notify>,
}

impl LocalLog {
    /// Leads `log` in the epoch after its last. All of it is committed: recovery made what it kept durable, and there is no
    /// other voter.
    pub(crate) fn lead(env: Env, mut log: Log) -> Self {
        let epoch = LeaderEpoch(log.leader_epochs().latest().map_or(1, |last| last.0 + 1));
        log.begin_epoch(epoch);
        Self {
            env,
            epoch,
            log: Arc::new(Mutex::new(log)),
            flushing: Arc::default(),
            committed: Arc::new(Notify::new()),
        }
    }

    /// Writes what makes the next open fast.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn close(&self) -> Result<(), StorageError> {
        self.log.lock().close()
    }

    /// As [`crate::partition::Partition::write_epochs`].
    pub(crate) fn write_epochs(&self) -> Result<(), StorageError> {
        let Some(job) = self.log.lock().epochs_begin() else { return Ok(()) };
        let written = job.run();
        self.log.lock().epochs_done(written)
    }

    /// What the directory's checkpoints say of this log.
    pub(crate) fn checkpointed(&self) -> Checkpointed {
        let log = self.log.lock();
        Checkpointed {
            at: TopicPartition::new(CLUSTER_METADATA, 0),
            recovery_point: log.recovery_point(),
            start: log.start_offset(),
            high_watermark: log.flushed_offset(),
        }
    }

    fn append(&self, records: &[Record]) -> Result<Offset, ProposeError> {
        let batch = encode(records, self.env.now())?;
        let mut log = self.log.lock();
        let origin = AppendOrigin::Coordinator { epoch: self.epoch };
        let info = log.append(&batch, origin, self.env.now()).map_err(failed)?;
        Ok(info.last_offset.plus(1))
    }
}

impl MetadataLog for LocalLog {
    fn leadership(&self) -> (LeaderEpoch, bool) {
        (self.epoch, true)
    }

    fn propose(
        &self,
        epoch: LeaderEpoch,
        records: Vec<Record>,
    ) -> BoxFuture<'static, Result<Offset, ProposeError>> {
        if epoch != self.epoch {
            let ended = ProposeError::EpochEnded { decided: epoch, current: self.epoch };
            return async move { Err(ended) }.boxed();
        }
        let appended = self.append(&records);
        let (env, log) = (self.env.clone(), Arc::clone(&self.log));
        let (flushing, committed) = (Arc::clone(&self.flushing), Arc::clone(&self.committed));
        async move {
            let end = appended?;
            let _turn = flushing.lock().await;
            if log.lock().flushed_offset() < end {
                flush(&env, &log).await?;
            }
            committed.notify_waiters();
            Ok(end)
        }
        .boxed()
    }

    fn committed_end(&self) -> Offset {
        self.log.lock().flushed_offset()
    }

    fn read(
        &self,
        from: Offset,
        max_batches: usize,
    ) -> BoxFuture<'static, Result<Vec<Committed>, ProposeError>> {
        let (env, log, committed) = (self.env.clone(), Arc::clone(&self.log), Arc::clone(&self.committed));
        async move {
            loop {
                let more = committed.notified();
                let end = log.lock().flushed_offset();
                if end > from {
                    return read(&env, &log, from, end, max_batches).await;
                }
                more.await;
            }
        }
        .boxed()
    }
}

async fn flush(env: &Env, log: &Arc<Mutex<Log>>) -> Result<(), ProposeError> {
    let Some(job) = log.lock().flush_begin() else { return Ok(()) };
    let result = env.blocking(Pool::Flush, move || job.run()).await.map_err(|_| ProposeError::Closed)?;
    log.lock().flush_done(result).map(|_| ()).map_err(failed)
}

async fn read(
    env: &Env,
    log: &Arc<Mutex<Log>>,
    from: Offset,
    end: Offset,
    max_batches: usize,
) -> Result<Vec<Committed>, ProposeError> {
    let request = ReadRequest {
        offset: from,
        max_bytes: READ_BYTES,
        upper_bound: end,
        at_least_one: true,
        with_aborted: false,
    };
    let plan = log.lock().read_plan(request).map_err(failed)?;
    let slices =
        env.blocking(Pool::Read, move || plan.run_blocking()).await.map_err(|_| ProposeError::Closed)?;
    let batches = Batches::new(slices.map_err(failed)?.bytes);
    batches.take(max_batches).map(|batch| decode(&batch.map_err(failed)?)).collect()
}
