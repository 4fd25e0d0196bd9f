//! Where each leader epoch begins (KIP-101): what a follower needs to find the point where its log and its leader's part.

use millstream_record::{LeaderEpoch, Offset};

use crate::checkpoint;

/// The leader epochs of a log with their first offsets, both strictly ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaderEpochs {
    starts: Vec<(LeaderEpoch, Offset)>,
}

impl LeaderEpochs {
    /// The newest epoch, if any batch carried one.
    #[must_use]
    pub fn latest(&self) -> Option<LeaderEpoch> {
        self.starts.last().map(|&(epoch, _)| epoch)
    }

    /// All epochs with their first offsets, oldest first.
    #[must_use]
    pub fn starts(&self) -> &[(LeaderEpoch, Offset)] {
        &self.starts
    }

    /// Notes that `epoch` begins at `start`; gives the offset from which on that is news. Entries that contradict it (a start at or
    /// behind this one, or an epoch that is not older) come from a log that was cut, and go.
    pub(crate) fn assign(&mut self, epoch: LeaderEpoch, start: Offset) -> Option<Offset> {
        if epoch.0 < 0 || self.starts.last().is_some_and(|&(e, s)| e == epoch && start >= s) {
            return None;
        }
        let stays = self.starts.partition_point(|&(e, s)| e < epoch && s < start);
        let from = self.starts.get(stays).map_or(start, |&(_, gone)| gone.min(start));
        self.starts.truncate(stays);
        self.starts.push((epoch, start));
        Some(from)
    }

    /// The first offset from which on the two say different things.
    pub(crate) fn differs_from(&self, other: &Self) -> Option<Offset> {
        let same = self.starts.iter().zip(&other.starts).take_while(|(a, b)| a == b).count();
        let next = [self.starts.get(same), other.starts.get(same)];
        next.into_iter().flatten().map(|&(_, start)| start).min()
    }

    /// Notes that the batch at `offset`, which is read anew, is of `epoch`: where that is known already the epoch may have begun
    /// long before. A later one that is said to have begun by then is of a log that was cut, and goes.
    pub(crate) fn confirm(&mut self, epoch: LeaderEpoch, offset: Offset) {
        self.starts.retain(|&(e, s)| e <= epoch || s > offset);
        if self.epoch_at(offset) != Some(epoch) {
            self.assign(epoch, offset);
        }
    }

    /// The largest epoch at or below `epoch` and the offset where it ends: where the next one begins, or the log's end.
    /// `None` when the log knows neither (then the follower cannot be told anything).
    #[must_use]
    pub fn end_offset(&self, epoch: LeaderEpoch, log_end: Offset) -> Option<(LeaderEpoch, Offset)> {
        let newest = self.latest()?;
        if epoch.0 < 0 || epoch > newest {
            return None;
        }
        if epoch == newest {
            return Some((epoch, log_end));
        }
        let after = self.starts.partition_point(|&(e, _)| e <= epoch);
        let &(_, end) = self.starts.get(after)?;
        match after.checked_sub(1).and_then(|at| self.starts.get(at)) {
            Some(&(floor, _)) => Some((floor, end)),
            // Kafka answers with the epoch asked for: all of the log is newer.
            None => Some((epoch, end)),
        }
    }

    /// The epoch of the record at `offset`, if known.
    #[must_use]
    pub fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        let after = self.starts.partition_point(|&(_, start)| start <= offset);
        after.checked_sub(1).and_then(|at| self.starts.get(at)).map(|&(epoch, _)| epoch)
    }

    /// Forgets what begins at or behind `end`; true when something did.
    pub(crate) fn truncate_from_end(&mut self, end: Offset) -> bool {
        let before = self.starts.len();
        self.starts.retain(|&(_, start)| start < end);
        self.starts.len() != before
    }

    /// Forgets epochs that end at or before `start`; the one that holds `start` now begins there. True when that changed
    /// something.
    pub(crate) fn truncate_from_start(&mut self, start: Offset) -> bool {
        let after = self.starts.partition_point(|&(_, s)| s <= start);
        let Some(holding) = after.checked_sub(1) else { return false };
        let changed = holding > 0 || self.starts[holding].1 != start;
        self.starts.drain(..holding);
        self.starts[0].1 = start;
        changed
    }

    /// The text of `leader-epoch-checkpoint`.
    pub(crate) fn to_text(&self) -> String {
        checkpoint::to_text(self.starts.iter().map(|(epoch, start)| format!("{epoch} {start}")))
    }

    /// Reads what [`LeaderEpochs::to_text`], or Kafka, wrote.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut epochs = Self::default();
        for line in checkpoint::lines(text)? {
            let entry = line.split_once(' ').and_then(|(e, s)| Some((e.parse().ok()?, s.parse().ok()?)));
            let (epoch, start) = entry.ok_or_else(|| format!("`{line}` is not `epoch offset`"))?;
            epochs.assign(LeaderEpoch(epoch), Offset(start));
        }
        Ok(epochs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epochs(starts: &[(i32, i64)]) -> LeaderEpochs {
        let mut epochs = LeaderEpochs::default();
        for &(epoch, start) in starts {
            epochs.assign(LeaderEpoch(epoch), Offset(start));
        }
        epochs
    }

    fn pairs(epochs: &LeaderEpochs) -> Vec<(i32, i64)> {
        epochs.starts().iter().map(|&(e, s)| (e.0, s.0)).collect()
    }

    #[test]
    fn end_offsets_follow_kip_101() {
        let known = epochs(&[(2, 5), (4, 10), (7, 20)]);
        for (asked, expected) in [
            (-1, None),
            (1, Some((1, 5))),
            (2, Some((2, 10))),
            (3, Some((2, 10))),
            (4, Some((4, 20))),
            (6, Some((4, 20))),
            (7, Some((7, 33))),
            (8, None),
        ] {
            let found = known.end_offset(LeaderEpoch(asked), Offset(33)).map(|(e, o)| (e.0, o.0));
            assert_eq!(found, expected, "epoch {asked}");
        }
        assert_eq!(LeaderEpochs::default().end_offset(LeaderEpoch(0), Offset(3)), None);
    }

    #[test]
    fn assigning_and_truncating_keep_both_columns_ascending() {
        assert_eq!(pairs(&epochs(&[(0, 0), (0, 3), (1, 4), (3, 4)])), [(0, 0), (3, 4)]);
        assert_eq!(pairs(&epochs(&[(0, 0), (5, 9), (4, 6)])), [(0, 0), (4, 6)]);
        let mut cut = epochs(&[(0, 0), (1, 10), (2, 20)]);
        assert!(cut.truncate_from_end(Offset(20)));
        assert!(cut.truncate_from_start(Offset(12)));
        assert_eq!(pairs(&cut), [(1, 12)]);
        assert!(!cut.truncate_from_start(Offset(12)));
        assert_eq!(cut.epoch_at(Offset(11)), None);
        assert_eq!(cut.epoch_at(Offset(12)), Some(LeaderEpoch(1)));
    }

    #[test]
    fn batches_that_are_read_anew_correct_what_the_file_says() {
        // What the file says, the batches, and what is true.
        type Starts<'a> = &'a [(i32, i64)];
        let table: [(Starts, Starts, Starts); 6] = [
            (&[(1, 0), (2, 2)], &[(1, 1), (1, 2), (3, 3)], &[(1, 0), (3, 3)]),
            (&[(1, 0), (5, 90)], &[(4, 80), (4, 90), (5, 95)], &[(1, 0), (4, 80), (5, 95)]),
            (&[(1, 0), (5, 80)], &[(4, 80), (5, 90)], &[(1, 0), (4, 80), (5, 90)]),
            (&[(1, 0), (5, 90)], &[(5, 80), (5, 90)], &[(1, 0), (5, 80)]),
            (&[(1, 0), (2, 50)], &[(1, 40), (2, 50), (2, 60)], &[(1, 0), (2, 50)]),
            (&[], &[(7, 3), (7, 4)], &[(7, 3)]),
        ];
        for (file, batches, expected) in table {
            let mut known = epochs(file);
            batches.iter().for_each(|&(epoch, at)| known.confirm(LeaderEpoch(epoch), Offset(at)));
            assert_eq!(pairs(&known), expected, "{file:?} and {batches:?}");
        }
    }

    #[test]
    fn text_round_trips() {
        let known = epochs(&[(0, 0), (1, 10)]);
        assert_eq!(known.to_text(), "0\n2\n0 0\n1 10\n");
        assert_eq!(LeaderEpochs::parse(&known.to_text()), Ok(known));
        assert!(LeaderEpochs::parse("0\n1\nx 1\n").is_err());
    }
}
