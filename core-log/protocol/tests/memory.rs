//! How much memory a hostile frame can take: measured at the allocator, so this file holds one test only.

mod common;

use std::alloc::System;

use bytes::Bytes;
use common::{Maker, Rng, table};
use millstream_protocol::frames::{MAX_REQUEST_LISTS_BYTES, decode_request};
use millstream_protocol::versions::Audience;
use millstream_protocol::wire::Reader;
use millstream_protocol::{ApiKey, Request, Response, versions};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Bytes allocated by `work`, given back or not.
fn allocated<T>(work: impl FnOnce() -> T) -> usize {
    let region = Region::new(ALLOCATOR);
    drop(work());
    region.change().bytes_allocated
}

#[test]
fn memory_is_a_small_multiple_of_the_frame_and_bounded() {
    let mut rng = Rng::new(1);
    for &api in ApiKey::ALL {
        let (first, last) = api.defined();
        for version in first..=last {
            for round in 0..30u64 {
                let length = 1 << (round % 15);
                let bytes = match round % 3 {
                    0 => Bytes::from(vec![[0u8, 1, 2, 127][rng.below(4) as usize]; length]),
                    1 => Bytes::from(rng.bytes(length as u64)),
                    _ => long_list(&mut rng, length),
                };
                for work in [true, false] {
                    let bytes = bytes.clone();
                    let taken = allocated(|| {
                        let mut reader = Reader::new(bytes);
                        if work {
                            Request::read(api, &mut reader, version).map(drop)
                        } else {
                            Response::read(api, &mut reader, version).map(drop)
                        }
                    });
                    assert!(taken <= 20 * length + 70_000, "{api} v{version}: {length} bytes took {taken}");
                }
            }
        }
    }
    a_frame_of_the_largest_size_stays_bounded();
    valid_messages_are_within_the_bound();
}

/// A list that claims to be as long as the rest, of the smallest elements there are.
fn long_list(rng: &mut Rng, length: usize) -> Bytes {
    let mut bytes = vec![0u8; rng.below(24) as usize];
    bytes.extend((length as u32).to_be_bytes());
    bytes.extend(vec![0; length]);
    bytes.into()
}

fn a_frame_of_the_largest_size_stays_bounded() {
    for (api, first, last) in versions::SERVED {
        for version in *first..=*last {
            let mut frame = Vec::with_capacity(8 << 20);
            frame.extend((*api as i16).to_be_bytes());
            frame.extend(version.to_be_bytes());
            frame.extend([0, 0, 0, 1, 0xff, 0xff, 0]);
            frame.extend([0x81, 0x80, 0x80, 0x01]); // a compact length of 2 MiB, where a list comes first
            frame.resize(8 << 20, 1);
            let frame = Bytes::from(frame);
            let taken = allocated(|| decode_request(frame, Audience::Clients));
            assert!(taken <= MAX_REQUEST_LISTS_BYTES + 100_000, "{api} v{version} took {taken}");
        }
    }
}

fn valid_messages_are_within_the_bound() {
    for message in &table() {
        for version in message.versions.first..=message.versions.last {
            let bytes = Bytes::from(Maker::make(message, version, &mut Rng::new(9)));
            common::through(message, version, bytes).unwrap();
        }
    }
}
