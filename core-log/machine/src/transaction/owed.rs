//! What a coordinator does while its log takes nothing, for lack of in-sync replicas: whoever asks for a change is refused, and what
//! nobody asks for is done as soon as the log takes it again, before anything else.

use bytestring::ByteString;
use millstream_protocol::ErrorCode;

use super::coordinator::{Coordinator, Timer};
use super::decide;
use super::stored::Transaction;

/// When the log takes nothing, or a change is on its way to the disk, what is due is looked at again this much later.
pub(super) const RETRY_MS: i64 = 100;

impl Coordinator {
    /// Whether the log takes records: said before each step, since it changes with the set of in-sync replicas.
    pub fn log_accepts(&mut self, accepts: bool) {
        self.log_accepts = accepts;
    }

    /// Writes that a transaction is complete: later, where the log takes nothing now.
    pub(super) fn write_or_owe(&mut self, id: &ByteString, next: &Transaction) {
        if self.log_accepts {
            self.write(id, next);
        } else {
            self.owed.insert(id.clone());
            self.timers.set(Timer::Owed, self.now.plus_ms(RETRY_MS));
        }
    }

    /// Writes what is owed, if the log takes it.
    pub(super) fn pay(&mut self) {
        if !self.log_accepts || self.owed.is_empty() || self.failed.is_some() {
            return;
        }
        self.timers.clear(&Timer::Owed);
        for id in std::mem::take(&mut self.owed) {
            let Some(current) = self.stored.by_id.get(&id) else { continue };
            if let Some(outcome) = current.state.prepared() {
                let next = decide::complete(current, outcome, self.now);
                self.write(&id, &next);
            }
        }
    }

    /// Whether the log takes records now.
    ///
    /// # Errors
    /// What who asked for a change is told otherwise, and tries again upon.
    pub(super) fn check_log(&self) -> Result<(), ErrorCode> {
        if self.log_accepts { Ok(()) } else { Err(ErrorCode::CoordinatorNotAvailable) }
    }
}
