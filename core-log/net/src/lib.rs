//! # Net: socket -> service, and service -> socket
//!
//! The two ends of a Kafka connection. [`serve`] accepts connections, reads frames, and calls a
//! [`Service`](millstream_protocol::Service) with decoded requests; [`TcpDial`] opens a connection to a broker, ours or any
//! other that speaks the protocol, and hands it out as a [`Link`](millstream_protocol::Link). Everything else in Millstream
//! sees requests and answers only.
//!
//! Invariants of a served connection:
//! - Requests are called in the order in which they came, and answered in that order, however their answers come.
//! - Memory is taken as bytes arrive, never because a length prefix asks for it, and what all connections hold together of long
//!   frames is bounded. Requests in flight are bounded by number and by bytes; then reading stops.
//! - A frame that has begun must go on arriving, and a response that is being written must go on leaving; a silent connection
//!   without requests in flight is closed after a while. Nobody else notices any of it.
//! - What cannot be read as a served request closes its connection, with the reason in the log. The one exception is an
//!   ApiVersions that is too new: it is told what there is (KIP-511).
//! - Record bytes are copied in neither direction: a request's are slices of its frame, a response's are written from where
//!   they are.
//!
//! Deliberately absent: what requests mean (broker), retries and reconnects (client), files sent to sockets past user space
//! (records come as bytes; what they cost is measured in BENCHMARKS.md), TLS and SASL (an issue of its own).

mod config;
mod connection;
mod dial;
mod error;
mod frame;
mod link;
mod progress;
mod server;

pub use config::{DialConfig, NetConfig};
pub use dial::TcpDial;
pub use error::NetError;
pub use server::serve;

/// The output of whichever ends first; the first one named wins a tie, so that a run repeats.
pub(crate) async fn first_of<T>(a: impl Future<Output = T>, b: impl Future<Output = T>) -> T {
    let (a, b) = (std::pin::pin!(a), std::pin::pin!(b));
    futures::future::select(a, b).await.factor_first().0
}
