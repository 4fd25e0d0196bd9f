//! Checking sources.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use millstream_connect_api::config::{Table, suggest};
use millstream_connect_api::{Config, ConnectError, SourceConnector, TableSchema, key};

use super::Check;
use crate::diagnostic::Diagnostic;
use crate::plan::{EventTime, Source, SourceKind};
use crate::spec::{self, Section};
use crate::sql::Readable;

/// The type of a source that reads a topic.
const TOPIC: &str = "topic";

impl Check<'_> {
    /// The relations of one source.
    pub(super) async fn source(&mut self, section: &Section) -> Option<Vec<Source>> {
        let names: Vec<&str> = self.platform.registry.source_names().chain([TOPIC]).collect();
        let kind = self.type_of(section, &names)?;
        if kind == TOPIC {
            return self.topic_source(section);
        }
        let connector = Arc::clone(self.platform.registry.source(&kind)?);
        let config = self.config(section, spec::source_def().with(connector.definition()))?;
        let tables = self.discover(section, connector.as_ref(), &config).await?;
        let several = tables.len() > 1 || tables.iter().any(|table| *table.name != *section.name);
        let mut sources = Vec::new();
        for table in tables {
            let topic = self.topic(&table.name);
            let source_kind = SourceKind::Connector { connector: kind.clone(), config: config.clone() };
            sources.push(self.relation(section, &config, table, source_kind, topic, several)?);
        }
        Some(sources)
    }

    fn topic_source(&mut self, section: &Section) -> Option<Vec<Source>> {
        let config = self.config(section, spec::source_def().with(spec::topic_source_def()))?;
        let fields: Vec<_> = config
            .map("columns")
            .iter()
            .filter_map(|(name, setting)| Some(Field::new(name, setting.value.as_data_type()?.clone(), true)))
            .collect();
        let table = TableSchema::append_only(section.name.as_str(), Arc::new(Schema::new(fields)));
        let kind = SourceKind::Topic { once: config.str("read") == "once" };
        let topic = config.str("topic").to_owned();
        Some(vec![self.relation(section, &config, table, kind, topic, false)?])
    }

    /// The type that a section names, which must be one of `names`.
    pub(super) fn type_of(&mut self, section: &Section, names: &[&str]) -> Option<String> {
        let Some(entry) = section.table.entries.get("type") else {
            let message = format!("'{}' has no type", section.name);
            let help = format!("types are {}", names.join(", "));
            self.problems.push(Diagnostic::new("config", section.name_span.clone(), message).help(help));
            return None;
        };
        let written = entry.value.kind.as_str().unwrap_or_default();
        if names.contains(&written) {
            return Some(written.to_owned());
        }
        let span = entry.value.span.start..entry.value.span.end;
        let help = match suggest(written, names.iter().copied()) {
            Some(near) => format!("did you mean '{near}'?"),
            None => format!("types are {}", names.join(", ")),
        };
        let message = format!("there is no type '{written}'");
        self.problems.push(Diagnostic::new("unknown-type", span, message).help(help));
        None
    }

    /// The typed keys of a section.
    pub(super) fn config(
        &mut self,
        section: &Section,
        def: millstream_connect_api::ConfigDef,
    ) -> Option<Config> {
        let def = match self.platform.base {
            Some(base) => def.relative_to(base),
            None => def,
        };
        let table: &Table = &section.table;
        match def.resolve(table, Some(section.span)) {
            Ok(config) => Some(config),
            Err(found) => {
                spec::push(self.problems, found, section.span);
                None
            }
        }
    }

    /// Asks the connector for its tables.
    async fn discover(
        &mut self,
        section: &Section,
        connector: &dyn SourceConnector,
        config: &Config,
    ) -> Option<Vec<TableSchema>> {
        let known = self.platform.known.get(&section.name).map(Vec::as_slice).unwrap_or_default();
        match connector.tables(&section.name, config, known, self.platform.context).await {
            Ok(tables) => Some(tables),
            Err(ConnectError::Config(found)) => {
                spec::push(self.problems, found, section.span);
                None
            }
            Err(error) => {
                let message = format!("'{}' cannot tell its columns: {error}", section.name);
                self.problems.push(Diagnostic::new("source", section.name_span.clone(), message));
                None
            }
        }
    }

    /// One relation of a source, with its time and its key.
    fn relation(
        &mut self,
        section: &Section,
        config: &Config,
        mut table: TableSchema,
        kind: SourceKind,
        topic: String,
        several: bool,
    ) -> Option<Source> {
        let before = self.problems.len();
        for field in table.schema.fields() {
            let Some(part) = crate::sql::unwritable(field.data_type()) else { continue };
            let kind = millstream_connect_api::types::type_name(part);
            let span = config.map("columns").get(field.name()).and_then(|setting| setting.span);
            let span = span.unwrap_or(section.span);
            let message = format!("'{}' is of type {kind}, which no row can carry", field.name());
            let help = "declare it as string, or as int64 with the unit in its name";
            self.problems.push(Diagnostic::new("type", span.start..span.end, message).help(help));
        }
        let is_table = config.has("table");
        if is_table && several {
            let span = config.span("table").unwrap_or(section.span);
            let message = "this source has several tables, each with a key of its own";
            self.problems
                .push(Diagnostic::new("config", span.start..span.end, message).help("leave 'table' out"));
        } else if is_table {
            table.key = self.table_key(config, &table.schema);
        }
        let is_table = is_table || (table.changelog && !table.key.is_empty());
        let time = self.event_time(config, &table.schema);
        let on_error = spec::on_error(config);
        let on_error = self.bad_input(&section.name, on_error);
        let readable = Readable {
            schema: SchemaRef::clone(&table.schema),
            table_key: is_table.then(|| table.key.clone()),
            updates: false,
        };
        self.readable.insert(table.name.to_string(), readable);
        let partitions = i32::try_from(config.integer("partitions")).unwrap_or(1);
        let section = section.name.clone();
        let source = Source { section, table, is_table, kind, topic, partitions, time, on_error };
        (self.problems.len() == before).then_some(source)
    }

    fn table_key(&mut self, config: &Config, schema: &Schema) -> Vec<String> {
        let settings = config.table("table").list("key");
        let columns = settings.iter().filter_map(|setting| Some((setting.value.as_str()?, setting.span?)));
        let mut names = Vec::new();
        for (name, span) in columns {
            let span = span.start..span.end;
            match schema.field_with_name(name) {
                Ok(field) if key::is_key_type(field.data_type()) => names.push(name.to_owned()),
                Ok(_) => {
                    let message = format!("'{name}' is of a type that cannot be a key");
                    self.problems.push(Diagnostic::new("type", span, message));
                }
                Err(_) => self.problems.push(unknown_column(name, schema, span)),
            }
        }
        names
    }

    fn event_time(&mut self, config: &Config, schema: &Schema) -> Option<EventTime> {
        let time = spec::time_spec(config)?;
        let Ok(column) = schema.index_of(&time.column) else {
            self.problems.push(unknown_column(&time.column, schema, time.span));
            return None;
        };
        let found = schema.field(column).data_type();
        if !matches!(found, DataType::Timestamp(..)) {
            let kind = millstream_connect_api::types::type_name(found);
            let message = format!("'{}' is of type {kind}, and time is a timestamp", time.column);
            let help = format!("declare it: columns = {{ {} = \"timestamp\" }}", time.column);
            self.problems.push(Diagnostic::new("type", time.span, message).help(help));
            return None;
        }
        Some(EventTime { column, lateness: time.lateness })
    }
}

/// A column that a schema does not have.
pub(super) fn unknown_column(name: &str, schema: &Schema, span: std::ops::Range<usize>) -> Diagnostic {
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let help = match suggest(name, names.iter().copied()) {
        Some(near) => format!("did you mean '{near}'?"),
        None => format!("columns here are {}", names.join(", ")),
    };
    Diagnostic::new("unknown-column", span, format!("there is no column '{name}'")).help(help)
}
