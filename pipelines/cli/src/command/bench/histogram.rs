//! Times of many records in little memory.

use std::time::Duration;

/// Buckets for each doubling: a value is told to within 1/64 (1.6 %).
const PER_DOUBLING: u64 = 64;

/// Counts of times in buckets whose width grows with the time, in microseconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Histogram {
    /// Takes in one time.
    pub(super) fn record(&mut self, time: Duration) {
        let at = bucket(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
        if self.counts.len() <= at {
            self.counts.resize(at + 1, 0);
        }
        self.counts[at] += 1;
        self.total += 1;
    }

    /// The time that `p` percent of all did not exceed.
    pub(super) fn percentile(&self, p: f64) -> Duration {
        let wanted = (self.total as f64 * p / 100.0).ceil() as u64;
        let mut seen = 0;
        for (at, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted && seen > 0 {
                return Duration::from_micros(upper(at));
            }
        }
        Duration::ZERO
    }
}

/// Below 128 a bucket is one microsecond; from there each doubling has 64 buckets.
fn bucket(micros: u64) -> usize {
    if micros < 2 * PER_DOUBLING {
        return micros as usize;
    }
    let doubling = u64::from(micros.ilog2() - PER_DOUBLING.ilog2());
    (doubling * PER_DOUBLING + (micros >> doubling)) as usize
}

/// The largest time in a bucket.
fn upper(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * PER_DOUBLING {
        return bucket;
    }
    let doubling = bucket / PER_DOUBLING - 1;
    let within = bucket - doubling * PER_DOUBLING;
    ((within + 1) << doubling) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_its_times_to_within_its_width() {
        for micros in (0..10_000).chain([1 << 20, (1 << 20) + 7, 123_456_789]) {
            let at = bucket(micros);
            assert!(upper(at) >= micros && upper(at) as f64 <= micros as f64 * 1.017 + 1.0, "{micros} {at} {}", upper(at));
            assert!(at == 0 || upper(at - 1) < micros, "{micros}");
        }
    }

    #[test]
    fn percentiles_are_those_of_the_times() {
        let mut histogram = Histogram::default();
        (1..=1000).for_each(|ms| histogram.record(Duration::from_millis(ms)));
        let near = |p: f64, ms: f64| {
            let got = histogram.percentile(p).as_secs_f64() * 1e3;
            assert!((got - ms).abs() <= ms * 0.02, "{p}: {got}");
        };
        near(50.0, 500.0);
        near(99.0, 990.0);
        near(100.0, 1000.0);
        assert_eq!(Histogram::default().percentile(99.0), Duration::ZERO);
    }
}
