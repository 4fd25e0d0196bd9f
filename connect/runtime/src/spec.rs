//! What a worker is told to run.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use millstream_connect_api::{Config, SinkConnector, SourceConnector, TableSchema};
use millstream_env::Env;

use crate::{Ends, Log};

/// What all tasks of a worker share.
#[derive(Clone)]
pub struct WorkerEnv {
    /// Clock, tasks, blocking pool.
    pub env: Env,
    /// The log.
    pub log: Arc<dyn Log>,
    /// Names this pipeline or daemon; part of transactional ids, groups and keys of positions.
    pub namespace: String,
    /// Where sinks keep notes, each in a folder of its name.
    pub state_dir: PathBuf,
}

/// A table and the topic that holds it.
#[derive(Clone, Debug)]
pub struct TableTopic {
    /// The table.
    pub table: TableSchema,
    /// Its topic.
    pub topic: String,
    /// Partitions to create it with; the cluster's default when `None`.
    pub partitions: Option<i32>,
    /// Name of the converter of its values: one of [`millstream_connect_api::convert::CONVERTERS`].
    pub converter: String,
}

/// A source to run.
#[derive(Clone)]
pub struct SourceSpec {
    /// Name, unique in the namespace.
    pub name: String,
    /// Its kind.
    pub connector: Arc<dyn SourceConnector>,
    /// Its checked settings.
    pub config: Config,
    /// The tables it yields and where they go.
    pub tables: Vec<TableTopic>,
    /// What happens to input that is no row.
    pub on_error: OnError,
    /// How failures are retried.
    pub retry: RetryPolicy,
}

/// A sink to run.
#[derive(Clone)]
pub struct SinkSpec {
    /// Name, unique in the namespace.
    pub name: String,
    /// Its kind.
    pub connector: Arc<dyn SinkConnector>,
    /// Its checked settings.
    pub config: Config,
    /// Schema of all its topics.
    pub table: TableSchema,
    /// The topics that it reads.
    pub topics: Vec<String>,
    /// Name of the converter of their values.
    pub converter: String,
    /// Where the input ends, once that is known; `None` when it never ends.
    pub ends: Option<tokio::sync::watch::Receiver<Option<Ends>>>,
    /// What happens to records that are no rows, or that the sink refuses.
    pub on_error: OnError,
    /// How failures are retried.
    pub retry: RetryPolicy,
    /// How often the sink is asked to make rows durable and offsets are committed.
    pub commit_interval: Duration,
}

/// What happens to input that is no row (`on_error`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// The task fails and says where.
    #[default]
    Fail,
    /// It is counted and logged.
    Skip,
    /// It is kept in this topic, in the form of [`millstream_connect_api::bad_record_schema`] as JSON.
    DeadLetters(String),
}

/// How long a task that fails is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// First wait; each further one is twice as long.
    pub first_delay: Duration,
    /// Longest wait (`errors.retry.delay.max.ms`).
    pub max_delay: Duration,
    /// The task fails for good when nothing has succeeded for this long (`errors.retry.timeout`).
    pub timeout: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            first_delay: Duration::from_millis(300),
            max_delay: Duration::from_secs(60),
            timeout: Duration::from_secs(600),
        }
    }
}
