//! Checking sinks.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use millstream_connect_api::config::{Span, Value, ValueKind};
use millstream_connect_api::{Config, SinkInput, TableSchema, key};

use super::Check;
use super::sources::unknown_column;
use crate::diagnostic::Diagnostic;
use crate::plan::{Sink, SinkKind, Source, Step};
use crate::spec::{self, Section};

/// The type of a sink that writes a topic.
const TOPIC: &str = "topic";
/// The type of a sink that shows rows on the screen.
const PRINT: &str = "print";

impl Check<'_> {
    /// All sinks.
    pub(super) fn sinks(&mut self, sources: &[Source], steps: &[Step]) -> Vec<Sink> {
        let spec = self.spec;
        // Sinks of sinks' bad input are noted first: a sink may stand before the one whose bad input it keeps.
        for section in &spec.sinks {
            let entry = section.table.get("on_error").and_then(|value| value.kind.as_str());
            if let (Some(name), Some(value)) =
                (entry.and_then(|text| text.strip_prefix("dlq:")), section.table.get("on_error"))
            {
                let span = value.span.start..value.span.end;
                self.bad_input(&section.name, spec::OnError::Sink(name.to_owned(), span));
            }
        }
        let mut claimed = BTreeMap::new();
        spec.sinks.iter().filter_map(|section| self.sink(section, sources, steps, &mut claimed)).collect()
    }

    /// Refuses a sink that would write over what an earlier one writes.
    fn claim(&mut self, section: &Section, claims: Vec<String>, claimed: &mut BTreeMap<String, String>) {
        for claim in claims {
            match claimed.get(&claim) {
                Some(other) => {
                    let message = format!("sink '{other}' writes the same, {claim}");
                    let help = "give each sink a place of its own, or one would lose the other's rows";
                    let span = section.name_span.clone();
                    self.problems.push(Diagnostic::new("config", span, message).help(help));
                }
                None => drop(claimed.insert(claim, section.name.clone())),
            }
        }
    }

    fn sink(
        &mut self,
        section: &Section,
        sources: &[Source],
        steps: &[Step],
        claimed: &mut BTreeMap<String, String>,
    ) -> Option<Sink> {
        let names: Vec<&str> = self.platform.registry.sink_names().chain([TOPIC, PRINT]).collect();
        let kind = self.type_of(section, &names);
        let from = self.from(section);
        let kind = kind?;
        let connector = self.platform.registry.sink(&kind).cloned();
        let def = match (&connector, kind.as_str()) {
            (Some(connector), _) => connector.definition(),
            (None, TOPIC) => spec::topic_sink_def(),
            (None, _) => spec::print_sink_def(),
        };
        let config = self.config(section, spec::sink_def().with(def))?;
        let (from, table, topics) = self.input(section, from?, sources, steps)?;
        let input = SinkInput {
            name: section.name.clone(),
            schema: SchemaRef::clone(&table.schema),
            key: table.key.clone(),
            changelog: table.changelog,
        };
        let sink_kind = match (connector, kind.as_str()) {
            (Some(connector), _) => {
                let mut found = connector.check(&config, &input);
                match connector.claims(&config, &topics) {
                    Ok(claims) => self.claim(section, claims, claimed),
                    Err(problems) => found.extend(problems),
                }
                if !found.is_empty() {
                    spec::push(self.problems, found, section.span);
                    return None;
                }
                SinkKind::Connector { connector: kind, config: config.clone() }
            }
            (None, TOPIC) => SinkKind::Topic {
                topic: config.str("topic").to_owned(),
                key: self.record_key(&config, &table)?,
            },
            (None, _) => {
                SinkKind::Print { rows: usize::try_from(config.integer("rows")).unwrap_or(usize::MAX) }
            }
        };
        let on_error = match spec::on_error(&config) {
            spec::OnError::Sink(..) => {
                crate::plan::BadInput::Topic(format!("{}.bad", self.topic(&section.name)))
            }
            spec::OnError::Skip => crate::plan::BadInput::Skip,
            spec::OnError::Fail => crate::plan::BadInput::Fail,
        };
        Some(Sink { name: section.name.clone(), from, topics, kind: sink_kind, input, on_error })
    }

    /// The relation that a sink names; `Some(None)` when it keeps bad input only.
    fn from(&mut self, section: &Section) -> Option<Option<String>> {
        let keeps_bad = self.dead_letters.contains_key(&section.name);
        match (section.table.get("from"), keeps_bad) {
            (Some(Value { kind: ValueKind::String(name), span }), false) => {
                self.relation_exists(name, &(span.start..span.end)).then(|| Some(name.clone()))
            }
            (Some(value), true) => {
                let message = "this sink keeps bad input, whose columns are not those of 'from'";
                let help = "leave 'from' out, or keep bad input in a sink of its own";
                let span = value.span.start..value.span.end;
                self.problems.push(Diagnostic::new("config", span, message).help(help));
                None
            }
            (None, true) => Some(None),
            (None, false) => {
                let message = format!("'{}' has no 'from'", section.name);
                let help = "name a source or a step: from = \"...\"";
                self.problems.push(Diagnostic::new("config", section.name_span.clone(), message).help(help));
                None
            }
            // Of another type: the definition says so.
            (Some(_), false) => None,
        }
    }

    /// What the sink reads: relation, rows, topics.
    fn input(
        &self,
        section: &Section,
        from: Option<String>,
        sources: &[Source],
        steps: &[Step],
    ) -> Option<(Option<String>, TableSchema, Vec<String>)> {
        let Some(from) = from else {
            let schema = SchemaRef::clone(&self.platform.dead_letters);
            let topics = self.dead_letters.get(&section.name).cloned().unwrap_or_default();
            return Some((None, TableSchema::append_only(section.name.as_str(), schema), topics));
        };
        if let Some(source) = sources.iter().find(|source| *source.table.name == *from) {
            return Some((Some(from), source.table.clone(), vec![source.topic.clone()]));
        }
        let step = steps.iter().find(|step| step.name == from)?;
        Some((Some(from), step.table(), vec![self.topic(&step.name)]))
    }

    fn record_key(&mut self, config: &Config, table: &TableSchema) -> Option<Vec<String>> {
        let Some(given) = config.list_opt("key") else { return Some(table.key.clone()) };
        let before = self.problems.len();
        let mut names = Vec::new();
        for setting in given {
            let span = setting.span.unwrap_or(Span::default());
            let span = span.start..span.end;
            let name = setting.value.as_str().unwrap_or_default();
            match table.schema.field_with_name(name) {
                Ok(field) if key::is_key_type(field.data_type()) => names.push(name.to_owned()),
                Ok(_) => {
                    let message = format!("'{name}' is of a type that cannot be a key");
                    self.problems.push(Diagnostic::new("type", span, message));
                }
                Err(_) => self.problems.push(unknown_column(name, &table.schema, span)),
            }
        }
        if table.changelog && names != table.key && self.problems.len() == before {
            let span = config.span("key").unwrap_or_default();
            let message = "results that change are told apart by the columns of GROUP BY";
            let help = format!("leave 'key' out; it is {}", table.key.join(", "));
            self.problems.push(Diagnostic::new("config", span.start..span.end, message).help(help));
        }
        (self.problems.len() == before).then_some(names)
    }
}

impl Sink {
    /// Whether it reads the topic of the step or source `name`: all but a topic sink do, which the step writes itself.
    pub(crate) fn reads_topic_of(&self, name: &str) -> bool {
        self.from.as_deref() == Some(name) && !matches!(self.kind, SinkKind::Topic { .. })
    }

    /// The connector's type, or that of a built-in sink.
    #[must_use]
    pub fn type_name(&self) -> Arc<str> {
        match &self.kind {
            SinkKind::Connector { connector, .. } => connector.as_str().into(),
            SinkKind::Topic { .. } => TOPIC.into(),
            SinkKind::Print { .. } => PRINT.into(),
        }
    }
}
