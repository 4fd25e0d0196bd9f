//! A node: a broker and its doors.

use std::sync::Arc;

use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::BoxFuture;
use millstream_broker::{Broker, BrokerError};
use millstream_env::{Env, Listener, TaskGroup};
use millstream_net::{TcpDial, serve as serve_connections};
use millstream_protocol::{Dial, Endpoint, Service};
use millstream_storage::{Disk, RealDisk};

use crate::config::Listen;
use crate::embedded::{LISTENER, LocalDial};
use crate::{NodeConfig, NodeError, Result};

/// A running node. Dropping it ends its tasks at once, as a crash would; [`Node::shutdown`] ends it cleanly.
pub struct Node {
    broker: Arc<Broker>,
    local_addr: Option<String>,
    /// The doors to the network; they go before the broker does.
    doors: Vec<Door>,
    /// What holds the doors open.
    tasks: TaskGroup,
}

/// A listener at work.
struct Door {
    close: oneshot::Sender<()>,
    closed: oneshot::Receiver<()>,
}

impl Node {
    /// Starts a node on any env and disk; the simulator comes in here.
    ///
    /// # Errors
    /// When the data directory or an address cannot be used.
    pub fn start(env: Env, disk: Arc<dyn Disk>, config: NodeConfig) -> BoxFuture<'static, Result<Self>> {
        async move {
            config.check()?;
            let listeners = listen(&env, &config).await?;
            let bound: Vec<Listen> = listeners.iter().map(|(bound, _)| bound.clone()).collect();
            let local_addr = bound.first().map(|listen| listen.address.to_string());
            let broker_config = config.broker_config(&bound);
            let dial = Arc::new(TcpDial::new(env.clone()));
            let broker =
                Broker::start(env.clone(), disk, config.data_dir().clone(), broker_config, dial).await?;
            let tasks = env.group();
            let doors = listeners.into_iter().map(|(bound, listener)| {
                let (close, closing) = oneshot::channel();
                let (done, closed) = oneshot::channel();
                let service: Arc<dyn Service> = Arc::<Broker>::clone(&broker);
                let serving = serve_connections(
                    env.clone(),
                    listener,
                    service,
                    config.net(&bound),
                    closing.map(|_| ()).boxed(),
                );
                tasks.spawn("listener", async move {
                    serving.await;
                    let _ = done.send(()); // nobody waits when the node is dropped
                });
                Door { close, closed }
            });
            let doors = doors.collect();
            Ok(Self { broker, local_addr, doors, tasks })
        }
        .boxed()
    }

    /// Where the node listens, as `host:port`; it tells the port when 0 was asked for. `None` without a listener.
    #[must_use]
    pub fn local_addr(&self) -> Option<&str> {
        self.local_addr.as_deref()
    }

    /// The door within the process: calls go to the broker directly, whatever endpoint is dialed.
    #[must_use]
    pub fn dial(&self) -> Arc<dyn Dial> {
        Arc::new(LocalDial::new(&self.broker))
    }

    /// Where clients of [`Node::dial`] begin. The door within the process has one end, so the address only has to be one.
    #[must_use]
    pub fn bootstrap(&self) -> Vec<Endpoint> {
        let advertised = self.broker.config().listeners.first().map(|listener| listener.endpoint.clone());
        vec![advertised.unwrap_or_else(|| Endpoint::new(LISTENER, 0))]
    }

    /// The broker.
    #[must_use]
    pub fn broker(&self) -> &Arc<Broker> {
        &self.broker
    }

    /// Completes when the node cannot go on, though nobody asked it to stop, with the reason: its disk has failed, of which the cluster
    /// then knows if it could be told, or it cannot follow the cluster's metadata. It serves nobody. End the process then;
    /// [`Node::shutdown`] would wait for what will not come.
    pub fn failed(&self) -> BoxFuture<'_, NodeError> {
        async move {
            let node = self.broker.config().node_id;
            match self.broker.lost().await {
                BrokerError::Storage(why) => NodeError::Offline { node, why },
                other => NodeError::Lost { node, why: other.to_string() },
            }
        }
        .boxed()
    }

    /// Has others take over in a cluster, stops listening, lets what was admitted finish, flushes and marks the shutdown as clean.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn shutdown(self) -> BoxFuture<'static, Result<()>> {
        let Self { broker, doors, tasks, local_addr: _ } = self; // whole: an async block drops early what it does not name
        async move {
            broker.hand_over().await; // with open doors: the cluster decides it with us, and clients learn where to go
            for Door { close, closed } in doors {
                let _ = close.send(()); // a door that is gone needs no closing
                let _ = closed.await;
            }
            broker.shutdown().await?;
            drop(tasks);
            Ok(())
        }
        .boxed()
    }
}

async fn listen(env: &Env, config: &NodeConfig) -> Result<Vec<(Listen, Box<dyn Listener>)>> {
    let mut bound = Vec::new();
    for listen in config.client_listeners().into_iter().chain(config.controller_listener()) {
        let address = listen.address.to_string();
        let listener = env.listen(&address).await;
        let listener = listener.map_err(|source| NodeError::Listen { address: address.clone(), source })?;
        let local = Endpoint::parse(&listener.local_addr()).unwrap_or(listen.address);
        bound.push((Listen { name: listen.name, address: local }, listener));
    }
    Ok(bound)
}

/// Starts a node on the real disk.
///
/// # Errors
/// When the data directory or an address cannot be used.
pub fn serve(env: Env, config: NodeConfig) -> BoxFuture<'static, Result<Node>> {
    Node::start(env, Arc::new(RealDisk), config)
}
