//! Processes under test, and the seed that says when they die.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use millstream_client::{Client, ClientConfig};
use millstream_env::testing::private_port;
use millstream_env::{Env, Pool};
use millstream_net::TcpDial;
use millstream_protocol::Endpoint;
use millstream_sim::random::Random;
use tempfile::TempDir;

/// Nothing that a test waits for takes longer on a healthy machine, however slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at a process.
pub(crate) const LOOK: Duration = Duration::from_millis(2);

/// The seed of a test; printed so that it can be given again.
pub(crate) fn seeded(env: &Env) -> Random {
    let given = std::env::var("MILLSTREAM_KILL_SEED").ok();
    let seed =
        given.map_or_else(|| env.random(), |seed| seed.parse().expect("MILLSTREAM_KILL_SEED is a number"));
    say(format_args!("MILLSTREAM_KILL_SEED={seed}"));
    Random::new(seed)
}

/// Shown when the test fails.
#[expect(
    clippy::print_stdout,
    reason = "a test has no other way to leave a word that is shown only if it fails"
)]
pub(crate) fn say(what: std::fmt::Arguments<'_>) {
    println!("{what}");
}

/// A child that does not outlive its test.
pub(crate) struct Process(Child);

impl Process {
    /// Starts it with its output thrown away, its errors aside.
    pub(crate) fn start(mut command: Command) -> Self {
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
    }

    /// How it ended, when it does within `bound`.
    pub(crate) async fn ended(&mut self, env: &Env, bound: Duration) -> Option<ExitStatus> {
        let began = env.elapsed();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return Some(status);
            }
            if env.elapsed() - began >= bound {
                return None;
            }
            env.sleep(LOOK).await;
        }
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it may have ended by itself
        let _ = self.0.wait();
    }
}

/// `millstream broker` with a port and a folder that outlive its processes.
pub(crate) struct Broker {
    env: Env,
    process: Process,
    port: u16,
    folder: TempDir,
}

impl Broker {
    /// Starts one on a free port.
    pub(crate) async fn start(env: &Env) -> Self {
        let (port, folder) = (private_port(), tempfile::tempdir().unwrap());
        let process = launch(env, folder.path(), port).await;
        Self { env: env.clone(), process, port, folder }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A client that is patient enough for restarts and quick to notice them.
    pub(crate) fn client(&self) -> Client {
        let config = ClientConfig {
            request_timeout_ms: 10_000,
            retry_backoff_ms: 20,
            retry_backoff_max_ms: 200,
            ..ClientConfig::new(vec![Endpoint::parse(&self.address()).unwrap()])
        };
        Client::new(self.env.clone(), Arc::new(TcpDial::new(self.env.clone())), config)
    }

    /// `kill -9`, and a new process on the same port and folder.
    pub(crate) async fn kill_and_restart(&mut self) {
        self.process.kill();
        self.process = launch(&self.env, self.folder.path(), self.port).await;
    }
}

/// A broker that listens; one that ended instead has said why.
async fn launch(env: &Env, folder: &Path, port: u16) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
    command
        .arg("broker")
        .arg("--data")
        .arg(folder.join("data"))
        .args(["--listen", &format!("127.0.0.1:{port}")]);
    for setting in [
        "group.initial.rebalance.delay.ms=0",
        "offsets.topic.num.partitions=2",
        "transaction.state.log.num.partitions=2",
        "log.roll.ms=1000",
    ] {
        command.args(["--set", setting]);
    }
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let process = Process(child);
    let first = env.blocking(Pool::General, move || lines.next());
    let said = env.timeout(PATIENCE, first).await.expect("the broker starts or ends").unwrap();
    let said = said.expect("the broker says where it listens").unwrap();
    assert!(said.starts_with("listening on "), "{said}");
    process
}
