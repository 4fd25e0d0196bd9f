//! # PostgreSQL as a sink
//!
//! [`PostgresSink`] writes Arrow batches into a table, exactly once: rows travel by binary COPY, and the offset behind them is updated
//! in the same transaction (`_millstream_progress`). A restart begins at that offset, wherever the process was killed.
//!
//! Invariants:
//! - The progress row moves from the offset that this task knows to the next one, or the transaction is rolled back: a second
//!   worker under the same name can never write a row twice.
//! - Each Arrow type has one Postgres type ([`types`]); a table that exists already may have others, to which values are cast by
//!   Postgres, from a staging table. Types that lose (`sink/exact`) are refused, and no setting of a role changes what a cast does.
//! - What was prepared for is what is written to: each transaction holds the table and compares its columns first.
//! - Progress is that of one table: where that table is gone, or another is named, the sink does not go on behind rows that are not there.
//! - All rows of a batch that Postgres refuses are named at once (`sink/writing`), with the reason of each; the others are written.
//!
//! Deliberately absent: TLS (a URL that requires it is refused), the change source (an issue of its own).

mod connection;
mod copy;
mod error;
mod numeric;
mod sink;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod types;

pub use sink::PostgresSink;
