//! Scenarios with real files: ends, growth, rotation, truncation, restarts, bad input.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

use arrow::array::AsArray;
use futures::executor::block_on;
use millstream_connect_api::config::parse_toml;
use millstream_connect_api::{BadRecord, SourceConnector};
use millstream_record::Millis;
use tempfile::TempDir;

use super::*;
use crate::FileSource;

/// A folder, a source on it, and what a log would hold of it.
struct World {
    folder: TempDir,
    settings: String,
    positions: Positions,
    rows: Vec<String>,
    bad: Vec<BadRecord>,
}

impl World {
    fn new(settings: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder, settings: settings.into(), positions: Positions::new(), rows: vec![], bad: vec![] }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn append(&self, name: &str, text: &str) {
        let mut file = OpenOptions::new().create(true).append(true).open(self.path(name)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn config(&self) -> millstream_connect_api::Config {
        let table = parse_toml(&self.settings).unwrap();
        FileSource.definition().relative_to(self.folder.path()).resolve(&table, None).unwrap()
    }

    fn tables(&self, known: &[TableSchema]) -> Result<Vec<TableSchema>> {
        block_on(FileSource.tables("src", &self.config(), known, &TaskContext::inline(Millis(0))))
    }

    fn start(&self) -> Box<dyn SourceTask> {
        let mut task = FileSource.task(&self.config(), &self.tables(&[]).unwrap()).unwrap();
        block_on(task.open(self.positions.clone(), TaskContext::inline(Millis(0)))).unwrap();
        task
    }

    /// Takes one poll's rows and position as a transaction would. True when there was something.
    fn step(&mut self, task: &mut dyn SourceTask) -> bool {
        match block_on(task.poll()).unwrap() {
            Polled::Batch(batch) => {
                let lines =
                    arrow::compute::cast(batch.rows.column(0), &arrow::datatypes::DataType::Utf8).unwrap();
                self.rows
                    .extend(lines.as_string::<i32>().iter().map(|line| line.unwrap_or("NULL").to_owned()));
                self.bad.extend(batch.bad);
                let committed = Positions::from([(batch.partition.to_string(), batch.position)]);
                block_on(task.committed(&committed)).unwrap();
                for (partition, position) in committed {
                    if position.is_null() {
                        self.positions.remove(&partition);
                    } else {
                        self.positions.insert(partition, position);
                    }
                }
                true
            }
            Polled::Idle(_) | Polled::End => false,
        }
    }

    fn drain(&mut self, task: &mut dyn SourceTask) {
        while self.step(task) {}
    }

    /// Looks at the folder again after the next idle.
    fn drain_twice(&mut self, task: &mut dyn SourceTask) {
        (0..3).for_each(|_| self.drain(task));
    }

    fn check(&mut self, expected: &[&str]) {
        assert_eq!(self.rows, expected);
    }
}

const TEXT: &str = "include = '*.log'\nformat = 'text'\n";

#[test]
fn once_reads_all_files_in_order_to_their_ends_and_the_next_run_only_what_is_new() {
    let mut world =
        World::new("include = '*.log'\nformat = 'text'\nread = 'once'\nbatch_bytes = '1B'\nmax_line = '6B'");
    world.append("b.log", "3\nvier\nfünf");
    world.append("a.log", "1\r\n\n2\n");
    let mut task = world.start();
    world.drain(&mut *task);
    world.check(&["1", "", "2", "3", "vier", "fünf"]);
    assert!(matches!(block_on(task.poll()).unwrap(), Polled::End));
    let mut task = world.start();
    world.drain(&mut *task);
    assert_eq!(world.rows.len(), 6, "nothing new");
    world.append("a.log", "7\n");
    let copy = fs::read(world.path("b.log")).unwrap();
    fs::remove_file(world.path("b.log")).unwrap();
    fs::write(world.path("b.log"), copy).unwrap();
    let mut task = world.start();
    world.drain(&mut *task);
    assert_eq!(world.rows[6..], ["7"], "what was appended, and not the fresh copy");
}

#[test]
fn follow_holds_back_a_partial_line_and_sees_growth_and_new_files() {
    let mut world = World::new(TEXT);
    world.append("a.log", "1\npart");
    let mut task = world.start();
    world.drain_twice(&mut *task);
    world.check(&["1"]);
    world.append("a.log", "ial\n");
    world.append("b.log", "new\n");
    world.drain_twice(&mut *task);
    world.check(&["1", "partial", "new"]);
}

#[test]
fn rotation_by_rename_loses_and_repeats_nothing() {
    let mut world = World::new(TEXT);
    world.append("a.log", "1\n2\n");
    let mut task = world.start();
    world.drain_twice(&mut *task);
    world.append("a.log", "3\n");
    fs::rename(world.path("a.log"), world.path("a.log.1")).unwrap();
    world.append("a.log.1", "4\n5 without an end");
    world.append("a.log", "6\n");
    world.drain_twice(&mut *task);
    let mut rows = world.rows.clone();
    rows.sort();
    assert_eq!(rows, ["1", "2", "3", "4", "5 without an end", "6"]);
    // A second rotation over the first: the oldest file is deleted.
    fs::rename(world.path("a.log"), world.path("a.log.1")).unwrap();
    world.append("a.log", "7\n");
    world.drain_twice(&mut *task);
    assert_eq!(world.rows.last().unwrap(), "7");
    assert_eq!(world.rows.len(), 7);
}

#[test]
fn rotation_while_nobody_looks_loses_and_repeats_nothing() {
    let mut world = World::new(TEXT);
    world.append("a.log", "1\n2\n");
    let mut task = world.start();
    world.drain(&mut *task);
    drop(task);
    world.append("a.log", "3\n");
    fs::rename(world.path("a.log"), world.path("a.log.1")).unwrap();
    world.append("a.log", "1\n2\n"); // begins exactly as the old one
    let mut task = world.start();
    world.drain_twice(&mut *task);
    world.check(&["1", "2", "3", "1", "2"]);
}

#[test]
fn a_truncated_file_is_read_from_its_beginning() {
    let mut world = World::new(TEXT);
    world.append("a.log", "1\n2\n3\n");
    let mut task = world.start();
    world.drain_twice(&mut *task);
    fs::write(world.path("a.log"), "4\n").unwrap();
    world.drain_twice(&mut *task);
    world.check(&["1", "2", "3", "4"]);
    fs::write(world.path("a.log"), "longer than before\n").unwrap();
    world.drain_twice(&mut *task);
    assert_eq!(world.rows[4..], ["longer than before"]);
}

#[test]
fn a_deleted_file_is_read_to_its_end_and_then_forgotten() {
    let mut world = World::new(TEXT);
    world.append("a.log", "1\n");
    let mut task = world.start();
    world.drain_twice(&mut *task);
    world.append("a.log", "2\n");
    fs::remove_file(world.path("a.log")).unwrap();
    world.drain_twice(&mut *task);
    world.check(&["1", "2"]);
    assert_eq!(world.positions, Positions::new());
}

#[test]
fn a_line_over_the_bound_is_a_bad_record_and_nothing_else_is_lost() {
    let mut world = World::new("include = '*.log'\nformat = 'text'\nmax_line = '10B'\nbatch_bytes = '4B'");
    let long = "x".repeat(10_000);
    world.append("a.log", &format!("1\n{long}\n2\n{long}"));
    let mut task = world.start();
    world.drain_twice(&mut *task);
    world.check(&["1", "2"]);
    drop(task);
    world.append("a.log", "still the same line\n0123456789\n01234567890\n3\n");
    let mut task = world.start();
    world.drain_twice(&mut *task);
    world.check(&["1", "2", "0123456789", "3"]);
    let bad: Vec<_> = world.bad.iter().map(|bad| (bad.line, bad.reason.as_str())).collect();
    let reason = "the line is longer than max_line (10)";
    assert_eq!(bad, [(Some(2), reason), (Some(4), reason), (Some(6), reason)]);
}

#[test]
fn bad_json_lines_are_named_and_the_others_are_rows() {
    let mut world = World::new(
        "include = 'a.ndjson'\nformat = 'json'\nread = 'once'\ncolumns = { id = 'int64', s = 'string' }",
    );
    world.append("a.ndjson", "\u{feff}{\"id\":1}\n\n{\"id\":\"x\"}\noops\n{\"id\":2}{\"id\":3}\n[]\n{\"id\":4,\"other\":1}\n{\"id\":5");
    let mut task = world.start();
    world.drain(&mut *task);
    world.check(&["1", "4"]);
    let origin = world.path("a.ndjson").to_string_lossy().into_owned();
    let lines: Vec<_> = world.bad.iter().map(|bad| bad.line.unwrap()).collect();
    assert_eq!(lines, [3, 4, 5, 6, 8]);
    assert!(world.bad.iter().all(|bad| bad.origin == origin && !bad.reason.is_empty()));
    assert_eq!(world.bad[1].raw, b"oops");
}

#[test]
fn csv_types_are_inferred_and_then_fixed() {
    let mut world = World::new("include = '*.csv'\nformat = 'csv'\nread = 'once'\nnull_values = ['', 'NA']");
    world.append("a.csv", "id,at,name\n1,2013-01-01T10:00:00Z,x\nNA,NA,NA\n");
    let tables = world.tables(&[]).unwrap();
    let types: Vec<_> = tables[0]
        .schema
        .fields()
        .iter()
        .map(|f| millstream_connect_api::types::type_name(f.data_type()))
        .collect();
    assert_eq!(types, ["int64", "timestamp", "string"]);
    world.append("a.csv", "not a number,2013-01-01T10:00:00Z,y\n3,NA,z\n");
    assert_eq!(world.tables(&tables).unwrap(), tables, "what was inferred before stays");
    let mut task = FileSource.task(&world.config(), &tables).unwrap();
    block_on(task.open(Positions::new(), TaskContext::inline(Millis(0)))).unwrap();
    world.drain(&mut *task);
    world.check(&["1", "NULL", "3"]);
    assert_eq!(world.bad[0].reason, "column 'id': 'not a number' is not a int64");
    assert_eq!(world.bad[0].line, Some(4));
}

#[test]
fn every_file_has_its_own_header() {
    let mut world =
        World::new("include = '*.csv'\nformat = 'csv'\nread = 'once'\ncolumns = { id = 'int64' }");
    world.append("a.csv", "id,x\n1,a\n");
    world.append("b.csv", "x,y,id\nb,b,2\n");
    world.append("c.csv", "id");
    let mut task = world.start();
    world.drain(&mut *task);
    world.check(&["1", "2"]);
    let tables = world.tables(&[]).unwrap();
    world.append("d.csv", "no\n1\n");
    let mut task = FileSource.task(&world.config(), &tables).unwrap();
    block_on(task.open(world.positions.clone(), TaskContext::inline(Millis(0)))).unwrap();
    let error = block_on(task.poll()).unwrap_err().to_string();
    assert!(error.contains("d.csv") && error.contains("its header has no column 'id'; it has no"), "{error}");
}

/// What is wrong with the files, where in the settings it is shown, and how to mend it.
fn problems(world: &World) -> Vec<(String, String, String)> {
    let Err(ConnectError::Config(problems)) = world.tables(&[]) else { panic!("the files are taken") };
    let folder = format!("{}/", world.folder.path().display());
    let shown = |problem: millstream_connect_api::Problem| {
        let span = problem.span.unwrap();
        let place = world.settings[span.start..span.end].to_owned();
        (place, problem.message.replace(&folder, ""), problem.help.unwrap_or_default())
    };
    problems.into_iter().map(shown).collect()
}

#[test]
fn declared_columns_are_compared_with_the_headers_that_are_there() {
    let mut world = World::new(
        "include = '*.csv'\nformat = 'csv'\nread = 'once'\ncolumns = { idx = 'int64', t = 'string', zebra = 'float64' }",
    );
    assert!(world.tables(&[]).is_ok(), "files may come later");
    world.append("a.csv", "");
    assert!(world.tables(&[]).is_ok(), "a header may come later");
    world.append("b.csv", "id,t,t\n1,x,y\n");
    let expected = [
        ("'int64'", "the header of b.csv has no column 'idx'", "did you mean 'id'?"),
        ("'string'", "'t' stands twice in the header of b.csv", super::super::csv::RENAME),
        ("'float64'", "the header of b.csv has no column 'zebra'", "it has id, t, t"),
    ];
    assert_eq!(problems(&world), expected.map(|(at, what, help)| (at.into(), what.into(), help.into())));
    world.settings.push_str("\nheader = false");
    assert!(world.tables(&[]).is_ok(), "the columns are named in order");
}

#[test]
fn columns_are_inferred_by_name_where_files_order_them_otherwise() {
    let mut world = World::new("include = 'a*.csv'\nformat = 'csv'\nread = 'once'");
    world.append("a1.csv", "id,amount\n1,2.5\n");
    world.append("a2.csv", "amount,more,id\n3.25,x,7\n");
    let tables = world.tables(&[]).unwrap();
    let types = tables[0].schema.fields().iter().map(|f| format!("{} {}", f.name(), f.data_type()));
    assert_eq!(types.collect::<Vec<_>>(), ["id Int64", "amount Float64"]);
    let mut task = world.start();
    world.drain(&mut *task);
    world.check(&["1", "7"]);
    assert_eq!(world.bad, vec![]);
}

#[test]
fn what_types_cannot_be_inferred_from_is_refused_with_how_to_mend_it() {
    for (format, text, message, help) in [
        (
            "csv",
            "",
            "*.x is empty, so there is nothing to infer types from",
            "declare columns = { name = \"type\", .. }",
        ),
        (
            "json",
            "",
            "*.x is empty, so there is nothing to infer types from",
            "declare columns = { name = \"type\", .. }",
        ),
        ("json", "[1]\n", "in.x:1: the line is JSON, but no object", "each line is one JSON object"),
        (
            "json",
            "\n{'a': 1}\n",
            "in.x:2: the line is no JSON: key must be a string at column 2",
            "each line is one JSON object",
        ),
        (
            "json",
            "{}\n",
            "the sample has no JSON object with a key",
            "declare columns = { name = \"type\", .. }",
        ),
        (
            "csv",
            "a,b\n",
            "*.x has a header and no rows, so there is nothing to infer types from",
            "declare columns = { name = \"type\", .. }",
        ),
        ("csv", "a,b,a\n1,2,3\n", "'a' stands twice in the header of in.x", super::super::csv::RENAME),
        ("csv", "a,,\n1,2,3\n", "two columns have no name in the header of in.x", super::super::csv::RENAME),
    ] {
        let world = World::new(&format!("include = '*.x'\nformat = '{format}'"));
        world.append("in.x", text);
        assert_eq!(problems(&world), [("'*.x'".into(), message.into(), help.into())], "{text}");
    }
}

#[test]
fn digits_of_large_numbers_are_kept() {
    for (name, format, text, expected) in [
        ("a.csv", "csv", "big,id\n9007199254740993,1\n1.5,2\n", ["9007199254740993", "1.5"]),
        ("a.ndjson", "json", "{\"big\":18446744073709551615}\n{\"big\":2}\n", ["18446744073709551615", "2"]),
        (
            "b.ndjson",
            "json",
            "{\"big\":12345678901234567890}\n{\"big\":\"x\"}\n",
            ["12345678901234567890", "x"],
        ),
    ] {
        let mut world = World::new(&format!("include = '{name}'\nformat = '{format}'\nread = 'once'"));
        world.append(name, text);
        let mut task = world.start();
        world.drain(&mut *task);
        world.check(&expected);
        assert_eq!(world.bad, vec![]);
    }
}

#[test]
fn compressed_files_and_missing_files_are_refused_with_a_word() {
    let world = World::new("include = '*.csv'\nformat = 'csv'\nread = 'once'");
    assert!(world.tables(&[]).unwrap_err().to_string().starts_with("no file matches"));
    fs::write(world.path("a.csv"), [0x1f, 0x8b, 8, 0]).unwrap();
    assert!(world.tables(&[]).unwrap_err().to_string().contains("compressed with gzip"));
    let table = parse_toml("include = 'x.gz'\nformat = 'text'").unwrap();
    let problems = FileSource.definition().resolve(&table, None).unwrap_err();
    assert_eq!(problems[0].message, "compressed files cannot be read yet");
}

#[test]
fn killed_after_any_poll_it_goes_on_exactly_where_it_was() {
    let text: String = (0..200).map(|n| format!("line {n}{}\n", "ä".repeat(n % 7))).collect();
    let expected: Vec<_> = text.lines().map(str::to_owned).collect();
    for polls in 1..12 {
        let mut world = World::new(
            "include = '*.log'\nformat = 'text'\nread = 'once'\nbatch_bytes = '256B'\nmax_line = '64B'",
        );
        world.append("a.log", &text);
        for _ in 0..100 {
            let mut task = world.start();
            let more = (0..polls).all(|_| world.step(&mut *task));
            let _lost = block_on(task.poll()).unwrap(); // read, handed out, and then killed before the commit
            if !more {
                break;
            }
        }
        assert_eq!(world.rows, expected, "killed after every {polls} polls");
    }
}

/// Permissions do not stop root, as whom tests may run.
#[test]
fn a_file_that_may_not_be_read_ends_a_source_that_reads_once() {
    let denied = std::io::ErrorKind::PermissionDenied.into();
    let path = Path::new("a.txt");
    let error = super::super::reader::open_error(path, &denied, false);
    assert!(!error.is_retriable(), "{error}");
    assert!(error.to_string().ends_with("make it readable, or exclude it"), "{error}");
    assert!(super::super::reader::open_error(path, &denied, true).is_retriable());
}

#[test]
fn a_file_that_cannot_be_read_is_told_behind_the_others() {
    let mut world = World::new("include = '*.txt'\nformat = 'text'\nread = 'once'");
    fs::write(world.path("a.txt"), b"\x1f\x8b\x08\x00").unwrap();
    world.append("b.txt", "b\n");
    let mut task = world.start();
    assert!(world.step(&mut *task));
    assert_eq!(world.rows, ["b"]);
    let error = block_on(task.poll()).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("a.txt: it is compressed with gzip"), "{error}");
}

#[test]
fn columns_that_appear_later_are_named() {
    let schema = Arc::new(arrow::datatypes::Schema::new(vec![arrow::datatypes::Field::new(
        "a",
        arrow::datatypes::DataType::Int64,
        true,
    )]));
    let header = ["b", "a", "c"].map(str::to_owned);
    assert_eq!(super::super::csv::not_read(&header, &schema), ["b", "c"]);
}
