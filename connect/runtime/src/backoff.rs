//! Waiting between attempts.

use std::time::Duration;

use millstream_env::Env;

use crate::{Result, RetryPolicy, RuntimeError, Stop};

/// Counts failures since the last success and waits longer after each.
pub(crate) struct Backoff {
    policy: RetryPolicy,
    failures: u32,
    failing_since: Option<Duration>,
}

impl Backoff {
    pub(crate) fn new(policy: RetryPolicy) -> Self {
        Self { policy, failures: 0, failing_since: None }
    }

    /// Something has succeeded since the last failure.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
        self.failing_since = None;
    }

    /// Waits until it is time to try again, if `error` may go away by itself and the policy's time is not over.
    ///
    /// # Errors
    /// `error`, also when a stop is asked for meanwhile: what was to be done is not done then, and whoever asked should know why.
    pub(crate) async fn after(&mut self, error: RuntimeError, env: &Env, stop: &Stop) -> Result<()> {
        let since = *self.failing_since.get_or_insert(env.elapsed());
        if !error.is_retriable() || env.elapsed().saturating_sub(since) >= self.policy.timeout {
            return Err(error);
        }
        let delay = self.delay(env.random_below(1000));
        self.failures += 1;
        tracing::warn!(%error, delay_ms = delay.as_millis() as u64, "trying again");
        match futures::future::select(env.sleep(delay), stop.wait()).await {
            futures::future::Either::Left(_) => Ok(()),
            futures::future::Either::Right(_) => Err(error),
        }
    }

    /// Doubles from the first delay to the longest; `jitter` (0 to 999) takes up to a fifth off, so that tasks that failed
    /// together do not come back together.
    fn delay(&self, jitter: u64) -> Duration {
        let doubled = self.policy.first_delay.saturating_mul(1 << self.failures.min(20));
        let delay = doubled.min(self.policy.max_delay);
        delay - delay.mul_f64(jitter as f64 / 5000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest() {
        let policy = RetryPolicy {
            first_delay: Duration::from_millis(100),
            max_delay: Duration::from_secs(1),
            timeout: Duration::MAX,
        };
        let mut backoff = Backoff::new(policy);
        for expected_ms in [100, 200, 400, 800, 1000, 1000] {
            assert_eq!(backoff.delay(0), Duration::from_millis(expected_ms));
            assert!(backoff.delay(999) >= Duration::from_millis(expected_ms).mul_f64(0.8));
            backoff.failures += 1;
        }
        backoff.failures = u32::MAX;
        assert_eq!(backoff.delay(0), Duration::from_secs(1));
    }
}
