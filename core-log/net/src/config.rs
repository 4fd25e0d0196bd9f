//! The bounds of both ends.

use std::time::Duration;

use bytestring::ByteString;
use millstream_protocol::versions::Audience;

/// How connections are served. Kafka's name of a setting is given where it has one.
#[derive(Clone, Debug)]
pub struct NetConfig {
    /// Name of the listener, as told to the service.
    pub listener: ByteString,
    /// Whom the listener is for: what it serves.
    pub audience: Audience,
    /// Longest request, in bytes (`socket.request.max.bytes`).
    pub max_request_bytes: usize,
    /// Connections at once (`max.connections`); further ones are closed at once.
    pub max_connections: usize,
    /// Requests of one connection that wait for their answer; then reading stops.
    pub max_in_flight: usize,
    /// Bytes of those requests; then reading stops. One longer request is let through alone.
    pub max_in_flight_bytes: usize,
    /// Bytes that the long requests of all connections hold together (`queued.max.request.bytes`); then their arrival waits.
    /// At least [`NetConfig::max_request_bytes`].
    pub max_buffered_bytes: usize,
    /// A connection without requests in flight that sends nothing for this long is closed (`connections.max.idle.ms`).
    pub idle_timeout: Duration,
    /// A frame that has begun, and a response that is being written, may stand still for this long.
    pub stall_timeout: Duration,
}

impl Default for NetConfig {
    fn default() -> Self {
        Self {
            listener: ByteString::from_static("PLAINTEXT"),
            audience: Audience::Clients,
            max_request_bytes: 100 * 1024 * 1024,
            max_connections: 10_000,
            max_in_flight: 64,
            max_in_flight_bytes: 8 * 1024 * 1024,
            max_buffered_bytes: 128 * 1024 * 1024,
            idle_timeout: Duration::from_secs(600),
            stall_timeout: Duration::from_secs(10),
        }
    }
}

/// How brokers are reached. Kafka's name of a setting is given where it has one.
#[derive(Clone, Debug)]
pub struct DialConfig {
    /// `client.id` of calls whose context has none.
    pub client_id: ByteString,
    /// Bound for opening a connection and learning the broker's versions (`socket.connection.setup.timeout.ms`).
    pub connect_timeout: Duration,
    /// Bound for an answer where the call has no deadline of its own (`request.timeout.ms`). A broker that lets it, and the
    /// deadline of the call whose turn it is, pass without an answer is taken for gone: the link closes.
    pub request_timeout: Duration,
    /// Requests of one link that wait for their answer; further calls fail.
    pub max_in_flight: usize,
    /// Bytes of requests that wait to be written; further calls fail.
    pub max_unsent_bytes: usize,
    /// Longest answer, in bytes.
    pub max_response_bytes: usize,
}

impl Default for DialConfig {
    fn default() -> Self {
        Self {
            client_id: ByteString::from_static("millstream"),
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            max_in_flight: 256,
            max_unsent_bytes: 256 * 1024 * 1024,
            max_response_bytes: 512 * 1024 * 1024,
        }
    }
}
