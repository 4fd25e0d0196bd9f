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
/// What helps where types cannot be inferred.
const DECLARE: &str = "declare columns = { name = \"type\", .. }";

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
                (Some(declared), _) => {
                    let (declared, columns) = (declared.clone(), config.map("columns").clone());
                    let place = |name: &str| columns.get(name).and_then(|setting| setting.span);
                    let found = context.blocking(move || compare_headers(&settings)).await?;
                    let problems = found.into_iter().map(|(name, problem)| Problem {
                        span: place(&name).or(config.span("columns")),
                        ..problem
                    });
                    let problems: Vec<_> = problems.collect();
                    if !problems.is_empty() {
                        return Err(ConnectError::Config(problems));
                    }
                    declared
                }
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
        let chunk = Chunk::read(&file, 0, SAMPLE_BYTES, true).map_err(|error| failed(error.to_string()))?;
        samples.push((path, chunk));
    }
    samples.retain(|(_, chunk)| !chunk.lines.is_empty());
    if samples.is_empty() {
        let message =
            format!("{} is empty, so there is nothing to infer types from", settings.include.join(", "));
        return Err(Problem::at(None, message).help(DECLARE));
    }
    match settings.format {
        Format::Csv => infer_csv(settings, &samples),
        _ => {
            let lines = samples.iter().flat_map(|(_, chunk)| chunk.shared());
            infer::json_schema(lines).map_err(|reason| match no_object(&samples) {
                Some(first) => Problem::at(None, first).help("each line is one JSON object"),
                None => Problem::at(None, reason).help(DECLARE),
            })
        }
    }
}

/// Where the first line of the samples that is no JSON object is, and why.
fn no_object(samples: &[(PathBuf, Chunk)]) -> Option<String> {
    samples.iter().find_map(|(path, chunk)| {
        let at = (0..chunk.lines.len()).find(|at| !chunk.line(*at).trim_ascii().is_empty())?;
        let reason = infer::no_object(chunk.line(at))?;
        Some(format!("{}:{}: {reason}", path.display(), at + 1))
    })
}

/// The first file says which columns there are; every file says by its own header where they are.
fn infer_csv(settings: &Settings, samples: &[(PathBuf, Chunk)]) -> Result<SchemaRef, Problem> {
    let mut columns = Vec::new();
    let mut records = Vec::new();
    for (path, chunk) in samples {
        let failed = |reason: String| Problem::at(None, format!("{}: {reason}", path.display()));
        let header = csv::header(chunk.line(0), &settings.dialect).map_err(failed)?;
        if let Some(name) = csv::name_twice(&header).next() {
            let message = format!("{} in the header of {}", csv::stands_twice(name), path.display());
            return Err(Problem::at(None, message).help(csv::RENAME));
        }
        if columns.is_empty() {
            columns.clone_from(&header);
        }
        let places: Vec<_> =
            columns.iter().map(|name| header.iter().position(|field| field == name)).collect();
        let lines = (1..chunk.lines.len()).map(|at| chunk.line(at));
        let fields = lines.filter_map(|line| csv::sample_fields(line, &settings.dialect));
        for fields in fields.filter(|fields| fields.len() == header.len()) {
            let value = |place: &Option<usize>| fields.get((*place)?).cloned().flatten();
            records.push(places.iter().map(value).collect());
        }
    }
    if records.is_empty() {
        let message = format!(
            "{} has a header and no rows, so there is nothing to infer types from",
            settings.include.join(", ")
        );
        return Err(Problem::at(None, message).help(DECLARE));
    }
    let (schema, empty) = infer::csv_schema(&columns, records.into_iter());
    if !empty.is_empty() {
        tracing::warn!(
            files = settings.include.join(", "),
            columns = empty.join(", "),
            "no value of these columns is in the sample, so they are taken for text, and stay so; {DECLARE} if they are not"
        );
    }
    Ok(schema)
}

/// Declared columns that headers of files which are there lack, or have twice, and what is wrong with each.
fn compare_headers(settings: &Settings) -> Vec<(String, Problem)> {
    let mut problems = Vec::new();
    let Some(columns) =
        settings.columns.as_ref().filter(|_| settings.format == Format::Csv && settings.header)
    else {
        return problems;
    };
    // What cannot be looked at now is told by who reads it.
    let files = glob::expand(&settings.include, &settings.exclude).unwrap_or_default();
    for path in files.into_iter().take(SAMPLE_FILES) {
        let Ok(file) = File::open(&path) else { continue };
        let last = !settings.follow;
        let Ok(chunk) = Chunk::read(&file, 0, settings.max_line + 2, last) else { continue };
        if chunk.lines.is_empty() || reader::refuse_compressed(&file).is_err() {
            continue;
        }
        let Ok(header) = csv::header(chunk.line(0), &settings.dialect) else { continue };
        for name in columns.fields().iter().map(|field| field.name()) {
            if problems.iter().any(|(before, _)| before == name) {
                continue;
            }
            let problem = match header.iter().filter(|field| *field == name).count() {
                0 => Problem::at(None, format!("the header of {} has no column '{name}'", path.display()))
                    .help(csv::nearest(name, &header)),
                1 => continue,
                _ => Problem::at(None, format!("'{name}' stands twice in the header of {}", path.display()))
                    .help(csv::RENAME),
            };
            problems.push((name.clone(), problem));
        }
    }
    problems
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
