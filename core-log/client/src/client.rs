//! The way in.

use std::sync::Arc;

use millstream_env::Env;
use millstream_protocol::Dial;

use crate::cluster::Cluster;
use crate::{Admin, ClientConfig, Consumer, ConsumerConfig, Producer, ProducerConfig, Result};

/// A client of one cluster. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    pub(crate) cluster: Arc<Cluster>,
}

impl Client {
    /// A client that reaches brokers through `dial`. Nothing is asked yet.
    pub fn new(env: Env, dial: Arc<dyn Dial>, config: ClientConfig) -> Self {
        Self { cluster: Cluster::new(env, dial, config) }
    }

    /// A producer.
    ///
    /// # Errors
    /// Settings that do not go together.
    pub fn producer(&self, config: ProducerConfig) -> Result<Producer> {
        config.check()?;
        Ok(Producer::new(self, config))
    }

    /// A consumer.
    ///
    /// # Errors
    /// Settings that do not go together.
    pub fn consumer(&self, config: ConsumerConfig) -> Result<Consumer> {
        config.check()?;
        Ok(Consumer::new(self, config))
    }

    /// The cluster's administration.
    pub fn admin(&self) -> Admin {
        Admin::new(Arc::clone(&self.cluster))
    }
}
