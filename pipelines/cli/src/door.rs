//! Opening the log: in this process, or a cluster over TCP. Behind the door both are the same.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::FutureExt;
use futures::future::BoxFuture;
use millstream_client::{Client, ClientConfig, Links};
use millstream_env::Env;
use millstream_net::TcpDial;
use millstream_node::{Embedded, EmbeddedConfig, embedded};
use millstream_protocol::{Dial, DialError, Endpoint, Link};
use millstream_record::TopicPartition;

use crate::screen;

/// The folder of the log within a pipeline's data.
pub(crate) const LOG: &str = "log";
/// How long somebody who only looks waits for an answer: longer than a broker that died stays leader (`broker.session.timeout.ms`).
const GLANCE: Duration = Duration::from_secs(12);
/// Settings of the broker in this process, which has one client: no group needs to wait for more members, and few partitions
/// of its own topics are enough.
const EMBEDDED: [(&str, &str); 3] = [
    ("group.initial.rebalance.delay.ms", "0"),
    ("offsets.topic.num.partitions", "4"),
    ("transaction.state.log.num.partitions", "4"),
];

/// The cluster that a command is about.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct ClusterArgs {
    /// Where the log is: a Millstream or Kafka cluster
    #[arg(
        long,
        short = 'b',
        value_name = "HOST:PORT",
        env = "MILLSTREAM_BOOTSTRAP",
        default_value = "localhost:9092",
        global = true
    )]
    bootstrap: String,
}

/// Which log a command is about.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct DoorArgs {
    #[command(flatten)]
    cluster: ClusterArgs,

    /// The data of a pipeline that is not running, instead of a cluster
    #[arg(long, value_name = "DIR", global = true)]
    data: Option<PathBuf>,
}

/// An open log.
pub(crate) struct Door {
    /// Clock, tasks, network.
    pub(crate) env: Env,
    /// The way to its nodes.
    pub(crate) dial: Arc<dyn Dial>,
    /// Where to begin.
    pub(crate) bootstrap: Vec<Endpoint>,
    embedded: Option<Embedded>,
}

impl ClusterArgs {
    /// Opens it.
    pub(crate) fn open(&self, env: Env) -> Result<Door> {
        Door::remote(env, &self.bootstrap)
    }
}

impl DoorArgs {
    /// Opens it.
    pub(crate) async fn open(&self, env: Env) -> Result<Door> {
        match &self.data {
            Some(data) if !data.join(LOG).is_dir() => bail!("{} holds no pipeline's data", data.display()),
            Some(data) => Door::embedded(env, data).await,
            None => self.cluster.open(env),
        }
    }
}

impl Door {
    /// The cluster at `bootstrap`: one `host:port` or several with commas between.
    pub(crate) fn remote(env: Env, bootstrap: &str) -> Result<Self> {
        let endpoints = bootstrap.split(',').map(|text| {
            Endpoint::parse(text)
                .with_context(|| format!("'{text}' is not host:port, such as localhost:9092"))
        });
        let bootstrap = endpoints.collect::<Result<Vec<_>>>()?;
        let dial = Arc::new(Announced::new(TcpDial::new(env.clone()), &bootstrap));
        Ok(Self { dial, env, bootstrap, embedded: None })
    }

    /// The log in the folder `data`, run in this process.
    pub(crate) async fn embedded(env: Env, data: &Path) -> Result<Self> {
        let dir = data.join(LOG);
        let config =
            EMBEDDED.iter().fold(EmbeddedConfig::new(&dir), |config, (key, value)| config.with(key, value));
        let node = embedded(config).await.with_context(|| format!("opening the log in {}", dir.display()))?;
        Ok(Self { env, dial: node.dial(), bootstrap: node.bootstrap(), embedded: Some(node) })
    }

    /// A client, named for the broker's logs.
    pub(crate) fn client(&self, name: &str) -> Client {
        self.client_with(ClientConfig { client_id: name.into(), ..ClientConfig::new(self.bootstrap.clone()) })
    }

    /// A client for commands that only look: what does not answer within [`GLANCE`] is shown as unknown.
    pub(crate) fn looking(&self, name: &str) -> Client {
        let api_timeout_ms = u64::try_from(GLANCE.as_millis()).unwrap_or(u64::MAX);
        let config = ClientConfig::new(self.bootstrap.clone());
        self.client_with(ClientConfig { client_id: name.into(), api_timeout_ms, ..config })
    }

    pub(crate) fn client_with(&self, config: ClientConfig) -> Client {
        Client::new(self.env.clone(), Arc::clone(&self.dial), config)
    }

    /// To ask single brokers.
    pub(crate) fn links(&self, name: &'static str, patience: Duration) -> Links {
        Links::new(self.env.clone(), Arc::clone(&self.dial), name.into(), patience)
    }

    /// Completes when the log in this process cannot go on, with the reason; never for a cluster.
    pub(crate) async fn failed(&self) -> anyhow::Error {
        match &self.embedded {
            Some(embedded) => embedded.node().failed().await.into(),
            None => std::future::pending().await,
        }
    }

    /// Closes it cleanly.
    pub(crate) async fn close(self) -> Result<()> {
        match self.embedded {
            Some(node) => node.shutdown().await.context("closing the log"),
            None => Ok(()),
        }
    }
}

/// Says once that nobody answers, since a client goes on trying for long before it gives up.
struct Announced {
    dial: TcpDial,
    silent: Arc<Mutex<Silent>>,
}

/// Who has not answered so far.
struct Silent {
    waiting: BTreeSet<Endpoint>,
    total: usize,
}

impl Announced {
    fn new(dial: TcpDial, bootstrap: &[Endpoint]) -> Self {
        let waiting: BTreeSet<_> = bootstrap.iter().cloned().collect();
        let silent = Arc::new(Mutex::new(Silent { total: waiting.len(), waiting }));
        Self { dial, silent }
    }
}

impl Dial for Announced {
    fn dial(&self, endpoint: Endpoint) -> BoxFuture<'static, Result<Arc<dyn Link>, DialError>> {
        let (dialling, silent) = (self.dial.dial(endpoint.clone()), Arc::clone(&self.silent));
        async move {
            let dialled = dialling.await;
            let mut silent = silent.lock().unwrap_or_else(PoisonError::into_inner);
            match &dialled {
                Ok(_) => silent.waiting.clear(),
                Err(why) => {
                    if silent.waiting.remove(&endpoint) && silent.waiting.is_empty() {
                        let others = if silent.total > 1 { ", nor does any other address" } else { "" };
                        screen::note(format_args!("{endpoint} does not answer{others} ({why}); trying on"));
                    }
                }
            }
            dialled
        }
        .boxed()
    }
}

/// The partitions of a topic.
pub(crate) async fn partitions(client: &Client, topic: &str) -> Result<Vec<TopicPartition>> {
    let found = client.admin().describe_topics(&[topic]).await?.into_iter().next();
    let (name, found) = found.with_context(|| format!("there is no topic {topic}"))?;
    let found = found.with_context(|| format!("describing {topic}"))?;
    Ok(found.partitions.iter().map(|info| TopicPartition::new(Arc::clone(&name), info.partition)).collect())
}
