//! # Files as sources and sinks
//!
//! [`FileSource`] reads NDJSON, CSV and plain lines from files named by globs: once to their end, or following them as they
//! grow and rotate. [`FileSink`] writes NDJSON, CSV and Parquet files that appear whole or not at all.
//!
//! Invariants:
//! - A source's position is a count of *bytes*, always at the beginning of a line, stored in the transaction of the rows before it.
//! - A file is known by its inode and by how it begins, never by its name alone: rotation renames files, also between two runs.
//! - Every line becomes a row or a bad record; a line over the bound is a bad record, not an end.
//! - What a source reads is what the text says, digit for digit, or a bad record; what a sink writes, the source of that format reads back
//!   (but for a null alone on a line of CSV, which is written as an empty text).
//! - A sink's file is written as `.tmp`, synced, renamed, and its folder synced. Its name holds the partition and the offsets of
//!   its first and last row, so the names of the finished files are the sink's position.
//!
//! Deliberately absent: reading of compressed files (refused with a word about it), copy-and-truncate rotation without a race (no
//! reader can have it: what is written between the copy and the truncation and not yet read is gone).

mod sink;
mod source;

pub use sink::FileSink;
pub use source::FileSource;
