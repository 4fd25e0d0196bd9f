//! For how long this broker may take itself for a part of its cluster.
//!
//! A broker that hears nothing from the cluster any more, though clients still reach it, goes on to believe that it coordinates their
//! groups. Commits fail there, since no follower acknowledges them; but of what was committed at its successor it would answer what was
//! before. The controller fences a broker no earlier than a session after it heard its last heartbeat, which was sent before; so for a
//! session from when the last heartbeat that was answered was sent, it is not replaced for its silence. A follower that fetches is a sign
//! of life as well: while there is no controller, nobody replaces anybody, and groups go on.

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

    /// A heartbeat that was sent at `sent` was answered, or a follower's fetch came then.
    pub(crate) fn renew(&self, sent: Millis) {
        self.until.fetch_max(sent.plus_ms(self.session_ms).0, Ordering::Relaxed);
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
        assert!(Lease::unbounded().holds(Millis(i64::MAX - 1)));
    }
}
