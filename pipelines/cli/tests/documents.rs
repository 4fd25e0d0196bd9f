//! Everything that the README and docs/operate.md show is run: their files are written, their commands executed, in their order, in a
//! folder of their own.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use millstream_env::testing::private_port;

const README: &str = include_str!("../../../README.md");
const OPERATE: &str = include_str!("../../../docs/operate.md");
/// The ports that the documents name; the tests take free ones instead, so that they can run beside others.
const PORTS: [&str; 7] = ["9092", "9093", "9094", "9095", "9096", "9097", "9098"];

#[derive(Debug, PartialEq)]
enum Block {
    File(String, String),
    Run(String),
    Background(String),
    Stop(usize),
}

/// The fenced blocks that follow a `<!-- file: NAME -->`, `<!-- run -->` or `<!-- run in the background -->`; and `<!-- stop: N -->`,
/// which stops what the N-th of the latter started, as Ctrl-C does.
fn blocks(text: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(order) = line.strip_prefix("<!-- ").and_then(|rest| rest.strip_suffix(" -->")) else {
            continue;
        };
        if let Some(number) = order.strip_prefix("stop: ") {
            found.push(Block::Stop(number.parse().expect("the number of a command in the background")));
            continue;
        }
        assert!(lines.next().is_some_and(|fence| fence.starts_with("```")), "no block behind {line:?}");
        let body: String =
            lines.by_ref().take_while(|line| *line != "```").map(|line| format!("{line}\n")).collect();
        found.push(match order {
            "run" => Block::Run(body),
            "run in the background" => Block::Background(body),
            other => Block::File(other.strip_prefix("file: ").expect("an order we know").to_owned(), body),
        });
    }
    found
}

struct Server(Child);

impl Server {
    /// Stops it in order, and waits until it has ended well.
    fn stop(mut self) {
        let asked = Command::new("kill").args(["-s", "INT", &self.0.id().to_string()]).status().unwrap();
        assert!(asked.success());
        let ended = self.0.wait().unwrap();
        assert!(ended.success(), "it ended with {ended}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn shell(dir: &Path, script: &str) -> Command {
    let bin = Path::new(env!("CARGO_BIN_EXE_millstream")).parent().expect("a binary is in a folder");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").expect("a PATH"));
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", script]).current_dir(dir).env("PATH", path);
    command
}

/// Does what a document shows; gives how many blocks were run, and what they printed.
fn follow(document: &str) -> (usize, String) {
    let dir = tempfile::tempdir().unwrap();
    let ports: Vec<String> = PORTS.iter().map(|_| private_port().to_string()).collect();
    let text = PORTS.iter().zip(&ports).fold(document.to_owned(), |text, (port, free)| {
        text.replace(&format!(":{port}"), &format!(":{free}"))
    });
    let example = dir.path().join("examples/flights");
    fs::create_dir_all(&example).unwrap();
    for name in ["pipeline.toml", "flights.csv", "airlines.csv"] {
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/flights").join(name);
        fs::copy(own, example.join(name)).unwrap();
    }
    let mut servers: Vec<Option<Server>> = Vec::new();
    let (mut ran, mut shown) = (0, String::new());
    for block in blocks(&text) {
        match block {
            Block::File(name, text) => fs::write(dir.path().join(name), text).unwrap(),
            Block::Background(script) => {
                let mut child =
                    shell(dir.path(), &format!("exec {script}")).stdout(Stdio::piped()).spawn().unwrap();
                let mut first = String::new();
                BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
                servers.push(Some(Server(child)));
                let says = ports.iter().any(|port| first.contains(port.as_str()));
                assert!(says, "the server says where it listens: {first:?}");
            }
            Block::Stop(number) => servers[number - 1].take().expect("it runs").stop(),
            Block::Run(script) => {
                let output = shell(dir.path(), &script).output().unwrap();
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                let errors = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{script}\nprinted\n{text}\n{errors}");
                shown.push_str(&text);
                ran += 1;
            }
        }
    }
    (ran, shown)
}

#[test]
fn all_that_the_readme_shows_works() {
    let (ran, shown) = follow(README);
    assert_eq!(ran, 3);
    for expected in ["\"WARN\"", "hello", "greetings", "Grace", "flowchart"] {
        assert!(shown.contains(expected), "{expected} is missing in\n{shown}");
    }
    assert!(!shown.contains("\"INFO\""), "the filter let a row through:\n{shown}");
}

#[test]
fn a_cluster_is_started_grown_and_drained_as_the_document_shows() {
    let (ran, shown) = follow(OPERATE);
    assert_eq!(ran, 13);
    for expected in [
        "cluster id",
        "leader",
        "voter",
        "observer",
        "2315",
        "orders-0",
        "broker 3 holds no replica any more",
        "does not vote any more",
        "node 3 votes",
        "broker 3 is forgotten",
    ] {
        assert!(shown.contains(expected), "{expected} is missing in\n{shown}");
    }
}

#[test]
fn blocks_are_found_by_their_orders() {
    let text = "a\n<!-- file: x.toml -->\n```toml\nb = 1\n```\n<!-- run -->\n```sh\nls\nls\n```\n<!-- stop: 2 -->\n```sh\nnot this\n```\n";
    let expected =
        [Block::File("x.toml".into(), "b = 1\n".into()), Block::Run("ls\nls\n".into()), Block::Stop(2)];
    assert_eq!(blocks(text), expected);
}

#[test]
fn the_example_in_the_readme_is_the_one_in_the_application() {
    let app = include_str!("../../../examples/wordcount/src/main.rs");
    let shown = README.split("```rust\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let squeeze = |text: &str| text.split_whitespace().collect::<String>();
    assert!(squeeze(app).contains(&squeeze(shown)), "the README's wordcount is not the application's");
}
