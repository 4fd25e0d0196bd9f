//! Deleting records on request: the leader's log begins later, its followers learn that with their fetches, and each notes where its
//! log begins, so that neither a restart nor an election shows again what was deleted.

use std::sync::Arc;

use millstream_machine::replica::Input;
use millstream_protocol::ErrorCode;
use millstream_record::{NodeId, Offset};

use super::role::Role;
use super::{Deferred, Partition};
use crate::changed::Watcher;
use crate::refusal::Refusal;

/// How far a deletion has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deleted {
    /// Where this replica's log begins whatever happens.
    pub(crate) own: Offset,
    /// The least of all replicas that count.
    pub(crate) low_watermark: Offset,
}

impl Partition {
    /// Deletes all records below an offset, or below the high watermark, and gives that offset. What is below the start already needs
    /// no deleting.
    ///
    /// # Errors
    /// This replica does not lead; the topic's policy does not delete; an offset that is not replicated yet, or none.
    pub(crate) fn delete_records(self: &Arc<Self>, below: Option<Offset>) -> Result<Offset, Refusal> {
        let (after, below) = {
            let mut state = self.state.lock();
            let mark = state.role.leading()?.high_watermark();
            if !self.settings.load().log.cleanup_delete {
                return Err(ErrorCode::PolicyViolation.into());
            }
            let below = below.unwrap_or(mark);
            if below < Offset(0) || below > mark {
                return Err(ErrorCode::OffsetOutOfRange.into());
            }
            let mut after = Deferred::default();
            if state.log.advance_log_start(below)? {
                after = self.step(&mut state, Input::LogStartMoved { log_start: below });
                state.log_start_moved();
                state.followers.wake(&mut after);
            }
            after.note_start |= state.noted_start < below;
            (after, below)
        };
        self.perform(after);
        Ok(below)
    }

    /// How far deletions have come, where all in-sync replicas count and those that are alive. Whoever `waits`, by its key, looks again
    /// when that may have changed.
    ///
    /// # Errors
    /// This replica does not lead any more.
    pub(crate) fn deleted(
        &self,
        is_alive: impl Fn(NodeId) -> bool,
        (key, waits): (u64, Watcher),
    ) -> Result<Deleted, Refusal> {
        let mut state = self.state.lock();
        let own = state.noted_start;
        let low_watermark = state.role.leading()?.low_watermark(own, is_alive);
        state.deleters.0.insert(key, waits);
        Ok(Deleted { own, low_watermark })
    }

    /// The start of the log, for the directory to note; none where it may be deleted any moment.
    pub(crate) fn start_to_note(&self) -> Option<Offset> {
        let state = self.state.lock();
        (!matches!(state.role, Role::Retired { .. })).then(|| state.log.start_offset())
    }

    /// Nobody knows where a restart would have the log begin: who waits for that is told so.
    pub(crate) fn start_not_noted(&self) -> Deferred {
        let mut after = Deferred::default();
        self.state.lock().deleters.wake(&mut after);
        after
    }

    /// A restart would have the log begin at `start`.
    pub(crate) fn start_noted(&self, start: Offset) -> Deferred {
        let mut after = Deferred::default();
        let mut state = self.state.lock();
        if state.noted_start != start {
            state.noted_start = start;
            state.deleters.wake(&mut after);
            state.position_changed();
            if matches!(state.role, Role::Following(_)) {
                state.followers.wake(&mut after); // who copies waits for it
            }
        }
        after
    }
}
