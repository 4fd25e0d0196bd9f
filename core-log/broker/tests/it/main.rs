//! The broker, called in process with decoded requests, on a real disk.

mod cluster;
mod deletion;
mod groups;
mod harness;
mod log;
mod records;
mod sessions;
mod topics;
mod transactions;
