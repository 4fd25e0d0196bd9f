//! The file source: what it takes, and which table it yields.

mod columns;
mod csv;
pub(crate) mod glob;
mod identity;
mod infer;
mod lines;
mod reader;
mod settings;
mod task;
mod watch;

use std::fs::File;
use std::path::PathBuf;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use futures::FutureExt;
use futures::future::BoxFuture;
use millstream_connect_api::{
    Config, ConfigDef, ConnectError, Problem, Result, SourceConnector, SourceTask, TableSchema, TaskContext,
};

use lines::Chunk;
use settings::{Format, Settings};

/// Reads files: `type = "file"`.
#[derive(Clone, Copy, Debug, Default)]
pub struct FileSource;

/// Bytes that types are inferred from, and files that are looked at for them.
const SAMPLE_BYTES: usize = 1 << 20;
const SAMPLE_FILES: usize = 4;

impl SourceConnector for FileSource {
    fn name(&self) -> &'static str {
        "file"
    }

    fn definition(&self) -> ConfigDef {
        settings::definition()
    }

    fn tables<'a>(
        &'a self,
        source: &'a str,
        config: &'a Config,
        known: &'a [TableSchema],
        context: &'a TaskContext,
    ) -> BoxFuture<'a, Result<Vec<TableSchema>>> {
        async move {
            let settings = Settings::from_config(config)?;
            let schema = match (&settings.columns, known.iter().find(|table| &*table.name == source)) {
                (Some(declared), _) => declared.clone(),
                (None, Some(before)) => before.schema.clone(),
                (None, None) => {
                    let include = config.span("include");
                    let inferred = context.blocking(move || infer(&settings)).await?;
                    inferred
                        .map_err(|problem| ConnectError::Config(vec![Problem { span: include, ..problem }]))?
                }
            };
            Ok(vec![TableSchema::append_only(source, schema)])
        }
        .boxed()
    }

    fn task(&self, config: &Config, tables: &[TableSchema]) -> Result<Box<dyn SourceTask>> {
        let settings = Settings::from_config(config)?;
        let table =
            tables.first().ok_or_else(|| ConnectError::fatal("file source", "it was given no table"))?;
        Ok(Box::new(task::FileTask::new(settings, table)))
    }
}

/// The schema of the files that there are now.
fn infer(settings: &Settings) -> Result<SchemaRef, Problem> {
    if settings.format == Format::Text {
        return Ok(text_schema());
    }
    let files = glob::expand(&settings.include, &settings.exclude)
        .map_err(|error| Problem::at(None, format!("listing files: {error}")))?;
    if files.is_empty() {
        return Err(no_files(settings));
    }
    let mut samples = Vec::new();
    for path in files.into_iter().take(SAMPLE_FILES) {
        let failed = |reason: String| Problem::at(None, format!("{}: {reason}", path.display()));
        let file = File::open(&path).map_err(|error| failed(error.to_string()))?;
        reader::refuse_compressed(&file).map_err(failed)?;
        samples.push(Chunk::read(&file, 0, SAMPLE_BYTES, true).map_err(|error| failed(error.to_string()))?);
    }
    match settings.format {
        Format::Csv => infer_csv(settings, &samples),
        _ => {
            let lines = samples.iter().flat_map(|chunk| (0..chunk.lines.len()).map(|at| chunk.line(at)));
            infer::json_schema(lines)
                .map_err(|reason| Problem::at(None, reason).help("declare columns = { name = \"type\", .. }"))
        }
    }
}

fn infer_csv(settings: &Settings, samples: &[Chunk]) -> Result<SchemaRef, Problem> {
    let first = samples.iter().find(|chunk| !chunk.lines.is_empty());
    let first = first
        .ok_or_else(|| Problem::at(None, "the files are empty, there is nothing to infer types from"))?;
    let header = csv::header(first.line(0), &settings.dialect)
        .map_err(|reason| Problem::at(None, format!("CSV: {reason}")))?;
    let records = samples.iter().flat_map(|chunk| {
        (1..chunk.lines.len()).filter_map(|at| csv::sample_fields(chunk.line(at), &settings.dialect))
    });
    Ok(infer::csv_schema(&header, records))
}

fn no_files(settings: &Settings) -> Problem {
    let here = std::env::current_dir().map(|at| at.display().to_string()).unwrap_or_default();
    let relative = settings.include.iter().any(|pattern| PathBuf::from(pattern).is_relative());
    let at = if relative { format!(" (relative to {here})") } else { String::new() };
    Problem::at(None, format!("no file matches {}{at}", settings.include.join(", ")))
        .help("correct the path, or declare columns = { name = \"type\", .. } if files come later")
}

/// Plain lines have one column.
fn text_schema() -> SchemaRef {
    std::sync::Arc::new(Schema::new(vec![Field::new("line", DataType::Utf8, true)]))
}
