//! The machine room: three machines, a fourth for a guest, and what happens to them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use millstream_machine::metadata::{Image, Partition};
use millstream_node::NodeConfig;
use millstream_protocol::Endpoint;
use millstream_record::NodeId;
use parking_lot::Mutex;

use super::guest::GUEST;
use super::plan::{Fault, NODES, Plan, Strike, Who};
use crate::disk::Faults;
use crate::executor::{Owner, Sim};
use crate::machine::Machine;
use crate::workload::TOPIC;

/// Where clients are served.
const CLIENTS: u16 = 9092;
/// Where controllers and brokers ask each other.
pub(super) const CONTROLLERS: u16 = 9093;
/// The name of that listener.
pub(super) const CONTROLLER: &str = "CONTROLLER";
/// Between two looks at what is under way.
const LOOK: Duration = Duration::from_millis(10);
/// How long an orderly stop may take before the node is killed, as an operator would.
const STOP_MAX: Duration = Duration::from_secs(30);
/// How long a node stays away that is restarted in order.
const AWAY_MAX_MS: u64 = 1_500;
/// How long a fault that needs a cluster in sync waits for one.
const SETTLED_MAX: Duration = Duration::from_secs(10);
/// Most bits that rot on one disk.
const ROTTEN_MAX: u64 = 3;
/// A blocking job takes up to this long on a healthy disk.
const HEALTHY_DISK: Duration = Duration::from_millis(3);

/// The machines.
#[derive(Clone)]
pub struct Room {
    sim: Sim,
    plan: Plan,
    machines: Vec<Machine>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Nodes whose disk has failed: they have to be started again.
    sick: BTreeSet<u16>,
    /// Nodes whose disk has flipped bits: they have to get another.
    rotten: BTreeSet<u16>,
    /// Whether the guest is there: it has come, and not gone.
    has_guest: bool,
    /// Faults that take their time, and are not over.
    under_way: usize,
    injected: BTreeMap<&'static str, u64>,
}

impl Room {
    /// Three machines with empty disks.
    ///
    /// # Errors
    /// A property that is not known.
    pub fn new(sim: &Sim, plan: &Plan) -> millstream_node::Result<Self> {
        // The first founds the cluster; the others join it.
        let machine = |number: u16| {
            let known = if number == GUEST { 1..=NODES } else { 1..=1 };
            Ok(Machine::on_host(sim, config(number, plan, known)?, number))
        };
        let last = if plan.guest.is_some() { GUEST } else { NODES };
        let machines = (1..=last).map(machine).collect::<millstream_node::Result<Vec<_>>>()?;
        Ok(Self { sim: sim.clone(), plan: plan.clone(), machines, state: Arc::default() })
    }

    /// Where clients begin.
    pub fn bootstrap() -> Vec<Endpoint> {
        (1..=NODES).map(|number| Endpoint::new(host(number), CLIENTS)).collect()
    }

    /// All machines, by number from 1.
    pub fn machines(&self) -> &[Machine] {
        &self.machines
    }

    /// The machines of the nodes that belong to the cluster now.
    pub fn present(&self) -> impl Iterator<Item = &Machine> {
        self.machines.iter().filter(|machine| self.is_present(machine))
    }

    fn is_present(&self, machine: &Machine) -> bool {
        machine.host() != GUEST || self.state.lock().has_guest
    }

    /// The guest comes.
    pub fn admit(&self) {
        if let Some(machine) = self.machines.iter().find(|machine| machine.host() == GUEST) {
            self.state.lock().has_guest = true;
            machine.boot();
        }
    }

    /// The guest goes, for good.
    pub async fn dismiss(&self) {
        if let Some(machine) = self.machines.iter().find(|machine| machine.host() == GUEST) {
            self.state.lock().has_guest = false; // nobody starts it again
            machine.stop_in_order(STOP_MAX).await;
            machine.stop(false);
        }
    }

    /// Stops a node in order and starts it again, as for an upgrade.
    ///
    /// # Errors
    /// When it does not stop in time, though all the others run.
    pub async fn restart_in_order(&self, machine: &Machine) -> Result<(), String> {
        let before = machine.clean_stops();
        machine.stop_in_order(STOP_MAX).await;
        if machine.clean_stops() == before {
            return Err(format!("node {} does not stop within {STOP_MAX:?}", machine.host()));
        }
        machine.stop(false);
        self.sim.env_of(Owner::WORLD).sleep(Duration::from_millis(self.sim.below(AWAY_MAX_MS))).await;
        machine.boot();
        Ok(())
    }

    /// What was injected how often.
    pub fn injected(&self) -> BTreeMap<&'static str, u64> {
        self.state.lock().injected.clone()
    }

    /// Starts every machine.
    pub fn boot(&self) {
        for (machine, skew_ms) in self.present().zip(self.plan.skews_ms) {
            machine.skew_clock(skew_ms);
            machine.boot();
        }
    }

    /// Lets one fault happen. What it stops comes back by itself.
    pub async fn suffer(&self, strike: Strike) {
        let Strike { fault, away, .. } = strike;
        *self.state.lock().injected.entry(fault.name()).or_default() += 1;
        self.sim.note(fault.name(), 0);
        match fault {
            Fault::Crash(who) => self.away(self.find(who), away, false),
            Fault::PowerLoss(who) => self.away(self.find(who), away, true),
            Fault::Wipe(who) => {
                let machine = self.find_host(who);
                if self.can_be_spared(machine).await {
                    self.wipe(machine);
                    self.away(machine, away, false);
                }
            }
            Fault::Rot(who, power) => self.rot(who, power, away).await,
            Fault::AllLosePower => {
                self.present().for_each(|machine| self.away(machine, away, true));
            }
            Fault::SlowThenDark(max, until) => {
                self.present().for_each(|machine| machine.slow(max));
                self.sim.env_of(Owner::WORLD).sleep(until).await;
                self.present().for_each(|machine| self.away(machine, away, true));
            }
            Fault::DieInside(who, calls, power) => {
                let machine = self.find(who);
                machine.die_inside_disk(Faults { die_after: calls, ..Faults::default() }).await;
                self.away(machine, away, power);
            }
            Fault::Stop(who) => {
                let (room, machine) = (self.clone(), self.find(who).clone());
                self.beside(async move {
                    let owner = machine.owner();
                    machine.stop_in_order(STOP_MAX).await;
                    if machine.owner() == owner {
                        room.away(&machine, away, false);
                    }
                });
            }
            Fault::Pause(who, length) => {
                let machine = self.find(who).clone();
                self.beside(async move { machine.pause(length).await });
            }
            Fault::Isolate(who, from_clients) => {
                let victim = self.find(who).host();
                for other in self.others(victim).chain(from_clients.then_some(0)) {
                    self.sim.cut(victim, other);
                    self.sim.cut(other, victim);
                }
            }
            Fault::CutOut(who) => {
                let victim = self.find(who).host();
                self.others(victim).for_each(|other| self.sim.cut(victim, other));
            }
            Fault::CutIn(who) => {
                let victim = self.find(who).host();
                self.others(victim).for_each(|other| self.sim.cut(other, victim));
            }
            Fault::CutTo(who, other) => {
                let victim = self.find(who).host();
                if victim != other {
                    self.sim.cut(victim, other);
                }
            }
            Fault::UnheardJoin => self.unheard_join().await,
            Fault::Mend => self.sim.mend(),
            Fault::CutConnection => drop(self.sim.drop_connection()),
            Fault::SlowDisk(who, max) => self.find(who).slow(max),
            Fault::ClockJump(who, ms) => self.find(who).skew_clock(ms),
            Fault::FullDisk(who) => {
                let (room, machine) = (self.clone(), self.find(who).clone());
                self.state.lock().sick.insert(machine.host());
                self.beside(async move {
                    machine.fill_disk().await;
                    room.sim.env_of(Owner::WORLD).sleep(away).await;
                    room.away(&machine, Duration::from_millis(200), false);
                });
            }
            Fault::FailedSync(who, power) => {
                let (room, machine) = (self.clone(), self.find(who).clone());
                self.state.lock().sick.insert(machine.host());
                self.beside(async move {
                    machine.fail_a_sync().await;
                    room.sim.env_of(Owner::WORLD).sleep(away).await;
                    room.away(&machine, Duration::from_millis(200), power);
                });
            }
        }
    }

    /// Mends everything: links, disks, and what has failed for good is started again. Nodes that only were cut off, paused or slow
    /// have to find back by themselves. What is under way ends first: a node that is stopping would else be gone after the mending.
    pub async fn heal(&self) {
        while self.state.lock().under_way > 0 {
            self.sim.env_of(Owner::WORLD).sleep(LOOK).await;
        }
        self.sim.mend();
        let (sick, rotten) = {
            let mut state = self.state.lock();
            (std::mem::take(&mut state.sick), std::mem::take(&mut state.rotten))
        };
        for machine in self.present() {
            machine.disk().set_faults(Faults::default());
            machine.slow(HEALTHY_DISK);
            if let Some(owner) = machine.owner() {
                self.sim.resume(owner);
            }
            if sick.contains(&machine.host()) || machine.refused().is_some() || machine.disk().has_died() {
                machine.stop(false);
            }
            if machine.owner().is_none() {
                machine.boot();
            }
        }
        for machine in self.present().filter(|machine| rotten.contains(&machine.host())) {
            if self.can_be_spared(machine).await {
                self.wipe(machine);
                machine.boot();
            }
        }
    }

    /// Whether no partition has this node alone to go on with: with its disk the partition would be lost for good, and rightly so. (It
    /// is alone also where a topic is created while the others are away.) A guest's copy does not count: it may go at any time.
    async fn can_be_spared(&self, machine: &Machine) -> bool {
        let node = NodeId(i32::from(machine.host()));
        let guest = NodeId(i32::from(GUEST));
        self.looks_so(|image| {
            let mut partitions = image.topics().flat_map(|topic| &topic.partitions);
            partitions.all(|partition| {
                let others = partition.isr.iter().chain(&partition.elr);
                let mut others = others.filter(|one| **one != node && **one != guest);
                others.next().is_some() || !partition.isr.iter().chain(&partition.elr).any(|one| *one == node)
            })
        })
        .await
    }

    /// Only one replica may have lost what it promised to keep: so all run and are in sync when its bits are flipped, and no other node
    /// fails before it is out of the in-sync sets, and may not lead with what is left of its log.
    async fn rot(&self, who: Who, power: bool, away: Duration) {
        let all_run = |image: &Image| {
            self.present().all(|machine| machine.broker().is_some() && machine.is_registered_in(image))
        };
        let in_sync = |image: &Image| of_topic(image).all(|p| p.isr.len() == p.replicas.len());
        if !self.looks_so(|image| all_run(image) && in_sync(image)).await {
            return;
        }
        let machine = self.find_host(who);
        let node = NodeId(i32::from(machine.host()));
        machine.stop(power);
        machine.rot(1 + self.sim.below(ROTTEN_MAX), |path| {
            path.starts_with(&format!("/data/{TOPIC}-")) && path.ends_with(".log")
        });
        self.state.lock().rotten.insert(machine.host());
        self.away(machine, away, power);
        if !self.looks_so(|image| of_topic(image).all(|p| !p.isr.contains(&node))).await {
            self.wipe(machine);
            self.away(machine, away, false);
        }
    }

    /// Cuts what the controller says to the leader just when the leader asks it for a follower that came back. Comes to nothing where the
    /// leader is the controller: it hears itself.
    async fn unheard_join(&self) {
        let first = |image: &Image| of_topic(image).next().map(|partition| partition.isr.clone());
        let isr = Mutex::new(Vec::new());
        let in_sync = |image: &Image| {
            *isr.lock() = first(image).unwrap_or_default();
            isr.lock().len() == usize::from(NODES)
        };
        if !self.looks_so(in_sync).await {
            return;
        }
        let (leader, controller) = (self.find(Who::Leader), self.find(Who::Controller));
        let node = |machine: &Machine| NodeId(i32::from(machine.host()));
        let is_follower = |machine: &&Machine| {
            machine.host() != controller.host()
                && machine.host() != leader.host()
                && isr.lock().contains(&node(machine))
        };
        let Some(joiner) = self.present().find(is_follower) else { return };
        if leader.host() == controller.host() {
            return;
        }
        let joined = |image: &Image| first(image).is_some_and(|isr| isr.contains(&node(joiner)));
        joiner.stop(false);
        self.looks_so(|image| !joined(image)).await;
        if joiner.owner().is_none() {
            joiner.boot();
        }
        // Once the leader knows that the follower is back, it asks for it at the follower's next fetch.
        let may_join = |image: &Image| image.broker(node(joiner)).is_some_and(|broker| !broker.fenced);
        if !self.until(LOOK / 10, || leader.broker().is_some_and(|broker| may_join(&broker.image()))).await {
            return;
        }
        self.sim.cut_service(controller.host(), leader.host(), CONTROLLERS);
        self.looks_so(joined).await;
        self.sim.cut(leader.host(), joiner.host());
        let was = node(leader);
        self.looks_so(|image| of_topic(image).next().is_none_or(|partition| partition.leader != Some(was)))
            .await;
    }

    /// Waits until what those that run know of the cluster is as `holds` says, for a while.
    async fn looks_so(&self, holds: impl Fn(&Image) -> bool) -> bool {
        self.until(LOOK, || {
            let known = self.present().filter_map(Machine::broker).map(|broker| broker.image());
            known.max_by_key(|image| image.end()).is_some_and(|image| holds(&image))
        })
        .await
    }

    /// Looks whether it `holds`, for a while.
    async fn until(&self, look: Duration, holds: impl Fn() -> bool) -> bool {
        let env = self.sim.env_of(Owner::WORLD);
        let end = env.elapsed() + SETTLED_MAX;
        while env.elapsed() < end {
            if holds() {
                return true;
            }
            env.sleep(look).await;
        }
        false
    }

    /// The node loses power and disk; with its next one it joins as any new node does.
    fn wipe(&self, machine: &Machine) {
        match config(machine.host(), &self.plan, self.others(machine.host())) {
            Ok(config) => machine.wipe(config),
            Err(error) => panic!("the world's config: {error}"),
        }
    }

    /// Stops a node and has it come back.
    fn away(&self, machine: &Machine, away: Duration, power: bool) {
        machine.stop(power);
        self.state.lock().sick.remove(&machine.host());
        let (room, machine) = (self.clone(), machine.clone());
        self.beside(async move {
            room.sim.env_of(Owner::WORLD).sleep(away).await;
            if machine.owner().is_none() && room.is_present(&machine) {
                machine.boot();
            }
        });
    }

    fn beside(&self, work: impl Future<Output = ()> + Send + 'static) {
        let room = self.clone();
        self.state.lock().under_way += 1;
        let counted = async move {
            work.await;
            room.state.lock().under_way -= 1;
        };
        drop(self.sim.env_of(Owner::WORLD).spawn("fault", counted));
    }

    fn others(&self, victim: u16) -> impl Iterator<Item = u16> {
        let present: Vec<u16> = self.present().map(Machine::host).collect();
        present.into_iter().filter(move |number| *number != victim)
    }

    /// As [`Room::find`], but never the guest: with a new disk it would need to be given a vote again.
    fn find_host(&self, who: Who) -> &Machine {
        let found = self.find(who);
        if found.host() == GUEST { &self.machines[0] } else { found }
    }

    fn find(&self, who: Who) -> &Machine {
        let any = || &self.machines[self.sim.below(u64::from(NODES)) as usize];
        let is = |machine: &&Machine| {
            machine.broker().is_some_and(|broker| match who {
                Who::Number(number) => machine.host() == number,
                Who::Controller => broker.is_active_controller(),
                Who::Leader => broker.replicas().iter().any(|replica| {
                    &*replica.at.topic == TOPIC && replica.at.partition == 0 && replica.leads.is_some()
                }),
            })
        };
        self.present().find(is).unwrap_or_else(any)
    }
}

fn of_topic(image: &Image) -> impl Iterator<Item = &Partition> {
    image.topic(TOPIC).into_iter().flat_map(|topic| topic.partitions.iter().map(|partition| &**partition))
}

pub(super) fn host(number: u16) -> String {
    format!("host-{number}")
}

fn config(
    number: u16,
    plan: &Plan,
    known: impl IntoIterator<Item = u16>,
) -> millstream_node::Result<NodeConfig> {
    let mut config = NodeConfig::new("/data");
    let known: Vec<String> =
        known.into_iter().map(|other| format!("{}:{CONTROLLERS}", host(other))).collect();
    let host = host(number);
    let (roles, controllers) = match plan.observed && number == NODES {
        true => ("broker", String::new()),
        false => ("broker,controller", format!(",{CONTROLLER}://{host}:{CONTROLLERS}")),
    };
    for (key, value) in [
        ("node.id", number.to_string()),
        ("process.roles", roles.to_owned()),
        ("listeners", format!("PLAINTEXT://{host}:{CLIENTS}{controllers}")),
        ("controller.listener.names", CONTROLLER.to_owned()),
        ("controller.quorum.bootstrap.servers", known.join(",")),
        ("controller.quorum.auto.join.enable", (number != GUEST).to_string()),
        ("broker.session.timeout.ms", plan.session_ms.to_string()),
        ("broker.heartbeat.interval.ms", (plan.session_ms / 5).to_string()),
        ("leader.imbalance.check.interval.seconds", plan.leaders_s.to_string()),
        ("replica.lag.time.max.ms", plan.lag_ms.to_string()),
        ("replica.socket.timeout.ms", "3000".to_owned()),
        ("replica.fetch.backoff.ms", "100".to_owned()),
        ("default.replication.factor", "3".to_owned()),
        ("min.insync.replicas", "2".to_owned()),
        ("offsets.topic.replication.factor", "3".to_owned()),
        ("offsets.topic.num.partitions", "1".to_owned()),
        ("transaction.state.log.replication.factor", "3".to_owned()),
        ("transaction.state.log.num.partitions", "1".to_owned()),
        ("group.initial.rebalance.delay.ms", "0".to_owned()),
        ("auto.create.topics.enable", "false".to_owned()),
        ("log.roll.ms", plan.roll_ms.to_string()),
        ("log.index.interval.bytes", plan.index_interval_bytes.to_string()),
        ("log.flush.offset.checkpoint.interval.ms", plan.checkpoint_ms.to_string()),
        ("log.retention.check.interval.ms", "1000".to_owned()),
    ] {
        config.set(key, &value)?;
    }
    if let Some((between_snapshots, retention)) = plan.metadata_bytes {
        config.set("metadata.log.max.record.bytes.between.snapshots", &between_snapshots.to_string())?;
        config.set("metadata.max.retention.bytes", &retention.to_string())?;
    }
    if let Some((snapshot_interval, retention)) = plan.metadata_ms {
        config.set("metadata.log.max.snapshot.interval.ms", &snapshot_interval.to_string())?;
        config.set("metadata.max.retention.ms", &retention.to_string())?;
    }
    Ok(config)
}
