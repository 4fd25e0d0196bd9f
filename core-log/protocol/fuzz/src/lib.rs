//! # The fuzz target's body
//!
//! What is done with bytes from the fuzzer: they are read as whole frames and as single messages, written again, and read once
//! more. Nothing may panic, and what was read must come back the same. The ordinary tests run this body on a bounded number of
//! made-up inputs, so it also holds where no nightly compiler is; `../run` lets libFuzzer look for more.
//!
//! Deliberately absent: record batches (their own room tests them) and sockets.

#![allow(unreachable_pub)] // the ordinary tests include this file as a module

use bytes::Bytes;
use millstream_protocol::frames::{decode_request, decode_response, encode_request, encode_response};
use millstream_protocol::versions::Audience;
use millstream_protocol::wire::{Message, Reader, Writer};
use millstream_protocol::{ApiKey, MetadataRecord, Request, Response, messages};

/// Reads `data` as a frame, and behind its first two bytes as whatever those choose. Nothing may panic; what can be read must be
/// writable, and read again as the same.
pub fn body(data: &[u8]) {
    let frame = Bytes::copy_from_slice(data);
    whole_request(frame.clone());
    let [selector, version, ..] = *data else { return };
    let body = frame.slice(2..);
    let version = i16::from(version % 20);
    if let Some(api) = ApiKey::from_code(i16::from(selector % 100)) {
        response(api, version, &body);
        bare(api, version, &body);
    }
    record(selector, &body);
}

fn whole_request(frame: Bytes) {
    let Ok(read) = decode_request(frame, Audience::Clients) else { return };
    let header = &read.header;
    let (id, version, client) = (header.correlation_id, header.api_version, header.client_id.clone());
    let written = encode_request(id, client.as_ref(), read.request.clone(), version);
    let again =
        decode_request(written.expect("what was read can be written").into_bytes(), Audience::Clients);
    assert_eq!(again.expect("what was written can be read"), read);
}

fn response(api: ApiKey, version: i16, body: &Bytes) {
    let Ok(read) = decode_response(body.clone(), api, version) else { return };
    let written = encode_response(7, read.clone(), version).expect("what was read can be written");
    let again = decode_response(written.into_bytes(), api, version);
    assert_eq!(again.expect("what was written can be read"), read);
}

fn bare(api: ApiKey, version: i16, body: &Bytes) {
    if let Ok(read) = Request::read(api, &mut Reader::new(body.clone()), version) {
        let mut writer = Writer::new();
        read.write(&mut writer, version).expect("what was read can be written");
        let again = Request::read(api, &mut Reader::new(writer.finish().into_bytes()), version);
        assert_same(&again.expect("what was written can be read"), &read);
    }
    if let Ok(read) = Response::read(api, &mut Reader::new(body.clone()), version) {
        let mut writer = Writer::new();
        read.write(&mut writer, version).expect("what was read can be written");
        let again = Response::read(api, &mut Reader::new(writer.finish().into_bytes()), version);
        assert_same(&again.expect("what was written can be read"), &read);
    }
}

/// Compared as text: a NaN is not equal to itself.
fn assert_same<T: std::fmt::Debug>(again: &T, read: &T) {
    assert_eq!(format!("{again:?}"), format!("{read:?}"));
}

fn record(selector: u8, body: &Bytes) {
    match selector % 8 {
        0 => {
            if let Ok(read) = MetadataRecord::decode(body.clone()) {
                read.encode().expect("what was read can be written");
            }
        }
        1 => versioned::<messages::GroupMetadataValue>(body),
        2 => versioned::<messages::OffsetCommitValue>(body),
        3 => versioned::<messages::TransactionLogValue>(body),
        4 => versioned::<messages::ConsumerProtocolSubscription>(body),
        5 => versioned::<messages::ConsumerProtocolAssignment>(body),
        6 => versioned::<messages::ProducerSnapshot>(body),
        _ => versioned::<messages::GroupMetadataKey>(body),
    }
}

fn versioned<M: Message>(body: &Bytes) {
    if let Ok(read) = M::decode_versioned(body.clone()) {
        read.encode(M::VERSIONS.1).expect("the newest version carries what any version says");
    }
}
