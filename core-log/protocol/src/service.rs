//! The seam between whoever asks and whoever answers: [`Service`], [`Link`], [`Dial`].

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytestring::ByteString;
use futures::channel::oneshot;
use futures::future::BoxFuture;

use crate::messages::{ApiKey, Request, Response};
use crate::{CallError, DialError, Facts};

/// Who asks, through which door, and what their protocol version means: filled by the door, read by the service.
#[derive(Clone, Debug)]
pub struct Ctx {
    /// The authenticated identity, as `Type:name`; [`ANONYMOUS`] where the listener authenticates nobody.
    pub principal: ByteString,
    /// Name of the listener the request came through (`PLAINTEXT`, `embedded`, ...).
    pub listener: ByteString,
    /// `client.id` as the client gave it; for logs and quotas, never for identity.
    pub client_id: Option<ByteString>,
    /// Network address of the peer, or the door's name where there is no network.
    pub peer: ByteString,
    /// Monotonic time (`Env::elapsed`) after which nobody waits for the answer; `None` means no deadline.
    pub deadline: Option<Duration>,
    /// What the request's version implies (see [`crate::facts`]).
    pub facts: Facts,
}

/// The principal of a client that nobody authenticated, in Kafka's notation.
pub const ANONYMOUS: ByteString = ByteString::from_static("User:ANONYMOUS");

impl Ctx {
    /// The context of a caller in this process: anonymous, newest versions, no deadline.
    #[must_use]
    pub fn local(listener: ByteString) -> Self {
        Self {
            principal: ANONYMOUS,
            peer: listener.clone(),
            listener,
            client_id: None,
            deadline: None,
            facts: Facts::newest(),
        }
    }

    /// The same context with `client.id` set.
    #[must_use]
    pub fn with_client_id(mut self, client_id: impl Into<ByteString>) -> Self {
        self.client_id = Some(client_id.into());
        self
    }

    /// The same context with a deadline, in monotonic time.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }
}

/// Something that answers requests: a broker in this process, or a connection to one.
pub trait Service: Send + Sync + 'static {
    /// Admits `request` and puts it in its place among the caller's others before returning; the answer comes later.
    ///
    /// A caller that makes two calls one after the other may rely on their order. The body must not block.
    fn call(&self, ctx: Ctx, request: Request) -> Receipt;
}

impl<S: Service + ?Sized> Service for Arc<S> {
    fn call(&self, ctx: Ctx, request: Request) -> Receipt {
        (**self).call(ctx, request)
    }
}

/// The answer to a call, to be awaited. Dropping it cancels nothing: the work has been admitted.
#[must_use = "the answer says whether the call succeeded"]
#[derive(Debug)]
pub struct Receipt(State);

#[derive(Debug)]
enum State {
    Ready(Box<Result<Response, CallError>>),
    Waiting(oneshot::Receiver<Result<Response, CallError>>),
    /// Nothing will come: there is no answer by protocol, or it has been taken.
    Silent,
}

impl Receipt {
    /// An answer that is known already.
    pub fn ready(answer: Result<Response, CallError>) -> Self {
        Self(State::Ready(Box::new(answer)))
    }

    /// An answer that somebody else will give through the [`Completer`].
    pub fn pending() -> (Completer, Self) {
        let (send, receive) = oneshot::channel();
        (Completer(send), Self(State::Waiting(receive)))
    }

    /// No answer, by protocol: a produce with `acks=0`. Awaiting it yields [`CallError::NoAnswer`] at once.
    pub fn none() -> Self {
        Self(State::Silent)
    }

    /// Whether the protocol has no answer to this call.
    #[must_use]
    pub fn is_none(&self) -> bool {
        matches!(self.0, State::Silent)
    }
}

impl From<Response> for Receipt {
    fn from(response: Response) -> Self {
        Self::ready(Ok(response))
    }
}

impl From<CallError> for Receipt {
    fn from(error: CallError) -> Self {
        Self::ready(Err(error))
    }
}

impl Future for Receipt {
    type Output = Result<Response, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let State::Waiting(receive) = &mut self.0 {
            let answer = std::task::ready!(Pin::new(receive).poll(cx));
            self.0 = State::Silent;
            return Poll::Ready(answer.unwrap_or(Err(CallError::Abandoned)));
        }
        match std::mem::replace(&mut self.0, State::Silent) {
            State::Ready(answer) => Poll::Ready(*answer),
            State::Waiting(_) | State::Silent => Poll::Ready(Err(CallError::NoAnswer)),
        }
    }
}

/// The answering end of a [`Receipt`]. Dropping it answers [`CallError::Abandoned`].
#[derive(Debug)]
pub struct Completer(oneshot::Sender<Result<Response, CallError>>);

impl Completer {
    /// Gives the answer. Whether anybody still waits for it makes no difference.
    pub fn complete(self, answer: Result<Response, CallError>) {
        let _ = self.0.send(answer); // a dropped receipt cancels nothing, and misses nothing
    }

    /// Whether the receipt has been dropped, so that building a costly answer would be in vain.
    #[must_use]
    pub fn is_unwanted(&self) -> bool {
        self.0.is_canceled()
    }

    /// Until the receipt has been dropped: for who waits to answer, and changes nothing by giving that up.
    pub async fn unwanted(&mut self) {
        self.0.cancellation().await;
    }
}

/// Where a node is to be reached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// Host name or address.
    pub host: ByteString,
    /// TCP port; doors without a network ignore it.
    pub port: u16,
}

impl Endpoint {
    /// Names `host:port`.
    pub fn new(host: impl Into<ByteString>, port: u16) -> Self {
        Self { host: host.into(), port }
    }

    /// Reads `host:port`, as `bootstrap.servers` writes it; an IPv6 address stands in brackets.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.trim().rsplit_once(':')?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(bracketed) => bracketed,
            // Else a list with other separators than commas, such as `a:1;b:2`, would be one host of a strange name.
            None if host.contains(|c: char| c.is_whitespace() || matches!(c, ':' | ';' | ',' | '/')) => {
                return None;
            }
            None => host,
        };
        if host.is_empty() {
            return None;
        }
        Some(Self { host: host.into(), port: port.parse().ok()? })
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A way to reach nodes: the embedded broker, or TCP.
pub trait Dial: Send + Sync + 'static {
    /// Opens a link to the node at `endpoint`.
    fn dial(&self, endpoint: Endpoint) -> BoxFuture<'static, Result<Arc<dyn Link>, DialError>>;
}

/// An open way to one node.
pub trait Link: Service {
    /// The versions of `api` that the node and we both speak, as (lowest, highest); `None` when there are none.
    fn supports(&self, api: ApiKey) -> Option<(i16, i16)>;

    /// Whether the link is broken for good; calls on it fail with [`CallError::Disconnected`].
    fn is_closed(&self) -> bool;
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use futures::executor::block_on;

    use super::*;

    #[test]
    fn endpoints_read_what_they_write() {
        for text in ["localhost:9092", "127.0.0.1:1", "[::1]:65535"] {
            assert_eq!(Endpoint::parse(text).unwrap().to_string(), text);
        }
        let several = ["a:1;b:2", "a:1 b:2", "a:1,b:2", "PLAINTEXT://a:1"];
        for text in ["", "localhost", ":9092", "host:", "host:65536", "host:-1"].into_iter().chain(several) {
            assert_eq!(Endpoint::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_receipt_answers_once_and_tells_silence_from_loss() {
        assert!(matches!(block_on(Receipt::none()), Err(CallError::NoAnswer)));
        let (completer, receipt) = Receipt::pending();
        drop(completer);
        assert!(matches!(block_on(receipt), Err(CallError::Abandoned)));
        let (completer, mut receipt) = Receipt::pending();
        assert!((&mut receipt).now_or_never().is_none());
        assert!(!completer.is_unwanted());
        completer.complete(Err(CallError::TimedOut));
        assert!(matches!(block_on(receipt), Err(CallError::TimedOut)));
        let (mut completer, receipt) = Receipt::pending();
        assert!(completer.unwanted().now_or_never().is_none());
        drop(receipt);
        assert!(completer.is_unwanted() && completer.unwanted().now_or_never().is_some());
        completer.complete(Err(CallError::TimedOut));
    }
}
