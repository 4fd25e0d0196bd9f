//! The settings of a Postgres sink.

use millstream_connect_api::{Config, ConfigDef, Key, Problem, SinkInput};
use tokio_postgres::config::SslMode;

use crate::types::quoted;

/// Postgres cuts longer names, and would not find them again.
pub(super) const MOST_NAME_BYTES: usize = 63;

pub(super) fn too_long(name: &str) -> String {
    format!("'{name}' has {} bytes; a name in Postgres has at most {MOST_NAME_BYTES}", name.len())
}

/// Checked settings.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) connection: tokio_postgres::Config,
    pub(super) table: TableName,
    pub(super) mode: Mode,
    pub(super) key: Vec<String>,
    pub(super) schema: SchemaMode,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Insert,
    Upsert,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SchemaMode {
    Fail,
    Create,
    Evolve,
}

/// A table's name in its schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TableName {
    pub(super) schema: String,
    pub(super) name: String,
}

impl TableName {
    /// The name in SQL.
    pub(super) fn sql(&self) -> String {
        format!("{}.{}", quoted(&self.schema), quoted(&self.name))
    }

    /// The table of progress beside it.
    pub(super) fn progress_sql(&self) -> String {
        format!("{}.\"_millstream_progress\"", quoted(&self.schema))
    }
}

impl std::fmt::Display for TableName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

pub(super) fn definition() -> ConfigDef {
    ConfigDef::new()
        .key(Key::string("url").required().doc("postgres://user:password@host:port/database; better from a secret: url = { secret = \"...\" }."))
        .key(Key::string("table").required().doc("schema.table to write; public when no schema is named."))
        .key(Key::one_of("mode", &["insert", "upsert"]).default_str("insert").doc("insert: rows are added. upsert: a row replaces the one of the same key, and deletes delete."))
        .key(Key::strings("key").doc("upsert: columns that a row is known by; those of the input's key when left out."))
        .key(Key::one_of("schema", &["fail", "create", "evolve"]).default_str("create").doc("create: the table is made if it is missing. evolve: columns that it lacks are added too. fail: neither."))
}

impl Settings {
    pub(super) fn from_config(config: &Config, input: &SinkInput) -> Result<Self, Problem> {
        let url = config.span("url");
        let connection: tokio_postgres::Config =
            config.str("url").parse().map_err(|error: tokio_postgres::Error| {
                let reason = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                Problem::at(url, format!("url is no address of a database: {reason}"))
                    .help("write it as postgres://user:password@host:port/database")
            })?;
        if connection.get_hosts().is_empty() && connection.get_hostaddrs().is_empty() {
            return Err(Problem::at(url, "url names no host")
                .help("write it as postgres://user:password@host:port/database"));
        }
        if connection.get_ssl_mode() == SslMode::Require {
            return Err(Problem::at(url, "TLS to Postgres is not there yet")
                .help("leave out sslmode=require, on a network that you trust"));
        }
        let mode = if config.str("mode") == "upsert" { Mode::Upsert } else { Mode::Insert };
        let mut key: Vec<String> = config.strings("key").into_iter().map(str::to_owned).collect();
        if key.is_empty() {
            key.clone_from(&input.key);
        }
        if mode == Mode::Upsert && key.is_empty() {
            return Err(
                Problem::at(config.span("mode"), "upsert needs a key").help("add key = [\"column\", ..]")
            );
        }
        let table = config.str("table");
        let (schema, name) = table.split_once('.').unwrap_or(("public", table));
        if schema.is_empty() || name.is_empty() || name.contains('.') {
            return Err(Problem::at(config.span("table"), format!("'{table}' is no name of a table"))
                .help("write it as schema.table"));
        }
        if let Some(long) = [schema, name].into_iter().find(|name| name.len() > MOST_NAME_BYTES) {
            return Err(Problem::at(config.span("table"), too_long(long)).help("choose a shorter name"));
        }
        Ok(Self {
            connection,
            table: TableName { schema: schema.to_owned(), name: name.to_owned() },
            mode,
            key,
            schema: match config.str("schema") {
                "fail" => SchemaMode::Fail,
                "evolve" => SchemaMode::Evolve,
                _ => SchemaMode::Create,
            },
        })
    }
}
