//! One world: a machine, its clients and its misfortunes, from a seed to a verdict.

use std::collections::BTreeMap;
use std::time::Duration;

use millstream_client::{IsolationLevel, NewTopic};
use millstream_env::Env;
use millstream_node::NodeConfig;

use crate::executor::{Owner, Sim};
use crate::machine::{ADDRESS, Machine};
use crate::plan::Plan;
use crate::random::Random;
use crate::workload::{SHORT, Scene, TOPIC, reader};

/// A world that is not done after this much virtual time hangs.
const WORLD_MAX: Duration = Duration::from_secs(1_800);

/// What came of one world.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Broken promises, as text; empty when all held.
    pub failures: Vec<String>,
    /// Hash of the run.
    pub trace_hash: u64,
    /// How long it lasted inside.
    pub virtual_time: Duration,
    /// Polls made.
    pub steps: u64,
    /// What happened how often.
    pub counts: BTreeMap<&'static str, u64>,
}

/// A world to be run.
pub struct World {
    sim: Sim,
    plan: Plan,
    scene: Scene,
    machine: Machine,
}

impl World {
    /// Runs the world of a seed to its end.
    pub fn run(seed: u64, trace: bool) -> Outcome {
        let sim = Sim::new(seed, trace);
        let plan = Plan::of(&mut Random::new(seed ^ 0x0070_6c61_6e00));
        let config = match node_config(&plan) {
            Ok(config) => config,
            Err(error) => {
                return Outcome {
                    failures: vec![format!("the world's config: {error}")],
                    ..Outcome::default()
                };
            }
        };
        let world =
            Self { scene: Scene::new(&sim), machine: Machine::new(&sim, config), plan, sim: sim.clone() };
        let (scene, machine) = (world.scene.clone(), world.machine.clone());
        let failures = match sim.run(WORLD_MAX, world.live()) {
            Ok(failures) => failures,
            Err(stuck) => vec![format!("the world is stuck: {stuck:?}")],
        };
        let did = scene.history.lock().counts();
        let injected = machine.disk().injected();
        let outcome = Outcome {
            failures,
            trace_hash: sim.trace_hash(),
            virtual_time: sim.elapsed(),
            steps: sim.steps(),
            counts: BTreeMap::from([
                ("records sent", did.sent),
                ("records acknowledged", did.acked),
                ("records read", did.reads),
                ("transactions committed", did.committed),
                ("transactions aborted", did.aborted),
                ("group offset commits", did.offset_commits),
                ("searches", did.searches),
                ("node starts", machine.restarts()),
                ("clean stops", machine.clean_stops()),
                ("power losses", injected.power_losses),
                ("sectors torn", injected.torn),
                ("names undone", injected.names_undone),
                ("failed syncs", injected.sync_errors),
                ("failed reads", injected.read_errors),
                ("writes to a full disk", injected.full),
                ("bits flipped", injected.flips),
            ]),
        };
        sim.shut_down();
        outcome
    }

    async fn live(self) -> Vec<String> {
        self.machine.boot();
        if let Err(error) = self.create_topics().await {
            return vec![error];
        }
        let env = self.sim.env_of(Owner::WORLD);
        let work = self.plan.cast().start(&self.scene, &env);
        for (wait, fault) in self.plan.faults.clone() {
            env.sleep(wait).await;
            self.machine.suffer(fault).await;
        }
        if let Some(refused) = self.settle(&env).await {
            return vec![refused];
        }
        if let Err(slow) = work.finish(&self.scene, &env).await {
            return vec![slow];
        }
        self.judge().await
    }

    async fn create_topics(&self) -> Result<(), String> {
        let (_env, client) = self.scene.client("setup");
        let topics = [
            NewTopic::new(TOPIC, self.plan.partitions as i32),
            NewTopic::new(SHORT.0, 1).with_config("retention.ms", "600").with_config("segment.ms", "200"),
        ];
        let failed = |error| format!("the world's topics cannot be created: {error}");
        let created = client.admin().create_topics(&topics).await.map_err(failed)?;
        created.into_values().collect::<Result<Vec<_>, _>>().map(drop).map_err(failed)
    }

    /// Mends everything: a last restart, and the node has to come up.
    async fn settle(&self, env: &Env) -> Option<String> {
        self.machine.stop(self.sim.below(2) == 0);
        self.machine.boot();
        self.wait_up(env).await
    }

    async fn wait_up(&self, env: &Env) -> Option<String> {
        for _ in 0..3_000 {
            if self.machine.is_up() {
                return None;
            }
            if let Some(refused) = self.machine.refused() {
                return Some(format!("the node does not start on a healthy disk: {refused}"));
            }
            env.sleep(Duration::from_millis(20)).await;
        }
        Some("the node did not start within a minute".to_owned())
    }

    async fn judge(&self) -> Vec<String> {
        let cast = self.plan.cast();
        let mut breaches = match cast.judge(&self.scene).await {
            Ok(breaches) => breaches,
            Err(error) => return vec![error],
        };
        if self.plan.flip_bits > 0 {
            let env = self.sim.env_of(Owner::WORLD);
            self.machine.stop(false);
            for _ in 0..self.plan.flip_bits {
                let topic = format!("/{TOPIC}-");
                self.machine.disk().flip_bit(|path| {
                    let path = path.to_string_lossy();
                    path.contains(&topic) && path.ends_with(".log")
                });
            }
            self.machine.boot();
            // A node that refuses to start on a rotten disk says so; that is one of the right answers.
            if self.wait_up(&env).await.is_none() {
                let after =
                    reader::read_all(&self.scene, &cast.numbered(), IsolationLevel::ReadUncommitted, true)
                        .await;
                breaches.extend(self.scene.history.lock().check_after_rot(&after.unwrap_or_default()));
            }
        }
        breaches.iter().map(ToString::to_string).collect()
    }
}

fn node_config(plan: &Plan) -> millstream_node::Result<NodeConfig> {
    let mut config = NodeConfig::new("/data");
    let listener = format!("PLAINTEXT://{}:{}", ADDRESS.0, ADDRESS.1);
    let roll_ms = plan.roll_ms.to_string();
    let index_interval_bytes = plan.index_interval_bytes.to_string();
    let checkpoint_ms = plan.checkpoint_ms.to_string();
    for (key, value) in [
        ("listeners", listener.as_str()),
        ("log.roll.ms", roll_ms.as_str()),
        ("log.index.interval.bytes", index_interval_bytes.as_str()),
        ("log.flush.offset.checkpoint.interval.ms", checkpoint_ms.as_str()),
        ("offsets.topic.num.partitions", "1"),
        ("transaction.state.log.num.partitions", "1"),
        ("group.initial.rebalance.delay.ms", "0"),
        ("auto.create.topics.enable", "false"),
        ("log.retention.check.interval.ms", "300"),
    ] {
        config.set(key, value)?;
    }
    Ok(config)
}
