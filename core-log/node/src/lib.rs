//! # Node: the composition root
//!
//! (being built) Puts a broker on a disk and behind its doors: [`embedded`] for calls within the process, [`serve`] for TCP.

mod config;
mod embedded;
mod error;
mod node;
mod properties;

pub use config::{Listen, NodeConfig};
pub use embedded::{Embedded, EmbeddedConfig, embedded};
pub use error::{NodeError, Result};
pub use node::{Node, serve};
