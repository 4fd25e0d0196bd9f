//! Members of one consumer group: they read, commit, ask for what is committed, leave and come back. Some stand still for longer than
//! their session, and then commit what they read before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millstream_client::assignor::{
    Assignments, Assignor, CooperativeStickyAssignor, MemberAssignment, Members, RangeAssignor,
    RebalanceProtocol,
};
use millstream_client::{ClientError, Consumer, ConsumerConfig, OffsetAndMetadata, OffsetReset, Offsets};
use millstream_env::Env;
use millstream_record::TopicPartition;
use parking_lot::Mutex;

use super::{GARBLED, Scene, TOPIC, value_of};
use crate::executor::Owner;
use crate::history::{History, Partition};

/// Name of the group.
pub const GROUP: &str = "g";
const POLL: Duration = Duration::from_millis(300);
/// `session.timeout.ms`
const SESSION_MS: u64 = 6_000;
/// One commit in so many is made by a member that stood still before.
const STANDS_STILL_ONE_IN: u64 = 6;
/// For so long at most, behind the end of its session.
const STANDS_STILL_MAX_MS: u64 = 4_000;

/// How members work.
#[derive(Clone, Copy, Debug, Default)]
pub struct Habits {
    /// Now and then one stands still for longer than its session.
    pub stand_still: bool,
    /// They give partitions away one by one (KIP-429).
    pub cooperative: bool,
}

/// An assignor that notes what this member is assigned.
#[derive(Debug)]
struct Noting {
    inner: Arc<dyn Assignor>,
    history: Arc<Mutex<History>>,
    member: u64,
    /// What was committed in partitions when they were assigned, until something of them is read.
    floors: Arc<Mutex<BTreeMap<Partition, i64>>>,
}

impl Assignor for Noting {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn protocol(&self) -> RebalanceProtocol {
        self.inner.protocol()
    }

    fn user_data(&self, topics: &BTreeSet<Arc<str>>, generation: i32) -> Option<Bytes> {
        self.inner.user_data(topics, generation)
    }

    fn assign(
        &self,
        partitions: &BTreeMap<Arc<str>, i32>,
        members: &Members,
    ) -> Result<Assignments, ClientError> {
        self.inner.assign(partitions, members)
    }

    fn assigned(&self, assignment: &MemberAssignment, generation: i32) {
        self.inner.assigned(assignment, generation);
        let numbers: Vec<Partition> =
            assignment.partitions.iter().map(|at| at.partition as Partition).collect();
        let mut history = self.history.lock();
        *self.floors.lock() = numbers.iter().map(|number| (*number, history.floor(GROUP, *number))).collect();
        history.assigned(GROUP, generation, self.member, numbers);
    }
}

/// One life of a member.
struct Member<'a> {
    scene: &'a Scene,
    env: &'a Env,
    process: Owner,
    partitions: u32,
    habits: Habits,
    consumer: Consumer,
    floors: Arc<Mutex<BTreeMap<Partition, i64>>>,
}

/// One member, until the scene is over.
pub async fn member(scene: Scene, partitions: u32, habits: Habits) {
    let (process, env, client) = scene.client_process("member");
    let mut life = 0;
    while !scene.is_over() {
        life += 1;
        let floors = Arc::new(Mutex::new(BTreeMap::new()));
        let noting = Noting {
            inner: match habits.cooperative {
                true => Arc::new(CooperativeStickyAssignor),
                false => Arc::new(RangeAssignor),
            },
            history: Arc::clone(&scene.history),
            // No draw, and no number that others would have had.
            member: process.0 * 1_000 + life,
            floors: Arc::clone(&floors),
        };
        let config = ConsumerConfig {
            auto_offset_reset: OffsetReset::Earliest,
            session_timeout_ms: SESSION_MS as i32,
            assignors: vec![Arc::new(noting)],
            heartbeat_interval_ms: 500,
            rebalance_timeout_ms: 5_000,
            ..ConsumerConfig::group(GROUP)
        };
        let consumer = match client.consumer(config) {
            Ok(consumer) => consumer,
            Err(error) => panic!("the workload's consumer config is wrong: {error}"),
        };
        let mut member = Member { scene: &scene, env: &env, process, partitions, habits, consumer, floors };
        if member.consumer.subscribe([TOPIC], None).is_ok() {
            while !scene.is_over() && scene.sim.below(40) != 0 {
                if !member.work().await {
                    scene.dither(&env, 300).await;
                }
            }
        }
        if scene.sim.below(2) == 0 {
            let _ = env.timeout(Duration::from_secs(5), member.consumer.close()).await; // a member may also vanish without a word
        }
        scene.dither(&env, 1_000).await;
    }
}

impl Member<'_> {
    async fn work(&mut self) -> bool {
        let Ok(batches) = self.consumer.poll(POLL).await else { return false };
        let mut positions = BTreeMap::new();
        for batch in &batches {
            let partition = batch.topic_partition.partition as Partition;
            let mut history = self.scene.history.lock();
            if let (Some(first), Some(floor)) = (batch.records.first(), self.floors.lock().remove(&partition))
            {
                history.took_up(GROUP, partition, floor, first.offset.0);
            }
            for record in &batch.records {
                let value = record.value.as_deref().and_then(value_of).unwrap_or(GARBLED);
                history.read(partition, record.offset.0, value, false);
            }
            positions.insert(batch.topic_partition.clone(), OffsetAndMetadata::new(batch.next_offset));
        }
        if !positions.is_empty() && self.scene.sim.below(3) != 0 {
            self.commit(&positions).await;
        }
        if self.scene.sim.below(8) == 0 {
            self.ask().await;
        }
        self.scene.dither(self.env, 100).await;
        true
    }

    async fn commit(&mut self, positions: &Offsets) {
        if self.habits.stand_still && self.scene.sim.below(STANDS_STILL_ONE_IN) == 0 {
            self.stand_still().await;
        }
        let generation = self.consumer.group_metadata().generation_id;
        let newest = self.scene.history.lock().generation(GROUP);
        let accepted = self.consumer.commit(positions).await.is_ok();
        let mut history = self.scene.history.lock();
        history.commit_judged(GROUP, generation, newest, accepted);
        if accepted {
            for (partition, at) in positions {
                history.committed(GROUP, partition.partition as Partition, at.offset.0);
            }
        }
    }

    /// Nothing of its process runs for longer than its session, as under SIGSTOP: others are given its partitions, and it does not know.
    async fn stand_still(&mut self) {
        let sim = &self.scene.sim;
        sim.pause(self.process);
        let length = Duration::from_millis(SESSION_MS + sim.below(STANDS_STILL_MAX_MS));
        sim.env_of(Owner::WORLD).sleep(length).await;
        sim.resume(self.process);
    }

    async fn ask(&mut self) {
        let (scene, partitions) = (self.scene, self.partitions);
        let all: Vec<TopicPartition> =
            (0..partitions as i32).map(|p| TopicPartition::new(TOPIC, p)).collect();
        let floors: Vec<i64> = (0..partitions).map(|p| scene.history.lock().floor(GROUP, p)).collect();
        let Ok(answer) = self.consumer.committed(&all).await else { return };
        let mut history = scene.history.lock();
        for (at, partition) in all.iter().enumerate() {
            let offset = answer.get(partition).map_or(-1, |known| known.offset.0);
            history.answered(GROUP, at as Partition, floors[at], offset);
        }
    }
}
