//! Asking other brokers of the cluster.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use millstream_client::Links;
use millstream_machine::metadata::Image;
use millstream_protocol::{Endpoint, ErrorCode, Rpc};
use millstream_record::NodeId;

/// The other brokers, as the metadata has them. At most one link to each; answers on a link come in order, so who must not wait
/// for others' answers asks through a [`Peers::fork`].
pub(crate) struct Peers {
    node: NodeId,
    links: Links,
    image: Arc<ArcSwap<Image>>,
    /// Name of the listener that brokers use among themselves.
    listener: Arc<str>,
}

impl Peers {
    pub(crate) fn new(node: NodeId, links: Links, image: Arc<ArcSwap<Image>>, listener: &str) -> Self {
        Self { node, links, image, listener: Arc::from(listener) }
    }

    /// The same brokers, by links apart from these.
    pub(crate) fn fork(&self) -> Self {
        let (image, listener) = (Arc::clone(&self.image), Arc::clone(&self.listener));
        Self { node: self.node, links: self.links.fork(), image, listener }
    }

    /// This broker.
    pub(crate) fn me(&self) -> NodeId {
        self.node
    }

    /// Asks `node` and awaits its answer, at most `within`.
    ///
    /// # Errors
    /// NETWORK_EXCEPTION; what was asked may have happened all the same.
    pub(crate) async fn ask<R: Rpc>(
        &self,
        node: NodeId,
        within: Duration,
        request: R,
    ) -> Result<R::Response, ErrorCode> {
        let endpoint =
            endpoint(&self.image.load(), node, &self.listener).ok_or(ErrorCode::NetworkException)?;
        self.links.call_within(&endpoint, within, request).await.map_err(|error| {
            tracing::debug!(%node, %error, "another broker does not answer; it is asked again");
            ErrorCode::NetworkException
        })
    }
}

/// Where brokers reach `node`, as the metadata has it: by `listener`, or else by its first.
pub(crate) fn endpoint(image: &Image, node: NodeId, listener: &str) -> Option<Endpoint> {
    let broker = image.broker(node)?;
    let same = broker.listeners.iter().find(|one| *one.name == *listener);
    let listener = same.or(broker.listeners.first())?;
    Some(Endpoint::new(&*listener.host, listener.port))
}
