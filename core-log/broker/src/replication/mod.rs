//! Replication between brokers, as far as it is not decided by the machines: followers that fetch from leaders, and leaders
//! that ask the controller for another in-sync set.

mod copying;
mod lane;
mod proposals;
mod session;
mod suspects;
mod throttle;

pub(crate) use copying::{Copying, Premises, Settings as CopySettings};
pub(crate) use proposals::{Proposals, WantedIsr, propose, watch_lag};
pub(crate) use suspects::Suspects;
pub(crate) use throttle::{Limited, Side, Throttle};
