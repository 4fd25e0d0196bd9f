//! Bytes that nobody meant well with: no panic, no memory beyond what the bytes are worth, no end that is not an error.

mod common;
#[path = "../fuzz/src/lib.rs"]
mod fuzz;

use bytes::Bytes;
use common::{Maker, Rng, table, through};
use millstream_protocol::CodecError;
use proptest::prelude::*;

/// Reads the valid message cut off at every length, and with each of some bytes changed.
#[test]
fn cut_off_and_flipped_messages_are_errors_or_messages() {
    let mut errors = 0u32;
    for message in &table() {
        for version in message.versions.first..=message.versions.last {
            let mut rng = Rng::new((version as u64) << 32 | message.name.len() as u64);
            let bytes = Maker::make(message, version, &mut rng);
            for length in 0..bytes.len().min(200) {
                let cut = Bytes::copy_from_slice(&bytes[..length]);
                // A message that is cut off never reads as a whole one: each field would have to end where it does.
                let error = through(message, version, cut).expect_err("cut off");
                assert!(
                    !matches!(error, CodecError::Trailing { .. }),
                    "{} v{version}: {error}",
                    message.name
                );
            }
            for _ in 0..40 {
                let mut flipped = bytes.clone();
                if flipped.is_empty() {
                    break;
                }
                let at = rng.below(flipped.len() as u64) as usize;
                flipped[at] ^= 1 << rng.below(8);
                errors += u32::from(through(message, version, flipped.into()).is_err());
            }
        }
    }
    assert!(errors > 1000, "flipped bits are noticed in lengths at least: {errors}");
}

/// Lengths far beyond the frame, in each place of each message: wherever the place is a length, the message is refused.
#[test]
fn huge_lengths_are_refused() {
    let (mut refused, mut read) = (0u32, 0u32);
    for message in &table() {
        for version in message.versions.first..=message.versions.last {
            let mut bytes = [0u8; 40];
            for at in 0..36 {
                bytes[at..at + 4].copy_from_slice(&[0x7f, 0xff, 0xff, 0xfe]);
                match through(message, version, Bytes::copy_from_slice(&bytes)) {
                    Ok(_) => read += 1,
                    Err(_) => refused += 1,
                }
                bytes[at..at + 4].copy_from_slice(&[0; 4]);
            }
        }
    }
    assert!(
        refused > 100 * read,
        "{refused} refused, {read} read: as numbers, in messages of just that size"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn the_fuzz_body_holds_on_random_bytes(data in prop::collection::vec(any::<u8>(), 0..300)) {
        fuzz::body(&data);
    }

    #[test]
    fn the_fuzz_body_holds_on_almost_valid_messages(
        seed in any::<u64>(), which in any::<prop::sample::Index>(), flips in prop::collection::vec(any::<u16>(), 0..4),
    ) {
        static TABLE: std::sync::OnceLock<Vec<millstream_protocol_codegen::schema::Message>> = std::sync::OnceLock::new();
        let table = TABLE.get_or_init(table);
        let message = &table[which.index(table.len())];
        let versions = message.versions;
        let version = versions.first + (seed % (versions.last - versions.first + 1) as u64) as i16;
        let mut data = vec![message.key.unwrap_or(0) as u8, version as u8];
        data.extend(Maker::make(message, version, &mut Rng::new(seed)));
        for flip in flips {
            let at = flip as usize % data.len();
            data[at] ^= 1 << (flip % 8);
        }
        fuzz::body(&data);
    }
}
