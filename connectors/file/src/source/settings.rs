//! The settings of a file source.

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{Field, Schema, SchemaRef};
use millstream_connect_api::config::{Setting, Type, ValueKind};
use millstream_connect_api::{Config, ConfigDef, ConnectError, Key, Problem, Result};

use super::csv::Dialect;

/// Checked settings.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) include: Vec<String>,
    pub(super) exclude: Vec<String>,
    pub(super) format: Format,
    pub(super) follow: bool,
    pub(super) columns: Option<SchemaRef>,
    pub(super) dialect: Dialect,
    pub(super) header: bool,
    pub(super) max_line: usize,
    pub(super) batch_bytes: usize,
    pub(super) poll_interval: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Csv,
    Text,
}

pub(super) fn definition() -> ConfigDef {
    ConfigDef::new()
        .key(Key::path_list("include").required().doc("Files to read; *, ?, [a-z] and ** match names."))
        .key(Key::path_list("exclude").doc("Files of include that are not read."))
        .key(Key::one_of("format", &["json", "csv", "text"]).required().doc("json (one object a line), csv, or text (one row a line)."))
        .key(Key::one_of("read", &["once", "follow"]).default_str("follow").doc("once: read to the end and stop. follow: go on as files grow and rotate."))
        .key(Key::new("columns", Type::Map(Box::new(Type::ColumnType))).doc("Columns to read and their types. Left out, they are inferred from a sample at the first start and then fixed."))
        .key(Key::boolean("header").default(ValueKind::Boolean(true)).doc("CSV: the first line of each file names its columns. Without one, columns names them in order."))
        .key(Key::string("delimiter").default_str(",").check(one_byte).doc("CSV: what stands between fields."))
        .key(Key::string("quote").default_str("\"").check(one_byte).doc("CSV: what stands around a field with delimiters or line breaks."))
        .key(Key::strings("null_values").default(ValueKind::String(String::new())).doc("CSV: unquoted fields that are null, such as [\"\", \"NA\"]."))
        .key(Key::size("max_line").default_str("1MiB").check(at_least_a_byte).doc("A longer line is a bad record."))
        .key(Key::size("batch_bytes").default_str("1MiB").check(at_least_a_byte).doc("Bytes read at once; bounds memory."))
        .key(Key::duration("poll_interval").default_str("1s").doc("follow: how often folders are listed, beside the system's notices."))
        .check(cross_check)
}

fn one_byte(setting: &Setting) -> Result<(), String> {
    match setting.value.as_str() {
        Some(text) if text.len() == 1 && text != "\n" && text != "\r" => Ok(()),
        _ => Err("exactly one ASCII character is expected".into()),
    }
}

fn at_least_a_byte(setting: &Setting) -> Result<(), String> {
    match setting.value {
        millstream_connect_api::config::SettingValue::Size(size) if size > 0 && size <= 1 << 30 => Ok(()),
        _ => Err("a size from 1B to 1GiB is expected".into()),
    }
}

fn cross_check(config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    let csv = config.str("format") == "csv";
    if csv && !config.boolean("header") && !config.has("columns") {
        problems.push(
            Problem::at(config.span("header"), "CSV without a header has no names of columns")
                .help("declare columns = { name = \"type\", .. } in the order of the fields"),
        );
    }
    if config.str("format") == "text" && config.has("columns") {
        problems
            .push(Problem::at(config.span("columns"), "text has one column, 'line', and takes no columns"));
    }
    if config.list("include").is_empty() {
        problems.push(Problem::at(config.span("include"), "include names no file"));
    }
    for pattern in config.list("include") {
        let text = pattern.value.as_str().unwrap_or_default();
        if [".gz", ".zst", ".bz2", ".xz"].iter().any(|ending| text.ends_with(ending)) {
            problems.push(
                Problem::at(pattern.span, "compressed files cannot be read yet")
                    .help("decompress them first, such as with gunzip --keep"),
            );
        }
    }
    problems
}

impl Settings {
    pub(super) fn from_config(config: &Config) -> Result<Self> {
        let problems = cross_check(config);
        if !problems.is_empty() {
            return Err(ConnectError::Config(problems));
        }
        let owned = |key| config.strings(key).into_iter().map(str::to_owned).collect::<Vec<_>>();
        let byte = |key: &str| config.str(key).bytes().next().unwrap_or(b',');
        let size = |key: &str| usize::try_from(config.size(key)).unwrap_or(usize::MAX);
        let columns = config.map_opt("columns").map(|columns| {
            let field = |(name, kind): (&String, &Setting)| {
                kind.value.as_data_type().map(|data_type| Field::new(name, data_type.clone(), true))
            };
            Arc::new(Schema::new(columns.iter().filter_map(field).collect::<Vec<_>>()))
        });
        Ok(Self {
            include: owned("include"),
            exclude: owned("exclude"),
            format: match config.str("format") {
                "csv" => Format::Csv,
                "text" => Format::Text,
                _ => Format::Json,
            },
            follow: config.str("read") == "follow",
            columns,
            dialect: Dialect {
                delimiter: byte("delimiter"),
                quote: byte("quote"),
                null_values: owned("null_values"),
                max_line: size("max_line"),
            },
            header: config.boolean("header"),
            max_line: size("max_line"),
            batch_bytes: size("batch_bytes"),
            poll_interval: config.duration("poll_interval").max(Duration::from_millis(10)),
        })
    }
}
