//! Reading from a partition: planned under the lock, done outside of it.

use std::sync::Arc;

use millstream_machine::replica::{Diverged, Input};
use millstream_protocol::ErrorCode;
use millstream_record::{LeaderEpoch, Millis, NodeId, Offset};
use millstream_storage::{LookupPlan, ReadPlan, ReadRequest};

use super::role::Role;
use super::{Partition, State};
use crate::changed::Watcher;
use crate::refusal::Refusal;
use crate::view::ReplicaView;

/// What a consumer may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isolation {
    /// Everything below the high watermark.
    Uncommitted,
    /// Everything below the last stable offset; the aborted transactions in it are named.
    Committed,
}

impl Isolation {
    pub(crate) fn from_code(code: i8) -> Self {
        if code == 1 { Self::Committed } else { Self::Uncommitted }
    }
}

/// Who reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// A client: up to a mark.
    Consumer(Isolation),
    /// A client that may read from any replica (KIP-392): up to the mark as that one knows it.
    Roaming(Isolation),
    /// A replica on another broker: up to the end.
    Follower,
}

impl Reader {
    /// Whether it is told which transactions were aborted.
    pub(crate) fn is_committed_only(self) -> bool {
        matches!(self, Self::Consumer(Isolation::Committed) | Self::Roaming(Isolation::Committed))
    }
}

/// What somebody wants to read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sought {
    pub(crate) offset: Offset,
    pub(crate) max_bytes: usize,
    pub(crate) at_least_one: bool,
    pub(crate) reader: Reader,
}

/// A read that was decided.
pub(crate) struct Planned {
    pub(crate) plan: ReadPlan,
    pub(crate) marks: Marks,
    /// There is nothing (more) to read, for now.
    pub(crate) is_at_end: bool,
    /// Where what this reader may read ends.
    pub(crate) end: Offset,
}

/// Who is woken when there is more to read.
pub(crate) struct Waits {
    pub(crate) key: u64,
    pub(crate) watcher: Watcher,
    /// A follower that waits for the mark, too (KIP-1166).
    pub(crate) for_mark: bool,
    /// Also where there is something to read: it may be too little.
    pub(crate) for_more: bool,
}

/// What a follower says of itself when it fetches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FollowerState {
    pub(crate) node: NodeId,
    pub(crate) broker_epoch: i64,
    /// Whether the metadata has this incarnation as one that may be in sync.
    pub(crate) eligible: bool,
    /// First offset still in its log.
    pub(crate) log_start: Offset,
    /// The epoch of the last record that it has; none for an empty log, which cannot have left ours.
    pub(crate) last_epoch: LeaderEpoch,
    /// End of what it has fsynced.
    pub(crate) durable_end: Offset,
}

/// The marks of a partition at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Marks {
    pub(crate) start: Offset,
    pub(crate) high_watermark: Offset,
    pub(crate) last_stable: Offset,
    pub(crate) epoch: LeaderEpoch,
}

impl Marks {
    /// Where a consumer of this isolation stops.
    pub(crate) fn readable_end(&self, isolation: Isolation) -> Offset {
        match isolation {
            Isolation::Uncommitted => self.high_watermark,
            Isolation::Committed => self.last_stable,
        }
    }

    fn end_for(&self, reader: Reader, log_end: Offset) -> Offset {
        match reader {
            Reader::Consumer(isolation) | Reader::Roaming(isolation) => self.readable_end(isolation),
            Reader::Follower => log_end,
        }
    }
}

impl Partition {
    /// The marks now.
    ///
    /// # Errors
    /// The epoch that the client knows is not the one led (KIP-320), or this broker does not lead any more.
    pub(crate) fn marks(&self, client_epoch: LeaderEpoch) -> Result<Marks, Refusal> {
        self.state.lock().leading_marks(client_epoch)
    }

    /// The marks now, once they are where an earlier leader's may have been.
    ///
    /// # Errors
    /// As for [`Partition::marks`]; OFFSET_NOT_AVAILABLE just after an election.
    pub(crate) fn settled_marks(&self, client_epoch: LeaderEpoch) -> Result<Marks, Refusal> {
        let state = self.state.lock();
        let marks = state.leading_marks(client_epoch)?;
        if state.role.leading()?.has_settled() {
            Ok(marks)
        } else {
            Err(ErrorCode::OffsetNotAvailable.into())
        }
    }

    /// The leader epoch in which this replica plays its part.
    pub(crate) fn epoch(&self) -> LeaderEpoch {
        self.state.lock().role.epoch()
    }

    /// Whether this replica leads.
    pub(crate) fn leads(&self) -> bool {
        self.state.lock().role.leading().is_ok()
    }

    /// # Errors
    /// What a client is told that takes this broker for the leader, when it is not.
    pub(crate) fn must_lead(&self) -> Result<(), Refusal> {
        self.state.lock().role.leading().map(|_| ())
    }

    /// The end of the log, if this replica leads in `epoch`.
    pub(crate) fn end_in(&self, epoch: LeaderEpoch) -> Option<Offset> {
        let state = self.state.lock();
        let leads = state.role.leading().is_ok_and(|leader| leader.epoch() == epoch);
        leads.then(|| state.log.end_offset())
    }

    /// All of it that is shown to whoever runs the broker.
    pub(crate) fn view(&self) -> ReplicaView {
        let state = self.state.lock();
        ReplicaView {
            at: self.at.clone(),
            topic_id: self.topic_id,
            epoch: state.role.epoch(),
            leads: state.role.leading().ok().map(|leader| leader.isr().to_vec()),
            high_watermark: state.role.high_watermark(),
            start: state.log.start_offset(),
            end: state.log.end_offset(),
            durable_end: state.log.flushed_offset(),
        }
    }

    /// Bytes of the log, and how many of the records that are known to be committed it does not have yet.
    pub(crate) fn size_and_lag(&self) -> (u64, i64) {
        let state = self.state.lock();
        let lag = state.role.high_watermark().0 - state.log.end_offset().0;
        (state.log.size_bytes(), lag.max(0))
    }

    /// The end of the log.
    pub(crate) fn end(&self) -> Offset {
        self.state.lock().log.end_offset()
    }

    /// Decides a read. Where there is nothing to read, or maybe too little, whoever `waits` says is woken once there is more.
    ///
    /// # Errors
    /// As for [`Partition::marks`], and an offset outside of the log.
    pub(crate) fn read_plan(
        &self,
        sought: Sought,
        client_epoch: LeaderEpoch,
        waits: Option<Waits>,
    ) -> Result<Planned, (Refusal, Option<Marks>)> {
        let mut state = self.state.lock();
        let marks = match sought.reader {
            Reader::Roaming(_) => state.known_marks(client_epoch),
            Reader::Consumer(_) | Reader::Follower => state.leading_marks(client_epoch),
        };
        let marks = marks.map_err(|refusal| (refusal, None))?;
        let request = ReadRequest {
            offset: sought.offset,
            max_bytes: sought.max_bytes,
            upper_bound: marks.end_for(sought.reader, state.log.end_offset()),
            at_least_one: sought.at_least_one,
            with_aborted: sought.reader.is_committed_only(),
        };
        let plan = state.log.read_plan(request).map_err(|error| (error.into(), Some(marks)))?;
        let is_at_end = sought.offset >= request.upper_bound;
        if let Some(waits) = waits.filter(|waits| is_at_end || waits.for_more) {
            state.wait(sought.reader, waits);
        }
        Ok(Planned { plan, marks, is_at_end, end: request.upper_bound })
    }

    /// Takes note of a follower that fetches from `from`, where it `says` something new, unless its log has left this one: then says
    /// where.
    ///
    /// # Errors
    /// As for [`Partition::marks`]; an offset outside of the log, and an epoch of which this log knows nothing.
    pub(crate) fn hear_follower(
        self: &Arc<Self>,
        follower: &FollowerState,
        from: Offset,
        client_epoch: LeaderEpoch,
        says: bool,
    ) -> Result<Option<Diverged>, (Refusal, Option<Marks>)> {
        let after = {
            let mut state = self.state.lock();
            let marks = state.leading_marks(client_epoch).map_err(|refusal| (refusal, None))?;
            match state.divergence(follower.last_epoch, from) {
                Ok(None) if !says => return Ok(None),
                Ok(None) => {}
                Ok(Some(diverged)) => return Ok(Some(diverged)),
                Err(refusal) => return Err((refusal, Some(marks))),
            }
            let input = Input::FollowerFetched {
                node: follower.node,
                broker_epoch: follower.broker_epoch,
                log_start: follower.log_start,
                durable_end: follower.durable_end.min(from),
                eligible: follower.eligible,
            };
            let mut after = self.step(&mut state, input);
            state.deleters.wake(&mut after); // it may have let go of what they delete
            after
        };
        self.perform(after);
        Ok(None)
    }

    /// The in-sync followers from which a consumer could read at `offset`, each with the end of what it has; none where this replica
    /// does not lead.
    pub(crate) fn followers_with(&self, offset: Offset) -> Vec<(NodeId, Offset)> {
        let state = self.state.lock();
        state.role.leading().map(|leader| leader.followers_with(offset).collect()).unwrap_or_default()
    }

    /// Where `epoch`, or the largest one below it, ends in this log (KIP-101, KIP-279).
    ///
    /// # Errors
    /// As for [`Partition::marks`].
    pub(crate) fn end_of_epoch(
        &self,
        epoch: LeaderEpoch,
        client_epoch: LeaderEpoch,
    ) -> Result<Option<(LeaderEpoch, Offset)>, Refusal> {
        let state = self.state.lock();
        state.leading_marks(client_epoch)?;
        Ok(state.log.epoch_end_offset(epoch))
    }

    /// Decides how to find the first record at or after a time.
    pub(crate) fn plan_by_time(&self, time: Millis) -> Option<LookupPlan> {
        self.state.lock().log.offset_for_timestamp(time)
    }

    /// Decides how to find the record with the largest timestamp.
    pub(crate) fn plan_max_timestamp(&self) -> Option<LookupPlan> {
        self.state.lock().log.offset_of_max_timestamp()
    }

    /// The epoch in which the record at `offset` was appended.
    pub(crate) fn epoch_at(&self, offset: Offset) -> LeaderEpoch {
        self.state.lock().log.leader_epochs().epoch_at(offset).unwrap_or(LeaderEpoch::NONE)
    }
}

/// Whether the epoch that a client knows, if it says one, is the one that the replica is in (KIP-320).
fn same_epoch(client: LeaderEpoch, own: LeaderEpoch) -> Result<(), Refusal> {
    match client {
        LeaderEpoch::NONE => Ok(()),
        older if older < own => Err(ErrorCode::FencedLeaderEpoch.into()),
        newer if newer > own => Err(ErrorCode::UnknownLeaderEpoch.into()),
        _ => Ok(()),
    }
}

impl State {
    fn wait(&mut self, reader: Reader, waits: Waits) {
        if waits.for_mark {
            self.watch(Reader::Consumer(Isolation::Uncommitted), waits.key, waits.watcher.clone());
        }
        self.watch(reader, waits.key, waits.watcher);
    }

    /// The marks, if this replica leads in the epoch that the client takes it to.
    fn leading_marks(&self, client_epoch: LeaderEpoch) -> Result<Marks, Refusal> {
        let leader = self.role.leading()?;
        same_epoch(client_epoch, leader.epoch())?;
        Ok(Marks {
            start: self.log.start_offset(),
            high_watermark: leader.high_watermark(),
            last_stable: leader.last_stable(),
            epoch: leader.epoch(),
        })
    }

    /// The marks as this replica knows them, whichever part it plays in the epoch that the client knows.
    fn known_marks(&self, client_epoch: LeaderEpoch) -> Result<Marks, Refusal> {
        match &self.role {
            Role::Following(follower) if follower.epoch() != LeaderEpoch::NONE => {
                same_epoch(client_epoch, follower.epoch())?;
                let high_watermark = follower.high_watermark().max(self.log.start_offset());
                Ok(Marks {
                    start: self.log.start_offset(),
                    high_watermark,
                    last_stable: self.log.last_stable_offset(high_watermark),
                    epoch: follower.epoch(),
                })
            }
            _ => self.leading_marks(client_epoch),
        }
    }

    /// Where a log that ends at `end` with a record of `last_epoch` has left this one, if it has (KIP-595).
    fn divergence(&self, last_epoch: LeaderEpoch, end: Offset) -> Result<Option<Diverged>, Refusal> {
        if end < self.log.start_offset() {
            return Err(ErrorCode::OffsetOutOfRange.into());
        }
        if last_epoch == LeaderEpoch::NONE {
            return if end > self.log.end_offset() {
                Err(ErrorCode::OffsetOutOfRange.into())
            } else {
                Ok(None)
            };
        }
        let known = self.log.epoch_end_offset(last_epoch);
        let (epoch, known_end) = known.ok_or(ErrorCode::OffsetOutOfRange)?;
        let diverged = epoch < last_epoch || known_end < end;
        Ok(diverged.then_some(Diverged { epoch, end: known_end }))
    }
}
