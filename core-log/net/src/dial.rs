//! Reaches brokers over TCP.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use bytestring::ByteString;
use futures::FutureExt;
use futures::future::BoxFuture;
use millstream_env::{Env, Stream};
use millstream_protocol::frames::{decode_response, encode_request};
use millstream_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse};
use millstream_protocol::{ApiKey, Dial, DialError, Endpoint, ErrorCode, Link, versions};
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};

use crate::connection::prefix;
use crate::frame::FrameReader;
use crate::link::{Broker, TcpLink};
use crate::{DialConfig, NetError};

/// What we say we are (KIP-511); the protocol allows letters, digits, dots and dashes.
const SOFTWARE_NAME: ByteString = ByteString::from_static("millstream");
const SOFTWARE_VERSION: ByteString = ByteString::from_static(env!("CARGO_PKG_VERSION"));

/// A [`Dial`] over the network of an [`Env`].
#[derive(Clone)]
pub struct TcpDial {
    env: Env,
    config: Arc<DialConfig>,
}

impl TcpDial {
    /// Dials with the default bounds.
    #[must_use]
    pub fn new(env: Env) -> Self {
        Self::with(env, DialConfig::default())
    }

    /// Dials with the bounds of `config`.
    #[must_use]
    pub fn with(env: Env, config: DialConfig) -> Self {
        Self { env, config: Arc::new(config) }
    }
}

impl Dial for TcpDial {
    fn dial(&self, endpoint: Endpoint) -> BoxFuture<'static, Result<Arc<dyn Link>, DialError>> {
        let Self { env, config } = self.clone();
        async move {
            let timeout = config.connect_timeout;
            match env.timeout(timeout, open(env.clone(), config, &endpoint)).await {
                Ok(opened) => opened,
                Err(_) => Err(DialError::TimedOut {
                    endpoint: endpoint.to_string(),
                    timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
                }),
            }
        }
        .boxed()
    }
}

async fn open(env: Env, config: Arc<DialConfig>, endpoint: &Endpoint) -> Result<Arc<dyn Link>, DialError> {
    let address = endpoint.to_string();
    let unreachable = |reason: String| DialError::Unreachable { endpoint: address.clone(), reason };
    let stream = env.connect(&address).await.map_err(|error| unreachable(error.to_string()))?;
    let (read, mut write) = tokio::io::split(stream);
    let mut frames = FrameReader::new(read, config.max_response_bytes);
    let handshake = |reason: String| DialError::Handshake { endpoint: address.clone(), reason };
    let told = ask_versions(&mut frames, &mut write, &config).await.map_err(|e| handshake(e.to_string()))?;
    if told.error_code != ErrorCode::None.code() {
        return Err(handshake(ErrorCode::from_code(told.error_code).to_string()));
    }
    let versions = told.api_keys.iter().filter_map(|api| {
        let key = ApiKey::from_code(api.api_key)?;
        Some((key, versions::shared(key, (api.min_version, api.max_version))?))
    });
    let broker = Broker { address: address.clone(), versions: versions.collect() };
    Ok(Arc::new(TcpLink::start(env, config, broker, frames, write)))
}

type Frames = FrameReader<ReadHalf<Box<dyn Stream>>>;
type Write = WriteHalf<Box<dyn Stream>>;

/// Asks in our newest version. A broker that does not know it answers in version 0 and says what it has (KIP-511); then we ask
/// again in that.
async fn ask_versions(
    frames: &mut Frames,
    write: &mut Write,
    config: &DialConfig,
) -> Result<ApiVersionsResponse, NetError> {
    let newest = ApiKey::ApiVersions.defined().1;
    let first = ask(frames, write, config, newest).await?;
    if error_code(&first) != ErrorCode::UnsupportedVersion.code() {
        return read(first, newest);
    }
    let told = read(first, 0)?;
    let theirs = told.api_keys.iter().find(|api| api.api_key == ApiKey::ApiVersions as i16);
    let version = theirs.map_or(0, |api| api.max_version.clamp(0, newest));
    read(ask(frames, write, config, version).await?, version)
}

async fn ask(
    frames: &mut Frames,
    write: &mut Write,
    config: &DialConfig,
    version: i16,
) -> Result<Bytes, NetError> {
    let request =
        ApiVersionsRequest { client_software_name: SOFTWARE_NAME, client_software_version: SOFTWARE_VERSION };
    let mut frame = encode_request(0, Some(&config.client_id), request.into(), version)?;
    frame.push_front(prefix(&frame));
    write.write_all_buf(&mut frame).await?;
    write.flush().await?;
    let answer = frames.next().await?.ok_or(NetError::CutOff { arrived: 0 })?;
    Ok(answer.bytes)
}

fn read(frame: Bytes, version: i16) -> Result<ApiVersionsResponse, NetError> {
    let response = decode_response(frame, ApiKey::ApiVersions, version)?;
    Ok(ApiVersionsResponse::try_from(response).expect("the API was given"))
}

/// The error code stands at the same place in every version: behind the correlation id.
fn error_code(frame: &Bytes) -> i16 {
    let mut body = frame.clone();
    if body.len() < 6 {
        return ErrorCode::None.code(); // reading it says what is wrong
    }
    body.advance(4);
    body.get_i16()
}
