//! `connect run <file.toml>`: sources and sinks from one file, in one process.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use millstream_connect_api::config::{
    Reference, Span, Table, Value, ValueKind, line_column, parse_toml, resolve_references, suggest,
};
use millstream_connect_api::convert::CONVERTERS;
use millstream_connect_api::{
    Config, ConfigDef, ConnectError, Key, Problem, Registry, SinkConnector, SourceConnector, TableSchema,
    TaskContext,
};
use tokio::sync::watch;

use crate::host::task_context;
use crate::{
    Ends, OnError, Outcome, Result, RetryPolicy, RuntimeError, SinkSpec, SourceSpec, Status, Stop,
    TableTopic, WorkerEnv, ends_channel, known_schemas, run_sink, run_source, stop_signal,
};

/// How often sinks commit, unless `[worker] commit_interval` says otherwise (`offset.flush.interval.ms`, which Kafka sets to a minute).
const COMMIT_INTERVAL: &str = "5s";

/// A checked daemon file.
pub struct Daemon {
    name: String,
    bootstrap: Option<String>,
    commit_interval: Duration,
    sources: Vec<Source>,
    sinks: Vec<Sink>,
}

struct Source {
    name: String,
    connector: Arc<dyn SourceConnector>,
    config: Config,
    common: Config,
    status: Status,
}

struct Sink {
    name: String,
    connector: Arc<dyn SinkConnector>,
    config: Config,
    common: Config,
    status: Status,
}

/// Finds the values of references: variables of the environment and secrets.
pub type Lookup<'a> = &'a dyn Fn(&Reference) -> Result<Option<String>, String>;

impl Daemon {
    /// Reads a daemon file. Relative paths in it are taken from its folder.
    ///
    /// # Errors
    /// [`RuntimeError::Config`] with everything that is wrong, each as `line:column: message (help)`.
    pub fn parse(file: &Path, text: &str, registry: &Registry, lookup: Lookup<'_>) -> Result<Self> {
        let base = file.parent().unwrap_or(Path::new(""));
        parse(text, base, registry, lookup).map_err(|problems| RuntimeError::Config {
            file: file.display().to_string(),
            problems: problems.iter().map(|problem| describe(text, problem)).collect(),
        })
    }

    /// The name of this daemon: part of transactional ids, groups and keys of positions.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `[worker] bootstrap`: the cluster to run on, if the file names one.
    pub fn bootstrap(&self) -> Option<&str> {
        self.bootstrap.as_deref()
    }

    /// Live counters of each source and sink, by name.
    pub fn statuses(&self) -> Vec<(&str, &Status)> {
        let sources = self.sources.iter().map(|source| (source.name.as_str(), &source.status));
        sources.chain(self.sinks.iter().map(|sink| (sink.name.as_str(), &sink.status))).collect()
    }

    /// Runs until every source and sink has ended or `stop` is asked for. The first that fails for good stops the others,
    /// which commit what they have: a daemon that goes on with a part of its work is found broken too late.
    ///
    /// # Errors
    /// The first failure.
    pub async fn run(&self, worker: WorkerEnv, stop: Stop) -> Result<()> {
        let (stopper, inner) = stop_signal();
        let mut running: FuturesUnordered<BoxFuture<'_, Result<Outcome>>> = FuturesUnordered::new();
        let known = known_schemas(&*worker.log).await?;
        let context = task_context(&worker.env, &inner);
        let mut written: Vec<(TableTopic, watch::Receiver<Option<Ends>>)> = Vec::new();
        for source in &self.sources {
            let spec = source.spec(&known, &context).await?;
            crate::source::ensure_topics(&*worker.log, &spec).await?;
            let (send, ends) = ends_channel();
            let dead_letters = match &spec.on_error {
                OnError::DeadLetters(topic) => Some(dead_letter_table(topic)),
                _ => None,
            };
            written.extend(spec.tables.iter().cloned().chain(dead_letters).map(|to| (to, ends.clone())));
            running.push(Box::pin(run_source(
                spec,
                worker.clone(),
                inner.clone(),
                source.status.clone(),
                send,
            )));
        }
        for sink in &self.sinks {
            let table = sink.table(&known, &written)?;
            let ends = self.ends(sink, &written, &worker);
            let spec = sink.spec(table, ends, self.commit_interval);
            running.push(Box::pin(run_sink(spec, worker.clone(), inner.clone(), sink.status.clone())));
        }
        let mut first_failure = Ok(());
        loop {
            // Once stopping, the rest is waited for.
            let next = match inner.is_stopping() {
                true => running.next().await,
                false => match stop.or(running.next()).await {
                    Some(next) => next,
                    None => {
                        stopper.stop();
                        continue;
                    }
                },
            };
            match next {
                None => return first_failure,
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    tracing::error!(%error, "stopping all");
                    stopper.stop();
                    if first_failure.is_ok() {
                        first_failure = Err(error);
                    }
                }
            }
        }
    }

    /// Where a sink's input ends: known once all sources that write its topics, and are in this file, have ended.
    fn ends(
        &self,
        sink: &Sink,
        written: &[(TableTopic, watch::Receiver<Option<Ends>>)],
        worker: &WorkerEnv,
    ) -> Option<watch::Receiver<Option<Ends>>> {
        let topics = sink.topics();
        let receiver =
            |topic: &String| written.iter().find(|(to, _)| to.topic == *topic).map(|(_, ends)| ends.clone());
        let mut receivers = topics.iter().map(receiver).collect::<Option<Vec<_>>>()?;
        let (send, all) = ends_channel();
        worker.env.spawn("connect-ends", async move {
            let mut merged = Ends::new();
            for receiver in &mut receivers {
                let Ok(ends) = receiver.wait_for(Option::is_some).await else { return }; // the source failed
                let own =
                    ends.iter().flatten().filter(|(at, _)| topics.iter().any(|topic| *topic == *at.topic));
                merged.extend(own.map(|(at, end)| (at.clone(), *end)));
            }
            send.send_replace(Some(merged));
            send.closed().await;
        });
        Some(all)
    }
}

impl Source {
    async fn spec(&self, known: &[(String, TableSchema)], context: &TaskContext) -> Result<SourceSpec> {
        let topic_of = |table: &str| match table.strip_prefix(&self.name) {
            Some(rest) => format!("{}{rest}", self.common.str_opt("topic").unwrap_or(&self.name)),
            None => table.to_owned(),
        };
        let before: Vec<_> = known
            .iter()
            .filter(|(topic, table)| *topic == topic_of(&table.name))
            .map(|(_, table)| table.clone())
            .collect();
        let tables = self.connector.tables(&self.name, &self.config, &before, context).await;
        let tables = tables.map_err(RuntimeError::connector(&self.name))?;
        let partitions = self.common.integer_opt("partitions").and_then(|count| i32::try_from(count).ok());
        let table = |table: TableSchema| TableTopic {
            topic: topic_of(&table.name),
            table,
            partitions,
            converter: self.common.str("converter").to_owned(),
        };
        Ok(SourceSpec {
            name: self.name.clone(),
            connector: Arc::clone(&self.connector),
            config: self.config.clone(),
            tables: tables.into_iter().map(table).collect(),
            on_error: on_error(&self.common),
            retry: RetryPolicy::default(),
        })
    }
}

impl Sink {
    fn topics(&self) -> Vec<String> {
        self.common.strings("topic").into_iter().map(str::to_owned).collect()
    }

    /// The schema of the sink's topics: that of a source in this file, or the stored one.
    fn table(
        &self,
        known: &[(String, TableSchema)],
        written: &[(TableTopic, watch::Receiver<Option<Ends>>)],
    ) -> Result<TableSchema> {
        let failed = |reason: String| {
            RuntimeError::connector(&self.name)(ConnectError::fatal(
                "finding the schema of its input",
                reason,
            ))
        };
        let mut tables = Vec::new();
        for topic in self.topics() {
            let here = written.iter().find(|(to, _)| to.topic == topic).map(|(to, _)| &to.table);
            let stored = known.iter().find(|(name, _)| *name == topic).map(|(_, table)| table);
            let table = here.or(stored).ok_or_else(|| {
                failed(format!(
                    "topic {topic} has none stored in {}; let a source write it first",
                    crate::SCHEMAS_TOPIC
                ))
            })?;
            tables.push(table.clone());
        }
        let mut tables = tables.into_iter();
        let first = tables.next().ok_or_else(|| failed("it names no topic".into()))?;
        match tables.find(|table| table.schema != first.schema) {
            Some(other) => {
                Err(failed(format!("'{}' and '{}' have different columns", first.name, other.name)))
            }
            None => Ok(first),
        }
    }

    fn spec(
        &self,
        table: TableSchema,
        ends: Option<watch::Receiver<Option<Ends>>>,
        commit_interval: Duration,
    ) -> SinkSpec {
        SinkSpec {
            name: self.name.clone(),
            connector: Arc::clone(&self.connector),
            config: self.config.clone(),
            table,
            topics: self.topics(),
            converter: self.common.str("converter").to_owned(),
            ends,
            on_error: on_error(&self.common),
            retry: RetryPolicy::default(),
            commit_interval,
        }
    }
}

/// The topic of dead letters as a table of its own.
fn dead_letter_table(topic: &str) -> TableTopic {
    TableTopic {
        table: TableSchema::append_only(topic, crate::bad_record_schema()),
        topic: topic.to_owned(),
        partitions: Some(1),
        converter: "json".to_owned(),
    }
}

fn on_error(common: &Config) -> OnError {
    match common.str("on_error") {
        "fail" => OnError::Fail,
        "skip" => OnError::Skip,
        other => OnError::DeadLetters(other.trim_start_matches("dlq:").to_owned()),
    }
}

/// Keys that every source and sink has here.
fn common_keys() -> ConfigDef {
    ConfigDef::new()
        .key(Key::one_of("converter", CONVERTERS).default_str("json").doc("Form of the records' values."))
        .key(
            Key::string("on_error")
                .default_str("fail")
                .check(|setting| match setting.value.as_str() {
                    Some("fail" | "skip") => Ok(()),
                    Some(text) if text.strip_prefix("dlq:").is_some_and(|topic| !topic.is_empty()) => Ok(()),
                    _ => Err("it is fail, skip or dlq:<topic>".into()),
                })
                .doc("What happens to input that is no row: fail, skip, or dlq:<topic>."),
        )
}

fn source_keys() -> ConfigDef {
    common_keys()
        .key(Key::string("topic").doc("Topic to write; the name of the source when left out."))
        .key(Key::integer("partitions", 1, 10_000).doc("Partitions to create the topic with."))
}

fn sink_keys() -> ConfigDef {
    common_keys().key(Key::strings("topic").required().doc("Topic to read, or several of equal columns."))
}

fn worker_keys() -> ConfigDef {
    ConfigDef::new()
        .key(
            Key::string("name")
                .required()
                .doc("Name of this daemon; positions and groups are kept under it."),
        )
        .key(Key::string("bootstrap").doc("host:port of the cluster."))
        .key(Key::duration("commit_interval").default_str(COMMIT_INTERVAL).doc("How often sinks commit."))
}

fn parse(text: &str, base: &Path, registry: &Registry, lookup: Lookup<'_>) -> Result<Daemon, Vec<Problem>> {
    let mut root = parse_toml(text)?;
    let mut problems = Vec::new();
    resolve_references(&mut root, lookup, &mut problems);
    let mut sections = Sections { base, problems };
    let (sources, sinks) = (root.take("source"), root.take("sink"));
    let worker = match root.take("worker") {
        Some(entry) => sections
            .keep(section(entry.value).and_then(|(table, span)| worker_keys().resolve(&table, Some(span)))),
        None => {
            let help = "add a section: [worker] with name = \"...\"";
            sections.problems.push(Problem::at(None, "there is no [worker] section").help(help));
            None
        }
    };
    for (name, entry) in &root.entries {
        let problem = Problem::at(entry.key_span, format!("unknown section '{name}'"));
        let near = suggest(name, ["worker", "source", "sink"]).unwrap_or("worker, source or sink");
        sections.problems.push(problem.help(format!("did you mean '{near}'?")));
    }
    let sources = sections.each(sources, |at, name, table, span| at.source(registry, name, table, span));
    let sinks = sections.each(sinks, |at, name, table, span| at.sink(registry, name, table, span));
    match worker {
        Some(worker) if sections.problems.is_empty() => Ok(Daemon {
            name: worker.str("name").to_owned(),
            bootstrap: worker.str_opt("bootstrap").map(str::to_owned),
            commit_interval: worker.duration("commit_interval"),
            sources,
            sinks,
        }),
        _ => Err(sections.problems),
    }
}

/// Reads sections and gathers what is wrong with them.
struct Sections<'a> {
    base: &'a Path,
    problems: Vec<Problem>,
}

impl Sections<'_> {
    fn keep<T>(&mut self, result: Result<T, Vec<Problem>>) -> Option<T> {
        result.map_err(|mut problems| self.problems.append(&mut problems)).ok()
    }

    /// Reads each table below `[source]` or `[sink]`.
    fn each<T>(
        &mut self,
        entry: Option<millstream_connect_api::config::Entry>,
        read: impl Fn(&mut Self, &str, Table, Span) -> Option<T>,
    ) -> Vec<T> {
        let Some(entry) = entry else { return Vec::new() };
        let Some((tables, _)) = self.keep(section(entry.value)) else { return Vec::new() };
        let mut found = Vec::new();
        for (name, entry) in tables.entries {
            if let Some((table, span)) = self.keep(section(entry.value)) {
                found.extend(read(self, &name, table, span));
            }
        }
        found
    }

    fn source(&mut self, registry: &Registry, name: &str, table: Table, span: Span) -> Option<Source> {
        let (kind, table) = self.kind(table, span)?;
        let Some(connector) = registry.source(&kind.0) else {
            self.unknown_kind(
                "source",
                &kind,
                registry.similar_source(&kind.0),
                registry.source_names().collect(),
            );
            return None;
        };
        let (config, common) = self.settings(connector.definition(), source_keys(), table, span)?;
        Some(Source {
            name: name.to_owned(),
            connector: Arc::clone(connector),
            config,
            common,
            status: Status::new(),
        })
    }

    fn sink(&mut self, registry: &Registry, name: &str, table: Table, span: Span) -> Option<Sink> {
        let (kind, table) = self.kind(table, span)?;
        let Some(connector) = registry.sink(&kind.0) else {
            self.unknown_kind("sink", &kind, registry.similar_sink(&kind.0), registry.sink_names().collect());
            return None;
        };
        let (config, common) = self.settings(connector.definition(), sink_keys(), table, span)?;
        Some(Sink {
            name: name.to_owned(),
            connector: Arc::clone(connector),
            config,
            common,
            status: Status::new(),
        })
    }

    /// Takes `type` out of a section.
    fn kind(&mut self, mut table: Table, span: Span) -> Option<((String, Span), Table)> {
        match table.take("type").map(|entry| entry.value) {
            Some(Value { kind: ValueKind::String(kind), span }) => Some(((kind, span), table)),
            Some(other) => {
                self.problems
                    .push(Problem::at(other.span, format!("type is {}, not a string", other.kind.noun())));
                None
            }
            None => {
                self.problems.push(Problem::at(span, "'type' is missing").help("such as type = \"file\""));
                None
            }
        }
    }

    fn unknown_kind(&mut self, what: &str, kind: &(String, Span), near: Option<&str>, all: Vec<&str>) {
        let problem = Problem::at(kind.1, format!("there is no {what} of type '{}'", kind.0));
        self.problems.push(match near {
            Some(near) => problem.help(format!("did you mean '{near}'?")),
            None => problem.help(format!("types are {}", all.join(", "))),
        });
    }

    /// Checks the connector's keys and ours as one table, so that suggestions know both, and splits the result.
    fn settings(
        &mut self,
        theirs: ConfigDef,
        ours: ConfigDef,
        table: Table,
        span: Span,
    ) -> Option<(Config, Config)> {
        let mut own = Table::default();
        for key in ours.keys().filter(|key| theirs.keys().all(|theirs| theirs.name != key.name)) {
            if let Some(entry) = table.entries.get(&key.name) {
                own.insert(key.name.clone(), entry.key_span, entry.value.clone());
            }
        }
        let common = self.keep(ours.clone().resolve(&own, Some(span)));
        let whole = theirs.with(ours).relative_to(self.base).resolve(&table, Some(span));
        let problems = &mut self.problems;
        let config = whole
            .map_err(|found| {
                for problem in
                    found.into_iter().filter(|problem| !problems.contains(problem)).collect::<Vec<_>>()
                {
                    problems.push(problem);
                }
            })
            .ok();
        Some((config?, common?))
    }
}

fn section(value: Value) -> Result<(Table, Span), Vec<Problem>> {
    match value.kind {
        ValueKind::Table(table) => Ok((table, value.span)),
        other => {
            Err(vec![Problem::at(value.span, format!("a section was expected, this is {}", other.noun()))])
        }
    }
}

/// `line:column: message (help)`.
fn describe(text: &str, problem: &Problem) -> String {
    let place = problem.span.map(|span| {
        let (line, column) = line_column(text, span.start);
        format!("{line}:{column}: ")
    });
    let help = problem.help.as_ref().map(|help| format!(" ({help})"));
    format!("{}{}{}", place.unwrap_or_default(), problem.message, help.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        let lookup = |_: &Reference| Ok(None);
        match Daemon::parse(Path::new("d.toml"), text, &Registry::new(), &lookup) {
            Err(RuntimeError::Config { problems, .. }) => problems,
            Err(other) => vec![other.to_string()],
            Ok(_) => Vec::new(),
        }
    }

    #[test]
    fn everything_wrong_is_told_at_once() {
        assert_eq!(
            problems(
                "[worker]\nnam = 'x'\n[sourc.a]\ntype = 'file'\n[sink.b]\ntype = 'fil'\n[sink.c]\npath = 'x'\n"
            ),
            [
                "2:1: unknown key 'nam' (did you mean 'name'?)",
                "1:1: 'name' is missing (Name of this daemon; positions and groups are kept under it.)",
                "3:2: unknown section 'sourc' (did you mean 'source'?)",
                "6:8: there is no sink of type 'fil' (types are )",
                "7:1: 'type' is missing (such as type = \"file\")",
            ]
        );
        assert_eq!(problems("[worker]\nname = 'x'\n"), [""; 0]);
        assert_eq!(problems("a = \n").len(), 1);
    }
}
