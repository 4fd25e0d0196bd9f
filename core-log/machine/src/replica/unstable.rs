//! The transactions that hold back read-committed consumers.

use std::collections::BTreeMap;

use millstream_record::Offset;

/// Transactions by first offset: open, or ended by a marker that the high watermark has not passed. The second kind counts
/// still, because a power cut could take the marker back and the transaction would be open again.
#[derive(Debug, Default)]
pub(super) struct Unstable {
    marker_by_first: BTreeMap<Offset, Option<Offset>>,
}

impl Unstable {
    pub(super) fn new(known: Vec<(Offset, Option<Offset>)>) -> Self {
        Self { marker_by_first: known.into_iter().collect() }
    }

    pub(super) fn open(&mut self, first: Offset) {
        self.marker_by_first.insert(first, None);
    }

    pub(super) fn close(&mut self, first: Offset, marker: Offset) {
        if let Some(end) = self.marker_by_first.get_mut(&first) {
            *end = Some(marker);
        }
    }

    /// Forgets those whose marker is below `mark`.
    pub(super) fn settle_below(&mut self, mark: Offset) {
        self.marker_by_first.retain(|_, marker| marker.is_none_or(|marker| marker >= mark));
    }

    pub(super) fn first(&self) -> Option<Offset> {
        self.marker_by_first.first_key_value().map(|(first, _)| *first)
    }
}
