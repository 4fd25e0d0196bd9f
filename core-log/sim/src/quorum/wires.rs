//! [`Wires`]: requests between members of a quorum, with delays, cuts in one direction, and members that are not there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use millstream_broker::quorum::QuorumLog;
use millstream_protocol::messages::{ApiKey, Request, Response};
use millstream_protocol::wire::{Reader, Writer};
use millstream_protocol::{CallError, Ctx, Dial, DialError, Endpoint, Link, Receipt, Service};
use parking_lot::Mutex;

use crate::executor::{Owner, Sim};

/// A message takes up to this long.
const DELAY_MAX_NS: u64 = 4_000_000;
/// What is sent over a cut wire stays unanswered for this long: longer than anybody waits.
const SILENCE: Duration = Duration::from_secs(30);

/// The wires between all members. Members are called by the port of their endpoint.
#[derive(Clone)]
pub struct Wires {
    sim: Sim,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    doors: BTreeMap<u16, (Owner, Arc<QuorumLog>)>,
    cut: BTreeSet<(u16, u16)>,
    messages: u64,
}

impl Wires {
    /// No member and no cut yet.
    pub fn new(sim: &Sim) -> Self {
        Self { sim: sim.clone(), state: Arc::default() }
    }

    /// From now on requests to `member` reach this incarnation of it.
    pub fn connect(&self, member: u16, owner: Owner, quorum: Arc<QuorumLog>) {
        self.state.lock().doors.insert(member, (owner, quorum));
    }

    /// `member` is gone; whoever asks it is told so.
    pub fn disconnect(&self, member: u16) {
        self.state.lock().doors.remove(&member);
    }

    /// Nothing gets from `from` to `to` any more.
    pub fn cut(&self, from: u16, to: u16) {
        self.state.lock().cut.insert((from, to));
    }

    /// Every wire works again.
    pub fn mend(&self) {
        self.state.lock().cut.clear();
    }

    /// Requests that were sent so far.
    pub fn messages(&self) -> u64 {
        self.state.lock().messages
    }

    /// The way out for `member`.
    pub fn dial_from(&self, member: u16) -> Arc<dyn Dial> {
        Arc::new(WayOut { wires: self.clone(), from: member })
    }

    fn is_cut(&self, from: u16, to: u16) -> bool {
        self.state.lock().cut.contains(&(from, to))
    }

    async fn travel(&self, from: u16, to: u16) -> bool {
        let delay = Duration::from_nanos(self.sim.below(DELAY_MAX_NS));
        let env = self.sim.env_of(Owner::WORLD);
        env.sleep(delay).await;
        if self.is_cut(from, to) {
            env.sleep(SILENCE).await;
            return false;
        }
        true
    }

    /// Takes `request` there and its answer back, both as bytes.
    async fn exchange(
        &self,
        from: u16,
        to: u16,
        api: ApiKey,
        request: bytes::Bytes,
    ) -> Result<Response, CallError> {
        let gone = |reason: &str| CallError::Disconnected { peer: to.to_string(), reason: reason.to_owned() };
        if !self.travel(from, to).await {
            return Err(gone("silence"));
        }
        let (owner, quorum) =
            self.state.lock().doors.get(&to).cloned().ok_or_else(|| gone("nobody there"))?;
        let request = Request::read(api, &mut Reader::new(request), 0)?;
        let answering = quorum.serve(request).map_err(|_| gone("no such request"))?;
        let (answer, answered) = futures::channel::oneshot::channel();
        self.sim.env_of(owner).spawn("serve", async move {
            let _ = answer.send(answering.await); // who asked may be gone
        });
        let response = answered.await.map_err(|_| gone("it died"))?;
        let mut writer = Writer::new();
        response.write(&mut writer, 0)?;
        if !self.travel(to, from).await {
            return Err(gone("silence"));
        }
        Ok(Response::read(api, &mut Reader::new(writer.finish().into_bytes()), 0)?)
    }
}

struct WayOut {
    wires: Wires,
    from: u16,
}

impl Dial for WayOut {
    fn dial(&self, endpoint: Endpoint) -> BoxFuture<'static, Result<Arc<dyn Link>, DialError>> {
        let (wires, from, to) = (self.wires.clone(), self.from, endpoint.port);
        async move {
            let reached = wires.travel(from, to).await && wires.state.lock().doors.contains_key(&to);
            if !reached {
                let reason = "nobody answers".to_owned();
                return Err(DialError::Unreachable { endpoint: endpoint.to_string(), reason });
            }
            Ok(Arc::new(Wire { wires, from, to, closed: AtomicBool::new(false) }) as Arc<dyn Link>)
        }
        .boxed()
    }
}

struct Wire {
    wires: Wires,
    from: u16,
    to: u16,
    closed: AtomicBool,
}

impl Service for Wire {
    fn call(&self, _ctx: Ctx, request: Request) -> Receipt {
        self.wires.state.lock().messages += 1;
        let (api, mut writer) = (request.api(), Writer::new());
        if let Err(error) = request.write(&mut writer, 0) {
            return CallError::Codec(error).into();
        }
        let bytes = writer.finish().into_bytes();
        let (completer, receipt) = Receipt::pending();
        let (wires, from, to) = (self.wires.clone(), self.from, self.to);
        self.wires.sim.env_of(Owner::WORLD).spawn("wire", async move {
            completer.complete(wires.exchange(from, to, api, bytes).await);
        });
        receipt
    }
}

impl Link for Wire {
    fn supports(&self, _: ApiKey) -> Option<(i16, i16)> {
        Some((0, 0))
    }

    fn is_closed(&self) -> bool {
        let gone = !self.wires.state.lock().doors.contains_key(&self.to);
        self.closed.fetch_or(gone, Ordering::AcqRel) || gone
    }
}
