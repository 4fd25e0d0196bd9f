//! The file sink: what it takes, and what it refuses.

mod csv;
mod note;
mod parts;
mod settings;
mod task;
mod template;
mod writer;

use std::path::PathBuf;

use millstream_connect_api::{
    Config, ConfigDef, ConnectError, Problem, Result, SinkConnector, SinkInput, SinkTask,
};

use settings::{Format, Settings};

/// Writes files: `type = "file"`.
#[derive(Clone, Copy, Debug, Default)]
pub struct FileSink;

impl SinkConnector for FileSink {
    fn name(&self) -> &'static str {
        "file"
    }

    fn definition(&self) -> ConfigDef {
        settings::definition()
    }

    fn check(&self, config: &Config, input: &SinkInput) -> Vec<Problem> {
        let settings = match Settings::from_config(config) {
            Ok(settings) => settings,
            Err(problems) => return problems,
        };
        let mut problems = Vec::new();
        if input.changelog {
            problems.push(
                Problem::at(
                    config.span("path"),
                    "a file keeps rows that are only added, and this input replaces and deletes rows",
                )
                .help(
                    "group by a window, whose rows are final, or use a sink that can replace rows, such as postgres with mode = \"upsert\"",
                ),
            );
        }
        let nested = input.schema.fields().iter().filter(|field| field.data_type().is_nested());
        if settings.format == Format::Csv {
            problems.extend(nested.map(|field| {
                let message =
                    format!("CSV has no room for column '{}' of type {}", field.name(), field.data_type());
                Problem::at(config.span("path"), message)
                    .help("use json or parquet, or select a part of the column")
            }));
        }
        problems
    }

    fn claims(&self, config: &Config, topics: &[String]) -> Result<Vec<String>, Vec<Problem>> {
        let settings = Settings::from_config(config)?;
        if topics.len() > 1 && !settings.template.has_topic() {
            let message =
                format!("the sink is given {}, and its files do not tell them apart", topics.join(", "));
            let problem = Problem::at(config.span("path"), message);
            return Err(vec![problem.help("put {topic} into path, such as \"bad/{topic}-{seq}.ndjson\"")]);
        }
        let name = |topic: &String| {
            let path = settings.base_dir.join(settings.template.of_topic(topic));
            // Two spellings of one path, such as a//b and a/./b, are equal in their parts.
            path.components().collect::<PathBuf>().display().to_string()
        };
        let mut names: Vec<String> = topics.iter().map(name).collect();
        names.dedup();
        Ok(names)
    }

    fn task(&self, config: &Config, input: &SinkInput) -> Result<Box<dyn SinkTask>> {
        let problems = self.check(config, input);
        if !problems.is_empty() {
            return Err(ConnectError::Config(problems));
        }
        let settings = Settings::from_config(config).map_err(ConnectError::Config)?;
        Ok(Box::new(task::FileSinkTask::new(settings, input)))
    }
}
