//! Writing the rows of a batch: all at once or, where Postgres refuses some, in parts until each of those is found.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int16Array};
use arrow::datatypes::{Field, SchemaRef};
use bytes::Bytes;
use futures::SinkExt;
use millstream_connect_api::{ConnectError, Operation, RefusedRow, Result};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error, SimpleQueryMessage, Statement, Transaction};

use super::progress::{Progress, Step};
use super::rows::{Chosen, Rows};
use super::settings::{Mode, Settings};
use super::table::{Target, shape_sql};
use super::task::OPERATION;
use crate::copy;
use crate::error::{classify, describe, is_about_a_row};
use crate::types::quoted;

/// The staging table of this connection.
const STAGE: &str = "pg_temp.\"_millstream_stage\"";
/// Where a part that is refused is rolled back to.
const SAVEPOINT: &str = "_millstream_part";
/// Rows of refused parts stay in the staging table, dead, and every part scans over them: it is emptied when there may be this many.
const MOST_DEAD_ROWS: usize = 16 * 1024;

/// Has deferred constraints be judged before COMMIT, so that the part is known which they refuse. (A row that only holds together with
/// later ones of its batch may be refused in place of a bad one behind it.)
const JUDGE: &str = "SET CONSTRAINTS ALL IMMEDIATE";

/// Why a progress cannot be moved.
pub(super) const ELSEWHERE: &str =
    "its progress is not where this task left it: another one writes under the same name";

/// What writing needs to know.
pub(super) struct Writing<'a> {
    pub(super) settings: &'a Settings,
    pub(super) schema: &'a SchemaRef,
    pub(super) target: &'a Target,
    pub(super) progress: Progress<'a>,
}

/// Why rows were not written.
pub(super) enum Refused {
    /// The values of some row are at fault.
    Row(Error),
    Other(ConnectError),
}

/// The statements that write rows.
struct Statements {
    copy: Statement,
    /// From the staging table to the target.
    merge: Vec<Statement>,
}

impl Writing<'_> {
    /// Writes rows and moves the progress, in one transaction.
    pub(super) async fn write(
        &self,
        client: &mut Client,
        rows: &Rows<'_>,
        step: &Step<'_>,
    ) -> Result<(), Refused> {
        let transaction = self.begin(client).await?;
        let statements = self.prepare(&transaction, rows).await.map_err(|error| self.refused(error))?;
        self.rows(&transaction, &statements, &rows.chosen, &(0..rows.chosen.len())).await?;
        transaction.batch_execute(JUDGE).await.map_err(|error| self.refused(error))?;
        self.end(transaction, step).await
    }

    /// Writes rows of which `whole` says that some are refused. Halves that are refused are halved again, and those that are not stay
    /// written, so that each row is sent once for each time its part is halved, however many rows are refused. If no row is refused by
    /// itself (two of them were one key of the table), all are written then.
    ///
    /// # Errors
    /// [`ConnectError::BadRows`] with all that are refused; nothing is written then: they have to be dealt with first.
    pub(super) async fn write_in_parts(
        &self,
        client: &mut Client,
        rows: &Rows<'_>,
        step: &Step<'_>,
        whole: &Error,
    ) -> Result<()> {
        let failed = |refused| self.failed(refused);
        let transaction = self.begin(client).await.map_err(failed)?;
        let statements = self.prepare(&transaction, rows).await;
        let statements = statements.map_err(|error| failed(self.refused(error)))?;
        let savepoint = transaction.batch_execute(&format!("SAVEPOINT {SAVEPOINT}")).await;
        savepoint.map_err(|error| failed(self.refused(error)))?;
        let mut all = self.refused_of(&transaction, &statements, &rows.chosen, Some(whole)).await?;
        let mut instead = rows.instead_of(&all)?;
        while instead.len() > 0 {
            let refused = self.refused_of(&transaction, &statements, &instead, None).await?;
            instead = rows.instead_of(&refused)?;
            all.extend(refused);
        }
        if all.is_empty() {
            return self.end(transaction, step).await.map_err(failed);
        }
        transaction.rollback().await.map_err(|error| failed(self.refused(error)))?;
        all.sort_by_key(|refused| refused.row);
        Err(ConnectError::BadRows(all))
    }

    /// The rows that are refused; the others are written. The error of all rows together is known where they were tried already.
    async fn refused_of(
        &self,
        transaction: &Transaction<'_>,
        statements: &Statements,
        chosen: &Chosen,
        whole: Option<&Error>,
    ) -> Result<Vec<RefusedRow>> {
        let mut found = Vec::new();
        let mut halve = |range: Range<usize>, error: &Error, parts: &mut Vec<Range<usize>>| {
            if range.len() > 1 {
                let middle = range.start + range.len() / 2;
                parts.extend([middle..range.end, range.start..middle]); // the first is taken first
                return;
            }
            let reason = error.as_db_error().map_or_else(|| error.to_string(), describe);
            let reason = format!("Postgres table {}: {reason}", self.settings.table);
            found.push(RefusedRow { row: chosen.origin(range.start), reason });
        };
        // Bounded by the count of halvings.
        let mut parts = Vec::new();
        match whole {
            Some(error) => halve(0..chosen.len(), error, &mut parts),
            None => parts.push(0..chosen.len()),
        }
        let mut dead = chosen.len();
        while let Some(range) = parts.pop() {
            dead += range.len();
            let empty = if dead > MOST_DEAD_ROWS { std::mem::take(&mut dead) > 0 } else { false };
            match self.part(transaction, statements, chosen, &range, empty).await {
                Ok(()) => {}
                Err(Refused::Row(error)) => {
                    let mut back = format!("ROLLBACK TO SAVEPOINT {SAVEPOINT}");
                    if empty && self.is_staged() {
                        back.push_str(&format!(
                            "; RELEASE SAVEPOINT {SAVEPOINT}; TRUNCATE {STAGE}; SAVEPOINT {SAVEPOINT}"
                        ));
                    }
                    let back = transaction.batch_execute(&back).await;
                    back.map_err(|error| self.failed(self.refused(error)))?;
                    halve(range, &error, &mut parts);
                }
                Err(Refused::Other(error)) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Writes a part of the rows and sets the savepoint behind it; `empty` has the staging table emptied of dead rows.
    async fn part(
        &self,
        transaction: &Transaction<'_>,
        statements: &Statements,
        chosen: &Chosen,
        range: &Range<usize>,
        empty: bool,
    ) -> Result<(), Refused> {
        self.rows(transaction, statements, chosen, range).await?;
        let clear = match (self.is_staged(), empty) {
            (false, _) => String::new(),
            (true, false) => format!("; DELETE FROM {STAGE}"),
            (true, true) => format!("; TRUNCATE {STAGE}"),
        };
        let done = format!("{JUDGE}; RELEASE SAVEPOINT {SAVEPOINT}{clear}; SAVEPOINT {SAVEPOINT}");
        transaction.batch_execute(&done).await.map_err(|error| self.refused(error))
    }

    fn is_staged(&self) -> bool {
        self.settings.mode == Mode::Upsert || !self.target.is_plain
    }

    fn context(&self) -> String {
        format!("writing to Postgres table {}", self.settings.table)
    }

    fn refused(&self, error: Error) -> Refused {
        match is_about_a_row(&error) {
            true => Refused::Row(error),
            false => Refused::Other(classify(&self.context(), &error)),
        }
    }

    /// The error of what is about no row in particular.
    fn failed(&self, refused: Refused) -> ConnectError {
        match refused {
            Refused::Row(error) => classify(&self.context(), &error),
            Refused::Other(error) => error,
        }
    }

    /// Begins a transaction that keeps the table as it was prepared for.
    async fn begin<'c>(&self, client: &'c mut Client) -> Result<Transaction<'c>, Refused> {
        let transaction = client.transaction().await.map_err(|error| self.refused(error))?;
        if !self.is_unchanged(&transaction).await.map_err(|error| self.refused(error))? {
            // The worker opens the task again, which looks at the table anew.
            let reason = "its columns have changed, or it is gone, since this task looked at it";
            return Err(Refused::Other(ConnectError::retriable(self.context(), reason)));
        }
        Ok(transaction)
    }

    /// Moves the progress and commits.
    async fn end(&self, transaction: Transaction<'_>, step: &Step<'_>) -> Result<(), Refused> {
        let moved = self.progress.advance(&transaction, step).await.map_err(|error| self.refused(error))?;
        if moved != 1 {
            return Err(Refused::Other(ConnectError::retriable(self.context(), ELSEWHERE)));
        }
        transaction.commit().await.map_err(|error| self.refused(error))
    }

    /// Keeps the table as it is until the transaction ends, and says whether it still is what was prepared for.
    async fn is_unchanged(&self, transaction: &Transaction<'_>) -> Result<bool, Error> {
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

    async fn prepare(&self, transaction: &Transaction<'_>, rows: &Rows<'_>) -> Result<Statements, Error> {
        let mut names: Vec<_> = self.schema.fields().iter().map(|field| quoted(field.name())).collect();
        let mut merge = Vec::new();
        let mut to = self.settings.table.sql();
        if self.is_staged() {
            names.push(quoted(OPERATION));
            STAGE.clone_into(&mut to);
            for sql in self.merge_sql(rows.has_deletes()) {
                merge.push(transaction.prepare(&sql).await?);
            }
        }
        let copy = format!("COPY {to} ({}) FROM STDIN (FORMAT binary)", names.join(", "));
        Ok(Statements { copy: transaction.prepare(&copy).await?, merge })
    }

    /// Writes some of the rows.
    async fn rows(
        &self,
        transaction: &Transaction<'_>,
        statements: &Statements,
        chosen: &Chosen,
        range: &Range<usize>,
    ) -> Result<(), Refused> {
        let mut columns: Vec<ArrayRef> = chosen.part(range).columns().to_vec();
        if self.is_staged() {
            let code =
                |delete: &bool| if *delete { Operation::Delete as i16 } else { Operation::Update as i16 };
            let codes = chosen.deletes(range).iter().map(code);
            columns.push(Arc::new(Int16Array::from_iter_values(codes)));
        }
        let bytes = copy::encode(&columns, range.len()).map_err(Refused::Other)?;
        let written = async {
            copy_in(transaction, &statements.copy, bytes).await?;
            for statement in &statements.merge {
                transaction.execute(statement, &[]).await?;
            }
            Ok(())
        };
        written.await.map_err(|error| self.refused(error))
    }

    /// From the staging table to the target: deletes first, since a key is at most once among all rows.
    fn merge_sql(&self, deletes: bool) -> Vec<String> {
        let table = self.settings.table.sql();
        let mut statements = Vec::new();
        let cast =
            |(field, sql_type): (&Arc<Field>, &String)| format!("s.{}::{sql_type}", quoted(field.name()));
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
}

async fn copy_in(transaction: &Transaction<'_>, copy: &Statement, bytes: Bytes) -> Result<(), Error> {
    let sink = transaction.copy_in::<_, Bytes>(copy).await?;
    let mut sink = std::pin::pin!(sink);
    sink.send(bytes).await?;
    sink.finish().await?;
    Ok(())
}
