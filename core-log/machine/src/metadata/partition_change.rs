//! What follows for a partition when its in-sync set or its replicas change: who leads, who stays eligible, whether a
//! reassignment is done. Every change that the controller makes to a partition goes through here.

use std::sync::Arc;

use millstream_protocol::messages::PartitionChangeRecord;
use millstream_record::{NodeId, TopicId, Uuid};

use super::apply::{LEADER_UNCHANGED, NO_LEADER};
use super::controller::Controller;
use super::image::{Image, Partition, Topic};
use super::{Record, placement};
use crate::config::Effective;

/// Finalised at 1, this feature keeps eligible leader replicas (KIP-966), and lets an in-sync set become empty.
pub(super) const ELR_FEATURE: &str = "eligible.leader.replicas.version";

/// How the partitions of one topic are changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rules {
    /// `min.insync.replicas`, see [`Partition::min_isr`].
    pub(super) min_isr: usize,
    /// Whether a replica that may miss acknowledged records leads rather than nobody.
    pub(super) unclean: bool,
    /// Whether eligible leader replicas are kept.
    pub(super) elr: bool,
}

/// Which replica is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Election {
    /// The leader stays as long as it may lead.
    Online,
    /// The first replica leads if it may.
    Preferred,
    /// As [`Election::Online`], but rather a replica that may miss records than none.
    Unclean,
}

/// A change in the making. Set what is wanted, then [`Change::record`] tells what it comes to.
pub(super) struct Change<'a> {
    image: &'a Image,
    topic: TopicId,
    index: i32,
    rules: Rules,
    before: &'a Partition,
    /// How to elect, where a leader is needed.
    pub(super) election: Election,
    /// The partition as wanted: in-sync set, replicas and reassignment are taken from here.
    pub(super) wanted: Partition,
    /// Lost what it had not written to disk, or its disk: not eligible.
    pub(super) unclean_shutdown: Option<NodeId>,
    /// Says where its copy is.
    pub(super) assigned: Option<(NodeId, Uuid)>,
    /// Have a new copy, maybe in another log directory than before. A copy that the data hangs on keeps its directory.
    pub(super) moved_in: Vec<NodeId>,
}

impl Controller {
    /// The rules for the partitions of `topic`.
    pub(super) fn rules(&self, image: &Image, topic: &Topic) -> Rules {
        let effective = Effective::new(image, NodeId(-1), &self.statics);
        let value = |name| effective.topic_value(Some(&topic.name), name);
        let min_isr = value("min.insync.replicas").and_then(|value| value.trim().parse().ok()).unwrap_or(1);
        Rules {
            min_isr,
            unclean: value("unclean.leader.election.enable").is_some_and(|value| value.trim() == "true"),
            elr: image.feature(ELR_FEATURE) > 0,
        }
    }

    /// The records of whatever `change` makes of each partition given, most of the time those of one broker.
    pub(super) fn change_partitions<'a>(
        &self,
        image: &'a Image,
        partitions: impl IntoIterator<Item = (&'a Arc<Topic>, i32, &'a Arc<Partition>)>,
        mut change: impl FnMut(&mut Change<'a>),
    ) -> Vec<Record> {
        let mut rules: Option<(TopicId, Rules)> = None;
        let mut records = Vec::new();
        for (topic, index, partition) in partitions {
            let rules = match rules {
                Some((id, rules)) if id == topic.id => rules,
                _ => rules.insert((topic.id, self.rules(image, topic))).1,
            };
            let mut draft = Change::new(image, topic.id, index, partition, rules);
            change(&mut draft);
            records.extend(draft.record().map(Record::PartitionChange));
        }
        records
    }
}

/// Whether `node` may lead a partition: active, and with the directory that its replica lies in. A broker that came back with an
/// emptied disk has another directory, and so leads nothing that it had.
pub(super) fn may_lead(image: &Image, partition: &Partition, node: NodeId) -> bool {
    may_lead_from(image, partition.directory_of(node), node)
}

fn may_lead_from(image: &Image, directory: Uuid, node: NodeId) -> bool {
    image.broker(node).is_some_and(|broker| broker.is_active() && broker.has_directory(directory))
}

/// Who was elected, and from where.
enum Elected {
    InSync(NodeId),
    Eligible(NodeId),
    Unclean(NodeId),
    Nobody,
}

impl<'a> Change<'a> {
    /// No change yet; the election is unclean where the topic allows that.
    pub(super) fn new(
        image: &'a Image,
        topic: TopicId,
        index: i32,
        before: &'a Partition,
        rules: Rules,
    ) -> Self {
        let election = if rules.unclean { Election::Unclean } else { Election::Online };
        let wanted = before.clone();
        Self {
            image,
            topic,
            index,
            rules,
            before,
            election,
            wanted,
            unclean_shutdown: None,
            assigned: None,
            moved_in: Vec::new(),
        }
    }

    /// The partition before the change.
    pub(super) fn before(&self) -> &'a Partition {
        self.before
    }

    /// What it is decided against.
    pub(super) fn image(&self) -> &'a Image {
        self.image
    }

    /// Takes brokers out of the in-sync set.
    pub(super) fn leave_isr(&mut self, leaving: impl Fn(NodeId) -> bool) {
        self.wanted.isr.retain(|node| !leaving(*node));
    }

    /// Takes away all eligibility outside the in-sync set.
    pub(super) fn forget_eligible(&mut self) {
        self.rules.elr = false;
    }

    /// The record that makes it true; `None` when nothing changes.
    pub(super) fn record(mut self) -> Option<PartitionChangeRecord> {
        self.complete_reassignment();
        self.settle_eligible();
        let bumps = self.settle_leader();
        self.settle_last_known();
        self.settle_directories();
        self.difference(bumps)
    }

    /// A reassignment is done when all replicas that stay are in sync.
    fn complete_reassignment(&mut self) {
        let Partition { replicas, isr, adding, removing, .. } = &mut self.wanted;
        if adding.is_empty() && removing.is_empty() {
            return;
        }
        let stays = |node: &&NodeId| !removing.contains(node);
        let new_isr: Vec<NodeId> = isr.iter().filter(stays).copied().collect();
        let new_replicas: Vec<NodeId> = replicas.iter().filter(stays).copied().collect();
        if !new_isr.is_empty() && new_replicas.iter().all(|node| new_isr.contains(node)) {
            *isr = new_isr;
            *replicas = new_replicas;
            adding.clear();
            removing.clear();
        }
    }

    /// Below the least number of in-sync replicas nothing is acknowledged, so who leaves then keeps all that ever was.
    fn settle_eligible(&mut self) {
        if self.acknowledges() {
            self.wanted.elr.clear();
            return;
        }
        let was_eligible = |node: &NodeId| self.before.isr.contains(node) || self.before.elr.contains(node);
        let is_lost = |node: &NodeId| self.unclean_shutdown == Some(*node);
        let eligible = self.wanted.replicas.iter().copied();
        self.wanted.elr = eligible
            .filter(|node| was_eligible(node) && !self.wanted.isr.contains(node) && !is_lost(node))
            .collect();
    }

    /// Whether records are acknowledged that nobody outside the in-sync set has; always, where eligibility is not kept.
    fn acknowledges(&self) -> bool {
        !self.rules.elr || self.wanted.isr.len() >= self.wanted.min_isr(self.rules.min_isr)
    }

    /// Elects, and tells whether a new leader epoch begins.
    fn settle_leader(&mut self) -> bool {
        let (leader, is_lossy) = match self.elect() {
            Elected::InSync(node) => (Some(node), false),
            Elected::Eligible(node) => {
                self.wanted.isr = vec![node];
                self.wanted.elr.retain(|eligible| *eligible != node);
                if self.acknowledges() {
                    self.wanted.elr.clear();
                }
                (Some(node), false)
            }
            Elected::Unclean(node) => {
                self.wanted.isr = vec![node];
                self.wanted.elr.clear();
                (Some(node), true)
            }
            Elected::Nobody => (None, false),
        };
        if self.wanted.isr.is_empty() && !self.rules.elr {
            // Without eligible replicas the last in-sync set is all that is known of who has the records.
            let replicas = &self.wanted.replicas;
            self.wanted.isr =
                self.before.isr.iter().copied().filter(|node| replicas.contains(node)).collect();
        }
        if leader.is_some() && leader != self.before.leader {
            let image = self.image;
            self.wanted
                .isr
                .retain(|node| Some(*node) == leader || image.broker(*node).is_some_and(|b| b.is_active()));
        }
        self.wanted.leader = leader;
        self.wanted.recovering |= is_lossy;
        let lost_a_replica = self.before.replicas.iter().any(|node| !self.wanted.replicas.contains(node));
        leader != self.before.leader || is_lossy || lost_a_replica
    }

    fn elect(&self) -> Elected {
        let Partition { replicas, isr, elr, .. } = &self.wanted;
        let is_active = |node: NodeId| self.image.broker(node).is_some_and(|broker| broker.is_active());
        let may_lead = |node: &NodeId| {
            let is_new_copy = isr.contains(node) && self.begins_anew(*node);
            if is_new_copy {
                is_active(*node)
            } else {
                may_lead_from(self.image, self.directory_of(*node), *node)
            }
        };
        let is_clean =
            |node: &NodeId| (isr.contains(node) || (isr.is_empty() && elr.contains(node))) && may_lead(node);
        let preferred = replicas.first().filter(|_| self.election == Election::Preferred);
        let leader = self.before.leader.filter(|leader| replicas.contains(leader));
        let found = preferred
            .filter(|node| is_clean(node))
            .or_else(|| leader.as_ref().filter(|node| is_clean(node)))
            .or_else(|| replicas.iter().find(|node| is_clean(node)));
        if let Some(node) = found {
            return if isr.contains(node) { Elected::InSync(*node) } else { Elected::Eligible(*node) };
        }
        if let [last] = self.before.last_known_elr[..]
            && self.rules.elr
            && isr.is_empty()
            && elr.is_empty()
            && replicas.contains(&last)
            && may_lead(&last)
        {
            return Elected::Unclean(last);
        }
        let unclean = replicas.iter().find(|node| self.election == Election::Unclean && may_lead(node));
        unclean.map_or(Elected::Nobody, |node| Elected::Unclean(*node))
    }

    /// Remembers who led last from when nobody is eligible until somebody leads.
    fn settle_last_known(&mut self) {
        if self.wanted.leader.is_some() || !self.rules.elr {
            self.wanted.last_known_elr.clear();
        } else if self.wanted.isr.is_empty()
            && let Some(last) = self.before.leader.or(self.before.isr.first().copied())
        {
            self.wanted.last_known_elr = vec![last];
        }
    }

    fn settle_directories(&mut self) {
        let replicas = &self.wanted.replicas;
        let is_told = self.assigned.is_some();
        if self.before.directories.is_empty() && *replicas == self.before.replicas && !is_told {
            return;
        }
        let directory = |node: &NodeId| -> Uuid {
            if self.begins_anew(*node) || !self.before.replicas.contains(node) {
                placement::directory(self.image, *node)
            } else {
                self.directory_of(*node)
            }
        };
        self.wanted.directories = replicas.iter().map(directory).collect();
    }

    /// Where the copy of `node` is.
    fn directory_of(&self, node: NodeId) -> Uuid {
        let told = self.assigned.filter(|(of, _)| *of == node);
        told.map_or_else(|| self.before.directory_of(node), |(_, directory)| directory)
    }

    /// Whether the copy of `node` is a new one in another directory, on which nothing hung before.
    fn begins_anew(&self, node: NodeId) -> bool {
        let known = self.directory_of(node);
        let has_it = self.image.broker(node).is_none_or(|broker| broker.has_directory(known));
        let is_copy_of_old = self.before.hangs_on(node) && self.wanted.hangs_on(node);
        self.moved_in.contains(&node) && !has_it && !is_copy_of_old
    }

    fn difference(self, bumps_leader_epoch: bool) -> Option<PartitionChangeRecord> {
        let (before, after) = (self.before, &self.wanted);
        let nodes = |old: &Vec<NodeId>, new: &Vec<NodeId>| (old != new).then(|| ids(new));
        let leader = after.leader.map_or(NO_LEADER, |leader| leader.0);
        let record = PartitionChangeRecord {
            partition_id: self.index,
            topic_id: self.topic,
            isr: nodes(&before.isr, &after.isr),
            leader: if bumps_leader_epoch { leader } else { LEADER_UNCHANGED },
            replicas: nodes(&before.replicas, &after.replicas),
            removing_replicas: nodes(&before.removing, &after.removing),
            adding_replicas: nodes(&before.adding, &after.adding),
            leader_recovery_state: if before.recovering == after.recovering {
                -1
            } else {
                after.recovering.into()
            },
            directories: (before.directories != after.directories).then(|| after.directories.clone()),
            eligible_leader_replicas: nodes(&before.elr, &after.elr),
            last_known_elr: nodes(&before.last_known_elr, &after.last_known_elr),
        };
        let unchanged = PartitionChangeRecord {
            partition_id: self.index,
            topic_id: self.topic,
            leader: LEADER_UNCHANGED,
            leader_recovery_state: -1,
            ..PartitionChangeRecord::default()
        };
        (record != unchanged).then_some(record)
    }
}

/// As records have them.
pub(super) fn ids(nodes: &[NodeId]) -> Vec<i32> {
    nodes.iter().map(|node| node.0).collect()
}
