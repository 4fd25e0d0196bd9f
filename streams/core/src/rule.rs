//! The rules of time, windows and joins, as pure functions. Kernels and tests call them; nothing else decides.

use millstream_record::Millis;

use crate::END_OF_TIME;

/// A window of event time: `[start, end)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Window {
    /// First instant inside.
    pub start: Millis,
    /// First instant after.
    pub end: Millis,
}

/// Windows of one length at a fixed distance: tumbling when both are equal, hopping when the distance is less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeWindows {
    size_ms: i64,
    advance_ms: i64,
}

impl TimeWindows {
    /// Windows of `size_ms` that begin every `advance_ms`, aligned to the Unix epoch. `None` unless `0 < advance <= size`.
    #[must_use]
    pub fn new(size_ms: i64, advance_ms: i64) -> Option<Self> {
        (advance_ms > 0 && advance_ms <= size_ms).then_some(Self { size_ms, advance_ms })
    }

    /// Length of a window.
    #[must_use]
    pub fn size_ms(&self) -> i64 {
        self.size_ms
    }

    /// Distance between the starts of two windows.
    #[must_use]
    pub fn advance_ms(&self) -> i64 {
        self.advance_ms
    }

    /// The window that begins at `start`.
    #[must_use]
    pub fn at(&self, start: Millis) -> Window {
        Window { start, end: start.plus_ms(self.size_ms) }
    }

    /// The windows that contain `timestamp`, earliest first. As in Kafka, a row at or after 1970 is in no window that begins
    /// before 1970 (hopping windows would otherwise begin before their first row could exist); earlier rows are in all theirs.
    pub fn of(&self, timestamp: Millis) -> impl Iterator<Item = Window> + use<> {
        let windows = *self;
        let last = timestamp.0.div_euclid(self.advance_ms).saturating_mul(self.advance_ms);
        let after = timestamp.0.saturating_sub(self.size_ms); // a window that begins here has just ended
        let mut start = after.div_euclid(self.advance_ms).saturating_add(1).saturating_mul(self.advance_ms);
        if timestamp.0 >= 0 {
            start = start.max(0);
        }
        std::iter::successors((start <= last).then_some(start), move |start| {
            start.checked_add(windows.advance_ms).filter(|next| *next <= last)
        })
        .map(move |start| windows.at(Millis(start)))
    }
}

/// Whether a window that ends at `end` no longer takes rows: `end <= stream time - grace`. It is also the moment at which it
/// is final and is emitted on close, so that no row is ever both refused and missing. At the end of time every window is closed,
/// whatever its grace: nothing comes after that.
#[must_use]
pub fn is_closed(end: Millis, stream_time: Millis, grace_ms: i64) -> bool {
    stream_time == END_OF_TIME || end.0 <= stream_time.0.saturating_sub(grace_ms)
}

/// Which rows of the stream side a stream-table join keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinKind {
    /// Only rows with a match.
    Inner,
    /// Every row.
    Left,
}

/// What becomes of one stream row in a join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinOutcome {
    /// The row goes on with its match.
    Matched,
    /// The row goes on without a match.
    Unmatched,
    /// The row found no match and ends here.
    Filtered,
    /// The row has no key or no value and ends here; it is counted as dropped.
    Dropped,
}

/// What becomes of a stream row whose key and value are present or not, and whose lookup found a row or not. A null key in a left
/// join goes on unmatched (KIP-962), in an inner join it is dropped. A null value is dropped in both.
#[must_use]
pub fn join_outcome(kind: JoinKind, has_key: bool, has_value: bool, found: bool) -> JoinOutcome {
    match (kind, has_key, found) {
        _ if !has_value => JoinOutcome::Dropped,
        (_, true, true) => JoinOutcome::Matched,
        (JoinKind::Left, ..) => JoinOutcome::Unmatched,
        (JoinKind::Inner, true, false) => JoinOutcome::Filtered,
        (JoinKind::Inner, false, _) => JoinOutcome::Dropped,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn windows_contain_their_row() {
        let check = |size, advance, at, expected: &[i64]| {
            let starts: Vec<_> =
                TimeWindows::new(size, advance).unwrap().of(Millis(at)).map(|w| w.start.0).collect();
            assert_eq!(starts, expected, "size {size} advance {advance} at {at}");
        };
        check(10, 10, 0, &[0]);
        check(10, 10, 9, &[0]);
        check(10, 10, 10, &[10]);
        check(10, 5, 3, &[0]); // not [-5, 5): Kafka's windows begin at 0
        check(10, 5, 12, &[5, 10]);
        check(10, 3, 11, &[3, 6, 9]);
        check(10, 5, -3, &[-10, -5]);
        check(10, 10, i64::MAX, &[i64::MAX / 10 * 10]);
        assert_eq!(TimeWindows::new(10, 11), None);
        assert_eq!(TimeWindows::new(10, 0), None);
    }

    #[test]
    fn a_window_closes_at_its_end_plus_grace() {
        assert!(!is_closed(Millis(10), Millis(14), 5));
        assert!(is_closed(Millis(10), Millis(15), 5));
        assert!(!is_closed(Millis(10), crate::BEGINNING_OF_TIME, 5));
        assert!(is_closed(Millis(10), crate::END_OF_TIME, 5));
        assert!(is_closed(Millis(10), crate::END_OF_TIME, i64::MAX));
        assert!(is_closed(crate::END_OF_TIME, crate::END_OF_TIME, 5));
        assert!(!is_closed(Millis(10), Millis(i64::MAX - 1), i64::MAX));
    }

    #[test]
    fn joins_keep_what_kafka_keeps() {
        use JoinKind::{Inner, Left};
        use JoinOutcome::{Dropped, Filtered, Matched, Unmatched};
        for (kind, has_key, has_value, found, expected) in [
            (Inner, true, true, true, Matched),
            (Inner, true, true, false, Filtered),
            (Inner, false, true, false, Dropped),
            (Inner, true, false, true, Dropped),
            (Left, true, true, true, Matched),
            (Left, true, true, false, Unmatched),
            (Left, false, true, false, Unmatched),
            (Left, true, false, true, Dropped),
            (Left, false, false, false, Dropped),
        ] {
            assert_eq!(join_outcome(kind, has_key, has_value, found), expected);
        }
    }

    proptest! {
        #[test]
        fn each_window_of_a_row_contains_it(at in -10_000i64..10_000, size in 1i64..500, part in 1i64..500) {
            let advance = part.min(size);
            let windows = TimeWindows::new(size, advance).unwrap();
            let found: Vec<_> = windows.of(Millis(at)).collect();
            prop_assert!(found.iter().all(|w| w.start.0 <= at && at < w.end.0));
            let all = (-30_000..=at).filter(|s| s % advance == 0 && s + size > at && (at < 0 || *s >= 0)).count();
            prop_assert_eq!(found.len(), all);
        }
    }
}
