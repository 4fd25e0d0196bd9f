//! What a node is told at start, in Kafka's words.

use std::path::PathBuf;

use millstream_broker::BrokerConfig;

use crate::{NodeError, Result};

/// What a node is told at start, parsed from Kafka's properties.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// `log.dirs`: where everything is kept.
    pub data_dir: PathBuf,
    /// `listeners`: the address to listen on, as `host:port`; `None` for a node that is reached in process only.
    pub listen: Option<String>,
    /// What concerns the broker itself.
    pub broker: BrokerConfig,
}

impl NodeConfig {
    /// Kafka's defaults on `data_dir`, without a listener.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self { data_dir: data_dir.into(), listen: None, broker: BrokerConfig::default() }
    }

    /// Sets one property, by Kafka's name.
    ///
    /// # Errors
    /// [`NodeError::Config`] for a name that is not known, with the nearest one that is, and for a value that does not fit.
    pub fn set(&mut self, key: &str, value: &str) -> Result<()> {
        Err(NodeError::Config(vec![format!("`{key} = {value}`: no property is known yet")]))
    }

    /// Reads the text of a properties file over this config.
    ///
    /// # Errors
    /// [`NodeError::Config`] with everything that is wrong.
    pub fn apply_properties(&mut self, text: &str) -> Result<()> {
        let wrong: Vec<String> = text
            .lines()
            .filter_map(|line| line.split_once('='))
            .filter_map(|(key, value)| self.set(key.trim(), value.trim()).err())
            .map(|error| error.to_string())
            .collect();
        if wrong.is_empty() { Ok(()) } else { Err(NodeError::Config(wrong)) }
    }
}
