//! A connection to a broker.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Buf;
use indexmap::IndexMap;
use millstream_env::{Env, Stream, TaskGroup};
use millstream_protocol::frames::{correlation_id, decode_response, encode_request};
use millstream_protocol::wire::Segments;
use millstream_protocol::{
    ApiKey, CallError, Completer, Ctx, Link, Receipt, Request, Response, Service, versions,
};
use parking_lot::Mutex;
use rustc_hash::FxBuildHasher;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{Notify, mpsc};

use crate::connection::prefix;
use crate::frame::FrameReader;
use crate::{DialConfig, NetError, first_of};

/// Requests that wait to be written ride along in one write until it has this many bytes.
const WRITE_TOGETHER_BYTES: usize = 64 * 1024;

/// Whom the link leads to.
pub(crate) struct Broker {
    pub(crate) address: String,
    pub(crate) versions: IndexMap<ApiKey, (i16, i16), FxBuildHasher>,
}

/// A [`Link`] over one connection. Its tasks end with it.
pub(crate) struct TcpLink {
    shared: Arc<Shared>,
    outgoing: mpsc::Sender<Outgoing>,
    correlation: AtomicI32,
    _tasks: TaskGroup,
}

/// A request that is to be written.
struct Outgoing {
    frame: Segments,
    /// Who waits for that, since there is no answer (`acks=0`).
    written: Option<Completer>,
}

struct Shared {
    env: Env,
    config: Arc<DialConfig>,
    broker: Broker,
    waiting: Mutex<Waiting>,
    unsent_bytes: AtomicUsize,
    /// A call has a deadline earlier than the one that the watchdog sleeps for.
    earlier: Notify,
}

/// Calls that wait for their answer, in the order of their requests.
struct Waiting {
    calls: VecDeque<Call>,
    watched_until: Duration,
    /// Why the link is closed, once it is.
    closed: Option<String>,
}

struct Call {
    correlation_id: i32,
    api: ApiKey,
    version: i16,
    /// `None` once the caller has been told that time is up; the answer still has to be taken off the wire.
    completer: Option<Completer>,
    deadline: Duration,
    /// When the broker is taken for gone if this call is the oldest: answers come in order, so silence behind an older call
    /// means nothing.
    gives_up: Duration,
}

impl TcpLink {
    pub(crate) fn start(
        env: Env,
        config: Arc<DialConfig>,
        broker: Broker,
        frames: FrameReader<ReadHalf<Box<dyn Stream>>>,
        write: WriteHalf<Box<dyn Stream>>,
    ) -> Self {
        let (outgoing, queued) = mpsc::channel(config.max_in_flight.max(1));
        let tasks = env.group();
        let waiting = Waiting { calls: VecDeque::new(), watched_until: Duration::MAX, closed: None };
        let shared = Arc::new(Shared {
            env,
            config,
            broker,
            waiting: Mutex::new(waiting),
            unsent_bytes: AtomicUsize::new(0),
            earlier: Notify::new(),
        });
        let task = Arc::clone(&shared);
        tasks.spawn("net-link", async move {
            let moving = first_of(receive(&task, frames), transmit(&task, write, queued));
            let ended = first_of(moving, watch(&task)).await;
            task.close(&ended);
        });
        Self { shared, outgoing, correlation: AtomicI32::new(1), _tasks: tasks }
    }

    fn try_call(&self, ctx: &Ctx, request: Request) -> Result<Receipt, CallError> {
        let shared = &self.shared;
        let api = request.api();
        let unsupported = || CallError::Unsupported { peer: shared.broker.address.clone(), api: api.name() };
        let range = self.supports(api).ok_or_else(unsupported)?;
        let version = versions::choose(&request, range).ok_or_else(unsupported)?;
        let silent = matches!(&request, Request::Produce(produce) if produce.acks == 0);
        let correlation_id = self.correlation.fetch_add(1, Ordering::Relaxed);
        let client_id = ctx.client_id.as_ref().unwrap_or(&shared.config.client_id);
        let mut frame = encode_request(correlation_id, Some(client_id), request, version)?;
        frame.push_front(prefix(&frame));

        let now = shared.env.elapsed();
        let patience = now.saturating_add(shared.config.request_timeout);
        // A caller knows how long its answer may take (a JoinGroup waits for other members); the link must not know better.
        let deadline = ctx.deadline.unwrap_or(patience);
        let gives_up = deadline.max(patience);
        let mut waiting = shared.waiting.lock();
        if let Some(reason) = &waiting.closed {
            return Err(shared.disconnected(reason.clone()));
        }
        let limit = shared.config.max_in_flight;
        let unsent = shared.unsent_bytes.load(Ordering::Relaxed);
        let full = waiting.calls.len() >= limit || unsent > shared.config.max_unsent_bytes;
        let place = if full { None } else { self.outgoing.try_reserve().ok() };
        let Some(place) = place else {
            return Err(CallError::Busy { peer: shared.broker.address.clone(), limit });
        };
        // Under the lock, so that the order of the calls is the order on the wire.
        shared.unsent_bytes.fetch_add(frame.len(), Ordering::Relaxed);
        let (completer, receipt) = Receipt::pending();
        if silent {
            // Told once it has left: a producer that is done with its records may drop the link, and with it what has not.
            place.send(Outgoing { frame, written: Some(completer) });
            return Ok(receipt);
        }
        place.send(Outgoing { frame, written: None });
        let completer = Some(completer);
        waiting.calls.push_back(Call { correlation_id, api, version, completer, deadline, gives_up });
        shared.watch_until(&mut waiting, deadline);
        Ok(receipt)
    }
}

impl Service for TcpLink {
    fn call(&self, ctx: Ctx, request: Request) -> Receipt {
        self.try_call(&ctx, request).unwrap_or_else(Receipt::from)
    }
}

impl Link for TcpLink {
    fn supports(&self, api: ApiKey) -> Option<(i16, i16)> {
        self.shared.broker.versions.get(&api).copied()
    }

    fn is_closed(&self) -> bool {
        self.shared.waiting.lock().closed.is_some()
    }
}

impl Drop for TcpLink {
    fn drop(&mut self) {
        self.shared.end("the link was dropped".to_owned());
    }
}

impl Shared {
    fn disconnected(&self, reason: String) -> CallError {
        CallError::Disconnected { peer: self.broker.address.clone(), reason }
    }

    fn close(&self, error: &NetError) {
        tracing::debug!(peer = self.broker.address, reason = %error, "link closed");
        self.end(error.to_string());
    }

    /// Fails every call that waits, and every later one.
    fn end(&self, reason: String) {
        let calls = {
            let mut waiting = self.waiting.lock();
            waiting.closed.get_or_insert_with(|| reason.clone());
            std::mem::take(&mut waiting.calls)
        };
        for completer in calls.into_iter().filter_map(|call| call.completer) {
            completer.complete(Err(self.disconnected(reason.clone())));
        }
    }

    /// Takes the call that an answer with this correlation id belongs to.
    fn answered(&self, got: i32) -> Result<Call, NetError> {
        let mut waiting = self.waiting.lock();
        let expected = waiting.calls.front().map(|call| call.correlation_id);
        if expected != Some(got) {
            return Err(NetError::Correlation { got, expected });
        }
        let call = waiting.calls.pop_front().expect("there is a front");
        let patience = self.env.elapsed().saturating_add(self.config.request_timeout);
        if let Some(oldest) = waiting.calls.front_mut() {
            oldest.gives_up = oldest.gives_up.max(patience);
            let gives_up = oldest.gives_up;
            self.watch_until(&mut waiting, gives_up);
        }
        Ok(call)
    }

    /// Has the watchdog look at the calls no later than `until`.
    fn watch_until(&self, waiting: &mut Waiting, until: Duration) {
        if until < waiting.watched_until {
            waiting.watched_until = until;
            self.earlier.notify_one();
        }
    }

    /// Tells callers whose time is up; the time of the next one, or why the broker is taken for gone.
    fn expire(&self) -> Result<Duration, NetError> {
        let now = self.env.elapsed();
        let mut waiting = self.waiting.lock();
        let mut next = waiting.calls.front().map_or(Duration::MAX, |oldest| oldest.gives_up);
        if next <= now {
            return Err(NetError::NoAnswer { timeout_ms: self.config.request_timeout.as_millis() });
        }
        for call in &mut waiting.calls {
            if call.deadline <= now
                && let Some(completer) = call.completer.take()
            {
                completer.complete(Err(CallError::TimedOut));
            }
            if call.completer.is_some() {
                next = next.min(call.deadline);
            }
        }
        waiting.watched_until = next;
        Ok(next)
    }
}

/// Reads answers until something is wrong.
async fn receive(shared: &Shared, mut frames: FrameReader<ReadHalf<Box<dyn Stream>>>) -> NetError {
    loop {
        let answer = match frames.next().await {
            Ok(Some(frame)) => take_answer(shared, frame.bytes),
            Ok(None) => return NetError::Io(std::io::ErrorKind::ConnectionAborted.into()),
            Err(error) => return error,
        };
        match answer {
            Ok((Some(completer), response)) => completer.complete(response),
            Ok((None, _)) => {}
            Err(error) => return error,
        }
    }
}

type Answer = (Option<Completer>, Result<Response, CallError>);

fn take_answer(shared: &Shared, frame: bytes::Bytes) -> Result<Answer, NetError> {
    let call = shared.answered(correlation_id(&frame)?)?;
    let response = decode_response(frame, call.api, call.version).map_err(CallError::from);
    Ok((call.completer, response))
}

/// Writes requests until something is wrong.
async fn transmit(
    shared: &Shared,
    mut write: WriteHalf<Box<dyn Stream>>,
    mut queued: mpsc::Receiver<Outgoing>,
) -> NetError {
    while let Some(Outgoing { frame: mut out, written }) = queued.recv().await {
        let mut written: Vec<_> = written.into_iter().collect();
        while out.len() < WRITE_TOGETHER_BYTES {
            let Ok(more) = queued.try_recv() else { break };
            out.append(more.frame);
            written.extend(more.written);
        }
        let length = out.len();
        while out.has_remaining() {
            match write.write_buf(&mut out).await {
                Ok(0) => return NetError::Io(std::io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) => return error.into(),
            }
        }
        if let Err(error) = write.flush().await {
            return error.into();
        }
        shared.unsent_bytes.fetch_sub(length, Ordering::Relaxed);
        written.into_iter().for_each(|completer| completer.complete(Err(CallError::NoAnswer)));
    }
    std::future::pending().await // the link is being dropped, and its tasks with it
}

/// Keeps the deadlines until the broker is taken for gone.
async fn watch(shared: &Shared) -> NetError {
    loop {
        let next = match shared.expire() {
            Ok(next) => next,
            Err(error) => return error,
        };
        let earlier = shared.earlier.notified();
        if next == Duration::MAX {
            earlier.await;
        } else {
            first_of(earlier, shared.env.sleep_until(next)).await;
        }
    }
}
