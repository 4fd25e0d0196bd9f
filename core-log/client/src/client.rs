//! The way in.

use std::sync::Arc;

use millstream_env::Env;
use millstream_protocol::Dial;

use crate::{Admin, ClientConfig, ClientError, Consumer, ConsumerConfig, Producer, ProducerConfig, Result};

/// A client of one cluster. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    env: Env,
    dial: Arc<dyn Dial>,
    config: Arc<ClientConfig>,
}

impl Client {
    /// A client that reaches brokers through `dial`. Nothing is asked yet.
    pub fn new(env: Env, dial: Arc<dyn Dial>, config: ClientConfig) -> Self {
        Self { env, dial, config: Arc::new(config) }
    }

    /// A producer.
    ///
    /// # Errors
    /// Settings that do not go together.
    pub fn producer(&self, config: ProducerConfig) -> Result<Producer> {
        config.check()?;
        Ok(Producer::new(self.clone(), config))
    }

    /// A consumer.
    ///
    /// # Errors
    /// Settings that do not go together.
    pub fn consumer(&self, config: ConsumerConfig) -> Result<Consumer> {
        config.check()?;
        Ok(Consumer::new(self.clone(), config))
    }

    /// The cluster's administration.
    pub fn admin(&self) -> Admin {
        Admin::new(self.clone())
    }

    pub(crate) fn unfinished<T>(&self) -> Result<T> {
        let _ = (&self.env, &self.dial, &self.config);
        Err(ClientError::state("this call is not built yet"))
    }
}
