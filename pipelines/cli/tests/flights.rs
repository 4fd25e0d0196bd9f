//! The flights example as a user runs it: the binary, files in, files out; killed anywhere, it goes on.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int64Type, TimestampMicrosecondType};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

/// Key: airline and hour in seconds. Value: flights, mean and maximum delay.
type Rows = BTreeMap<(String, i64), (i64, f64, i64)>;

/// A copy of the example in a folder of its own.
struct Example {
    folder: tempfile::TempDir,
}

impl Example {
    fn new(change: impl Fn(String) -> String) -> Self {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/flights");
        let folder = tempfile::tempdir().unwrap();
        for file in ["flights.csv", "airlines.csv"] {
            std::fs::copy(from.join(file), folder.path().join(file)).unwrap();
        }
        let text = std::fs::read_to_string(from.join("pipeline.toml")).unwrap();
        std::fs::write(folder.path().join("pipeline.toml"), change(text)).unwrap();
        Self { folder }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
        command.args(["run", "pipeline.toml"]).current_dir(self.folder.path());
        command
    }

    fn run(&self) -> String {
        let Output { status, stdout, stderr } = self.command().output().unwrap();
        let stderr = String::from_utf8_lossy(&stderr);
        assert!(status.success(), "{stderr}");
        String::from_utf8(stdout).unwrap()
    }

    /// Runs it and kills it after `after`; false when it was done by then.
    fn run_and_kill(&self, after: Duration) -> bool {
        let mut child = self.command().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let deadline = std::time::Duration::from_millis(5);
        let mut waited = Duration::ZERO;
        while waited < after {
            if child.try_wait().unwrap().is_some() {
                return false;
            }
            wait(deadline);
            waited += deadline;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        true
    }

    fn parquet(&self) -> Vec<PathBuf> {
        let Ok(entries) = std::fs::read_dir(self.folder.path().join("out")) else { return Vec::new() };
        let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "parquet"));
        files.sort();
        files
    }

    fn rows(&self) -> Rows {
        let mut rows = Rows::new();
        for file in self.parquet() {
            let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(&file).unwrap())
                .unwrap()
                .build()
                .unwrap();
            for batch in reader {
                add(&mut rows, &batch.unwrap());
            }
        }
        rows
    }
}

#[expect(clippy::disallowed_methods, reason = "the process under test runs on the real clock")]
fn wait(duration: Duration) {
    std::thread::sleep(duration);
}

fn add(rows: &mut Rows, batch: &RecordBatch) {
    let column = |name: &str| batch.column_by_name(name).unwrap();
    let hours = column("hour").as_primitive::<TimestampMicrosecondType>();
    for row in 0..batch.num_rows() {
        let key = (column("airline").as_string::<i32>().value(row).to_owned(), hours.value(row) / 1_000_000);
        let value = (
            column("flights").as_primitive::<Int64Type>().value(row),
            column("mean_delay").as_primitive::<Float64Type>().value(row),
            column("max_delay").as_primitive::<Int64Type>().value(row),
        );
        assert!(column("hour").is_valid(row));
        assert_eq!(rows.insert(key.clone(), value), None, "{key:?} was written twice");
    }
}

/// The same figures by plain Rust over the CSV.
fn expected(folder: &Path) -> Rows {
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let airlines = read("airlines.csv");
    let names: BTreeMap<_, _> = airlines.lines().skip(1).filter_map(|line| line.split_once(',')).collect();
    let mut groups: BTreeMap<(String, i64), Vec<i64>> = BTreeMap::new();
    for line in read("flights.csv").lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        if fields[3] != "NA" {
            let key = (names[fields[9]].to_owned(), seconds(fields[18]));
            groups.entry(key).or_default().push(fields[5].parse().unwrap());
        }
    }
    let summary = |delays: Vec<i64>| {
        let count = i64::try_from(delays.len()).unwrap();
        (count, delays.iter().sum::<i64>() as f64 / count as f64, *delays.iter().max().unwrap())
    };
    groups.into_iter().map(|(key, delays)| (key, summary(delays))).collect()
}

/// `2013-01-dayThour:00:00Z` in seconds since 1970.
fn seconds(text: &str) -> i64 {
    const JANUARY_2013: i64 = 1_356_998_400;
    let day: i64 = text[8..10].parse().unwrap();
    let hour: i64 = text[11..13].parse().unwrap();
    assert!(text.starts_with("2013-01-") && text.ends_with(":00:00Z"), "{text}");
    JANUARY_2013 + (day - 1) * 86_400 + hour * 3_600
}

#[test]
fn one_command_gives_the_exact_rows_and_a_second_one_changes_nothing() {
    let example = Example::new(|text| text);
    let screen = example.run();
    assert!(screen.contains("United Air Lines Inc."), "{screen}");
    assert!(screen.contains("screen: 2315 rows"), "{screen}");
    for (node, figures) in [
        ("flights", ["source", "12208", "12208", "0", "0"]),
        ("flown", ["step", "12208", "12126", "0", "0"]),
        ("delays", ["step", "12126", "2315", "0", "0"]),
        ("files", ["sink", "2315", "2315", "0", "0"]),
    ] {
        let line = screen.lines().find(|line| line.split_whitespace().next() == Some(node)).unwrap();
        let found: Vec<_> = line.split_whitespace().skip(1).take(5).collect();
        assert_eq!(found, figures, "{screen}");
    }
    let expected = expected(example.folder.path());
    assert_eq!(example.rows(), expected);

    let files = example.parquet();
    let again = example.run();
    assert!(again.starts_with("nothing new"), "{again}");
    assert_eq!(example.parquet(), files);
    assert_eq!(example.rows(), expected);
}

#[test]
fn killed_anywhere_the_same_command_goes_on() {
    let example = Example::new(|text| text);
    let mut killed = 0;
    // A spread of moments rather than random ones, so that a failure can be repeated.
    for after_ms in [150, 600, 1000, 1400, 1900, 2600] {
        killed += u32::from(example.run_and_kill(Duration::from_millis(after_ms)));
    }
    assert!(killed > 0, "every run was done before it could be killed");
    example.run();
    assert_eq!(example.rows(), expected(example.folder.path()));
    assert!(example.run().starts_with("nothing new"));
}

#[test]
fn late_rows_are_counted_and_kept() {
    let example = Example::new(|text| text.replace("lateness = \"24h\"", "lateness = \"1h\""));
    let screen = example.run();
    let line = screen.lines().find(|line| line.starts_with("delays ")).unwrap();
    let late: u64 = line.split_whitespace().nth(4).unwrap().parse().unwrap();
    assert!(late > 0, "{screen}");
    let counted: i64 = example.rows().values().map(|(flights, ..)| flights).sum();
    assert_eq!(counted as u64 + late, 12_126, "a flown flight is in its window or late");
    let kept = Command::new(env!("CARGO_BIN_EXE_millstream"))
        .args(["consume", "--data", ".millstream/flights", "--from-beginning", "-e", "flights.delays.late"])
        .current_dir(example.folder.path())
        .output()
        .unwrap();
    let kept = String::from_utf8(kept.stdout).unwrap();
    assert_eq!(kept.lines().count() as u64, late);
}
