//! # One partition's log
//!
//! Segments of record batches in Apache Kafka's layout, written to the page cache, made durable in groups, read by offset and by
//! time, recovered after a crash. Everything is synchronous and takes time as a parameter; the only way to a file is the
//! small trait [`Disk`].
//!
//! ```text
//! <topic>-<partition>/00000000000000000000.log        batches, exactly as on the wire
//!                     00000000000000000000.index      every 4 KiB: offset -> position
//!                     00000000000000000000.timeindex  timestamp -> offset
//!                     00000000000000000000.txnindex   aborted transactions, if any
//!                     00000000000000012345.snapshot   producers as of offset 12345
//!                     leader-epoch-checkpoint         epoch -> first offset
//!                     partition.metadata              the topic's id
//! ```
//!
//! ## How it is used
//! A [`LogDir`] owns a directory and opens [`Log`]s. The broker keeps each log behind a short mutex and does, under it, only what
//! touches no device: [`Log::append`] (page cache), [`Log::read_plan`], [`Log::flush_begin`]. The plans and jobs they give
//! run outside of the lock:
//!
//! - [`ReadPlan::try_now`] reads if the bytes are in the page cache, [`ReadPlan::run_blocking`] reads in any case.
//! - [`FlushJob::run`] makes durable what was there when the job was taken; [`Durability`] shares many jobs out among threads;
//!   [`Log::flush_done`] takes the result back.
//!
//! ## Invariants
//! - Bytes that a client sent are never changed but for the header fields that are the broker's, and never copied on their way
//!   to the disk.
//! - Nothing below [`Log::flushed_offset`] is lost in a power cut. The flush point is the log end as it was before the sync began.
//! - A batch whose CRC is wrong is never handed out: each is checked on every read.
//! - What is derived is not believed where the log says otherwise. Indexes and producer snapshots are never ahead of the log on disk;
//!   the epoch checkpoint may be ahead or behind, but says the truth below the recovery point ([`Log::recovery_point`]).
//! - A failed sync or append is never tried again: the log directory goes offline ([`StorageError::Offline`]).
//! - Files are never recycled: a stale batch behind a torn tail could carry a valid CRC and the next offset.
//! - A log that nobody uses holds no open file, no timer and no buffer.
//!
//! ## Deliberately absent
//! Threads, clocks and async (the broker's), replication's decisions (the replica machine's), what is in a record (`record`'s).
//! Preallocation: extending a file was measured to cost little next to the sync.

#![cfg_attr(not(test), warn(clippy::unwrap_used))]

// `indexing_slicing` is on where bytes come in from clients or from disk.
#[cfg_attr(not(test), warn(clippy::indexing_slicing))]
mod append;
#[cfg_attr(not(test), warn(clippy::indexing_slicing))]
mod batch;
mod checkpoint;
mod config;
pub mod disk;
mod duplicates;
mod epoch_file;
mod epochs;
mod error;
mod flush;
mod handle;
#[cfg_attr(not(test), warn(clippy::indexing_slicing))]
mod index;
#[cfg_attr(not(test), warn(clippy::indexing_slicing))]
mod log;
mod log_dir;
#[cfg_attr(not(test), warn(clippy::indexing_slicing))]
mod lookup;
mod meta;
mod producer;
#[cfg_attr(not(test), warn(clippy::indexing_slicing))]
mod read;
mod recovery;
mod retention;
#[cfg_attr(not(test), warn(clippy::indexing_slicing))]
mod scan;
#[cfg_attr(not(test), warn(clippy::indexing_slicing))]
mod segment;
mod side_file;
#[cfg_attr(not(test), warn(clippy::indexing_slicing))]
mod snapshot;

pub use append::{AppendInfo, AppendOrigin, AppendSummary, validate_for_append, validate_for_follower};
pub use checkpoint::Offsets;
pub use config::LogConfig;
pub use disk::{DirEntry, Disk, DiskFile, FaultyDisk, MemoryDisk, OpenMode, RealDisk, Room};
pub use epoch_file::EpochsJob;
pub use epochs::LeaderEpochs;
pub use error::{Result, StorageError};
pub use flush::{Durability, FlushJob, FlushPoint, Lane};
pub use handle::OpenFiles;
pub use log::Log;
pub use log_dir::{DeletedLog, FoundLog, LogDir};
pub use lookup::{LookupPlan, TimestampOffset};
pub use meta::DirIdentity;
pub use producer::{AbortedTransaction, BATCHES_REMEMBERED, ProducedBatch, ProducerState};
pub use read::{ReadPlan, ReadRequest, ReadSlices};
pub use recovery::{Cut, Noted, RecoveryReport, Shutdown};
pub use side_file::SideFile;
