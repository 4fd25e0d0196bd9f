//! Clusters in a simulated world: three whole nodes on machines, disks and addresses of their own, clients, and misfortunes.
//!
//! - [`plan`]: what a seed decides beforehand. [`room`]: the machines and what happens to them. [`guest`]: a node that comes, and may
//!   go. [`watch`]: what must hold inside of the nodes, beside the clients' [`crate::history`].
//!
//! A world forms its cluster, works under faults, heals, and has to be whole again within a bound: every replica in sync, every
//! partition written and read.

pub mod guest;
pub mod plan;
pub mod room;
pub mod watch;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::future::{join, join_all};
use millstream_broker::ReplicaView;
use millstream_client::NewTopic;
use millstream_env::Env;
use parking_lot::Mutex;

use crate::executor::{Owner, Sim};
use crate::workload::producer::{Only, Promise};
use crate::workload::{SHORT, Scene, TOPIC, producer, rolling};
use crate::world::Outcome;
use plan::Plan;
use room::Room;
use watch::Watch;

/// A world that is not done after this much virtual time hangs.
const WORLD_MAX: Duration = Duration::from_secs(1_800);
/// A cluster has to form within this.
const FORMED_MAX: Duration = Duration::from_secs(60);
/// After the last fault was mended a node that comes, and may go, has to have done so within this: each step may be at the end of a
/// client's patience.
const RECEIVED_MAX: Duration = Duration::from_secs(300);
/// After the last fault was mended the cluster has to be whole within this.
const WHOLE_MAX: Duration = Duration::from_secs(60);
/// How often the nodes are looked into.
const LOOK: Duration = Duration::from_millis(150);
/// How often a condition is looked at.
const GLANCE: Duration = Duration::from_millis(50);
/// A topic to which nobody writes: whoever leads it hears of its followers only if it asks.
const QUIET: &str = "quiet";
/// Records that are sent to each partition to show that it can be written.
const PROBES: u64 = 2;

/// A world to be run.
#[derive(Clone)]
pub struct ClusterWorld {
    sim: Sim,
    plan: Plan,
    scene: Scene,
    room: Room,
    watch: Arc<Mutex<Watch>>,
    /// Nodes that were restarted in order.
    rolled: Arc<AtomicU64>,
}

impl ClusterWorld {
    /// Runs the world of a seed to its end.
    pub fn run(seed: u64, trace: bool) -> Outcome {
        let sim = Sim::new(seed, trace);
        let plan = Plan::of_seed(seed);
        if trace {
            tracing::info!(?plan, "the world's plan");
        }
        let room = match Room::new(&sim, &plan) {
            Ok(room) => room,
            Err(error) => {
                let failures = vec![format!("the world's config: {error}")];
                return Outcome { failures, ..Outcome::default() };
            }
        };
        let mut scene = Scene::with_brokers(&sim, Room::bootstrap());
        scene.rest_max_ms = plan.rest_max_ms;
        let world =
            Self { sim: sim.clone(), plan, scene, room, watch: Arc::default(), rolled: Arc::default() };
        let story = world.clone();
        let mut failures = match sim.run(WORLD_MAX, async move { story.live().await }) {
            Ok(failures) => failures,
            Err(stuck) => vec![format!("the world is stuck: {stuck:?}")],
        };
        failures.extend(world.watch.lock().breaches());
        let outcome = Outcome {
            failures,
            trace_hash: sim.trace_hash(),
            virtual_time: sim.elapsed(),
            steps: sim.steps(),
            counts: world.counts(),
        };
        sim.shut_down();
        outcome
    }

    fn counts(&self) -> BTreeMap<&'static str, u64> {
        let did = self.scene.history.lock().counts();
        let mut counts = self.room.injected();
        let sum =
            |count: &dyn Fn(&crate::machine::Machine) -> u64| self.room.machines().iter().map(count).sum();
        counts.extend([
            ("records sent", did.sent),
            ("records acknowledged", did.acked),
            ("records read", did.reads),
            ("group offset commits", did.offset_commits),
            ("group assignments", did.assignments),
            ("commits of an older generation refused", did.fenced_commits),
            ("settings changed", did.settings_changed),
            ("nodes restarted in order", self.rolled.load(Ordering::Relaxed)),
            ("searches", did.searches),
            ("transactions committed", did.committed),
            ("transactions aborted", did.aborted),
            ("node starts", sum(&|machine| machine.restarts())),
            ("clean stops", sum(&|machine| machine.clean_stops())),
            ("sectors torn", sum(&|machine| machine.disk().injected().torn)),
            ("names undone", sum(&|machine| machine.disk().injected().names_undone)),
            ("leader epochs", self.watch.lock().epochs()),
        ]);
        counts
    }

    async fn live(self) -> Vec<String> {
        let env = self.sim.env_of(Owner::WORLD);
        self.room.boot();
        if let Err(broken) = self.form(&env).await {
            return vec![broken];
        }
        let watching = self.clone();
        let watcher = env.spawn("watch", async move {
            loop {
                watching.watch.lock().look(watching.room.machines());
                watching.sim.env_of(Owner::WORLD).sleep(LOOK).await;
            }
        });
        let work = self.plan.cast().start(&self.scene, &env);
        let guest = self.plan.guest.map(|guest| env.spawn("guest", self.clone().receive(guest)));
        for strike in self.plan.strikes.clone() {
            env.sleep(strike.wait).await;
            self.room.suffer(strike).await;
        }
        self.room.heal().await;
        if let Some(guest) = guest
            && env.timeout(RECEIVED_MAX, guest.join()).await.is_err()
        {
            return vec![format!("the fourth node has not come, or not gone, within {RECEIVED_MAX:?}")];
        }
        if let Err(broken) = self.become_whole(&env).await {
            return vec![broken];
        }
        if self.plan.rolls
            && let Err(broken) = self.roll(&env).await
        {
            return vec![broken];
        }
        if let Err(slow) = work.finish(&self.scene, &env).await {
            return vec![slow];
        }
        let judged = self.plan.cast().judge(&self.scene).await;
        watcher.abort();
        match judged {
            Ok(breaches) if breaches.is_empty() => self.compare(&env).await,
            Ok(breaches) => breaches.iter().map(ToString::to_string).collect(),
            Err(error) => vec![error],
        }
    }

    /// Waits for three brokers, and makes the topics.
    async fn form(&self, env: &Env) -> Result<(), String> {
        let (_, client) = self.scene.client("setup");
        let end = env.elapsed() + FORMED_MAX;
        while client.admin().describe_cluster().await.map_or(0, |cluster| cluster.brokers.len())
            < self.room.present().count()
        {
            if let Some(why) = self.room.machines().iter().find_map(crate::machine::Machine::refused) {
                return Err(format!("a node does not start: {why}"));
            }
            if env.elapsed() > end {
                return Err(format!("the cluster does not form within {FORMED_MAX:?}"));
            }
            env.sleep(GLANCE).await;
        }
        let mut topics = vec![NewTopic::new(TOPIC, self.plan.partitions as i32), NewTopic::new(QUIET, 1)];
        if self.plan.retention {
            let short = NewTopic::new(SHORT.0, 1);
            topics.push(short.with_config("retention.ms", "1500").with_config("segment.ms", "300"));
        }
        // A broker may be known a moment before it may be given replicas.
        for topic in topics {
            while let Err(error) = client.admin().ensure_topic(topic.clone()).await {
                if env.elapsed() > end {
                    return Err(format!("the world's topics cannot be created: {error}"));
                }
                env.sleep(GLANCE).await;
            }
        }
        Ok(())
    }

    /// Waits until every node runs and every replica is in sync, and every partition takes records.
    async fn become_whole(&self, env: &Env) -> Result<(), String> {
        let end = env.elapsed() + WHOLE_MAX;
        self.until(env, WHOLE_MAX, || self.lacks()).await?;
        let probes = self.plan.cast().numbered().into_iter().map(|(at, number)| {
            let topic = if number == SHORT.1 { SHORT.0 } else { TOPIC };
            let only = Only { topic, partition: number, index: at.partition, rests: false };
            let probe = producer::produce(self.scene.clone(), Promise::Durable, 1, PROBES, Some(only));
            env.timeout(end.saturating_sub(env.elapsed()), probe)
        });
        let probed = join_all(probes).await;
        if probed.iter().any(Result::is_err) {
            return Err(format!("some partition does not take records {WHOLE_MAX:?} after all was mended"));
        }
        Ok(())
    }

    /// Restarts all nodes in order, each once the one before is in sync again, under load: no acknowledged write fails.
    async fn roll(&self, env: &Env) -> Result<(), String> {
        let over = Arc::new(AtomicBool::new(false));
        let load = rolling::load(self.scene.clone(), self.plan.partitions, Arc::clone(&over));
        let restarts = async {
            let restarted = self.restart_in_order(env).await;
            over.store(true, Ordering::Relaxed);
            restarted
        };
        let (restarted, written) = join(restarts, load).await;
        restarted.and(written)
    }

    async fn restart_in_order(&self, env: &Env) -> Result<(), String> {
        for machine in self.room.present() {
            self.room.restart_in_order(machine).await?;
            let whole = self.until(env, WHOLE_MAX, || self.lacks()).await;
            whole.map_err(|why| format!("node {} was restarted in order, and {why}", machine.host()))?;
            self.rolled.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// What is missing from a whole cluster.
    fn lacks(&self) -> Result<(), String> {
        let present = self.room.present().count();
        for machine in self.room.present() {
            let number = machine.host();
            if let Some(refused) = machine.refused() {
                return Err(format!("node {number} does not start on a healthy disk: {refused}"));
            }
            let Some(broker) = machine.broker() else { return Err(format!("node {number} does not start")) };
            let image = broker.image();
            let fenced: Vec<_> =
                image.brokers().filter(|broker| broker.fenced).map(|broker| broker.id).collect();
            if !fenced.is_empty() || image.brokers().count() != present {
                let known = image.brokers().count();
                return Err(format!("node {number} knows {known} brokers, of which {fenced:?} are fenced"));
            }
            for topic in image.topics() {
                for (partition, index) in topic.partitions.iter().zip(0..) {
                    if partition.leader.is_none() || partition.isr.len() < partition.replicas.len() {
                        return Err(format!(
                            "to node {number} {}-{index} has the leader {:?} and the in-sync set {:?} of {:?}; eligible {:?}",
                            topic.name, partition.leader, partition.isr, partition.replicas, partition.elr
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    /// Waits until `holds` gives no reason against it; gives the last reason when it takes longer than `patience`.
    async fn until(
        &self,
        env: &Env,
        patience: Duration,
        holds: impl Fn() -> Result<(), String> + Send,
    ) -> Result<(), String> {
        let end = env.elapsed() + patience;
        while let Err(why) = holds() {
            if env.elapsed() > end {
                return Err(format!("after {patience:?}: {why}"));
            }
            env.sleep(GLANCE).await;
        }
        Ok(())
    }

    /// Waits until all replicas have all of it, stops the nodes and compares their bytes.
    async fn compare(&self, env: &Env) -> Vec<String> {
        if let Err(why) = self.until(env, WHOLE_MAX, || self.lacks().and_then(|()| self.level())).await {
            return vec![why];
        }
        let leaders = self.views().into_iter().filter(|view| view.leads.is_some()).collect::<Vec<_>>();
        self.room.machines().iter().for_each(|machine| machine.stop(false));
        self.watch.lock().compare(self.room.machines(), &leaders);
        Vec::new()
    }

    fn views(&self) -> Vec<ReplicaView> {
        self.room.present().filter_map(|m| m.broker()).flat_map(|broker| broker.replicas()).collect()
    }

    /// Whether every replica ends where its leader's mark is.
    fn level(&self) -> Result<(), String> {
        let views = self.views();
        for leader in views.iter().filter(|view| view.leads.is_some()) {
            let same = |view: &&ReplicaView| view.topic_id == leader.topic_id && view.at == leader.at;
            // All replicas are in sync. There may be fewer than nodes: an operator's move that was sent again may have taken effect a
            // second time after all was put back.
            if views.iter().filter(same).count() < leader.leads.as_ref().map_or(0, Vec::len) {
                return Err(format!("not every replica of {} is there", leader.at));
            }
            for view in views.iter().filter(same) {
                if view.end != leader.high_watermark || view.durable_end != leader.high_watermark {
                    return Err(format!("a replica does not come up to its leader: {view:?}, {leader:?}"));
                }
            }
        }
        Ok(())
    }
}
