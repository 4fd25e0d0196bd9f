//! Whole frames: header and body, as they stand between two size prefixes (those are net's).

use bytes::Bytes;
use bytestring::ByteString;

use crate::shape::{fit_request, fit_response, settle_request, settle_response};
use crate::versions::Audience;
use crate::wire::{Reader, Segments, Wire, Writer};
use crate::{ApiKey, CodecError, Facts, Request, Response, facts};

/// Lists of one request take at most this much memory when read, however long the frame is. (Records and strings are slices of the
/// frame, and do not count.)
pub const MAX_REQUEST_LISTS_BYTES: usize = 32 * 1024 * 1024;

/// What stands before the body of every request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// The number of the API.
    pub api_key: i16,
    /// The version of the request, and so of its answer.
    pub api_version: i16,
    /// The client's number for the request; the answer carries it back.
    pub correlation_id: i32,
    /// `client.id`.
    pub client_id: Option<ByteString>,
}

/// A request off the wire.
#[derive(Clone, Debug, PartialEq)]
pub struct InboundRequest {
    /// Its header.
    pub header: RequestHeader,
    /// What is asked, in the newest form.
    pub request: Request,
    /// What the version implies.
    pub facts: Facts,
}

/// Why a frame is not a request that we answer in the ordinary way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// ApiVersions in a version that we do not know: answer in version 0 with
    /// [`UnsupportedVersion`](crate::ErrorCode::UnsupportedVersion) and our ranges (KIP-511).
    #[error("ApiVersions version {version} is not served")]
    ApiVersionsTooNew {
        /// The version asked for.
        version: i16,
        /// To be carried back.
        correlation_id: i32,
    },
    /// An API that we do not serve: close the connection.
    #[error("API key {api_key} is not served")]
    UnknownApi {
        /// The number asked for.
        api_key: i16,
    },
    /// A version that we do not serve: close the connection.
    #[error("{api} version {version} is not served")]
    UnknownVersion {
        /// The API asked for.
        api: ApiKey,
        /// The version asked for.
        version: i16,
    },
    /// The bytes are no such request: close the connection.
    #[error("{0}")]
    Codec(#[from] CodecError),
}

/// Reads a request that our broker serves.
///
/// # Errors
/// When it does not serve it, or the bytes are no such request.
pub fn decode_request(frame: Bytes, audience: Audience) -> Result<InboundRequest, RequestError> {
    let mut reader = Reader::limited(frame, MAX_REQUEST_LISTS_BYTES);
    let api_key = i16::get(&mut reader)?;
    let version = i16::get(&mut reader)?;
    let correlation_id = i32::get(&mut reader)?;
    let served = ApiKey::from_code(api_key).and_then(|api| Some((api, audience.served(api)?)));
    let Some((api, (first, last))) = served else { return Err(RequestError::UnknownApi { api_key }) };
    if version < first || version > last {
        return Err(match api {
            ApiKey::ApiVersions => RequestError::ApiVersionsTooNew { version, correlation_id },
            _ => RequestError::UnknownVersion { api, version },
        });
    }
    // The client id has its old form in every version; only what follows it is flexible.
    let client_id = Wire::get(&mut reader)?;
    reader.begin("RequestHeader", version, api.request_header_is_flexible(version));
    reader.skip_tags()?;
    // Bytes behind the request are ignored, as Kafka ignores them: librdkafka leaves three when it asks for all topics.
    let mut request = Request::read(api, &mut reader, version)?;
    settle_request(&mut request, version);
    let header = RequestHeader { api_key, api_version: version, correlation_id, client_id };
    Ok(InboundRequest { header, request, facts: facts(api, version) })
}

/// Writes a request in `version`.
///
/// # Errors
/// When the version does not exist, or cannot carry the request.
pub fn encode_request(
    correlation_id: i32,
    client_id: Option<&ByteString>,
    request: Request,
    version: i16,
) -> Result<Segments, CodecError> {
    let api = request.api();
    let request = fit_request(request, version)?;
    let mut writer = Writer::new();
    (api as i16).put(&mut writer)?;
    version.put(&mut writer)?;
    correlation_id.put(&mut writer)?;
    Wire::put_option(client_id, &mut writer)?;
    writer.begin("RequestHeader", version, api.request_header_is_flexible(version));
    writer.put_no_tags();
    request.write(&mut writer, version)?;
    Ok(writer.finish())
}

/// Writes the answer to a request of `version`. Records are chained, not copied.
///
/// # Errors
/// When the version cannot carry the answer.
pub fn encode_response(
    correlation_id: i32,
    response: Response,
    version: i16,
) -> Result<Segments, CodecError> {
    let api = response.api();
    let response = fit_response(response, version)?;
    let mut writer = Writer::new();
    correlation_id.put(&mut writer)?;
    writer.begin("ResponseHeader", version, api.response_header_is_flexible(version));
    writer.put_no_tags();
    response.write(&mut writer, version)?;
    Ok(writer.finish())
}

/// The correlation id of an answer, which says how to read the rest.
///
/// # Errors
/// When the frame is shorter than that.
pub fn correlation_id(frame: &Bytes) -> Result<i32, CodecError> {
    i32::get(&mut Reader::new(frame.clone()))
}

/// Reads the answer to a request of `api` in `version`.
///
/// # Errors
/// When the bytes are no such answer.
pub fn decode_response(frame: Bytes, api: ApiKey, version: i16) -> Result<Response, CodecError> {
    let mut reader = Reader::new(frame);
    let _correlation_id = i32::get(&mut reader)?;
    reader.begin("ResponseHeader", version, api.response_header_is_flexible(version));
    reader.skip_tags()?;
    let mut response = Response::read(api, &mut reader, version)?;
    reader.finish()?;
    settle_response(&mut response, version);
    Ok(response)
}
