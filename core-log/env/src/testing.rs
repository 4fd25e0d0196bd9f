//! What tests of other rooms need of the machine they run on.

use std::net::TcpListener;
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use crate::Env;

/// How long anything may take that must happen.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Looks until `holds`; `what` says what was waited for.
///
/// # Panics
/// When it does not hold within [`PATIENCE`].
pub async fn until<F: Future<Output = bool>>(env: &Env, what: &str, mut holds: impl FnMut() -> F) {
    let end = env.elapsed() + PATIENCE;
    while !holds().await {
        assert!(env.elapsed() < end, "{what}: not within {PATIENCE:?}");
        env.sleep(LOOK).await;
    }
}

/// Below what systems hand out to those who dial or ask for any port (32768 and up on Linux, 49152 and up elsewhere).
const PORTS: Range<u16> = 20_000..32_000;
/// How many ports a process of tests has to itself.
const SHARE: u16 = 300;

/// A port of 127.0.0.1 that nobody else gets: no other test, and nobody who dials. It stays so while no one listens on
/// it, which is what a server needs that goes down and comes back.
///
/// # Panics
/// When all shares are taken, or this process asked for more ports than its share has.
pub fn private_port() -> u16 {
    /// This process's share: who listens on its first port has it.
    static MINE: OnceLock<TcpListener> = OnceLock::new();
    static HANDED_OUT: AtomicU16 = AtomicU16::new(0);
    let first = MINE.get_or_init(take_share).local_addr().expect("it listens").port();
    loop {
        let index = HANDED_OUT.fetch_add(1, Ordering::Relaxed) + 1;
        assert!(
            index < SHARE,
            "a process of tests has {SHARE} ports: raise SHARE in core-log/env/src/testing.rs"
        );
        // A service of this machine may have one of them for good.
        if TcpListener::bind(("127.0.0.1", first + index)).is_ok() {
            return first + index;
        }
    }
}

fn take_share() -> TcpListener {
    PORTS
        .step_by(usize::from(SHARE))
        .find_map(|first| TcpListener::bind(("127.0.0.1", first)).ok())
        .expect("a free share of ports: too many processes of tests run")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_port_is_handed_out_twice_and_each_is_free() {
        let ports: BTreeSet<u16> = (0..20).map(|_| private_port()).collect();
        assert_eq!(ports.len(), 20);
        assert!(ports.iter().all(|port| PORTS.contains(port)));
        let listeners: Vec<_> =
            ports.iter().map(|port| TcpListener::bind(("127.0.0.1", *port)).unwrap()).collect();
        assert_eq!(listeners.len(), 20);
    }

    #[test]
    fn two_processes_get_different_shares() {
        let (one, other) = (take_share(), take_share());
        let far = one.local_addr().unwrap().port().abs_diff(other.local_addr().unwrap().port());
        assert!(far >= SHARE, "{far}");
    }
}
