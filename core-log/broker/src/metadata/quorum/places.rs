//! [`Places`]: where each entry lies in the log.

use std::collections::VecDeque;

use millstream_record::Offset;

use super::types::{LogId, log_id};

/// The offsets and terms of the entries that the log still has. An entry is one batch, so its index counts batches while offsets
/// count records; this is the way from one to the other. 16 bytes an entry, and snapshots keep the entries few.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// The last entry that is gone, if any is.
    purged: Option<LogId>,
    /// Where the first entry begins.
    start: Offset,
    entries: VecDeque<Place>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    term: u64,
    end: Offset,
}

impl Places {
    /// No entry, behind `purged`, which ended at `start`.
    pub(super) fn behind(purged: Option<LogId>, start: Offset) -> Self {
        Self { purged, start, entries: VecDeque::new() }
    }

    /// The last entry that is gone.
    pub(super) fn purged(&self) -> Option<LogId> {
        self.purged
    }

    /// The offset of the first entry.
    pub(super) fn start(&self) -> Offset {
        self.start
    }

    /// The index of the first entry.
    pub(super) fn first(&self) -> u64 {
        self.purged.map_or(0, |id| id.index + 1)
    }

    /// The index of the next entry.
    pub(super) fn next(&self) -> u64 {
        self.first() + self.entries.len() as u64
    }

    /// The last entry, gone or not.
    pub(super) fn last(&self) -> Option<LogId> {
        match self.entries.back() {
            Some(place) => Some(log_id(place.term, self.next() - 1)),
            None => self.purged,
        }
    }

    /// The id of the entry at `index`, if it is known.
    pub(super) fn id(&self, index: u64) -> Option<LogId> {
        match self.purged {
            Some(purged) if purged.index == index => Some(purged),
            _ => self.at(index).map(|place| log_id(place.term, index)),
        }
    }

    /// Where the entry at `index` begins.
    pub(super) fn base(&self, index: u64) -> Option<Offset> {
        if index == self.first() { Some(self.start) } else { self.end(index.checked_sub(1)?) }
    }

    /// The offset after the entry at `index`; also of the last one that is gone.
    pub(super) fn end(&self, index: u64) -> Option<Offset> {
        match self.purged {
            Some(purged) if purged.index == index => Some(self.start),
            _ => self.at(index).map(|place| place.end),
        }
    }

    /// The offset after the last entry.
    pub(super) fn log_end(&self) -> Offset {
        self.entries.back().map_or(self.start, |place| place.end)
    }

    fn at(&self, index: u64) -> Option<Place> {
        let at = usize::try_from(index.checked_sub(self.first())?).ok()?;
        self.entries.get(at).copied()
    }

    /// Notes the next entry.
    pub(super) fn push(&mut self, term: u64, end: Offset) {
        self.entries.push_back(Place { term, end });
    }

    /// Forgets the entry at `index` and all behind it.
    pub(super) fn cut(&mut self, index: u64) {
        let keep = index.saturating_sub(self.first());
        self.entries.truncate(usize::try_from(keep).unwrap_or(usize::MAX));
    }

    /// Forgets all up to and with `last`, which ends at `end`.
    pub(super) fn purge(&mut self, last: LogId, end: Offset) {
        let gone = (last.index + 1).saturating_sub(self.first());
        let gone = usize::try_from(gone).unwrap_or(usize::MAX).min(self.entries.len());
        self.entries.drain(..gone);
        self.purged = Some(last);
        self.start = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_and_offsets_stay_together_through_cuts_and_purges() {
        let mut places = Places::default();
        for (term, end) in [(0, 1), (1, 4), (1, 5), (3, 9)] {
            places.push(term, Offset(end));
        }
        assert_eq!((places.first(), places.next(), places.last()), (0, 4, Some(log_id(3, 3))));
        assert_eq!(
            (places.base(0), places.base(1), places.end(3)),
            (Some(Offset(0)), Some(Offset(1)), Some(Offset(9)))
        );
        assert_eq!((places.base(4), places.base(5), places.end(4)), (Some(Offset(9)), None, None));

        places.purge(log_id(1, 1), Offset(4));
        assert_eq!((places.first(), places.next(), places.start()), (2, 4, Offset(4)));
        assert_eq!((places.end(1), places.id(1), places.id(0)), (Some(Offset(4)), Some(log_id(1, 1)), None));
        assert_eq!((places.base(2), places.end(2)), (Some(Offset(4)), Some(Offset(5))));

        places.cut(3);
        assert_eq!((places.next(), places.last()), (3, Some(log_id(1, 2))));
        places.cut(0);
        assert_eq!((places.next(), places.last()), (2, Some(log_id(1, 1))));

        places.purge(log_id(4, 20), Offset(77));
        assert_eq!((places.first(), places.next(), places.base(21)), (21, 21, Some(Offset(77))));
    }
}
