//! The machine under test: a disk that stays, and one incarnation after another of a node on it.

use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use millstream_broker::Broker;
use millstream_machine::metadata::Image;
use millstream_node::{Node, NodeConfig};
use millstream_record::{NodeId, Uuid};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::disk::{Faults, SimDisk};
use crate::executor::{Host, Owner, Sim};
use crate::plan::Fault;

/// Where the node listens in every world.
pub const ADDRESS: (&str, u16) = ("node", 9092);
/// Where a cluster's nodes keep their data.
pub const DATA: &str = "/data";
/// How often a condition of the schedule is looked at, in virtual time.
const LOOK: Duration = Duration::from_millis(20);
/// A disk this slow has work open whenever somebody looks.
const SLOW: Duration = Duration::from_millis(800);
/// How long a node works on what it recovered before the power goes.
const AFTERMATH: Duration = Duration::from_millis(500);
/// How long the schedule waits for a fault to strike before it goes on.
const STRIKE_MAX: Duration = Duration::from_secs(5);

/// One machine.
#[derive(Clone)]
pub struct Machine {
    sim: Sim,
    disk: SimDisk,
    /// 0 where the world has one machine only: it is never cut off then, and a power loss is heard of.
    host: Host,
    state: Arc<Mutex<State>>,
}

struct State {
    config: NodeConfig,
    owner: Option<Owner>,
    broker: Weak<Broker>,
    up: bool,
    refused: Option<String>,
    restarts: u64,
    clean_stops: u64,
    asked_to_stop: Arc<Notify>,
    /// How far its wall clock is ahead of the world's.
    skew_ms: i64,
    /// Whether bits were flipped on its disk.
    rotten: bool,
    /// What the processes that were killed knew of the cluster.
    last_known: Option<Arc<Image>>,
}

impl Machine {
    /// A machine with an empty disk.
    pub fn new(sim: &Sim, config: NodeConfig) -> Self {
        Self::on_host(sim, config, 0)
    }

    /// A machine with an empty disk that is a host of its own.
    pub fn on_host(sim: &Sim, config: NodeConfig, host: Host) -> Self {
        let state = State {
            config,
            owner: None,
            broker: Weak::new(),
            up: false,
            refused: None,
            restarts: 0,
            clean_stops: 0,
            asked_to_stop: Arc::default(),
            skew_ms: 0,
            rotten: false,
            last_known: None,
        };
        Self { sim: sim.clone(), disk: SimDisk::new(sim), host, state: Arc::new(Mutex::new(state)) }
    }

    /// Which host it is.
    pub fn host(&self) -> Host {
        self.host
    }

    /// The process that runs on it.
    pub fn owner(&self) -> Option<Owner> {
        self.state.lock().owner
    }

    /// The broker that runs on it, once it has started.
    pub fn broker(&self) -> Option<Arc<Broker>> {
        self.state.lock().broker.upgrade()
    }

    /// What it knows of the cluster, or knew when it was killed.
    pub fn image(&self) -> Option<Arc<Image>> {
        let now = self.broker().map(|broker| broker.image());
        now.into_iter().chain(self.last_known()).max_by_key(|image| image.end())
    }

    fn last_known(&self) -> Option<Arc<Image>> {
        self.state.lock().last_known.clone()
    }

    /// Whether `image` knows that the node runs anew since it died last.
    pub fn is_registered_in(&self, image: &Image) -> bool {
        let node = NodeId(i32::from(self.host));
        let epoch = |image: &Image| image.broker(node).map(|broker| broker.epoch);
        epoch(image).is_some() && epoch(image) > self.last_known().and_then(|known| epoch(&known))
    }

    /// The id of the data directory on its disk, once a node has made it.
    pub fn directory(&self) -> Option<Uuid> {
        let files = self.disk.files(Path::new(DATA), false);
        let properties = String::from_utf8_lossy(files.get("meta.properties")?).into_owned();
        properties.lines().find_map(|line| Uuid::parse(line.strip_prefix("directory.id=")?))
    }

    /// Its disk.
    pub fn disk(&self) -> &SimDisk {
        &self.disk
    }

    /// Incarnations so far.
    pub fn restarts(&self) -> u64 {
        self.state.lock().restarts
    }

    /// Incarnations that closed in order.
    pub fn clean_stops(&self) -> u64 {
        self.state.lock().clean_stops
    }

    /// Why the present incarnation did not start, if it did not.
    pub fn refused(&self) -> Option<String> {
        self.state.lock().refused.clone()
    }

    /// Whether the node answers.
    pub fn is_up(&self) -> bool {
        self.state.lock().up
    }

    /// Starts a new incarnation.
    pub fn boot(&self) {
        self.disk.reopen();
        let (owner, env) = self.sim.process();
        if self.host != 0 {
            self.sim.place(owner, self.host);
            self.sim.light(self.host);
        }
        let asked_to_stop = Arc::new(Notify::new());
        let config = {
            let mut state = self.state.lock();
            state.owner = Some(owner);
            state.broker = Weak::new();
            state.up = false;
            state.refused = None;
            state.restarts += 1;
            state.asked_to_stop = Arc::clone(&asked_to_stop);
            if state.skew_ms != 0 {
                self.sim.skew_clock(owner, state.skew_ms);
            }
            state.config.clone()
        };
        let (state, disk) = (Arc::clone(&self.state), self.disk.clone());
        env.clone().spawn("node", async move {
            let started = Node::start(env, Arc::new(disk.clone()), config).await;
            let node = match started {
                Ok(node) => {
                    let mut state = state.lock();
                    state.up = true;
                    state.broker = Arc::downgrade(node.broker());
                    node
                }
                Err(error) => {
                    if !disk.has_died() {
                        state.lock().refused = Some(error.to_string());
                    }
                    return;
                }
            };
            asked_to_stop.notified().await;
            match node.shutdown().await {
                Ok(()) => state.lock().clean_stops += 1,
                Err(error) => tracing::debug!(%error, "the node did not close in order"),
            }
        });
    }

    /// kill -9, and with `power` also the loss of everything that was not synced.
    pub fn stop(&self, power: bool) {
        let owner = {
            let mut state = self.state.lock();
            state.up = false;
            if let Some(broker) = std::mem::take(&mut state.broker).upgrade() {
                let known = state.last_known.take().into_iter().chain([broker.image()]);
                state.last_known = known.max_by_key(|image| image.end()); // it may not have heard of all of that again
            }
            state.owner.take()
        };
        if power && self.host != 0 {
            self.sim.darken(self.host);
        }
        if let Some(owner) = owner {
            self.sim.kill(owner);
        }
        if power {
            self.disk.power_loss();
        }
    }

    /// The power goes and the disk with it; from then on the node starts with `config`.
    pub fn wipe(&self, config: NodeConfig) {
        self.stop(true);
        self.disk.wipe();
        let mut state = self.state.lock();
        (state.config, state.rotten) = (config, false);
    }

    /// Flips `bits` bits of what is durable in the files whose paths `wanted` accepts. The node has been stopped.
    pub fn rot(&self, bits: u64, wanted: impl Fn(&str) -> bool) {
        for _ in 0..bits {
            let flipped = self.disk.flip_bit(|path| wanted(&path.to_string_lossy()));
            self.state.lock().rotten |= flipped.is_some();
        }
    }

    /// Whether bits were flipped on its disk.
    pub fn is_rotten(&self) -> bool {
        self.state.lock().rotten
    }

    /// Lets one fault happen and mends what it broke.
    pub async fn suffer(&self, fault: Fault) {
        self.sim.note("fault", fault_number(fault));
        match fault {
            Fault::Crash => self.again(false).await,
            Fault::PowerLoss => self.again(true).await,
            Fault::CrashInside(calls) => self.die_inside(calls, false, false).await,
            Fault::PowerLossInside(calls) => self.die_inside(calls, false, true).await,
            Fault::PowerLossInRetention(calls) => self.die_inside(calls, true, true).await,
            Fault::Pause(length) => self.pause(length).await,
            Fault::CutConnection => drop(self.sim.drop_connection()),
            Fault::SlowDisk(max) => {
                self.slow(max);
            }
            Fault::SyncError => {
                self.fail_a_sync().await;
                self.again(true).await;
            }
            Fault::FullDisk => {
                self.fill_disk().await;
                self.again(false).await;
            }
            Fault::RetryThenPowerLoss(after) => {
                self.slow(SLOW);
                self.wait(LOOK).await;
                while self.sim.drop_connection() {}
                self.wait(after).await;
                self.again(true).await;
            }
            Fault::CleanRestartThenPowerLoss(after) => {
                self.stop_in_order(STRIKE_MAX).await;
                self.again(false).await;
                self.wait(after).await;
                self.again(true).await;
            }
            Fault::SyncErrorThenCrash => {
                self.fail_a_sync().await;
                self.again(false).await;
                self.wait(AFTERMATH).await;
                self.again(true).await;
            }
            Fault::PowerLossAgain(after) => {
                self.again(true).await;
                self.wait(after).await;
                self.again(true).await;
            }
            Fault::ReadErrors(once_in) => {
                self.disk.set_faults(Faults { read_error_in: once_in, ..Faults::default() });
                self.wait(Duration::from_secs(1)).await;
                self.again(false).await;
            }
        }
    }

    /// From now on, until it starts again, its blocking jobs take up to `max`.
    pub fn slow(&self, max: Duration) {
        if let Some(owner) = self.owner() {
            self.sim.slow_jobs(owner, max);
        }
    }

    /// Asks the node to close, and waits for it.
    pub async fn stop_in_order(&self, patience: Duration) {
        let before = self.clean_stops();
        self.state.lock().asked_to_stop.notify_one();
        let me = self.clone();
        self.until_within(patience, move || me.clean_stops() > before).await;
    }

    /// Has the disk be full but for some bytes, into which small batches may fit, and waits until a write found no room.
    pub async fn fill_disk(&self) {
        let before = self.disk.injected().full;
        let used = self.disk.used();
        let left = used % 2048; // as good as any draw
        self.disk.set_faults(Faults { capacity: used + left, ..Faults::default() });
        let disk = self.disk.clone();
        self.until(move || disk.injected().full > before).await;
    }

    /// From now on its wall clock is so far ahead of the world's, or behind, whichever process runs.
    pub fn skew_clock(&self, ms: i64) {
        self.state.lock().skew_ms = ms;
        if let Some(owner) = self.owner() {
            self.sim.skew_clock(owner, ms);
        }
    }

    /// Has the next sync fail, and waits for it.
    pub async fn fail_a_sync(&self) {
        let before = self.disk.injected().sync_errors;
        self.disk.set_faults(Faults { sync_error: true, ..Faults::default() });
        let disk = self.disk.clone();
        self.until(move || disk.injected().sync_errors > before).await;
    }

    async fn again(&self, power: bool) {
        self.stop(power);
        self.wait(Duration::from_millis(self.sim.below(300))).await;
        self.boot();
    }

    async fn die_inside(&self, calls: u64, in_retention: bool, power: bool) {
        let faults = Faults { die_after: calls, die_in_retention: in_retention, ..Faults::default() };
        self.die_inside_disk(faults).await;
        self.again(power).await;
    }

    /// Waits until the process has died inside of a disk call, as `faults` say. It is to be stopped then.
    pub async fn die_inside_disk(&self, faults: Faults) {
        self.disk.set_faults(faults);
        let disk = self.disk.clone();
        self.until(move || disk.has_died()).await;
    }

    /// Stops polling the node for `length`.
    pub async fn pause(&self, length: Duration) {
        let owner = self.state.lock().owner;
        if let Some(owner) = owner {
            self.sim.pause(owner);
            self.wait(length).await;
            self.sim.resume(owner);
        }
    }

    async fn until(&self, condition: impl Fn() -> bool) {
        self.until_within(STRIKE_MAX, condition).await;
    }

    async fn until_within(&self, patience: Duration, condition: impl Fn() -> bool) {
        let end = self.sim.elapsed() + patience;
        while !condition() && self.sim.elapsed() < end {
            self.wait(LOOK).await;
        }
    }

    async fn wait(&self, duration: Duration) {
        self.sim.env_of(Owner::WORLD).sleep(duration).await;
    }
}

fn fault_number(fault: Fault) -> u64 {
    match fault {
        Fault::Crash => 1,
        Fault::CrashInside(_) => 2,
        Fault::PowerLoss => 3,
        Fault::PowerLossInside(_) => 4,
        Fault::Pause(_) => 5,
        Fault::CutConnection => 6,
        Fault::SlowDisk(_) => 7,
        Fault::SyncError => 8,
        Fault::FullDisk => 9,
        Fault::ReadErrors(_) => 10,
        Fault::RetryThenPowerLoss(_) => 11,
        Fault::PowerLossAgain(_) => 12,
        Fault::SyncErrorThenCrash => 13,
        Fault::CleanRestartThenPowerLoss(_) => 14,
        Fault::PowerLossInRetention(_) => 15,
    }
}
