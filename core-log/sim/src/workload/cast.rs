//! Who works in a world: the same for one node and for several.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use millstream_client::IsolationLevel;
use millstream_env::Env;
use millstream_record::TopicPartition;

use super::group::Habits;
use super::producer::{self, Only, Promise};
use super::settings::Bounds;
use super::{SHORT, Scene, TOPIC, counting, group, operator, reader, settings, topics, transactional};
use crate::history::{Breach, Partition};

/// After the last fault was mended, every client has to be done within this: some were at the end of their patience then.
const HEALED_MAX: Duration = Duration::from_secs(400);
/// What an operator does before everything is put back.
const MOVES: u64 = 6;
/// What is changed in settings before everything is put back.
const CHANGES: u64 = 8;

/// How many of each kind there are, and what they do.
#[derive(Clone, Debug, Default)]
pub struct Cast {
    /// Partitions of the topic that everybody writes to.
    pub partitions: u32,
    /// Records that each producer sends.
    pub records: u64,
    /// Idempotent producers with acks=all.
    pub idempotent: u32,
    /// Producers with acks=1.
    pub unsafe_producers: u32,
    /// Transactional producers, and a follower that reads what is committed.
    pub transactional: Option<u32>,
    /// Whether a transactional producer beside them uses sequence numbers again, of what it was told is not written.
    pub counting: bool,
    /// Whether somebody writes to the topic with short retention, and rests until nothing of it is left.
    pub short: Option<bool>,
    /// Whether topics come and go beside.
    pub topic_changes: bool,
    /// An operator who moves replicas and leaders between so many nodes.
    pub operated: Option<u16>,
    /// Readers that search.
    pub wanderers: u32,
    /// Members of the group.
    pub members: u32,
    /// How they work.
    pub habits: Habits,
    /// Somebody who changes settings of topics within these bounds.
    pub settings: Option<Bounds>,
}

/// The workloads of a world, under way.
pub struct Work {
    working: BoxFuture<'static, ()>,
    endless: BoxFuture<'static, ()>,
}

impl Cast {
    /// Sets them to work.
    pub fn start(&self, scene: &Scene, env: &Env) -> Work {
        let start = |work: Vec<BoxFuture<'static, ()>>| {
            join_all(work.into_iter().map(|work| env.spawn("workload", work).join())).map(drop).boxed()
        };
        let endless = start(self.endless(scene));
        Work { working: start(self.working(scene)), endless }
    }

    fn working(&self, scene: &Scene) -> Vec<BoxFuture<'static, ()>> {
        let (partitions, records) = (self.partitions, self.records);
        let scene = || scene.clone();
        let mut work: Vec<BoxFuture<'static, ()>> = Vec::new();
        for _ in 0..self.idempotent {
            work.push(producer::produce(scene(), Promise::Durable, partitions, records, None).boxed());
        }
        for _ in 0..self.unsafe_producers {
            work.push(producer::produce(scene(), Promise::Leader, partitions, records, None).boxed());
        }
        for _ in 0..self.transactional.unwrap_or(0) {
            work.push(transactional::transact(scene(), partitions, records, self.short.is_some()).boxed());
        }
        if self.counting {
            work.push(counting::count(scene(), partitions, records).boxed());
        }
        if let Some(rests) = self.short {
            let only = Some(Only { topic: SHORT.0, partition: SHORT.1, index: 0, rests });
            work.push(producer::produce(scene(), Promise::Durable, 1, records, only).boxed());
        }
        if let Some(nodes) = self.operated {
            work.push(operator::operate(scene(), partitions, nodes, MOVES).boxed());
        }
        if let Some(bounds) = self.settings {
            work.push(settings::change(scene(), bounds, CHANGES).boxed());
        }
        if self.topic_changes {
            work.push(topics::come_and_go(scene(), 4).boxed());
        }
        work
    }

    fn endless(&self, scene: &Scene) -> Vec<BoxFuture<'static, ()>> {
        let partitions = self.partitions;
        let scene = || scene.clone();
        let mut work: Vec<BoxFuture<'static, ()>> =
            vec![reader::follow(scene(), partitions, IsolationLevel::ReadUncommitted).boxed()];
        if self.transactional.is_some() {
            work.push(reader::follow(scene(), partitions, IsolationLevel::ReadCommitted).boxed());
        }
        for _ in 0..self.wanderers {
            work.push(reader::wander(scene(), partitions).boxed());
        }
        for _ in 0..self.members {
            work.push(group::member(scene(), partitions, self.habits).boxed());
        }
        work
    }

    /// Reads everything, and judges what was seen by it.
    ///
    /// # Errors
    /// What cannot be read.
    pub async fn judge(&self, scene: &Scene) -> Result<Vec<Breach>, String> {
        let partitions = self.numbered();
        let all = reader::read_all(scene, &partitions, IsolationLevel::ReadUncommitted, false).await?;
        let committed = reader::read_all(scene, &partitions, IsolationLevel::ReadCommitted, false).await?;
        Ok(scene.history.lock().check(&all, &committed))
    }

    /// The partitions that the history knows, with their numbers there.
    pub fn numbered(&self) -> Vec<(TopicPartition, Partition)> {
        let mut all: Vec<_> =
            (0..self.partitions).map(|p| (TopicPartition::new(TOPIC, p as i32), p)).collect();
        if self.short.is_some() {
            all.push((TopicPartition::new(SHORT.0, 0), SHORT.1));
        }
        all
    }
}

impl Work {
    /// Waits until all is sent, and then until everybody has stopped.
    ///
    /// # Errors
    /// Who takes too long.
    pub async fn finish(self, scene: &Scene, env: &Env) -> Result<(), String> {
        if env.timeout(HEALED_MAX, self.working).await.is_err() {
            return Err(format!("some client is not done {HEALED_MAX:?} after the last fault was mended"));
        }
        scene.over.store(true, Ordering::Relaxed);
        if env.timeout(HEALED_MAX, self.endless).await.is_err() {
            return Err(format!("some consumer did not stop within {HEALED_MAX:?}"));
        }
        Ok(())
    }
}
