//! Accepts connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use millstream_env::{Accepted, Env, Listener};
use millstream_protocol::Service;

use crate::connection::{Connection, Door};
use crate::frame::Budget;
use crate::{NetConfig, first_of};

/// How long to wait after a failed accept (too many open files, say) before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves connections of `listener` from `service` until `shutdown` completes. Connections that are open then are closed.
///
/// Never fails: a connection's faults are its own, and are logged.
pub fn serve(
    env: Env,
    mut listener: Box<dyn Listener>,
    service: Arc<dyn Service>,
    config: NetConfig,
    shutdown: BoxFuture<'static, ()>,
) -> BoxFuture<'static, ()> {
    async move {
        let group = env.group();
        let open = Arc::new(AtomicUsize::new(0));
        let budget = Budget::new(config.max_buffered_bytes.max(config.max_request_bytes));
        let door = Arc::new(Door { env: env.clone(), service, config, budget });
        let accepting = async {
            loop {
                match listener.accept().await {
                    Ok(accepted) => {
                        if let Some(place) = Place::take(&open, door.config.max_connections) {
                            let door = Arc::clone(&door);
                            group.spawn("net-connection", run(door, accepted, place));
                        } else {
                            tracing::warn!(peer = accepted.peer, "refused: max.connections are open");
                        }
                    }
                    Err(error) => {
                        tracing::error!(%error, "cannot accept a connection");
                        env.sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        };
        first_of(shutdown, accepting).await;
        tracing::info!(open = open.load(Ordering::Relaxed), "stops serving");
    }
    .boxed()
}

async fn run(door: Arc<Door>, accepted: Accepted, place: Place) {
    let peer = accepted.peer.clone();
    match Connection::new(door, accepted).run().await {
        Ok(()) => tracing::debug!(peer, "left"),
        Err(reason) if reason.is_ordinary() => tracing::debug!(peer, %reason, "closed"),
        Err(reason) => tracing::warn!(peer, %reason, "closed"),
    }
    drop(place);
}

/// A connection's place among those that may be open.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(open: &Arc<AtomicUsize>, max: usize) -> Option<Self> {
        let place = Self(Arc::clone(open));
        let before = open.fetch_add(1, Ordering::Relaxed);
        (before < max).then_some(place) // a place not given is dropped, and so counted down
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
