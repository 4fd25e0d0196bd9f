//! An application: a topology that runs on a cluster.

use futures::FutureExt;
use futures::future::BoxFuture;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use millstream_client::{Client, ClientConfig};
use millstream_env::{Env, Pool};
use millstream_protocol::{Dial, Endpoint};
use millstream_streams_core::Topology;

use crate::cleanup::{Tenancy, clean_up};
use crate::config::StreamsConfig;
use crate::control::{StreamsControl, Summary};
use crate::error::{AppError, Result};
use crate::layout::Layout;
use crate::state::StateDir;
use crate::worker::{Shared, Worker};

/// Runs a topology against the cluster behind a [`Dial`]. Several processes with the same `application_id` share the work.
pub struct StreamsApp {
    topology: Topology,
    config: StreamsConfig,
    env: Env,
    client: Client,
    /// Of the producers. What is written may be created by asking for it, as with Kafka; what is read may not.
    writing: Client,
    control: StreamsControl,
}

impl StreamsApp {
    /// An application; nothing happens until [`StreamsApp::run`].
    pub fn new(
        topology: Topology,
        config: StreamsConfig,
        env: Env,
        dial: Arc<dyn Dial>,
        bootstrap: Vec<Endpoint>,
    ) -> Self {
        let client_config =
            ClientConfig { client_id: config.application_id.as_str().into(), ..ClientConfig::new(bootstrap) };
        let writing = Client::new(env.clone(), Arc::clone(&dial), client_config.clone());
        let client_config = ClientConfig { allow_auto_create_topics: false, ..client_config };
        let client = Client::new(env.clone(), dial, client_config);
        Self { topology, config, env, client, writing, control: StreamsControl::new() }
    }

    /// The handle that stops the application and tells what it does.
    #[must_use]
    pub fn control(&self) -> StreamsControl {
        self.control.clone()
    }

    /// Creates the application's own topics, joins the group and works: until [`StreamsControl::stop`], or, where inputs are finite,
    /// until all of them are consumed to their ends by all members. Dropping the future stops at once, without a commit.
    ///
    /// # Errors
    /// Settings that cannot work, topics that are missing or do not fit, a cluster out of reach, an error of the topology, or a
    /// state directory that cannot be used.
    pub fn run(self) -> BoxFuture<'static, Result<Summary>> {
        async move {
            self.config.check()?;
            let path = self.config.state_dir.join(&self.config.application_id);
            let opened = self.env.blocking(Pool::General, move || StateDir::open(&path)).await;
            let state = opened.map_err(|_| AppError::WorkerLost(0))??;
            let layout = Layout::make(Arc::new(self.topology), &self.config, &self.client.admin()).await?;
            let process = state.process_id(self.env.random_uuid())?;
            let control = self.control.clone();
            let shared = Arc::new(Shared {
                layout: Arc::new(layout),
                config: self.config,
                env: self.env,
                client: self.client,
                writing: self.writing,
                state,
                tenancy: Tenancy::default(),
                process,
                control: self.control,
            });
            let outcome = run_workers(&shared).await;
            Ok(Summary { drained: outcome?, counters: control.counters() })
        }
        .boxed()
    }
}

/// Runs every worker to its end. The first failure stops the others, which commit what they have.
async fn run_workers(shared: &Arc<Shared>) -> Result<bool> {
    let tasks = shared.env.group(); // a dropped application takes its workers along
    tasks.spawn("state-cleanup", clean_up(Arc::clone(shared)));
    let mut results = FuturesUnordered::new();
    for number in 0..shared.config.threads {
        let (send, result) = futures::channel::oneshot::channel();
        let shared = Arc::clone(shared);
        tasks.spawn("streams-worker", async move {
            let outcome = match Worker::start(shared, number).await {
                Ok(worker) => worker.run().await,
                Err(error) => Err(error),
            };
            let _ = send.send(outcome); // nobody waits any more: the application was dropped
        });
        results.push(async move { result.await.unwrap_or(Err(AppError::WorkerLost(number))) });
    }
    let (mut drained, mut failure) = (true, None);
    while let Some(outcome) = results.next().await {
        match outcome {
            Ok(worker_drained) => drained &= worker_drained,
            Err(error) => {
                shared.control.stop();
                failure.get_or_insert(error);
            }
        }
    }
    failure.map_or(Ok(drained), Err)
}
