//! Copying a leader: appending what was fetched, and cutting what the leader does not have.

use std::sync::Arc;

use bytes::Bytes;
use millstream_machine::replica::{Diverged, Follower};
use millstream_protocol::ErrorCode;
use millstream_record::{LeaderEpoch, Offset};
use millstream_storage::{AppendOrigin, StorageError, validate_for_follower};

use super::role::Role;
use super::{Deferred, Partition, State};
use crate::changed::Watcher;
use crate::refusal::Refusal;

/// Where a follower is: what its next fetch says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    /// The leader's epoch, as the follower knows it.
    pub(crate) leader_epoch: LeaderEpoch,
    pub(crate) start: Offset,
    /// Where a restart would have the log begin: what the leader is told, which counts on it.
    pub(crate) noted_start: Offset,
    pub(crate) end: Offset,
    /// The epoch of the last record; none for an empty log.
    pub(crate) last_epoch: LeaderEpoch,
    /// End of what is fsynced.
    pub(crate) durable_end: Offset,
    /// The mark as it is known here, where consumers wait for it to move.
    pub(crate) awaited_mark: Option<Offset>,
}

/// What a leader answered to a fetch that said [`Position`].
pub(crate) struct Fetched<'a> {
    /// The position that was fetched from; when the follower is elsewhere by now, the answer is of no use.
    pub(crate) from: Position,
    pub(crate) batches: &'a Bytes,
    pub(crate) high_watermark: Offset,
    pub(crate) log_start: Offset,
}

impl Partition {
    /// What to ask the leader of `epoch` for.
    ///
    /// # Errors
    /// This replica does not follow in that epoch (any more), or its disk has failed.
    pub(crate) fn position(&self, epoch: LeaderEpoch) -> Result<Position, Refusal> {
        let mut state = self.state.lock();
        state.following(epoch)?;
        Ok(state.position(epoch))
    }

    /// What to ask the leader of `epoch` for; from now on `copier` is told whenever that changes.
    ///
    /// # Errors
    /// As for [`Partition::position`].
    pub(crate) fn copied_by(&self, epoch: LeaderEpoch, copier: Watcher) -> Result<Position, Refusal> {
        let mut state = self.state.lock();
        state.following(epoch)?;
        state.copier = Some(copier);
        Ok(state.position(epoch))
    }

    /// Takes up what a leader sent. The bytes are in the page cache then, and on their way to the disk. True when the leader has the log
    /// begin later: that is on its way, too.
    ///
    /// # Errors
    /// As for [`Partition::position`]; bytes that are not what the leader had; those of storage.
    pub(crate) fn copy(self: &Arc<Self>, fetched: &Fetched<'_>) -> Result<bool, Refusal> {
        if !fetched.batches.is_empty() {
            validate_for_follower(fetched.batches)?;
        }
        let after = {
            let mut state = self.state.lock();
            let epoch = fetched.from.leader_epoch;
            state.following(epoch)?;
            if state.position(epoch).end != fetched.from.end {
                return Err(ErrorCode::NotLeaderOrFollower.into());
            }
            self.copy_locked(&mut state, fetched)?
        };
        let begins_later = after.note_start;
        self.perform(after);
        Ok(begins_later)
    }

    fn copy_locked(&self, state: &mut State, fetched: &Fetched<'_>) -> Result<Deferred, Refusal> {
        let mut after = Deferred::default();
        if !fetched.batches.is_empty() {
            state.is_closed = false;
            append(state, fetched.batches, self.context.env.now())?;
            state.want_flush(&mut after);
        }
        let end = state.log.end_offset();
        if fetched.log_start > state.log.start_offset() {
            state.log.advance_log_start(fetched.log_start.min(end))?;
            state.log_start_moved();
            after.note_start = true;
        }
        let follower = state.following(fetched.from.leader_epoch)?;
        follower.appended(end);
        follower.learn(fetched.high_watermark);
        let mark = follower.high_watermark();
        state.log.high_watermark_moved(mark);
        state.consumers.wake(&mut after);
        state.position_changed();
        Ok(after)
    }

    /// Where the log is to be cut that the leader of `epoch` says has left its own; none where that is before the log's start. Only an
    /// unclean election takes the logs so far apart, since a log's start is below what was replicated.
    ///
    /// # Errors
    /// As for [`Partition::position`].
    pub(crate) fn cut_for(&self, epoch: LeaderEpoch, leader: Diverged) -> Result<Option<Offset>, Refusal> {
        let mut state = self.state.lock();
        let local = state.log.epoch_end_offset(leader.epoch).map(|(epoch, end)| Diverged { epoch, end });
        let follower = state.following(epoch)?;
        let cut = follower.cut_for(leader, local);
        let start = state.log.start_offset();
        if cut < start {
            return Ok(None);
        }
        let cut = state.log.cut_point(cut)?;
        Ok((cut >= start).then_some(cut)) // the batch that holds the start may go as a whole
    }

    /// Cuts the log at `target`; it is durable on return. Blocks under the lock, which only metadata could want meanwhile: a
    /// follower that has left its leader's log serves nobody. Lower the recovery point in the checkpoint first.
    ///
    /// # Errors
    /// As for [`Partition::position`]; those of storage.
    pub(crate) fn cut(self: &Arc<Self>, epoch: LeaderEpoch, target: Offset) -> Result<(), Refusal> {
        let mut after = Deferred::default();
        {
            let mut state = self.state.lock();
            let known_mark = state.following(epoch)?.high_watermark();
            if target < known_mark {
                tracing::warn!(partition = %self.at, %target, %known_mark, "cuts below what was replicated: an unclean election");
            }
            state.is_closed = false;
            let end = state.log.truncate_to(target, self.context.env.now())?;
            state.following(epoch)?.cut(end);
            state.position_changed();
            if state.log.flushed_offset() < end {
                state.want_flush(&mut after); // nothing else would, if the leader has no more
            }
        }
        self.perform(after);
        Ok(())
    }

    /// Begins anew at `start`: the leader no longer has what comes next. Blocks, as [`Partition::cut`] does.
    ///
    /// # Errors
    /// As for [`Partition::cut`].
    pub(crate) fn begin_anew(self: &Arc<Self>, epoch: LeaderEpoch, start: Offset) -> Result<(), Refusal> {
        let mut after = Deferred::default();
        {
            let mut state = self.state.lock();
            let mark = state.following(epoch)?.high_watermark();
            state.is_closed = false;
            state.log.truncate_fully_and_start_at(start, self.context.env.now())?;
            state.noted_start = start; // by its one segment
            let flushed = state.log.flushed_offset();
            state.role = Role::Following(Follower::new(epoch, start, flushed, mark));
            state.position_changed();
            if flushed < start {
                state.want_flush(&mut after); // as after a cut
            }
        }
        self.perform(after);
        Ok(())
    }
}

impl State {
    /// The follower's machine, in `epoch`.
    fn following(&mut self, epoch: LeaderEpoch) -> Result<&mut Follower, Refusal> {
        match &mut self.role {
            Role::Following(follower) if follower.epoch() == epoch => Ok(follower),
            Role::Following(_) | Role::Leading(_) | Role::Retired { .. } => {
                Err(ErrorCode::NotLeaderOrFollower.into())
            }
            Role::Failed(_) => Err(ErrorCode::KafkaStorageError.into()),
        }
    }

    fn position(&self, leader_epoch: LeaderEpoch) -> Position {
        Position {
            leader_epoch,
            start: self.log.start_offset(),
            noted_start: self.noted_start,
            end: self.log.end_offset(),
            last_epoch: self.log.last_epoch().unwrap_or(LeaderEpoch::NONE),
            durable_end: self.log.flushed_offset(),
            awaited_mark: (!self.consumers.0.is_empty()).then(|| self.role.high_watermark()),
        }
    }
}

/// Appends all at once, or batch by batch where one segment cannot take them together.
fn append(state: &mut State, batches: &Bytes, now: millstream_record::Millis) -> Result<(), Refusal> {
    match state.log.append(batches, AppendOrigin::Follower, now) {
        Err(StorageError::AppendTooLarge { .. }) => {}
        other => return Ok(other.map(|_| ())?),
    }
    for batch in millstream_record::Batches::new(batches.clone()) {
        let batch = batch.map_err(|error| Refusal::new(ErrorCode::CorruptMessage, error.to_string()))?;
        state.log.append(batch.bytes(), AppendOrigin::Follower, now)?;
    }
    Ok(())
}
