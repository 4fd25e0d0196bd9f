//! Which partitions a consumer has, and where it stands in each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use millstream_record::{LeaderEpoch, Offset, TopicPartition};

use super::lookup::Asked;
use crate::{ClientError, OffsetAndMetadata, OffsetReset, Result};

/// Where a consumer stands in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub offset: Offset,
    /// Epoch of the last record read, as far as it is known; tells whether the log was cut off since (KIP-320).
    pub offset_epoch: LeaderEpoch,
}

/// How the position of a partition stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// To be taken from the group's commits, else by the reset policy.
    Unknown,
    /// To be looked up.
    Reset(OffsetReset),
    /// To be compared with what the new leader has.
    Unvalidated(Position),
    /// Known.
    At(Position),
}

/// A partition that is assigned.
#[derive(Clone, Debug)]
pub(super) struct Assigned {
    pub standing: Standing,
    /// Rises whenever the position is set from outside, so that answers to older questions are not taken.
    pub version: u64,
    pub paused: bool,
    /// Epoch of the leader that the position was compared with.
    pub leader_epoch: LeaderEpoch,
    /// Monotonic time before which it is not fetched or asked for again.
    pub retry_at: Duration,
    /// A question about its position is on its way.
    pub looked_up: bool,
    /// Where its leader sent this consumer to read.
    pub nearer: Option<Nearer>,
}

/// A replica that is read instead of the leader (KIP-392).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Nearer {
    pub node: i32,
    /// Monotonic time from which on the leader is asked again.
    pub until: Duration,
}

impl Assigned {
    fn new(version: u64) -> Self {
        Self {
            standing: Standing::Unknown,
            version,
            paused: false,
            leader_epoch: LeaderEpoch::NONE,
            retry_at: Duration::ZERO,
            looked_up: false,
            nearer: None,
        }
    }

    pub(super) fn position(&self) -> Option<Position> {
        match self.standing {
            Standing::At(position) | Standing::Unvalidated(position) => Some(position),
            Standing::Unknown | Standing::Reset(_) => None,
        }
    }
}

/// How partitions come to a consumer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Mode {
    #[default]
    None,
    /// The user says which.
    Manual,
    /// The group says which, of these topics.
    Group(BTreeSet<Arc<str>>),
}

#[derive(Debug, Default)]
pub(super) struct Subscription {
    pub mode: Mode,
    pub partitions: BTreeMap<TopicPartition, Assigned>,
    version: u64,
}

impl Subscription {
    pub(super) fn topics(&self) -> BTreeSet<Arc<str>> {
        match &self.mode {
            Mode::Group(topics) => topics.clone(),
            Mode::None | Mode::Manual => BTreeSet::new(),
        }
    }

    /// Makes `partitions` the assignment; those that stay keep their position.
    pub(super) fn assign(&mut self, partitions: impl IntoIterator<Item = TopicPartition>) {
        let mut old = std::mem::take(&mut self.partitions);
        for partition in partitions {
            self.version += 1;
            let assigned = old.remove(&partition).unwrap_or_else(|| Assigned::new(self.version));
            self.partitions.insert(partition, assigned);
        }
    }

    pub(super) fn get_mut(&mut self, partition: &TopicPartition) -> Result<&mut Assigned> {
        self.partitions
            .get_mut(partition)
            .ok_or_else(|| ClientError::NotAssigned { partition: partition.clone() })
    }

    /// Sets where a partition goes on, from outside.
    pub(super) fn set(&mut self, partition: &TopicPartition, standing: Standing) -> Result<()> {
        self.version += 1;
        let version = self.version;
        let assigned = self.get_mut(partition)?;
        assigned.standing = standing;
        assigned.version = version;
        assigned.leader_epoch = LeaderEpoch::NONE;
        assigned.retry_at = Duration::ZERO;
        assigned.looked_up = false;
        Ok(())
    }

    /// Gives up all partitions. Versions go on rising, or what was fetched before would count for what is assigned after.
    pub(super) fn clear(&mut self) {
        *self = Self { version: self.version, ..Self::default() };
    }

    /// Whether a partition still stands as it did when it was asked about.
    pub(super) fn stands(&self, partition: &TopicPartition, version: u64, was: Standing) -> bool {
        self.partitions.get(partition).is_some_and(|a| a.version == version && a.standing == was)
    }

    /// Sets what a lookup found, unless the position was set or found by others meanwhile.
    pub(super) fn found(
        &mut self,
        partition: &TopicPartition,
        version: u64,
        was: Standing,
        standing: Standing,
    ) {
        if self.stands(partition, version, was)
            && let Some(assigned) = self.partitions.get_mut(partition)
        {
            assigned.standing = standing;
        }
    }

    /// Notes whether questions about these partitions are on their way.
    pub(super) fn look_up(&mut self, asked: &[Asked], under_way: bool) {
        for Asked { partition, version, .. } in asked {
            if let Some(assigned) = self.partitions.get_mut(partition).filter(|a| a.version == *version) {
                assigned.looked_up = under_way;
            }
        }
    }

    /// Where to read a partition from here on: at its leader again, or where that sent us.
    pub(super) fn read_from(&mut self, partition: &TopicPartition, nearer: Option<Nearer>) {
        if let Some(assigned) = self.partitions.get_mut(partition) {
            assigned.nearer = nearer;
        }
    }

    /// Positions of all partitions, to be committed.
    pub(super) fn positions(&self) -> BTreeMap<TopicPartition, OffsetAndMetadata> {
        let known = self.partitions.iter().filter_map(|(partition, assigned)| {
            let position = assigned.position()?;
            let offset = OffsetAndMetadata {
                leader_epoch: position.offset_epoch,
                ..OffsetAndMetadata::new(position.offset)
            };
            Some((partition.clone(), offset))
        });
        known.collect()
    }
}
