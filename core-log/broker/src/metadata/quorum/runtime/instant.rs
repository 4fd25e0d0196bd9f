//! [`Instant`]: a point of an env's monotonic time.

use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::time::Duration;

/// Instants count from this long before the env began, so that what openraft subtracts from a young node's clock stays in range.
const BEFORE: Duration = Duration::from_secs(86_400);

/// A point of the monotonic time of the env that is current.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) struct Instant(Duration);

impl Instant {
    /// The same point as `Env::elapsed` has it.
    pub(in super::super) fn elapsed_at(self) -> Duration {
        self.0.saturating_sub(BEFORE)
    }
}

impl openraft::Instant for Instant {
    fn now() -> Self {
        Self(super::current().elapsed() + BEFORE)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(by))
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    fn sub(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(by))
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, by: Duration) {
        *self = *self + by;
    }
}

impl SubAssign<Duration> for Instant {
    fn sub_assign(&mut self, by: Duration) {
        *self = *self - by;
    }
}
