//! # Protocol: bytes <-> version-free structs, and the seam
//!
//! (being built) Kafka's wire protocol as plain structs ([`messages`]), the one table of versions, and the two traits through which every
//! caller reaches every broker: [`Service`] and [`Dial`].

mod error;
mod error_code;
mod facts;
pub mod messages;
mod service;

pub use error::{CallError, CodecError, DialError};
pub use error_code::ErrorCode;
pub use facts::{Facts, facts};
pub use messages::{ApiKey, Request, Response};
pub use service::{ANONYMOUS, Completer, Ctx, Dial, Endpoint, Link, Receipt, Service};
