//! One served connection: a reader that calls, a writer that answers in order, a watchdog.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use bytestring::ByteString;
use futures::future::try_join;
use futures::{FutureExt, TryFutureExt};
use millstream_env::{Accepted, Env, Stream};
use millstream_protocol::frames::{InboundRequest, RequestError, decode_request, encode_response};
use millstream_protocol::messages::ApiVersionsResponse;
use millstream_protocol::versions::Audience;
use millstream_protocol::wire::Segments;
use millstream_protocol::{ANONYMOUS, CallError, Ctx, ErrorCode, Receipt, Request, Response, Service};
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::frame::{Budget, FrameReader};
use crate::progress::Progress;
use crate::{NetConfig, NetError, first_of};

/// Answers that are ready ride along in one write until it has this many bytes.
const WRITE_TOGETHER_BYTES: usize = 64 * 1024;
/// Requests in flight are counted in units of this many bytes.
const UNIT_BYTES: usize = 1024;

/// What all connections of a listener share.
pub(crate) struct Door {
    pub(crate) env: Env,
    pub(crate) service: Arc<dyn Service>,
    pub(crate) config: NetConfig,
    pub(crate) budget: Budget,
}

/// One connection.
pub(crate) struct Connection {
    door: Arc<Door>,
    peer: ByteString,
    stream: Box<dyn Stream>,
    progress: Arc<Progress>,
}

/// A request that waits for its answer, and what it holds until the answer has left.
struct InFlight {
    correlation_id: i32,
    version: i16,
    receipt: Receipt,
    _bytes: Option<OwnedSemaphorePermit>,
    _leave: Option<OwnedSemaphorePermit>,
    _fetch: Option<OwnedSemaphorePermit>,
}

impl Connection {
    pub(crate) fn new(door: Arc<Door>, accepted: Accepted) -> Self {
        let progress = Progress::new(door.env.clone(), &door.config);
        Self { door, peer: accepted.peer.into(), stream: accepted.stream, progress }
    }

    /// Serves until the peer leaves, everything it asked for being answered, or until something is wrong.
    pub(crate) async fn run(self) -> Result<(), NetError> {
        let Self { door, peer, stream, progress } = self;
        let (read, write) = tokio::io::split(stream);
        let (queue, queued) = mpsc::channel(door.config.max_in_flight.max(1));
        let frames = FrameReader::new(read, door.config.max_request_bytes)
            .guarded(door.budget.clone(), Arc::clone(&progress));
        let in_flight_units = (door.config.max_in_flight_bytes / UNIT_BYTES).clamp(1, u32::MAX as usize >> 3);
        let caller = Caller {
            door,
            peer,
            frames,
            queue,
            progress: Arc::clone(&progress),
            in_flight_units,
            in_flight_bytes: Arc::new(Semaphore::new(in_flight_units)),
            fetches: Arc::new(Semaphore::new(1)),
        };
        let serving = try_join(caller.run(), answer(write, queued, &progress));
        first_of(serving.map_ok(|_| ()), progress.watch().map(Err)).await
    }
}

/// The reading half: frames in, calls out.
struct Caller {
    door: Arc<Door>,
    peer: ByteString,
    frames: FrameReader<ReadHalf<Box<dyn Stream>>>,
    queue: mpsc::Sender<InFlight>,
    progress: Arc<Progress>,
    in_flight_units: usize,
    in_flight_bytes: Arc<Semaphore>,
    /// One fetch at a time: its answer may be large, and a peer that never reads must not pile them up.
    fetches: Arc<Semaphore>,
}

impl Caller {
    async fn run(mut self) -> Result<(), NetError> {
        while let Some(frame) = self.frames.next().await? {
            let units = (frame.bytes.len() / UNIT_BYTES).min(self.in_flight_units) as u32;
            let bytes = match units {
                0 => None,
                units => Arc::clone(&self.in_flight_bytes).acquire_many_owned(units).await.ok(),
            };
            // The bound comes before the call: what has been called must find its place in the queue.
            let Ok(place) = self.queue.clone().reserve_owned().await else { return Ok(()) };
            let (correlation_id, version, receipt, fetch) =
                match decode_request(frame.bytes, self.door.config.audience) {
                    Ok(inbound) => {
                        let fetch = match inbound.request {
                            Request::Fetch(_) => Arc::clone(&self.fetches).acquire_owned().await.ok(),
                            _ => None,
                        };
                        let (id, version) = (inbound.header.correlation_id, inbound.header.api_version);
                        (id, version, self.call(inbound), fetch)
                    }
                    Err(RequestError::ApiVersionsTooNew { correlation_id, .. }) => {
                        (correlation_id, 0, Receipt::from(versions_told(self.door.config.audience)), None)
                    }
                    Err(error) => return Err(error.into()),
                };
            if receipt.is_none() {
                continue;
            }
            self.progress.called();
            let (_bytes, _leave, _fetch) = (bytes, frame.leave, fetch);
            place.send(InFlight { correlation_id, version, receipt, _bytes, _leave, _fetch });
        }
        self.progress.peer_left();
        Ok(())
    }

    fn call(&self, inbound: InboundRequest) -> Receipt {
        let ctx = Ctx {
            principal: ANONYMOUS,
            listener: self.door.config.listener.clone(),
            client_id: inbound.header.client_id,
            peer: self.peer.clone(),
            deadline: None,
            facts: inbound.facts,
        };
        self.door.service.call(ctx, inbound.request)
    }
}

/// What a client is told that asks for the versions in a version of its own (KIP-511).
fn versions_told(audience: Audience) -> Response {
    ApiVersionsResponse {
        error_code: ErrorCode::UnsupportedVersion.code(),
        api_keys: audience.told(),
        ..Default::default()
    }
    .into()
}

/// The writing half: answers out, in the order of the calls.
async fn answer(
    mut write: WriteHalf<Box<dyn Stream>>,
    mut queued: mpsc::Receiver<InFlight>,
    progress: &Progress,
) -> Result<(), NetError> {
    let mut next = queued.recv().await;
    while let Some(mut first) = next.take() {
        let mut out = Segments::default();
        let response = (&mut first.receipt).await;
        append(&mut out, &first, response)?;
        let mut answered = vec![first];
        let mut goes_on = Ok(());
        while out.len() < WRITE_TOGETHER_BYTES && goes_on.is_ok() {
            let Ok(mut more) = queued.try_recv() else { break };
            match (&mut more.receipt).now_or_never() {
                Some(response) => {
                    goes_on = append(&mut out, &more, response);
                    answered.push(more);
                }
                None => {
                    next = Some(more);
                    break;
                }
            }
        }
        // Also where the connection ends for an answer that cannot be given: those before it are due all the same.
        send(&mut write, out, progress).await?;
        goes_on?;
        progress.answered(answered.len());
        drop(answered); // only now is what they hold free for others
        if next.is_none() {
            next = queued.recv().await;
        }
    }
    write.shutdown().await?;
    Ok(())
}

fn append(
    out: &mut Segments,
    request: &InFlight,
    response: Result<Response, CallError>,
) -> Result<(), NetError> {
    let response = match response {
        Err(CallError::NoAnswer) => return Ok(()),
        other => other?,
    };
    let api = response.api();
    let frame = encode_response(request.correlation_id, response, request.version).inspect_err(|error| {
        tracing::error!(%api, version = request.version, %error, "the service's answer does not fit the request");
    })?;
    out.push(prefix(&frame));
    out.append(frame);
    Ok(())
}

/// The length that stands before a frame.
pub(crate) fn prefix(frame: &Segments) -> Bytes {
    Bytes::copy_from_slice(&u32::try_from(frame.len()).unwrap_or(u32::MAX).to_be_bytes())
}

async fn send(
    write: &mut WriteHalf<Box<dyn Stream>>,
    mut out: Segments,
    progress: &Progress,
) -> Result<(), NetError> {
    if out.is_empty() {
        return Ok(());
    }
    let (began, mut written) = (progress.write_began(), 0);
    while out.has_remaining() {
        let count = write.write_buf(&mut out).await?;
        if count == 0 {
            return Err(NetError::Io(std::io::ErrorKind::WriteZero.into()));
        }
        written += count;
        progress.write_moved(began, written);
    }
    write.flush().await?;
    Ok(())
}
