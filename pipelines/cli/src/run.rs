//! Running a plan: connectors and the streams app on one log, from start to the ends of all inputs.
//!
//! Order: topics are made; tables are read in by their connectors before any step starts, so that no row is joined too early (one
//! that is followed: what there was at the start); then everything runs at once. Ends pass on by offsets: a drained source says where its topics end, the app is done when it has
//! consumed up to there, which fixes where the steps' topics end, and so the sinks finish. A stop asks everybody to commit what
//! they have; the same command goes on from there.

mod jobs;
mod print;
mod progress;
mod report;
mod topics;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::FutureExt;
use futures::future::{BoxFuture, Either, join_all, pending, select};
use millstream_connect_api::TableSchema;
use millstream_connect_runtime::{
    ClientLog, Ends, OnError, RetryPolicy, RuntimeError, SinkSpec, SourceSpec, Status, Stop, Stopper,
    TableTopic, WorkerEnv, ends_channel, known_schemas, run_sink, run_source, stop_signal,
};
use millstream_plan::plan::{BadInput, Sink, SinkKind, Source, SourceKind};
use millstream_plan::{Lowered, Plan, lower};
use millstream_streams::{ProcessingGuarantee, StreamsApp, StreamsConfig, StreamsControl};
use tokio::sync::watch;

use crate::door::{Door, LOG};
use crate::pipeline::registry;
use crate::screen;
use crate::signal::{Signals, give_up};
use jobs::{Done, Job, Jobs};
use print::PrintSink;
pub(crate) use progress::Progress;
pub(crate) use report::Report;
use topics::Topics;

/// Rows of every topic are JSON.
const CONVERTER: &str = "json";
/// How long a killed run holds its place: the least that Kafka allows (`group.min.session.timeout.ms`), since the next run of the
/// same command waits for it.
const SESSION_TIMEOUT_MS: i32 = 6_000;
/// How often sinks are asked to make rows durable.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// The folders of a pipeline's data: the embedded log, the state of steps, and what sinks note of the log that they read.
pub(crate) const DATA: [&str; 3] = [LOG, STATE, SINKS];
const STATE: &str = "state";
pub(crate) const SINKS: &str = "sinks";
/// What the first Ctrl-C is answered with.
pub(crate) const STOPPING: &str =
    "stopping after a commit; the same command goes on from here (Ctrl-C again ends at once)";

/// The tables that earlier runs of `plan` fixed, by source.
pub(crate) async fn known_tables(door: &Door, plan: &Plan) -> Result<BTreeMap<String, Vec<TableSchema>>> {
    let log = client_log(door);
    let mut known: BTreeMap<String, Vec<TableSchema>> = BTreeMap::new();
    for (topic, table) in known_schemas(&log).await.context("reading the schemas in the log")? {
        if let Some(source) = plan.sources.iter().find(|source| source.topic == topic) {
            known.entry(source.section.clone()).or_default().push(table);
        }
    }
    Ok(known)
}

/// The log behind `door`, for connectors.
pub(crate) fn client_log(door: &Door) -> ClientLog {
    ClientLog::new(door.client("millstream-connect"), door.env.clone())
}

/// Runs one plan once.
pub(crate) struct Runner<'a> {
    door: &'a Door,
    plan: Arc<Plan>,
    state: PathBuf,
    worker: WorkerEnv,
    stopper: Stopper,
    stop: Stop,
}

/// What runs, and what it counts.
struct Running {
    jobs: Jobs,
    /// Where each source's topics end, once it is drained.
    source_ends: BTreeMap<String, watch::Receiver<Option<Ends>>>,
    /// Where the topics that each sink reads end, once that is known.
    sink_ends: BTreeMap<String, watch::Sender<Option<Ends>>>,
    statuses: BTreeMap<String, Status>,
    control: Option<StreamsControl>,
    lowered: Lowered,
    /// What sinks wait for: sections of sources and, under no name, the app.
    ended: BTreeMap<String, Ends>,
    app_ended: bool,
}

impl<'a> Runner<'a> {
    /// Runs `plan` on the log behind `door`, with the state of its steps and the notes of its sinks in the folder `data`.
    pub(crate) fn new(door: &'a Door, plan: Plan, data: &Path) -> Self {
        let (stopper, stop) = stop_signal();
        let worker = WorkerEnv {
            env: door.env.clone(),
            log: Arc::new(client_log(door)),
            namespace: plan.name.clone(),
            state_dir: data.join(SINKS),
        };
        Self { door, plan: Arc::new(plan), state: data.join(STATE), worker, stopper, stop }
    }

    /// Runs until every input has ended, or somebody asks to stop.
    pub(crate) async fn run(self) -> Result<Report> {
        let mut signals = Signals::listen()?;
        let topics = Topics::ensure(&self.plan, &*self.worker.log).await?;
        let lowered = lower(&self.plan, &|topic| topics.partitions(topic)).context("building the steps")?;
        let mut running = Running {
            jobs: Jobs::new(self.door.env.clone()),
            source_ends: BTreeMap::new(),
            sink_ends: BTreeMap::new(),
            statuses: BTreeMap::new(),
            control: None,
            lowered,
            ended: BTreeMap::new(),
            app_ended: false,
        };
        let progress = Progress::start(&self.door.env);
        let outcome = self.drive(&mut running, &topics, &progress, &mut signals).await;
        progress.finish();
        let stopped = outcome?;
        let control = running.control.as_ref();
        Ok(Report::new(&self.plan, &running.lowered, &running.statuses, control, stopped))
    }

    /// Starts everything in order and waits for it. True when it was stopped before its end.
    async fn drive(
        &self,
        running: &mut Running,
        topics: &Topics,
        progress: &Progress,
        signals: &mut Signals,
    ) -> Result<bool> {
        let sections = self.plan.sections();
        let (tables, streams): (Vec<_>, Vec<_>) =
            sections.values().partition(|sources| sources.iter().all(|source| source.is_table));
        for sources in &tables {
            self.start_source(running, sources)?;
        }
        progress.watch(running.statuses.iter().map(named), None);
        let endless = tables.iter().filter_map(|sources| sources.first()).filter(|source| !is_finite(source));
        let followed: Vec<&str> = endless.map(|source| source.section.as_str()).collect();
        let caught_up = running.statuses.iter().filter(|(name, _)| followed.contains(&name.as_str()));
        let caught_up = join_all(caught_up.map(|(_, status)| status.caught_up())).map(drop).boxed();
        let are_in = |running: &Running| running.tables_are_in(&followed);
        let mut stopped = self.until(running, signals, caught_up, are_in).await?;
        if !stopped {
            for sources in &streams {
                self.start_source(running, sources)?;
            }
            self.start_app(running)?;
            for sink in &self.plan.sinks {
                self.start_sink(running, sink)?;
            }
            self.end_topic_sources(running, topics).await?;
            progress.watch(running.statuses.iter().map(named), running.control.clone());
            stopped = self.until(running, signals, never(), |running| running.jobs.is_empty()).await?;
        }
        self.until(running, signals, never(), |running| running.jobs.is_empty()).await?;
        Ok(stopped)
    }

    /// Waits for jobs and passes ends on until `enough`, which `wake` may change. True when a stop was asked for.
    async fn until(
        &self,
        running: &mut Running,
        signals: &mut Signals,
        wake: BoxFuture<'static, ()>,
        enough: impl Fn(&Running) -> bool,
    ) -> Result<bool> {
        let mut failure = None;
        let mut wake = wake.fuse();
        while !enough(running) || failure.is_some() {
            let outside = select(Box::pin(signals.wait()), &mut wake);
            let next = match select(running.jobs.next(), outside).await {
                Either::Left((done, _)) => Some(done),
                Either::Right((Either::Left(_), _)) => None,
                Either::Right((Either::Right(_), _)) => continue,
            };
            let Some(done) = next else {
                if self.stop.is_stopping() {
                    give_up();
                }
                screen::note(STOPPING);
                self.ask_to_stop(running);
                continue;
            };
            let Some(done) = done else { break };
            match self.settle(running, done).await {
                Ok(()) => {}
                Err(error) => {
                    self.ask_to_stop(running);
                    failure.get_or_insert(error);
                }
            }
            if failure.is_some() && running.jobs.is_empty() {
                break;
            }
        }
        failure.map_or(Ok(self.stop.is_stopping()), Err)
    }

    fn ask_to_stop(&self, running: &Running) {
        self.stopper.stop();
        if let Some(control) = &running.control {
            control.stop();
        }
    }

    /// A job has ended: tells those behind it.
    async fn settle(&self, running: &mut Running, done: Done) -> Result<()> {
        match done {
            Done::Source(name, outcome) => {
                outcome.map_err(|error| naming(&format!("source '{name}'"), error))?;
                let ends = running.source_ends.get(&name).and_then(|ends| ends.borrow().clone());
                if let Some(ends) = ends {
                    running.source_ended(name, ends);
                }
            }
            Done::App(outcome) => running.app_ended = outcome.context("running the steps")?.drained,
            Done::Sink(name, outcome) => {
                outcome.map_err(|error| naming(&format!("sink '{name}'"), error))?;
            }
        }
        self.end_sinks(running).await
    }

    fn start_source(&self, running: &mut Running, sources: &[&Source]) -> Result<()> {
        let Some(first) = sources.first() else { return Ok(()) };
        let SourceKind::Connector { connector, config } = &first.kind else { return Ok(()) };
        let name = first.section.clone();
        let connector =
            registry().source(connector).cloned().context("the plan names connectors of the registry")?;
        let tables = sources.iter().map(|source| TableTopic {
            table: source.table.clone(),
            topic: source.topic.clone(),
            partitions: Some(source.partitions),
            converter: CONVERTER.to_owned(),
        });
        let spec = SourceSpec {
            name: name.clone(),
            connector,
            config: config.clone(),
            tables: tables.collect(),
            on_error: on_error(&first.on_error),
            retry: RetryPolicy::default(),
        };
        let (sender, receiver) = ends_channel();
        let status = Status::new();
        running.statuses.insert(name.clone(), status.clone());
        running.source_ends.insert(name.clone(), receiver);
        let (worker, stop) = (self.worker.clone(), self.stop.clone());
        running
            .jobs
            .start(Job::Source(name), async move { run_source(spec, worker, stop, status, sender).await });
        Ok(())
    }

    fn start_app(&self, running: &mut Running) -> Result<()> {
        let Some(topology) = running.lowered.topology.clone() else {
            running.app_ended = true;
            return Ok(());
        };
        let mut config = StreamsConfig::new(self.plan.name.as_str(), &self.state);
        config.session_timeout_ms = SESSION_TIMEOUT_MS;
        // The others are read on for ever: a table among them is open once it is read to the end that its topic has now.
        let finite = self.plan.sources.iter().filter(|source| is_finite(source));
        config.finite_inputs = finite.map(|source| source.topic.clone()).collect();
        config.finite_inputs.retain(|topic| {
            topology.source_of(&millstream_streams_core::TopicName::User(topic.as_str().into())).is_some()
        });
        if self.plan.delivery == millstream_plan::spec::Delivery::AtLeastOnce {
            config.processing_guarantee = ProcessingGuarantee::AtLeastOnce;
        }
        let door = self.door;
        let app = StreamsApp::new(
            topology,
            config,
            door.env.clone(),
            Arc::clone(&door.dial),
            door.bootstrap.clone(),
        );
        let control = app.control();
        for ends in running.ended.values() {
            tell(&control, ends);
        }
        running.control = Some(control);
        running.jobs.start_app(app.run());
        Ok(())
    }

    fn start_sink(&self, running: &mut Running, sink: &Sink) -> Result<()> {
        let (connector, config) = match &sink.kind {
            SinkKind::Topic { .. } => return Ok(()), // the app writes it
            SinkKind::Connector { connector, config } => {
                let found = registry().sink(connector).cloned();
                (found.context("the plan names connectors of the registry")?, config.clone())
            }
            SinkKind::Print { rows } => {
                let finite = self.plan.sources.iter().all(is_finite);
                let printer: Arc<dyn millstream_connect_api::SinkConnector> =
                    Arc::new(PrintSink::new(&sink.name, *rows, finite));
                (printer, millstream_connect_api::Config::default())
            }
        };
        let (sender, receiver) = ends_channel();
        let spec = SinkSpec {
            name: sink.name.clone(),
            connector,
            config,
            table: TableSchema {
                name: sink.from.as_deref().unwrap_or(&sink.name).into(),
                schema: Arc::clone(&sink.input.schema),
                key: sink.input.key.clone(),
                changelog: sink.input.changelog,
            },
            topics: sink.topics.clone(),
            converter: CONVERTER.to_owned(),
            ends: Some(receiver),
            on_error: on_error(self.plan.bad_input_of(sink)),
            retry: RetryPolicy::default(),
            commit_interval: COMMIT_INTERVAL,
        };
        let status = Status::new();
        running.statuses.insert(sink.name.clone(), status.clone());
        running.sink_ends.insert(sink.name.clone(), sender);
        let (worker, stop) = (self.worker.clone(), self.stop.clone());
        running
            .jobs
            .start(Job::Sink(sink.name.clone()), async move { run_sink(spec, worker, stop, status).await });
        Ok(())
    }

    /// Topics that others write and that are read once end where they end now.
    async fn end_topic_sources(&self, running: &mut Running, topics: &Topics) -> Result<()> {
        for source in &self.plan.sources {
            if matches!(source.kind, SourceKind::Topic { once: true }) {
                let ends = topics.ends_at_start(&source.topic);
                running.source_ended(source.section.clone(), ends);
            }
        }
        self.end_sinks(running).await
    }

    /// Tells sinks where their input ends, as far as that is fixed by now.
    async fn end_sinks(&self, running: &mut Running) -> Result<()> {
        if self.stop.is_stopping() {
            return Ok(());
        }
        for sink in &self.plan.sinks {
            let Some(sender) = running.sink_ends.get(&sink.name) else { continue };
            if sender.borrow().is_some() || !running.is_fixed(&self.plan, sink) {
                continue;
            }
            let mut ends = Ends::new();
            for topic in &sink.topics {
                ends.extend(
                    self.worker.log.ends(topic.clone()).await.with_context(|| format!("reading {topic}"))?,
                );
            }
            sender.send_replace(Some(ends));
        }
        Ok(())
    }
}

impl Running {
    /// Whether every table has been brought; one that is `followed` has no end, so what there was at the start is enough.
    fn tables_are_in(&self, followed: &[&str]) -> bool {
        let is_in = |(name, status): (&String, &Status)| {
            !self.jobs.is_running(&Job::Source(name.clone()))
                || (followed.contains(&name.as_str()) && status.has_caught_up())
        };
        self.statuses.iter().all(is_in)
    }

    fn source_ended(&mut self, name: String, ends: Ends) {
        if let Some(control) = &self.control {
            tell(control, &ends);
        }
        self.ended.insert(name, ends);
    }

    /// Whether nothing will be written any more to the topics that a sink reads.
    fn is_fixed(&self, plan: &Plan, sink: &Sink) -> bool {
        let section = |relation: &str| {
            plan.sources.iter().find(|source| *source.table.name == *relation).map(|source| &source.section)
        };
        match sink.from.as_deref().map(section) {
            Some(Some(section)) => self.ended.contains_key(section),
            Some(None) => self.app_ended,
            // Bad input comes from connectors of both kinds, and from what steps read.
            None => {
                let sources = plan.sources.iter().all(|source| self.ended.contains_key(&source.section));
                sources
                    && self.app_ended
                    && self.jobs.only_sinks(|name| {
                        plan.sinks.iter().any(|other| other.name == name && other.from.is_none())
                    })
            }
        }
    }
}

/// Says whose error it is, where it does not say so itself.
fn naming(who: &str, error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref::<RuntimeError>() {
        None | Some(RuntimeError::Log { .. }) => error.context(who.to_owned()),
        Some(_) => error,
    }
}

fn never() -> BoxFuture<'static, ()> {
    pending().boxed()
}

fn named<'a>((name, status): (&'a String, &'a Status)) -> (&'a str, &'a Status) {
    (name, status)
}

fn tell(control: &StreamsControl, ends: &Ends) {
    for (partition, end) in ends {
        control.end_input(&partition.topic, partition.partition, *end);
    }
}

fn on_error(bad: &BadInput) -> OnError {
    match bad {
        BadInput::Fail => OnError::Fail,
        BadInput::Skip => OnError::Skip,
        BadInput::Topic(topic) => OnError::DeadLetters(topic.clone()),
    }
}

/// Whether a source says that it ends. By convention a connector that can do both has `read = "once"`.
fn is_finite(source: &Source) -> bool {
    match &source.kind {
        SourceKind::Connector { config, .. } => !config.has("read") || config.str("read") == "once",
        SourceKind::Topic { once } => *once,
    }
}
