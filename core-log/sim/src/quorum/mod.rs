//! Metadata quorums in a simulated world: members on disks of their own, wires between them, proposers, faults, and the rules that
//! what they did must obey.
//!
//! - [`member`]: one member, start after start. [`wires`]: what is between them. [`history`]: what they saw, and the rules.
//!
//! The members are the broker's own code over simulated env and disk; only the network is a shorter one than a broker has,
//! with every message as bytes.

pub mod history;
pub mod member;
pub mod wires;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use millstream_broker::quorum::Bounds;
use millstream_env::Env;
use millstream_machine::metadata::{MetadataLog, ProposeError, Record};
use millstream_protocol::messages::ConfigRecord;
use millstream_record::Offset;
use parking_lot::Mutex;

use crate::disk::{Faults, SimDisk};
use crate::executor::{Owner, Sim, Stuck};
use history::History;
use member::{Member, Setup, founders};
use wires::Wires;

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// Nothing that a healthy quorum has to do takes longer.
const HEALTHY_MAX: Duration = Duration::from_secs(60);
/// A proposer that has no answer by then tries something new: its leader may be cut off.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// The names that proposals write to.
const NAMES: u64 = 16;
/// Faults of one world.
const FAULTS: u64 = 8;
/// A world that is not done after this much virtual time hangs.
const WORLD_MAX: Duration = Duration::from_secs(600);
/// Most records of one proposal.
const RECORDS_MAX: u64 = 5;

/// A world with members that share wires and a history.
#[derive(Clone)]
pub struct QuorumWorld {
    /// The world's executor.
    pub sim: Sim,
    /// The wires.
    pub wires: Wires,
    /// What was seen.
    pub history: Arc<Mutex<History>>,
    members: Arc<Mutex<Vec<Member>>>,
    setup: Setup,
    proposals: Arc<Mutex<u64>>,
}

/// What came of a world with faults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Broken promises; empty when all held.
    pub failures: Vec<String>,
    /// Hash of the run.
    pub trace_hash: u64,
    /// Polls made.
    pub steps: u64,
    /// Proposals that were acknowledged.
    pub acked: usize,
    /// Epochs in which somebody led.
    pub epochs: usize,
    /// Sectors that power losses tore.
    pub torn: u64,
}

impl QuorumWorld {
    /// Members `1..=count` with empty disks; none of them runs.
    pub fn new(sim: &Sim, count: u16, setup: Setup) -> Self {
        let world = Self {
            sim: sim.clone(),
            wires: Wires::new(sim),
            history: Arc::default(),
            members: Arc::default(),
            setup,
            proposals: Arc::default(),
        };
        for number in 1..=count {
            world.add(number, SimDisk::new(sim));
        }
        world
    }

    /// One more member, on `disk`.
    pub fn add(&self, number: u16, disk: SimDisk) -> Member {
        let member = Member::new(&self.sim, &self.wires, &self.history, number, disk, self.setup.clone());
        self.members.lock().push(member.clone());
        member
    }

    /// The member called `number`.
    ///
    /// # Panics
    /// When there is none.
    pub fn member(&self, number: u16) -> Member {
        self.members
            .lock()
            .iter()
            .find(|member| member.number == number)
            .expect("a member of this world")
            .clone()
    }

    /// Every member.
    pub fn members(&self) -> Vec<Member> {
        self.members.lock().clone()
    }

    /// Starts the members called `numbers` as the founders of a quorum.
    pub fn found(&self, numbers: impl IntoIterator<Item = u16> + Clone) {
        for number in numbers.clone() {
            self.member(number).boot(founders(numbers.clone()));
        }
    }

    /// The env of the test itself.
    pub fn env(&self) -> Env {
        self.sim.env_of(Owner::WORLD)
    }

    /// Who says that it leads, newest epoch first.
    pub fn leader(&self) -> Option<Member> {
        let mut leaders = Vec::new();
        for member in self.members() {
            let Some(quorum) = member.quorum() else { continue };
            let (epoch, leads) = quorum.leadership();
            if leads {
                self.history.lock().leads(member.number, epoch);
                leaders.push((epoch, member));
            }
        }
        leaders.into_iter().max_by_key(|(epoch, _)| *epoch).map(|(_, member)| member)
    }

    /// Waits for a leader.
    ///
    /// # Errors
    /// When there is none within the time that a healthy quorum needs.
    pub async fn wait_for_leader(&self) -> Result<Member, String> {
        self.until("there is no leader", || self.leader().is_some()).await?;
        self.leader().ok_or_else(|| "the leader is gone again".to_owned())
    }

    /// Waits for `condition`.
    ///
    /// # Errors
    /// `what`, when it takes too long.
    pub async fn until(&self, what: &str, condition: impl Fn() -> bool) -> Result<(), String> {
        let (env, end) = (self.env(), self.sim.elapsed() + HEALTHY_MAX);
        while !condition() {
            if self.sim.elapsed() > end {
                let failed: Vec<_> =
                    self.members().iter().map(|m| (m.number, m.failed(), m.image().end())).collect();
                return Err(format!("{what} after {HEALTHY_MAX:?}; members: {failed:?}"));
            }
            env.sleep(LOOK).await;
        }
        Ok(())
    }

    /// Proposes one batch to whoever leads; all its records have one value that no other proposal has.
    pub async fn propose(&self) -> Option<Result<Offset, ProposeError>> {
        let leader = self.leader()?;
        let quorum = leader.quorum()?;
        let number = {
            let mut proposals = self.proposals.lock();
            *proposals += 1;
            *proposals
        };
        let value = format!("proposal {number}");
        let records = (0..=self.sim.below(RECORDS_MAX)).map(|_| {
            Record::Config(ConfigRecord {
                resource_type: 4,
                name: format!("name {}", self.sim.below(NAMES)).into(),
                value: Some(value.as_str().into()),
                ..ConfigRecord::default()
            })
        });
        let (epoch, _) = quorum.leadership();
        let proposed = quorum.propose(epoch, records.collect());
        drop(quorum);
        let answer = self.env().timeout(ANSWER_MAX, proposed).await.ok()?;
        self.history.lock().answered(&value, &answer);
        self.sim.note("proposed", number);
        Some(answer)
    }

    /// Proposes until `count` batches more are acknowledged.
    ///
    /// # Errors
    /// When that takes longer than a healthy quorum needs.
    pub async fn propose_many(&self, count: usize) -> Result<(), String> {
        let (env, goal) = (self.env(), self.history.lock().acked() + count);
        let end = self.sim.elapsed() + HEALTHY_MAX;
        while self.history.lock().acked() < goal {
            if self.sim.elapsed() > end {
                return Err(format!(
                    "only {} of {goal} proposals are acknowledged",
                    self.history.lock().acked()
                ));
            }
            if !matches!(self.propose().await, Some(Ok(_))) {
                env.sleep(LOOK).await;
            }
        }
        Ok(())
    }

    /// Waits until every running member has read all that is committed, and compares what it made of it.
    ///
    /// # Errors
    /// When one does not get there, or has something else.
    pub async fn agree(&self) -> Result<(), String> {
        self.propose_many(1).await?;
        let leader = self.wait_for_leader().await?;
        let end = leader.quorum().map(|quorum| quorum.committed_end()).unwrap_or_default();
        let running = || self.members().into_iter().filter(Member::is_running);
        self.until("not every member has read all", || running().all(|member| member.image().end() >= end))
            .await?;
        let image = leader.image();
        let differs = |member: &Member| member.image().end() == image.end() && member.image() != image;
        match running().find(differs) {
            Some(member) => {
                Err(format!("members {} and {} made different images", leader.number, member.number))
            }
            None => Ok(()),
        }
    }

    /// Runs `main`, the world's story, to its end, and judges what the world did.
    pub fn judge(self, main: impl Future<Output = Result<(), String>> + Send + 'static) -> Verdict {
        let sim = self.sim.clone();
        let failures = match sim.run(WORLD_MAX, main) {
            Ok(Ok(())) => Vec::new(),
            Ok(Err(broken)) => vec![broken],
            Err(stuck @ (Stuck::Deadlock | Stuck::TimeUp | Stuck::Spinning(_))) => {
                vec![format!("stuck: {stuck:?}")]
            }
        };
        let history = self.history.lock();
        let verdict = Verdict {
            failures: failures.into_iter().chain(history.check()).collect(),
            trace_hash: sim.trace_hash(),
            steps: sim.steps(),
            acked: history.acked(),
            epochs: history.epochs(),
            torn: self.members().iter().map(|member| member.disk().injected().torn).sum(),
        };
        drop(history);
        for member in self.members() {
            member.stop(false);
        }
        sim.shut_down();
        verdict
    }

    /// A quorum of three under proposals and faults, all from `seed`.
    pub fn chaos(seed: u64, trace: bool) -> Verdict {
        let sim = Sim::new(seed, trace);
        let bounds = match sim.below(3) {
            0 => Bounds::NONE,
            1 => Bounds {
                between_snapshots: 512 + sim.below(4_096),
                retention: sim.below(16_384),
                ..Bounds::NONE
            },
            _ => Bounds {
                snapshot_interval: Duration::from_millis(200 + sim.below(3_000)),
                retention_age: Duration::from_millis(sim.below(3_000)),
                ..Bounds::NONE
            },
        };
        let (snapshot_after, keep) = (40 + sim.below(80), sim.below(20));
        let setup = Setup { snapshot_after, keep, bounds, ..Setup::default() };
        let world = Self::new(&sim, 3, setup);
        world.found(1..=3);
        let story = world.clone();
        world.judge(async move {
            let (proposing, env) = (story.clone(), story.env());
            let proposer = env.spawn("proposer", async move {
                loop {
                    let _ = proposing.propose().await;
                    proposing.env().sleep(Duration::from_millis(proposing.sim.below(40))).await;
                }
            });
            for _ in 0..FAULTS {
                env.sleep(Duration::from_millis(300 + story.sim.below(1_500))).await;
                story.suffer().await;
            }
            story.wires.mend();
            for member in story.members() {
                if !member.is_running() || member.failed().is_some() {
                    member.stop(false);
                    member.boot(founders(1..=3));
                }
            }
            proposer.abort();
            story.agree().await
        })
    }

    async fn suffer(&self) {
        let victim = self.victim();
        let numbers = || self.members().into_iter().map(|member| member.number);
        let fault = self.sim.below(8);
        self.sim.note("fault", fault);
        match fault {
            0 => self.restart(&victim, false).await,
            1 => self.restart(&victim, true).await,
            2 => victim.pause(Duration::from_millis(self.sim.below(2_000))).await,
            3 => {
                for other in numbers().filter(|number| *number != victim.number) {
                    self.wires.cut(victim.number, other);
                    self.wires.cut(other, victim.number);
                }
            }
            4 => numbers()
                .filter(|number| *number != victim.number)
                .for_each(|to| self.wires.cut(victim.number, to)),
            5 => {
                victim.disk().set_faults(Faults { sync_error: true, ..Faults::default() });
                self.env().sleep(Duration::from_millis(500)).await;
                self.restart(&victim, true).await;
            }
            6 => victim.slow_disk(Duration::from_millis(50 + self.sim.below(400))),
            _ => {
                // The power of the whole room: only what was synced is left anywhere.
                self.members().iter().for_each(|member| member.stop(true));
                self.env().sleep(Duration::from_millis(self.sim.below(500))).await;
                self.members().iter().for_each(|member| member.boot(founders(1..=3)));
            }
        }
        if self.sim.below(2) == 0 {
            self.wires.mend();
        }
    }

    /// Half of the time the leader.
    fn victim(&self) -> Member {
        let members = self.members();
        let any = members[self.sim.below(members.len() as u64) as usize].clone();
        if self.sim.below(2) == 0 { self.leader().unwrap_or(any) } else { any }
    }

    async fn restart(&self, member: &Member, power: bool) {
        member.stop(power);
        self.env().sleep(Duration::from_millis(self.sim.below(1_500))).await;
        member.boot(founders(1..=3));
    }
}
