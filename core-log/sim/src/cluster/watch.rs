//! What is looked at inside of the nodes while a world runs, and what must hold of it.
//!
//! Rules, each broken one a line of text:
//! 1. In one leader epoch of a partition at most one life of one node leads.
//! 2. Every member of the newest committed in-sync set has, on its platter, everything below the highest mark that was ever
//!    seen of the partition. A member whose disk was lost is one until it has registered with its new one; of one on whose disk bits
//!    were flipped this is not asked.
//! 3. At the end all replicas hold the same bytes, from the latest of their starts to the mark.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use millstream_broker::ReplicaView;
use millstream_machine::metadata::Image;
use millstream_record::{Batches, LeaderEpoch, NodeId, TopicId, TopicPartition};

use crate::executor::Owner;
use crate::machine::Machine;
use crate::workload::{PASSING, SHORT};

type Key = (TopicId, i32);

/// What was seen so far.
#[derive(Debug, Default)]
pub struct Watch {
    leaders: BTreeMap<(Key, LeaderEpoch), Owner>,
    marks: BTreeMap<Key, i64>,
    /// What is committed, as far as any node ever knew: those that are up now may know less.
    newest: Option<Arc<Image>>,
    looks: u64,
    breaches: BTreeSet<String>,
}

impl Watch {
    /// Looks at all nodes as they are now.
    pub fn look(&mut self, machines: &[Machine]) {
        self.looks += 1;
        for machine in machines {
            if let (Some(owner), Some(broker)) = (machine.owner(), machine.broker()) {
                broker.replicas().iter().for_each(|replica| self.note(owner, replica));
            }
            let Some(image) = machine.image() else { continue };
            if self.newest.as_ref().is_none_or(|newest| newest.end() < image.end()) {
                self.newest = Some(image);
            }
        }
        if let Some(image) = self.newest.clone() {
            self.check_durability(machines, &image);
        }
    }

    fn note(&mut self, owner: Owner, replica: &ReplicaView) {
        let key = (replica.topic_id, replica.at.partition);
        let mark = self.marks.entry(key).or_default();
        *mark = replica.high_watermark.0.max(*mark);
        if replica.leads.is_none() {
            return;
        }
        let known = *self.leaders.entry((key, replica.epoch)).or_insert(owner);
        if known != owner {
            self.breaches.insert(format!(
                "two leaders: of {} in epoch {}, processes {} and {}",
                replica.at, replica.epoch, known.0, owner.0
            ));
        }
    }

    fn check_durability(&mut self, machines: &[Machine], image: &Image) {
        // What retention takes may be half gone from the platter, so a log with it says nothing; nor does a topic that is deleted now
        // and then: all who know of that may be down.
        let stays = |name: &str| name != SHORT.0 && !name.starts_with(PASSING);
        for topic in image.topics().filter(|topic| stays(&topic.name)) {
            for (partition, index) in topic.partitions.iter().zip(0..) {
                let Some(mark) = self.marks.get(&(topic.id, index)).copied().filter(|mark| *mark > 0) else {
                    continue;
                };
                let at = TopicPartition::new(Arc::clone(&topic.name), index);
                for member in &partition.isr {
                    let Some(machine) = machines.iter().find(|one| i32::from(one.host()) == member.0) else {
                        continue;
                    };
                    let registered = image.broker(*member).map_or(&[][..], |broker| &broker.directories);
                    if machine.is_rotten() || machine.directory().is_none_or(|one| !registered.contains(&one))
                    {
                        continue;
                    }
                    let end = end_of(&read(machine, &at, true));
                    if end < mark {
                        self.breaches.insert(format!(
                            "not durable: node {member} is in the in-sync set of {at} in epoch {} and its platter ends at \
                             {end}, below the mark {mark}",
                            partition.leader_epoch
                        ));
                    }
                }
            }
        }
    }

    /// Compares the replicas of every partition that `views` tells of. All nodes have stopped.
    pub fn compare(&mut self, machines: &[Machine], views: &[ReplicaView]) {
        for view in views {
            let holds = |machine: &&Machine| {
                let replicas = view.leads.as_deref().unwrap_or_default();
                replicas.contains(&NodeId(i32::from(machine.host())))
            };
            let machines: Vec<&Machine> = machines.iter().filter(holds).collect();
            let logs: Vec<Vec<Held>> =
                machines.iter().map(|machine| read(machine, &view.at, false)).collect();
            let start = logs.iter().filter_map(|log| log.first()).map(|held| held.base).max().unwrap_or(0);
            let below = |log: &Vec<Held>| -> Vec<Held> {
                let wanted = |held: &&Held| {
                    !held.bytes.is_empty() && held.base >= start && held.next <= view.high_watermark.0
                };
                log.iter().filter(wanted).cloned().collect()
            };
            let first = logs.first().map(below).unwrap_or_default();
            for (log, machine) in logs.iter().zip(&machines).skip(1) {
                let other = below(log);
                if other != first {
                    let parts = first.iter().zip(&other).find(|(one, other)| one != other);
                    self.breaches.insert(format!(
                        "replicas differ: {} on node {} ends at {}, on node {} at {}; the mark is {}; first difference at {:?}",
                        view.at,
                        machines.first().map_or(0, |machine| machine.host()),
                        end_of(&first),
                        machine.host(),
                        end_of(&other),
                        view.high_watermark,
                        parts.map(|(one, other)| (one.describe(), other.describe())),
                    ));
                }
            }
        }
    }

    /// Broken rules.
    pub fn breaches(&self) -> impl Iterator<Item = String> {
        self.breaches.iter().cloned()
    }

    /// Leader epochs in which somebody was seen to lead.
    pub fn epochs(&self) -> u64 {
        self.leaders.len() as u64
    }
}

/// One batch on a disk.
#[derive(Clone, PartialEq, Eq)]
struct Held {
    base: i64,
    next: i64,
    bytes: Bytes,
}

impl Held {
    fn describe(&self) -> String {
        let header =
            Batches::new(self.bytes.clone()).next().and_then(Result::ok).map(|batch| *batch.header());
        header.map_or_else(String::new, |header| {
            format!(
                "{}..{} of epoch {}, producer {} from {}, crc {:08x}",
                self.base,
                self.next,
                header.leader_epoch,
                header.producer_id,
                header.base_sequence,
                header.crc
            )
        })
    }
}

fn end_of(log: &[Held]) -> i64 {
    log.last().map_or(0, |held| held.next)
}

/// The batches of a partition on a disk, as far as they are whole and follow one another. An empty segment is a batch of no bytes,
/// so that a log which retention emptied still says where it ends.
fn read(machine: &Machine, at: &TopicPartition, durable: bool) -> Vec<Held> {
    let dir = PathBuf::from(format!("/data/{}-{}", at.topic, at.partition));
    let mut log: Vec<Held> = Vec::new();
    for (name, bytes) in machine.disk().files(&dir, durable) {
        let Some(base) = name.strip_suffix(".log").and_then(|base| base.parse::<i64>().ok()) else {
            continue;
        };
        if log.last().is_some_and(|last| last.next != base) {
            break;
        }
        if log.is_empty() {
            log.push(Held { base, next: base, bytes: Bytes::new() });
        }
        for batch in Batches::ignoring_partial(bytes.into()) {
            let Some(batch) = batch.ok().filter(|batch| batch.check_crc().is_ok()) else { break };
            let header = batch.header();
            let (base, next) = (header.base_offset.0, header.next_offset().0);
            if log.last().is_some_and(|last| last.next != base) {
                return log;
            }
            log.push(Held { base, next, bytes: batch.bytes().clone() });
        }
    }
    log
}
