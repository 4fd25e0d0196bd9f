//! A connection and the thread that drives it, so that a task may be polled by any executor.

use std::time::Duration;

use millstream_connect_api::{ConnectError, Result};
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls};

use crate::error::classify;

/// Settings of the session that casts depend on; a role or a database may have others. Text stays ISO and to the last digit, and a timestamp
/// without a zone is one in UTC. The order of day and month in texts (the rest of DateStyle) is left as it is.
const SESSION: &str = "SET TimeZone = 'UTC'; SET DateStyle = 'ISO'; SET IntervalStyle = 'postgres'; \
                       SET extra_float_digits = 3; SET bytea_output = 'hex'";

/// A wait for a lock says nothing to anybody, so it ends; the worker says it and tries again. Where the address, the role or the database
/// has a bound of its own, that one holds.
const LOCKS: &str =
    "SELECT set_config('lock_timeout', '30s', false) WHERE current_setting('lock_timeout') = '0'";

/// Longest wait for a server to be reached, to let us in and to make the session; a longer `connect_timeout` in the address holds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A server that is gone without a word is noticed after about a minute, where the address says nothing else.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 3;
const UNACKNOWLEDGED: Duration = Duration::from_secs(60);
/// What the client has when the address says nothing.
const DEFAULT_IDLE: Duration = Duration::from_secs(2 * 60 * 60);

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
        let asked = config.get_connect_timeout().copied().unwrap_or_default();
        Self::open_within(config, asked.max(CONNECT_TIMEOUT)).await
    }

    async fn open_within(config: &tokio_postgres::Config, bound: Duration) -> Result<Self> {
        let hosts: Vec<_> = config.get_hosts().iter().map(|host| format!("{host:?}")).collect();
        let context = format!("connecting to Postgres at {}", hosts.join(", "));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("postgres-sink")
            .enable_all()
            .build()
            .map_err(|error| ConnectError::retriable(&context, error))?;
        let opening = connect(watchful(config), context.clone());
        // The client has its own runtime and clock, outside of every simulation.
        #[expect(clippy::disallowed_methods)]
        let opened = runtime.spawn(async move { tokio::time::timeout(bound, opening).await }).await;
        let reason = match opened {
            Ok(Ok(Ok(client))) => return Ok(Self { client, runtime: Some(runtime) }),
            Ok(Ok(Err(error))) => {
                runtime.shutdown_background();
                return Err(error);
            }
            Ok(Err(_)) => format!(
                "no answer within {} s: the server is overloaded or stopped, or is no Postgres",
                bound.as_secs_f32()
            ),
            Err(error) => error.to_string(),
        };
        runtime.shutdown_background();
        Err(ConnectError::retriable(context, reason))
    }
}

/// The address with what lets a dead server be noticed.
fn watchful(config: &tokio_postgres::Config) -> tokio_postgres::Config {
    let mut config = config.clone();
    if config.get_keepalives_idle() == DEFAULT_IDLE {
        config.keepalives_idle(KEEPALIVE_IDLE);
    }
    if config.get_keepalives_interval().is_none() {
        config.keepalives_interval(KEEPALIVE_INTERVAL);
    }
    if config.get_keepalives_retries().is_none() {
        config.keepalives_retries(KEEPALIVE_RETRIES);
    }
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(UNACKNOWLEDGED);
    }
    config
}

/// Connects; what drives the connection is spawned on the runtime that this runs on.
async fn connect(config: tokio_postgres::Config, context: String) -> Result<Client> {
    let connected = config.connect(NoTls).await;
    let (client, driver) = connected.map_err(|error| classify(&context, &error))?;
    tokio::runtime::Handle::current().spawn(async move {
        if let Err(error) = driver.await {
            tracing::debug!(%error, "the connection to Postgres ended"); // the next statement reports it
        }
    });
    let session = format!("{SESSION}; {LOCKS}");
    let set = client.batch_execute(&session).await;
    set.map_err(|error| classify(&format!("{context}: {session}"), &error))?;
    Ok(client)
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background(); // a plain drop would block the executor that runs this
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_accepts_and_never_answers_is_given_up() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("postgres://postgres@{}/postgres", silent.local_addr().unwrap());
        let opening =
            async { Connection::open_within(&url.parse().unwrap(), Duration::from_millis(200)).await.err() };
        let error = futures::executor::block_on(opening).expect("it is given up");
        assert!(error.is_retriable());
        let text = error.to_string();
        assert!(
            text.contains("connecting to Postgres at") && text.contains("no answer within 0.2 s"),
            "{text}"
        );
    }
}
