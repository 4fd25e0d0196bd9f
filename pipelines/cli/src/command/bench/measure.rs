//! What was measured.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::screen;
use crate::table::Table;

/// Figures with their names, in order.
#[derive(Debug, Default)]
pub(super) struct Measured {
    figures: Vec<(&'static str, f64)>,
}

impl Measured {
    /// Records and bytes moved within a time.
    pub(super) fn throughput(records: u64, bytes: u64, took: Duration) -> Self {
        let seconds = took.as_secs_f64().max(f64::MIN_POSITIVE);
        Self {
            figures: vec![
                ("records", records as f64),
                ("bytes", bytes as f64),
                ("seconds", seconds),
                ("records_per_second", records as f64 / seconds),
                ("mb_per_second", bytes as f64 / 1e6 / seconds),
            ],
        }
    }

    /// Adds the distribution of `latencies` in milliseconds.
    pub(super) fn with_latencies(mut self, mut latencies: Vec<Duration>) -> Self {
        latencies.sort_unstable();
        for (name, per_mille) in [("p50_ms", 500), ("p99_ms", 990), ("p999_ms", 999), ("max_ms", 1000)] {
            let at = percentile(&latencies, per_mille);
            self.figures.push((name, at.as_secs_f64() * 1e3));
        }
        self
    }

    /// Writes them, as a table or as one JSON object.
    pub(super) fn show(&self, as_json: bool) {
        if as_json {
            let object: Map<String, Value> =
                self.figures.iter().map(|(name, figure)| ((*name).to_owned(), json!(figure))).collect();
            screen::line(Value::Object(object));
            return;
        }
        let mut table = Table::new(["figure", ">value"]);
        for (name, figure) in &self.figures {
            let digits = if figure.fract() == 0.0 { 0 } else { 3 };
            table.row([name.replace('_', " "), format!("{figure:.digits$}")]);
        }
        screen::line(table);
    }
}

/// The least latency that `per_mille` of 1000 do not exceed.
fn percentile(sorted: &[Duration], per_mille: usize) -> Duration {
    let rank = (sorted.len() * per_mille).div_ceil(1000).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_rank() {
        let sorted: Vec<_> = (1..=1000).map(Duration::from_millis).collect();
        for (per_mille, expected_ms) in [(500, 500), (990, 990), (999, 999), (1000, 1000)] {
            assert_eq!(percentile(&sorted, per_mille), Duration::from_millis(expected_ms));
        }
        assert_eq!(percentile(&sorted[..1], 500), Duration::from_millis(1));
        assert_eq!(percentile(&[], 500), Duration::ZERO);
    }
}
