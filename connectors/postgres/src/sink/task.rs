//! The running sink: each batch and the offset behind it in one transaction.

use std::collections::BTreeMap;

use arrow::datatypes::SchemaRef;
use futures::FutureExt;
use futures::future::BoxFuture;
use millstream_connect_api::{ConnectError, Result, SinkBatch, SinkInput, SinkOpen, SinkTask};
use millstream_record::{Offset, TopicPartition};

use super::progress::{Progress, Step};
use super::rows::Rows;
use super::settings::{Mode, Settings};
use super::table::{Target, prepare};
use super::writing::{ELSEWHERE, Refused, Writing};
use crate::connection::Connection;
use crate::error::classify;
use crate::types::{PgType, quoted};

/// Column of the staging table that tells deletes from other rows.
pub(super) const OPERATION: &str = "_millstream_op";

/// A running Postgres sink.
pub(super) struct PostgresTask {
    settings: Settings,
    schema: SchemaRef,
    name: String,
    open: Option<Open>,
}

struct Open {
    connection: Connection,
    target: Target,
    /// The next offset of each partition, as the progress table has it.
    held: BTreeMap<TopicPartition, Option<Offset>>,
}

impl PostgresTask {
    pub(super) fn new(settings: Settings, input: &SinkInput) -> Self {
        Self { settings, schema: input.schema.clone(), name: input.name.clone(), open: None }
    }

    async fn start(&mut self, open: SinkOpen) -> Result<BTreeMap<TopicPartition, Offset>> {
        let connection = Connection::open(&self.settings.connection).await?;
        let progress = Progress { settings: &self.settings, name: &self.name };
        progress.check_table(&connection.client).await?; // before a missing table is made
        let target = prepare(&connection.client, &self.settings, &self.schema).await?;
        progress.make_table(&connection.client).await?;
        let mut held = BTreeMap::new();
        for partition in &open.partitions {
            let start = progress.read(&connection.client, partition).await?;
            held.insert(partition.partition.clone(), start);
        }
        if self.stages(&target) {
            let sql = self.stage_sql();
            let made = connection.client.batch_execute(&sql).await;
            made.map_err(|error| classify("making the staging table", &error))?;
        }
        let starts = held.iter().filter_map(|(at, start)| start.map(|start| (at.clone(), start))).collect();
        self.open = Some(Open { connection, target, held });
        Ok(starts)
    }

    /// Whether rows go through a staging table: to be merged, or to be cast.
    fn stages(&self, target: &Target) -> bool {
        self.settings.mode == Mode::Upsert || !target.is_plain
    }

    fn stage_sql(&self) -> String {
        let column = |field: &std::sync::Arc<arrow::datatypes::Field>| {
            let sql_type = PgType::of(field.data_type()).map_or_else(|| "text".to_owned(), PgType::sql);
            format!("{} {sql_type}", quoted(field.name()))
        };
        let columns: Vec<_> = self.schema.fields().iter().map(column).collect();
        format!(
            "CREATE TEMPORARY TABLE \"_millstream_stage\" ({}, {} smallint) ON COMMIT DELETE ROWS",
            columns.join(", "),
            quoted(OPERATION)
        )
    }

    async fn write(&mut self, batch: SinkBatch) -> Result<()> {
        let Self { settings, schema, name, open } = self;
        let open = open.as_mut().ok_or_else(|| ConnectError::fatal("Postgres sink", "it is not open"))?;
        let Some(last) = batch.offsets.last().copied() else { return Ok(()) };
        let before = open.held.get(&batch.partition).copied().flatten();
        let skip = batch.offsets.partition_point(|offset| before.is_some_and(|before| *offset < before));
        if skip == batch.offsets.len() {
            return Ok(());
        }
        let rows = Rows::of(&batch, settings, skip)?;
        let writing =
            Writing { settings, schema, target: &open.target, progress: Progress { settings, name } };
        let step = Step { partition: &batch.partition, before, next: last.plus(1) };
        let client = &mut open.connection.client;
        match writing.write(client, &rows, &step).await {
            Ok(()) => {}
            Err(Refused::Other(error)) => return Err(error),
            // Some row is at fault, or several are.
            Err(Refused::Row(error)) => writing.write_in_parts(client, &rows, &step, &error).await?,
        }
        open.held.insert(batch.partition.clone(), Some(step.next));
        Ok(())
    }

    /// Moves the progress past records that left no row.
    async fn pass(&mut self, read: BTreeMap<TopicPartition, Offset>) -> Result<()> {
        const DOING: &str = "moving the progress of the Postgres sink";
        let Self { settings, name, open, .. } = self;
        let open = open.as_mut().ok_or_else(|| ConnectError::fatal("Postgres sink", "it is not open"))?;
        for (partition, next) in read {
            let Some(before) = open.held.get(&partition).copied() else { continue };
            if before.is_some_and(|before| before >= next) {
                continue;
            }
            let failed = |error: tokio_postgres::Error| classify(DOING, &error);
            let transaction = open.connection.client.transaction().await.map_err(failed)?;
            let step = Step { partition: &partition, before, next };
            let progress = Progress { settings, name };
            if progress.advance(&transaction, &step).await.map_err(failed)? != 1 {
                return Err(ConnectError::retriable(DOING, ELSEWHERE));
            }
            transaction.commit().await.map_err(failed)?;
            open.held.insert(partition, Some(next));
        }
        Ok(())
    }

    fn held(&self) -> BTreeMap<TopicPartition, Offset> {
        let held = self.open.iter().flat_map(|open| &open.held);
        held.filter_map(|(at, next)| next.map(|next| (at.clone(), next))).collect()
    }
}

impl SinkTask for PostgresTask {
    fn open(&mut self, open: SinkOpen) -> BoxFuture<'_, Result<BTreeMap<TopicPartition, Offset>>> {
        self.start(open).boxed()
    }

    fn put(&mut self, batch: SinkBatch) -> BoxFuture<'_, Result<()>> {
        self.write(batch).boxed()
    }

    fn passed(&mut self, read: BTreeMap<TopicPartition, Offset>) -> BoxFuture<'_, Result<()>> {
        self.pass(read).boxed()
    }

    fn flush(&mut self) -> BoxFuture<'_, Result<BTreeMap<TopicPartition, Offset>>> {
        let held = self.held();
        async { Ok(held) }.boxed()
    }

    fn finish(&mut self) -> BoxFuture<'_, Result<BTreeMap<TopicPartition, Offset>>> {
        self.flush()
    }

    fn close(&mut self) -> BoxFuture<'_, ()> {
        self.open = None;
        async {}.boxed()
    }
}

#[cfg(test)]
mod tests;
