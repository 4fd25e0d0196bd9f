//! A service to serve, and what tests need around it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use futures::channel::oneshot;
use millstream_env::{Env, HostRuntime, Stream};
use millstream_net::{NetConfig, TcpDial, serve};
use millstream_protocol::messages::{
    ApiVersionsResponse, FetchResponse, MetadataResponse, ProduceResponse, fetch, metadata,
};
use millstream_protocol::versions::Audience;
use millstream_protocol::{
    CallError, Completer, Ctx, Dial, Endpoint, Link, Receipt, Request, Response, Service,
};
use parking_lot::Mutex;
use tokio::io::AsyncReadExt;

/// Bound for anything that a test waits for.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// Answers Metadata with the names that were asked for. A name that begins with `wait` is answered when the test says so; one
/// that begins with `fail` is not answered at all.
#[derive(Default)]
pub(crate) struct Sample {
    pub(crate) waiting: Mutex<Vec<(String, Completer)>>,
    pub(crate) calls: Mutex<Vec<(Ctx, Request)>>,
    pub(crate) records: Mutex<Bytes>,
}

impl Service for Sample {
    fn call(&self, ctx: Ctx, request: Request) -> Receipt {
        self.calls.lock().push((ctx, request.clone()));
        match request {
            Request::ApiVersions(_) => Response::from(ApiVersionsResponse {
                api_keys: Audience::Clients.told(),
                ..Default::default()
            })
            .into(),
            Request::Metadata(asked) => {
                let name = asked.topics.and_then(|mut topics| topics.pop()).and_then(|topic| topic.name);
                self.metadata(name.unwrap_or_default())
            }
            Request::Produce(produce) if produce.acks == 0 => Receipt::none(),
            Request::Produce(_) => Response::from(ProduceResponse::default()).into(),
            Request::Fetch(_) => {
                let records = Some(self.records.lock().clone());
                let partition = fetch::PartitionData { records, ..Default::default() };
                let topic =
                    fetch::FetchableTopicResponse { partitions: vec![partition], ..Default::default() };
                Response::from(FetchResponse { responses: vec![topic], ..Default::default() }).into()
            }
            other => CallError::Unsupported { peer: "sample".into(), api: other.api().name() }.into(),
        }
    }
}

impl Sample {
    fn metadata(&self, name: ByteString) -> Receipt {
        if name.starts_with("fail") {
            return CallError::Abandoned.into();
        }
        if name.starts_with("wait") {
            let (completer, receipt) = Receipt::pending();
            self.waiting.lock().push((name.to_string(), completer));
            return receipt;
        }
        named(name).into()
    }

    /// Answers what waits, newest first: the order on the wire must not follow.
    pub(crate) fn release(&self) {
        while let Some((name, completer)) = self.waiting.lock().pop() {
            completer.complete(Ok(named(name.into())));
        }
    }
}

/// A metadata response that holds `name`.
pub(crate) fn named(name: ByteString) -> Response {
    let topic = metadata::MetadataResponseTopic { name: Some(name), ..Default::default() };
    MetadataResponse { topics: vec![topic], ..Default::default() }.into()
}

/// The name in a response of [`named`].
pub(crate) fn name_of(response: Result<Response, CallError>) -> String {
    match response.unwrap() {
        Response::Metadata(response) => response.topics[0].name.clone().unwrap().to_string(),
        other => panic!("{other:?}"),
    }
}

/// A running server.
pub(crate) struct World {
    pub(crate) env: Env,
    pub(crate) service: Arc<Sample>,
    pub(crate) address: String,
    pub(crate) stop: oneshot::Sender<()>,
}

/// Runs `test` against a server with `config`.
pub(crate) fn world<F: Future<Output = ()>>(config: NetConfig, test: impl FnOnce(World) -> F) {
    let (runtime, env) = HostRuntime::start("net-test", 2).unwrap();
    runtime.block_on(async {
        let listener = env.listen("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr();
        let service = Arc::new(Sample::default());
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = serve(
            env.clone(),
            listener,
            service.clone(),
            config,
            Box::pin(async {
                let _ = stopped.await;
            }),
        );
        let task = env.spawn("serve", serving);
        let test = test(World { env: env.clone(), service, address, stop });
        env.timeout(Duration::from_secs(60), test).await.expect("the test ends");
        task.abort();
    });
}

impl World {
    pub(crate) async fn dial(&self) -> Arc<dyn Link> {
        let endpoint = Endpoint::parse(&self.address).unwrap();
        TcpDial::new(self.env.clone()).dial(endpoint).await.unwrap()
    }

    pub(crate) async fn connect(&self) -> Box<dyn Stream> {
        self.env.connect(&self.address).await.unwrap()
    }

    /// Whether the server closes `stream` soon; what it sends until then is returned.
    pub(crate) async fn until_closed(&self, stream: &mut Box<dyn Stream>) -> Vec<u8> {
        let mut sent = Vec::new();
        let read = self.env.timeout(SOON, stream.read_to_end(&mut sent)).await;
        let _reset_or_eof = read.expect("the server closes the connection");
        sent
    }

    /// Waits until `condition` holds.
    pub(crate) async fn wait_until(&self, what: &str, condition: impl Fn() -> bool) {
        let began = self.env.elapsed();
        while !condition() {
            assert!(self.env.elapsed() - began < SOON, "{what}");
            self.env.sleep(Duration::from_millis(2)).await;
        }
    }
}
