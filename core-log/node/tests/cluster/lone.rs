//! Nodes one by one, each with properties of its own: for clusters that are not made of three alike.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::time::Duration;

use millstream_env::{Env, HostRuntime};
use millstream_node::{Node, NodeConfig, serve};
use tempfile::TempDir;

use crate::nodes::{PATIENCE, outside};

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// A node's place: its directory and ports stay, its lives come and go.
pub(crate) struct Lone {
    pub(crate) id: i32,
    /// For clients, where it is a broker.
    pub(crate) clients: u16,
    /// For controllers, where it is one.
    pub(crate) controllers: u16,
    dir: TempDir,
    life: Option<(tokio::runtime::Runtime, Node)>,
}

impl Lone {
    pub(crate) fn new(id: i32) -> Self {
        let port = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self { id, clients: port(), controllers: port(), dir: TempDir::new().unwrap(), life: None }
    }

    /// Starts it with `properties`, in which `CLIENTS` and `CONTROLLERS` stand for its addresses.
    pub(crate) fn start(&mut self, properties: &[(&str, String)]) {
        let mut config = NodeConfig::new(self.dir.path());
        config.set("node.id", &self.id.to_string()).unwrap();
        config.set("broker.session.timeout.ms", "600000").unwrap();
        for (key, value) in properties {
            let value = value.replace("CLIENTS", &format!("PLAINTEXT://127.0.0.1:{}", self.clients));
            let value = value.replace("CONTROLLERS", &format!("CONTROLLER://127.0.0.1:{}", self.controllers));
            config.set(key, &value).unwrap();
        }
        let (runtime, env) = HostRuntime::start("node", 2).unwrap();
        let node = runtime.block_on(serve(env, config)).unwrap();
        self.life = Some((runtime, node));
    }

    /// As kill -9 does: the threads end where they are.
    pub(crate) fn crash(&mut self) {
        if let Some((runtime, node)) = self.life.take() {
            runtime.shutdown_timeout(PATIENCE);
            drop(node);
        }
    }

    pub(crate) fn stop(&mut self) {
        let (runtime, node) = self.life.take().expect("it runs");
        runtime.block_on(node.shutdown()).unwrap();
        runtime.shutdown_timeout(PATIENCE);
    }

    /// The disk is lost: the node comes back with an empty one.
    pub(crate) fn wipe(&mut self) {
        self.crash();
        self.dir = TempDir::new().unwrap();
    }
}

impl Drop for Lone {
    fn drop(&mut self) {
        let life = self.life.take();
        outside(move || {
            if let Some((runtime, node)) = life {
                runtime.shutdown_timeout(PATIENCE);
                drop(node);
            }
        });
    }
}

/// Nodes by their id.
pub(crate) type Lones = BTreeMap<i32, Lone>;

/// Does something to a node on a thread that no runtime has entered.
pub(crate) fn with(nodes: &mut Lones, id: i32, work: impl FnOnce(&mut Lone) + Send + 'static) {
    let mut node = nodes.remove(&id).unwrap();
    let node = outside(move || {
        work(&mut node);
        node
    });
    nodes.insert(id, node);
}

pub(crate) async fn until<F: Future<Output = bool>>(env: &Env, what: &str, mut holds: impl FnMut() -> F) {
    let end = env.elapsed() + PATIENCE;
    while !holds().await {
        assert!(env.elapsed() < end, "{what}: not within {PATIENCE:?}");
        env.sleep(LOOK).await;
    }
}
