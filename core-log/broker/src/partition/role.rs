//! Which part a replica plays: it leads, it follows, or the disk has failed under it.

use std::sync::Arc;

use millstream_machine::replica::{Follower, Input, Replica, Start, State as LeaderState};
use millstream_protocol::ErrorCode;
use millstream_record::{LeaderEpoch, NodeId, Offset};
use millstream_storage::Log;

use super::{Deferred, Partition, State};
use crate::refusal::Refusal;

/// The part that a replica plays.
pub(super) enum Role {
    /// Takes appends and moves the mark.
    Leading(Replica),
    /// Copies the leader, if there is one.
    Following(Follower),
    /// A flush failed under a follower: what it has is not known any more.
    Failed(LeaderEpoch),
    /// The broker ends, or the replica is gone from it: nothing is written any more.
    Retired { epoch: LeaderEpoch, high_watermark: Offset },
}

/// What the metadata says of a partition, as far as a replica acts on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Assigned {
    pub(crate) leader: Option<NodeId>,
    pub(crate) leader_epoch: LeaderEpoch,
    pub(crate) replicas: Vec<NodeId>,
    pub(crate) isr: Vec<NodeId>,
    pub(crate) partition_epoch: i32,
}

impl From<&millstream_machine::metadata::Partition> for Assigned {
    fn from(partition: &millstream_machine::metadata::Partition) -> Self {
        Self {
            leader: partition.leader,
            leader_epoch: partition.leader_epoch,
            replicas: partition.replicas.clone(),
            isr: partition.isr.clone(),
            partition_epoch: partition.partition_epoch,
        }
    }
}

/// What changed when a replica took up what the metadata says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leadership {
    /// It plays the part that it played, in the same epoch.
    Unchanged,
    /// It leads in a new epoch.
    Leads,
    /// It follows in a new epoch.
    Follows,
}

impl Role {
    /// The part of a replica that has not been told any.
    pub(super) fn none(log: &Log, high_watermark: Offset) -> Self {
        Self::Following(Follower::new(
            LeaderEpoch::NONE,
            log.end_offset(),
            log.flushed_offset(),
            high_watermark,
        ))
    }

    /// The leader epoch in which the part is played.
    pub(super) fn epoch(&self) -> LeaderEpoch {
        match self {
            Self::Leading(leader) => leader.epoch(),
            Self::Following(follower) => follower.epoch(),
            Self::Failed(epoch) | Self::Retired { epoch, .. } => *epoch,
        }
    }

    pub(super) fn high_watermark(&self) -> Offset {
        match self {
            Self::Leading(leader) => leader.high_watermark(),
            Self::Following(follower) => follower.high_watermark(),
            Self::Retired { high_watermark, .. } => *high_watermark,
            Self::Failed(_) => Offset(0),
        }
    }

    /// The leader's machine.
    ///
    /// # Errors
    /// What a client is told that takes this broker for the leader.
    pub(super) fn leading(&self) -> Result<&Replica, Refusal> {
        match self {
            Self::Leading(leader) => match leader.state() {
                LeaderState::Leading => Ok(leader),
                LeaderState::Resigned => Err(ErrorCode::NotLeaderOrFollower.into()),
                LeaderState::Failed => Err(ErrorCode::KafkaStorageError.into()),
            },
            Self::Following(_) | Self::Retired { .. } => Err(ErrorCode::NotLeaderOrFollower.into()),
            Self::Failed(_) => Err(ErrorCode::KafkaStorageError.into()),
        }
    }
}

impl Partition {
    /// Takes up what the metadata says. An older leader or partition epoch than is known is ignored, since metadata is applied
    /// in order and this replica may have been told before.
    pub(crate) fn assume(self: &Arc<Self>, assigned: &Assigned) -> Leadership {
        let (change, after) = {
            let mut state = self.state.lock();
            let known = state.role.epoch();
            let leads = assigned.leader == Some(self.context.node);
            if matches!(state.role, Role::Failed(_) | Role::Retired { .. }) || assigned.leader_epoch < known {
                (Leadership::Unchanged, Deferred::default())
            } else if assigned.leader_epoch == known {
                (Leadership::Unchanged, self.go_on(&mut state, assigned))
            } else if leads {
                state.leader = assigned.leader;
                (Leadership::Leads, self.lead(&mut state, assigned))
            } else {
                state.leader = assigned.leader;
                (Leadership::Follows, self.follow(&mut state, assigned.leader_epoch))
            }
        };
        self.perform(after);
        change
    }

    /// Who leads, and in which epoch, as the metadata has told this replica.
    pub(crate) fn leader(&self) -> Option<(NodeId, LeaderEpoch)> {
        let state = self.state.lock();
        Some((state.leader?, state.role.epoch()))
    }

    fn go_on(&self, state: &mut State, assigned: &Assigned) -> Deferred {
        let input = Input::Committed {
            replicas: assigned.replicas.clone(),
            isr: assigned.isr.clone(),
            partition_epoch: assigned.partition_epoch,
        };
        self.step(state, input)
    }

    fn lead(&self, state: &mut State, assigned: &Assigned) -> Deferred {
        let mut after = self.resign_locked(state);
        let epoch = assigned.leader_epoch;
        let high_watermark = state.role.high_watermark();
        state.log.begin_epoch(epoch);
        let (end, durable_end) = (state.log.end_offset(), state.log.flushed_offset());
        let start = Start {
            node: self.context.node,
            epoch,
            replicas: assigned.replicas.clone(),
            isr: assigned.isr.clone(),
            partition_epoch: assigned.partition_epoch,
            min_isr: self.settings.load().min_insync_replicas,
            lag_max_ms: self.context.lag_max_ms,
            log_start: state.log.start_offset(),
            end,
            durable_end,
            high_watermark,
            unstable: state.log.unstable(),
        };
        let leader = Replica::new(self.now(), start);
        state.log.high_watermark_moved(leader.high_watermark());
        state.role = Role::Leading(leader);
        if durable_end < end {
            state.want_flush(&mut after);
        }
        after
    }

    fn follow(&self, state: &mut State, epoch: LeaderEpoch) -> Deferred {
        let mut after = self.resign_locked(state);
        let (end, durable_end) = (state.log.end_offset(), state.log.flushed_offset());
        let mark = state.role.high_watermark();
        state.role = Role::Following(Follower::new(epoch, end, durable_end, mark));
        if durable_end < end {
            state.want_flush(&mut after); // nothing else would, if the leader has no more
        }
        after
    }

    /// The controller has refused the in-sync set that was asked for in `partition_epoch`.
    pub(crate) fn isr_refused(self: &Arc<Self>, partition_epoch: i32) {
        let after = self.step(&mut self.state.lock(), Input::IsrRefused { partition_epoch });
        self.perform(after);
    }

    /// Whether this replica leads in that epoch, and has been told nothing of the partition since that partition epoch.
    pub(crate) fn builds_on(&self, epoch: LeaderEpoch, partition_epoch: i32) -> bool {
        let state = self.state.lock();
        let is_same =
            |leader: &Replica| leader.epoch() == epoch && leader.partition_epoch() <= partition_epoch;
        state.role.leading().is_ok_and(is_same)
    }

    /// The committed in-sync set, where this replica leads.
    pub(crate) fn committed_isr(&self) -> Option<Vec<NodeId>> {
        self.state.lock().role.leading().ok().map(|leader| leader.isr().to_vec())
    }

    /// Has a leader look whether its followers keep up.
    pub(crate) fn look_at_lag(self: &Arc<Self>) {
        let after = self.step(&mut self.state.lock(), Input::Tick);
        self.perform(after);
    }

    /// Who waits is told to ask elsewhere, and who reads looks again.
    pub(super) fn resign_locked(&self, state: &mut State) -> Deferred {
        let mut after = self.step(state, Input::Resigned);
        state.guards.clear();
        state.consumers.wake(&mut after);
        state.followers.wake(&mut after);
        state.deleters.wake(&mut after);
        state.copier = None;
        after
    }
}
