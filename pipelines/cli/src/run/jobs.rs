//! Connectors and the app as tasks whose ends are awaited together.

use std::future::Future;

use futures::StreamExt;
use futures::channel::oneshot;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use millstream_connect_runtime::{Outcome, RuntimeError};
use millstream_env::{Env, TaskGroup};
use millstream_streams::{AppError, Summary};

/// What a job is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Job {
    /// The source of this name.
    Source(String),
    /// The sink of this name.
    Sink(String),
    /// The streams app.
    App,
}

/// How a job ended. A lost one has panicked; that is said.
pub(super) enum Done {
    Source(String, anyhow::Result<Outcome>),
    Sink(String, anyhow::Result<Outcome>),
    App(anyhow::Result<Summary>),
}

/// Jobs that run. Dropping them ends them where they are.
pub(super) struct Jobs {
    tasks: TaskGroup,
    running: Vec<Job>,
    ends: FuturesUnordered<BoxFuture<'static, (Job, Done)>>,
}

impl Jobs {
    pub(super) fn new(env: Env) -> Self {
        Self { tasks: env.group(), running: Vec::new(), ends: FuturesUnordered::new() }
    }

    /// Starts a connector.
    pub(super) fn start(
        &mut self,
        job: Job,
        work: impl Future<Output = Result<Outcome, RuntimeError>> + Send + 'static,
    ) {
        let result = self.spawn(job.clone(), work);
        self.ends.push(Box::pin(async move {
            let outcome = lost(result.await);
            let done = match &job {
                Job::Sink(name) => Done::Sink(name.clone(), outcome),
                Job::Source(name) => Done::Source(name.clone(), outcome),
                Job::App => Done::Source(String::new(), outcome),
            };
            (job, done)
        }));
    }

    /// Starts the app.
    pub(super) fn start_app(
        &mut self,
        work: impl Future<Output = Result<Summary, AppError>> + Send + 'static,
    ) {
        let result = self.spawn(Job::App, work);
        self.ends.push(Box::pin(async move { (Job::App, Done::App(lost(result.await))) }));
    }

    fn spawn<T: Send + 'static>(
        &mut self,
        job: Job,
        work: impl Future<Output = T> + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (send, result) = oneshot::channel();
        self.running.push(job);
        self.tasks.spawn("pipeline", async move {
            let _ = send.send(work.await); // nobody waits any more: the pipeline was dropped
        });
        result
    }

    /// The next job that ends; none when none runs.
    pub(super) fn next(&mut self) -> BoxFuture<'_, Option<Done>> {
        Box::pin(async {
            let (job, done) = self.ends.next().await?;
            self.running.retain(|other| *other != job);
            Some(done)
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Whether `job` has not ended.
    pub(super) fn is_running(&self, job: &Job) -> bool {
        self.running.contains(job)
    }

    /// Whether all that runs are sinks for which `allowed` holds.
    pub(super) fn only_sinks(&self, allowed: impl Fn(&str) -> bool) -> bool {
        self.running.iter().all(|job| matches!(job, Job::Sink(name) if allowed(name)))
    }
}

fn lost<T, E: std::error::Error + Send + Sync + 'static>(
    result: Result<Result<T, E>, oneshot::Canceled>,
) -> anyhow::Result<T> {
    match result {
        Ok(outcome) => outcome.map_err(anyhow::Error::from),
        Err(oneshot::Canceled) => Err(anyhow::anyhow!("its task was lost; the log above says why")),
    }
}
