//! What is to be written though nobody asks for it, while the log takes nothing: it is written as soon as the log takes it again,
//! and before anything else is.

use std::collections::{BTreeMap, BTreeSet};

use bytestring::ByteString;
use millstream_protocol::ErrorCode;

use super::api::Batch;
use super::coordinator::{Coordinator, Core, Timer};
use super::state::State;
use super::stored::group_record;

/// Until it is looked again whether the log takes what is owed to it.
pub(super) const RETRY_MS: i64 = 500;

/// What the log has to be told once it takes something again.
#[derive(Debug, Default)]
pub(super) struct Owed {
    /// Groups that have become empty. Until that is written, a coordinator that is loaded meanwhile takes them to have the members of
    /// their last generation, whose sessions then end.
    groups: BTreeSet<ByteString>,
    /// Topics that are gone, whose offsets are void. A topic that gets the same name meanwhile has none before these are forgotten,
    /// since they go first.
    topics: BTreeSet<ByteString>,
}

impl Core {
    /// Whether the log takes records now.
    ///
    /// # Errors
    /// What who asked for something that is to be written is told otherwise, and tries again upon.
    pub(super) fn check_log(&self) -> Result<(), ErrorCode> {
        if self.log_accepts { Ok(()) } else { Err(ErrorCode::CoordinatorNotAvailable) }
    }

    pub(super) fn owe_group(&mut self, group: &ByteString) {
        self.owed.groups.insert(group.clone());
        self.look_again();
    }

    pub(super) fn owe_topics(&mut self, topics: &[ByteString]) {
        self.owed.topics.extend(topics.iter().map(crate::wire::own));
        self.look_again();
    }

    fn look_again(&mut self) {
        self.timers.set(Timer::Owed, self.now.plus_ms(RETRY_MS));
    }
}

impl Coordinator {
    /// Whether the log takes records: said before each step, since it changes with the set of in-sync replicas.
    pub fn log_accepts(&mut self, accepts: bool) {
        self.core.log_accepts = accepts;
    }

    /// Writes what is owed, if the log takes it.
    pub(super) fn pay(&mut self) {
        if !self.core.log_accepts {
            return;
        }
        let Owed { groups, topics } = std::mem::take(&mut self.core.owed);
        if groups.is_empty() && topics.is_empty() {
            return;
        }
        self.core.timers.clear(&Timer::Owed);
        self.forget_topics(&topics.into_iter().collect::<Vec<_>>());
        // Those that have members again are written with their next assignment.
        let empty =
            groups.iter().filter_map(|id| self.groups.get(id)).filter(|it| it.state() == State::Empty);
        let empty: Vec<_> =
            empty.map(|group| group_record(&group.id, Some(&group.to_record(&BTreeMap::new())))).collect();
        empty.into_iter().for_each(|record| self.core.append(Batch::Records(vec![record])));
    }

    pub(super) fn owed_time_over(&mut self) {
        if !self.core.log_accepts {
            self.core.look_again();
        }
    }
}
