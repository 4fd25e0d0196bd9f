//! From a [`Spec`] to a [`Plan`]: everything that is wrong is found, and only what is right goes on.

mod sinks;
mod sources;
mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

use arrow::datatypes::SchemaRef;
use millstream_connect_api::config::suggest;
use millstream_connect_api::{Registry, TableSchema, TaskContext};

use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::plan::{BadInput, Plan, Source, Step};
use crate::spec::{Lookup, OnError, Spec};
use crate::sql::Readable;

/// What a file is checked against.
pub struct Platform<'a> {
    /// The connectors there are.
    pub registry: &'a Registry,
    /// The environment and the secrets.
    pub lookup: Lookup<'a>,
    /// The tables that earlier runs fixed, by source.
    pub known: &'a BTreeMap<String, Vec<TableSchema>>,
    /// The folder that relative paths are taken from: that of the file.
    pub base: Option<&'a Path>,
    /// How connectors look at the outside world.
    pub context: &'a TaskContext,
    /// The rows that bad input is kept as.
    pub dead_letters: SchemaRef,
}

/// Makes a plan of the file named `file` with this text.
///
/// # Errors
/// Everything that is wrong with it.
pub async fn compile(file: &str, text: &str, platform: &Platform<'_>) -> Result<Plan, Diagnostics> {
    let mut problems = Vec::new();
    let plan = match Spec::read(text, platform.lookup, &mut problems) {
        Some(spec) => Some(Check::new(&spec, platform, &mut problems).plan().await),
        None => None,
    };
    // A reference that stands for nothing has no type; that is not said again.
    let unresolved: Vec<_> =
        problems.iter().filter(|p| p.code == "unresolved").map(|p| p.span.clone()).collect();
    problems.retain(|problem| problem.code == "unresolved" || !unresolved.contains(&problem.span));
    match plan {
        Some(plan) if problems.is_empty() => Ok(plan),
        _ => Err(Diagnostics::new(file, text, problems)),
    }
}

/// A file being checked.
struct Check<'a> {
    spec: &'a Spec,
    platform: &'a Platform<'a>,
    problems: &'a mut Vec<Diagnostic>,
    /// What FROM may say.
    readable: BTreeMap<String, Readable>,
    /// Relations that the file has, but whose columns are not known since they are wrong themselves.
    broken: BTreeSet<String>,
    /// Sinks that keep bad input, with the topics it comes from.
    dead_letters: BTreeMap<String, Vec<String>>,
}

impl<'a> Check<'a> {
    fn new(spec: &'a Spec, platform: &'a Platform<'a>, problems: &'a mut Vec<Diagnostic>) -> Self {
        Self {
            spec,
            platform,
            problems,
            readable: BTreeMap::new(),
            broken: BTreeSet::new(),
            dead_letters: BTreeMap::new(),
        }
    }

    async fn plan(mut self) -> Plan {
        let mut sources: Vec<Source> = Vec::new();
        for section in &self.spec.sources {
            match self.source(section).await {
                Some(mut found) => sources.append(&mut found),
                None => drop(self.broken.insert(section.name.clone())),
            }
        }
        let mut steps: Vec<Step> = self.steps(&sources);
        let sinks = self.sinks(&sources, &steps);
        if self.spec.sinks.is_empty() {
            let message = "there is no sink, so nobody would see the rows";
            let help = "add one, for example [sink.screen] with type = \"print\" and from";
            self.problems.push(Diagnostic::new("no-sink", 0..0, message).help(help));
        }
        for step in &mut steps {
            let read = sinks.iter().any(|sink| sink.reads_topic_of(&step.name));
            step.topic = read.then(|| self.topic(&step.name));
        }
        Plan {
            name: self.spec.name.clone(),
            delivery: self.spec.delivery,
            bootstrap: self.spec.bootstrap.clone(),
            sources,
            steps,
            sinks,
        }
    }

    /// The topic of a node.
    fn topic(&self, node: &str) -> String {
        format!("{}.{node}", self.spec.name)
    }

    /// Whether the file has a relation `name`; if not, that is a problem at `span`.
    fn relation_exists(&mut self, name: &str, span: &Range<usize>) -> bool {
        // A source with several tables is broken as a whole: its tables are not known.
        let section = name.split('.').next().unwrap_or(name);
        if self.readable.contains_key(name) || self.broken.contains(name) || self.broken.contains(section) {
            return true;
        }
        let steps = self.spec.steps.iter().map(|step| step.name.as_str());
        let known: BTreeSet<&str> = self.readable.keys().map(String::as_str).chain(steps).collect();
        if known.contains(name) {
            return true;
        }
        let capital = known.iter().find(|known| known.eq_ignore_ascii_case(name));
        let help = match suggest(name, known.iter().copied()) {
            _ if capital.is_some() => {
                format!("SQL lowers names, so a source or step has no capitals in its own: call it '{name}'")
            }
            Some(near) => format!("did you mean '{near}'?"),
            None => {
                let names: Vec<_> = known.into_iter().collect();
                format!("sources and steps here are {}", names.join(", "))
            }
        };
        let message = format!("there is no source or step '{name}'");
        self.problems.push(Diagnostic::new("unknown-relation", span.clone(), message).help(help));
        false
    }

    /// Where bad input of `node` goes.
    fn bad_input(&mut self, node: &str, on_error: OnError) -> BadInput {
        let (sink, span) = match on_error {
            OnError::Fail => return BadInput::Fail,
            OnError::Skip => return BadInput::Skip,
            OnError::Sink(sink, span) => (sink, span),
        };
        let topic = format!("{}.bad", self.topic(node));
        let known = || self.spec.sinks.iter().map(|section| section.name.as_str());
        if known().any(|name| name == sink) {
            self.dead_letters.entry(sink).or_default().push(topic.clone());
        } else {
            let near = suggest(&sink, known()).map(|near| format!("did you mean 'dlq:{near}'?"));
            let help = near.unwrap_or_else(|| format!("add [sink.{sink}]"));
            let message = format!("there is no sink '{sink}'");
            self.problems.push(Diagnostic::new("unknown-sink", span, message).help(help));
        }
        BadInput::Topic(topic)
    }
}
