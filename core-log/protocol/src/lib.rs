//! # Protocol: bytes <-> version-free structs, and the seam
//!
//! (being built) Kafka's wire protocol as plain structs ([`messages`]), the one table of versions, and the two traits through which every
//! caller reaches every broker: [`Service`] and [`Dial`].

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::indexing_slicing))] // the bytes come from outside

mod error;
mod error_code;
mod facts;
pub mod frames;
#[rustfmt::skip] // as the generator wrote it
#[allow(clippy::field_reassign_with_default)] // a decoder fills in what the version has
mod generated;
pub mod messages;
mod service;
mod shape;
pub mod versions;
pub mod wire;

pub use error::{CallError, CodecError, DialError};
pub use error_code::ErrorCode;
pub use facts::{Facts, facts};
pub use messages::{ApiKey, MetadataRecord, Request, Response, Rpc};
pub use service::{ANONYMOUS, Completer, Ctx, Dial, Endpoint, Link, Receipt, Service};
pub use wire::Message;
