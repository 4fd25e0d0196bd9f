//! `cargo +nightly fuzz run decode` in `core-log/protocol`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| millstream_protocol_fuzz::body(data));
