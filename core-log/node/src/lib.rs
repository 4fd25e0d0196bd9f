//! # Node: the composition root
//!
//! Puts a broker on a disk and behind its doors. There are two, and they lead to the same code:
//!
//! - [`embedded`]: the broker inside of an application, on threads of its own, so that neither stalls the other. Calls hand over
//!   decoded requests; there is no socket and no encoding.
//! - [`serve`]: the broker behind TCP listeners, for any client that speaks the Kafka protocol.
//!
//! Both stand on [`Node::start`], which takes any [`millstream_env::Env`] and any [`millstream_storage::Disk`]: the simulator
//! starts the same node on virtual time and a simulated disk.
//!
//! [`NodeConfig`] is Kafka's properties, from a file or one by one, judged by the one table in `millstream-machine` that also judges
//! what tools set at run time. A name that is not known is an error with a suggestion. What would be dangerous to accept and
//! not do (an authorizer, TLS) is refused.
//!
//! Invariants: a listener is bound before the broker starts, so port 0 works and the broker advertises the real one; in a cluster
//! others lead before doors close, and doors close before the broker does; a door within the process keeps no node alive.
//!
//! Deliberately absent: command lines and signals (see the `millstream` binary), logging set-up.

mod config;
mod embedded;
mod error;
mod format;
mod node;
mod properties;

pub use config::{Listen, NodeConfig};
pub use embedded::{Embedded, EmbeddedConfig, embedded};
pub use error::{NodeError, Result};
pub use format::{Formatted, format};
pub use node::{Node, serve};
