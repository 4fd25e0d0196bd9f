//! `millstream connect run` as a user runs it: file to topic to file, in a log of its own and on a broker, killed on the way.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use crate::support::{Broker, Folder, lines_of, wait_until};

/// Rows of the input; every thousandth is bad.
const ROWS: usize = 60_000;

const DAEMON: &str = "
[worker]
name = 'people'
commit_interval = '50ms'

[source.people]
type = 'file'
include = 'in/*.csv'
format = 'csv'
read = 'once'
batch_bytes = '4KiB'
max_line = '1KiB'
columns = { id = 'int64', name = 'string' }
on_error = 'dlq:bad'

[sink.out]
type = 'file'
topic = 'people'
path = 'out/{seq}.ndjson'
roll = { size = '64KiB' }

[sink.bad]
type = 'file'
topic = 'bad'
path = 'bad/{seq}.ndjson'
";

fn is_bad(id: usize) -> bool {
    id % 1000 == 999
}

fn daemon() -> Folder {
    let folder = Folder::new();
    let mut text = String::from("id,name\n");
    for id in 0..ROWS {
        let shown = if is_bad(id) { "oops".to_owned() } else { id.to_string() };
        writeln!(text, "{shown},name {id}").unwrap();
    }
    folder.write("in/people.csv", &text);
    folder.write("daemon.toml", DAEMON);
    folder
}

fn check_output(folder: &Path) {
    let expected: Vec<_> = (0..ROWS)
        .filter(|id| !is_bad(*id))
        .map(|id| format!("{{\"id\":{id},\"name\":\"name {id}\"}}"))
        .collect();
    assert!(lines_of(&folder.join("out")) == expected, "the rows are not exactly those of the file");
    let bad = lines_of(&folder.join("bad"));
    assert_eq!(bad.len(), ROWS / 1000);
    assert!(bad[0].contains("\"line\":1001") && bad[0].contains("'oops' is not a int64"), "{}", bad[0]);
}

/// Kills the command once a part of its output is there, and runs it to its end twice.
fn check_killed_and_continued(command: &[&str]) {
    let folder = daemon();
    let mut process = folder.spawn(command);
    wait_until("a part of the output", || !lines_of(&folder.path().join("out")).is_empty());
    process.kill();
    assert!(lines_of(&folder.path().join("out")).len() < ROWS, "it was done before it could be killed");
    folder.succeed(command);
    check_output(folder.path());
    let again = folder.succeed(command);
    assert!(again.starts_with("nothing new"), "{again}");
    check_output(folder.path());
}

#[test]
fn killed_on_the_way_it_goes_on_in_its_own_log() {
    check_killed_and_continued(&["connect", "run", "daemon.toml"]);
}

#[test]
fn killed_on_the_way_it_goes_on_on_a_broker() {
    let broker = Broker::start();
    check_killed_and_continued(&["connect", "run", "daemon.toml", "--bootstrap", broker.address()]);
}

#[test]
fn the_summary_counts_rows_of_each_connector() {
    let folder = daemon();
    let screen = folder.succeed(&["connect", "run", "daemon.toml", "--data", "data"]);
    check_output(folder.path());
    assert!(folder.path().join("data/log").is_dir(), "--data says where the log is");
    for expected in
        [["people", "source", "60000", "59940", "0", "60"], ["out", "sink", "59940", "59940", "0", "0"]]
    {
        let line = screen.lines().find(|line| line.split_whitespace().next() == Some(expected[0])).unwrap();
        assert_eq!(line.split_whitespace().take(6).collect::<Vec<_>>(), expected, "{screen}");
    }
}

#[test]
fn a_daemon_that_follows_commits_and_stops_when_interrupted() {
    let folder = daemon();
    folder.write("daemon.toml", &DAEMON.replace("'once'", "'follow'"));
    let mut process = folder.spawn(&["connect", "run", "daemon.toml"]);
    wait_until("most of the output", || lines_of(&folder.path().join("out")).len() > ROWS * 9 / 10);
    process.interrupt();
    let screen = process.succeed(Duration::from_secs(60));
    assert!(screen.contains("stopped in"), "{screen}");
    // What was read is in the log; what is in the log and not in files yet comes with the next run.
    folder.write("daemon.toml", DAEMON);
    folder.succeed(&["connect", "run", "daemon.toml"]);
    check_output(folder.path());
}

#[test]
fn mistakes_in_the_file_are_told_with_their_places() {
    let folder = daemon();
    let wrong = DAEMON.replace("topic = 'bad'", "topc = 'bad'").replace("csv'\nread", "csx'\nread");
    folder.write("daemon.toml", &wrong);
    let said = folder.fail(&["connect", "run", "daemon.toml"]);
    for expected in [
        "daemon.toml:9:10: ",
        "daemon.toml:22:1: 'topic' is missing",
        "daemon.toml:24:1: unknown key 'topc'",
        "did you mean 'topic'?",
    ] {
        assert!(said.contains(expected), "{expected} is not in: {said}");
    }
}

#[test]
fn a_file_of_the_daemon_is_checked_and_reset_and_no_pipeline() {
    let folder = daemon();
    assert_eq!(folder.succeed(&["check", "daemon.toml"]), "daemon.toml: good (1 sources, 2 sinks)\n");
    let said = folder.fail(&["run", "daemon.toml"]);
    assert!(said.contains("run it with `millstream connect run daemon.toml`"), "{said}");
    folder.write("p.toml", "version = 1\nname = 'p'\n");
    let said = folder.fail(&["connect", "run", "p.toml"]);
    assert!(said.contains("p.toml is a pipeline") && said.contains("`millstream run p.toml`"), "{said}");
    folder.succeed(&["connect", "run", "daemon.toml"]);
    assert!(folder.succeed(&["reset", "daemon.toml"]).starts_with(".millstream/people: removed"));
    assert!(!folder.path().join(".millstream/people").exists());
}

#[test]
fn two_sinks_that_write_the_same_files_are_refused() {
    let folder = daemon();
    folder.write("daemon.toml", &DAEMON.replace("path = 'bad/{seq}.ndjson'", "path = 'out/{seq}.ndjson'"));
    let said = folder.fail(&["connect", "run", "daemon.toml"]);
    assert!(said.contains("writes the same, ") && said.contains("daemon.toml:"), "{said}");
}

#[test]
fn what_only_the_log_can_tell_is_told_too() {
    let folder = daemon();
    folder.write("daemon.toml", &DAEMON.replace("topic = 'people'", "topic = 'peple'"));
    let said = folder.fail(&["connect", "run", "daemon.toml"]);
    assert!(said.contains("there is no topic 'peple'") && said.contains("did you mean 'people'?"), "{said}");
}

#[test]
fn a_topic_that_others_write_is_sunk_by_the_columns_declared() {
    let (broker, folder) = (Broker::start(), Folder::new());
    let records = "{\"id\":1,\"who\":\"Ada\",\"more\":[1]}\n{\"id\":\"x\"}\n{\"id\":2}\n";
    let made = ["topics", "create", "orders", "--partitions", "1", "--bootstrap", broker.address()];
    folder.succeed(&made);
    let produced = folder.run_with(&["produce", "orders", "--bootstrap", broker.address()], records);
    assert!(produced.status.success(), "{produced:?}");
    let sink = "[worker]\nname = 'orders'\n[sink.out]\ntype = 'file'\ntopic = 'orders'\npath = 'out/{seq}.csv'\non_error = 'skip'\n";
    folder.write("daemon.toml", sink);
    let run = ["connect", "run", "daemon.toml", "--bootstrap", broker.address()];
    let said = folder.fail(&run);
    assert!(said.contains("or declare it: columns = { id = "), "{said}");
    folder.write(
        "daemon.toml",
        &format!("{sink}columns = {{ id = 'int64', who = 'string' }}\nroll = {{ age = '1s' }}\n"),
    );
    let mut process = folder.spawn(&run);
    wait_until("the rows", || lines_of(&folder.path().join("out")).len() == 3);
    process.interrupt();
    let screen = process.succeed(Duration::from_secs(60));
    assert_eq!(lines_of(&folder.path().join("out")), ["id,who", "1,Ada", "2,"], "{screen}");
    let line = screen.lines().find(|line| line.split_whitespace().next() == Some("out")).unwrap();
    let cells: Vec<_> = line.split_whitespace().collect();
    assert_eq!(cells[..6], ["out", "sink", "3", "2", "0", "1"], "{screen}");
}
