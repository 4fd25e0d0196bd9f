//! Runs one sink: it says where what it holds ends, reading starts there, offsets are committed after.

use futures::FutureExt;
use futures::future::{BoxFuture, Either, select};
use std::collections::BTreeMap;
use std::time::Duration;

use arrow::array::{Array, BooleanArray, Int8Array, RecordBatch};
use arrow::compute::{filter, filter_record_batch};
use millstream_connect_api::convert::{Converter, converter};
use millstream_connect_api::{
    BadRecord, ConnectError, RefusedRow, SinkBatch, SinkInput, SinkOpen, SinkPartition, SinkTask,
};
use millstream_record::{Offset, TopicPartition};

use crate::backoff::Backoff;
use crate::host::task_context;
use crate::log::{Fetched, Kept, LogReader, TopicSpec};
use crate::sink_letters::{Own, SinkLetters};
use crate::{OnError, Outcome, Result, RuntimeError, SinkSpec, Status, Stop, WorkerEnv, rows};

/// Longest wait for records in one poll; bounds how late the end of the input is noticed.
const POLL_WAIT: Duration = Duration::from_millis(200);
/// How long a sink that is asked to stop may go on with what it does, such as waiting for a database that does not answer.
const STOP_GRACE: Duration = Duration::from_secs(8);

/// Runs a sink until its input has ended, it is asked to stop, or it fails for good. Failures that may go away are retried by
/// the spec's policy, each time from what the sink holds.
///
/// # Errors
/// The last failure.
pub fn run_sink(
    spec: SinkSpec,
    worker: WorkerEnv,
    stop: Stop,
    status: Status,
) -> BoxFuture<'static, Result<Outcome>> {
    run_sink_within(spec, worker, stop, status, STOP_GRACE)
}

pub(crate) fn run_sink_within(
    spec: SinkSpec,
    worker: WorkerEnv,
    stop: Stop,
    status: Status,
    grace: Duration,
) -> BoxFuture<'static, Result<Outcome>> {
    async move {
        let mut backoff = Backoff::new(spec.retry);
        loop {
            let attempt = Attempt { spec: &spec, worker: &worker, stop: &stop, status: &status };
            let life = Box::pin(attempt.run(&mut backoff));
            let too_late = Box::pin(stop.wait().then(|()| worker.env.sleep(grace)));
            // What is dropped here is not lost: what the sink holds durably is where the next life begins, and what it has not finished
            // (a transaction, a temporary file) is undone.
            let Either::Left((result, _)) = select(life, too_late).await else {
                tracing::warn!(sink = %spec.name, "it did not end in time and is left; what it has not made durable is written by the next run");
                return Ok(Outcome::Stopped);
            };
            match result {
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

/// One life of a task, from what the sink holds to the first failure.
struct Attempt<'a> {
    spec: &'a SinkSpec,
    worker: &'a WorkerEnv,
    stop: &'a Stop,
    status: &'a Status,
}

/// What an attempt works with.
struct Hands {
    task: Box<dyn SinkTask>,
    reader: Box<dyn LogReader>,
    converter: Box<dyn Converter>,
    letters: Option<SinkLetters>,
    /// Rows, bytes and bad records since the last commit.
    since_commit: (u64, u64, u64),
}

impl Attempt<'_> {
    async fn run(&self, backoff: &mut Backoff) -> Result<Outcome> {
        let mut hands = self.open().await?;
        let result = self.pump(&mut hands, backoff).await;
        hands.task.close().await;
        result
    }

    async fn open(&self) -> Result<Hands> {
        let SinkSpec { name, connector, config, table, topics, .. } = self.spec;
        let failed = RuntimeError::connector(name);
        let log = &*self.worker.log;
        let group = format!("connect-{}-{name}", self.worker.namespace);
        let mut reader = log.reader(group.clone(), topics.clone()).await?;
        let mut partitions = Vec::new();
        for (partition, committed) in reader.committed().await? {
            let facts = log.topic(partition.topic.to_string()).await?;
            let topic_id = facts.map(|facts| facts.id).unwrap_or_default();
            partitions.push(SinkPartition { partition, topic_id, committed });
        }
        let ids = partitions.iter().map(|at| (at.partition.clone(), at.topic_id)).collect();
        let input = SinkInput {
            // Progress in an outside system is kept under this name, and other pipelines may write there too.
            name: format!("{}.{name}", self.worker.namespace),
            schema: table.schema.clone(),
            key: table.key.clone(),
            changelog: table.changelog,
        };
        let mut from: BTreeMap<_, _> =
            partitions.iter().map(|at| (at.partition.clone(), at.committed)).collect();
        let mut task = connector.task(config, &input).map_err(&failed)?;
        let context = task_context(&self.worker.env, self.stop);
        let state_dir = self.worker.state_dir.join(name);
        let held = task.open(SinkOpen { partitions, state_dir, context }).await.map_err(&failed)?;
        from.extend(held.into_iter().map(|(partition, offset)| (partition, Some(offset))));
        reader.seek(from.clone()).await?;
        let converter = converter(&self.spec.converter).ok_or_else(|| {
            let reason = format!("there is no converter '{}'", self.spec.converter);
            failed(ConnectError::fatal("opening", reason))
        })?;
        let letters = match &self.spec.on_error {
            OnError::DeadLetters(topic) => {
                log.ensure_topic(TopicSpec { name: topic.clone(), partitions: Some(1), kept: Kept::Default })
                    .await?;
                let writer = format!("{group}-dead-letters");
                let own = Own { namespace: self.worker.namespace.clone(), sink: name.clone(), ids };
                Some(SinkLetters::open(log, writer, topic, own, &from).await?)
            }
            _ => None,
        };
        Ok(Hands { task, reader, converter, letters, since_commit: (0, 0, 0) })
    }

    async fn pump(&self, hands: &mut Hands, backoff: &mut Backoff) -> Result<Outcome> {
        let env = &self.worker.env;
        let mut commit_at = env.elapsed() + self.spec.commit_interval;
        loop {
            if self.is_drained(&hands.reader.positions()) {
                self.finish(hands, backoff).await?;
                return Ok(Outcome::Drained);
            }
            let wait = POLL_WAIT.min(commit_at.saturating_sub(env.elapsed()));
            let Some(fetched) = self.stop.or(hands.reader.poll(wait)).await else {
                self.finish(hands, backoff).await?;
                return Ok(Outcome::Stopped);
            };
            for fetched in fetched? {
                self.put(hands, fetched).await?;
            }
            if env.elapsed() >= commit_at {
                self.pass_bad(hands).await?;
                let safe = hands.task.flush().await.map_err(RuntimeError::connector(&self.spec.name))?;
                self.commit(hands, safe, backoff).await?;
                commit_at = env.elapsed() + self.spec.commit_interval;
            }
        }
    }

    /// Whether the input's ends are known and all of it has been read.
    fn is_drained(&self, positions: &BTreeMap<TopicPartition, Offset>) -> bool {
        let Some(ends) = &self.spec.ends else { return false };
        let ends = ends.borrow();
        let Some(ends) = ends.as_ref() else { return false };
        // Ends of topics that this sink does not read are somebody else's to reach.
        let own = ends.iter().filter(|(at, _)| self.spec.topics.iter().any(|topic| **topic == *at.topic));
        reached(own, positions)
    }

    async fn put(&self, hands: &mut Hands, fetched: Fetched) -> Result<()> {
        let failed = RuntimeError::connector(&self.spec.name);
        let bytes: usize = fetched.values.iter().flatten().map(bytes::Bytes::len).sum();
        let (mut batch, bad) =
            rows::from_records(fetched, &self.spec.table, &*hands.converter).map_err(&failed)?;
        self.bury(hands, &batch.partition, bad).await?;
        hands.since_commit.0 += batch.offsets.len() as u64;
        hands.since_commit.1 += bytes as u64;
        while !batch.offsets.is_empty() {
            match hands.task.put(batch.clone()).await {
                Ok(()) => return Ok(()),
                Err(ConnectError::BadRows(refused)) if are_of(&refused, &batch) => {
                    let letters = refused.iter().map(|refused| letter_of(&batch, refused)).collect();
                    self.bury(hands, &batch.partition, letters).await?;
                    hands.since_commit.0 -= refused.len() as u64;
                    batch = without(&batch, &refused).map_err(&failed)?;
                }
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }

    /// Deals with records of a partition that are no rows, as `on_error` says. They are durable before the offsets behind them are
    /// committed.
    async fn bury(&self, hands: &mut Hands, from: &TopicPartition, bad: Vec<BadRecord>) -> Result<()> {
        let name = &self.spec.name;
        let Some(first) = bad.first() else { return Ok(()) };
        hands.since_commit.2 += bad.len() as u64;
        match (&self.spec.on_error, &mut hands.letters) {
            (OnError::DeadLetters(_), Some(letters)) => letters.bury(from, bad, self.worker.env.now()).await,
            (OnError::Skip, _) => {
                for bad in &bad {
                    tracing::warn!(sink = %name, origin = %bad.origin, offset = bad.line, reason = %bad.reason, "skipped");
                }
                Ok(())
            }
            _ => Err(RuntimeError::BadRecord {
                connector: name.clone(),
                origin: first.origin.clone(),
                line: first.line,
                reason: first.reason.clone(),
            }),
        }
    }

    /// Makes everything durable and commits all that was read: records that hold no rows count too.
    async fn finish(&self, hands: &mut Hands, backoff: &mut Backoff) -> Result<()> {
        self.pass_bad(hands).await?;
        hands.task.finish().await.map_err(RuntimeError::connector(&self.spec.name))?;
        let read = hands.reader.positions();
        self.commit(hands, read, backoff).await
    }

    /// Tells the sink of bad records since the last commit that they are behind it.
    async fn pass_bad(&self, hands: &mut Hands) -> Result<()> {
        if hands.since_commit.2 == 0 {
            return Ok(());
        }
        let read = hands.reader.positions();
        hands.task.passed(read).await.map_err(RuntimeError::connector(&self.spec.name))
    }

    async fn commit(
        &self,
        hands: &mut Hands,
        safe: BTreeMap<TopicPartition, Offset>,
        backoff: &mut Backoff,
    ) -> Result<()> {
        if !safe.is_empty() {
            hands.reader.commit(safe.clone()).await?;
        }
        if let Some(letters) = &mut hands.letters {
            letters.forget(&safe).await?;
        }
        backoff.reset();
        let (rows, bytes, bad) = std::mem::take(&mut hands.since_commit);
        if (rows, bad) != (0, 0) {
            self.status.committed(rows, bytes, bad);
        }
        Ok(())
    }
}

/// Whether every partition has been read up to its end.
fn reached<'a>(
    mut ends: impl Iterator<Item = (&'a TopicPartition, &'a Offset)>,
    positions: &BTreeMap<TopicPartition, Offset>,
) -> bool {
    ends.all(|(partition, end)| positions.get(partition).is_some_and(|at| at >= end))
}

/// Whether a sink has named rows of this batch, and some.
fn are_of(refused: &[RefusedRow], batch: &SinkBatch) -> bool {
    !refused.is_empty() && refused.iter().all(|refused| refused.row < batch.offsets.len())
}

/// The dead letter of a row that the sink refuses: the row as JSON.
fn letter_of(batch: &SinkBatch, refused: &RefusedRow) -> BadRecord {
    use millstream_connect_api::convert::JsonConverter;
    let raw = JsonConverter.encode(&batch.rows.slice(refused.row, 1)).unwrap_or_default();
    BadRecord {
        origin: batch.partition.to_string(),
        line: batch.offsets.get(refused.row).and_then(|offset| u64::try_from(offset.0).ok()),
        reason: refused.reason.clone(),
        raw: raw.first().map(|json| json.to_vec()).unwrap_or_default(),
    }
}

/// The batch without the rows that were refused.
fn without(batch: &SinkBatch, refused: &[RefusedRow]) -> Result<SinkBatch, ConnectError> {
    let failed = |error| ConnectError::fatal("leaving out rows", error);
    let mut kept = vec![true; batch.rows.num_rows()];
    for refused in refused {
        kept[refused.row] = false;
    }
    let offsets = batch.offsets.iter().zip(&kept).filter(|(_, kept)| **kept).map(|(offset, _)| *offset);
    let offsets = offsets.collect();
    let keep = BooleanArray::from(kept);
    let rows: RecordBatch = filter_record_batch(&batch.rows, &keep).map_err(failed)?;
    let operation = match &batch.operation {
        Some(codes) => {
            let kept = filter(codes, &keep).map_err(failed)?;
            Some(kept.as_any().downcast_ref::<Int8Array>().expect("filtering keeps the type").clone())
        }
        None => None,
    };
    Ok(SinkBatch { partition: batch.partition.clone(), offsets, rows, operation })
}
