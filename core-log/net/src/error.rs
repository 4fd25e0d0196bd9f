//! Why a connection ended.

use millstream_protocol::frames::RequestError;
use millstream_protocol::{CallError, CodecError};

/// Why a connection was closed from our end, or broke.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// The network broke the connection.
    #[error("connection broke: {0}")]
    Io(#[from] std::io::Error),
    /// The peer went away in the middle of a frame.
    #[error("the peer left after {arrived} bytes of a frame")]
    CutOff {
        /// Bytes of the frame that had come.
        arrived: usize,
    },
    /// The peer closed its end while requests of it were still to be answered.
    #[error("the peer left before its answers came")]
    Left,
    /// A length prefix is negative or beyond the bound.
    #[error("a frame of {size} bytes is announced; at most {max} are allowed")]
    FrameSize {
        /// What the prefix says.
        size: i32,
        /// The bound.
        max: usize,
    },
    /// A frame began and did not go on.
    #[error("a frame arrives too slowly")]
    FrameStalled,
    /// The peer does not read what it asked for.
    #[error("the peer takes its responses too slowly")]
    WriteStalled,
    /// Nothing happened for long.
    #[error("idle")]
    Idle,
    /// The bytes are no request that we serve.
    #[error("{0}")]
    Request(#[from] RequestError),
    /// The service has no answer to give.
    #[error("no answer to give: {0}")]
    Call(#[from] CallError),
    /// The answer does not fit its version.
    #[error("an answer cannot be written: {0}")]
    Response(#[from] CodecError),
    /// An answer came that nobody asked for.
    #[error("an answer to request {got} came where that to {expected:?} was due")]
    Correlation {
        /// The answer's correlation id.
        got: i32,
        /// The one that was due, if any was.
        expected: Option<i32>,
    },
    /// The broker let the bound for an answer pass.
    #[error("no answer within {timeout_ms} ms")]
    NoAnswer {
        /// The bound.
        timeout_ms: u128,
    },
}

impl NetError {
    /// Whether it is the ordinary end of a connection, not worth a warning. A service that starts or stops turns clients away.
    pub(crate) fn is_ordinary(&self) -> bool {
        matches!(
            self,
            Self::Io(_)
                | Self::Idle
                | Self::Left
                | Self::CutOff { .. }
                | Self::Call(CallError::Disconnected { .. })
        )
    }
}
