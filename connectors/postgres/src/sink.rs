//! The Postgres sink: what it takes, and what it refuses.

mod exact;
mod progress;
mod rows;
mod settings;
mod table;
mod task;
mod writing;

use millstream_connect_api::{
    Config, ConfigDef, ConnectError, Problem, Result, SinkConnector, SinkInput, SinkTask,
};

use crate::types::PgType;
use settings::{MOST_NAME_BYTES, Mode, Settings, too_long};

/// Writes rows into a table: `type = "postgres"`.
#[derive(Clone, Copy, Debug, Default)]
pub struct PostgresSink;

impl SinkConnector for PostgresSink {
    fn name(&self) -> &'static str {
        "postgres"
    }

    fn definition(&self) -> ConfigDef {
        settings::definition()
    }

    fn check(&self, config: &Config, input: &SinkInput) -> Vec<Problem> {
        let settings = match Settings::from_config(config, input) {
            Ok(settings) => settings,
            Err(problem) => return vec![problem],
        };
        let mut problems = Vec::new();
        for field in input.schema.fields() {
            if PgType::of(field.data_type()).is_none() {
                let message = format!(
                    "there is no Postgres type for column '{}' of type {}",
                    field.name(),
                    field.data_type()
                );
                problems.push(Problem::at(config.span("table"), message).help("cast it to a string"));
            }
        }
        for field in input.schema.fields() {
            let name = field.name();
            if name.len() > MOST_NAME_BYTES {
                let problem = Problem::at(config.span("table"), format!("column {}", too_long(name)));
                problems.push(problem.help("give it a shorter name in a step: SELECT .. AS .."));
            }
            if settings.mode == Mode::Upsert && name == task::OPERATION {
                let message =
                    format!("column '{name}' of the input has a name that this sink needs for itself");
                problems.push(
                    Problem::at(config.span("table"), message)
                        .help("give it another name in a step: SELECT .. AS .."),
                );
            }
        }
        for name in &settings.key {
            if input.schema.field_with_name(name).is_err() {
                let names: Vec<_> = input.schema.fields().iter().map(|field| field.name().as_str()).collect();
                let problem = Problem::at(config.span("key"), format!("the input has no column '{name}'"));
                problems.push(problem.help(format!("it has {}", names.join(", "))));
            }
        }
        if input.changelog && settings.mode == Mode::Insert {
            let problem = Problem::at(
                config.span("mode"),
                "the input replaces and deletes rows, which insert cannot do",
            );
            problems.push(problem.help("set mode = \"upsert\" and key"));
        }
        problems
    }

    fn task(&self, config: &Config, input: &SinkInput) -> Result<Box<dyn SinkTask>> {
        let problems = self.check(config, input);
        if !problems.is_empty() {
            return Err(ConnectError::Config(problems));
        }
        let settings =
            Settings::from_config(config, input).map_err(|problem| ConnectError::Config(vec![problem]))?;
        Ok(Box::new(task::PostgresTask::new(settings, input)))
    }
}
