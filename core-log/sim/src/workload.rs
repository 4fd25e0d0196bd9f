//! What clients do in a world. Each runs as a process of its own, over simulated TCP, with the production client.

pub mod cast;
pub mod counting;
pub mod group;
pub mod operator;
pub mod producer;
pub mod reader;
pub mod rolling;
pub mod settings;
pub mod topics;
pub mod transactional;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use millstream_client::{Client, ClientConfig};
use millstream_env::Env;
use millstream_net::TcpDial;
use millstream_protocol::Endpoint;
use parking_lot::Mutex;

use crate::executor::{Owner, Sim};
use crate::history::{History, Partition, Value};
use crate::machine::ADDRESS;

/// The topic that everybody writes to; its partitions are numbered from 0 in the history.
pub const TOPIC: &str = "t";
/// The topic with short retention; its one partition has this number in the history.
pub const SHORT: (&str, Partition) = ("short", 100);
/// Names of topics that come and go begin so.
pub const PASSING: &str = "passing-";

/// Longest rest of a producer between two records.
const REST_MAX_MS: u64 = 40;

/// What the workloads of one world share.
#[derive(Clone)]
pub struct Scene {
    /// The world.
    pub sim: Sim,
    /// What was seen so far.
    pub history: Arc<Mutex<History>>,
    /// Set when the endless workloads shall end.
    pub over: Arc<AtomicBool>,
    /// Longest rest of a producer between two records, of which it rests after every third.
    pub rest_max_ms: u64,
    bootstrap: Vec<Endpoint>,
    next: Arc<AtomicU64>,
}

impl Scene {
    /// An empty scene.
    pub fn new(sim: &Sim) -> Self {
        Self::with_brokers(sim, vec![Endpoint::new(ADDRESS.0, ADDRESS.1)])
    }

    /// An empty scene in which clients begin with `bootstrap`.
    pub fn with_brokers(sim: &Sim, bootstrap: Vec<Endpoint>) -> Self {
        let (history, over, next) = (Arc::default(), Arc::default(), Arc::default());
        Self { sim: sim.clone(), history, over, rest_max_ms: REST_MAX_MS, bootstrap, next }
    }

    /// A client in a process of its own.
    pub fn client(&self, name: &str) -> (Env, Client) {
        let (_, env, client) = self.client_process(name);
        (env, client)
    }

    /// The same, with its process, which may be stopped.
    pub fn client_process(&self, name: &str) -> (Owner, Env, Client) {
        let (owner, env) = self.sim.process();
        let config = ClientConfig {
            client_id: name.into(),
            request_timeout_ms: 3_000,
            api_timeout_ms: 20_000,
            metadata_max_age_ms: 5_000,
            ..ClientConfig::new(self.bootstrap.clone())
        };
        let client = Client::new(env.clone(), Arc::new(TcpDial::new(env.clone())), config);
        (owner, env, client)
    }

    /// A number that nobody had before: a value, a producer, a transaction.
    pub fn fresh(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether the endless workloads shall end.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Waits up to `max_ms`, as the seed says.
    pub async fn dither(&self, env: &Env, max_ms: u64) {
        env.sleep(Duration::from_millis(self.sim.below(max_ms))).await;
    }

    /// The bytes of a value: the number, then a run of filler so that batches differ in size.
    pub fn payload(&self, value: Value) -> Bytes {
        let mut bytes = vec![value as u8; 8 + self.sim.below(300) as usize];
        bytes[..8].copy_from_slice(&value.to_be_bytes());
        bytes.into()
    }
}

/// The value in a payload; `None` when it is none of ours, or was changed.
pub fn value_of(payload: &[u8]) -> Option<Value> {
    let (head, filler) = payload.split_first_chunk::<8>()?;
    let value = Value::from_be_bytes(*head);
    filler.iter().all(|byte| *byte == value as u8).then_some(value)
}

/// What stands for a payload that is none of ours in the history: nobody ever sends it, so it counts as invented.
pub const GARBLED: Value = Value::MAX;
