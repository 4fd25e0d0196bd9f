//! (being built)

pub mod disk;
mod error;

pub use disk::{DirEntry, Disk, DiskFile, FaultyDisk, MemoryDisk, OpenMode, RealDisk};
pub use error::{Result, StorageError};
