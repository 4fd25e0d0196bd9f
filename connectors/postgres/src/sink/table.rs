//! The table that is written: made, compared with the input, extended.

use std::collections::BTreeSet;

use arrow::datatypes::{Field, SchemaRef};
use millstream_connect_api::{ConnectError, Result};
use tokio_postgres::Client;

use super::exact::loses;
use super::settings::{Mode, SchemaMode, Settings};
use super::task::OPERATION;
use crate::error::classify;
use crate::types::{PgType, literal, quoted};

/// What the target table is like, as far as writing needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// The type of each input column in the table, in the input's order, without its length. A cast to a type with a length cuts what is
    /// too long without a word; the assignment that follows refuses it.
    pub(super) casts: Vec<String>,
    /// Every column has exactly the type that values are written as, so COPY may write into the table itself.
    pub(super) is_plain: bool,
    /// What [`shape_sql`] said of it.
    pub(super) shape: Option<String>,
}

/// A column of an existing table.
struct Existing {
    name: String,
    sql_type: String,
    cast: String,
    /// The type below all domains, without its length, and its modifier.
    base: String,
    modifier: i32,
    must_be_given: bool,
}

/// Makes or extends the table as the settings allow, and says what it is like.
///
/// # Errors
/// Fatal when the table does not fit the input; the error says what to change.
pub(super) async fn prepare(client: &Client, settings: &Settings, schema: &SchemaRef) -> Result<Target> {
    let table = &settings.table;
    if !is_table(client, settings).await? {
        if settings.schema == SchemaMode::Fail {
            return Err(refuse(
                settings,
                format!(
                    "it does not exist; make it, or set schema = \"create\":\n{}",
                    create_sql(settings, schema)
                ),
            ));
        }
        run(client, settings, &create_sql(settings, schema)).await?;
    }
    let existing = columns(client, settings).await?;
    let missing: Vec<&Field> = schema
        .fields()
        .iter()
        .map(AsRef::as_ref)
        .filter(|field| existing.iter().all(|column| column.name != *field.name()))
        .collect();
    if !missing.is_empty() {
        let add: Vec<_> = missing.iter().map(|field| format!("ADD COLUMN {}", column_sql(field))).collect();
        let alter = format!("ALTER TABLE {} {}", table.sql(), add.join(", "));
        if settings.schema != SchemaMode::Evolve {
            let names: Vec<_> = missing.iter().map(|field| field.name().as_str()).collect();
            return Err(refuse(
                settings,
                format!("it has no column {}; set schema = \"evolve\", or run: {alter}", names.join(", ")),
            ));
        }
        run(client, settings, &alter).await?;
    }
    // The shape first: what somebody changes between the two is then noticed by the first transaction.
    let shape = shape(client, settings).await?;
    let existing = columns(client, settings).await?;
    let lacking =
        existing.iter().find(|column| column.must_be_given && schema.field_with_name(&column.name).is_err());
    if let Some(column) = lacking {
        let reason =
            format!("its column {} must not be null, has no default, and is not in the input", column.name);
        return Err(refuse(settings, reason));
    }
    if settings.mode == Mode::Upsert {
        check_unique(client, settings).await?;
    }
    target(settings, schema, &existing, shape)
}

fn target(
    settings: &Settings,
    schema: &SchemaRef,
    existing: &[Existing],
    shape: Option<String>,
) -> Result<Target> {
    let mut target = Target { casts: Vec::new(), is_plain: true, shape };
    for field in schema.fields() {
        let column = existing.iter().find(|column| column.name == *field.name());
        let column = column.ok_or_else(|| refuse(settings, format!("it has no column {}", field.name())))?;
        let written = PgType::of(field.data_type()).map(PgType::sql).unwrap_or_default();
        if loses(field.data_type(), &column.base, column.modifier) {
            return Err(refuse(
                settings,
                format!(
                    "values of column {} ({written}) would be rounded or cut to the table's {}; cast it in a step (SELECT CAST(.. AS ..)), or \
                     run: ALTER TABLE {} ALTER COLUMN {} TYPE {written}",
                    field.name(),
                    column.sql_type,
                    settings.table.sql(),
                    quoted(field.name())
                ),
            ));
        }
        target.is_plain &= written == column.sql_type;
        target.casts.push(column.cast.clone());
    }
    if !target.is_plain && schema.field_with_name(OPERATION).is_ok() {
        let reason = format!(
            "column {OPERATION} of the input has a name that this sink needs for itself; give it another one in a step"
        );
        return Err(refuse(settings, reason));
    }
    Ok(target)
}

fn refuse(settings: &Settings, reason: String) -> ConnectError {
    ConnectError::fatal(format!("Postgres table {}", settings.table), reason)
}

fn create_sql(settings: &Settings, schema: &SchemaRef) -> String {
    let mut parts: Vec<_> = schema.fields().iter().map(|field| column_sql(field)).collect();
    if settings.mode == Mode::Upsert {
        let key: Vec<_> = settings.key.iter().map(|name| quoted(name)).collect();
        parts.push(format!("PRIMARY KEY ({})", key.join(", ")));
    }
    format!("CREATE TABLE IF NOT EXISTS {} ({})", settings.table.sql(), parts.join(", "))
}

fn column_sql(field: &Field) -> String {
    let sql_type = PgType::of(field.data_type()).map_or_else(|| "text".to_owned(), PgType::sql);
    format!("{} {sql_type}", quoted(field.name()))
}

/// Whether the table is there.
async fn is_table(client: &Client, settings: &Settings) -> Result<bool> {
    let found = client
        .query_opt(
            "SELECT c.relkind::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2",
            &[&settings.table.schema, &settings.table.name],
        )
        .await
        .map_err(|error| classify(&format!("looking at Postgres table {}", settings.table), &error))?;
    let Some(found) = found else { return Ok(false) };
    let kind = match found.get(0) {
        "r" | "p" => return Ok(true),
        "v" => "a view",
        "m" => "a materialized view",
        "f" => "a foreign table",
        "S" => "a sequence",
        "c" => "a type",
        _ => "an index",
    };
    Err(refuse(settings, format!("it is {kind}, and rows are copied into tables only; set table to a table")))
}

/// A query that says which columns the table has, and of which types. COPY in binary form goes by them, and Postgres does not notice where
/// the bytes of one type are those of another.
pub(super) fn shape_sql(settings: &Settings) -> String {
    format!(
        "SELECT string_agg(concat_ws(' ', attnum, quote_ident(attname), atttypid, atttypmod, attnotnull), ', ' ORDER BY attnum)
         FROM pg_attribute WHERE attrelid = {}::regclass AND attnum > 0 AND NOT attisdropped",
        literal(&settings.table.sql())
    )
}

async fn shape(client: &Client, settings: &Settings) -> Result<Option<String>> {
    let row = client.query_one(&shape_sql(settings), &[]).await;
    let row =
        row.map_err(|error| classify(&format!("looking at Postgres table {}", settings.table), &error))?;
    Ok(row.get(0))
}

async fn columns(client: &Client, settings: &Settings) -> Result<Vec<Existing>> {
    let rows = client
        .query(
            "WITH RECURSIVE a AS (
                 SELECT a.* FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
                 WHERE n.nspname = $1 AND c.relname = $2 AND a.attnum > 0 AND NOT a.attisdropped
             ), base (attnum, typid, typmod) AS (
                 SELECT attnum, atttypid, atttypmod FROM a
                 UNION ALL
                 SELECT b.attnum, t.typbasetype, t.typtypmod FROM base b JOIN pg_type t ON t.oid = b.typid WHERE t.typtype = 'd'
             )
             SELECT a.attname::text, format_type(a.atttypid, a.atttypmod),
                    CASE format_type(a.atttypid, NULL) WHEN 'character' THEN 'bpchar' WHEN 'bit' THEN '\"bit\"'
                         ELSE format_type(a.atttypid, NULL) END,
                    a.attnotnull AND NOT a.atthasdef AND a.attidentity = '', format_type(b.typid, NULL), b.typmod
             FROM a JOIN base b ON b.attnum = a.attnum JOIN pg_type t ON t.oid = b.typid AND t.typtype <> 'd'
             ORDER BY a.attnum",
            &[&settings.table.schema, &settings.table.name],
        )
        .await
        .map_err(|error| classify(&format!("looking at Postgres table {}", settings.table), &error))?;
    let column = |row: tokio_postgres::Row| Existing {
        name: row.get(0),
        sql_type: row.get(1),
        cast: row.get(2),
        must_be_given: row.get(3),
        base: row.get(4),
        modifier: row.get(5),
    };
    Ok(rows.into_iter().map(column).collect())
}

/// ON CONFLICT needs a unique index on exactly the key.
async fn check_unique(client: &Client, settings: &Settings) -> Result<()> {
    let rows = client
        .query(
            "SELECT array_agg(a.attname::text) FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
             JOIN pg_namespace n ON n.oid = c.relnamespace
             JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey)
             WHERE n.nspname = $1 AND c.relname = $2 AND i.indisunique AND i.indpred IS NULL AND i.indexprs IS NULL
             GROUP BY i.indexrelid",
            &[&settings.table.schema, &settings.table.name],
        )
        .await
        .map_err(|error| classify(&format!("looking at indexes of Postgres table {}", settings.table), &error))?;
    let key: BTreeSet<&str> = settings.key.iter().map(String::as_str).collect();
    let fits = rows.iter().any(|row| {
        let columns: Vec<String> = row.get(0);
        columns.iter().map(String::as_str).collect::<BTreeSet<_>>() == key
    });
    if fits {
        return Ok(());
    }
    let columns: Vec<_> = settings.key.iter().map(|name| quoted(name)).collect();
    let columns = columns.join(", ");
    Err(refuse(
        settings,
        format!(
            "upsert needs a unique index on the key; run: CREATE UNIQUE INDEX ON {} ({columns})",
            settings.table.sql()
        ),
    ))
}

async fn run(client: &Client, settings: &Settings, sql: &str) -> Result<()> {
    let done = client.batch_execute(sql).await;
    done.map_err(|error| classify(&format!("Postgres table {}: {sql}", settings.table), &error))
}
