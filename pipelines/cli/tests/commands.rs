//! Commands that need no log: what they say and how they exit.

use std::process::Command;

fn check(file: &str, command: &[&str], code: i32, expected: &str) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("p.toml"), file).unwrap();
    std::fs::write(folder.path().join("in.csv"), "id,name\n1,a\n").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_millstream"))
        .args(command)
        .current_dir(folder.path())
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    assert_eq!(String::from_utf8(text).unwrap(), expected);
    assert_eq!(output.status.code(), Some(code));
}

const GOOD: &str = r#"version = 1
name = "p"

[source.people]
type = "file"
include = ["in.csv"]
format = "csv"
read = "once"

[step.out]
sql = "SELECT id, upper(name) AS name FROM people"

[sink.screen]
type = "print"
from = "out"
"#;

#[test]
fn check_accepts_a_good_file() {
    check(GOOD, &["check", "p.toml"], 0, "p.toml: good (1 sources, 1 steps, 1 sinks)\n");
}

#[test]
fn check_names_every_mistake_with_its_place() {
    let bad = GOOD
        .replace("include", "inclde")
        .replace("from = \"out\"", "from = \"outt\"")
        .replace("version", "versoin");
    let expected = "p.toml:1:1: 'version' is missing\n  help: The version of this grammar is a line of its own: version = 1\n\
        p.toml:1:1: unknown key 'versoin'\n  help: did you mean 'version'?\n\
        p.toml:4:1: 'include' is missing\n  help: Files to read; *, ?, [a-z] and ** match names.\n\
        p.toml:6:1: unknown key 'inclde'\n  help: did you mean 'include'?\n\
        p.toml:15:8: there is no source or step 'outt'\n  help: did you mean 'out'?\n";
    check(&bad, &["check", "p.toml"], 1, expected);
}

#[test]
fn graph_draws_both_languages() {
    let mermaid = "flowchart LR\n  n0([\"people<br/>file\"])\n  n1[\"out\"]\n  n2[/\"screen<br/>print\"/]\n  n1 --> n2\n  n0 --> n1\n";
    check(GOOD, &["graph", "p.toml"], 0, mermaid);
    let dot = "digraph pipeline {\n  rankdir=LR;\n  n0 [shape=ellipse, label=\"people\\nfile\"];\n  n1 [shape=box, label=\"out\"];\n  \
        n2 [shape=parallelogram, label=\"screen\\nprint\"];\n  n1 -> n2;\n  n0 -> n1;\n}\n";
    check(GOOD, &["graph", "--format", "dot", "p.toml"], 0, dot);
}

#[test]
fn graph_shows_where_rows_are_brought_together() {
    let wide = GOOD.replace("read = \"once\"", "read = \"once\"\npartitions = 3").replace(
        "SELECT id, upper(name) AS name FROM people",
        "SELECT name, count(*) AS n FROM people GROUP BY name",
    );
    let expected = "flowchart LR\n  n0([\"people<br/>file<br/>3 partitions\"])\n  n1{{\"repartition<br/>by name<br/>3 partitions\"}}\n  \
        n2[\"out<br/>group by name<br/>rows change\"]\n  n3[/\"screen<br/>print\"/]\n  n2 --> n3\n  n1 --> n2\n  n0 --> n1\n";
    check(&wide, &["graph", "p.toml"], 0, expected);
}

#[test]
fn reset_without_data_says_so() {
    check(GOOD, &["reset", "p.toml"], 0, ".millstream/p: there is nothing to remove\n");
}

#[test]
fn a_missing_file_is_an_error() {
    check(GOOD, &["run", "q.toml"], 1, "error: reading q.toml: No such file or directory (os error 2)\n");
}

const FILES: &str = r#"
[sink.a]
type = "file"
from = "people"
path = "o/{seq}.ndjson"

[sink.b]
type = "file"
from = "out"
path = "./o//{partition}-{first}-{last}.ndjson"
"#;

/// The file with two sinks, and parts of it replaced.
fn two_sinks(changes: &[(&str, &str)]) -> String {
    changes.iter().fold(GOOD.to_owned() + FILES, |text, (from, to)| text.replace(from, to))
}

#[test]
fn sinks_that_would_write_over_each_other_are_refused() {
    let said = |text: &str| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("p.toml"), text).unwrap();
        std::fs::write(folder.path().join("in.csv"), "id,name\n1,a\n").unwrap();
        let binary = Command::new(env!("CARGO_BIN_EXE_millstream"))
            .args(["check", "p.toml"])
            .current_dir(folder.path())
            .output();
        let output = binary.unwrap();
        let place = folder.path().canonicalize().unwrap().display().to_string();
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap().replace(&place, "F")
    };
    let lost = "\n  help: give each sink a place of its own, or one would lose the other's rows\n";
    let same = "sink 'a' writes the same, F/o";
    assert_eq!(
        said(&two_sinks(&[])),
        format!("p.toml:22:7: {same}/{{partition}}-{{first}}-{{last}}.ndjson{lost}")
    );
    let good = "p.toml: good (1 sources, 1 steps, 3 sinks)\n";
    assert_eq!(said(&two_sinks(&[("first}-{last}.ndjson", "first}-{last}.csv")])), good);
    // With {topic} in their names, files of one folder are those of their topic.
    let topics = [("o/{seq}", "o/{topic}-{seq}"), ("./o//{part", "o/{topic}-{part")];
    assert_eq!(said(&two_sinks(&topics)), good);
    let literal = [("o/{seq}", "o/{topic}-{seq}"), ("./o//{part", "o/p.people-{part")];
    assert_eq!(
        said(&two_sinks(&literal)),
        format!("p.toml:22:7: {same}/p.people-{{partition}}-{{first}}-{{last}}.ndjson{lost}")
    );
}

#[test]
fn one_file_sink_for_bad_rows_of_several_names_the_topic() {
    let bad = "\n[sink.bad]\ntype = \"file\"\npath = \"bad/{seq}.ndjson\"\n";
    let text = two_sinks(&[
        ("./o//", "q/"),
        ("from = \"people\"", "from = \"people\"\non_error = \"dlq:bad\""),
        ("from = \"out\"\npath", "from = \"out\"\non_error = \"dlq:bad\"\npath"),
    ]);
    let expected = "p.toml:31:8: the sink is given p.a.bad, p.b.bad, and its files do not tell them apart\n  \
        help: put {topic} into path, such as \"bad/{topic}-{seq}.ndjson\"\n";
    check(&(text.clone() + bad), &["check", "p.toml"], 1, expected);
    let told = text + &bad.replace("{seq}", "{topic}-{seq}");
    check(&told, &["check", "p.toml"], 0, "p.toml: good (1 sources, 1 steps, 4 sinks)\n");
}

#[test]
fn a_file_may_come_through_a_pipe() {
    use std::io::Write;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("in.csv"), "id,name\n1,a\n").unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_millstream"))
        .args(["check", "/dev/stdin"])
        .current_dir(folder.path())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(GOOD.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "/dev/stdin: good (1 sources, 1 steps, 1 sinks)\n");
}

#[test]
fn results_that_cannot_be_written_are_an_error_with_a_word() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("p.toml"), GOOD).unwrap();
    std::fs::write(folder.path().join("in.csv"), "id,name\n1,a\n").unwrap();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_millstream"))
        .args(["check", "p.toml"])
        .current_dir(folder.path())
        .stdout(full)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with("error: writing to standard output: No space left on device"), "{said}");
}
