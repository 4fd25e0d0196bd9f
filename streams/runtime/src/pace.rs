//! How many rows a task is given at a time.

use std::time::Duration;

use millstream_streams_core::task::MAX_RUN_ROWS;

/// What one run may take. Nothing interrupts a run: neither a commit nor a rebalance, nor its transaction's timeout.
const AIM: Duration = Duration::from_millis(25);

/// Keeps runs short where a step is slow, and long where it is fast, since a long run costs less for each row.
#[derive(Debug)]
pub(crate) struct Pace {
    rows: usize,
}

impl Pace {
    /// Begins with a single row: nobody knows yet what one takes.
    pub(crate) fn new() -> Self {
        Self { rows: 1 }
    }

    /// Rows of the next run, at most.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// A run of `rows` took `time`.
    pub(crate) fn took(&mut self, rows: usize, time: Duration) {
        if time > AIM {
            let fits = rows as u128 * AIM.as_nanos() / time.as_nanos();
            self.rows = usize::try_from(fits).unwrap_or(MAX_RUN_ROWS).clamp(1, MAX_RUN_ROWS);
        } else if rows >= self.rows && time < AIM / 2 {
            self.rows = (2 * self.rows).min(MAX_RUN_ROWS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_grow_while_they_are_quick_and_shrink_when_they_are_not() {
        let mut pace = Pace::new();
        let mut check = |micros_each: usize, runs: usize, expected: usize| {
            for _ in 0..runs {
                let rows = pace.rows();
                pace.took(rows, Duration::from_micros((rows * micros_each) as u64));
            }
            assert_eq!(pace.rows(), expected, "{micros_each} us a row");
        };
        check(1, 11, 2048);
        check(1, 5, MAX_RUN_ROWS);
        check(100, 1, 250);
        check(100, 5, 250);
        check(60_000_000, 1, 1);
        check(60_000_000, 5, 1);
        check(10, 20, 2048); // 4096 of them took 41 ms, so 2500; 25 ms are not below half of the aim, and neither were 20
    }

    #[test]
    fn a_run_that_found_few_rows_says_little() {
        let mut pace = Pace::new();
        pace.took(1, Duration::ZERO);
        pace.took(1, Duration::ZERO);
        assert_eq!(pace.rows(), 2);
    }
}
