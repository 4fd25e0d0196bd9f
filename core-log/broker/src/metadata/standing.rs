//! Saying that this node is no working part of its cluster, once for each change: clients only see that it does not answer.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Metadata;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// What holds for fewer looks is the way of every start and election.
const LOOKS: u32 = 3;

/// What keeps a node from its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    NoController,
    Unregistered,
    Fenced,
}

impl Metadata {
    /// Looks after the node's standing until it ends.
    pub(crate) async fn watch_standing(self: Arc<Self>) {
        let (mut held, mut looks, mut told) = (None, 0, None);
        loop {
            if self.stopping.load(Ordering::SeqCst) {
                return;
            }
            let now = self.trouble();
            looks = if now == held { looks + 1 } else { 1 };
            held = now;
            if looks >= LOOKS && now != told {
                told = now;
                self.tell(now);
            }
            self.env.sleep(LOOK).await;
        }
    }

    fn trouble(&self) -> Option<Trouble> {
        if self.log.seen().1.is_none() {
            return Some(Trouble::NoController);
        }
        if self.config.quorum.as_ref().is_none_or(|quorum| !quorum.is_broker) {
            return None;
        }
        let image = self.image.load();
        match image.broker(self.config.node_id).filter(|me| me.incarnation == self.incarnation) {
            None => Some(Trouble::Unregistered),
            Some(me) if me.fenced => Some(Trouble::Fenced),
            Some(_) => None,
        }
    }

    fn tell(&self, trouble: Option<Trouble>) {
        let node = self.config.node_id;
        match trouble {
            Some(Trouble::NoController) => {
                let servers = self.config.quorum.as_ref().map(|quorum| super::listed(&quorum.bootstrap));
                tracing::warn!(
                    "node {node} knows no active controller; it waits for one, or for enough voters to elect one (told of {})",
                    servers.unwrap_or_default()
                );
            }
            Some(Trouble::Unregistered) => tracing::warn!(
                "node {node} is not registered with the cluster, and serves nobody; does another process run with its node.id?"
            ),
            Some(Trouble::Fenced) => {
                tracing::warn!("node {node} is fenced by the controller, and leads nothing")
            }
            None => tracing::warn!("node {node} takes part in its cluster again"),
        }
    }
}
