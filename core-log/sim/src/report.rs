//! Many runs, summed up as a table.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::world::Outcome;

/// Sums over all runs.
#[derive(Debug, Default)]
pub struct Totals {
    seeds: u64,
    failed: u64,
    virtual_time: Duration,
    steps: u64,
    counts: BTreeMap<&'static str, u64>,
}

impl Totals {
    /// Adds one run.
    pub fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.failed += u64::from(!outcome.failures.is_empty());
        self.virtual_time += outcome.virtual_time;
        self.steps += outcome.steps;
        for (what, count) in &outcome.counts {
            *self.counts.entry(what).or_default() += count;
        }
    }

    /// Runs so far.
    pub fn seeds(&self) -> u64 {
        self.seeds
    }

    /// Runs that broke a promise.
    pub fn failed(&self) -> u64 {
        self.failed
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<34} {:>14}",
            "simulated hours",
            format!("{:.1}", self.virtual_time.as_secs_f64() / 3600.0)
        )?;
        writeln!(f, "{:<34} {:>14}", "steps", self.steps)?;
        for (what, count) in &self.counts {
            writeln!(f, "{what:<34} {count:>14}")?;
        }
        write!(f, "{} passed, {} failed", self.seeds - self.failed, self.failed)
    }
}
