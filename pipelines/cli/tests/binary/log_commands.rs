//! The commands that speak to a log, with the real binary against `millstream broker`.

use crate::support::{Broker, Folder, PATIENCE, wait_until};

/// A broker, and a folder to run commands in.
struct World {
    broker: Broker,
    folder: Folder,
}

impl World {
    fn new() -> Self {
        Self { broker: Broker::start(), folder: Folder::new() }
    }

    fn args<'a>(&'a self, args: &[&'a str]) -> Vec<&'a str> {
        [args, &["--bootstrap", self.broker.address()]].concat()
    }

    fn succeed(&self, args: &[&str]) -> String {
        self.folder.succeed(&self.args(args))
    }

    fn fail(&self, args: &[&str]) -> String {
        self.folder.fail(&self.args(args))
    }

    fn produce(&self, args: &[&str], input: &str) {
        let output = self.folder.run_with(&self.args(args), input);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// The cells of the line of a table that begins with `first`.
fn cells<'a>(table: &'a str, first: &str) -> Vec<&'a str> {
    let line = table.lines().find(|line| line.split_whitespace().next() == Some(first));
    line.unwrap_or_else(|| panic!("no line '{first}' in: {table}")).split_whitespace().collect()
}

#[test]
fn topics_are_made_described_changed_and_deleted() {
    let world = World::new();
    let made = world.succeed(&["topics", "create", "a", "--partitions", "2", "--set", "retention.ms=60000"]);
    assert!(made.starts_with("a: created, id "), "{made}");
    assert!(world.fail(&["topics", "create", "a"]).contains("already exists"));
    assert_eq!(cells(&world.succeed(&["topics", "list"]), "a")[1], "2");
    let told = world.succeed(&["topics", "describe", "a"]);
    assert_eq!(
        cells(&told, "1"),
        ["1", "0", "0", "0", "0", "0", "0"],
        "partition, first, end, leader, epoch, replicas"
    );
    assert_eq!(cells(&told, "retention.ms"), ["retention.ms", "60000"]);

    assert_eq!(
        world.succeed(&[
            "topics",
            "alter",
            "a",
            "--partitions",
            "3",
            "--set",
            "segment.ms=70000",
            "--unset",
            "retention.ms"
        ]),
        "a: changed\n"
    );
    let told = world.succeed(&["topics", "describe", "a"]);
    assert_eq!(cells(&told, "2").len(), 7, "{told}");
    assert_eq!(cells(&told, "segment.ms"), ["segment.ms", "70000"]);
    assert!(!told.contains("retention.ms"), "{told}");
    assert!(world.fail(&["topics", "alter", "a"]).contains("give --set, --unset or --partitions"));
    assert!(world.fail(&["topics", "alter", "a", "--partitions", "1"]).starts_with("error: changing a: "));

    assert_eq!(world.succeed(&["topics", "delete", "a"]), "a: deleted\n");
    assert!(world.fail(&["topics", "describe", "a"]).contains("describing a"));
    assert!(world.fail(&["topics", "delete", "a"]).starts_with("error: a: "));
}

#[test]
fn a_topic_that_is_not_there_is_not_waited_for_nor_made() {
    let world = World::new();
    let said = world.fail(&["topics", "alter", "typo", "--set", "retention.ms=1"]);
    assert!(said.contains("UNKNOWN_TOPIC_OR_PARTITION") && !said.contains("took longer"), "{said}");
    let said = world.fail(&["consume", "typo", "-g", "g", "-n", "1"]);
    assert!(said.contains("UNKNOWN_TOPIC_OR_PARTITION"), "{said}");
    assert!(!world.succeed(&["topics", "list"]).contains("typo"));
    let groups = world.succeed(&["groups", "list"]);
    assert!(groups.lines().all(|line| line.split_whitespace().next() != Some("g")), "{groups}");
}

#[test]
fn an_unknown_setting_is_named() {
    let world = World::new();
    let said = world.fail(&["topics", "create", "a", "--set", "retentoin.ms=1"]);
    assert!(said.contains("retentoin.ms"), "{said}");
    assert!(
        world
            .fail(&["topics", "create", "a", "--set", "retention.ms"])
            .contains("'retention.ms' is not key=value")
    );
    let said =
        world.folder.fail(&["broker", "--data", "d", "--listen", "127.0.0.1:0", "--set", "num.partition=4"]);
    assert!(said.contains("num.partition"), "{said}");
    assert!(said.contains("num.partitions"), "it suggests the right one: {said}");
}

#[test]
fn lines_become_records_and_records_lines() {
    let world = World::new();
    world.succeed(&["topics", "create", "t"]);
    world.produce(&["produce", "t", "--key-separator", "=", "-z", "zstd"], "one=1\ntwo=2\nno key\n");
    let all = ["consume", "t", "--from-beginning", "--exit"];
    assert_eq!(world.succeed(&all), "1\n2\nno key\n");
    assert_eq!(world.succeed(&["consume", "t", "--from-beginning", "-n", "2"]), "1\n2\n");
    assert_eq!(world.succeed(&["consume", "t", "--exit"]), "", "from the end, up to the end");
    let details = world.succeed(&[&all[..], &["--details"]].concat());
    let parts: Vec<Vec<&str>> = details.lines().map(|line| line.split("  ").collect()).collect();
    let keys: Vec<_> = parts.iter().map(|line| (line[0], line[2], line[3])).collect();
    assert_eq!(keys, [("0@0", "one", "1"), ("0@1", "two", "2"), ("0@2", "null", "no key")]);
}

#[test]
fn a_group_goes_on_where_it_was_is_described_and_deleted() {
    let world = World::new();
    world.succeed(&["topics", "create", "t"]);
    world.produce(&["produce", "t"], "a\nb\nc\n");
    let read = ["consume", "t", "--group", "g", "--from-beginning", "--max"];
    assert_eq!(world.succeed(&[&read[..], &["3"]].concat()), "a\nb\nc\n");
    world.produce(&["produce", "t"], "d\ne\n");
    assert_eq!(cells(&world.succeed(&["groups"]), "g")[1], "Empty");
    let told = world.succeed(&["groups", "describe", "g"]);
    assert_eq!(cells(&told, "t")[..5], ["t", "0", "3", "5", "2"], "topic, partition, committed, end, lag");
    assert_eq!(world.succeed(&[&read[..], &["2"]].concat()), "d\ne\n");
    assert_eq!(world.succeed(&["groups", "delete", "g"]), "deleted g\n");
    assert!(!world.succeed(&["groups", "list"]).lines().any(|line| line.starts_with("g ")));
    assert!(world.fail(&["groups", "delete", "g"]).starts_with("error: "));
}

#[test]
fn a_group_commits_what_was_shown_and_no_more() {
    let world = World::new();
    world.succeed(&["topics", "create", "t", "--partitions", "2"]);
    world.produce(&["produce", "t", "-p", "0"], "a\nb\nc\n");
    world.produce(&["produce", "t", "-p", "1"], "d\ne\nf\n");
    let read = ["consume", "t", "--group", "g", "--from-beginning", "--max"];
    let mut shown: Vec<String> = Vec::new();
    for count in ["2", "1", "2", "1"] {
        shown.extend(world.succeed(&[&read[..], &[count]].concat()).lines().map(str::to_owned));
        let told = world.succeed(&["groups", "describe", "g"]);
        let lag: usize = told
            .lines()
            .filter(|line| line.starts_with("t "))
            .map(|line| line.split_whitespace().nth(4).unwrap().parse().unwrap_or(3))
            .sum();
        assert_eq!(lag, 6 - shown.len(), "{told}");
    }
    shown.sort();
    assert_eq!(shown, ["a", "b", "c", "d", "e", "f"]);
}

#[test]
fn a_group_shows_partitions_without_a_commit_and_members_without_partitions() {
    let world = World::new();
    world.succeed(&["topics", "create", "t"]);
    let read = world.args(&["consume", "t", "--group", "g"]);
    let members = [world.folder.spawn(&read), world.folder.spawn(&read)];
    let mut rows: Vec<Vec<String>> = Vec::new();
    wait_until("both members", || {
        let output = world.folder.run_with(&world.args(&["groups", "describe", "g"]), "");
        let text = String::from_utf8(output.stdout).unwrap();
        let cells = |line: &str| line.split_whitespace().map(str::to_owned).collect();
        rows = text.lines().map(cells).collect();
        rows.retain(|row| row.len() == 7 && (row[0] == "t" || row[0] == "-"));
        let firsts: Vec<&str> = rows.iter().map(|row| row[0].as_str()).collect();
        firsts == ["t", "-"]
    });
    assert_eq!(rows[0][1], "0");
    assert_eq!(rows[1][..5], ["-"; 5]);
    assert!(rows.iter().all(|row| row[5].starts_with("millstream-consume")), "{rows:?}");
    members.iter().for_each(|member| member.interrupt());
}

#[test]
fn what_was_read_is_sent_when_a_later_line_cannot_be() {
    let world = World::new();
    world.succeed(&["topics", "create", "t"]);
    let input = [&b"a=\xff\xfe\r\n=b\n"[..], &[b'x'; 2 << 20], b"\nlast\n"].concat();
    let output = world.folder.run_with_bytes(&world.args(&["produce", "t", "-K", "="]), &input);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with("2 records sent to t\nerror: line 3: "), "{said}");
    let args = world.args(&["consume", "t", "--from-beginning", "--exit", "--details"]);
    let shown = world.folder.run_with(&args, "").stdout;
    let lines: Vec<&[u8]> = shown.split(|byte| *byte == b'\n').collect();
    assert_eq!(lines.len(), 3, "two, and nothing behind the last end");
    assert!(lines[0].ends_with(b"  a  \xff\xfe") && lines[1].ends_with(b"    b"), "{lines:?}");
}

#[test]
fn a_consumer_that_is_interrupted_ends_well() {
    let world = World::new();
    world.succeed(&["topics", "create", "t"]);
    world.produce(&["produce", "t"], "a\n");
    let mut process = world.folder.spawn(&world.args(&["consume", "t", "--group", "g", "--from-beginning"]));
    wait_until("the commit", || {
        let output = world.folder.run_with(&world.args(&["groups", "describe", "g"]), "");
        String::from_utf8(output.stdout).unwrap().lines().any(|line| line.starts_with("t  "))
    });
    process.interrupt();
    assert_eq!(process.succeed(PATIENCE), "a\n");
}

#[test]
fn measurements_say_what_they_measured() {
    let world = World::new();
    let figures = |args: &[&str]| -> serde_json::Map<String, serde_json::Value> {
        serde_json::from_str(&world.succeed(args)).unwrap()
    };
    let names = ["records", "bytes", "seconds", "records_per_second", "mb_per_second"];
    let of = ["--json", "--topic", "b"];
    let produced = figures(
        &[&["bench", "produce", "-n", "500", "--size", "100", "--partitions", "2"], &of[..]].concat(),
    );
    let consumed = figures(&[&["bench", "consume", "-n", "500"], &of[..]].concat());
    for found in [&produced, &consumed] {
        assert!(names.iter().all(|name| found[*name].as_f64().unwrap() > 0.0), "{found:?}");
        assert_eq!((found["records"].as_f64(), found["bytes"].as_f64()), (Some(500.0), Some(50_000.0)));
    }
    let found = world.folder.run_where(
        "MILLSTREAM_BOOTSTRAP",
        world.broker.address(),
        &["bench", "consume", "-n", "500", "--topic", "b"],
    );
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
    let latency = ["bench", "latency", "--rate", "100", "--seconds", "1", "--warm-up", "0", "--size", "10"];
    let latency = figures(&[&latency[..], &of[..]].concat());
    assert_eq!(latency["records"].as_f64(), Some(100.0));
    let at = ["p50_ms", "p99_ms", "p999_ms", "max_ms"].map(|name| latency[name].as_f64().unwrap());
    assert!(at[0] > 0.0 && at.is_sorted(), "{at:?}");
    assert!(world.fail(&["bench", "latency", "--rate", "0"]).contains("--rate is at least 1"));
}

#[test]
fn a_table_from_a_topic_of_many_partitions_is_refused() {
    let world = World::new();
    let pipeline = r#"
version = 1
name = "p"

[source.airlines]
type = "topic"
topic = "carriers"
columns = { id = "int64", name = "string" }
read = "once"
table = { key = ["id"] }

[sink.out]
type = "file"
from = "airlines"
path = "out/{seq}.ndjson"
"#;
    world.folder.write("p.toml", pipeline);
    world.succeed(&["topics", "create", "carriers", "--partitions", "3"]);
    let refused = world.fail(&["run", "p.toml"]);
    assert!(
        refused.contains("'airlines' is a table from topic carriers of 3 partitions")
            && refused.contains("copy them to a topic of one partition"),
        "{refused}"
    );
}

#[test]
fn it_says_at_once_that_nobody_answers() {
    let folder = Folder::new();
    let mut command = folder.spawn(&["topics", "-b", "127.0.0.1:1", "list"]);
    let said = command.first_note();
    assert!(said.starts_with("127.0.0.1:1 does not answer (") && said.ends_with("); trying on\n"), "{said}");
}
