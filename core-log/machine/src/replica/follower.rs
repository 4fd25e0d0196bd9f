//! The follower's view of one partition.

use millstream_record::{LeaderEpoch, Offset};

/// Where a leader says that a follower's log has left its own: the follower's last epoch, or the largest one below it that the
/// leader knows, ends there in the leader's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Diverged {
    /// The epoch.
    pub epoch: LeaderEpoch,
    /// Where it ends at the leader.
    pub end: Offset,
}

/// One follower in one leader epoch: how far its log goes, how far that is durable, and how far it knows to be replicated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Follower {
    epoch: LeaderEpoch,
    end: Offset,
    durable_end: Offset,
    high_watermark: Offset,
}

impl Follower {
    /// Begins to follow in `epoch` with a log that ends at `end`.
    #[must_use]
    pub fn new(epoch: LeaderEpoch, end: Offset, durable_end: Offset, high_watermark: Offset) -> Self {
        let mut follower = Self { epoch, end, durable_end: durable_end.min(end), high_watermark: Offset(0) };
        follower.learn(high_watermark);
        follower
    }

    /// The leader's epoch.
    #[must_use]
    pub fn epoch(&self) -> LeaderEpoch {
        self.epoch
    }

    /// End of the log: what to fetch next.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.end
    }

    /// End of what is fsynced here: what the leader is told, and the most that the mark counts with.
    #[must_use]
    pub fn durable_end(&self) -> Offset {
        self.durable_end
    }

    /// End of what is known to be durable on the whole in-sync set, as far as it is here.
    #[must_use]
    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// The log now ends at `end`.
    pub fn appended(&mut self, end: Offset) {
        debug_assert!(end >= self.end, "a log shrinks only by a cut");
        self.end = end;
    }

    /// All below `point` is durable here.
    pub fn flushed(&mut self, point: Offset) {
        self.durable_end = self.durable_end.max(point.min(self.end));
    }

    /// The log was cut, durably, and ends at `end`.
    pub fn cut(&mut self, end: Offset) {
        self.end = end;
        self.durable_end = self.durable_end.min(end);
        self.high_watermark = self.high_watermark.min(end);
    }

    /// The leader's mark. It never goes back here, and counts only as far as the log is durable.
    pub fn learn(&mut self, leaders_mark: Offset) {
        self.high_watermark = self.high_watermark.max(leaders_mark.min(self.durable_end));
    }

    /// Where to cut a log that has left the leader's. `local` is the follower's own [`Diverged`] for the same epoch: the
    /// largest epoch at or below it that it knows, and where that ends here (its begin, where all of it is newer); `None` when
    /// it knows no epochs.
    ///
    /// Where the follower does not know the leader's epoch, its own smaller one bounds the cut and the next fetch finds out
    /// more (KIP-279): each round goes back at least one epoch, so it ends.
    #[must_use]
    pub fn cut_for(&self, leader: Diverged, local: Option<Diverged>) -> Offset {
        let bound = leader.end.min(self.end);
        match local {
            Some(known) if known.epoch == leader.epoch => known.end.min(bound),
            Some(known) => known.end.min(self.end),
            None => bound,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A log as epochs with their first offsets, and where it ends.
    #[derive(Clone, Debug)]
    struct Log {
        records: Vec<i32>,
    }

    impl Log {
        fn end(&self) -> i64 {
            self.records.len() as i64
        }

        fn end_of(&self, epoch: i32) -> Option<Diverged> {
            // As storage has it: the epoch asked for, where all of the log is newer.
            let floor = self.records.iter().copied().filter(|known| *known <= epoch).max();
            let floor = if self.records.is_empty() { None? } else { floor.unwrap_or(epoch) };
            let end = self.records.iter().take_while(|known| **known <= epoch).count();
            Some(Diverged { epoch: LeaderEpoch(floor), end: Offset(end as i64) })
        }

        /// What a leader says to a fetch from `end` of a log whose last record has `last`.
        fn diverges(&self, end: i64, last: i32) -> Option<Diverged> {
            let known = self.end_of(last).unwrap_or(Diverged { epoch: LeaderEpoch(-1), end: Offset(0) });
            (known.epoch.0 < last || known.end.0 < end).then_some(known)
        }
    }

    proptest! {
        /// Logs that agree on a prefix and then were written in different epochs: whatever the follower has, it cuts to a prefix
        /// of the leader's log within as many rounds as it has epochs, and never cuts into what both have.
        #[test]
        fn cutting_ends_at_a_common_prefix_and_never_before_it(
            common in prop::collection::vec(0..3, 0..8),
            ours in prop::collection::vec(0..20, 0..8),
            theirs in prop::collection::vec(0..20, 0..8),
        ) {
            let mut common = common;
            common.sort_unstable();
            // An epoch has one leader, so what two logs have of one epoch is a prefix of the same run.
            let branch = |records: Vec<i32>, parity: i32| {
                let mut epochs: Vec<i32> = records.into_iter().map(|n| 3 + 2 * n + parity).collect();
                epochs.sort_unstable();
                Log { records: common.iter().copied().chain(epochs).collect() }
            };
            let (leader, mut log) = (branch(theirs, 0), branch(ours, 1));
            let end = Offset(log.end());
            let mut follower = Follower::new(LeaderEpoch(99), end, end, Offset(0));
            for round in 0.. {
                prop_assert!(round <= 10, "cutting does not end");
                let Some(last) = log.records.last().copied() else { break };
                let Some(diverged) = leader.diverges(log.end(), last) else { break };
                let cut = follower.cut_for(diverged, log.end_of(diverged.epoch.0));
                prop_assert!(cut < follower.end(), "each round cuts something");
                prop_assert!(cut.0 >= common.len() as i64, "into the common prefix");
                follower.cut(cut);
                log.records.truncate(cut.0 as usize);
            }
            prop_assert!(leader.records.starts_with(&log.records));
        }
    }

    #[test]
    fn the_mark_is_known_as_far_as_the_log_is_durable_and_goes_back_only_with_a_cut() {
        let mut follower = Follower::new(LeaderEpoch(1), Offset(10), Offset(4), Offset(7));
        assert_eq!(follower.high_watermark(), Offset(4));
        follower.flushed(Offset(20));
        assert_eq!(follower.durable_end(), Offset(10), "no more can be durable than there is");
        follower.learn(Offset(9));
        follower.learn(Offset(3));
        assert_eq!(follower.high_watermark(), Offset(9));
        follower.cut(Offset(8));
        assert_eq!(
            (follower.end(), follower.durable_end(), follower.high_watermark()),
            (Offset(8), Offset(8), Offset(8))
        );
        follower.appended(Offset(12));
        assert_eq!(follower.durable_end(), Offset(8));
    }
}
