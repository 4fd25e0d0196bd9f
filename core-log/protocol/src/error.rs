//! What can go wrong between bytes and messages, and between a caller and a service.

/// Bytes are not a message, or a message does not fit its version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The bytes end before the field does.
    #[error("{message}: a field needs {needed} bytes at position {at}, but only {left} are left")]
    Truncated {
        /// The message being read.
        message: &'static str,
        /// Bytes read before the field.
        at: usize,
        /// Bytes that the field claims.
        needed: usize,
        /// Bytes that there are.
        left: usize,
    },
    /// A length is negative where that has no meaning, or a number is longer than its type.
    #[error("{message}: {what} at position {at} is not valid")]
    Malformed {
        /// The message being read.
        message: &'static str,
        /// Bytes read before the fault.
        at: usize,
        /// What was being read.
        what: &'static str,
    },
    /// Reading on would take far more memory than the bytes are worth.
    #[error("{message}: the elements announced before position {at} would take too much memory")]
    TooLarge {
        /// The message being read.
        message: &'static str,
        /// Bytes read before the limit was hit.
        at: usize,
    },
    /// Bytes follow the message.
    #[error("{message}: {left} bytes follow the end of the message")]
    Trailing {
        /// The message that was read.
        message: &'static str,
        /// Bytes too many.
        left: usize,
    },
    /// A field holds a value that the version cannot carry, and that must not be dropped silently.
    #[error("{message} version {version} has no field {field}, and its value must not be lost")]
    Absent {
        /// The message being written.
        message: &'static str,
        /// The field that holds a value.
        field: &'static str,
        /// The version that lacks the field.
        version: i16,
    },
    /// A field is null in a version that does not allow it.
    #[error("{message} version {version}: {field} must not be null")]
    Null {
        /// The message being written or read.
        message: &'static str,
        /// The field.
        field: &'static str,
        /// The version.
        version: i16,
    },
    /// A string, array or frame is longer than its length prefix can say.
    #[error("{message}: {what} of {length} bytes or elements is too long")]
    TooLong {
        /// The message being written.
        message: &'static str,
        /// What is too long.
        what: &'static str,
        /// Its length.
        length: usize,
    },
    /// The message has no such version.
    #[error("{message} has no version {version}")]
    Version {
        /// The message.
        message: &'static str,
        /// The version asked for.
        version: i16,
    },
    /// A metadata record is of a type, or in a version of it, that is not known.
    #[error("metadata record type {kind} version {version} is not known")]
    UnknownRecord {
        /// The type's number.
        kind: i16,
        /// The version.
        version: i16,
    },
    /// A metadata record is wrapped in another way than is known.
    #[error("metadata records of frame version {version} are not known")]
    UnknownFrame {
        /// The frame's version.
        version: u32,
    },
    /// There is no message with this key.
    #[error("{what} {key} is not known")]
    UnknownKey {
        /// What kind of key it is.
        what: &'static str,
        /// The number.
        key: i32,
    },
}

/// Why a call got no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The connection is gone; whether the request had an effect is not known.
    #[error("disconnected from {peer}: {reason}")]
    Disconnected {
        /// The node.
        peer: String,
        /// Why.
        reason: String,
    },
    /// No answer came in time; whether the request had an effect is not known.
    #[error("no answer came within the time given")]
    TimedOut,
    /// We and the node share no version of this API.
    #[error("{peer} does not serve {api} in a version known here")]
    Unsupported {
        /// The node.
        peer: String,
        /// The API's name.
        api: &'static str,
    },
    /// The request does not fit the version that the node speaks, or the answer is not readable.
    #[error("{0}")]
    Codec(#[from] CodecError),
    /// The protocol has no answer to this request (`acks=0`), or it has been taken already.
    #[error("this request has no answer")]
    NoAnswer,
    /// The service ended before it answered; whether the request had an effect is not known.
    #[error("the service ended before it answered")]
    Abandoned,
    /// Too many requests wait already; this one was not admitted.
    #[error("{peer} has {limit} requests waiting already")]
    Busy {
        /// The node.
        peer: String,
        /// The bound that was hit.
        limit: usize,
    },
}

impl CallError {
    /// Whether the same call may succeed on a new link.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        matches!(self, Self::Disconnected { .. } | Self::TimedOut | Self::Abandoned | Self::Busy { .. })
    }
}

/// Why a node could not be reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// The network said no.
    #[error("cannot connect to {endpoint}: {reason}")]
    Unreachable {
        /// The node.
        endpoint: String,
        /// What the network said.
        reason: String,
    },
    /// The node was reached, but the first exchange failed.
    #[error("{endpoint} does not answer as a broker does: {reason}")]
    Handshake {
        /// The node.
        endpoint: String,
        /// What went wrong.
        reason: String,
    },
    /// The time given ran out.
    #[error("cannot connect to {endpoint} within {timeout_ms} ms")]
    TimedOut {
        /// The node.
        endpoint: String,
        /// The bound.
        timeout_ms: u64,
    },
}
