//! Counters of a node, summed over its tasks for the summary table of a run.

/// What is counted beside rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// A row that at least one of its windows refused, because the window had closed.
    Late,
    /// A row that an operator must leave out: null key or null value where none is allowed.
    Dropped,
    /// A record that could not be decoded and was skipped.
    Bad,
}

/// Counters of one node in one task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeCounters {
    /// Rows that came in.
    pub rows_in: u64,
    /// Rows that were forwarded on any port; for a sink, records written.
    pub rows_out: u64,
    /// See [`Counter::Late`].
    pub late: u64,
    /// See [`Counter::Dropped`].
    pub dropped: u64,
    /// See [`Counter::Bad`].
    pub bad: u64,
}

impl NodeCounters {
    /// Adds `count` to one counter.
    pub fn add(&mut self, counter: Counter, count: u64) {
        match counter {
            Counter::Late => self.late += count,
            Counter::Dropped => self.dropped += count,
            Counter::Bad => self.bad += count,
        }
    }

    /// Adds all counters of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.rows_in += other.rows_in;
        self.rows_out += other.rows_out;
        self.late += other.late;
        self.dropped += other.dropped;
        self.bad += other.bad;
    }
}
