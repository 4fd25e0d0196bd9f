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
//! Where a heartbeat is answered after the lease had run out, the broker may have been replaced before, and its image not have that yet.
//! The controller names the end of its own image in the answer, so the lease holds again once this broker's has come there.
//!
//! A session is the shorter of what this broker is told by its configuration and by the controller, which fences by its own.
//!
//! That followers fetch from it proves nothing: they go on until they have heard that another leads.

use millstream_record::{Millis, Offset};
use parking_lot::Mutex;

/// Until when, by the monotonic clock.
#[derive(Debug)]
pub(crate) struct Lease(Mutex<State>);

#[derive(Debug)]
struct State {
    own_session_ms: i64,
    session_ms: i64,
    until: Millis,
    /// It was broken, and does not hold before the image has come to here.
    awaits: Option<Offset>,
}

impl Lease {
    /// For a broker of a cluster; it has none before the first heartbeat was answered.
    pub(crate) fn of_session(session_ms: i64) -> Self {
        Self::new(session_ms, Millis(i64::MIN))
    }

    /// For a node that is the cluster.
    pub(crate) fn unbounded() -> Self {
        Self::new(0, Millis(i64::MAX))
    }

    fn new(session_ms: i64, until: Millis) -> Self {
        Self(Mutex::new(State { own_session_ms: session_ms, session_ms, until, awaits: None }))
    }

    /// At `now` the answer came to a heartbeat that was sent at `sent`. The controller that heard it fences after `session_ms`, where it says
    /// so, and has decided all below `end` of the metadata before.
    pub(crate) fn renew(&self, now: Millis, sent: Millis, session_ms: Option<i64>, end: Offset) {
        let mut state = self.0.lock();
        if now >= state.until {
            state.awaits = Some(end);
        }
        state.session_ms = session_ms.unwrap_or(i64::MAX).min(state.own_session_ms);
        state.until = state.until.max(sent.plus_ms(state.session_ms));
    }

    /// The image, and all that is led here by it, has come to `end`.
    pub(crate) fn reached(&self, end: Offset) {
        let mut state = self.0.lock();
        state.awaits = state.awaits.filter(|awaited| *awaited > end);
    }

    /// At some time between `asked` and `now` no controller was active. One that was active until then may have fenced whose lease had run out.
    pub(crate) fn prolong(&self, now: Millis, asked: Millis) {
        let mut state = self.0.lock();
        if state.holds(now) {
            state.until = state.until.max(asked.plus_ms(state.session_ms));
        }
    }

    /// How long it lasts.
    pub(crate) fn session_ms(&self) -> i64 {
        self.0.lock().session_ms
    }

    /// Whether it holds at `now`, and for half a session longer.
    pub(crate) fn is_fresh(&self, now: Millis) -> bool {
        let state = self.0.lock();
        state.holds(now.plus_ms(state.session_ms / 2))
    }

    /// Whether it holds at `now`.
    pub(crate) fn holds(&self, now: Millis) -> bool {
        self.0.lock().holds(now)
    }
}

impl State {
    fn holds(&self, now: Millis) -> bool {
        self.awaits.is_none() && now < self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Offset = Offset(-1);

    /// A lease of 100 ms that was renewed at 0.
    fn lease() -> Lease {
        let lease = Lease::of_session(100);
        lease.renew(Millis(0), Millis(0), None, NOTHING);
        lease.reached(NOTHING);
        lease
    }

    #[test]
    fn it_lasts_a_session_from_when_the_last_answered_heartbeat_was_sent() {
        assert!(!Lease::of_session(100).holds(Millis(0)), "nothing was answered yet");
        let lease = lease();
        for (renewed, at, holds) in [
            (Some(10), 10, true),
            (None, 109, true),
            (None, 110, false),
            (Some(90), 150, true),
            (Some(20), 189, true), // an answer that came late takes nothing away
            (None, 190, false),
        ] {
            let renew = |sent| lease.renew(Millis(sent), Millis(sent), None, NOTHING);
            renewed.into_iter().for_each(renew);
            assert_eq!(lease.holds(Millis(at)), holds, "renewed {renewed:?}, at {at}");
        }
        assert!(Lease::unbounded().is_fresh(Millis(1)) && Lease::unbounded().holds(Millis(i64::MAX - 1)));
    }

    #[test]
    fn where_nobody_controls_it_lasts_on_but_does_not_come_back() {
        let lease = lease();
        for (asked_and_told, at, holds) in [
            (Some((40, 50)), 139, true),
            (Some((130, 139)), 229, true),
            (None, 230, false),
            (Some((230, 230)), 231, false), // another may have taken its place before
            (Some((229, 230)), 231, false), // also between the question and the answer
            (Some((228, 229)), 327, true),
        ] {
            let prolong = |(asked, now)| lease.prolong(Millis(now), Millis(asked));
            asked_and_told.into_iter().for_each(prolong);
            assert_eq!(lease.holds(Millis(at)), holds, "nobody at {asked_and_told:?}, at {at}");
        }
    }

    #[test]
    fn once_it_was_broken_it_holds_when_the_image_has_what_the_controller_had() {
        let lease = lease();
        lease.renew(Millis(99), Millis(50), None, Offset(7));
        assert!(lease.holds(Millis(149)), "it was not broken");
        lease.renew(Millis(150), Millis(149), None, Offset(9));
        assert!(!lease.holds(Millis(150)), "its place may be taken");
        lease.renew(Millis(160), Millis(155), None, Offset(20));
        lease.prolong(Millis(170), Millis(170));
        lease.reached(Offset(8));
        assert!(!lease.holds(Millis(170)));
        lease.reached(Offset(9));
        assert!(lease.holds(Millis(254)), "it was heard again and again since then");
        assert!(!lease.holds(Millis(255)), "who does not know yet prolongs nothing");
    }

    #[test]
    fn the_shorter_session_counts() {
        let lease = lease();
        for (told, until) in [(Some(40), 140), (Some(1000), 200), (None, 200)] {
            let lease_of = Lease::of_session(lease.session_ms());
            lease_of.renew(Millis(100), Millis(100), told, NOTHING);
            lease_of.reached(NOTHING);
            assert!(lease_of.holds(Millis(until - 1)) && !lease_of.holds(Millis(until)), "{told:?}");
        }
    }
}
