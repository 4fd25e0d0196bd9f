//! The binary under test, in a folder of its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;

/// Nothing that a test waits for takes longer on a healthy machine, however slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(5);

/// Waits until `done`, for as long as anything may take.
pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..PATIENCE.as_millis() / LOOK.as_millis() {
        if done() {
            return;
        }
        look_later();
    }
    panic!("{what} did not come");
}

#[expect(clippy::disallowed_methods, reason = "the process under test runs on the real clock")]
fn look_later() {
    std::thread::sleep(LOOK);
}

/// All lines of the finished files in a folder, in the order of their names.
pub(crate) fn lines_of(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| !file.file_name().unwrap().to_str().unwrap().starts_with('.'));
    files.sort();
    let lines = |file: &PathBuf| {
        let text = std::fs::read_to_string(file).unwrap();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    files.iter().flat_map(lines).collect()
}

/// A folder in which the binary is run.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file below the folder.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Adds to a file below the folder, as a logger does.
    pub(crate) fn append(&self, name: &str, text: &str) {
        let mut file = std::fs::File::options().append(true).open(self.path().join(name)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
        command.args(args).current_dir(self.path()).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs it to its end with `input` on its standard input.
    pub(crate) fn run_with(&self, args: &[&str], input: &str) -> Output {
        self.run_with_bytes(args, input.as_bytes())
    }

    /// The same with an input that need not be text, nor be read to its end.
    pub(crate) fn run_with_bytes(&self, args: &[&str], input: &[u8]) -> Output {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().unwrap();
        match child.stdin.take().unwrap().write_all(input) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
            written => written.unwrap(),
        }
        child.wait_with_output().unwrap()
    }

    /// Runs it to its end with a variable of the environment.
    pub(crate) fn run_where(&self, variable: &str, value: &str, args: &[&str]) -> Output {
        self.command(args).env(variable, value).output().unwrap()
    }

    /// Runs it, expects success, and answers what it prints.
    pub(crate) fn succeed(&self, args: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.run_with(args, "");
        assert!(status.success(), "{args:?}: {}", String::from_utf8_lossy(&stderr));
        String::from_utf8(stdout).unwrap()
    }

    /// Runs it, expects failure, and answers what it says about it.
    pub(crate) fn fail(&self, args: &[&str]) -> String {
        let Output { status, stderr, .. } = self.run_with(args, "");
        assert_eq!(status.code(), Some(1), "{args:?}");
        String::from_utf8(stderr).unwrap()
    }

    /// Starts it.
    pub(crate) fn spawn(&self, args: &[&str]) -> Process {
        Process(self.command(args).spawn().unwrap())
    }
}

/// A child that does not outlive its test.
pub(crate) struct Process(Child);

impl Process {
    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// The first line that it says to whoever looks on.
    pub(crate) fn first_note(&mut self) -> String {
        let mut line = String::new();
        BufReader::new(self.0.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
        line
    }

    /// The first line that it prints.
    pub(crate) fn first_line(&mut self) -> String {
        let mut line = String::new();
        BufReader::new(self.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        line
    }

    /// Waits for its end, which must be a failure, and answers what it said about it.
    pub(crate) fn fail(&mut self) -> String {
        let status = self.ended(PATIENCE);
        let mut said = String::new();
        self.0.stderr.as_mut().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(status.code(), Some(1), "{said}");
        said
    }

    /// Ctrl-C.
    pub(crate) fn interrupt(&self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    }

    /// Waits for its end, which must be a success, and answers what it printed.
    pub(crate) fn succeed(&mut self, bound: Duration) -> String {
        let status = self.ended(bound);
        let read = |from: &mut dyn Read| {
            let mut text = String::new();
            from.read_to_string(&mut text).unwrap();
            text
        };
        let said = read(self.0.stderr.as_mut().unwrap());
        assert!(status.success(), "{status}: {said}");
        read(self.0.stdout.as_mut().unwrap())
    }

    fn ended(&mut self, bound: Duration) -> ExitStatus {
        for _ in 0..bound.as_millis() / LOOK.as_millis() {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            look_later();
        }
        panic!("the process did not end");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it may have ended by itself
        let _ = self.0.wait();
    }
}

/// `millstream broker` on a free port, with a folder of its own.
pub(crate) struct Broker {
    address: String,
    _process: Process,
    _folder: Folder,
}

impl Broker {
    pub(crate) fn start() -> Self {
        let folder = Folder::new();
        let set = ["group.initial.rebalance.delay.ms=0", "offsets.topic.num.partitions=2"];
        let mut process = folder.spawn(&[
            "broker",
            "--data",
            "data",
            "--listen",
            "127.0.0.1:0",
            "--set",
            set[0],
            "--set",
            set[1],
        ]);
        let first = process.first_line();
        let address = first.strip_prefix("listening on ").and_then(|rest| rest.split_whitespace().next());
        let address = address.unwrap_or_else(|| panic!("the broker said: {first}")).to_owned();
        Self { address, _process: process, _folder: folder }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }
}
