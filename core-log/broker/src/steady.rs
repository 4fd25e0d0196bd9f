//! A wall clock that does not jump.

use std::time::Duration;

use millstream_env::Env;
use millstream_record::Millis;

/// The wall clock as it was at the start, moved on by the monotonic clock. Machines mix deadlines with times that they write
/// down, and a session must not end because somebody set the clock.
#[derive(Clone)]
pub(crate) struct SteadyClock {
    env: Env,
    wall: Millis,
    elapsed: Duration,
}

impl SteadyClock {
    pub(crate) fn start(env: &Env) -> Self {
        Self { env: env.clone(), wall: env.now(), elapsed: env.elapsed() }
    }

    /// Now.
    pub(crate) fn now(&self) -> Millis {
        let since = self.env.elapsed().saturating_sub(self.elapsed);
        self.wall.plus_ms(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    /// The monotonic time at which this clock shows `at`, rounded up so that nobody is called too early.
    pub(crate) fn elapsed_at(&self, at: Millis) -> Duration {
        let ahead = u64::try_from(at.since_ms(self.wall)).unwrap_or(0);
        self.elapsed.saturating_add(Duration::from_millis(ahead))
    }
}
