//! # Codegen: Kafka's message definitions -> our table -> Rust
//!
//! Two steps, run by hand when the reference moves to another version of Kafka:
//! - `import <folders of JSON definitions>` writes the facts of the definitions (names, types, versions, tags, defaults) as our own
//!   text table into `core-log/protocol/messages`;
//! - `generate` turns that table into `core-log/protocol/src/generated`.
//!
//! The table and the generated code are committed, so that a build needs neither step, and a review of an upgrade is a review of
//! the table's diff. A test proves that the committed code is what the committed table generates.
//!
//! The tests of `millstream-protocol` use the table too: they make up messages from it. Nothing in production depends on this crate.

pub mod import;
pub mod rust;
pub mod schema;
pub mod table;

use std::path::PathBuf;

/// The folder of the table.
#[must_use]
pub fn table_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../messages")
}

/// The folder of the generated code.
#[must_use]
pub fn generated_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../src/generated")
}
