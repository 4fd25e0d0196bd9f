//! A connection and the thread that drives it, so that a task may be polled by any executor.

use millstream_connect_api::{ConnectError, Result};
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls};

use crate::error::classify;

/// Settings of the session that casts depend on; a role or a database may have others. Text stays ISO and to the last digit, and a timestamp
/// without a zone is one in UTC. The order of day and month in texts (the rest of DateStyle) is left as it is.
const SESSION: &str = "SET TimeZone = 'UTC'; SET DateStyle = 'ISO'; SET IntervalStyle = 'postgres'; \
                       SET extra_float_digits = 3; SET bytea_output = 'hex'";

/// An open connection.
pub(crate) struct Connection {
    /// For statements. Its futures need no tokio around them.
    pub(crate) client: Client,
    runtime: Option<Runtime>,
}

impl Connection {
    /// Connects, and makes the session the same for every role and database.
    ///
    /// # Errors
    /// Retriable when nobody answers, fatal when the server refuses (password, database) or the address is incomplete.
    pub(crate) async fn open(config: &tokio_postgres::Config) -> Result<Self> {
        let hosts: Vec<_> = config.get_hosts().iter().map(|host| format!("{host:?}")).collect();
        let context = format!("connecting to Postgres at {}", hosts.join(", "));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("postgres-sink")
            .enable_all()
            .build()
            .map_err(|error| ConnectError::retriable(&context, error))?;
        let config = config.clone();
        let connected = runtime.spawn(async move { config.connect(NoTls).await }).await;
        let (client, driver) = match connected {
            Ok(Ok(pair)) => pair,
            Ok(Err(error)) => {
                runtime.shutdown_background();
                return Err(classify(&context, &error));
            }
            Err(error) => {
                runtime.shutdown_background();
                return Err(ConnectError::retriable(context, error));
            }
        };
        runtime.spawn(async move {
            if let Err(error) = driver.await {
                tracing::debug!(%error, "the connection to Postgres ended"); // the next statement reports it
            }
        });
        let connection = Self { client, runtime: Some(runtime) };
        let set = connection.client.batch_execute(SESSION).await;
        set.map_err(|error| classify(&format!("{context}: {SESSION}"), &error))?;
        Ok(connection)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background(); // a plain drop would block the executor that runs this
        }
    }
}
