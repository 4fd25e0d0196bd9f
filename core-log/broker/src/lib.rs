//! # Broker: the async shell
//!
//! (being built) [`Broker`] implements [`millstream_protocol::Service`]: it takes decoded requests from any door, asks the
//! machines of `millstream-machine` what to do, and performs what they answer on `millstream-storage` and through
//! `millstream-env`.

mod api;
mod batches;
mod broker;
mod config;
mod coordinator;
mod error;
mod flusher;
mod gather;
mod housekeeping;
mod keys;
mod metadata;
mod partition;
mod partitions;
mod refusal;
mod shared;
mod steady;
mod timers;
mod topic_settings;

pub use broker::Broker;
pub use config::{BrokerConfig, ListenerEndpoint};
pub use error::{BrokerError, Result};
