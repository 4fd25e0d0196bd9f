//! The running sink: each batch and the offset behind it in one transaction.

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, Int16Array, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, SinkExt};
use millstream_connect_api::{
    ConnectError, Operation, Result, SinkBatch, SinkInput, SinkOpen, SinkTask, key,
};
use millstream_record::{Offset, TopicPartition};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage, Transaction};

use super::progress::{Progress, Step};
use super::settings::{Mode, Settings};
use super::table::{Target, prepare, shape_sql};
use crate::connection::Connection;
use crate::copy;
use crate::error::{classify, describe, is_about_a_row};
use crate::types::{PgType, quoted};

/// The staging table of this connection.
const STAGE: &str = "pg_temp.\"_millstream_stage\"";
/// Its column that tells deletes from other rows.
pub(super) const OPERATION: &str = "_millstream_op";

/// Why a progress cannot be moved.
const ELSEWHERE: &str = "its progress is not where this task left it: another one writes under the same name";

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

/// Rows ready to be written, without duplicates of a key.
struct Ready {
    rows: RecordBatch,
    deletes: Vec<bool>,
    /// Which row of the batch each was.
    origin: Vec<u32>,
}

/// Why a batch was not written.
enum Refused {
    /// The values of some row are at fault.
    Row(tokio_postgres::Error),
    Other(ConnectError),
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
        let ready = ready(&batch, settings, skip)?;
        let writing =
            Writing { settings, schema, target: &open.target, progress: Progress { settings, name } };
        let step = Step { partition: &batch.partition, before, next: last.plus(1) };
        match writing
            .transaction(&mut open.connection.client, &ready, ready.rows.num_rows(), &step, true)
            .await
        {
            Ok(()) => {
                open.held.insert(batch.partition.clone(), Some(step.next));
                Ok(())
            }
            Err(Refused::Other(error)) => Err(error),
            Err(Refused::Row(error)) => {
                let reason = error.as_db_error().map_or_else(|| error.to_string(), describe);
                let row = writing.find_bad_row(&mut open.connection.client, &ready, &step).await?;
                let row = ready.origin.get(row).map_or(0, |row| *row as usize);
                Err(ConnectError::BadRow {
                    row,
                    reason: format!("Postgres table {}: {reason}", settings.table),
                })
            }
        }
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

/// What writing needs to know.
struct Writing<'a> {
    settings: &'a Settings,
    schema: &'a SchemaRef,
    target: &'a Target,
    progress: Progress<'a>,
}

impl Writing<'_> {
    /// Writes the first `count` rows and moves the progress, in one transaction; with `commit` false it is rolled back at the end.
    async fn transaction(
        &self,
        client: &mut Client,
        ready: &Ready,
        count: usize,
        step: &Step<'_>,
        commit: bool,
    ) -> Result<(), Refused> {
        let context = format!("writing to Postgres table {}", self.settings.table);
        let refused = |error: tokio_postgres::Error| match is_about_a_row(&error) {
            true => Refused::Row(error),
            false => Refused::Other(classify(&context, &error)),
        };
        let transaction = client.transaction().await.map_err(&refused)?;
        if !self.is_unchanged(&transaction).await.map_err(&refused)? {
            // The worker opens the task again, which looks at the table anew.
            let reason = "its columns have changed, or it is gone, since this task looked at it";
            return Err(Refused::Other(ConnectError::retriable(context, reason)));
        }
        self.rows(&transaction, ready, count).await?.map_err(&refused)?;
        // Deferred constraints are judged here, in probes too: an error of COMMIT would be one that no probe meets. (A row that only holds
        // together with later ones of its batch may be named in place of a bad one behind it.)
        transaction.batch_execute("SET CONSTRAINTS ALL IMMEDIATE").await.map_err(&refused)?;
        if !commit {
            return transaction.rollback().await.map_err(refused);
        }
        let moved = self.progress.advance(&transaction, step).await.map_err(&refused)?;
        if moved != 1 {
            return Err(Refused::Other(ConnectError::retriable(context, ELSEWHERE)));
        }
        transaction.commit().await.map_err(refused)
    }

    /// Keeps the table as it is until the transaction ends, and says whether it still is what was prepared for.
    async fn is_unchanged(&self, transaction: &Transaction<'_>) -> Result<bool, tokio_postgres::Error> {
        // The lock that COPY takes, so nobody waits for it who would not anyway; and one round trip for both.
        let table = self.settings.table.sql();
        let sql = format!("LOCK TABLE ONLY {table} IN ROW EXCLUSIVE MODE; {}", shape_sql(self.settings));
        let messages = match transaction.simple_query(&sql).await {
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => return Ok(false),
            messages => messages?,
        };
        let row = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        Ok(row.and_then(|row| row.get(0)) == self.target.shape.as_deref())
    }

    async fn rows(
        &self,
        transaction: &Transaction<'_>,
        ready: &Ready,
        count: usize,
    ) -> Result<Result<(), tokio_postgres::Error>, Refused> {
        let staged = self.settings.mode == Mode::Upsert || !self.target.is_plain;
        let rows = ready.rows.slice(0, count);
        let mut columns: Vec<ArrayRef> = rows.columns().to_vec();
        let mut names: Vec<_> = self.schema.fields().iter().map(|field| quoted(field.name())).collect();
        if staged {
            let code =
                |delete: &bool| if *delete { Operation::Delete as i16 } else { Operation::Update as i16 };
            columns.push(std::sync::Arc::new(Int16Array::from_iter_values(
                ready.deletes.iter().take(count).map(code),
            )));
            names.push(quoted(OPERATION));
        }
        let bytes = copy::encode(&columns, count).map_err(Refused::Other)?;
        let to = if staged { STAGE.to_owned() } else { self.settings.table.sql() };
        let sql = format!("COPY {to} ({}) FROM STDIN (FORMAT binary)", names.join(", "));
        Ok(async {
            copy_in(transaction, &sql, bytes).await?;
            if staged {
                for sql in self.merge_sql(ready.deletes.iter().take(count).any(|delete| *delete)) {
                    transaction.execute(&sql, &[]).await?;
                }
            }
            Ok(())
        }
        .await)
    }

    /// From the staging table to the target: deletes first, since a key is at most once among all rows.
    fn merge_sql(&self, deletes: bool) -> Vec<String> {
        let table = self.settings.table.sql();
        let mut statements = Vec::new();
        let cast = |(field, sql_type): (&std::sync::Arc<arrow::datatypes::Field>, &String)| {
            format!("s.{}::{sql_type}", quoted(field.name()))
        };
        let typed: Vec<_> = self.schema.fields().iter().zip(&self.target.casts).map(cast).collect();
        let names: Vec<_> = self.schema.fields().iter().map(|field| quoted(field.name())).collect();
        let is_delete = format!("s.{} = {}", quoted(OPERATION), Operation::Delete as i16);
        if deletes {
            let same = |name: &String| {
                let at = self.schema.index_of(name).ok();
                let typed = at.and_then(|at| typed.get(at)).cloned().unwrap_or_default();
                format!("t.{} = {typed}", quoted(name))
            };
            let same: Vec<_> = self.settings.key.iter().map(same).collect();
            statements.push(format!(
                "DELETE FROM {table} t USING {STAGE} s WHERE {is_delete} AND {}",
                same.join(" AND ")
            ));
        }
        let conflict = match self.settings.mode {
            Mode::Insert => String::new(),
            Mode::Upsert => {
                let key: Vec<_> = self.settings.key.iter().map(|name| quoted(name)).collect();
                let others = names.iter().filter(|name| !key.contains(name));
                let set: Vec<_> = others.map(|name| format!("{name} = EXCLUDED.{name}")).collect();
                let action = if set.is_empty() {
                    "NOTHING".to_owned()
                } else {
                    format!("UPDATE SET {}", set.join(", "))
                };
                format!(" ON CONFLICT ({}) DO {action}", key.join(", "))
            }
        };
        statements.push(format!(
            "INSERT INTO {table} ({}) SELECT {} FROM {STAGE} s WHERE NOT ({is_delete}){conflict}",
            names.join(", "),
            typed.join(", ")
        ));
        statements
    }

    /// The first row that Postgres refuses: the shortest beginning of the batch that fails ends with it.
    async fn find_bad_row(&self, client: &mut Client, ready: &Ready, step: &Step<'_>) -> Result<usize> {
        let (mut good, mut bad) = (0, ready.rows.num_rows());
        while bad - good > 1 {
            let middle = good + (bad - good) / 2;
            match self.transaction(client, ready, middle, step, false).await {
                Ok(()) => good = middle,
                Err(Refused::Row(_)) => bad = middle,
                Err(Refused::Other(error)) => return Err(error),
            }
        }
        Ok(bad - 1)
    }
}

async fn copy_in(
    transaction: &Transaction<'_>,
    sql: &str,
    bytes: Bytes,
) -> Result<(), tokio_postgres::Error> {
    let sink = transaction.copy_in::<_, Bytes>(sql).await?;
    let mut sink = std::pin::pin!(sink);
    sink.send(bytes).await?;
    sink.finish().await?;
    Ok(())
}

/// Leaves out rows that are held already and, for upsert, all but the last row of each key: ON CONFLICT may meet a key once.
fn ready(batch: &SinkBatch, settings: &Settings, skip: usize) -> Result<Ready> {
    let rows = batch.rows.num_rows();
    let row_index = |row: usize| u32::try_from(row).expect("a batch is bounded far below 4 billion rows");
    let deleted = |row: usize| {
        batch.operation.as_ref().is_some_and(|codes| codes.value(row) == Operation::Delete as i8)
    };
    let mut origin: Vec<u32> = (skip..rows).map(row_index).collect();
    if settings.mode == Mode::Upsert {
        for name in &settings.key {
            let column = batch.rows.column_by_name(name);
            if let Some(row) = (skip..rows).find(|row| column.is_none_or(|column| column.is_null(*row))) {
                return Err(ConnectError::BadRow { row, reason: format!("key column '{name}' is null") });
            }
        }
        let keys = key::encode_columns(&batch.rows, &settings.key)?;
        let mut last: rustc_hash::FxHashMap<&Bytes, u32> = rustc_hash::FxHashMap::default();
        for (row, key) in keys.iter().enumerate().skip(skip) {
            last.insert(key, row_index(row));
        }
        origin.retain(|row| keys.get(*row as usize).and_then(|key| last.get(key)) == Some(row));
    }
    let deletes = origin.iter().map(|row| deleted(*row as usize)).collect();
    let taken = take_record_batch(&batch.rows, &UInt32Array::from(origin.clone()))
        .map_err(|error| ConnectError::fatal("choosing rows", error))?;
    Ok(Ready { rows: taken, deletes, origin })
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
