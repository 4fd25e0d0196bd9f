//! `connect run <file.toml>`: sources and sinks from one file, in one process.

mod file;

use futures::FutureExt;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{Field, Schema};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use millstream_connect_api::config::{Reference, suggest};
use millstream_connect_api::{
    Config, ConnectError, Problem, Registry, SinkConnector, SinkInput, SourceConnector, TableSchema,
    TaskContext, bad_record_schema,
};
use millstream_env::TaskGroup;
use tokio::sync::watch;

use crate::host::task_context;
use crate::log::{Kept, Log, TopicSpec};
use crate::{
    Ends, OnError, Outcome, Result, RetryPolicy, RuntimeError, SinkSpec, SourceSpec, Status, Stop,
    TableTopic, WorkerEnv, ends_channel, known_schemas, run_sink, run_source, stop_signal,
};
use file::File;

/// A checked daemon file.
pub struct Daemon {
    file: File,
    /// Its name and its text, for what is found wrong only when the log and the outside are asked.
    shown: String,
    text: String,
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

/// A topic that something in the file writes.
struct Written {
    to: TableTopic,
    /// Who writes it; a sink's dead letters are its own.
    by: String,
    /// Where it ends, once its writer has.
    ends: watch::Receiver<Option<Ends>>,
}

type EndsSender = watch::Sender<Option<Ends>>;

/// What is to be run.
#[derive(Default)]
struct Plan {
    sources: Vec<(SourceSpec, Status, EndsSender)>,
    /// A sink, and who hears when its dead letters have ended.
    sinks: Vec<(SinkSpec, Status, Option<EndsSender>)>,
}

/// Finds the values of references: variables of the environment and secrets.
pub type Lookup<'a> = &'a dyn Fn(&Reference) -> Result<Option<String>, String>;

impl Daemon {
    /// Reads a daemon file. Relative paths in it are taken from its folder.
    ///
    /// # Errors
    /// [`RuntimeError::Config`] with everything that is wrong.
    pub fn parse(file: &Path, text: &str, registry: &Registry, lookup: Lookup<'_>) -> Result<Self> {
        let (base, shown) = (file.parent().unwrap_or(Path::new("")), file.display().to_string());
        match file::read(text, base, registry, lookup) {
            Ok(file) => Ok(Self { file, shown, text: text.to_owned() }),
            Err(problems) => Err(RuntimeError::Config { file: shown, text: text.to_owned(), problems }),
        }
    }

    /// The name of this daemon: part of transactional ids, groups and keys of positions.
    pub fn name(&self) -> &str {
        &self.file.name
    }

    /// `[worker] bootstrap`: the cluster to run on, if the file names one.
    pub fn bootstrap(&self) -> Option<&str> {
        self.file.bootstrap.as_deref()
    }

    /// Live counters of each source, by name.
    pub fn source_statuses(&self) -> impl Iterator<Item = (&str, &Status)> {
        self.file.sources.iter().map(|source| (source.name.as_str(), &source.status))
    }

    /// Live counters of each sink, by name.
    pub fn sink_statuses(&self) -> impl Iterator<Item = (&str, &Status)> {
        self.file.sinks.iter().map(|sink| (sink.name.as_str(), &sink.status))
    }

    /// Runs until every source and sink has ended or `stop` is asked for. The first that fails for good stops the others,
    /// which commit what they have: a daemon that goes on with a part of its work is found broken too late.
    ///
    /// # Errors
    /// [`RuntimeError::Config`] when a setting cannot work with what is in the log or outside; otherwise the first failure.
    pub fn run(&self, worker: WorkerEnv, stop: Stop) -> BoxFuture<'_, Result<Outcome>> {
        async move {
            let (stopper, inner) = stop_signal();
            let tasks = worker.env.group(); // what passes ends on goes with this future
            let plan = self.plan(&worker, &task_context(&worker.env, &inner), &tasks).await?;
            plan.ensure_topics(&worker).await?;
            let mut running: FuturesUnordered<BoxFuture<'_, Result<Outcome>>> = FuturesUnordered::new();
            for (spec, status, ends) in plan.sources {
                running.push(Box::pin(run_source(spec, worker.clone(), inner.clone(), status, ends)));
            }
            for (spec, status, letters) in plan.sinks {
                running.push(Box::pin(sink_with_letters(
                    spec,
                    worker.clone(),
                    inner.clone(),
                    status,
                    letters,
                )));
            }
            let mut first_failure = None;
            let mut outcome = Outcome::Drained;
            loop {
                // Once stopping, the rest is waited for.
                let next = match inner.is_stopping() {
                    true => running.next().await,
                    false => match stop.or(running.next()).await {
                        Some(next) => next,
                        None => {
                            stopper.stop();
                            outcome = Outcome::Stopped;
                            continue;
                        }
                    },
                };
                match next {
                    None => return first_failure.map_or(Ok(outcome), Err),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => {
                        tracing::error!(%error, "stopping all");
                        stopper.stop();
                        first_failure.get_or_insert(error);
                    }
                }
            }
        }
        .boxed()
    }

    /// Asks connectors and the log what is still open, and checks that it all fits, before anything is made.
    async fn plan(&self, worker: &WorkerEnv, context: &TaskContext, tasks: &TaskGroup) -> Result<Plan> {
        let known = known_schemas(&*worker.log).await?;
        let (mut plan, mut written, mut problems) = (Plan::default(), Vec::new(), Vec::new());
        for source in &self.file.sources {
            let spec = match source.spec(&known, context).await {
                Err(RuntimeError::Connector { source: ConnectError::Config(found), .. }) => {
                    problems.extend(found);
                    continue;
                }
                other => other?,
            };
            let (send, ends) = ends_channel();
            let tables = spec.tables.iter().cloned().chain(dead_letter_table(&spec.on_error));
            written.extend(tables.map(|to| Written { to, by: source.name.clone(), ends: ends.clone() }));
            plan.sources.push((spec, source.status.clone(), send));
        }
        self.refuse(&mut problems)?; // a sink may read what a source that is wrong would write
        let mut letters = Vec::new();
        for sink in &self.file.sinks {
            let to = dead_letter_table(&on_error(&sink.common));
            letters.push(to.map(|to| {
                let (send, ends) = ends_channel();
                written.push(Written { to, by: sink.name.clone(), ends });
                send
            }));
        }
        let mut claimed = BTreeMap::new();
        for (sink, letters) in self.file.sinks.iter().zip(letters) {
            sink.claim(&mut claimed, &mut problems);
            let missing = sink.missing_topics(&written, &*worker.log).await?;
            if !missing.is_empty() {
                problems.extend(missing); // its schema cannot be found either
                continue;
            }
            let table = sink.table(&known, &written)?;
            problems.extend(sink.connector.check(&sink.config, &sink.input(&table, &worker.namespace)));
            let ends = sink.ends(&written, tasks);
            plan.sinks.push((
                sink.spec(table, ends, self.file.commit_interval),
                sink.status.clone(),
                letters,
            ));
        }
        self.refuse(&mut problems)?;
        Ok(plan)
    }

    fn refuse(&self, problems: &mut Vec<Problem>) -> Result<()> {
        if problems.is_empty() {
            return Ok(());
        }
        let (file, text) = (self.shown.clone(), self.text.clone());
        Err(RuntimeError::Config { file, text, problems: std::mem::take(problems) })
    }
}

impl Plan {
    async fn ensure_topics(&self, worker: &WorkerEnv) -> Result<()> {
        for (spec, ..) in &self.sources {
            crate::source::ensure_topics(&*worker.log, spec).await?;
        }
        for (spec, ..) in &self.sinks {
            if let OnError::DeadLetters(topic) = &spec.on_error {
                let spec = TopicSpec { name: topic.clone(), partitions: Some(1), kept: Kept::Default };
                worker.log.ensure_topic(spec).await?;
            }
        }
        Ok(())
    }
}

/// Runs a sink; `letters` hears where its dead letters end once its input has.
async fn sink_with_letters(
    spec: SinkSpec,
    worker: WorkerEnv,
    stop: Stop,
    status: Status,
    letters: Option<EndsSender>,
) -> Result<Outcome> {
    let (log, on_error) = (Arc::clone(&worker.log), spec.on_error.clone());
    let outcome = run_sink(spec, worker, stop, status).await?;
    if let (Outcome::Drained, Some(letters), OnError::DeadLetters(topic)) = (&outcome, letters, on_error) {
        letters.send_replace(Some(log.ends(topic).await?));
    }
    Ok(outcome)
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

    fn input(&self, table: &TableSchema, namespace: &str) -> SinkInput {
        SinkInput {
            name: format!("{namespace}.{}", self.name),
            schema: Arc::clone(&table.schema),
            key: table.key.clone(),
            changelog: table.changelog,
        }
    }

    /// Where its input ends: known once everything that writes its topics, and is in this file, has ended. `None` when a topic
    /// is written by others.
    fn ends(&self, written: &[Written], tasks: &TaskGroup) -> Option<watch::Receiver<Option<Ends>>> {
        let topics = self.topics();
        // What it buries in a topic that it reads itself comes from records before.
        let writers = |topic: &str| {
            let others =
                written.iter().filter(|written| written.to.topic == topic && written.by != self.name);
            others.map(|written| written.ends.clone()).collect::<Vec<_>>()
        };
        let writers: Vec<_> = topics.iter().map(|topic| writers(topic)).collect();
        if writers.iter().any(Vec::is_empty) {
            return None;
        }
        let (send, all) = ends_channel();
        tasks.spawn("connect-ends", async move {
            let mut merged = Ends::new();
            for mut writer in writers.into_iter().flatten() {
                let Ok(ends) = writer.wait_for(Option::is_some).await else { return }; // it failed
                for (at, end) in ends.iter().flatten() {
                    if topics.iter().any(|topic| *topic == *at.topic) {
                        let last = merged.entry(at.clone()).or_insert(*end);
                        *last = (*last).max(*end);
                    }
                }
            }
            send.send_replace(Some(merged));
        });
        Some(all)
    }

    /// Its topics that there are not, and that nothing in this file writes: most likely a name is mistyped, and waiting would say nothing.
    async fn missing_topics(&self, written: &[Written], log: &dyn Log) -> Result<Vec<Problem>> {
        let mut problems = Vec::new();
        for topic in self.topics() {
            if written.iter().any(|written| written.to.topic == topic)
                || log.topic(topic.clone()).await?.is_some()
            {
                continue;
            }
            let message = format!("there is no topic '{topic}', and no source of this file writes it");
            let names = written.iter().map(|written| written.to.topic.as_str());
            let help = match suggest(&topic, names) {
                Some(near) => format!("did you mean '{near}'?"),
                None => {
                    format!("if another program writes it, make it first: millstream topics create {topic}")
                }
            };
            problems.push(Problem::at(self.common.span("topic"), message).help(help));
        }
        Ok(problems)
    }

    /// Refuses a sink that would write over what an earlier one writes.
    fn claim(&self, claimed: &mut BTreeMap<String, String>, problems: &mut Vec<Problem>) {
        match self.connector.claims(&self.config, &self.topics()) {
            Err(found) => problems.extend(found),
            Ok(claims) => {
                for claim in claims {
                    match claimed.get(&claim) {
                        Some(other) => {
                            let message = format!("sink '{other}' writes the same, {claim}");
                            let help =
                                "give each sink a place of its own, or one would lose the other's rows";
                            problems.push(Problem::at(self.config.span("topic"), message).help(help));
                        }
                        None => drop(claimed.insert(claim, self.name.clone())),
                    }
                }
            }
        }
    }

    /// The schema that the file declares for its topics, whose rows are then only added.
    fn declared(&self) -> Option<TableSchema> {
        if !self.common.has("columns") {
            return None;
        }
        let columns = self.common.map("columns").iter();
        let fields = columns.filter_map(|(name, setting)| {
            Some(Field::new(name, setting.value.as_data_type()?.clone(), true))
        });
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        Some(TableSchema::append_only(self.name.as_str(), schema))
    }

    /// The schema of the sink's topics: the declared one, that of what writes them in this file, or the stored one.
    fn table(&self, known: &[(String, TableSchema)], written: &[Written]) -> Result<TableSchema> {
        let failed = |reason: String| {
            RuntimeError::connector(&self.name)(ConnectError::fatal(
                "finding the schema of its input",
                reason,
            ))
        };
        match self.declared() {
            Some(declared) if declared.schema.fields().is_empty() => {
                return Err(failed("columns names none".into()));
            }
            Some(declared) => return Ok(declared),
            None => {}
        }
        let mut tables = Vec::new();
        for topic in self.topics() {
            let here =
                written.iter().find(|written| written.to.topic == topic).map(|written| &written.to.table);
            let stored = known.iter().find(|(name, _)| *name == topic).map(|(_, table)| table);
            let table = here.or(stored).ok_or_else(|| {
                failed(format!(
                    "topic {topic} has none stored in {}; let a source write it first, or declare it: columns = {{ id = \"int64\", name = \"string\" }}",
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

/// The topic of dead letters, if they are kept, as a table of its own.
fn dead_letter_table(on_error: &OnError) -> Option<TableTopic> {
    let OnError::DeadLetters(topic) = on_error else { return None };
    Some(TableTopic {
        table: TableSchema::append_only(topic.as_str(), bad_record_schema()),
        topic: topic.clone(),
        partitions: Some(1),
        converter: "json".to_owned(),
    })
}

fn on_error(common: &Config) -> OnError {
    match common.str("on_error") {
        "fail" => OnError::Fail,
        "skip" => OnError::Skip,
        other => OnError::DeadLetters(other.trim_start_matches("dlq:").to_owned()),
    }
}
