//! What pipelines leave in files and in Postgres: rows, bad input, and what a reset says about both.

use millstream_connector_postgres::testing::Postgres;

use crate::support::{Folder, PATIENCE, lines_of, wait_until};

const SOURCE: &str = r#"
version = 1
name = "p"

[source.people]
type = "file"
include = ["in.csv"]
format = "csv"
read = "once"
columns = { id = "int64", name = "string" }
on_error = "dlq:bad"

[sink.bad]
type = "file"
path = "bad/{seq}.ndjson"
"#;

/// Lines 4 and 7 of the input are bad.
const INPUT: &str = "id,name\n1,a\n2,b\nthree,c\n4,d\n5,e\n6,f,g\n7,h\n";

fn pipeline(sink: &str) -> Folder {
    let folder = Folder::new();
    folder.write("in.csv", INPUT);
    folder.write("p.toml", &format!("{SOURCE}{sink}"));
    folder
}

const FILES: &str = "
[sink.out]
type = 'file'
from = 'people'
path = 'out/{seq}.ndjson'
";

#[test]
fn bad_lines_are_counted_and_kept_with_their_place_and_reason() {
    let folder = pipeline(FILES);
    let screen = folder.succeed(&["run", "p.toml"]);
    let line = screen.lines().find(|line| line.starts_with("people ")).unwrap();
    assert_eq!(line.split_whitespace().take(6).collect::<Vec<_>>(), ["people", "source", "7", "5", "0", "2"]);
    assert_eq!(lines_of(&folder.path().join("out")).len(), 5);
    let kept = lines_of(&folder.path().join("bad"));
    let kept: Vec<serde_json::Value> = kept.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let found: Vec<_> =
        kept.iter().map(|bad| (bad["line"].as_u64().unwrap(), bad["raw"].as_str().unwrap())).collect();
    assert_eq!(found, [(4, "three,c"), (7, "6,f,g")]);
    for bad in &kept {
        assert_eq!(bad["connector"], "people");
        assert!(bad["origin"].as_str().unwrap().ends_with("in.csv"), "{bad}");
    }
    assert_eq!(kept[0]["reason"], "column 'id': 'three' is not a int64");
}

#[test]
fn after_a_reset_old_files_are_in_the_way_and_reset_says_so() {
    let folder = pipeline(FILES);
    folder.succeed(&["run", "p.toml"]);
    let before = lines_of(&folder.path().join("out"));
    let told = folder.succeed(&["reset", "p.toml"]);
    assert!(told.contains("sink 'out': the next run refuses to add to its files, "), "{told}");
    let refused = folder.fail(&["run", "p.toml"]);
    assert!(refused.contains("its files were written from another log"), "{refused}");
    assert_eq!(lines_of(&folder.path().join("out")), before, "nothing was mixed");
    for moved in ["out", "bad"] {
        std::fs::remove_dir_all(folder.path().join(moved)).unwrap();
    }
    folder.succeed(&["run", "p.toml"]);
    assert_eq!(lines_of(&folder.path().join("out")), before);
}

#[test]
fn a_pipeline_that_runs_is_not_reset() {
    let folder = pipeline(FILES);
    let text = std::fs::read_to_string(folder.path().join("p.toml")).unwrap();
    folder.write("p.toml", &text.replace("read = \"once\"", "read = \"follow\""));
    let mut running = folder.spawn(&["run", "p.toml"]);
    wait_until("the log", || folder.path().join(".millstream/p/log/p.people-0").is_dir());
    let refused = folder.fail(&["reset", "p.toml"]);
    assert!(refused.contains("log is in use: the pipeline is running; stop it first (Ctrl-C)"), "{refused}");
    assert!(folder.path().join(".millstream/p/log/p.people-0").is_dir());
    running.interrupt();
    running.succeed(PATIENCE);
    let told = folder.succeed(&["reset", "p.toml"]);
    assert!(told.contains("removed; what sinks wrote stays"), "{told}");
    assert!(!folder.path().join(".millstream/p").exists());
}

#[test]
fn rows_that_postgres_refuses_last_are_looked_at_once() {
    let postgres = Postgres::start();
    let url = postgres.url();
    postgres.query("CREATE TABLE people (id bigint CHECK (id < 7), name text)");
    let folder = pipeline(&format!(
        "[sink.table]\ntype = 'postgres'\nfrom = 'people'\nurl = '{url}'\ntable = 'people'\non_error = 'dlq:bad'\n"
    ));
    let text = std::fs::read_to_string(folder.path().join("p.toml")).unwrap();
    folder.write("p.toml", &text.replace("bad/{seq}", "bad/{topic}-{seq}"));
    folder.succeed(&["run", "p.toml"]);
    assert_eq!(postgres.query("SELECT id FROM people ORDER BY id"), ["1", "2", "4", "5"]);
    let kept = || lines_of(&folder.path().join("bad"));
    assert_eq!(kept().len(), 3, "{:?}", kept());
    assert!(folder.succeed(&["run", "p.toml"]).starts_with("nothing new"));
    assert_eq!(kept().len(), 3, "{:?}", kept());
}

#[test]
fn rows_reach_postgres_once_and_a_reset_says_how_to_begin_anew() {
    let postgres = Postgres::start();
    let url = postgres.url();
    let folder = pipeline(&format!(
        "[sink.table]\ntype = 'postgres'\nfrom = 'people'\nurl = '{url}'\ntable = 'people'\n"
    ));
    folder.succeed(&["run", "p.toml"]);
    let rows = || postgres.query("SELECT id, name FROM people ORDER BY id");
    let expected = ["1|a", "2|b", "4|d", "5|e", "7|h"];
    assert_eq!(rows(), expected);
    assert!(folder.succeed(&["run", "p.toml"]).starts_with("nothing new"));
    assert_eq!(rows(), expected);

    let told = folder.succeed(&["reset", "p.toml"]);
    std::fs::remove_dir_all(folder.path().join("bad")).unwrap();
    let refused = folder.fail(&["run", "p.toml"]);
    assert!(refused.contains("its rows were written from another log"), "{refused}");
    assert_eq!(rows(), expected, "nothing was mixed");
    let (_, sql) =
        told.lines().find(|line| line.starts_with("sink 'table':")).unwrap().split_once("run: ").unwrap();
    for statement in sql.split_terminator(';') {
        postgres.query(statement);
    }
    std::fs::remove_dir_all(folder.path().join("bad")).unwrap();
    folder.succeed(&["run", "p.toml"]);
    assert_eq!(rows(), expected);
}
