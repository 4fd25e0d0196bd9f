//! Nodes one by one, each with properties of its own: for clusters that are not made of three alike.

use std::collections::BTreeMap;

use millstream_env::HostRuntime;
use millstream_env::testing::{PATIENCE, private_port};
use millstream_node::{Node, NodeConfig, serve};
use tempfile::TempDir;

use crate::nodes::{THIS_BUILD, failure, outside};

/// A node's place: its directory and ports stay, its lives come and go.
pub(crate) struct Lone {
    pub(crate) id: i32,
    /// For clients, where it is a broker.
    pub(crate) clients: u16,
    /// For controllers, where it is one.
    pub(crate) controllers: u16,
    pub(crate) dir: TempDir,
    /// The highest `metadata.version` that its build supports.
    pub(crate) supports: i16,
    life: Option<(tokio::runtime::Runtime, Node)>,
}

impl Lone {
    pub(crate) fn new(id: i32) -> Self {
        let (clients, controllers, dir) = (private_port(), private_port(), TempDir::new().unwrap());
        Self { id, clients, controllers, dir, supports: THIS_BUILD, life: None }
    }

    /// Starts it with `properties`, in which `CLIENTS` and `CONTROLLERS` stand for its addresses.
    pub(crate) fn start(&mut self, properties: &[(&str, String)]) {
        self.try_start(properties).unwrap();
    }

    /// Starts it where it cannot go on; gives the reason with which it ends, sooner or later.
    pub(crate) fn fails(&mut self, properties: &[(&str, String)]) -> String {
        match self.try_start(properties) {
            Err(error) => error.to_string(),
            Ok(()) => {
                let (runtime, node) = self.life.as_ref().unwrap();
                failure(runtime, node)
            }
        }
    }

    fn try_start(&mut self, properties: &[(&str, String)]) -> millstream_node::Result<()> {
        let mut config = NodeConfig::new(self.dir.path());
        config.set("node.id", &self.id.to_string()).unwrap();
        config.set("broker.session.timeout.ms", "600000").unwrap();
        for (key, value) in properties {
            let value = value.replace("CLIENTS", &format!("PLAINTEXT://127.0.0.1:{}", self.clients));
            let value = value.replace("CONTROLLERS", &format!("CONTROLLER://127.0.0.1:{}", self.controllers));
            config.set(key, &value).unwrap();
        }
        config.support_feature("metadata.version", 7, self.supports);
        let (runtime, env) = HostRuntime::start("node", 2).unwrap();
        match runtime.block_on(serve(env, config)) {
            Ok(node) => self.life = Some((runtime, node)),
            Err(error) => {
                runtime.shutdown_timeout(PATIENCE);
                return Err(error);
            }
        }
        Ok(())
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

    /// The names of the files in a folder of its disk; none where there is no such folder.
    pub(crate) fn files(&self, folder: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.dir.path().join(folder)) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// What is in a file of its disk.
    pub(crate) fn read(&self, file: &str) -> Vec<u8> {
        std::fs::read(self.dir.path().join(file)).unwrap()
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
pub(crate) fn with<T: Send + 'static>(
    nodes: &mut Lones,
    id: i32,
    work: impl FnOnce(&mut Lone) -> T + Send + 'static,
) -> T {
    let mut node = nodes.remove(&id).unwrap();
    let (node, done) = outside(move || {
        let done = work(&mut node);
        (node, done)
    });
    nodes.insert(id, node);
    done
}
