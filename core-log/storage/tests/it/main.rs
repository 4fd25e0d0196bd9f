//! Tests of the log through its public face.

mod crash;
mod crash_disk;
mod directory;
mod faults;
mod golden;
mod interop;
mod log;
mod model;
mod producers;
mod support;
