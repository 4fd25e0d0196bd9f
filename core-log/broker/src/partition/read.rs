//! Reading from a partition: planned under the lock, done outside of it.

use millstream_protocol::ErrorCode;
use millstream_record::{LeaderEpoch, Millis, Offset};
use millstream_storage::{LookupPlan, ReadPlan, ReadRequest};

use super::{Partition, State};
use crate::refusal::Refusal;

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

/// What a consumer wants to read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sought {
    pub(crate) offset: Offset,
    pub(crate) max_bytes: usize,
    pub(crate) at_least_one: bool,
    pub(crate) isolation: Isolation,
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
}

impl Partition {
    /// The marks now.
    ///
    /// # Errors
    /// The epoch that the client knows is not the one led (KIP-320), or this broker does not lead any more.
    pub(crate) fn marks(&self, client_epoch: LeaderEpoch) -> Result<Marks, Refusal> {
        let state = self.state.lock();
        state.check_epoch(client_epoch)?;
        Ok(state.marks())
    }

    /// The epoch led.
    pub(crate) fn epoch(&self) -> LeaderEpoch {
        self.state.lock().replica.epoch()
    }

    /// The end of the log.
    pub(crate) fn end(&self) -> Offset {
        self.state.lock().replica.end()
    }

    /// Decides a read.
    ///
    /// # Errors
    /// As for [`Partition::marks`], and an offset outside of the log.
    pub(crate) fn read_plan(
        &self,
        sought: Sought,
        client_epoch: LeaderEpoch,
    ) -> Result<(ReadPlan, Marks), (Refusal, Option<Marks>)> {
        let state = self.state.lock();
        state.check_epoch(client_epoch).map_err(|refusal| (refusal, None))?;
        let marks = state.marks();
        let request = ReadRequest {
            offset: sought.offset,
            max_bytes: sought.max_bytes,
            upper_bound: marks.readable_end(sought.isolation),
            at_least_one: sought.at_least_one,
            with_aborted: sought.isolation == Isolation::Committed,
        };
        match state.log.read_plan(request) {
            Ok(plan) => Ok((plan, marks)),
            Err(error) => Err((error.into(), Some(marks))),
        }
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
        state.check_epoch(client_epoch)?;
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

impl State {
    fn marks(&self) -> Marks {
        Marks {
            start: self.log.start_offset(),
            high_watermark: self.replica.high_watermark(),
            last_stable: self.replica.last_stable(),
            epoch: self.replica.epoch(),
        }
    }

    fn check_epoch(&self, client_epoch: LeaderEpoch) -> Result<(), Refusal> {
        use millstream_machine::replica::State as Leadership;
        match self.replica.state() {
            Leadership::Resigned => Err(ErrorCode::NotLeaderOrFollower.into()),
            Leadership::Failed => Err(ErrorCode::KafkaStorageError.into()),
            Leadership::Leading if client_epoch == LeaderEpoch::NONE => Ok(()),
            Leadership::Leading if client_epoch < self.replica.epoch() => {
                Err(ErrorCode::FencedLeaderEpoch.into())
            }
            Leadership::Leading if client_epoch > self.replica.epoch() => {
                Err(ErrorCode::UnknownLeaderEpoch.into())
            }
            Leadership::Leading => Ok(()),
        }
    }
}
