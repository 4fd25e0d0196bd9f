//! Open ways to brokers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use futures::FutureExt;
use futures::future::{BoxFuture, WeakShared};
use millstream_env::Env;
use millstream_protocol::{CallError, Ctx, Dial, DialError, Endpoint, Link, Receipt, Response, Rpc};
use parking_lot::Mutex;

use crate::{ClientError, Result};

/// Links of one user, at most one to each broker. Requests on a link are answered in order, so who waits long (a fetch, a
/// join) has links of its own.
pub struct Links {
    env: Env,
    dial: Arc<dyn Dial>,
    client_id: ByteString,
    timeout: Duration,
    open: Arc<Mutex<BTreeMap<Endpoint, Slot>>>,
}

#[derive(Default)]
struct Slot {
    link: Option<Arc<dyn Link>>,
    dialling: Option<WeakShared<Dialling>>,
}

/// Callers share one link, and whoever waits for it drives the dialling: a caller that is no longer polled (a consumer's between
/// two polls) must not hold up the others, as it would with a lock in its hands.
type Dialling = BoxFuture<'static, Result<Arc<dyn Link>, DialError>>;

impl Links {
    /// No link is open yet. Nobody waits for an answer longer than `timeout`, unless asked to.
    #[must_use]
    pub fn new(env: Env, dial: Arc<dyn Dial>, client_id: ByteString, timeout: Duration) -> Self {
        Self { env, dial, client_id, timeout, open: Arc::default() }
    }

    /// Links to the same brokers, apart from these.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self::new(self.env.clone(), Arc::clone(&self.dial), self.client_id.clone(), self.timeout)
    }

    /// The link to `endpoint`, opened if need be.
    pub(crate) fn get<'a>(&'a self, endpoint: &'a Endpoint) -> BoxFuture<'a, Result<Arc<dyn Link>>> {
        async move {
            let dialling = {
                let mut open = self.open.lock();
                let slot = open.entry(endpoint.clone()).or_default();
                if let Some(link) = slot.link.as_ref().filter(|link| !link.is_closed()) {
                    return Ok(Arc::clone(link));
                }
                slot.link = None;
                let under_way = slot.dialling.as_ref().and_then(WeakShared::upgrade);
                under_way.filter(|dialling| dialling.peek().is_none()).unwrap_or_else(|| {
                    let dialling = self.dial(endpoint.clone()).shared();
                    slot.dialling = dialling.downgrade();
                    dialling
                })
            };
            Ok(dialling.await?)
        }
        .boxed()
    }

    /// Opens a link and keeps it.
    fn dial(&self, endpoint: Endpoint) -> Dialling {
        let (env, open, timeout) = (self.env.clone(), Arc::clone(&self.open), self.timeout);
        let dialling = self.dial.dial(endpoint.clone());
        let dial = async move {
            let link = env.timeout(timeout, dialling).await.unwrap_or_else(|_| {
                let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
                Err(DialError::TimedOut { endpoint: endpoint.to_string(), timeout_ms })
            })?;
            open.lock().entry(endpoint).or_default().link = Some(Arc::clone(&link));
            Ok(link)
        };
        dial.boxed()
    }

    /// Drops the link, if it still is the one in use: after a timeout its answers may be stuck behind one that never comes.
    pub(crate) fn forget(&self, endpoint: &Endpoint, link: &Arc<dyn Link>) {
        if let Some(slot) = self.open.lock().get_mut(endpoint)
            && slot.link.as_ref().is_some_and(|open| Arc::ptr_eq(open, link))
        {
            slot.link = None;
        }
    }

    /// Hands `request` to `link`; its place among the link's requests is fixed when this returns.
    /// Nobody waits for the answer longer than `timeout`.
    pub(crate) fn begin<R: Rpc>(&self, link: &Arc<dyn Link>, request: R, timeout: Duration) -> Receipt {
        let ctx = Ctx::local(ByteString::from_static("client"))
            .with_client_id(self.client_id.clone())
            .with_deadline(self.env.elapsed().saturating_add(timeout));
        link.call(ctx, request.into())
    }

    /// Asks and awaits the answer, at most `request.timeout.ms`.
    ///
    /// # Errors
    /// When the broker cannot be reached, does not know the request, or does not answer in time.
    pub async fn call<R: Rpc>(&self, endpoint: &Endpoint, request: R) -> Result<R::Response> {
        self.call_within(endpoint, self.timeout, request).await
    }

    /// Asks and awaits the answer, at most `timeout`.
    ///
    /// # Errors
    /// As for [`Links::call`].
    pub async fn call_within<R: Rpc>(
        &self,
        endpoint: &Endpoint,
        timeout: Duration,
        request: R,
    ) -> Result<R::Response> {
        let link = self.get(endpoint).await?;
        let receipt = self.begin(&link, request, timeout);
        let answer = self.env.timeout(timeout, receipt).await.unwrap_or(Err(CallError::TimedOut));
        if matches!(&answer, Err(error) if error.is_retriable()) {
            self.forget(endpoint, &link);
        }
        read_answer::<R>(endpoint, answer)
    }
}

/// The answer in its own type.
pub(crate) fn read_answer<R: Rpc>(
    endpoint: &Endpoint,
    answer: Result<Response, CallError>,
) -> Result<R::Response> {
    let api = R::API.name();
    let response =
        answer.map_err(|source| ClientError::Call { api, broker: endpoint.to_string(), source })?;
    response.try_into().map_err(|other: Response| ClientError::Answer {
        api,
        broker: endpoint.to_string(),
        what: format!("it is an answer to {}", other.api()),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures::channel::oneshot;
    use millstream_env::HostRuntime;
    use millstream_protocol::{ApiKey, Request, Service};

    use super::*;

    /// A link that nobody calls.
    struct Silent;

    impl Service for Silent {
        fn call(&self, _: Ctx, _: Request) -> Receipt {
            unreachable!("these tests only dial")
        }
    }

    impl Link for Silent {
        fn supports(&self, _: ApiKey) -> Option<(i16, i16)> {
            None
        }

        fn is_closed(&self) -> bool {
            false
        }
    }

    /// Dials when told to.
    #[derive(Default)]
    struct Slow {
        dialled: AtomicU32,
        waiting: Mutex<Vec<oneshot::Sender<()>>>,
    }

    impl Dial for Slow {
        fn dial(&self, _: Endpoint) -> BoxFuture<'static, Result<Arc<dyn Link>, DialError>> {
            self.dialled.fetch_add(1, Ordering::Relaxed);
            let (send, receive) = oneshot::channel();
            self.waiting.lock().push(send);
            async move {
                receive.await.unwrap();
                Ok(Arc::new(Silent) as Arc<dyn Link>)
            }
            .boxed()
        }
    }

    #[test]
    fn a_caller_that_is_not_polled_holds_up_nobody() {
        let (runtime, env) = HostRuntime::start("test", 1).unwrap();
        let dial = Arc::new(Slow::default());
        let seconds = Duration::from_secs;
        let links = Links::new(env.clone(), Arc::clone(&dial) as Arc<dyn Dial>, "c".into(), seconds(60));
        let broker = Endpoint::new("b", 1);
        runtime.block_on(async {
            let mut first = std::pin::pin!(links.get(&broker));
            assert!(futures::poll!(&mut first).is_pending());
            let mut second = std::pin::pin!(links.get(&broker));
            assert!(futures::poll!(&mut second).is_pending());
            dial.waiting.lock().drain(..).for_each(|dialled| dialled.send(()).unwrap());
            let second = env.timeout(seconds(10), second).await.expect("the first is not polled").unwrap();
            let third = env.timeout(seconds(10), links.get(&broker)).await.unwrap().unwrap();
            assert!(Arc::ptr_eq(&second, &third) && Arc::ptr_eq(&second, &first.await.unwrap()));
            assert_eq!(dial.dialled.load(Ordering::Relaxed), 1);
            links.forget(&broker, &third);
            assert!(futures::poll!(std::pin::pin!(links.get(&broker))).is_pending(), "dials again");
        });
    }
}
