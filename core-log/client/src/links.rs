//! Open ways to brokers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use millstream_env::Env;
use millstream_protocol::{CallError, Ctx, Dial, DialError, Endpoint, Link, Receipt, Response, Rpc};
use parking_lot::Mutex;

use crate::{ClientError, Result};

/// Links of one user, at most one to each broker. Requests on a link are answered in order, so who waits long (a fetch, a
/// join) has links of its own.
pub(crate) struct Links {
    env: Env,
    dial: Arc<dyn Dial>,
    client_id: ByteString,
    timeout: Duration,
    open: Mutex<BTreeMap<Endpoint, Slot>>,
}

type Slot = Arc<tokio::sync::Mutex<Option<Arc<dyn Link>>>>;

impl Links {
    pub(crate) fn new(env: Env, dial: Arc<dyn Dial>, client_id: ByteString, timeout: Duration) -> Self {
        Self { env, dial, client_id, timeout, open: Mutex::default() }
    }

    /// Links to the same brokers, apart from these.
    pub(crate) fn fork(&self) -> Self {
        Self::new(self.env.clone(), Arc::clone(&self.dial), self.client_id.clone(), self.timeout)
    }

    /// The link to `endpoint`, opened if need be.
    pub(crate) async fn get(&self, endpoint: &Endpoint) -> Result<Arc<dyn Link>> {
        let slot = Arc::clone(self.open.lock().entry(endpoint.clone()).or_default());
        let mut slot = slot.lock().await; // held while dialling, so that callers share one link
        if let Some(link) = slot.as_ref().filter(|link| !link.is_closed()) {
            return Ok(Arc::clone(link));
        }
        *slot = None;
        let dialled = self.env.timeout(self.timeout, self.dial.dial(endpoint.clone())).await;
        let link = dialled.unwrap_or_else(|_| {
            let timeout_ms = u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX);
            Err(DialError::TimedOut { endpoint: endpoint.to_string(), timeout_ms })
        })?;
        *slot = Some(Arc::clone(&link));
        Ok(link)
    }

    /// Drops the link, if it still is the one in use: after a timeout its answers may be stuck behind one that never comes.
    pub(crate) async fn forget(&self, endpoint: &Endpoint, link: &Arc<dyn Link>) {
        let slot = self.open.lock().get(endpoint).map(Arc::clone);
        if let Some(slot) = slot {
            let mut slot = slot.lock().await;
            if slot.as_ref().is_some_and(|open| Arc::ptr_eq(open, link)) {
                *slot = None;
            }
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
    pub(crate) async fn call<R: Rpc>(&self, endpoint: &Endpoint, request: R) -> Result<R::Response> {
        self.call_within(endpoint, self.timeout, request).await
    }

    /// Asks and awaits the answer, at most `timeout`.
    pub(crate) async fn call_within<R: Rpc>(
        &self,
        endpoint: &Endpoint,
        timeout: Duration,
        request: R,
    ) -> Result<R::Response> {
        let link = self.get(endpoint).await?;
        let receipt = self.begin(&link, request, timeout);
        let answer = self.env.timeout(timeout, receipt).await.unwrap_or(Err(CallError::TimedOut));
        if matches!(&answer, Err(error) if error.is_retriable()) {
            self.forget(endpoint, &link).await;
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
