//! A real Postgres on a private port and folder, for tests.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use millstream_env::testing::private_port;
use tempfile::TempDir;
use tokio_postgres::NoTls;

/// Most attempts to connect to a server that is starting, and the pause between two of them.
const START_ATTEMPTS: u32 = 300;
const START_PAUSE_S: &str = "0.1";

/// A running server. It ends when this is dropped, and its folder goes with it.
pub struct Postgres {
    server: Child,
    port: u16,
    bin: PathBuf,
    owner: Option<(u32, u32)>,
    folder: TempDir,
}

impl Postgres {
    /// Makes a database cluster and starts a server on it.
    ///
    /// # Panics
    /// When Postgres is not installed (Debian: `apt-get install postgresql`) or does not start.
    pub fn start() -> Self {
        let bin = find_bin().expect("Postgres is not installed; on Debian: apt-get install postgresql");
        let folder = tempfile::tempdir().expect("a folder for the database");
        let owner = unprivileged_user(folder.path());
        if let Some((uid, gid)) = owner {
            chown(folder.path(), Some(uid), Some(gid)).expect("giving the folder to the server's user");
        }
        let data = folder.path().join("data");
        let made = command(&bin.join("initdb"), owner)
            .args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "--no-sync", "-D"])
            .arg(&data)
            .output()
            .expect("running initdb");
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let port = private_port();
        let server = serve(&bin, owner, folder.path(), port);
        let postgres = Self { server, port, bin, owner, folder };
        postgres.wait();
        postgres
    }

    /// The address of the database `postgres`.
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// Kills the server as a power cut of its process would, and starts it again on the same port and data.
    pub fn kill_and_restart(&mut self) {
        signal(&self.server, "-QUIT");
        self.server.wait().expect("waiting for the server's end");
        self.server = serve(&self.bin, self.owner, self.folder.path(), self.port);
        self.wait();
    }

    /// Runs a statement and answers its rows as text, columns joined by `|`, nulls as `NULL`.
    ///
    /// # Panics
    /// When the statement fails.
    pub fn query(&self, sql: &str) -> Vec<String> {
        let runtime = runtime();
        runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(&self.url(), NoTls).await.expect("connecting");
            let driver = runtime.spawn(connection);
            let messages = client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
            drop(client);
            let _ = driver.await;
            let rows = messages.iter().filter_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => Some(row),
                _ => None,
            });
            let text = |row: &tokio_postgres::SimpleQueryRow| {
                let fields: Vec<_> = (0..row.len()).map(|at| row.get(at).unwrap_or("NULL")).collect();
                fields.join("|")
            };
            rows.map(text).collect()
        })
    }

    fn wait(&self) {
        let runtime = runtime();
        for _ in 0..START_ATTEMPTS {
            let connected =
                runtime.block_on(async { tokio_postgres::connect(&self.url(), NoTls).await.is_ok() });
            if connected {
                return;
            }
            let _ = Command::new("sleep").arg(START_PAUSE_S).status();
        }
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        panic!("Postgres did not start: {log}");
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        signal(&self.server, "-QUIT");
        let _ = self.server.wait();
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn signal(server: &Child, signal: &str) {
    let _ = Command::new("kill").args([signal, &server.id().to_string()]).status();
}

fn serve(bin: &Path, owner: Option<(u32, u32)>, folder: &Path, port: u16) -> Child {
    let log = fs::File::create(folder.join("log")).expect("a file for the server's log");
    command(&bin.join("postgres"), owner)
        .arg("-D")
        .arg(folder.join("data"))
        .args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="])
        .args(["-c", "shared_buffers=16MB", "-c", "max_connections=20"])
        .stderr(log)
        .spawn()
        .expect("starting postgres")
}

fn command(program: &Path, owner: Option<(u32, u32)>) -> Command {
    let mut command = Command::new(program);
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null());
    if let Some((uid, gid)) = owner {
        command.uid(uid).gid(gid);
    }
    command
}

/// The newest installed server's programs.
fn find_bin() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<_> = versions.map(|version| version.path().join("bin")).collect();
    found.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths).collect::<Vec<_>>());
    found.sort();
    found.into_iter().rev().find(|bin| bin.join("initdb").exists() && bin.join("postgres").exists())
}

/// Postgres refuses to run as root: then it runs as `postgres`, or as `nobody`.
fn unprivileged_user(folder: &Path) -> Option<(u32, u32)> {
    use std::os::unix::fs::MetadataExt;
    let is_root = fs::metadata(folder).is_ok_and(|metadata| metadata.uid() == 0);
    if !is_root {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").ok()?;
    ["postgres", "nobody"].iter().find_map(|name| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    })
}
