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

/// First wait for what is over within a few syncs of a disk: the end of a producer's earlier transaction, asked for right after its
/// commit was answered, or a coordinator that is only just being made or loaded.
const BRIEF_MS: u64 = 2;

/// Waits that double from `retry.backoff.ms` to `retry.backoff.max.ms`, each 20 % shorter or longer by chance, so that many
/// clients do not come back at once (KIP-580). What is over soon is asked for sooner, with waits that double up to `retry.backoff.ms`.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    next_ms: u64,
    max_ms: u64,
    brief_ms: u64,
    brief_max_ms: u64,
}

impl Backoff {
    pub(crate) fn new(config: &ClientConfig) -> Self {
        Self {
            next_ms: config.retry_backoff_ms,
            max_ms: config.retry_backoff_max_ms,
            brief_ms: BRIEF_MS,
            brief_max_ms: config.retry_backoff_ms,
        }
    }

    pub(crate) fn next(&mut self, env: &Env) -> Duration {
        wait(env, &mut self.next_ms, self.max_ms)
    }

    /// The wait after `error`.
    pub(crate) fn after(&mut self, env: &Env, error: &ClientError) -> Duration {
        let is_brief = matches!(
            error.code(),
            Some(
                ErrorCode::ConcurrentTransactions
                    | ErrorCode::CoordinatorLoadInProgress
                    | ErrorCode::CoordinatorNotAvailable
            )
        );
        if is_brief { wait(env, &mut self.brief_ms, self.brief_max_ms) } else { self.next(env) }
    }
}

fn wait(env: &Env, next_ms: &mut u64, max_ms: u64) -> Duration {
    let base = (*next_ms).min(max_ms);
    *next_ms = base.saturating_mul(2).min(max_ms);
    let fifth = base / 5;
    Duration::from_millis(base - fifth + env.random_below(2 * fifth + 1))
}

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
    let mut backoff = Backoff::new(config);
    let mut last = None;
    loop {
        let Some(left) = deadline.left(env) else { return Err(deadline.error(what, last)) };
        let error = match env.timeout(left, attempt()).await {
            Ok(Err(error)) if error.is_retriable() => error,
            Ok(outcome) => return outcome,
            Err(_) => return Err(deadline.error(what, last)),
        };
        let wait = backoff.after(env, &error);
        last = Some(error);
        env.sleep(wait.min(left)).await;
    }
}
