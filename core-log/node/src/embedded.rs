//! The broker inside of an application.

use std::path::PathBuf;
use std::sync::{Arc, Weak};

use futures::FutureExt;
use futures::future::BoxFuture;
use millstream_broker::Broker;
use millstream_env::{Env, HostRuntime};
use millstream_protocol::{
    ApiKey, CallError, Ctx, Dial, DialError, Endpoint, Link, Receipt, Request, Service, versions,
};
use millstream_storage::RealDisk;

use crate::{Node, NodeConfig, NodeError, Result};

/// Threads of an embedded broker: one for requests, one so that a long one does not hold up the rest.
const THREADS: usize = 2;

/// What an embedded broker needs to know.
#[derive(Clone, Debug)]
pub struct EmbeddedConfig {
    /// Where everything is kept; created when missing.
    pub data_dir: PathBuf,
    /// Properties beyond the defaults, by Kafka's names.
    pub properties: Vec<(String, String)>,
}

impl EmbeddedConfig {
    /// Defaults on `data_dir`.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self { data_dir: data_dir.into(), properties: Vec::new() }
    }

    /// The same with one property set.
    #[must_use]
    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.properties.push((key.to_owned(), value.to_owned()));
        self
    }
}

/// A broker inside of this process, on threads of its own.
pub struct Embedded {
    node: Option<Node>,
    env: Env,
    runtime: Option<tokio::runtime::Runtime>,
}

/// Starts a broker inside of this process. It runs on its own threads, so neither stalls the other.
///
/// # Errors
/// When the data directory cannot be used or a property is wrong.
pub fn embedded(config: EmbeddedConfig) -> BoxFuture<'static, Result<Embedded>> {
    async move {
        let mut node_config = NodeConfig::new(config.data_dir);
        for (key, value) in &config.properties {
            node_config.set(key, value)?;
        }
        let (runtime, env) = HostRuntime::start("millstream", THREADS).map_err(NodeError::Threads)?;
        let (send, started) = futures::channel::oneshot::channel();
        let inside = env.clone();
        let mut embedded = Embedded { node: None, env: env.clone(), runtime: Some(runtime) };
        env.spawn("start", async move {
            let _ = send.send(Node::start(inside, Arc::new(RealDisk), node_config).await); // the starter gave up: the node is dropped
        });
        embedded.node =
            Some(started.await.map_err(|_| NodeError::Threads(std::io::Error::other("start was lost")))??);
        Ok(embedded)
    }
    .boxed()
}

impl Embedded {
    /// The door to the broker.
    #[must_use]
    pub fn dial(&self) -> Arc<dyn Dial> {
        self.node().dial()
    }

    /// Where clients of [`Embedded::dial`] begin.
    #[must_use]
    pub fn bootstrap(&self) -> Vec<Endpoint> {
        self.node().bootstrap()
    }

    /// The env on whose threads the broker runs.
    #[must_use]
    pub fn env(&self) -> &Env {
        &self.env
    }

    /// The node.
    #[must_use]
    pub fn node(&self) -> &Node {
        self.node.as_ref().expect("only shutdown takes the node, and it takes self")
    }

    /// Flushes, marks the shutdown as clean and ends the threads.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn shutdown(mut self) -> BoxFuture<'static, Result<()>> {
        async move {
            let node = self.node.take().expect("only shutdown takes the node, and it takes self");
            let (send, stopped) = futures::channel::oneshot::channel();
            self.env.spawn("shutdown", async move {
                let _ = send.send(node.shutdown().await); // nobody waits any more: the shutdown happened all the same
            });
            stopped.await.map_err(|_| NodeError::Threads(std::io::Error::other("shutdown was lost")))?
        }
        .boxed()
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.node = None;
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background(); // a blocking drop would panic inside of an async application
        }
    }
}

/// Name of the listener within the process.
pub(crate) const LISTENER: &str = "embedded";
/// What is told to who calls too late.
const GONE: &str = "the embedded broker has been shut down";

/// The door within the process. It keeps nobody alive: once the node is gone, calls fail as on a broken connection.
pub(crate) struct LocalDial(Weak<Broker>);

impl LocalDial {
    pub(crate) fn new(broker: &Arc<Broker>) -> Self {
        Self(Arc::downgrade(broker))
    }
}

impl Dial for LocalDial {
    fn dial(&self, endpoint: Endpoint) -> BoxFuture<'static, Result<Arc<dyn Link>, DialError>> {
        let link = LocalLink(Weak::clone(&self.0));
        async move {
            if link.is_closed() {
                let reason = GONE.to_owned();
                return Err(DialError::Unreachable { endpoint: endpoint.to_string(), reason });
            }
            Ok(Arc::new(link) as Arc<dyn Link>)
        }
        .boxed()
    }
}

struct LocalLink(Weak<Broker>);

impl Service for LocalLink {
    fn call(&self, ctx: Ctx, request: Request) -> Receipt {
        match self.0.upgrade() {
            Some(broker) => broker.call(ctx, request),
            None => CallError::Disconnected { peer: LISTENER.to_owned(), reason: GONE.to_owned() }.into(),
        }
    }
}

impl Link for LocalLink {
    fn supports(&self, api: ApiKey) -> Option<(i16, i16)> {
        versions::served(api)
    }

    fn is_closed(&self) -> bool {
        self.0.upgrade().is_none_or(|broker| broker.is_closed())
    }
}
