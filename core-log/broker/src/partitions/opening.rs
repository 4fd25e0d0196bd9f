//! Opening logs: all at start, new ones as replicas come to be here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::future::join_all;
use millstream_env::Pool;
use millstream_machine::metadata::{Image, Topic};
use millstream_record::{TopicId, TopicPartition};
use millstream_storage::{FoundLog, Log, LogConfig, LogDir, RecoveryReport, StorageError};

use super::{CLUSTER_METADATA, Partitions, changes};
use crate::Result;

/// Logs that are opened one after the other in one job; many jobs run at once.
const LOGS_PER_JOB: usize = 16;

/// A log to open.
pub(super) struct Wanted {
    pub(super) at: TopicPartition,
    topic_id: TopicId,
    config: LogConfig,
}

impl Partitions {
    /// At start: opens every log that the metadata knows, and takes out of sight what it does not know. Nothing is appended
    /// before this is done, since an unclean shutdown is told apart by a file that goes then.
    ///
    /// # Errors
    /// When the directory itself cannot be used. A single log that cannot be opened is reported, and only it is not served.
    pub(crate) async fn open_all(&self, image: &Image) -> Result<()> {
        let empty = Image::default();
        let mine = changes(&empty, image).filter(|change| self.is_here(change.partition));
        let wanted: Vec<Wanted> = mine.map(|change| self.wanted(image, change.topic, change.index)).collect();
        let known: BTreeSet<TopicPartition> = wanted.iter().map(|wanted| wanted.at.clone()).collect();
        self.delete_unknown(image, &known).await?;
        self.swept.store(true, Ordering::SeqCst);
        let found = self.dir.read().partitions()?;
        let found = found.into_iter().filter(|log| known.contains(&log.partition)).collect();
        self.open_before_use(found, wanted).await?;
        self.lacking.retain(|at, _| known.contains(at));
        Ok(())
    }

    /// At the start of a member of a cluster: opens every log that is here. The metadata that this node has so far may be older than
    /// any of them, so nothing is taken for unknown before the metadata has come to this life of the broker.
    ///
    /// # Errors
    /// As for [`Partitions::open_all`].
    pub(crate) async fn open_found(&self) -> Result<()> {
        let image = Image::default();
        let found = self.dir.read().partitions()?;
        let is_a_topics =
            |log: &FoundLog| &*log.partition.topic != CLUSTER_METADATA && log.topic_id.is_some();
        let found: Vec<FoundLog> = found.into_iter().filter(is_a_topics).collect();
        let wanted = found.iter().filter_map(|log| {
            let config = self.settings(&image, &log.partition.topic).log;
            Some(Wanted { topic_id: log.topic_id?, at: log.partition.clone(), config })
        });
        let wanted = wanted.collect();
        self.open_before_use(found, wanted).await
    }

    /// Opens those of `wanted` that are not gone; `found` lie in the directory.
    pub(super) async fn open_before_use(&self, found: Vec<FoundLog>, wanted: Vec<Wanted>) -> Result<()> {
        let is_a_topics = |at: &&TopicPartition| &*at.topic != CLUSTER_METADATA;
        let noted = self.dir.read().noted().map(|noted| noted.filter(is_a_topics).cloned().collect());
        self.lacking.begin(noted, &found);
        let wanted = wanted.into_iter().filter(|wanted| !self.lacking.is_gone(&wanted.at)).collect();
        let logs = self.open_logs(wanted).await?;
        let opened: BTreeMap<_, _> = logs.into_iter().filter_map(|(at, log)| Some((at, log?))).collect();
        self.lacking.lacks(found.into_iter().filter(|log| !opened.contains_key(&log.partition)));
        *self.opened.lock() = opened;
        Ok(self.dir.write().begin_use()?)
    }

    /// Whether nothing says which logs this node should have: then others must not count on anything that it acknowledged.
    pub(crate) fn may_lack_any(&self) -> bool {
        self.lacking.is_unsure()
    }

    pub(super) fn wanted(&self, image: &Image, topic: &Topic, index: i32) -> Wanted {
        Wanted {
            at: TopicPartition::new(Arc::clone(&topic.name), index),
            topic_id: topic.id,
            config: self.settings(image, &topic.name).log,
        }
    }

    /// Opens logs on many threads, and notes that they are here. Those that cannot be opened are `None`, and logged.
    ///
    /// # Errors
    /// When it cannot be noted; the directory is offline then.
    pub(super) async fn open_logs(
        &self,
        wanted: Vec<Wanted>,
    ) -> Result<BTreeMap<TopicPartition, Option<Log>>> {
        let names: Vec<TopicPartition> = wanted.iter().map(|wanted| wanted.at.clone()).collect();
        self.in_dir(move |dir| dir.forget_gone(&names)).await?;
        let mut jobs = Vec::new();
        let mut rest = wanted.into_iter().peekable();
        while rest.peek().is_some() {
            let some: Vec<Wanted> = rest.by_ref().take(LOGS_PER_JOB).collect();
            let (dir, now) = (Arc::clone(&self.dir), self.context.env.now());
            jobs.push(self.context.env.blocking(Pool::General, move || {
                let open = |wanted: Wanted| {
                    let opened = dir.read().open_log(&wanted.at, wanted.topic_id, wanted.config, now);
                    (wanted.at.clone(), report(&wanted.at, opened))
                };
                some.into_iter().map(open).collect::<Vec<_>>()
            }));
        }
        let logs: BTreeMap<_, _> = join_all(jobs).await.into_iter().flatten().flatten().collect();
        let opened = logs.iter().filter(|(_, log)| log.is_some()).map(|(at, _)| at.clone());
        let opened: Vec<TopicPartition> = opened.collect();
        self.in_dir(move |dir| dir.note(&opened)).await?;
        Ok(logs)
    }

    /// Does something to the directory where it may block.
    async fn in_dir(
        &self,
        work: impl FnOnce(&mut LogDir) -> Result<(), StorageError> + Send + 'static,
    ) -> Result<()> {
        let dir = Arc::clone(&self.dir);
        Ok(self.context.env.blocking(Pool::General, move || work(&mut dir.write())).await??)
    }
}

fn report(at: &TopicPartition, opened: Result<(Log, RecoveryReport), StorageError>) -> Option<Log> {
    match opened {
        Ok((log, report)) => {
            if let Some(cut) = report.cut {
                tracing::warn!(partition = %at, ?cut, "a torn tail was cut off");
            }
            Some(log)
        }
        Err(error) => {
            tracing::error!(
                partition = %at, %error,
                "the log cannot be opened, and this node does not serve the partition: where another replica leads, stop the node and \
                 delete the directory {at}, and it is copied again; else stop the node and restore the directory from a backup, or \
                 delete the topic"
            );
            None
        }
    }
}
