//! How far the rows of a sink are in its table: one row for each partition, in a table beside it.

use millstream_connect_api::{ConnectError, Result, SinkPartition};
use millstream_record::{Offset, TopicId, TopicPartition};
use tokio_postgres::{Client, Error, Transaction};

use super::settings::Settings;
use crate::error::{classify, is_about_a_row};
use crate::types::literal;

/// `next_offset` of a partition that nothing was written of.
const NOTHING: i64 = -1;

/// The progress of one sink.
#[derive(Clone, Copy)]
pub(super) struct Progress<'a> {
    pub(super) settings: &'a Settings,
    /// The name that it is kept under.
    pub(super) name: &'a str,
}

/// How far a partition moves.
pub(super) struct Step<'a> {
    pub(super) partition: &'a TopicPartition,
    pub(super) before: Option<Offset>,
    pub(super) next: Offset,
}

impl Progress<'_> {
    /// Refuses to go on where an earlier run stopped, if what it wrote is not in this table.
    ///
    /// # Errors
    /// Fatal when rows were written and their table is gone, or was another one.
    pub(super) async fn check_table(&self, client: &Client) -> Result<()> {
        let failed = |error| classify("looking for progress", &error);
        let table = &self.settings.table;
        let facts = client
            .query_opt(
                "SELECT p.oid IS NOT NULL,
                        EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = p.oid AND a.attname = 'table_name' AND NOT a.attisdropped),
                        EXISTS (SELECT FROM pg_class t WHERE t.relnamespace = n.oid AND t.relname = $2)
                 FROM pg_namespace n LEFT JOIN pg_class p ON p.relnamespace = n.oid AND p.relname = '_millstream_progress'
                 WHERE n.nspname = $1",
                &[&table.schema, &table.name],
            )
            .await
            .map_err(failed)?;
        let Some(facts) = facts.filter(|facts| facts.get(0)) else { return Ok(()) };
        let (names_tables, exists): (bool, bool) = (facts.get(1), facts.get(2));
        let progress = table.progress_sql();
        let column = if names_tables { "table_name" } else { "NULL::text" };
        let sql =
            format!("SELECT DISTINCT {column} FROM {progress} WHERE connector = $1 AND next_offset > 0");
        let rows = client.query(&sql, &[&self.name]).await.map_err(failed)?;
        let written: Vec<Option<String>> = rows.iter().map(|row| row.get(0)).collect();
        let (name, here) = (literal(self.name), table.to_string());
        let again = format!("to write everything again run: DELETE FROM {progress} WHERE connector = {name}");
        let reason = if let Some(other) = written.iter().flatten().find(|other| **other != here) {
            format!(
                "earlier rows of '{}' were written to {other}, and would be missing here; {again}; or, if this is that table under a new \
                 name, run: UPDATE {progress} SET table_name = {} WHERE connector = {name}",
                self.name,
                literal(&here)
            )
        } else if !exists && !written.is_empty() {
            format!(
                "it does not exist, though rows of '{}' were written to it, which would be missing; put the table back, or, {again}",
                self.name
            )
        } else {
            return Ok(());
        };
        Err(ConnectError::fatal(format!("Postgres table {table}"), reason))
    }

    /// Makes the table of progress, or adds what one of an earlier version lacks.
    pub(super) async fn make_table(&self, client: &Client) -> Result<()> {
        let failed = |error| classify("making the table of progress", &error);
        let progress = self.settings.table.progress_sql();
        let sql = format!(
            "CREATE TABLE IF NOT EXISTS {progress} (connector text, topic text, partition integer, topic_id text NOT NULL,
             next_offset bigint NOT NULL, updated_at timestamptz NOT NULL DEFAULT now(), table_name text,
             PRIMARY KEY (connector, topic, partition))"
        );
        match client.batch_execute(&sql).await {
            // Two sinks that start at once may both find it missing.
            Err(error) if is_about_a_row(&error) => client.batch_execute(&sql).await,
            done => done,
        }
        .map_err(failed)?;
        // Looked for first: ALTER TABLE asks for ownership and the strongest lock even where there is nothing to add.
        let sql = format!(
            "SELECT FROM pg_attribute WHERE attrelid = {}::regclass AND attname = 'table_name' AND NOT attisdropped",
            literal(&progress)
        );
        if client.query_opt(&sql, &[]).await.map_err(failed)?.is_none() {
            let sql = format!("ALTER TABLE {progress} ADD COLUMN IF NOT EXISTS table_name text");
            let added = client.batch_execute(&sql).await;
            added.map_err(|error| classify(&format!("making the table of progress: {sql}"), &error))?;
        }
        Ok(())
    }

    /// Where a partition begins; its row is made if there is none.
    pub(super) async fn read(&self, client: &Client, at: &SinkPartition) -> Result<Option<Offset>> {
        let table = &self.settings.table;
        let progress = table.progress_sql();
        let failed = |error| classify("reading progress", &error);
        let (topic, id) = (at.partition.topic.to_string(), at.topic_id.to_string());
        let sql = format!(
            "SELECT topic_id, next_offset FROM {progress} WHERE connector = $1 AND topic = $2 AND partition = $3"
        );
        let found =
            client.query_opt(&sql, &[&self.name, &topic, &at.partition.partition]).await.map_err(failed)?;
        let Some(row) = found else {
            // A committed offset without a row here is that of rows which are not in this table: the row was deleted so that they are
            // written again, or they went elsewhere. So the log is read from its beginning, whatever was committed.
            let start = at.committed.map(|_| Offset(0));
            let next = start.map_or(NOTHING, |start| start.0);
            let sql = format!(
                "INSERT INTO {progress} (connector, topic, partition, topic_id, next_offset, table_name) VALUES ($1, $2, $3, $4, $5, $6)"
            );
            client
                .execute(&sql, &[&self.name, &topic, &at.partition.partition, &id, &next, &table.to_string()])
                .await
                .map_err(failed)?;
            return Ok(start);
        };
        let (stored_id, next): (String, i64) = (row.get(0), row.get(1));
        let known = !at.topic_id.is_zero() && stored_id != TopicId::ZERO.to_string();
        if known && stored_id != id && next != NOTHING {
            let reason = format!(
                "its rows were written from another log than topic '{topic}' of this one (after a reset, or on another cluster); to begin anew, empty \
                 the table and run: DELETE FROM {progress} WHERE connector = {}",
                literal(self.name)
            );
            return Err(ConnectError::fatal(format!("Postgres table {table}"), reason));
        }
        Ok((next != NOTHING).then_some(Offset(next)))
    }

    /// Moves the progress of a partition, if it is where this task left it; answers the count of rows moved.
    pub(super) async fn advance(&self, transaction: &Transaction<'_>, step: &Step<'_>) -> Result<u64, Error> {
        let table = &self.settings.table;
        let sql = format!(
            "UPDATE {} SET next_offset = $1, updated_at = now(), table_name = $6
             WHERE connector = $2 AND topic = $3 AND partition = $4 AND next_offset = $5",
            table.progress_sql()
        );
        let before = step.before.map_or(NOTHING, |before| before.0);
        let (topic, here) = (step.partition.topic.to_string(), table.to_string());
        let partition = &step.partition.partition;
        transaction.execute(&sql, &[&step.next.0, &self.name, &topic, partition, &before, &here]).await
    }
}
