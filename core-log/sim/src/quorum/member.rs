//! [`Member`]: a disk that stays, and one incarnation after another of a quorum's member on it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use millstream_broker::quorum::{Bounds, Compactor, MemberId, QuorumLog, QuorumOptions, QuorumTiming};
use millstream_env::Env;
use millstream_machine::metadata::{Committed, ConfigScope, Image, MetadataLog, Record};
use millstream_protocol::Endpoint;
use millstream_protocol::messages::ConfigRecord;
use millstream_record::{NodeId, Offset, TopicPartition, Uuid};
use millstream_storage::{LogConfig, LogDir, Offsets};
use parking_lot::Mutex;

use super::history::History;
use super::wires::Wires;
use crate::disk::SimDisk;
use crate::executor::{Owner, Sim};

/// Where the data is on every disk, as a node has it too.
pub const DATA: &str = "/data";
/// How often a member notes its recovery point.
const CHECKPOINT: Duration = Duration::from_millis(700);
const OPEN_FILES: usize = 64;

/// How the quorum of a world is set up.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Entries after which a snapshot is made.
    pub snapshot_after: u64,
    /// Entries that stay before one.
    pub keep: u64,
    /// The same in bytes.
    pub bounds: Bounds,
    /// Elections and heartbeats.
    pub timing: QuorumTiming,
}

impl Default for Setup {
    fn default() -> Self {
        Self { snapshot_after: 5_000, keep: 10, bounds: Bounds::NONE, timing: QuorumTiming::default() }
    }
}

/// One member.
#[derive(Clone)]
pub struct Member {
    /// Its number: node id and port.
    pub number: u16,
    sim: Sim,
    wires: Wires,
    history: Arc<Mutex<History>>,
    disk: SimDisk,
    setup: Setup,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    owner: Option<Owner>,
    quorum: Option<Arc<QuorumLog>>,
    image: Image,
    failed: Option<String>,
    starts: u64,
}

/// The id of the member called `number`.
pub fn member_id(number: u16) -> MemberId {
    MemberId { node: NodeId(number.into()), directory: Uuid::from_random(number.into(), 77) }
}

/// Where the member called `number` is reached.
pub fn endpoint(number: u16) -> Endpoint {
    Endpoint::new("member", number)
}

/// The members called `numbers`, as founders.
pub fn founders(numbers: impl IntoIterator<Item = u16>) -> BTreeMap<MemberId, Endpoint> {
    numbers.into_iter().map(|number| (member_id(number), endpoint(number))).collect()
}

impl Member {
    /// A member that has not started, on `disk`.
    pub fn new(
        sim: &Sim,
        wires: &Wires,
        history: &Arc<Mutex<History>>,
        number: u16,
        disk: SimDisk,
        setup: Setup,
    ) -> Self {
        let (sim, wires, history) = (sim.clone(), wires.clone(), Arc::clone(history));
        Self { number, sim, wires, history, disk, setup, state: Arc::default() }
    }

    /// Its disk.
    pub fn disk(&self) -> &SimDisk {
        &self.disk
    }

    /// Its part of the quorum, while it runs.
    pub fn quorum(&self) -> Option<Arc<QuorumLog>> {
        self.state.lock().quorum.clone()
    }

    /// All that it has read since it started.
    pub fn image(&self) -> Image {
        self.state.lock().image.clone()
    }

    /// Why it did not start, or stopped.
    pub fn failed(&self) -> Option<String> {
        self.state.lock().failed.clone()
    }

    /// Incarnations so far.
    pub fn starts(&self) -> u64 {
        self.state.lock().starts
    }

    /// Whether a process of it exists.
    pub fn is_running(&self) -> bool {
        self.state.lock().owner.is_some()
    }

    /// Starts an incarnation. Only the first start of a founder needs `founders`.
    pub fn boot(&self, founders: BTreeMap<MemberId, Endpoint>) {
        self.disk.reopen();
        let (owner, env) = self.sim.process();
        {
            let mut state = self.state.lock();
            let starts = state.starts + 1;
            *state = State { owner: Some(owner), starts, ..State::default() };
        }
        let me = self.clone();
        env.clone().spawn("member", async move {
            if let Err(error) = me.live(env, owner, founders).await
                && !me.disk.has_died()
            {
                me.state.lock().failed = Some(error);
            }
        });
    }

    async fn live(
        &self,
        env: Env,
        owner: Owner,
        founders: BTreeMap<MemberId, Endpoint>,
    ) -> Result<(), String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let disk = Arc::new(self.disk.clone());
        let mut dir = LogDir::open(disk, Path::new(DATA), OPEN_FILES).map_err(|error| text(&error))?;
        let at = TopicPartition::new("__cluster_metadata", 0);
        let config = LogConfig { cleanup_delete: false, file_delete_delay_ms: 0, ..LogConfig::default() };
        let topic = Uuid::from_random(0, 1);
        let found = dir.partitions().map_err(|error| text(&error))?;
        let topic =
            found.iter().find(|log| log.partition == at).and_then(|log| log.topic_id).unwrap_or(topic);
        let (log, _) = dir.open_log(&at, topic, config, env.now()).map_err(|error| text(&error))?;
        dir.begin_use().map_err(|error| text(&error))?;
        let dir = Arc::new(Mutex::new(dir));
        let (lowering, lowered) = (Arc::clone(&dir), at.clone());
        let options = QuorumOptions {
            member: member_id(self.number),
            founders,
            dial: self.wires.dial_from(self.number),
            timing: self.setup.timing,
            snapshot_after: self.setup.snapshot_after,
            keep_before_snapshot: self.setup.keep,
            bounds: self.setup.bounds,
            compactor: Arc::new(|| Box::new(Configs::default())),
            lower_recovery_point: Arc::new(move |to| lowering.lock().lower_recovery_point(&lowered, to)),
        };
        let opened = QuorumLog::open(env.clone(), log, options).await;
        let quorum = opened.map_err(|error| text(&error))?;
        self.wires.connect(self.number, owner, Arc::clone(&quorum));
        self.state.lock().quorum = Some(Arc::clone(&quorum));
        let (me, follower) = (self.clone(), Arc::clone(&quorum));
        env.spawn("follow", async move { me.follow(follower).await });
        loop {
            env.sleep(CHECKPOINT).await;
            let written = quorum.write_epochs_blocking();
            let (recovery, start) = quorum.with_log(|log| (log.recovery_point(), log.start_offset()));
            let note = |offset: Offset| Offsets::from([(at.clone(), offset)]);
            if written
                .and_then(|()| dir.lock().checkpoint(note(recovery), note(start), note(start), &[]))
                .is_err()
            {
                return Ok(()); // offline, which the quorum reports
            }
        }
    }

    /// Reads all that is committed, as every broker does.
    async fn follow(&self, quorum: Arc<QuorumLog>) {
        loop {
            let from = self.state.lock().image.end();
            match quorum.read(from, 64).await {
                Ok(batches) => {
                    for batch in batches {
                        self.history.lock().saw(self.number, &batch);
                        let mut state = self.state.lock();
                        if let Err(error) = state.image.apply_batch(&batch) {
                            state.failed = Some(error.to_string());
                            return;
                        }
                    }
                }
                Err(error) => {
                    self.state.lock().failed = Some(error.to_string());
                    return;
                }
            }
        }
    }

    /// kill -9; with `power` also the loss of what was not synced.
    pub fn stop(&self, power: bool) {
        let owner = {
            let mut state = self.state.lock();
            state.quorum = None;
            state.owner.take()
        };
        self.wires.disconnect(self.number);
        if let Some(owner) = owner {
            self.sim.kill(owner);
        }
        if power {
            self.disk.power_loss();
        }
    }

    /// From now on, until it starts again, its blocking jobs take up to `max`.
    pub fn slow_disk(&self, max: Duration) {
        if let Some(owner) = self.state.lock().owner {
            self.sim.slow_jobs(owner, max);
        }
    }

    /// Stops polling it for `length`.
    pub async fn pause(&self, length: Duration) {
        let owner = self.state.lock().owner;
        if let Some(owner) = owner {
            self.sim.pause(owner);
            self.sim.env_of(Owner::WORLD).sleep(length).await;
            self.sim.resume(owner);
        }
    }
}

/// Folds batches of configuration records; the worlds propose nothing else.
#[derive(Default)]
struct Configs(Image);

impl Compactor for Configs {
    fn apply(&mut self, batch: &Committed) -> Result<(), String> {
        self.0.apply_batch(batch).map_err(|error| error.to_string())
    }

    fn records(&self) -> Vec<Record> {
        let scope = ConfigScope::BrokerDefault;
        let (resource_type, resource_name) = scope.resource();
        let record = |(name, value): (&Arc<str>, &Arc<str>)| {
            Record::Config(ConfigRecord {
                resource_type,
                resource_name: resource_name.as_str().into(),
                name: (**name).into(),
                value: Some((**value).into()),
            })
        };
        self.0.configs(&scope).map(record).collect()
    }
}
