//! For how long this broker may take itself for a part of its cluster.
//!
//! A broker that hears nothing from the cluster any more, though clients reach it, goes on to believe that it coordinates their groups.
//! Commits fail there, since no follower acknowledges them; but of what was committed at its successor it would answer what was before.
//!
//! A controller fences a broker no earlier than a session after it heard its last heartbeat, which was sent before; and a new controller
//! no earlier than a session after it began to lead. So a broker is not replaced for its silence
//! - for a session from when it sent the last heartbeat that was answered ([`Lease::renew`]), and
//! - while that lasts, for a session from when no controller was active any more ([`Lease::prolong`]): nobody replaces anybody then, and
//!   groups go on. Once it has run out only a heartbeat helps: whom a controller has replaced may find none later.
//!
//! That followers fetch from it proves nothing: they go on until they have heard that another leads.

use std::sync::atomic::{AtomicI64, Ordering};

use millstream_record::Millis;

/// Until when, by the monotonic clock.
#[derive(Debug)]
pub(crate) struct Lease {
    session_ms: i64,
    until: AtomicI64,
}

impl Lease {
    /// For a broker of a cluster; it has none before the first heartbeat was answered.
    pub(crate) fn of_session(session_ms: i64) -> Self {
        Self { session_ms, until: AtomicI64::new(i64::MIN) }
    }

    /// For a node that is the cluster.
    pub(crate) fn unbounded() -> Self {
        Self { session_ms: 0, until: AtomicI64::new(i64::MAX) }
    }

    /// A heartbeat that was sent at `sent` was answered.
    pub(crate) fn renew(&self, sent: Millis) {
        self.until.fetch_max(sent.plus_ms(self.session_ms).0, Ordering::Relaxed);
    }

    /// At some time after `at` no controller was active.
    pub(crate) fn prolong(&self, at: Millis) {
        if self.holds(at) {
            self.renew(at);
        }
    }

    /// Whether it holds at `now`, and for half a session longer.
    pub(crate) fn is_fresh(&self, now: Millis) -> bool {
        self.holds(now.plus_ms(self.session_ms / 2))
    }

    /// Whether it holds at `now`.
    pub(crate) fn holds(&self, now: Millis) -> bool {
        now.0 < self.until.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_lasts_a_session_from_when_the_last_answered_heartbeat_was_sent() {
        let lease = Lease::of_session(100);
        assert!(!lease.holds(Millis(0)), "nothing was answered yet");
        for (renewed, at, holds) in [
            (Some(10), 10, true),
            (None, 109, true),
            (None, 110, false),
            (Some(90), 150, true),
            (Some(20), 189, true), // an answer that came late takes nothing away
            (None, 190, false),
        ] {
            renewed.into_iter().for_each(|sent| lease.renew(Millis(sent)));
            assert_eq!(lease.holds(Millis(at)), holds, "renewed {renewed:?}, at {at}");
        }
        assert!(Lease::unbounded().is_fresh(Millis(1)) && Lease::unbounded().holds(Millis(i64::MAX - 1)));
    }

    #[test]
    fn where_nobody_controls_it_lasts_on_but_does_not_come_back() {
        let lease = Lease::of_session(100);
        lease.renew(Millis(0));
        for (nobody_at, at, holds) in [
            (Some(40), 139, true),
            (Some(139), 238, true),
            (None, 239, false),
            (Some(239), 240, false), // another may have taken its place before
            (Some(238), 337, true),  // what was seen in time counts, however late that is known
        ] {
            nobody_at.into_iter().for_each(|at| lease.prolong(Millis(at)));
            assert_eq!(lease.holds(Millis(at)), holds, "nobody at {nobody_at:?}, at {at}");
        }
    }
}
