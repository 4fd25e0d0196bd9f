//! Coordinators of groups and of transactions: one for each partition of an internal topic that this broker leads.
//!
//! The decisions are those of the machines in `millstream-machine`; here they get a log to write to, a clock, and a way back to
//! who waits. Both kinds are hosted the same way ([`Host`], [`Set`]), and read back the same way at start.

mod group;
mod host;
mod load;
mod markers;
mod set;
mod snapshot;
mod transaction;

pub(crate) use group::Groups;
pub(crate) use host::{Host, Machine};
pub(crate) use markers::{Ending, MarkerWriter, Markers};
pub(crate) use set::Premises;
pub(crate) use snapshot::Snapshot;
pub(crate) use transaction::Transactions;
