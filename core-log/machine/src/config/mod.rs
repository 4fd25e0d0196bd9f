//! # Configuration of topics and brokers
//!
//! One table holds every topic and broker configuration that Apache Kafka 4.3 knows: its name, type, default, limits, and
//! whether it can be changed while the broker runs. Tools set and describe all of them, so all are accepted and described,
//! also those that have nothing to steer here.
//!
//! [`Definition`] judges a value. [`Effective`] says which value applies where none is set: a topic's own, else its broker
//! synonym (`retention.ms` <- `log.retention.ms`, `log.retention.minutes`, `log.retention.hours`) as set dynamically on this
//! broker, on all brokers, in this broker's file, else the default. [`TopicConfig`] is what the rooms read: the values
//! that Millstream honours, parsed.

mod broker_table;
mod definition;
mod effective;
mod synonym;
mod topic_config;
mod topic_table;

pub use definition::{
    Check, Definition, Type, Update, broker_definition, broker_definitions, topic_definition,
    topic_definitions,
};
pub use effective::{Effective, Entry, Setting, Source, Static};
pub(crate) use topic_config::judge_together;
pub use topic_config::{Cleanup, Compression, TimestampType, TopicConfig};
