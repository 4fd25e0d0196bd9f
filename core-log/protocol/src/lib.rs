//! # Protocol: bytes <-> version-free structs, and the seam
//!
//! Two things live here: Kafka's wire protocol as plain structs, and the two traits through which every caller reaches every
//! broker.
//!
//! **The seam** ([`Service`], [`Link`], [`Dial`]). `call(ctx, request) -> Receipt`: the request is admitted and ordered before
//! `call` returns, the answer comes later, and dropping the receipt cancels nothing. The embedded broker, a connection to one and
//! the client all speak it, so that nobody knows which door a request came through. Who asks and what their version implies
//! stands in [`Ctx`], which every door fills.
//!
//! **The messages** ([`messages`]) are generated from a table of facts in `core-log/protocol/messages`, which
//! `millstream-protocol-codegen` takes from Kafka's definitions. A struct holds the fields of all versions. It is `'static`: its
//! strings and bytes are counted references into the frame it was read from, so that records are never copied, and whoever
//! keeps a string past its request copies it, lest it hold the frame.
//!
//! Invariants:
//! - Versions end here. [`versions`] is the one table of what we serve; [`facts()`] says in words what a version implies; and
//!   whatever the version, a handler sees a request in one shape ([`frames`] bring it there). No other room sees a number.
//! - Reading is bounded: a length is checked against the bytes that are left before anything is allocated for it, and the lists of
//!   a frame together take no more than a small multiple of it ([`wire::Reader`]). Hostile bytes give an error, never a panic.
//! - Writing loses nothing silently: a value that a version cannot carry is an error, unless the definition says that it may be
//!   dropped.
//! - What we write is byte for byte what Kafka's own codec writes, for every message and version; tests compare with it and with
//!   the `kafka-protocol` crate.
//!
//! Deliberately absent: sockets and size prefixes (net), what is inside of a record batch (record), decisions (machine), tagged
//! fields that we do not know (skipped, not kept).

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
