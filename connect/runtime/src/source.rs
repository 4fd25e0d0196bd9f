//! Runs one source: rows and positions in one transaction, and only then is the source told.

use futures::FutureExt;
use futures::future::BoxFuture;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use millstream_connect_api::convert::{Converter, converter};
use millstream_connect_api::{ConnectError, Polled, Positions, SourceBatch, SourceTask, TableSchema};
use tokio::sync::watch;

use crate::backoff::Backoff;
use crate::host::task_context;
use crate::log::{Kept, Log, LogWriter, TopicSpec};
use crate::{
    Ends, OnError, Outcome, Result, RuntimeError, SourceSpec, Status, Stop, TableTopic, WorkerEnv,
    dead_letters, offsets, rows, schemas,
};

/// A transaction is committed when it holds this many rows,
const TRANSACTION_ROWS: u64 = 64 * 1024;
/// or was made of this many bytes of the source,
const TRANSACTION_BYTES: u64 = 16 << 20;
/// or is this old, or the source has nothing more to give for now.
const TRANSACTION_AGE: Duration = Duration::from_millis(500);

/// Runs a source until it is drained, is asked to stop, or fails for good. Failures that may go away are retried by the
/// spec's policy, each time from what the log holds. When the source is drained, `ends` hears where its output ends.
///
/// # Errors
/// The last failure.
pub fn run_source(
    spec: SourceSpec,
    worker: WorkerEnv,
    stop: Stop,
    status: Status,
    ends: watch::Sender<Option<Ends>>,
) -> BoxFuture<'static, Result<Outcome>> {
    async move {
        let mut backoff = Backoff::new(spec.retry);
        loop {
            let attempt = Attempt { spec: &spec, worker: &worker, stop: &stop, status: &status };
            match attempt.run(&mut backoff, &ends).await {
                Ok(outcome) => return Ok(outcome),
                Err(error) => {
                    status.failed(&error);
                    backoff.after(error, &worker.env, &stop).await?;
                }
            }
        }
    }
    .boxed()
}

/// Creates the topics that a source writes.
pub(crate) async fn ensure_topics(log: &dyn Log, spec: &SourceSpec) -> Result<()> {
    log.ensure_topic(offsets::topic_spec()).await?;
    log.ensure_topic(schemas::topic_spec()).await?;
    for TableTopic { topic, partitions, .. } in &spec.tables {
        log.ensure_topic(TopicSpec { name: topic.clone(), partitions: *partitions, kept: Kept::Default })
            .await?;
    }
    if let OnError::DeadLetters(topic) = &spec.on_error {
        log.ensure_topic(TopicSpec { name: topic.clone(), partitions: Some(1), kept: Kept::Default }).await?;
    }
    Ok(())
}

/// One life of a task, from what the log holds to the first failure.
struct Attempt<'a> {
    spec: &'a SourceSpec,
    worker: &'a WorkerEnv,
    stop: &'a Stop,
    status: &'a Status,
}

/// What is in the open transaction.
#[derive(Default)]
struct Open {
    rows: u64,
    bytes: u64,
    bad: u64,
    positions: Positions,
    since: Option<Duration>,
}

/// How a table's rows become records.
struct Route {
    table: TableSchema,
    topic: Arc<str>,
    converter: Box<dyn Converter>,
}

impl Attempt<'_> {
    async fn run(&self, backoff: &mut Backoff, ends: &watch::Sender<Option<Ends>>) -> Result<Outcome> {
        let SourceSpec { name, connector, config, tables, .. } = self.spec;
        let log = &*self.worker.log;
        ensure_topics(log, self.spec).await?;
        // Fence first, read after: what an earlier process left is decided before positions are looked at.
        let id = format!("connect-{}-{name}", self.worker.namespace);
        let mut writer = log.writer(id).await?;
        let new_schemas = schemas::reconcile(log, tables).await?;
        let positions = offsets::load(log, &self.worker.namespace, name).await?;
        let routes = self.routes()?;
        let failed = RuntimeError::connector(name);
        let schemas: Vec<_> = tables.iter().map(|to| to.table.clone()).collect();
        let mut task = connector.task(config, &schemas).map_err(&failed)?;
        task.open(positions, task_context(&self.worker.env, self.stop)).await.map_err(&failed)?;
        if !new_schemas.is_empty() {
            writer.append(new_schemas).await?;
        }
        let result = self.pump(&mut *task, &mut *writer, &routes, backoff).await;
        task.close().await;
        let outcome = result?;
        if outcome == Outcome::Drained {
            ends.send_replace(Some(self.publish_ends(&mut *writer).await?));
        }
        Ok(outcome)
    }

    fn routes(&self) -> Result<BTreeMap<Arc<str>, Route>> {
        let route = |to: &TableTopic| {
            let converter = converter(&to.converter).ok_or_else(|| {
                let reason = format!("there is no converter '{}'", to.converter);
                RuntimeError::connector(&self.spec.name)(ConnectError::fatal(
                    format!("topic {}", to.topic),
                    reason,
                ))
            })?;
            let route = Route { table: to.table.clone(), topic: to.topic.as_str().into(), converter };
            Ok((Arc::clone(&to.table.name), route))
        };
        self.spec.tables.iter().map(route).collect()
    }

    /// Polls until the end, committing as transactions fill up.
    async fn pump(
        &self,
        task: &mut dyn SourceTask,
        writer: &mut dyn LogWriter,
        routes: &BTreeMap<Arc<str>, Route>,
        backoff: &mut Backoff,
    ) -> Result<Outcome> {
        let mut open = Open::default();
        loop {
            let Some(polled) = self.stop.or(task.poll()).await else {
                self.commit(task, writer, &mut open, backoff).await?;
                return Ok(Outcome::Stopped);
            };
            let polled = match polled {
                Ok(polled) => polled,
                Err(error) => {
                    // What was read before is good, and would be read again else, at each attempt.
                    self.commit(task, writer, &mut open, backoff).await?;
                    return Err(RuntimeError::connector(&self.spec.name)(error));
                }
            };
            match polled {
                Polled::Batch(batch) => {
                    self.add(writer, routes, &mut open, batch).await?;
                    let age = open.since.map(|since| self.worker.env.elapsed().saturating_sub(since));
                    if open.rows >= TRANSACTION_ROWS
                        || open.bytes >= TRANSACTION_BYTES
                        || age.is_some_and(|age| age >= TRANSACTION_AGE)
                    {
                        self.commit(task, writer, &mut open, backoff).await?;
                    }
                }
                Polled::Idle(wait) => {
                    self.commit(task, writer, &mut open, backoff).await?;
                    self.status.set_caught_up();
                    self.stop.or(self.worker.env.sleep(wait)).await;
                }
                Polled::End => {
                    self.commit(task, writer, &mut open, backoff).await?;
                    self.status.set_caught_up();
                    return Ok(Outcome::Drained);
                }
            }
        }
    }

    async fn add(
        &self,
        writer: &mut dyn LogWriter,
        routes: &BTreeMap<Arc<str>, Route>,
        open: &mut Open,
        batch: SourceBatch,
    ) -> Result<()> {
        let failed = RuntimeError::connector(&self.spec.name);
        let route = routes.get(&batch.table).ok_or_else(|| {
            failed(ConnectError::fatal(
                "polling",
                format!("it yielded rows of '{}', which it never named", batch.table),
            ))
        })?;
        let mut records =
            rows::to_records(&batch, &route.table, &route.topic, &*route.converter).map_err(&failed)?;
        records.extend(self.bad_records(&batch)?);
        open.rows += batch.rows.num_rows() as u64;
        open.bytes += batch.bytes;
        open.bad += batch.bad.len() as u64;
        open.positions.insert(batch.partition.to_string(), batch.position);
        open.since.get_or_insert(self.worker.env.elapsed());
        if records.is_empty() { Ok(()) } else { writer.append(records).await }
    }

    fn bad_records(&self, batch: &SourceBatch) -> Result<Vec<crate::NewRecord>> {
        let name = &self.spec.name;
        let Some(first) = batch.bad.first() else { return Ok(Vec::new()) };
        match &self.spec.on_error {
            OnError::Fail => Err(RuntimeError::BadRecord {
                connector: name.clone(),
                origin: first.origin.clone(),
                line: first.line,
                reason: first.reason.clone(),
            }),
            OnError::Skip => {
                for bad in &batch.bad {
                    tracing::warn!(source = %name, origin = %bad.origin, line = bad.line, reason = %bad.reason, "skipped");
                }
                Ok(Vec::new())
            }
            OnError::DeadLetters(topic) => {
                dead_letters::records(topic, name, &batch.bad, self.worker.env.now())
                    .map_err(RuntimeError::connector(name))
            }
        }
    }

    async fn commit(
        &self,
        task: &mut dyn SourceTask,
        writer: &mut dyn LogWriter,
        open: &mut Open,
        backoff: &mut Backoff,
    ) -> Result<()> {
        if open.positions.is_empty() {
            return Ok(());
        }
        let Open { rows, bytes, bad, positions, .. } = std::mem::take(open);
        writer.append(offsets::records(&self.worker.namespace, &self.spec.name, &positions)).await?;
        writer.commit().await?;
        backoff.reset();
        self.status.committed(rows, bytes, bad);
        task.committed(&positions).await.map_err(RuntimeError::connector(&self.spec.name))
    }

    /// Makes durable where the output ends. The record goes to the topic of positions only, so the ends stay true.
    async fn publish_ends(&self, writer: &mut dyn LogWriter) -> Result<Ends> {
        writer.commit().await?;
        let mut ends = Ends::new();
        for to in &self.spec.tables {
            ends.extend(self.worker.log.ends(to.topic.clone()).await?);
        }
        if let OnError::DeadLetters(topic) = &self.spec.on_error {
            ends.extend(self.worker.log.ends(topic.clone()).await?);
        }
        writer.append(vec![offsets::ends_record(&self.worker.namespace, &self.spec.name, &ends)]).await?;
        writer.commit().await?;
        Ok(ends)
    }
}
