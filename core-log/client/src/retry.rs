//! How long to try, and how long to wait between tries.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use millstream_env::Env;
use millstream_protocol::ErrorCode;

use crate::{ClientConfig, ClientError, Result};

/// The end of a call's patience, in monotonic time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    at: Duration,
    timeout_ms: u64,
}

impl Deadline {
    pub(crate) fn after(env: &Env, timeout_ms: u64) -> Self {
        Self { at: env.elapsed().saturating_add(Duration::from_millis(timeout_ms)), timeout_ms }
    }

    /// Time left; `None` once there is none.
    pub(crate) fn left(&self, env: &Env) -> Option<Duration> {
        self.at.checked_sub(env.elapsed()).filter(|left| !left.is_zero())
    }

    pub(crate) fn error(&self, what: impl Into<String>, last: Option<ClientError>) -> ClientError {
        ClientError::TimedOut { what: what.into(), timeout_ms: self.timeout_ms, last: last.map(Arc::new) }
    }
}

/// Waits that double from `retry.backoff.ms` to `retry.backoff.max.ms`, each 20 % shorter or longer by chance, so that many
/// clients do not come back at once (KIP-580).
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    next_ms: u64,
    max_ms: u64,
}

impl Backoff {
    pub(crate) fn new(config: &ClientConfig) -> Self {
        Self { next_ms: config.retry_backoff_ms, max_ms: config.retry_backoff_max_ms }
    }

    /// Waits for something that takes a few syncs of a disk: begins shorter than a backoff for a server in trouble.
    fn brief(config: &ClientConfig) -> Self {
        Self { next_ms: BRIEF_BACKOFF_MS.min(config.retry_backoff_ms), max_ms: config.retry_backoff_ms }
    }

    pub(crate) fn next(&mut self, env: &Env) -> Duration {
        let base = self.next_ms.min(self.max_ms);
        self.next_ms = base.saturating_mul(2).min(self.max_ms);
        let fifth = base / 5;
        Duration::from_millis(base - fifth + env.random_below(2 * fifth + 1))
    }
}

/// First wait for the end of a producer's earlier transaction, whose markers are being written. It is asked for right after that
/// transaction's commit was answered, so a whole `retry.backoff.ms` would be added to every commit.
const BRIEF_BACKOFF_MS: u64 = 2;

/// Tries `attempt` until it succeeds, fails for good, or `timeout_ms` are over.
pub(crate) async fn retry<T, F, Fut>(
    env: &Env,
    config: &ClientConfig,
    what: &str,
    timeout_ms: u64,
    mut attempt: F,
) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T>>,
{
    let deadline = Deadline::after(env, timeout_ms);
    let (mut backoff, mut brief) = (Backoff::new(config), Backoff::brief(config));
    let mut last = None;
    loop {
        let Some(left) = deadline.left(env) else { return Err(deadline.error(what, last)) };
        let error = match env.timeout(left, attempt()).await {
            Ok(Err(error)) if error.is_retriable() => error,
            Ok(outcome) => return outcome,
            Err(_) => return Err(deadline.error(what, last)),
        };
        let is_ending = error.code() == Some(ErrorCode::ConcurrentTransactions);
        let wait = if is_ending { brief.next(env) } else { backoff.next(env) };
        last = Some(error);
        env.sleep(wait.min(left)).await;
    }
}
