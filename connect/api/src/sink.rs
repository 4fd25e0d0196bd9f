//! Sinks: what takes rows out of the log.

use std::collections::BTreeMap;
use std::path::PathBuf;

use arrow::array::{Int8Array, RecordBatch};
use arrow::datatypes::SchemaRef;
use futures::future::BoxFuture;
use millstream_record::{Offset, TopicId, TopicPartition};

use crate::{Config, ConfigDef, Problem, Result, TaskContext};

/// A kind of sink, such as `file`.
pub trait SinkConnector: Send + Sync {
    /// What `type = "..."` says.
    fn name(&self) -> &'static str;

    /// The keys that a configuration may and must have.
    fn definition(&self) -> ConfigDef;

    /// Finds what cannot work about `config` for rows like `input`, without touching the outside world.
    fn check(&self, config: &Config, input: &SinkInput) -> Vec<Problem>;

    /// What the sink writes with this configuration when it reads `topics`, where two sinks that write the same would lose each
    /// other's rows: equal texts mean that they do. Nothing where sinks can share.
    ///
    /// # Errors
    /// Why one sink cannot read all of these topics.
    fn claims(&self, config: &Config, topics: &[String]) -> Result<Vec<String>, Vec<Problem>> {
        let _ = (config, topics);
        Ok(Vec::new())
    }

    /// A task that takes rows like `input`.
    ///
    /// # Errors
    /// [`crate::ConnectError::Config`] with what [`SinkConnector::check`] finds.
    fn task(&self, config: &Config, input: &SinkInput) -> Result<Box<dyn SinkTask>>;
}

/// The rows that a sink will be handed.
#[derive(Clone, Debug)]
pub struct SinkInput {
    /// Name of the sink (`[sink.x]`), fit for naming progress in the outside system.
    pub name: String,
    /// Schema of the rows.
    pub schema: SchemaRef,
    /// Columns of the key, in order; empty for append-only rows without one.
    pub key: Vec<String>,
    /// Whether rows may replace and delete earlier ones (a changelog), or are only ever added.
    pub changelog: bool,
}

/// A running sink. Calls never overlap. After an error the worker drops the task, makes another one and opens it.
pub trait SinkTask: Send {
    /// Takes over partitions and says where each begins: the first offset that the sink does *not* hold durably. A sink with
    /// progress of its own (names of files, a table) overrides the committed offset with it; one without answers what it was given.
    fn open(&mut self, open: SinkOpen) -> BoxFuture<'_, Result<BTreeMap<TopicPartition, Offset>>>;

    /// Takes rows. They need not be durable when this returns.
    ///
    /// # Errors
    /// [`crate::ConnectError::BadRows`] names all rows that the sink cannot take for what is in them; then it has taken none of the
    /// batch, nor moved its progress, and stays open. The worker deals with those rows and puts the batch again without them: once
    /// for each batch, however many they are. So a sink finds them all, and not each by a search of its own.
    fn put(&mut self, batch: SinkBatch) -> BoxFuture<'_, Result<()>>;

    /// All records below these offsets were read: their rows were put, and those that are none, or that the sink has refused, are
    /// dealt with durably. A sink with progress of its own moves it, or it would be handed them again by the next run. Called before
    /// [`SinkTask::flush`] and [`SinkTask::finish`] where there were such records.
    fn passed(&mut self, read: BTreeMap<TopicPartition, Offset>) -> BoxFuture<'_, Result<()>> {
        let _ = read;
        Box::pin(std::future::ready(Ok(())))
    }

    /// Makes durable what is due by the sink's own rules (age, size) and answers the next offset of each partition that is safe to
    /// commit. Called at the worker's commit interval, also without new rows.
    fn flush(&mut self) -> BoxFuture<'_, Result<BTreeMap<TopicPartition, Offset>>>;

    /// Makes everything durable: the input has ended, or the worker stops in an orderly way. Answers as [`SinkTask::flush`] does.
    fn finish(&mut self) -> BoxFuture<'_, Result<BTreeMap<TopicPartition, Offset>>>;

    /// Lets go of everything, without making more durable.
    fn close(&mut self) -> BoxFuture<'_, ()>;
}

/// What a sink task is given when it starts.
#[derive(Debug)]
pub struct SinkOpen {
    /// The partitions it will be handed rows of.
    pub partitions: Vec<SinkPartition>,
    /// A folder for notes of this sink alone, which need not exist yet. It goes when the pipeline is reset, and may be lost.
    pub state_dir: PathBuf,
    /// Clock, blocking work, stop signal.
    pub context: TaskContext,
}

/// A partition that a sink reads.
#[derive(Clone, Debug)]
pub struct SinkPartition {
    /// Which one.
    pub partition: TopicPartition,
    /// Id of its topic ([`TopicId::ZERO`] when the cluster gives none): another id under the same name is another log,
    /// to which the sink's stored progress does not apply.
    pub topic_id: TopicId,
    /// The committed offset of the sink's group, if it has one.
    pub committed: Option<Offset>,
}

/// Rows of consecutive records of one partition.
#[derive(Clone, Debug)]
pub struct SinkBatch {
    /// The partition they came from.
    pub partition: TopicPartition,
    /// Offset of each row's record, ascending, and not dense: control records and removed ones leave gaps.
    pub offsets: Vec<Offset>,
    /// The rows. Of a deleted row only the key columns are set.
    pub rows: RecordBatch,
    /// [`crate::Operation`] codes; absent when every row is one to add.
    pub operation: Option<Int8Array>,
}
